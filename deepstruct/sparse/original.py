"""State dicts of deepstruct before 1.0: a linear layer for every pair of connected layers, and back."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepstruct.errors import InputError
from deepstruct.graph.structure import Structure
from deepstruct.sparse.dag import lay_out

if TYPE_CHECKING:
    from deepstruct.sparse.dag import DagLinear

_MAIN, _SKIP, _NORM = "layers_main_hidden", "layers_skip_hidden", "layer_normalizations"


class Places(NamedTuple):
    """Where the numbers of a model lie among all dense layers of the original, one after the other, flat.

    Attributes:
        names: prefix of each layer, in the original's order: main ones, then skips by target and source.
        low, high: the two layers that it connects.
        weight_at, bias_at: first place of its weight (out, in) and its bias.
    """

    names: list[str]
    low: np.ndarray
    high: np.ndarray
    sizes: np.ndarray
    weight_at: np.ndarray
    bias_at: np.ndarray

    def of(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Which dense layer connects these layers."""
        base = len(self.sizes) + 1
        keys = self.high * base + self.low
        order = np.argsort(keys)
        return order[np.searchsorted(keys, high * base + low, sorter=order)]


def places(hidden: DagLinear) -> Places:
    """The dense layers that a model has in the original's state dict."""
    sizes = np.diff(hidden.structure.layer_start)
    upper = np.arange(1, len(sizes))
    skips = hidden.pairs.cpu().numpy()
    low, high = np.concatenate([upper - 1, skips[:, 0]]), np.concatenate([upper, skips[:, 1]])
    names = [f"{_MAIN}.{k}." for k in range(len(upper))] + [f"{_SKIP}.{k}." for k in range(len(skips))]
    return Places(
        names, low, high, sizes, np.concatenate([[0], (sizes[low] * sizes[high]).cumsum()]),
        np.concatenate([[0], sizes[high].cumsum()]),
    )  # fmt: skip


def is_original(state_dict: Mapping[str, Any], prefix: str) -> bool:
    """Whether a state dict of a MaskedDeepDAN is in the original's names."""
    kinds = tuple(f"{prefix}{kind}." for kind in (_MAIN, _SKIP, _NORM))
    return f"{prefix}hidden.weight" not in state_dict and (
        any(key.startswith(kinds) for key in state_dict) or f"{prefix}layer_first.weight" in state_dict
    )


def from_original(hidden: DagLinear, state: MutableMapping[str, Any], prefix: str) -> None:
    """Rewrite a state dict from the original's names, in place.

    Masks may name edges that the model's structure lacks: the structure then gets them. What is missing or
    does not fit raises InputError; further keys stay, for strict loading to complain about.
    """
    if not hidden.separate:
        raise InputError('this checkpoint has a layer for every skip connection: build the model with skips="separate"')
    where = places(hidden)
    weight, bias, mask = [], [], []
    for k, name in enumerate(where.names):
        shape = (int(where.sizes[where.high[k]]), int(where.sizes[where.low[k]]))
        weight.append(_take(state, f"{prefix}{name}weight", shape).reshape(-1))
        mask.append(_take(state, f"{prefix}{name}_mask", shape).reshape(-1) != 0)
        bias.append(_take(state, f"{prefix}{name}bias", shape[:1]))
    like = hidden.weight.detach().new_zeros(0).cpu()
    flat_weight, flat_bias = torch.cat([*weight, like]), torch.cat([*bias, like])
    exists = torch.cat([*mask, torch.zeros(0, dtype=torch.bool)]).numpy()
    structure = _with_edges(hidden, where, np.flatnonzero(exists))
    layout = lay_out(structure, True, hidden.pairs.cpu().numpy())
    edge = _edge_places(where, structure, layout.cols, layout.target[layout.row])
    row = _row_places(where, structure, layout)
    state[f"{prefix}hidden.weight"] = flat_weight[edge]
    state[f"{prefix}hidden._mask"] = torch.from_numpy(exists[edge])
    state[f"{prefix}hidden.bias"] = flat_bias[row]
    state[f"{prefix}hidden.edges"] = torch.from_numpy(np.stack([layout.cols, layout.target[layout.row]]).reshape(2, -1))
    state[f"{prefix}hidden.layers"] = torch.from_numpy(structure.layer)
    state[f"{prefix}hidden.pairs"] = hidden.pairs.cpu()
    if hidden.use_layer_norm:
        for part in ("weight", "bias"):
            values = [
                _take(state, f"{prefix}{_NORM}.{k}.{part}", (int(n),)) for k, n in enumerate(where.sizes.tolist())
            ]
            state[f"{prefix}hidden.norm_{part}"] = torch.cat(values)


def to_original(hidden: DagLinear) -> dict[str, Tensor]:
    """The hidden layers in the original's names: dense weights, zero where there is no edge, and float masks."""
    if not hidden.separate:
        raise InputError('only models with skips="separate" have the layers of the original')
    where, structure, layout = places(hidden), hidden.structure, hidden.layout
    edge = torch.from_numpy(_edge_places(where, structure, layout.cols, layout.target[layout.row]))
    row = torch.from_numpy(_row_places(where, structure, layout))
    weight = hidden.weight.detach().new_zeros(int(where.weight_at[-1]), device="cpu")
    mask = weight.new_zeros(len(weight))
    bias = weight.new_zeros(int(where.bias_at[-1]))
    weight[edge], mask[edge], bias[row] = (
        t.detach().cpu().to(weight.dtype) for t in (hidden.weight, hidden.mask, hidden.bias)
    )
    found: dict[str, Tensor] = {}
    for k, name in enumerate(where.names):
        shape = (int(where.sizes[where.high[k]]), int(where.sizes[where.low[k]]))
        part = slice(int(where.weight_at[k]), int(where.weight_at[k + 1]))
        found[f"{name}weight"] = weight[part].view(shape).clone()
        found[f"{name}bias"] = bias[int(where.bias_at[k]) : int(where.bias_at[k + 1])].clone()
        found[f"{name}_mask"] = mask[part].view(shape).clone()
    if hidden.use_layer_norm:
        for part_name in ("weight", "bias"):
            values = getattr(hidden, f"norm_{part_name}").detach().cpu().split(where.sizes.tolist())
            found |= {f"{_NORM}.{k}.{part_name}": value.clone() for k, value in enumerate(values)}
    return found


def _take(state: MutableMapping[str, Any], name: str, shape: tuple[int, ...]) -> Tensor:
    if name not in state:
        raise InputError(f"the checkpoint lacks {name}: it is of a model with another structure or other arguments")
    tensor = state.pop(name)
    if tuple(tensor.shape) != shape:
        raise InputError(f"{name} has shape {tuple(tensor.shape)} in the checkpoint, and {shape} in this model")
    return tensor.detach().cpu()


def _edge_places(where: Places, structure: Structure, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    layer, start = structure.layer, structure.layer_start
    k = where.of(layer[u], layer[v])
    return where.weight_at[k] + (v - start[layer[v]]) * where.sizes[layer[u]] + (u - start[layer[u]])


def _row_places(where: Places, structure: Structure, layout: Any) -> np.ndarray:
    target = np.concatenate([layout.target, layout.empty_target])
    origin = np.concatenate([layout.origin, layout.empty_origin])
    layer = structure.layer[target]
    return where.bias_at[where.of(origin, layer)] + target - structure.layer_start[layer]


def _with_edges(hidden: DagLinear, where: Places, at: np.ndarray) -> Structure:
    """The model's structure, and the edges at these places of the flat weights."""
    structure, start = hidden.structure, hidden.structure.layer_start
    k = np.searchsorted(where.weight_at, at, side="right") - 1
    inside, width = at - where.weight_at[k], where.sizes[where.low[k]]
    n = len(structure.layer)
    key = np.concatenate([
        structure.target * n + structure.source,
        (start[where.high[k]] + inside // width) * n + start[where.low[k]] + inside % width,
    ])  # fmt: skip
    key = np.unique(key)
    return Structure(structure.names, key % n, key // n, structure.layer)
