"""How far from the inputs each node is, how many nodes are at each depth, and how many are two steps away."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from deepstruct.analyzers.operator.iteration import once
from deepstruct.analyzers.operator.memo import steps
from deepstruct.analyzers.operator.reach import _slots_of
from deepstruct.analyzers.operator.sampling import sample
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine import bfs, passes
from deepstruct.errors import MetricError
from deepstruct.metrics import distance, paths
from deepstruct.metrics.base import Measured, Metric
from deepstruct.metrics.distance import TWO_STEP

_SHARED = {m.name: m for family in (paths, distance) for m in family.METRICS}


def _depths(view: OperatorView) -> np.ndarray:
    """Edges on the longest path from an input to each node, -1 where none leads."""
    view.need_dag()
    view.need_explicit_units("depth")
    return once(view, "depths", lambda: view.nodes(passes.path_lengths(view.graph, longest=True)))


def _depth(view: OperatorView) -> np.ndarray:
    depths = _depths(view)
    return np.where(depths >= 0, depths.astype(np.float64), np.nan)


def _widths(view: OperatorView) -> np.ndarray:
    """Number of nodes at each depth."""
    depths = _depths(view)
    widths = np.bincount(depths[depths >= 0])
    if len(widths) == 0:
        raise MetricError("the graph has no inputs: its nodes have no depth")
    return widths


def _profile(view: OperatorView) -> str:
    return json.dumps({str(depth): int(width) for depth, width in enumerate(_widths(view)) if width})


def _distance(view: OperatorView) -> np.ndarray:
    walk = steps(view, "distances from a set of nodes")
    graph, given = view.graph, view.context.settings.get("nodes")
    slots = graph.is_source.nonzero().reshape(-1) if given is None else _slots_of(view, [int(n) for n in given])
    start = torch.zeros(graph.num_slots, dtype=torch.int64)
    start[slots] = 1
    out = torch.full((graph.num_slots,), torch.nan, dtype=torch.float64)
    for wave in bfs.spread(walk, start, "out"):
        for k in wave.spaces:
            here = graph.spaces[k].slots
            out[here].masked_fill_(wave.fresh[here] != 0, float(wave.distance))
    return view.nodes(out)


def _two_steps(view: OperatorView) -> Measured:
    walk, chosen = steps(view, "a search of two steps"), sample(view)
    sizes: list[np.ndarray] = []
    for part in chosen.slots.split(bfs.WIDTH):
        count = np.zeros(part.numel())
        for wave in bfs.waves(walk, part, "out"):
            if wave.distance > 2:
                break
            count += bfs.per_bit(walk, wave, part.numel())
        sizes.append(count)
    each = np.concatenate(sizes)
    if chosen.complete:
        return Measured(float(each.mean()), note="all nodes")
    note = f"{chosen.note}; standard error {chosen.error_of_mean(each):.3g}"
    return Measured(float(each.mean()), exact=False, note=note)


def _shared(name: str, compute: Callable[[OperatorView], Any]) -> Metric:
    """A metric that the explicit analyzers offer as well: the same definition, computed by passes."""
    other = _SHARED[name]
    return Metric(
        name, "operator", compute, scope=other.scope, definition=other.definition, source=other.source,
        requires=other.requires, default=False,
    )  # fmt: skip


def _own(name: str, compute: Callable[[OperatorView], Any], definition: str, **options: Any) -> Metric:
    return Metric(name, "operator", compute, definition=definition, default=False, **options)


METRICS: list[Metric] = [
    _shared("depth", _depth),
    _shared("distance_from_nodes", _distance),
    _own("depth_profile", _profile, source="Stier 2019", requires=("dag",),
         definition="Number of nodes at each depth (edges on the longest path from an input), as a JSON object "
                    "{depth: nodes}; nodes that no input leads to are left out."),
    _own("width_max", lambda view: int(_widths(view).max()), source="Stier 2019", requires=("dag",),
         definition="Largest number of nodes at one depth (edges on the longest path from an input)."),
    _own("two_step_neighborhood_mean_sampled", _two_steps, source="Cunegatti et al., multipartite graph encoding",
         requires=("nonempty",),
         definition=f"{TWO_STEP} From sampled nodes (setting 'samples', 64), with standard error in the note."),
]  # fmt: skip
