"""Random small networks: paths of the graph are the dependencies of the model, whatever is combined."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deepstruct.structure.graph import StructureGraph
from deepstruct.testing import build_graph, check_equality, count_paths

from ..random_nets import random_net

Plan = tuple[tuple[str, int, int, int], ...]  # (operation, first operand, second operand, variant)


class Mixed(nn.Module):
    """A directed acyclic program over sequences (batch, length, width) that a plan spells out."""

    OPERATIONS = (
        "linear", "linear", "conv", "strided", "grouped", "add", "sub", "mul", "cat", "attention", "cross", "norm",
        "gru", "reverse", "shift", "gate", "mean", "scan", "pool", "scale", "split",
    )  # fmt: skip

    def __init__(self, plan: Plan, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.plan = plan
        self.layers = nn.ModuleList([self._layer(name, variant) for name, _, _, variant in plan])

    @staticmethod
    def _layer(name: str, variant: int) -> nn.Module:
        if name == "linear":
            layer: nn.Module = nn.Linear(4, 4, bias=bool(variant % 2))
            if variant > 1:
                with torch.no_grad():
                    layer.weight.mul_(torch.rand(4, 4) < 0.5)
            return layer
        if name in ("conv", "strided", "grouped"):
            stride, groups = (2 if name == "strided" else 1), (2 if name == "grouped" else 1)
            return nn.Conv1d(4, 4, 3, padding=1, stride=stride, groups=groups, dilation=1)
        if name in ("attention", "cross"):
            return nn.MultiheadAttention(4, 1 + variant % 2, batch_first=True)
        if name == "norm":
            return nn.LayerNorm(4) if variant % 2 else nn.GroupNorm(2, 4)
        if name == "gru":
            kind = (nn.GRU, nn.LSTM, nn.RNN)[variant % 3]
            return kind(4, 4, batch_first=True)
        return nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = [x]
        for (name, first, second, variant), layer in zip(self.plan, self.layers, strict=True):
            a, b = values[first % len(values)], values[second % len(values)]
            values.append(self._step(name, layer, a, b, variant))
        return values[-1] if self.plan[-1][3] % 2 else values[-1].mean(1)

    def _step(self, name: str, layer: nn.Module, a: torch.Tensor, b: torch.Tensor, variant: int) -> torch.Tensor:
        if name in ("conv", "strided", "grouped"):
            return F.relu(layer(a.transpose(1, 2)).transpose(1, 2))
        if name == "norm":
            return layer(a) if variant % 2 else layer(a.transpose(1, 2)).transpose(1, 2)
        if name == "attention":
            mask = torch.ones(a.shape[1], a.shape[1]).triu(1).bool() if variant > 1 else None
            return layer(a, a, a, attn_mask=mask, need_weights=False)[0]
        if name == "cross":
            return layer(a, b, b, need_weights=False)[0]
        if name == "gru":
            return layer(a)[0]
        if name in ("add", "sub", "mul", "gate"):
            length = min(a.shape[1], b.shape[1])
            a, b = a[:, :length], b[:, -length:]
            return {"add": a + b, "sub": a - 1.7 * b, "mul": a * b, "gate": a * torch.sigmoid(b)}[name]
        return {
            "linear": lambda: F.silu(layer(a)),
            "cat": lambda: torch.cat([a, b], 1)[:, :6],
            "reverse": lambda: a.flip(1 + variant % 2),
            "shift": lambda: F.pad(a, (0, 0, 1, 0))[:, :-1],
            "mean": lambda: a + a.mean(1, keepdim=True),
            "scan": lambda: a.cumsum(1),
            "pool": lambda: F.max_pool1d(a.transpose(1, 2), 2, stride=1, padding=1).transpose(1, 2)[:, : a.shape[1]],
            "scale": lambda: 0.5 * a + 1,
            "split": lambda: torch.cat(a.chunk(2, -1)[::-1], -1),
        }[name]()


def plans() -> st.SearchStrategy[Plan]:
    step = st.tuples(st.sampled_from(Mixed.OPERATIONS), st.integers(0, 7), st.integers(0, 7), st.integers(0, 3))
    return st.lists(step, min_size=2, max_size=6).map(tuple)


def agrees(graph: StructureGraph) -> None:
    """What the operators count is what the explicit list has."""
    edges = graph.edge_list()
    assert edges.num_edges == graph.num_edges
    assert edges.num_nodes == graph.num_nodes
    assert len(edges.inputs) == len(graph.input_nodes())


@settings(max_examples=50, deadline=None, derandomize=True)
@given(plan=plans(), length=st.integers(2, 4), seed=st.integers(0, 99))
def test_random_programs(plan: Plan, length: int, seed: int) -> None:
    x = torch.randn(1, length, 4, generator=torch.Generator().manual_seed(seed))
    agrees(check_equality(Mixed(plan, seed).eval(), x, seed=seed))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(plan=plans(), seed=st.integers(0, 99))
def test_random_programs_with_statistics(plan: Plan, seed: int) -> None:
    x = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(seed))
    agrees(check_equality(Mixed(plan, seed).eval(), x, seed=seed, normalization="stats"))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(plan=plans(), seed=st.integers(0, 99))
def test_fused_sums_keep_every_path(plan: Plan, seed: int) -> None:
    x = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(seed))
    model = Mixed(plan, seed).eval()
    fused = build_graph(model, x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepstruct.structure.orders.zeroth.fuse_sums", lambda *_: None)
        plain = build_graph(model, x)
    assert count_paths(fused) == count_paths(plain)
    assert plain.num_nodes - fused.num_nodes == plain.num_edges - fused.num_edges >= 0


@pytest.mark.parametrize("seed", range(30))
def test_random_images_and_sequences(seed: int) -> None:
    model, x = random_net(seed)
    agrees(check_equality(model, x, seed=seed))


def test_a_wrong_rule_is_found() -> None:
    """The oracle is only worth something if it notices: a convolution that forgets its padding, and one too wide."""
    from deepstruct.plugin.current import use_host
    from deepstruct.plugin.host import Host
    from deepstruct.plugin.markers import hookimpl
    from deepstruct.structure.rules import Rule
    from deepstruct.testing import OracleError

    def one_to_one(builder: Any, node: Any) -> Any:
        return node.signals()[0].mapped(lambda t: t[:, :, 1:-1].repeat(1, 2, 1))

    def dense(builder: Any, node: Any) -> Any:
        return builder.dense(node.signals(), node.out[0].shape)

    for apply, words in ((one_to_one, "no path of the graph"), (dense, "derivative is zero")):

        class Plugin:
            @hookimpl
            def deepstruct_rules(self, apply: Any = apply) -> list[Rule]:
                return [Rule("convolution", apply)]

        with use_host(Host(plugins=[("wrong", Plugin())], entry_points=False)):
            with pytest.raises(OracleError, match=words) as caught:
                check_equality(nn.Conv1d(2, 4, 3), torch.randn(1, 2, 6))
            assert "output[0, " in str(caught.value)
            assert "input[0, " in str(caught.value)
