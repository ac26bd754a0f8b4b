"""First, second and third order: channels, layers and cells as partitions of what is below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from deepstruct.errors import StructureError
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.orders.cells import cell_of_spaces
from deepstruct.structure.orders.labelling import Labelling, distinct, slot_shape
from deepstruct.structure.orders.labels import channel_labels
from deepstruct.structure.orders.quotient import Group, quotient
from deepstruct.structure.settings import Settings

if TYPE_CHECKING:
    from deepstruct.structure.reader import Progress
    from deepstruct.trace import OpGraph

Partition = tuple[Labelling, list[Group], dict[str, str]]


def by_channel(graph: StructureGraph, unit: str = "channel") -> Partition:
    """Units of one channel, feature or head."""
    if unit not in ("channel", "head"):
        raise StructureError(f'unit must be "channel" or "head", got {unit!r}')
    labels = channel_labels(graph, unit)
    groups = []
    for space in graph.spaces:
        here = labels.on_nodes(space)
        used = distinct(here[here >= 0])
        if used.numel():
            kind = space.kind if space.is_source else "channels"
            groups.append(Group(space.name, space.path, kind, used, space.call, space.position))
    return labels, groups, {"first order": f"a node is a {unit} of one layer"}


def by_layer(graph: StructureGraph) -> Partition:
    """Units of one space."""
    labels = _by_space(graph, [space.index for space in graph.spaces])
    groups = []
    for space in graph.spaces:
        if graph.nodes_in(space):
            kind = space.kind if space.is_source else "layer"
            groups.append(Group(space.name, space.path, kind, torch.tensor([space.index]), space.call,
                                space.position, [space.name], (space.name,)))  # fmt: skip
    return labels, groups, {"second order": "a node is a layer: the units that one operation created"}


def by_cell(
    graph: StructureGraph, depth: int = 2, partition: Mapping[str, str] | Callable[[Any], str] | None = None
) -> Partition:
    """Layers of one cell: a module call at the given depth, or what the caller's partition says."""
    names = cell_of_spaces(graph, depth, partition)
    order: dict[str, int] = {}
    labels = _by_space(graph, [order.setdefault(names[space.index], len(order)) for space in graph.spaces])
    groups = []
    for name, label in order.items():
        members = [s for s in graph.spaces if names[s.index] == name and graph.nodes_in(s)]
        if members:
            first = members[0]
            kind = "source" if all(s.is_source for s in members) else "cell"
            groups.append(Group(name, first.path, kind, torch.tensor([label]), first.call, first.position, [name],
                                tuple(s.name for s in members)))  # fmt: skip
    text = "a node is a module call" if partition is None else "a node is a cell of the partition that was given"
    if partition is None:
        text += f" at depth {depth}, or the stretch of functional ops between two such calls"
    return labels, groups, {"third order": text}


def _by_space(graph: StructureGraph, numbers: Sequence[int]) -> Labelling:
    """One label for all units of a space."""
    parts = [torch.tensor(n).expand(slot_shape(s)) for n, s in zip(numbers, graph.spaces, strict=True)]
    return Labelling(graph, parts).without_dead()


PARTITIONS: dict[str, tuple[Callable[..., Partition], tuple[str, ...]]] = {
    "first": (by_channel, ("unit",)),
    "second": (by_layer, ()),
    "third": (by_cell, ("depth", "partition")),
}


class _Higher:
    """An order that is a quotient of the one below; the zeroth order is read from the trace when needed."""

    name = ""

    def build(
        self, trace: OpGraph, settings: Settings, registry: Any, progress: Progress | None = None, **options: Any
    ) -> StructureGraph:
        """The structure graph of this order. `options` as in `StructureGraph.quotient`."""
        from deepstruct.structure.orders.zeroth import ZerothOrder

        below = options.pop("below", None) or ZerothOrder().build(trace, settings, registry, progress)
        return quotient(below, self.name, **options)


class FirstOrder(_Higher):
    """Channels, features or heads (`unit=`)."""

    name = "first"


class SecondOrder(_Higher):
    """Layers."""

    name = "second"


class ThirdOrder(_Higher):
    """Cells: module calls at a depth, or a partition."""

    name = "third"
