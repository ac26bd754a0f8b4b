"""The same model written otherwise has the same graph, and what leaves a call in another shape."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepstruct.errors import CapacityError
from deepstruct.testing import build_graph, check_equality, count_paths

from .cases import Fn, r
from .test_conventions import same

# -- the same model, otherwise -----------------------------------------------------------------------


def test_in_place_is_the_same() -> None:
    def net(inplace: bool) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.ReLU(inplace), nn.Conv2d(2, 2, 2), nn.Hardswish(inplace), nn.LeakyReLU(0.1, inplace)
        )

    same(build_graph(net(True), r(1, 1, 5, 5)), build_graph(net(False), r(1, 1, 5, 5)))
    inside = build_graph(Fn(lambda x: x.clone().mul_(2).add_(x.flip(1)).abs_()), r(1, 4))
    outside = build_graph(Fn(lambda x: (x * 2 + x.flip(1)).abs()), r(1, 4))
    same(inside, outside)


def test_dropout_in_training_is_ignored_and_said() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    training, evaluation = build_graph(model.train(), r(1, 3)), build_graph(model.eval(), r(1, 3))
    same(training, evaluation)
    assert any("dropout" in note for note in training.notes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_does_not_matter(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 2))
    expected = build_graph(model, r(1, 1, 4, 4))
    same(build_graph(model.to(dtype), r(1, 1, 4, 4).to(dtype)), expected)


def test_a_model_without_values_counts_as_dense() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))
    graph = build_graph(model, torch.empty(1, 3, 4, 4, device="meta"))
    real = build_graph(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)), r(1, 3, 4, 4))
    same(graph, real)


def test_what_does_not_fit_is_refused_with_an_estimate() -> None:
    graph = build_graph(nn.Linear(100, 100), r(1, 100))
    with pytest.raises(CapacityError, match=r"10,000 edges.*GiB.*max_memory"):
        graph.edge_list(max_memory=1000)
    with pytest.raises(CapacityError, match="networkx"):
        graph.to_networkx(max_memory=1 << 20)


def test_empty_and_disconnected_models() -> None:
    identity = build_graph(nn.Identity(), r(1, 3))
    assert (identity.num_nodes, identity.num_edges, count_paths(identity)) == (3, 0, 3)
    dead = build_graph(Fn(lambda x: x * 0.0), r(1, 3))
    assert (dead.num_nodes, dead.num_edges, len(dead.output_nodes())) == (3, 0, 0)
    constant = build_graph(Fn(lambda x, w: w * 2, w=r(4)), r(1, 3))
    assert (constant.num_nodes, len(constant.output_nodes())) == (3, 0)


# -- values that leave a call in another shape -------------------------------------------------------


class Branches(nn.Module):
    """What goes into a recurrent layer, and what comes out of it, is transposed for others too."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(4, 2)
        self.attention = nn.MultiheadAttention(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.layer(x)[0]
        memory, query = out.transpose(0, 1), x.transpose(0, 1)
        return self.head(self.attention(query, memory, memory, need_weights=False)[0])


@pytest.mark.parametrize("layer", [nn.RNN, nn.GRU, nn.LSTM])
def test_results_of_batch_first_layers_are_transposed_back(layer: type[nn.Module]) -> None:
    for batch in (1, 2):
        check_equality(Branches(layer(4, 4, batch_first=True)).eval(), r(batch, 3, 4))


def test_a_value_that_a_rule_hides_is_an_error_that_says_so() -> None:
    from deepstruct.errors import StructureError
    from deepstruct.plugin.current import use_host
    from deepstruct.plugin.host import Host
    from deepstruct.plugin.markers import hookimpl
    from deepstruct.structure.rules import Rule

    class Inner(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.kept = x.sin()
            return self.kept * 2

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + self.inner.kept.flip(1)

    class Plugin:
        @hookimpl
        def deepstruct_rules(self) -> list[Rule]:
            return [Rule(Inner, lambda builder, node: node.signals()[0].curved(), kind="module")]

    check_equality(Outer(), r(1, 3))
    with use_host(Host(plugins=[("whole", Plugin())], entry_points=False)):
        with pytest.raises(StructureError, match=r"inside 'inner' is used outside"):
            build_graph(Outer(), r(1, 3))


class FillConstant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(4).masked_fill(torch.tensor([True, False, True, False]), self.layer(x).sum())


def test_a_constant_filled_with_an_activation_depends_on_it() -> None:
    graph = build_graph(FillConstant(), r(1, 3))
    assert graph.num_weight_edges == 3
    assert bool((graph.is_output & graph.is_node).any())
