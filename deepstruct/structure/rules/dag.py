"""Networks over directed acyclic graphs: a unit for every row of products, and for every sum of rows."""

from __future__ import annotations

from typing import Any

import torch

from deepstruct.structure.builder import Builder
from deepstruct.structure.node import Arg, Node
from deepstruct.structure.operand import CONST
from deepstruct.structure.operators import WeightRef
from deepstruct.structure.rules.base import RuleSet
from deepstruct.structure.signal import Signal, flag_tensor

rules = RuleSet()


@rules.module("deepstruct.sparse.dag:DagLinear")
def dag_linear(b: Builder, node: Node) -> Any:
    """All hidden layers at once: layer by layer, edges from any lower layer."""
    first, reads = node.args[:2] if len(node.args) > 1 else (node.args[0], node.kwargs.get("reads"))
    if not isinstance(first, Arg) or first.signal is None or not isinstance(reads, Arg):
        return NotImplemented
    read = reads.tensor().to(torch.int64)
    samples = [_sample(b, node.module, first.signal.mapped(lambda t, k=k: t[k]), read) for k in range(first.shape[0])]  # type: ignore[misc]
    if len(samples) == 1:
        return samples[0].mapped(lambda t: t.unsqueeze(0))
    return b.reindex(lambda *t: torch.stack(t), samples)[0]


def _sample(b: Builder, module: Any, first: Signal, read: torch.Tensor) -> Signal:
    """Of one sample: `first` are the vertices of layer 0."""
    layout, bounds = module.layout, module.structure.layer_start.tolist()
    with torch.no_grad():
        weight = (module.weight.detach() * module.mask.to(module.weight.dtype)).cpu()
    key = ("dag", id(module.weight))
    cols, row, target, main = (
        torch.from_numpy(part) for part in (layout.cols, layout.row, layout.target, layout.main)
    )
    index = torch.full((bounds[-1],), CONST, dtype=torch.int64)
    flag = torch.zeros(bounds[-1], dtype=torch.bool)
    index[: bounds[1]], flag[: bounds[1]] = first.index, flag_tensor(first.nonlinear, first.shape)
    row_at = torch.searchsorted(target, torch.tensor(bounds)).tolist()
    edge_at = torch.searchsorted(row, torch.tensor(row_at)).tolist()
    for k in range(1, len(bounds) - 1):
        edges, rows = slice(edge_at[k], edge_at[k + 1]), slice(row_at[k], row_at[k + 1])
        here, of_row, vertex = cols[edges], row[edges] - row_at[k], target[rows] - bounds[k]
        parts: list[tuple[torch.Tensor, Signal]] = []
        for is_main in (True, False):
            chosen = (main[rows] == is_main).nonzero().flatten()
            if not len(chosen):
                continue
            place = torch.full((len(vertex),), -1)
            place[chosen] = torch.arange(len(chosen))
            part = (place[of_row] >= 0).nonzero().flatten()
            needed, source = here[part].unique(return_inverse=True)
            x = Signal(index[needed], flag[needed])
            # The weights of a part are picked from the layer's stretch of the one parameter.
            out = _row_units(b, x, len(chosen), source, place[of_row[part]], key, weight, edge_at[k] + part)
            if is_main and module.use_layer_norm:
                out = b.statistics(out, [0])
            parts.append((vertex[chosen], out.curved()))
        value, curved = _vertices(b, parts, bounds[k + 1] - bounds[k])
        index[bounds[k] : bounds[k + 1]], flag[bounds[k] : bounds[k + 1]] = value, curved
    return Signal(index[read], flag[read])


def _row_units(
    b: Builder, x: Signal, count: int, source: torch.Tensor, target: torch.Tensor, key: tuple[object, ...],
    weight: torch.Tensor, at: torch.Tensor,
) -> Signal:  # fmt: skip
    """One unit per row. The weights are a view of the parameter where they lie together, which counts them once."""
    together = len(at) and int(at[-1] - at[0]) == len(at) - 1
    values = weight[int(at[0]) : int(at[-1]) + 1] if together else weight[at]
    ref = WeightRef(key if together else (*key, int(at[0]) if len(at) else -1, len(at)), values)
    return b.sparse(x, (count,), source, target, ref, additive=True, kind="contraction")


def _vertices(
    b: Builder, parts: list[tuple[torch.Tensor, Signal]], size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Units of the vertices of a layer: a row where there is one only, or else their sum."""
    vertex = torch.cat([v for v, _ in parts])
    rows = torch.cat([s.index for _, s in parts])
    counts = torch.bincount(vertex, minlength=size)
    index, curved = torch.full((size,), CONST, dtype=torch.int64), torch.ones(size, dtype=torch.bool)
    single = counts[vertex] == 1
    index[vertex[single]] = rows[single]
    several = (counts > 1).nonzero().flatten()
    if len(several):
        place = torch.full((size,), -1)
        place[several] = torch.arange(len(several))
        x = Signal(rows[~single], True)
        here = torch.arange(len(rows[~single]))
        out = b.sparse(x, (len(several),), here, place[vertex[~single]], additive=True, kind="sum")
        index[several], curved[several] = out.index, False
    return index, curved
