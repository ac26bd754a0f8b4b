"""What each metric of layer scope has to be, from the explicit edges of the layer: {layer: value}."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import minimum_spanning_tree

from deepstruct.analyzers.operator.stored import stored_matrix
from deepstruct.structure.operators import Conv
from deepstruct.structure.orders.labels import channel_labels
from tests.brute.explicit import Explicit
from tests.brute.of_graph import _projected

E = Explicit
Found = dict[str, Any]


def _count(e: E, wanted: Callable[[Any, np.ndarray, np.ndarray, np.ndarray], float]) -> Found:
    out = dict.fromkeys(e.names, 0)
    for name, op, s, t, w in e.operators:
        out[name] += wanted(op, s, t, w)
    return out


def _per_space(e: E, values: np.ndarray, read: Callable[[np.ndarray], Any]) -> Found:
    return {name: read(here) for name, here in e.by_space(values).items() if len(here)}


def _sums(e: E, values: np.ndarray) -> Found:
    """Sums over the nodes of each space; 0 where all its units are parts of sums."""
    slots = {space.name: space.numel for space in e.graph.spaces}
    return {name: here.sum() for name, here in e.by_space(values).items() if slots[name]}


def _effective_edges(e: E) -> Found:
    return _count(e, lambda op, s, t, w: int((e.effective[e.node_of[s]] & e.effective[e.node_of[t]]).sum()))


def _stored(e: E, read: Callable[[list[torch.Tensor]], Any]) -> Found:
    found = {name: read(e.stored(name)) for name in e.layers}
    return {name: value for name, value in found.items() if value is not None}


def _values(tensors: list[torch.Tensor]) -> np.ndarray | None:
    kept = torch.cat([t[t != 0].double() for t in tensors]).numpy()
    return kept if len(kept) else None


def _of_values(e: E, read: Callable[[np.ndarray], float]) -> Found:
    return {name: read(kept) for name in e.layers if (kept := _values(e.stored(name))) is not None}


def _synflow(e: E) -> Found:
    ahead, back = (np.array(v, float) for v in (e.from_inputs("abs"), e.onward("abs")))
    out: Found = {}
    for name, parts in e.layers.items():
        out[name] = sum(float((ahead[e.node_of[s]] * abs(w) * back[e.node_of[t]]).sum()) for _, s, t, w in parts)
    return out


def _fluctuation(e: E) -> Found:
    w = e.value["signed"]
    both = np.bincount(e.s, w, e.n) + np.bincount(e.t, w, e.n)
    return _per_space(e, both, lambda v: v.std())


def _compatibility(e: E) -> Found:
    reads = e.hidden & (e.din > 0)
    both = reads & (e.dout > 0)
    return {
        name: float(both[e.space == k].sum() / reads[e.space == k].sum())
        for k, name in enumerate(e.names) if reads[e.space == k].any()
    }  # fmt: skip


def _macs(e: E) -> Found:
    """By what torch's own shapes say: every output position of every weight."""
    out: Found = {}
    for name, parts in e.layers.items():
        total = 0
        for op, *_ in parts:
            if isinstance(op, Conv):
                side = op.source.shape if op.transposed else op.target.shape
                total += side[0] * math.prod(side[2:]) * op.weight.tensor.numel()
            else:
                total += math.prod(op.target.shape) * op.source.shape[-1]
        out[name] = total
    return out


def _collapsed(e: E) -> int:
    alive = {
        name: sum(int((e.effective[e.node_of[s]] & e.effective[e.node_of[t]]).sum()) for _, s, t, _ in parts)
        for name, parts in e.layers.items()
    }
    return sum(count == 0 for count in alive.values())


def _reuse(e: E) -> Found:
    kept = _stored(e, lambda ts: sum(int((t != 0).sum()) for t in ts))
    return {name: sum(len(s) for _, s, _, _ in parts) / kept[name] for name, parts in e.layers.items() if kept[name]}


SIZES: dict[str, Callable[[E], Found | int]] = {
    "layer_nodes": lambda e: {name: len(v) for name, v in e.by_space(np.arange(e.n)).items()},
    "layer_edges": lambda e: _count(e, lambda op, s, t, w: len(s)),
    "layer_weight_edges": lambda e: _count(e, lambda op, s, t, w: len(s) * op.weighted),
    "layer_weights": lambda e: _stored(e, lambda ts: sum(t.numel() for t in ts)),
    "layer_nonzero_weights": lambda e: _stored(e, lambda ts: sum(int((t != 0).sum()) for t in ts)),
    "layer_density": lambda e: _stored(
        e, lambda ts: sum(int((t != 0).sum()) for t in ts) / sum(t.numel() for t in ts)
    ),
    "layer_effective_nodes": lambda e: {name: v.sum() for name, v in e.by_space(e.effective).items()},
    "layer_effective_edges": _effective_edges,
    "layer_dead_in": lambda e: {n: v.sum() for n, v in e.by_space(e.hidden & (e.din == 0)).items()},
    "layer_dead_out": lambda e: {n: v.sum() for n, v in e.by_space(e.hidden & (e.dout == 0)).items()},
    "layer_in_degree_mean": lambda e: _per_space(e, e.din, np.mean),
    "layer_out_degree_mean": lambda e: _per_space(e, e.dout, np.mean),
    "layer_synflow": _synflow,
    "layer_strength_fluctuation": _fluctuation,
    "layer_weight_mean": lambda e: _of_values(e, np.mean),
    "layer_weight_variance": lambda e: _of_values(e, np.var),
    "layer_path_centrality": lambda e: None if e.shares() is None else _sums(e, e.shares()),
    "layer_receptive_field_mean": lambda e: _per_space(e, e.fields, np.mean),
    "layer_receptive_field_max": lambda e: _per_space(e, e.fields, np.max),
    "layer_compatibility": _compatibility,
    "layer_macs": _macs,
    "macs": lambda e: sum(_macs(e).values()),
    "layer_weight_reuse": _reuse,
    "collapsed_layers": _collapsed,
}


# -- channels


def _channels(e: E) -> np.ndarray:
    """A number per node that the nodes of a channel share."""
    return channel_labels(e.graph).tensor().numpy()[e.graph.is_node.numpy()]


def _by_channel(e: E, read: Callable[[np.ndarray], Any]) -> Found | None:
    shares = e.shares()
    if shares is None:
        return None
    label = _channels(e)
    return {
        name: read(np.array([shares[(e.space == k) & (label == c)].sum() for c in np.unique(label[e.space == k])]))
        for k, name in enumerate(e.names) if (e.space == k).any()
    }  # fmt: skip


def _channel_of_node(e: E) -> np.ndarray | None:
    shares, label = e.shares(), _channels(e)
    return None if shares is None else np.array([shares[label == c].sum() for c in label])


def _largest_channel(e: E) -> float | None:
    return _channel_of_node(e)[e.hidden].max() if e.paths and e.hidden.any() else None


def _perplexity(shares: np.ndarray) -> float:
    p = shares[shares > 0] / shares.sum() if shares.sum() else shares[:0]
    return math.exp(-(p * np.log(p)).sum()) if len(p) else 0.0


CHANNELS: dict[str, Callable[[E], Any]] = {
    "channel_path_centrality": _channel_of_node,
    "channel_path_centrality_max": _largest_channel,
    "layer_channel_path_centrality_max": lambda e: _by_channel(e, np.max),
    "layer_channel_path_centrality_min": lambda e: _by_channel(e, np.min),
    "layer_channel_path_centralities": lambda e: _by_channel(e, lambda v: v),
    "layer_effective_channels": lambda e: _by_channel(e, _perplexity),
}


# -- singular values


def _sigma(matrix: np.ndarray) -> tuple[float, float]:
    values = np.append(np.linalg.svd(matrix, compute_uv=False), 0)
    return values[0], values[1]


def _narc(pattern: np.ndarray, all_left: int, all_right: int) -> float:
    left, right = (pattern.sum(0) > 0).sum(), (pattern.sum(1) > 0).sum()
    m = pattern.sum()
    spread = (_sigma(pattern)[1] ** 2 / 4 + 1) * math.sqrt(left * right)
    return (spread - abs(m - m / left / all_right * left * right)) / (all_left * all_right)


def _classes(pattern: np.ndarray, weighted: np.ndarray) -> list[tuple[float, float, float]]:
    """(delta_r, its bound, gap of |w|) of the subgraphs that the nodes read of one degree induce."""
    degree, rows = pattern.sum(0).round(), []
    for d in sorted({x for x in degree if x >= 3}):
        part = pattern[:, degree == d]
        rights = part.sum(1)[part.sum(1) > 0]
        if rights.mean() >= 3:
            bound = math.sqrt(d - 1) + math.sqrt(rights.mean() - 1)
            first, second = _sigma(weighted[:, degree == d])
            rows.append((bound - _sigma(part)[1], bound, first - second))
    return rows


def ramanujan(e: E, prefix: str) -> dict[str, Any]:
    """All metrics of the family, for unrolled layers ("") or stored kernels ("kernel_")."""
    table: dict[str, Found] = {name: {} for name in _RAMANUJAN}
    if prefix:
        pairs = {name: [stored_matrix(name, [p[0] for p in parts], mode).numpy() for mode in ("pattern", "abs")]
                 for name, parts in e.layers.items()}  # fmt: skip
        pairs = {name: pair for name, pair in pairs.items() if pair[0].any()}
    else:
        weighted = e.matrices("abs")
        pairs = {name: [pattern, weighted[name]] for name, pattern in e.matrices("pattern").items()}
    for name, (pattern, sizes) in pairs.items():
        first, second = _sigma(pattern)
        left, right = pattern.sum(0), pattern.sum(1)
        bound = sum(math.sqrt(side[side > 0].mean() - 1) for side in (left, right))
        shape = pattern.shape if prefix else _window(e, name)
        values = {
            "sigma1": first, "sigma2": second, "spectral_gap": first - second, "ramanujan_r": bound - second,
            "ramanujan_s": 2 * math.sqrt(max(first - 1, 0)) - second, "narc": _narc(pattern, shape[1], shape[0]),
            "weighted_gap": np.subtract(*_sigma(sizes)),
        }  # fmt: skip
        if rows := _classes(pattern, sizes):
            rows = np.array(rows)
            values |= {"imdb": rows[:, 0].mean(), "imdb_normalized": (rows[:, 0] / rows[:, 1]).mean(),
                       "imsg": rows[:, 2].mean()}  # fmt: skip
        for key, value in values.items():
            table[key][name] = value
    out = {f"layer_{prefix}{key}": found for key, found in table.items()}
    return out | {f"{prefix}{key}_mean": _mean(found) for key, found in table.items()}


_RAMANUJAN = ("sigma1", "sigma2", "spectral_gap", "ramanujan_r", "ramanujan_s", "narc", "weighted_gap", "imdb",
              "imdb_normalized", "imsg")  # fmt: skip


def _window(e: E, name: str) -> tuple[int, int]:
    """Slots from the first to the last that the layer writes, and reads."""
    out = []
    for k in (1, 0):
        sides = [(op.source, op.target)[k].index().reshape(-1) for op, *_ in e.layers[name]]
        slots = torch.cat(sides)
        slots = slots[slots >= 0]
        out.append(int(slots.max() - slots.min()) + 1)
    return out[0], out[1]


def _mean(found: Found) -> float | None:
    return float(np.mean(list(found.values()))) if found else None


# -- stored weights


def _eigenvalues(e: E) -> dict[str, np.ndarray]:
    out = {}
    for name, parts in e.layers.items():
        values = np.linalg.svd(stored_matrix(name, [p[0] for p in parts], "signed").numpy(), compute_uv=False) ** 2
        if values[0] > 0:
            out[name] = values
    return out


def _circular(e: E) -> dict[str, np.ndarray]:
    """Singular values of the circulant matrix that torch's own circular convolution makes of the unit vectors."""
    out = {}
    for name, parts in e.layers.items():
        op = parts[0][0]
        if len(parts) > 1 or not isinstance(op, Conv) or op.transposed or op.groups != 1 or set(op.stride) != {1}:
            continue
        kernel, size = op.weight.tensor.detach().double(), tuple(op.source.shape[1:])
        units = torch.eye(math.prod(size), dtype=torch.float64).view(-1, *size)
        image = torch.zeros(len(units), kernel.shape[0], *size[1:], dtype=torch.float64)
        for tap in itertools.product(*map(range, kernel.shape[2:])):
            shift = [-k * d for k, d in zip(tap, op.dilation, strict=True)]
            moved = units.roll(shift, list(range(2, units.dim())))
            image += torch.einsum("oc,nc...->no...", kernel[(..., *tap)], moved)
        values = np.linalg.svd(image.flatten(1).numpy(), compute_uv=False)
        if values[0] > 0:
            out[name] = values
    return out


def _kernels(e: E) -> dict[str, np.ndarray]:
    found = {n: stored_matrix(n, [p[0] for p in parts], "pattern").numpy() for n, parts in e.layers.items()}
    return {name: matrix for name, matrix in found.items() if matrix.any()}


def _overlap(e: E) -> Found:
    out = {}
    for name, parts in e.layers.items():
        op = parts[0][0]
        if len(parts) > 1 or not isinstance(op, Conv) or op.transposed or op.groups != 1:
            continue
        shares = []
        for channel in (op.weight.tensor != 0).flatten(2).unbind(1):
            reached = [set(tap.nonzero().reshape(-1).tolist()) for tap in channel.unbind(1)]
            if all(reached):
                shares.append(len(set.intersection(*reached)) / min(map(len, reached)))
        if shares:
            out[name] = float(np.mean(shares))
    return out


STORED: dict[str, Callable[[E], Found]] = {
    "stable_rank": lambda e: {n: v.sum() / v[0] for n, v in _eigenvalues(e).items()},
    "log10_frobenius_norm": lambda e: {n: math.log10(v.sum()) / 2 for n, v in _eigenvalues(e).items()},
    "log10_spectral_norm": lambda e: {n: math.log10(v[0]) / 2 for n, v in _eigenvalues(e).items()},
    "circular_spectral_norm": lambda e: {n: v[0] for n, v in _circular(e).items()},
    "circular_stable_rank": lambda e: {n: (v**2).sum() / v[0] ** 2 for n, v in _circular(e).items()},
    "expansion_ratio": lambda e: {n: m.any(1).sum() / m.any(0).sum() for n, m in _kernels(e).items()},
    "channel_overlap": _overlap,
}


def stored(e: E) -> dict[str, Any]:
    """All metrics of stored weights, of layers and their means."""
    found = {name: compute(e) for name, compute in STORED.items()}
    layers: dict[str, Any] = {f"layer_{name}": values for name, values in found.items()}
    return layers | {f"{name}_mean": _mean(values) for name, values in found.items()}


# -- hubs


def _hubs(e: E, read: Callable[[np.ndarray, np.ndarray], Any]) -> Found | None:
    out = {}
    for name, matrix in e.matrices("pattern").items():
        hub = _projected(matrix.T @ matrix, np.ones(matrix.shape[1]))
        authority = matrix @ hub
        out[name] = read(hub / hub.sum(), authority / authority.sum())
    return out or None


def _on_nodes(e: E, side: int) -> np.ndarray | None:
    total, found = np.zeros(e.n), _hubs(e, lambda hub, authority: (hub, authority)[side])
    if found is None:
        return None
    for name, scores in found.items():
        slots = np.unique(np.concatenate([p[1 + side] for p in e.layers[name]]))
        np.add.at(total, e.node_of[slots], scores)
    return total


HUBS: dict[str, Callable[[E], Any]] = {
    "hub_in_layers": lambda e: _on_nodes(e, 0),
    "authority_in_layer": lambda e: _on_nodes(e, 1),
    "layer_hub_max": lambda e: _hubs(e, lambda hub, authority: hub.max()),
    "layer_authority_max": lambda e: _hubs(e, lambda hub, authority: authority.max()),
    "layer_effective_hubs": lambda e: _hubs(e, lambda hub, authority: 1 / (hub**2).sum()),
    "layer_effective_authorities": lambda e: _hubs(e, lambda hub, authority: 1 / (authority**2).sum()),
}


# -- 4-cycles within layers; only of layers that one operator writes, which the metric names


def _layer_cycles(e: E) -> Found:
    out = {}
    for name, parts in e.layers.items():
        matrix = e.matrices("pattern").get(name)
        if len(parts) == 1:
            if matrix is None:
                out[name] = 0
                continue
            shared = matrix @ matrix.T
            pairs = shared * (shared - 1) / 2
            out[name] = round((pairs.sum() - np.trace(pairs)) / 2)
    return out


def _layer_clustering(e: E) -> Found:
    out = {}
    for name, cycles in _layer_cycles(e).items():
        matrix = e.matrices("pattern").get(name)
        paths = 0 if matrix is None else float((matrix * np.outer(matrix.sum(1) - 1, matrix.sum(0) - 1)).sum())
        out[name] = 4 * cycles / paths if paths else 0.0
    return out


CYCLES: dict[str, Callable[[E], Any]] = {
    "layer_butterflies": _layer_cycles,
    "layer_bipartite_clustering": _layer_clustering,
    "butterflies_within_layers": lambda e: sum(_layer_cycles(e).values()),
}


# -- persistence


def _tree(matrix: np.ndarray) -> np.ndarray:
    """Weights of a maximum spanning tree of the complete bipartite graph, by scipy on 2 - w."""
    rows, columns = matrix.shape
    whole = np.zeros((rows + columns,) * 2)
    whole[:rows, rows:] = 2 - matrix
    return 2 - minimum_spanning_tree(csr_array(whole)).data


def persistence(e: E) -> dict[str, Any]:
    """Of unrolled layers: all metrics, with and without the class that never dies."""
    sizes = {}
    for name, parts in e.layers.items():
        read, written = (np.unique(np.concatenate([_met(e, op)[k] for op, *_ in parts])) for k in (0, 1))
        sizes[name] = np.zeros((len(read), len(written)))
        for _, s, t, w in parts:
            place = np.searchsorted(read, s), np.searchsorted(written, t)
            np.maximum.at(sizes[name], place, abs(w))
    largest = max((m.max() for m in sizes.values() if m.size), default=0) or 1.0
    out: dict[str, Any] = {}
    for suffix, extra in (("", 1), ("_finite", 0)):
        total = {n: math.sqrt(((1 - _tree(m / largest)) ** 2).sum() + extra) for n, m in sizes.items()}
        normal = {n: value / math.sqrt(sum(sizes[n].shape) - 1) for n, value in total.items()}
        out[f"layer_unrolled_total_persistence{suffix}"] = total
        out[f"layer_unrolled_neural_persistence{suffix}"] = normal
        out[f"unrolled_neural_persistence{suffix}"] = _mean(normal)
    return out


def _met(e: E, op: Any) -> tuple[np.ndarray, np.ndarray]:
    """Slots that some tap of an operator reads and writes, whatever its weights: from one with all weights set."""
    source, target = op.source.index().reshape(-1), op.target.index().reshape(-1)
    if isinstance(op, Conv):
        full = Conv(op.source, op.target, op.weight._replace(tensor=torch.ones_like(op.weight.tensor)), op.stride,
                    op.padding, op.dilation, op.transposed, op.output_padding, op.groups)  # fmt: skip
        pieces = list(full.edges())
        source, target = source[torch.cat([p.source for p in pieces])], target[torch.cat([p.target for p in pieces])]
    live = e.graph.live
    keep = [s[(s >= 0) & (live[s.clamp(min=0)] if live is not None else True)].numpy() for s in (source, target)]
    return keep[0], keep[1]


def plain(value: Any) -> Any:
    """A metric's value with arrays where it has JSON arrays."""
    if isinstance(value, dict):
        return {k: np.array(json.loads(v)) if isinstance(v, str) else v for k, v in value.items()}
    return value
