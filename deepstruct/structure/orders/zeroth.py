"""Model to zeroth order: a trace read by rules into spaces of units and edge operators."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from deepstruct.errors import InputError
from deepstruct.structure.fuse import fuse_sums
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.implicit import make_implicit
from deepstruct.structure.node import has_values
from deepstruct.structure.operators import EdgeOperator
from deepstruct.structure.reader import Progress, Reader
from deepstruct.structure.rules.dispatch import Dispatcher
from deepstruct.structure.settings import Settings
from deepstruct.structure.vectors import LARGE, give_back

if TYPE_CHECKING:
    from deepstruct.trace import OpGraph


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a zeroth-order graph was read from, for the orders above it.

    `norms` are the calls that were read as normalizations written by hand.
    """

    trace: OpGraph
    settings: Settings
    norms: tuple[int, ...] = ()


class ZerothOrder:
    """Units and weights. `name` is the order; `build` makes the graph from a trace."""

    name = "zeroth"

    def build(
        self, trace: OpGraph, settings: Settings, registry: Any, progress: Progress | None = None, **options: Any
    ) -> StructureGraph:
        """The structure graph of a trace. Raises UnknownOpError where an op has no rule."""
        if settings.density is not None:
            everything = dataclasses.replace(settings, density=None, threshold=0.0)
            uncut = _read(trace, everything, registry, None)
            settings = _with_threshold(settings, uncut.operators)
        graph = _read(trace, settings, registry, progress)
        if graph.num_slots >= LARGE:
            give_back()
        return graph


def _read(trace: OpGraph, settings: Settings, registry: Any, progress: Progress | None) -> StructureGraph:
    dispatcher = Dispatcher(registry, settings.prefer)
    reader = Reader(trace, settings, dispatcher, progress)
    builder = reader.run()
    is_output = torch.zeros(builder.num_slots, dtype=torch.bool)
    notes = list(builder.notes)
    outputs = []
    for name, id in trace.outputs:
        signal = reader.signals.get(id)
        if signal is not None:
            operand = builder.operand(signal)
            if operand.stride is not None and operand.injective:
                operand.gather(is_output).fill_(True)
            else:
                is_output[signal.index[signal.index >= 0]] = True
            outputs.append((name, operand))
        else:
            notes.append(f"output {name!r} does not depend on activations: it has no units")
    notes += _empty_buffers(trace)
    notes += _valueless(builder.operators, settings) + silent_layers(builder.operators)
    if settings.attention == "implicit":
        is_output = make_implicit(builder.spaces, builder.operators, is_output, outputs)
    parent = fuse_sums(builder.spaces, builder.operators, is_output)
    parameters = sum(_numel(trace, id) for id in set(trace.parameters.values()))
    name = trace.calls[0].name if trace.calls else "model"
    return StructureGraph(
        "zeroth", name, builder.spaces, builder.operators, is_output, parent, parameters,
        conventions=settings.conventions(), notes=[*trace.notes, *notes], unknown=reader.unknown,
        providers=dict(dispatcher.used), context=Origin(trace, settings, tuple(reader.norms)), outputs=outputs,
    )  # fmt: skip


def _empty_buffers(trace: OpGraph) -> list[str]:
    """A note on buffers without values: masks and rotations that are made of them have no known zeros."""
    data = {name: trace.values[id].data for name, id in trace.buffers.items()}
    names = [name for name, tensor in data.items() if tensor is not None and not has_values(tensor)]
    if not names:
        return []
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return [
        f"buffers without values ({shown}): what is computed from them counts as nowhere zero, masks among it; give "
        "them their values to leave those edges out"
    ]


def _valueless(operators: list[EdgeOperator], settings: Settings) -> list[str]:
    """A note on weights without values; InputError where values are needed to cut."""
    names = [op.name for op in operators if op.weighted and op.weight is not None and op.weight.tensor.is_meta]
    if not names:
        return []
    if settings.threshold:
        raise InputError(f"threshold= needs weights with values; those of {names[0]!r} are on the meta device")
    return [
        "weights without values (on the meta device) count as edges, and stand as 1 in edge lists and exports; what "
        "needs their magnitudes is left out"
    ]


def silent_layers(operators: list[EdgeOperator]) -> list[str]:
    """Layers whose weights are all zero: freshly built models often start their last layers so."""
    silent = []
    for op in operators:
        stored = op.weight is not None and not op.weight.tensor.is_meta and op.weight.tensor.numel()
        if op.weighted and stored and not op.count():
            silent.append(op.name)
    names = list(dict.fromkeys(silent))
    if not names:
        return []
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return [f"no weight of {shown} is an edge (all zero, or cut): nothing passes through"]


def _numel(trace: OpGraph, id: int) -> int:
    total = 1
    for n in trace.values[id].shape:
        total *= n
    return total


def _with_threshold(settings: Settings, operators: list[EdgeOperator]) -> Settings:
    """The threshold that keeps the wanted fraction of all stored weights."""
    assert settings.density is not None
    seen: dict[Any, torch.Tensor] = {}
    for op in operators:
        if op.weighted and op.weight is not None:
            tensor = op.weight.tensor
            if tensor.is_meta:
                raise InputError(f"density= needs weights with values; those of {op.name!r} are on the meta device")
            if bool(tensor.isnan().any()):
                raise InputError(f"density= ranks weights by magnitude, and some of {op.name!r} are not a number (NaN)")
            axes = tuple(sorted(zip(tensor.stride(), tensor.shape, strict=True)))
            seen[op.weight.key, tensor.storage_offset(), axes] = tensor
    if not seen:
        return settings
    magnitudes = torch.cat([t.detach().abs().reshape(-1).to(torch.float32) for t in seen.values()])
    keep = round(settings.density * magnitudes.numel())
    if keep >= magnitudes.numel():
        return settings
    cut = torch.topk(magnitudes, max(keep, 1) + 1).values[-1] if keep else magnitudes.max()
    return dataclasses.replace(settings, density=None, threshold=float(cut), cut_density=settings.density)
