"""The hidden part of a network over a graph: a layer with one weight per edge, whatever its layers are."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from deepstruct.errors import InputError
from deepstruct.graph.structure import Structure
from deepstruct.sparse.dag_ops import DagTensors, dag
from deepstruct.sparse.dag_places import Watch, carried, checked_edges, row_keys
from deepstruct.sparse.masked import MaskedLayer
from deepstruct.sparse.rewire import carry_over, follow_optimizers, positions


class DagLayout(NamedTuple):
    """How a structure becomes rows of products, all as NumPy arrays.

    Attributes:
        cols, row: source vertex and row of each edge, in the order of the weights.
        target: vertex of each row; `origin` is the layer that it reads (-1: all lower ones).
        main: whether it is the main row of its vertex.
        empty_target, empty_origin: rows without edges, which only add relu(bias); their biases come after
            those of the rows.
    """

    cols: np.ndarray
    row: np.ndarray
    target: np.ndarray
    origin: np.ndarray
    main: np.ndarray
    empty_target: np.ndarray
    empty_origin: np.ndarray

    def tensors(self, structure: Structure) -> DagTensors:
        vertices = len(structure.layer)
        parts = (
            structure.layer_start, np.searchsorted(self.target, np.arange(vertices + 1)),
            np.searchsorted(self.row, np.arange(len(self.target) + 1)), self.cols,
        )  # fmt: skip
        return DagTensors(*(torch.from_numpy(part.astype(np.int32)) for part in parts))


def lay_out(structure: Structure, separate: bool, pairs: np.ndarray | None = None) -> DagLayout:
    """Rows of a structure: one per vertex, or, if `separate`, one per vertex and layer that it reads.

    With `separate`, two layers that share an edge have a row for every vertex of the upper one: that is what
    a linear layer between them is. Its rows without an edge are the empty ones. `pairs` (n, 2) names more
    (lower, upper) layers that have such rows, without an edge between them.
    """
    layer, start = structure.layer, structure.layer_start
    upper = np.arange(int(start[1]), len(layer))  # vertices above layer 0
    if not separate:
        none = np.zeros(0, dtype=np.int64)
        return DagLayout(
            structure.source, structure.target - int(start[1]), upper, np.full(len(upper), -1),
            np.ones(len(upper), dtype=bool), none, none,
        )  # fmt: skip
    base = int(layer[-1]) + 2
    low, high = layer[structure.source], layer[structure.target]
    rank = np.where(low == high - 1, 0, low + 1)  # the main row comes first
    keys, row = np.unique(
        np.concatenate([structure.target * base + rank, upper * base]), return_inverse=True
    )
    row = row.reshape(-1)[: len(structure.source)]
    order = np.lexsort((structure.source, row))
    target, rank = keys // base, keys % base
    origin = np.where(rank == 0, layer[target] - 1, rank - 1)
    every = skip_pairs(structure, pairs)
    sizes = np.diff(start)[every[:, 1]]
    within = np.arange(int(sizes.sum())) - np.repeat(sizes.cumsum() - sizes, sizes)
    every_target = start[np.repeat(every[:, 1], sizes)] + within
    every_key = every_target * base + np.repeat(every[:, 0], sizes) + 1
    empty = ~np.isin(every_key, keys)
    return DagLayout(
        structure.source[order], row[order], target, origin, rank == 0,
        every_target[empty], every_key[empty] % base - 1,
    )  # fmt: skip


def skip_pairs(structure: Structure, more: np.ndarray | None = None) -> np.ndarray:
    """Pairs (lower, upper) of layers, more than one apart, that share an edge or are named; (n, 2), by upper, lower."""
    low, high = structure.layer[structure.source], structure.layer[structure.target]
    far, base = low < high - 1, int(structure.layer[-1]) + 1
    keys = high[far] * base + low[far]
    if more is not None:
        keys = np.concatenate([keys, more.reshape(-1, 2) @ np.array([1, base])])
    keys = np.unique(keys)
    return np.stack([keys % base, keys // base], axis=1)


class DagLinear(MaskedLayer):
    """All hidden layers of a network over a directed acyclic graph.

    Parameters are `weight`, one number per edge, masked by `mask`, and `bias`, one per row (see `DagLayout`);
    with layer norm also `norm_weight` and `norm_bias`, one per vertex. The graph is part of the state dict:
    `edges` (2, n) has source and target of every weight, `layers` the layer of every vertex, and `pairs`
    (n, 2), if separate, the lower and the upper layer of every skip connection.

    Set `grows`, and pruning and rewiring see a place for a weight at every pair of vertices from a lower layer to a
    higher one, so that edges can move over the whole graph, which stays acyclic. Without it they see the weights
    that there are.
    """

    grows = False
    _watch: Watch | None = None  # while gradients of absent edges are wanted

    edges: Tensor
    layers: Tensor
    pairs: Tensor
    _empty_target: Tensor

    def __init__(
        self, structure: Structure, *, separate: bool, use_layer_norm: bool = False, init: str = "sparse",
        pairs: np.ndarray | None = None, device: torch.device | str | None = None, dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if init not in ("sparse", "original"):
            raise InputError(f'init={init!r}: write "sparse" or "original"')
        self.separate, self.use_layer_norm, self.init, self.eps = separate, use_layer_norm, init, 1e-5
        self._set_structure(structure, pairs, device)
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        layout, vertices = self.layout, len(structure.layer)
        self.weight = nn.Parameter(torch.empty(len(layout.cols), **options))
        self.bias = nn.Parameter(torch.empty(len(layout.target) + len(layout.empty_target), **options))
        if use_layer_norm:
            self.norm_weight = nn.Parameter(torch.empty(vertices, **options))
            self.norm_bias = nn.Parameter(torch.empty(vertices, **options))
        self._init_mask(False, False, "auto")
        self.reset_parameters()

    def _set_structure(
        self, structure: Structure, pairs: np.ndarray | None, device: torch.device | str | None
    ) -> None:
        self.structure = structure
        self.layout = layout = lay_out(structure, self.separate, pairs)
        self.num_vertices, self.num_rows = len(structure.layer), len(layout.target)
        tensors = layout.tensors(structure)
        for name, tensor in zip(DagTensors._fields, tensors, strict=True):
            self.register_buffer(f"_{name}", tensor.to(device), persistent=False)
        edges = np.stack([layout.cols, layout.target[layout.row]]) if len(layout.cols) else np.zeros((2, 0), np.int64)
        self.register_buffer("edges", torch.from_numpy(edges).to(device))
        self.register_buffer("layers", torch.from_numpy(structure.layer).to(device))
        every = skip_pairs(structure, pairs) if self.separate else np.zeros((0, 2), np.int64)
        self.register_buffer("pairs", torch.from_numpy(every.copy()).to(device))
        self.register_buffer("_empty_target", torch.from_numpy(layout.empty_target).to(device), persistent=False)

    @property
    def in_features(self) -> int:
        """Vertices of layer 0."""
        return int(self.structure.layer_start[1])

    def reset_parameters(self, keep_mask: bool = False) -> None:
        """Draw weights and biases uniformly from +-1 / sqrt(fan-in); unless `keep_mask`, unmask every edge.

        The fan-in of a row is its number of edges with init="sparse" (rows without edges start at zero), and
        with "original" the size of the layer that it reads, as of a dense layer.
        """
        layout, start = self.layout, self.structure.layer_start
        if self.init == "sparse":
            fan = np.bincount(layout.row, minlength=len(layout.target))
            empty = np.zeros(len(layout.empty_target))
        else:
            sizes = np.diff(start)
            fan = sizes[layout.origin] if self.separate else start[self.structure.layer[layout.target]]
            empty = sizes[layout.empty_origin]
        fans = np.concatenate([fan, empty]).astype(np.float64)
        bound = torch.from_numpy(np.divide(1.0, np.sqrt(fans), out=np.zeros_like(fans), where=fans > 0))
        bound = bound.to(self.bias.device, self.bias.dtype)
        row = torch.from_numpy(layout.row).to(self.bias.device)
        with torch.no_grad():
            self.weight.uniform_(-1, 1).mul_(bound[row])
            self.bias.uniform_(-1, 1).mul_(bound)
            if self.use_layer_norm:
                self.norm_weight.fill_(1)
                self.norm_bias.zero_()
            if not keep_mask:
                self._mask.fill_(True)

    def tensors(self) -> DagTensors:
        return DagTensors(*(getattr(self, f"_{name}") for name in DagTensors._fields))

    def forward(self, first: Tensor, reads: Tensor) -> Tensor:
        """Activations (batch, len(reads)) of vertices, given those of layer 0, (batch, in_features)."""
        self._note_input(first)
        rows = self.num_rows
        dtype = self.weight.dtype if self.weight.dtype == torch.float64 else torch.float32
        weight, bias = (self.weight * self._mask).to(dtype), self.bias.to(dtype)
        extra, tensors = weight.new_zeros(self.num_vertices), self.tensors()
        if self._watch is not None:
            (weight, bias), tensors = self._watch.spread(weight, bias), self._watch.tensors
            rows = len(bias)
        elif self._empty_target.shape[0]:
            extra = extra.index_add(0, self._empty_target, bias[rows:].relu())
        norm = (self.norm_weight.to(dtype), self.norm_bias.to(dtype)) if self.use_layer_norm else None
        out = dag(first.to(dtype), weight, bias[:rows], extra, norm, tensors, reads, self.eps)
        return out.to(first.dtype)

    # -- moving edges

    def update_structure(
        self,
        drop: Tensor | None = None,
        grow: Tensor | None = None,
        optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer] = (),
    ) -> None:
        """Move edges: remove those at `drop`, add some of weight zero at `grow`. Layers stay as they are.

        `drop` is a boolean (edges,) tensor or positions among the weights; `grow` (2, n) has source and target
        vertices, and goes from lower layers to higher ones, so that the graph stays acyclic. What was just dropped
        may grow again, from zero. Rows that appear (where a vertex reads another layer for the first time, with
        separate sums) have bias zero; none disappears. The parameters stay the same objects, so optimizers keep
        knowing them; pass them, and state per edge and row (momentum, second moments) moves along and starts at
        zero for what is new. So do gradients. Masks move, too: what has grown is not masked.

        Raises InputError, and changes nothing, for positions out of range, edges that exist already or do not go up,
        and optimizers that do not hold the weights, or hold what there is no rule for.
        """
        if self._masks_as_params:
            raise InputError("the mask is being learned (mask_as_params): its edges cannot move")
        layers, n = self.structure.layer, self.num_vertices
        stays = torch.ones(len(self.weight), dtype=torch.bool)
        if drop is not None:
            stays[positions(drop, len(stays)).cpu()] = False
        edges = np.concatenate([self.edges.cpu()[:, stays].numpy(), checked_edges(grow, layers)], axis=1)
        keys = np.sort(edges[1] * n + edges[0])
        if (np.diff(keys) == 0).any():
            raise InputError("grow names edges that exist already, or one of them twice")
        optimizers = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)
        with_bias = [o for o in optimizers if any(p is self.bias for g in o.param_groups for p in g["params"])]
        states = [(self.weight, follow_optimizers(optimizers, self.weight)),
                  (self.bias, follow_optimizers(with_bias, self.bias))]  # fmt: skip
        before = self._edge_keys(), self._row_keys()
        before[0][~stays.numpy()] = -1  # what grows again starts anew
        device, mask = self.weight.device, self._mask
        structure = Structure(self.structure.names, keys % n, keys // n, layers)
        self._set_structure(structure, self.pairs.cpu().numpy() if self.separate else None, device)
        after = self._edge_keys(), self._row_keys()
        for (parameter, found), old, new in zip(states, before, after, strict=True):
            kept, source = carried(old, new, device)
            with torch.no_grad():
                for state, name in found:
                    state[name] = carry_over(state[name], kept, source)
                grad, parameter.grad = parameter.grad, None
                parameter.data = carry_over(parameter.detach(), kept, source)
                if grad is not None:
                    parameter.grad = carry_over(grad, kept, source)
            if parameter is self.weight:
                self._mask = carry_over(mask, kept, source) | ~kept
        self._watch = None

    def _edge_keys(self) -> np.ndarray:
        source, target = self.edges.cpu().numpy()
        keys: np.ndarray = target * self.num_vertices + source
        return keys

    def _row_keys(self) -> np.ndarray:
        """One number for each bias."""
        layout = self.layout
        target = np.concatenate([layout.target, layout.empty_target])
        return row_keys(target, np.concatenate([layout.origin, layout.empty_origin]), self.num_vertices)

    # -- saving and loading

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """A checkpoint may hold other edges between the same vertices: they are checked and taken over."""
        names, own = ("edges", "layers", "pairs"), (self.edges, self.layers, self.pairs)
        stored: list[Tensor] = [state_dict[prefix + name] for name in names if prefix + name in state_dict]
        if len(stored) == len(own) and not all(map(_same, stored, own)):
            self.take_over(*stored)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def take_over(self, edges: Tensor, layers: Tensor, pairs: Tensor) -> None:
        """Other edges between the same vertices; parameters get new shapes, and values that mean nothing.

        Raises InputError, and changes nothing, for edges that do not go up the layers.
        """
        u, v = edges.cpu().numpy().astype(np.int64).reshape(2, -1)
        level, more = layers.cpu().numpy().astype(np.int64), pairs.cpu().numpy().astype(np.int64).reshape(-1, 2)
        n = len(level)
        steps = np.diff(level)
        fits = n == self.num_vertices and level[0] == 0 and bool(((steps == 0) | (steps == 1)).all())
        fits = fits and int(np.searchsorted(level, 1)) == self.in_features
        fits = fits and (not len(u) or (min(u.min(), v.min()) >= 0 and max(u.max(), v.max()) < n))
        fits = fits and not bool((level[u] >= level[v]).any()) and len(np.unique(v * n + u)) == len(u)
        fits = fits and (not len(more) or (more.min() >= 0 and more.max() <= level[-1]))
        fits = fits and bool((more[:, 0] < more[:, 1] - 1).all())
        if not fits:
            raise InputError(
                f"the edges in the checkpoint are none of this model's {self.num_vertices} vertices, "
                f"{self.in_features} of them in layer 0: build the model from the same graph"
            )
        order = np.lexsort((u, v))
        self._set_structure(Structure(self.structure.names, u[order], v[order], level), more, self.weight.device)
        if not torch.equal(self.edges.cpu(), edges.cpu()):
            raise InputError("the edges in the checkpoint are out of order: was the file damaged?")
        layout = self.layout
        sizes = {"weight": len(u), "bias": len(layout.target) + len(layout.empty_target)}
        for name, size in sizes.items():
            parameter = getattr(self, name)
            parameter.data = parameter.new_zeros(size)
            parameter.grad = None
        self._mask = torch.ones(len(u), dtype=torch.bool, device=self.weight.device)

    def extra_repr(self) -> str:
        n = self.num_vertices
        return (
            f"vertices={n}, edges={len(self.weight)}, layers={len(self.structure.layer_start) - 1}, "
            f"rows={len(self.layout.target)}, separate={self.separate}, use_layer_norm={self.use_layer_norm}"
        )

    def fan_in(self) -> float:
        """Mean number of edges into a vertex above layer 0."""
        upper = self.num_vertices - self.in_features
        return len(self.weight) / upper if upper else math.nan


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.to(b.device), b)
