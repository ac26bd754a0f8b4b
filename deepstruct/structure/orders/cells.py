"""Which cell a layer belongs to: the module call at a depth, or a stretch between two calls."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from deepstruct.errors import StructureError
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.space import Space
from deepstruct.trace.opgraph import Call


def cell_of_spaces(
    graph: StructureGraph, depth: int, partition: Mapping[str, str] | Callable[[Space], str] | None
) -> list[str]:
    """A cell name per space.

    A cell is a *call* at the depth, so a module that is called twice makes two cells; what runs in a
    parent's own forward is cut into stretches by its child calls. Inputs are a cell of their own.

    Args:
        partition: module path (or prefix of one) -> cell name, the longest match wins; or a function of the
            space. Layers that it does not cover stay in the cells that `depth` gives them.
    """
    if not isinstance(depth, int) or isinstance(depth, bool) or depth < 1:
        raise StructureError(f"depth must be an integer of at least 1, got {depth!r}")
    trace = getattr(graph.context, "trace", None)
    calls: list[Call] = [] if trace is None else trace.calls
    _check_partition(graph, calls, partition)
    stops = _child_stops(calls)
    names: dict[tuple[int, int], str] = {}
    used: dict[str, int] = {}
    out = []
    for space in graph.spaces:
        given = _given(space, partition)
        if given is not None:
            out.append(given)
            continue
        if space.kind == "source":
            out.append("input")
            continue
        if not calls:
            out.append(space.path or space.name)
            continue
        key = _cell_key(space, calls, stops, depth)
        if key not in names:
            call = calls[key[0]]
            title = call.path or "model"
            if key[1] >= 0:
                title = f"{title}:{key[1]}"
            used[title] = used.get(title, 0) + 1
            names[key] = title if used[title] == 1 else f"{title}#{used[title] - 1}"
        out.append(names[key])
    return out


def _cell_key(space: Space, calls: list[Call], stops: dict[int, list[int]], depth: int) -> tuple[int, int]:
    """(call, -1) for a cell that is a call; (call, k) for the k-th stretch of functional ops in a call."""
    call = _module_call(calls[space.call], calls)
    while call.depth > depth and call.parent is not None:
        call = _module_call(calls[call.parent], calls)
    if call.depth == depth or call.index not in stops:
        return call.index, -1
    return call.index, bisect_right(stops[call.index], space.position)


def _module_call(call: Call, calls: list[Call]) -> Call:
    """The call itself, or the module call that a composite function was called in."""
    while call.kind != "module" and call.parent is not None:
        call = calls[call.parent]
    return call


def _child_stops(calls: list[Call]) -> dict[int, list[int]]:
    """For every module call where its child module calls ended, in order."""
    stops: dict[int, list[int]] = defaultdict(list)
    for call in calls:
        if call.kind == "module" and call.parent is not None:
            stops[_module_call(calls[call.parent], calls).index].append(call.stop)
    return {index: sorted(ends) for index, ends in stops.items()}


def _check_partition(graph: StructureGraph, calls: list[Call], partition: Any) -> None:
    """StructureError for what is no partition, and for module paths that the model does not have."""
    if partition is None or callable(partition):
        return
    if not isinstance(partition, Mapping):
        raise StructureError(
            f"partition is of type {type(partition).__name__}; it must map module paths to cell names, or be a "
            "function of the space that returns a cell name"
        )
    paths = {call.path for call in calls} | {space.path for space in graph.spaces} | {"input"}
    known = {".".join(parts[:n]) for parts in (path.split(".") for path in paths) for n in range(1, len(parts) + 1)}
    missing = [path for path in partition if path not in known]
    if missing:
        shown = ", ".join(sorted(known - {""})[:12])
        raise StructureError(f"partition names {missing[0]!r}, which is no module that ran (there are {shown}, ...)")


def _given(space: Space, partition: Any) -> str | None:
    if partition is None:
        return None
    if callable(partition):
        try:
            return str(partition(space))
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise StructureError(f"the partition function raised {what}, given the space {space.name!r}") from error
    matches = [
        p for p in partition if space.path == p or space.path.startswith(p + ".") or (p == "input" == space.kind)
    ]
    return partition[max(matches, key=len)] if matches else None
