"""check_rule: passes for layers whose rules are right, and every one of its checks can fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from deepstruct.errors import PluginError, UnknownOpError
from deepstruct.plugin.current import use_host
from deepstruct.plugin.host import Host
from deepstruct.plugin.markers import hookimpl
from deepstruct.structure.operators import Matmul
from deepstruct.structure.rules import Rule
from deepstruct.testing import OracleError, check_rule
from deepstruct.testing.rules import CHECKS

from ..structure.cases import Fn, Packed, Unrolled, r


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (nn.Linear(3, 4), (r(2, 3),)),
        (nn.Conv2d(2, 4, 3, padding=1, groups=2), (r(1, 2, 4, 4),)),
        (nn.ConvTranspose1d(2, 3, 3, stride=2), (r(1, 2, 4),)),
        (nn.Bilinear(3, 4, 2), (r(1, 3), r(1, 4))),
        (nn.BatchNorm1d(3).eval(), (r(1, 3),)),
        (nn.LayerNorm(4), (r(1, 2, 4),)),
        (nn.MultiheadAttention(4, 2, batch_first=True).eval(), (r(1, 3, 4), r(1, 2, 4), r(1, 2, 4))),
        (nn.TransformerEncoderLayer(4, 2, 6, batch_first=True).eval(), (r(1, 3, 4),)),
        (nn.GRU(2, 3), (r(3, 1, 2),)),
        (nn.RNN(2, 3, num_layers=2, bidirectional=True), (r(3, 1, 2),)),
        (nn.Embedding(5, 3), (torch.tensor([[1, 2]]),)),
        (nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2)), (torch.tensor([[1, 2]]),)),
        (Unrolled(nn.LSTMCell(2, 3)), (r(3, 1, 2),)),
        (nn.MaxPool2d(2), (r(1, 1, 4, 4),)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_built_in_rules_pass(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    graph = check_rule(layer, inputs)
    assert graph.num_edges == graph.edge_list().num_edges


def test_lstm_passes_but_for_half_precision_of_its_kernel() -> None:
    check_rule(nn.LSTM(2, 3), r(3, 1, 2))
    check_rule(Packed(nn.LSTM(2, 3), (2, 3)), r(3, 2, 2))


def test_settings_and_keywords_are_passed_on() -> None:
    graph = check_rule(nn.LayerNorm(4), r(1, 2, 4), normalization="stats")
    assert graph.num_nodes == 8 + 8 + 2
    attention = nn.MultiheadAttention(4, 2, batch_first=True).eval()
    x = r(1, 3, 4)
    masked = {"need_weights": False, "attn_mask": torch.ones(3, 3).triu(1).bool()}
    check_rule(attention, (x, x, x), example_kwargs=masked)


def test_unknown_names_of_checks() -> None:
    with pytest.raises(OracleError, match=r"\['speed'\].*oracle"):
        check_rule(nn.Linear(3, 4), r(1, 3), skip=("speed",))


@torch.library.custom_op("deepstruct_tests::odd", mutates_args=())
def odd(x: torch.Tensor) -> torch.Tensor:
    """An operation that nobody has a rule for."""
    return 2 * x


@odd.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def test_an_unknown_op_passes_through() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + odd(x)

    with pytest.raises(UnknownOpError, match="odd"):
        check_rule(Odd(), r(1, 3))


# -- every check finds what it is for ----------------------------------------------------------------


class Twice(nn.Module):
    """A layer that only a plugin's rule reads: x @ weight, with a counter that betrays whoever runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(r(3, 2))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


def plain(builder: Any, node: Any) -> Any:
    (x,) = node.signals()
    weight = node.module.weight
    return builder.matmul(x, reference(weight))


def reference(weight: torch.Tensor) -> Any:
    from deepstruct.structure.operators import WeightRef

    return WeightRef(("twice", id(weight)), weight)


def writes_weights(builder: Any, node: Any) -> Any:
    """Where the guard of the host does not look: through NumPy."""
    weight = node.module.weight.detach().numpy()
    weight += 0.5
    return plain(builder, node)


def writes_flag(builder: Any, node: Any) -> Any:
    node.module.eval()
    return plain(builder, node)


def draws(builder: Any, node: Any) -> Any:
    torch.rand(1)
    return plain(builder, node)


def forgets(builder: Any, node: Any) -> Any:
    (x,) = node.signals()
    return builder.matmul(x.mapped(lambda t: t[:, :2]), reference(node.module.weight[:2]))


def too_much(builder: Any, node: Any) -> Any:
    return builder.dense(node.signals(), node.out[0].shape)


class Changes:
    """Another graph at the second reading."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, builder: Any, node: Any) -> Any:
        self.count += 1
        out = plain(builder, node)
        return out if self.count == 1 else builder.merge([out, out.mapped(lambda t: t.flip(1))])


def miscounts(builder: Any, node: Any) -> Any:
    class Liar(Matmul):
        def count(self, source_ok: Any = None, target_ok: Any = None) -> int:
            return super().count(source_ok, target_ok) + 1

    (x,) = node.signals()
    ref = reference(node.module.weight)
    return builder.units(x, node.out[0].shape, lambda s, t: Liar(s, t, ref), kind="contraction", additive=True)


def keeps_zeros(builder: Any, node: Any) -> Any:
    """Edges through weights that are zero: a pattern of ones."""

    class Stubborn(Matmul):
        @property
        def weighted(self) -> bool:
            return True

        def weight_usage(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x.reshape(-1, self.inner).T @ y.reshape(-1, self.outer)

        def edges(self) -> Any:
            for piece in Matmul(self.source, self.target).edges():
                yield piece._replace(weight=torch.ones_like(piece.weight))

        def count(self, source_ok: Any = None, target_ok: Any = None) -> int:
            return Matmul(self.source, self.target).count(source_ok, target_ok)

    (x,) = node.signals()
    ref = reference(node.module.weight)
    return builder.units(x, node.out[0].shape, lambda s, t: Stubborn(s, t, ref), kind="contraction", additive=True)


def only_float32(builder: Any, node: Any) -> Any:
    if node.out[0].dtype != torch.float32:
        return too_much(builder, node)
    return plain(builder, node)


@pytest.mark.parametrize(
    ("apply", "check", "skip"),
    [
        (forgets, "depends on", ()),
        (too_much, "derivative is zero", ()),
        (writes_weights, "untouched.*weight", ()),
        (writes_flag, "it changed the training flag", ()),
        (draws, "it changed the random state", ()),
        (Changes(), "deterministic", ("oracle",)),
        (miscounts, "counts", ("oracle",)),
        (keeps_zeros, "zeros", ("oracle",)),
        (only_float32, "half", ("oracle",)),
    ],
    ids=lambda v: getattr(v, "__name__", type(v).__name__) if callable(v) else "",
)
def test_every_check_can_fail(apply: Callable[..., Any], check: str, skip: tuple[str, ...]) -> None:
    class Plugin:
        @hookimpl
        def deepstruct_rules(self) -> list[Rule]:
            return [Rule(Twice, apply, kind="module")]

    layer = Twice().train()
    if apply is too_much:
        with torch.no_grad():
            layer.weight[0] = 0
    with use_host(Host(plugins=[("own", Plugin())], entry_points=False)):
        with pytest.raises((OracleError, PluginError), match=check):
            check_rule(layer, r(1, 3), skip=skip)


def test_a_plugin_that_is_right_passes() -> None:
    class Plugin:
        @hookimpl
        def deepstruct_rules(self) -> list[Rule]:
            return [Rule(Twice, plain, kind="module")]

    with use_host(Host(plugins=[("own", Plugin())], entry_points=False)):
        graph = check_rule(Twice(), r(1, 3))
    assert any("Twice" in name for name in graph.providers)
    assert set(CHECKS) == {"oracle", "untouched", "deterministic", "counts", "zeros", "half"}


def test_layers_that_hide_dependencies() -> None:
    hiding = Fn(lambda x: x.softmax(-1).sum(-1, keepdim=True) * x)
    with pytest.raises(OracleError):
        check_rule(Fn(lambda x: x - x.clone() * 1.0 + x.flip(1)), r(1, 4))
    check_rule(hiding, r(1, 4), equality=False)
