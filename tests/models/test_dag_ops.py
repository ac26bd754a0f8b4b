"""The product over a graph: kernels against tensor operations, gradients, transforms, compilation."""

from __future__ import annotations

import networkx as nx
import pytest
import torch

from deepstruct.sparse import MaskedDeepDAN, dag_ops
from deepstruct.sparse.dag_ops import dag, reference

CASES = [(1, 0), (5, 4), (40, 160)]


def operands(n: int, m: int, skips: str, norm: bool, batch: int, dtype: torch.dtype = torch.float64):
    model = MaskedDeepDAN(3, 2, nx.gnm_random_graph(n, m, seed=n), norm, skips=skips, readout="sinks", dtype=dtype)
    hidden = model.hidden
    with torch.no_grad():
        for parameter in hidden.parameters():
            parameter.normal_(std=0.5)
    rows = len(hidden.layout.target)
    none = torch.empty(0, dtype=dtype)
    gamma, beta = (hidden.norm_weight, hidden.norm_bias) if norm else (none, none)
    parts = (
        torch.randn(batch, hidden.in_features, dtype=dtype).relu(), hidden.weight, hidden.bias[:rows],
        torch.randn(hidden.num_vertices, dtype=dtype), gamma, beta,
    )  # fmt: skip
    return [p.detach().clone().requires_grad_() for p in parts], hidden.tensors(), model.reads


@pytest.mark.parametrize("batch", [1, 7, 64, 65, 600])
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
@pytest.mark.parametrize("skips", ["separate", "sum"])
@pytest.mark.parametrize(("n", "m"), CASES)
def test_values_and_gradients(n: int, m: int, skips: str, norm: bool, batch: int) -> None:
    parts, graph, reads = operands(n, m, skips, norm, batch)
    out = dag(*parts[:4], (parts[4], parts[5]) if norm else None, graph, reads)
    wanted = reference(*parts, *graph, 1e-5)[:, reads.long()]
    torch.testing.assert_close(out, wanted)
    grad = torch.randn_like(out)
    some = [p for p in parts if p.numel()]
    options = {"allow_unused": True, "materialize_grads": True}
    torch.testing.assert_close(
        torch.autograd.grad(out, some, grad, **options), torch.autograd.grad(wanted, some, grad, **options)
    )


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
def test_single_precision(norm: bool) -> None:
    parts, graph, reads = operands(40, 160, "separate", norm, 33, torch.float32)
    out = torch.ops.deepstruct.dag_forward(*parts, *graph, reads, 1e-5)[0]
    torch.testing.assert_close(out, reference(*parts, *graph, 1e-5)[:, reads.long()], rtol=1e-4, atol=1e-4)


def test_the_fallback_agrees() -> None:
    """The torch implementation of the op itself, forward and backward, whatever runs by default."""
    parts, graph, reads = operands(40, 160, "separate", True, 9)
    plain = [p.detach() for p in parts]
    out, state = dag_ops._forward(*plain, *graph, reads, 1e-5)
    torch.testing.assert_close(out, reference(*plain, *graph, 1e-5)[:, reads.long()])
    grad = torch.randn_like(out)
    found = dag_ops._backward(grad, state, *plain[1:], *graph, reads, 1e-5, plain[0].shape[1])
    wanted = torch.autograd.grad(
        reference(*parts, *graph, 1e-5)[:, reads.long()], parts, grad, allow_unused=True, materialize_grads=True
    )
    torch.testing.assert_close(tuple(found), wanted)


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
def test_gradcheck_twice(norm: bool) -> None:
    parts, graph, reads = operands(5, 4, "separate", norm, 3)
    some = parts if norm else parts[:4]

    def run(*p: torch.Tensor) -> torch.Tensor:
        return dag(*p[:4], (p[4], p[5]) if norm else None, graph, reads)

    assert torch.autograd.gradcheck(run, some)
    assert torch.autograd.gradgradcheck(run, some)


def test_opcheck() -> None:
    parts, graph, reads = operands(5, 4, "separate", True, 3)
    torch.library.opcheck(
        torch.ops.deepstruct.dag_forward.default, (*parts, *graph, reads, 1e-5),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )  # fmt: skip


def test_function_transforms() -> None:
    model = MaskedDeepDAN(3, 2, nx.gnm_random_graph(12, 30, seed=1), dtype=torch.float64)
    x = torch.randn(4, 3, dtype=torch.float64)
    by_one = torch.vmap(lambda t: model(t[None])[0])(x)
    torch.testing.assert_close(by_one, model(x))
    jacobian = torch.func.jacrev(lambda t: model(t[None])[0])(x[0])
    torch.testing.assert_close(jacobian, torch.autograd.functional.jacobian(lambda t: model(t[None])[0], x[0]))


@pytest.mark.skipif(
    not torch._C._dispatch_has_kernel_for_dispatch_key("deepstruct::dag_forward", "CPU"),
    reason="the kernels are not built",
)
def test_structures_that_do_not_fit_are_refused() -> None:
    parts, graph, reads = operands(5, 4, "sum", False, 3)
    plain = [p.detach() for p in parts]
    with pytest.raises(RuntimeError, match="the weight has"):
        torch.ops.deepstruct.dag_forward(plain[0], plain[1][1:], *plain[2:], *graph, reads, 1e-5)
    with pytest.raises(RuntimeError, match="do not fit together"):
        torch.ops.deepstruct.dag_forward(*plain, *graph[:3], graph.cols[1:], reads, 1e-5)
