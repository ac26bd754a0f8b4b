"""Zero-dimensional persistence of weighted bipartite graphs: a maximum spanning tree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from deepstruct.engine import budget
from deepstruct.errors import MetricError
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operators import Conv, EdgeOperator, Matmul, alive

Matrix = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Layer:
    """The complete bipartite graphs behind one stored weight: |w| per pair of channels.

    Attributes:
        name: of the operator.
        blocks: one matrix per group (or batch entry) that has weights of its own; nothing joins them.
    """

    name: str
    blocks: tuple[Matrix, ...]

    @property
    def largest(self) -> float:
        return max((float(b.max()) for b in self.blocks if b.size), default=0.0)

    @property
    def vertices(self) -> int:
        return sum(sum(block.shape) for block in self.blocks)


def maximum_spanning_tree(weights: Matrix) -> npt.NDArray[np.float64]:
    """Edge weights of a maximum spanning tree of the complete bipartite graph rows x columns, descending.

    Args:
        weights: shape (rows, columns), at least 0; an absent connection is an edge of weight 0.

    Returns:
        rows + columns - 1 weights (none for an empty side). Prim's algorithm on the matrix: no edge is ever
        listed or sorted.
    """
    rows, columns = weights.shape
    if rows == 0 or columns == 0:
        return np.empty(0)
    # the strongest connection of each vertex outside to the tree; -1 once it is inside
    side = (np.full(rows, -1, weights.dtype), weights[0].copy())
    inside = (np.zeros(rows, bool), np.zeros(columns, bool))
    inside[0][0] = True
    tree = np.empty(rows + columns - 1)
    for step in range(len(tree)):
        if step % 256 == 0:
            budget.check()
        best = [int(s.argmax()) for s in side]
        which = 0 if side[0][best[0]] > side[1][best[1]] else 1
        here = best[which]
        tree[step] = side[which][here]
        inside[which][here] = True
        side[which][here] = -1
        other = weights[here] if which == 0 else weights[:, here]
        np.maximum(side[1 - which], other, out=side[1 - which], where=~inside[1 - which])
    return np.sort(tree)[::-1]


def weight_layers(graph: StructureGraph) -> list[Layer]:
    """Every stored weight behind the edges of a zeroth-order graph once, in the order of use.

    Channels of a convolution are joined by their strongest tap, of those that ever meet a unit.
    """
    found: list[Layer] = []
    seen: set[object] = set()
    names: dict[str, int] = {}
    for op in graph.operators:
        if op.weight is None or not op.weighted or op.weight.tensor.numel() == 0:
            continue
        tensor = op.weight.tensor
        if tensor.is_meta:
            raise MetricError(f"the weights of {op.name!r} have no values (they are on the meta device)")
        axes = sorted((step, n) for n, step in zip(tensor.shape, tensor.stride(), strict=True) if n > 1)
        key = (op.weight.key, tensor.storage_offset(), tuple(axes))
        if key in seen:
            continue
        seen.add(key)
        count = names[op.name] = names.get(op.name, 0) + 1
        blocks = tuple(_blocks(op))
        if blocks:
            found.append(Layer(op.name if count == 1 else f"{op.name}#{count - 1}", blocks))
    return found


def _blocks(op: EdgeOperator) -> Iterator[Matrix]:
    assert op.weight is not None
    tensor = op.weight.tensor.detach()
    if not isinstance(op, (Conv, Matmul)):
        raise MetricError(f"the weights of {op.name!r} are a list of edges: no layer of channels stands behind them")
    sizes = tensor.to(torch.float64 if tensor.dtype == torch.float64 else torch.float32).abs()
    sizes = sizes * alive(tensor, op.threshold)
    if bool(sizes.isnan().any()):
        raise MetricError(f"some weights of {op.name!r} are not a number (NaN)")
    if isinstance(op, Conv):
        sizes = (sizes * (op.tap_counts > 0)).flatten(2).amax(2)
        sizes = sizes.reshape(op.groups, sizes.shape[0] // op.groups, sizes.shape[1])
    elif sizes.dim() == 2:
        sizes = sizes.unsqueeze(0)
    for block in sizes.reshape(-1, *sizes.shape[-2:]):
        yield np.ascontiguousarray(block.numpy())


@dataclass(frozen=True)
class Persistence:
    """Neural persistence of one layer: pairs (1, w) of the spanning trees, and the classes that never die.

    Attributes:
        finite: 1 - w for every tree edge.
        essential: number of components of the layer: those that are paired with 0 in the authors' code.
    """

    finite: npt.NDArray[np.float64]
    essential: int

    def total(self, p: float = 2.0, *, essential: bool) -> float:
        """The p-norm of all persistences; an essential class counts 1."""
        extra = self.essential if essential else 0
        return float((np.sum(self.finite**p) + extra) ** (1 / p))

    def normalized(self, p: float = 2.0, *, essential: bool) -> float:
        """`total` over (tree edges) ** (1 / p), the largest value without essential classes; 0 without edges."""
        return self.total(p, essential=essential) / len(self.finite) ** (1 / p) if len(self.finite) else 0.0


def neural_persistence(layers: list[Layer]) -> dict[str, Persistence]:
    """Persistence of every layer, weights scaled by the largest |w| over all layers (as they are if all are 0)."""
    largest = max((layer.largest for layer in layers), default=0.0) or 1.0
    out = {}
    for layer in layers:
        trees = [maximum_spanning_tree(block) for block in layer.blocks]
        out[layer.name] = Persistence(1 - np.concatenate(trees) / largest, len(trees))
    return out
