"""The oracles themselves: what they find, what they leave alone, and what they say."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import deepstruct.testing
from deepstruct.errors import DeepstructError
from deepstruct.plugin.current import use_host
from deepstruct.plugin.host import Host
from deepstruct.plugin.markers import hookimpl
from deepstruct.structure.rules import Rule
from deepstruct.testing import (
    OracleError,
    build_graph,
    check_containment,
    check_equality,
    check_vjp,
    count_paths,
    generic_copy,
    graph_support,
    jacobian_support,
)

from ..structure.cases import Fn, r


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def with_rule(target: str, apply: Any) -> Any:
    """A plugin host in which one more rule is known."""

    class Plugin:
        @hookimpl
        def deepstruct_rules(self) -> list[Rule]:
            return [Rule(target, apply)]

    return use_host(Host(plugins=[("extra", Plugin())], entry_points=False))


def test_support_of_a_masked_net_is_the_product_of_its_masks() -> None:
    model = net()
    first = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 0]])
    second = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 1]])
    with torch.no_grad():
        model[0].weight.mul_(first)
        model[2].weight.mul_(second)
    expected = (second @ first) > 0
    support = jacobian_support(model, r(1, 3))
    assert torch.equal(support.matrix, expected)
    assert torch.equal(graph_support(build_graph(model, r(1, 3))).matrix, expected)
    assert support.row(1) == "output[0, 1]"
    assert support.column(2) == "input[0, 2]"
    assert "2 of 6" in repr(support)


def test_many_draws_find_what_smooth_stand_ins_find() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(9, 2))
    smooth = jacobian_support(model, r(1, 2, 6))
    rough = jacobian_support(model, r(1, 2, 6), smooth=False, draws=60)
    single = jacobian_support(model, r(1, 2, 6), smooth=False, draws=1)
    assert torch.equal(smooth.matrix, rough.matrix)
    assert not bool((single.matrix & ~rough.matrix).any())
    assert smooth.matrix.all()


def test_sources_of_integers_are_looked_up_rows() -> None:
    model = nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(6, 1))
    support = jacobian_support(model, torch.tensor([[1, 1, 3]]))
    assert support.matrix.shape == (1, 6)
    assert support.sources[0][1] == (1, 3, 2)


def test_complex_outputs_have_a_derivative() -> None:
    support = jacobian_support(Fn(lambda x: torch.fft.rfft(x)), r(1, 4))
    assert support.matrix.shape == (3, 4)
    assert support.matrix.all()


def test_normalization_is_a_convention_of_both_sides() -> None:
    norm = nn.Sequential(nn.LayerNorm(4, elementwise_affine=False))
    assert int(jacobian_support(norm, r(1, 4)).matrix.sum()) == 4
    assert int(jacobian_support(norm, r(1, 4), normalization="stats").matrix.sum()) == 16
    with pytest.raises(OracleError):  # a graph without statistics does not hold what the statistics do
        from deepstruct.testing.support import require_contained

        real = jacobian_support(norm, r(1, 4), normalization="stats")
        require_contained(real, graph_support(build_graph(norm, r(1, 4))), "layer norm")


def test_the_model_is_left_alone() -> None:
    model, x = net().train(), r(1, 3)
    weights = [p.detach().clone() for p in model.parameters()]
    state, before = torch.get_rng_state(), x.clone()
    for check in (jacobian_support, check_containment, check_equality, check_vjp):
        check(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, before)
    assert model.training
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_a_generic_copy_keeps_zeros_and_signs() -> None:
    model = net()
    with torch.no_grad():
        model[0].weight[0] = 0
        model[0].bias.zero_()
    x = torch.zeros(1, 3)
    twin, (args, kwargs) = generic_copy(model, x, seed=3)
    again, _ = generic_copy(model, x, seed=3)
    assert not kwargs
    assert not bool((args[0] == 0).any())
    assert torch.equal(x, torch.zeros(1, 3))
    assert torch.equal(twin[0].weight.sign(), model[0].weight.sign())
    assert not torch.equal(twin[0].weight, model[0].weight)
    assert not bool((twin[0].bias == 0).any())
    assert torch.equal(twin[0].weight, again[0].weight)
    varied = r(1, 3)
    assert torch.equal(generic_copy(model, varied)[1][0][0], varied)  # nothing to do where nothing repeats


def test_a_missing_edge_is_named() -> None:
    with with_rule("flip", lambda builder, node: node.signals()[0]):
        with pytest.raises(OracleError, match=r"output\[0, 0\] depends on inputs\.0\[0, 2\], but no path") as caught:
            check_containment(Fn(lambda x: x.flip(1)), r(1, 3))
    assert isinstance(caught.value, DeepstructError)
    assert isinstance(caught.value, AssertionError)
    assert "2 such pairs of 9" in str(caught.value)


def test_an_edge_too_many_is_named() -> None:
    with with_rule("flip", lambda builder, node: builder.dense(node.signals(), node.out[0].shape)):
        check_containment(Fn(lambda x: x.flip(1)), r(1, 3))
        with pytest.raises(OracleError, match=r"a path from inputs\.0\[0, 0\] to output\[0, 0\].*6 such pairs of 9"):
            check_equality(Fn(lambda x: x.flip(1)), r(1, 3))


def test_a_source_without_a_value_is_an_error_that_says_so() -> None:
    def apply(builder: Any, node: Any) -> Any:
        return builder.source(node.out[0].shape, "made up")

    with with_rule("flip", apply), pytest.raises(OracleError, match=r"'made up'.*value=id"):
        check_containment(Fn(lambda x: x.flip(1)), r(1, 3))


def test_values_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(OracleError, match="not finite"):
        check_containment(Fn(lambda x: (x - 100).log()), r(1, 3))


# -- one backward pass --------------------------------------------------------------------------------


def test_vjp_agrees_with_the_whole_derivative() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.ReLU(), nn.Conv2d(2, 2, 2))
    x = r(1, 1, 8, 8)
    support = jacobian_support(model, x)
    probes = check_vjp(model, x, outputs=4)
    rows = {support.row(k): int(support.matrix[k].sum()) for k in range(len(support.matrix))}
    assert len(probes) == 4
    assert len({p.output for p in probes}) == 4
    assert all(p.depends_on == p.reached_by == rows[p.output] for p in probes)
    assert all(p.equal for p in probes)


def test_vjp_finds_a_missing_edge() -> None:
    with with_rule("flip", lambda builder, node: node.signals()[0]):
        with pytest.raises(OracleError, match=r"output\[0, \d\] depends on inputs\.0"):
            check_vjp(Fn(lambda x: x.flip(1) * 2), r(1, 4), outputs=4)


def test_vjp_sees_that_a_path_is_too_many() -> None:
    with with_rule("flip", lambda builder, node: builder.dense(node.signals(), node.out[0].shape)):
        probes = check_vjp(Fn(lambda x: x.flip(1)), r(1, 4), outputs=4)
    assert [(p.depends_on, p.reached_by, p.equal) for p in probes] == [(1, 4, False)] * 4


def test_vjp_with_the_weights_of_the_model() -> None:
    model = net()
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].weight[0, 0] = 1
    probes = {p.output: p for p in check_vjp(model, r(1, 3), outputs=2, generic=False)}
    assert probes["output[0, 1]"].reached_by == 0
    assert probes["output[0, 0]"].reached_by == 3


def test_vjp_needs_an_output() -> None:
    with pytest.raises(OracleError, match="no output element"):
        check_vjp(Fn(lambda x: x.argmax(1)), r(1, 4))


def test_several_inputs_outputs_and_keywords() -> None:
    class Many(nn.Module):
        def forward(self, x: torch.Tensor, *, y: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"sum": x + y, "first": x.relu()}

    check_equality(Many(), r(1, 3), example_kwargs={"y": r(1, 3, seed=1)})
    probes = check_vjp(Many(), r(1, 3), example_kwargs={"y": r(1, 3, seed=1)}, outputs=6)
    assert {p.output: p.depends_on for p in probes} == {
        **{f"sum[0, {k}]": 2 for k in range(3)}, **{f"first[0, {k}]": 1 for k in range(3)},
    }  # fmt: skip
    graph = build_graph(Many(), r(1, 3), example_kwargs={"y": r(1, 3, seed=1)})
    assert [name for name, _ in graph.outputs] == ["sum", "first"]
    assert count_paths(graph) == 9


# -- smooth stand-ins ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "x"),
    [
        (lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), r(1, 2, 6, 6)),
        (lambda x: F.max_pool2d(x, 2, 1, 0, 2), r(1, 1, 5, 5)),
        (lambda x: F.max_pool1d(x, 3, 2), r(1, 2, 7)),
        (lambda x: F.max_pool3d(x, 2), r(1, 1, 4, 4, 4)),
        (lambda x: F.adaptive_max_pool2d(x, 2), r(1, 1, 5, 5)),
        (lambda x: x.amax(1), r(1, 4, 2)),
        (lambda x: x.amin((1, 2)), r(1, 4, 2)),
        (lambda x: x.max(), r(1, 4, 2)),
    ],
)
def test_softened_maxima_lie_near_the_real_ones(function: Any, x: torch.Tensor) -> None:
    """A stand-in that has the wrong shape, or reads the wrong elements, is far off at large contrast."""
    from deepstruct.structure.settings import Settings
    from deepstruct.testing.replay import Replay
    from deepstruct.trace import trace

    record = trace(Fn(function), x * 200)
    (out,), _ = Replay(record, Settings(), record.inputs).run()
    real = function(x.double() * 200)
    assert out.shape == real.shape
    assert bool((out - real).abs().max() < 10)


def test_importing_the_package_imports_nothing() -> None:
    code = (
        "import sys, deepstruct.testing as t; assert 'torch' not in sys.modules; t.check_rule; "
        "assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(deepstruct.testing.__all__) <= set(dir(deepstruct.testing))
    with pytest.raises(AttributeError, match="check_everything"):
        deepstruct.testing.check_everything  # noqa: B018
