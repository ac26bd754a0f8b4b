"""`torch.ops.deepstruct.dag_forward` and its gradient: a network over a directed acyclic graph in one call.

The graph travels as four int32 tensors, see csrc/masked/dag.h: vertices are numbered layer by layer, those of
layer 0 are given; every other vertex has rows, its main row first, and a row reads vertices of lower layers.
A row's activation is relu(bias + sum of weight times activation); with a norm, the main rows of a layer are
normalised together before the relu. A vertex is the sum of its rows and of `extra`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepstruct.sparse import extension
from deepstruct.sparse import ops as _ops  # noqa: F401  (loads the compiled kernels)


class DagTensors(NamedTuple):
    """layer_start (layers + 1), vertex_row (vertices + 1), row_start (rows + 1), cols (edges), all int32."""

    layer_start: Tensor
    vertex_row: Tensor
    row_start: Tensor
    cols: Tensor


_library = torch.library.Library("deepstruct", "FRAGMENT")
_PARAMETERS = "Tensor weight, Tensor bias, Tensor extra, Tensor gamma, Tensor beta"
_GRAPH = "Tensor layer_start, Tensor vertex_row, Tensor row_start, Tensor cols, Tensor reads, float eps"
_library.define(f"dag_forward(Tensor first, {_PARAMETERS}, {_GRAPH}) -> (Tensor, Tensor)")
_library.define(
    f"dag_backward(Tensor grad, Tensor state, {_PARAMETERS}, {_GRAPH}, int inputs) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def dag(
    first: Tensor, weight: Tensor, bias: Tensor, extra: Tensor, norm: tuple[Tensor, Tensor] | None,
    graph: DagTensors, reads: Tensor, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Activations (batch, len(reads)) of the vertices `reads` (int32), given those of layer 0.

    Args:
        first: (batch, size of layer 0), float32 or float64, as all parameters.
        weight, bias, extra: one number per edge, row and vertex.
        norm: scale and shift, one number per vertex each; those of layer 0 have no effect.
    """
    gamma, beta = norm if norm is not None else (weight.new_empty(0), weight.new_empty(0))
    if torch._C._are_functorch_transforms_active():
        return reference(first, weight, bias, extra, gamma, beta, *graph, eps).index_select(1, reads)
    extension.tell_once()
    return torch.ops.deepstruct.dag_forward(first, weight, bias, extra, gamma, beta, *graph, reads, eps)[0]


class _Layer(NamedTuple):
    """Where the parts of one layer lie, and for each of its edges and rows whose they are (from 0)."""

    vertices: slice
    rows: slice
    edges: slice
    edge_row: Tensor
    row_vertex: Tensor
    main: Tensor


def _layers(graph: DagTensors) -> Iterator[_Layer]:
    vertex_row, row_start = graph.vertex_row.to(torch.int64), graph.row_start.to(torch.int64)
    bounds = graph.layer_start.tolist()
    row_at = vertex_row[graph.layer_start.to(torch.int64)]
    rows, edges = row_at.tolist(), row_start[row_at].tolist()
    for k in range(1, len(bounds) - 1):
        v, r, e = (slice(part[k], part[k + 1]) for part in (bounds, rows, edges))
        per_row = row_start[r.start : r.stop + 1].diff()
        per_vertex = vertex_row[v.start : v.stop + 1].diff()
        yield _Layer(
            v, r, e, torch.repeat_interleave(per_row), torch.repeat_interleave(per_vertex),
            vertex_row[v.start : v.stop] - r.start,
        )  # fmt: skip


def reference(
    first: Tensor, weight: Tensor, bias: Tensor, extra: Tensor, gamma: Tensor, beta: Tensor,
    layer_start: Tensor, vertex_row: Tensor, row_start: Tensor, cols: Tensor, eps: float,
) -> Tensor:  # fmt: skip
    """Activations of all vertices, (batch, vertices), by differentiable tensor operations, layer by layer."""
    h = first.T
    columns = cols.to(torch.int64)
    for layer in _layers(DagTensors(layer_start, vertex_row, row_start, cols)):
        z = _rows(layer, h, weight, bias, columns)
        if len(gamma):
            z = z.index_copy(0, layer.main, _norm(z[layer.main], gamma, beta, layer, eps)[0])
        out = z.new_zeros(len(layer.main), z.shape[1]).index_add(0, layer.row_vertex, z.relu())
        h = torch.cat([h, out + extra[layer.vertices, None]])
    return h.T


def _rows(layer: _Layer, h: Tensor, weight: Tensor, bias: Tensor, columns: Tensor) -> Tensor:
    sent = h[columns[layer.edges]] * weight[layer.edges, None]
    z = sent.new_zeros(layer.rows.stop - layer.rows.start, h.shape[1])
    return z.index_add(0, layer.edge_row, sent) + bias[layer.rows, None]


def _norm(z: Tensor, gamma: Tensor, beta: Tensor, layer: _Layer, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The layer norm of z over its vertices (axis 0), the unit-variance z, and 1 / deviation."""
    off = z - z.mean(0)
    scale = (off.square().mean(0) + eps).rsqrt()
    unit = off * scale
    return unit * gamma[layer.vertices, None] + beta[layer.vertices, None], unit, scale


def _padded(batch: int) -> int:
    return (batch + 15) // 16 * 16


def _forward(
    first: Tensor, weight: Tensor, bias: Tensor, extra: Tensor, gamma: Tensor, beta: Tensor, layer_start: Tensor,
    vertex_row: Tensor, row_start: Tensor, cols: Tensor, reads: Tensor, eps: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The second result is the state: all activations, (vertices, padded batch) flat; kernels order it otherwise."""
    batch, vertices, columns = len(first), len(vertex_row) - 1, cols.to(torch.int64)
    state = first.new_zeros(vertices, _padded(batch))
    h = state[:, :batch]
    h[: first.shape[1]] = first.T
    for layer in _layers(DagTensors(layer_start, vertex_row, row_start, cols)):
        z = _rows(layer, h, weight, bias, columns)
        if len(gamma):
            z[layer.main] = _norm(z[layer.main], gamma, beta, layer, eps)[0]
        out = h[layer.vertices]
        out += extra[layer.vertices, None]
        out.index_add_(0, layer.row_vertex, z.relu_())
    return h[reads.to(torch.int64)].T.contiguous(), state.view(-1)


def _backward(
    grad: Tensor, state: Tensor, weight: Tensor, bias: Tensor, extra: Tensor, gamma: Tensor, beta: Tensor,
    layer_start: Tensor, vertex_row: Tensor, row_start: Tensor, cols: Tensor, reads: Tensor, eps: float, inputs: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    batch, vertices, columns = len(grad), len(vertex_row) - 1, cols.to(torch.int64)
    h = state.view(vertices, -1)[:, :batch]
    grad_h = torch.zeros_like(h).index_add_(0, reads.to(torch.int64), grad.T)
    grads = [torch.zeros_like(p) for p in (weight, bias, extra, gamma, beta)]
    grad_weight, grad_bias, grad_extra, grad_gamma, grad_beta = grads
    for layer in reversed(list(_layers(DagTensors(layer_start, vertex_row, row_start, cols)))):
        z = _rows(layer, h, weight, bias, columns)
        g = grad_h[layer.vertices]
        grad_extra[layer.vertices] = g.sum(1)
        g = g[layer.row_vertex]
        if len(gamma):
            y, unit, scale = _norm(z[layer.main], gamma, beta, layer, eps)
            z[layer.main] = y
        g = g * (z > 0)
        if len(gamma):
            main = g[layer.main]
            grad_gamma[layer.vertices], grad_beta[layer.vertices] = (main * unit).sum(1), main.sum(1)
            main = main * gamma[layer.vertices, None]
            g[layer.main] = scale * (main - main.mean(0) - unit * (main * unit).mean(0))
        grad_bias[layer.rows] = g.sum(1)
        sent, read = g[layer.edge_row], columns[layer.edges]
        grad_weight[layer.edges] = (sent * h[read]).sum(1)
        grad_h.index_add_(0, read, sent * weight[layer.edges, None])
    return grad_h[:inputs].T.contiguous(), *grads


_library.impl("dag_forward", _forward, "CompositeExplicitAutograd")
_library.impl("dag_backward", _backward, "CompositeExplicitAutograd")


@torch.library.register_fake("deepstruct::dag_forward", lib=_library)
def _(first: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    vertices, reads = rest[6].shape[0] - 1, rest[9].shape[0]
    return first.new_empty((first.shape[0], reads)), first.new_empty(vertices * _padded(first.shape[0]))


@torch.library.register_fake("deepstruct::dag_backward", lib=_library)
def _(grad: Tensor, state: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return grad.new_empty((grad.shape[0], rest[-1])), *(p.new_empty(p.shape) for p in rest[:5])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    first, *rest, state = ctx.saved_tensors
    if grad is None:
        return (None,) * 12
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return *_gradient_twice(grad, first, rest, ctx.eps), *[None] * 6
    found = torch.ops.deepstruct.dag_backward(grad, state, *rest, ctx.eps, first.shape[1])
    return *found, *[None] * 6


def _gradient_twice(grad: Tensor, first: Tensor, rest: list[Tensor], eps: float) -> list[Tensor | None]:
    """The gradient as something that can be differentiated again: through the tensor operations."""
    weight, bias, extra, gamma, beta, layer_start, vertex_row, row_start, cols, reads = rest
    inputs = [first, weight, bias, extra, gamma, beta]
    out = reference(
        first, weight, bias, extra, gamma, beta, layer_start, vertex_row, row_start, cols, eps
    )
    wanted = [t for t in inputs if t.requires_grad]
    found = iter(
        torch.autograd.grad(
            out.index_select(1, reads), wanted, grad, create_graph=True, allow_unused=True, materialize_grads=True
        )
    )
    return [next(found) if t.requires_grad else None for t in inputs]


torch.library.register_autograd("deepstruct::dag_forward", _gradient, setup_context=_setup, lib=_library)
