"""Few weights that wire units together: trees of cheapest paths through the graph of what may be kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepstruct.pruning.protocols import Tensors
from deepstruct.pruning.view import View

_FREE = 1e-6  # the cost of an edge that takes no weight, or one that is needed anyway
_ONE_MORE = 2.0  # a path below this takes at most one further weight: every weight costs from 1 to 1.5


class Wiring:
    """The explicit graph of all weights that may be kept, and a growing set of those that are needed.

    A weight costs between 1 and 1.5, the less the higher its score, so that fewer weights always win; one in `cheap`
    costs next to nothing. A shared weight that is needed for one edge is free for all others.
    """

    def __init__(self, view: View, scores: Tensors, max_memory: int) -> None:
        network = view.network
        graph = network.full
        starts: dict[str, int] = {}
        self.count = 0
        for name in network.names:
            starts[name] = self.count
            self.count += view.masks[name].numel()
        self._names, self._masks = network.names, view.masks
        rows = graph.to_csr(weights="index", max_memory=max_memory)
        assert rows.weights is not None
        source, target = rows.sources(), rows.indices.astype(np.int64)
        places = np.append(network.positions(starts).numpy(), -1)
        weight = places[rows.weights]
        allowed = np.append(self.flat(view.masks).numpy(), True)
        kept = allowed[weight]
        self.nodes = rows.num_nodes
        self.source, self.target, self.weight = source[kept], target[kept], weight[kept]
        self.inputs, self.outputs = graph.input_nodes(), graph.output_nodes()
        self.space = np.empty(self.nodes, np.int64)
        ids = graph.node_ids()
        for space in graph.spaces:
            here = ids[space.slots]
            self.space[here[here >= 0].numpy()] = space.index
        order = np.argsort(self.flat(scores).numpy(), kind="stable")
        rank = np.empty(self.count)
        rank[order] = np.arange(self.count) / max(self.count - 1, 1)
        self._price = 1.5 - 0.5 * rank
        self.core = np.zeros(self.count, bool)

    def flat(self, tensors: Tensors) -> Tensor:
        """The tensors of all targets one after the other, as the weights are numbered."""
        return torch.cat([tensors[name].detach().cpu().reshape(-1) for name in self._names])

    def needed(self) -> Tensors:
        """The needed weights as masks."""
        parts = torch.from_numpy(self.core.copy()).split([self._masks[n].numel() for n in self._names])
        return {
            n: part.reshape(self._masks[n].shape).to(self._masks[n].device)
            for n, part in zip(self._names, parts, strict=True)
        }

    def strength(self) -> np.ndarray:
        """Per node the sum of what its weights are worth, from 0 to 1 each."""
        worth = np.append(3 - 2 * self._price, 0.0)[self.weight]
        return np.bincount(self.source, worth, self.nodes) + np.bincount(self.target, worth, self.nodes)

    def grow(self, starts: Iterable[int], terminals: np.ndarray, cheap: np.ndarray | None, reverse: bool) -> bool:
        """Add weights until a path leads from a start to each terminal (with `reverse`, from it to a start).

        Returns whether all can be reached at all. Terminals one weight away are joined together; of others the
        nearest first, since what joins it may bring the next ones closer.
        """
        from scipy.sparse.csgraph import dijkstra

        starts = np.asarray(list(starts))
        while True:
            matrix, keys, which = self._matrix(cheap, reverse)
            far, before, _ = dijkstra(matrix, indices=starts, min_only=True, return_predecessors=True)
            away = far[terminals]
            if not np.isfinite(away).all():
                return False
            open_ = terminals[away > 0.5]
            if len(open_) == 0:
                self._take(terminals, before, keys, which)
                return True
            near = far[open_] < _ONE_MORE
            self._take(open_[near] if near.any() else open_[[int(far[open_].argmin())]], before, keys, which)

    def thin(self) -> None:
        """Take needed weights back, low scores first, while each unit keeps a needed edge in and one out.

        In an acyclic graph that is enough to stay on a path from an input to an output. Shared weights stay.
        """
        needed = np.append(self.core, True)[self.weight]
        out = np.bincount(self.source[needed], minlength=self.nodes)
        into = np.bincount(self.target[needed], minlength=self.nodes)
        out[self.inputs] = np.iinfo(out.dtype).max // 2  # an input may lose all
        edges = np.bincount(self.weight[self.weight >= 0], minlength=self.count)
        ends = np.flatnonzero(needed & (self.weight >= 0))
        for k in ends[np.argsort(-self._price[self.weight[ends]], kind="stable")].tolist():
            u, v, weight = self.source[k], self.target[k], self.weight[k]
            if edges[weight] == 1 and out[u] > 1 and into[v] > 1:
                self.core[weight] = False
                out[u] -= 1
                into[v] -= 1

    def _matrix(self, cheap: np.ndarray | None, reverse: bool) -> tuple[Any, np.ndarray, np.ndarray]:
        """Costs as a sparse matrix, the cheapest of parallel edges; their keys, ascending, and their weights."""
        from scipy.sparse import csr_array

        price = np.where(self.core, _FREE, self._price)
        if cheap is not None:
            price = np.where(cheap & ~self.core, 1e-4, price)
        cost = np.append(price, _FREE)[self.weight]
        u, v = (self.target, self.source) if reverse else (self.source, self.target)
        key = u * self.nodes + v
        order = np.lexsort((cost, key))
        first = order[np.append(True, key[order][1:] != key[order][:-1])] if len(order) else order
        matrix = csr_array((cost[first], (u[first], v[first])), shape=(self.nodes, self.nodes))
        return matrix, key[first], self.weight[first]

    def _take(self, ends: np.ndarray, before: np.ndarray, keys: np.ndarray, which: np.ndarray) -> None:
        """Walk back from some nodes to where their paths start, and need every weight on the way."""
        here = np.unique(ends)
        while len(here):
            back = before[here]
            here, back = here[back >= 0], back[back >= 0]
            weight = which[np.searchsorted(keys, back.astype(np.int64) * self.nodes + here)]
            self.core[weight[weight >= 0]] = True
            here = np.unique(back)
