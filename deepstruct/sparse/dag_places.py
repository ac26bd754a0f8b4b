"""Where edges of a network over a graph may be: every pair of vertices from a lower layer to a higher one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deepstruct.errors import InputError
from deepstruct.graph.structure import Structure

if TYPE_CHECKING:
    from deepstruct.sparse.dag import DagLinear


class Places:
    """All pairs (source, target) whose target is in the higher layer: any set of them is acyclic.

    They are in the order in which a layer that had all of them as edges would store its weights.

    Attributes:
        source, target: int64, one number per pair, as is all that costs memory here: half the squared number of
            vertices, at most.
    """

    def __init__(self, structure: Structure, separate: bool) -> None:
        from deepstruct.sparse.dag import lay_out

        below = structure.layer_start[structure.layer]  # vertices of lower layers, which come first
        n, total = len(below), int(below.sum())
        target = np.repeat(np.arange(n), below)
        source = np.arange(total) - np.repeat(below.cumsum() - below, below)
        whole = Structure(structure.names, source, target, structure.layer)
        layout = lay_out(whole, separate)
        self.layers, self.separate, self.vertices = structure.layer, separate, n
        self.source, self.target = torch.from_numpy(layout.cols), torch.from_numpy(layout.target[layout.row])
        self.tensors = layout.tensors(whole)
        self._rows = row_keys(layout.target, layout.origin, n)
        # pairs by target and source come without gaps, so the place of one is counted, not searched
        self._first = torch.from_numpy(below.cumsum() - below)
        self._place = torch.empty(total, dtype=torch.int64)
        self._place[self._first[self.target] + self.source] = torch.arange(total)

    def __len__(self) -> int:
        return len(self.source)

    def fits(self, structure: Structure) -> bool:
        """Whether these are the places of a structure's layers."""
        return np.array_equal(self.layers, structure.layer)

    def of(self, edges: Tensor) -> Tensor:
        """Places of edges (2, n), which go up."""
        source, target = edges.cpu()
        return self._place[self._first[target] + source].to(edges.device)

    def edges(self, chosen: Tensor) -> Tensor:
        """(2, n): source and target of the places that a boolean tensor picks."""
        picked = chosen.cpu()
        return torch.stack([self.source[picked], self.target[picked]]).to(chosen.device)

    def rows_of(self, keys: np.ndarray) -> Tensor:
        """Rows of the layer that had all pairs, for rows by their keys (see `row_keys`)."""
        order = np.argsort(self._rows)
        return torch.from_numpy(order[np.searchsorted(self._rows, keys, sorter=order)])


class Watch:
    """Adds up the gradient at every place, whether there is an edge or not.

    The layer runs as if all pairs were its edges, absent ones of weight 0, which is the same function.
    """

    def __init__(self, layer: DagLinear, places: Places) -> None:
        device = layer.weight.device
        self.seen: Tensor | None = None
        self.tensors = type(places.tensors)(*(t.to(device) for t in places.tensors))
        self._count, self._rows = len(places), len(self.tensors.row_start) - 1
        self._at = places.of(layer.edges).to(device)
        self._row_at = places.rows_of(layer._row_keys()).to(device)

    def spread(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of all pairs and biases of all rows, from the layer's own."""
        wide = weight.new_zeros(self._count).index_put((self._at,), weight)
        if wide.requires_grad:
            wide.register_hook(self._add)
        return wide, bias.new_zeros(self._rows).index_put((self._row_at,), bias)

    def _add(self, grad: Tensor) -> None:
        self.seen = grad.detach().clone() if self.seen is None else self.seen + grad.detach()


def row_keys(target: np.ndarray, origin: np.ndarray, vertices: int) -> np.ndarray:
    """One number per row: its vertex and the layer that it reads (-1: all lower ones)."""
    return target * (vertices + 1) + origin + 1


def carried(before: np.ndarray, after: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each key after a change, whether it was there before, and its position then (0 where it was not)."""
    if not len(before):
        none = torch.zeros(len(after), dtype=torch.int64, device=device)
        return none.bool(), none
    order = np.argsort(before)
    found = order[np.minimum(np.searchsorted(before, after, sorter=order), len(before) - 1)]
    kept = before[found] == after
    return torch.from_numpy(kept).to(device), torch.from_numpy(np.where(kept, found, 0)).to(device)


def checked_edges(grow: Tensor | None, layers: np.ndarray) -> np.ndarray:
    """(2, n) int64: edges to grow. Raises InputError unless each goes from a vertex to one of a higher layer."""
    if grow is None:
        return np.zeros((2, 0), dtype=np.int64)
    if grow.dim() != 2 or grow.shape[0] != 2 or grow.is_floating_point() or grow.dtype == torch.bool:
        raise InputError("grow is (2, n) integers: source and target vertex of each edge")
    edges = grow.cpu().numpy().astype(np.int64)
    if edges.size and (edges.min() < 0 or edges.max() >= len(layers)):
        raise InputError(f"grow names vertices outside 0 to {len(layers) - 1}")
    wrong = np.flatnonzero(layers[edges[0]] >= layers[edges[1]])
    if len(wrong):
        u, v = edges[:, wrong[0]].tolist()
        raise InputError(
            f"an edge from vertex {u} (layer {layers[u]}) to {v} (layer {layers[v]}) could close a cycle: edges grow "
            "from lower layers to higher ones"
        )
    return edges
