"""The explicit graph of a net, and what plain numpy, scipy and Python integers say about it."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, shortest_path
from torch import nn

import deepstruct
from deepstruct.analyzers.operator.layers import _space_of
from deepstruct.analyzers.operator.view import OperatorAnalyzer
from deepstruct.metrics.base import AnalysisContext
from tests.random_nets import random_net

SIDES = (4, 4, 5)  # small images, so that dense matrices over all nodes stay small


def small_net(seed: int) -> tuple[nn.Module, torch.Tensor]:
    """A random net whose non-zero weights are all different numbers between 0.1 and 1 in size."""
    net, x = random_net(seed, SIDES)
    weights = [p for p in net.parameters() if p.dim() > 1]
    total = sum(p.numel() for p in weights)
    generator = torch.Generator().manual_seed(seed)
    values = torch.linspace(0.1, 1, total)[torch.randperm(total, generator=generator)]
    values *= torch.randint(0, 2, (total,), generator=generator) * 2 - 1
    with torch.no_grad():
        for p in weights:
            here, values = values[: p.numel()].view(p.shape), values[p.numel() :]
            p.copy_(here * (p != 0))
    return net, x


class Explicit:
    """A zeroth-order graph as arrays over its edges and nodes; everything else is worked out from those."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.net, x = small_net(seed)
        self.graph = deepstruct.extract(self.net, x, attention="units")
        edges = self.graph.edge_list()
        self.n, self.m = edges.num_nodes, edges.num_edges
        self.s, self.t, self.w = edges.source, edges.target, edges.weight
        self.space = edges.space
        self.inputs, self.outputs = set(edges.inputs.tolist()), set(edges.outputs.tolist())
        self.names = [space.name for space in self.graph.spaces]
        self.parameters = [p.detach() for p in self.net.parameters() if p.dim() > 1]

    # -- nodes and edges

    @cached_property
    def value(self) -> dict[str, np.ndarray]:
        """Numbers of the edges: 1, |w|, w squared, w; structural edges 1 (0 when signed)."""
        structural = np.isnan(self.w)
        w = np.nan_to_num(self.w)
        return {
            "pattern": np.ones(self.m), "abs": np.where(structural, 1, abs(w)), "square": np.where(structural, 1, w**2),
            "signed": w, "size": abs(w),
        }  # fmt: skip

    @cached_property
    def weighted(self) -> np.ndarray:
        return ~np.isnan(self.w)

    @cached_property
    def din(self) -> np.ndarray:
        return np.bincount(self.t, minlength=self.n)

    @cached_property
    def dout(self) -> np.ndarray:
        return np.bincount(self.s, minlength=self.n)

    @cached_property
    def hidden(self) -> np.ndarray:
        out = np.ones(self.n, bool)
        out[sorted(self.inputs | self.outputs)] = False
        return out

    @cached_property
    def strength(self) -> np.ndarray:
        size = self.value["size"]
        return np.bincount(self.s, size, self.n) + np.bincount(self.t, size, self.n)

    @cached_property
    def dense(self) -> np.ndarray:
        """A[u, v]: edges u -> v."""
        out = np.zeros((self.n, self.n))
        np.add.at(out, (self.s, self.t), 1)
        return out

    @cached_property
    def both(self) -> np.ndarray:
        """A + A'."""
        return self.dense + self.dense.T

    @cached_property
    def simple(self) -> np.ndarray:
        """0/1 and symmetric, without a diagonal."""
        out = (self.both > 0).astype(float)
        np.fill_diagonal(out, 0)
        return out

    @cached_property
    def after(self) -> list[list[tuple[int, float]]]:
        """(target, weight) of the out-edges of each node."""
        out: list[list[tuple[int, float]]] = [[] for _ in range(self.n)]
        for u, v, w in zip(self.s.tolist(), self.t.tolist(), self.w.tolist(), strict=True):
            out[u].append((v, w))
        return out

    @cached_property
    def order(self) -> list[int]:
        """A topological order, by counting down in-degrees."""
        left = self.din.tolist()
        ready = [v for v in range(self.n) if left[v] == 0]
        for u in ready:
            for v, _ in self.after[u]:
                left[v] -= 1
                if left[v] == 0:
                    ready.append(v)
        assert len(ready) == self.n, "the graph has a cycle"
        return ready

    # -- recursions

    def ahead(self, start: Any, zero: Any, along: Any, join: Any) -> list[Any]:
        """Values of all nodes: `start` at the inputs, joined with what edges make of the values of earlier nodes."""
        values = [start if v in self.inputs else zero for v in range(self.n)]
        for u in self.order:
            for v, w in self.after[u]:
                values[v] = join(values[v], along(values[u], w))
        return values

    def onward(self, mode: str = "pattern") -> list[Any]:
        """Per node the sum over paths to outputs of the product of edge values; Python integers for the pattern."""
        one = 1 if mode == "pattern" else 1.0
        values = [one * (v in self.outputs) for v in range(self.n)]
        for u in reversed(self.order):
            values[u] += sum(number(w, mode) * values[v] for v, w in self.after[u])
        return values

    def from_inputs(self, mode: str = "pattern") -> list[Any]:
        one = 1 if mode == "pattern" else 1.0
        return self.ahead(one, 0 * one, lambda x, w: number(w, mode) * x, lambda a, b: a + b)

    @cached_property
    def lengths(self) -> dict[int, int]:
        """Number of input-output paths by number of edges."""
        found = self.ahead(
            {0: 1}, {}, lambda x, w: {k + 1: c for k, c in x.items()},
            lambda a, b: {k: a.get(k, 0) + b.get(k, 0) for k in a.keys() | b.keys()},
        )  # fmt: skip
        total: dict[int, int] = defaultdict(int)
        for v in self.outputs:
            for k, c in found[v].items():
                total[k] += c
        return dict(sorted(total.items()))

    @cached_property
    def paths(self) -> int:
        return sum(self.lengths.values())

    def shares(self, mode: str = "pattern") -> np.ndarray | None:
        """Share of the paths (weighted by the product of their edge values) through each node; None without any."""
        ahead, back = self.from_inputs(mode), self.onward(mode)
        total = sum(ahead[v] for v in self.outputs)
        return np.array([a * b / total for a, b in zip(ahead, back, strict=True)]) if total else None

    def best(self, start: float, zero: float, along: Any, join: Any) -> float | None:
        values = self.ahead(start, zero, along, join)
        ends = [values[v] for v in self.outputs if values[v] != zero]
        if not ends:
            return None
        result = ends[0]
        for end in ends[1:]:
            result = join(result, end)
        return result

    @cached_property
    def beyond(self) -> list[int]:
        """Per node the bits of the nodes that it leads to, itself among them."""
        found = [1 << v for v in range(self.n)]
        for u in reversed(self.order):
            for v, _ in self.after[u]:
                found[u] |= found[v]
        return found

    @cached_property
    def reached(self) -> np.ndarray:
        bits = 0
        for v in self.inputs:
            bits |= self.beyond[v]
        return np.array([bits >> v & 1 for v in range(self.n)], bool)

    @cached_property
    def reaching(self) -> np.ndarray:
        ends = sum(1 << v for v in self.outputs)
        return np.array([bool(self.beyond[v] & ends) for v in range(self.n)])

    @cached_property
    def effective(self) -> np.ndarray:
        return self.reached & self.reaching

    @cached_property
    def fields(self) -> np.ndarray:
        """Number of inputs that lead to each node."""
        return np.array([sum(self.beyond[u] >> v & 1 for u in self.inputs) for v in range(self.n)])

    # -- distances and components

    @cached_property
    def distance(self) -> np.ndarray:
        """Undirected; inf between components."""
        return shortest_path(csr_array(self.simple), unweighted=True)

    @cached_property
    def directed_distance(self) -> np.ndarray:
        return shortest_path(csr_array((self.dense > 0).astype(float)), unweighted=True)

    @cached_property
    def component(self) -> np.ndarray:
        return connected_components(csr_array(self.simple), directed=False)[1]

    @cached_property
    def sizes(self) -> np.ndarray:
        return np.bincount(self.component)

    @cached_property
    def giant(self) -> np.ndarray:
        """Nodes of the largest component; of several, of the one with the first node."""
        largest = self.sizes[self.component] == self.sizes.max()
        return np.flatnonzero(self.component == self.component[np.flatnonzero(largest)[0]])

    # -- layers: the edges of each operator, between slots

    @cached_property
    def operators(self) -> list[tuple[str, Any, np.ndarray, np.ndarray, np.ndarray]]:
        """(layer, operator, source slots, target slots, weights) of every operator, edges between units only."""
        view = OperatorAnalyzer().prepare(self.graph, AnalysisContext())
        out = []
        for op in self.graph.operators:
            source, target = op.source.index().reshape(-1), op.target.index().reshape(-1)
            pieces = list(op.edges())
            s = source[torch.cat([p.source for p in pieces])] if pieces else torch.empty(0, dtype=torch.int64)
            t = target[torch.cat([p.target for p in pieces])] if pieces else torch.empty(0, dtype=torch.int64)
            w = torch.cat([p.weight for p in pieces]) if pieces else torch.empty(0)
            keep = (s >= 0) & (t >= 0)
            if self.graph.live is not None:
                keep &= self.graph.live[s.clamp(min=0)] & self.graph.live[t.clamp(min=0)]
            out.append((_space_of(view, op).name, op, s[keep].numpy(), t[keep].numpy(), w[keep].numpy()))
        return out

    @cached_property
    def node_of(self) -> np.ndarray:
        """Node per slot; that of the sum where a slot is part of one."""
        ids = self.graph.node_ids()
        return (ids if self.graph.parent is None else ids[self.graph.parent]).numpy()

    @cached_property
    def layers(self) -> dict[str, list[tuple[Any, np.ndarray, np.ndarray, np.ndarray]]]:
        """Per layer with weights the (operator, source slots, target slots, weights) of its weighted operators."""
        out: dict[str, list[Any]] = {}
        for name, op, s, t, w in self.operators:
            if op.weighted:
                out.setdefault(name, []).append((op, s, t, w))
        return out

    def matrices(self, mode: str) -> dict[str, np.ndarray]:
        """Per layer with edges the dense (written, read) matrix between the slots that have edges."""
        out = {}
        for name, parts in self.layers.items():
            s, t, w = (np.concatenate([p[k] for p in parts]) for k in (1, 2, 3))
            if len(s):
                left, right = (np.unique(x, return_inverse=True)[1] for x in (s, t))
                out[name] = np.zeros((right.max() + 1, left.max() + 1))
                np.add.at(out[name], (right, left), 1.0 if mode == "pattern" else abs(w))
        return out

    def stored(self, name: str) -> list[torch.Tensor]:
        """The distinct stored weights of a layer."""
        refs = {}
        for op, *_ in self.layers[name]:
            ref = op.weight
            axes = sorted((k, size) for size, k in zip(ref.tensor.shape, ref.tensor.stride(), strict=True) if size > 1)
            refs[ref.key, ref.tensor.storage_offset(), tuple(axes)] = ref.tensor.detach()
        return list(refs.values())

    def by_space(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Values of the nodes of each space."""
        return {name: values[self.space == k] for k, name in enumerate(self.names)}


def number(w: float, mode: str) -> Any:
    """The number of an edge of weight w, NaN for a structural one."""
    if mode == "pattern":
        return 1
    if math.isnan(w):
        return 1.0
    return abs(w) if mode == "abs" else w * w
