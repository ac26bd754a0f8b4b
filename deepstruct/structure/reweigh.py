"""The same structure under other weights, without tracing the model again."""

from __future__ import annotations

import dataclasses
import difflib
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from deepstruct.errors import InputError, StructureError
from deepstruct.structure.fuse import fuse_sums
from deepstruct.structure.operators import Conv, EdgeOperator, Identity, Matmul, Sparse, alive
from deepstruct.structure.weights import WeightUnion

if TYPE_CHECKING:
    from deepstruct.structure.graph import StructureGraph
    from deepstruct.trace import OpGraph


@dataclass(frozen=True)
class StoredWeight:
    """The stored weights that operators share, as one flat tensor.

    Attributes:
        values: of shape (elements of the storage,), laid out as the model stores it.
        possible: boolean of the same shape: elements that can be an edge, by position alone. A tap of a kernel
            that only ever meets padding can not, nor can what lies between the views of a storage.
        names: of the operators that read it.
    """

    values: torch.Tensor
    possible: torch.Tensor
    names: tuple[str, ...]


def reweighted(
    graph: StructureGraph,
    weights: Mapping[str, torch.Tensor],
    *,
    threshold: float | None = None,
    density: float | None = None,
) -> StructureGraph:
    """The graph that `extract` would give for the same model and input with other parameters and buffers.

    The recorded pass is read again with the new tensors in place; nothing is traced, and the model is left as
    it was. What hangs on the weights (edges, zero gates, experts, fused sums, cuts) is found anew; the control flow
    is that of the recorded pass.

    Args:
        graph: of zeroth order, read from a model.
        weights: qualified name of a parameter or buffer -> tensor of its shape; others keep their values. Of
            tied names one is enough.
        threshold, density: another cut (see `deepstruct.extract`); that of the graph without it.

    Raises:
        InputError: for unknown names and other shapes, named.
        StructureError: when the graph was not read from a model.
    """
    from deepstruct.plugin.current import get_host
    from deepstruct.structure.orders.zeroth import Origin

    if graph.order != "zeroth" or not isinstance(graph.context, Origin):
        raise StructureError(
            f"only a zeroth-order graph that was read from a model can be given other weights, not this one "
            f"({graph.order} order); reweigh the zeroth order and take its quotient"
        )
    trace, settings = graph.context.trace, graph.context.settings
    if threshold is not None or density is not None:
        settings = dataclasses.replace(settings, threshold=threshold or 0.0, density=density, cut_density=None)
    elif settings.cut_density is not None:  # the same share of the new weights
        settings = dataclasses.replace(settings, threshold=0.0, density=settings.cut_density, cut_density=None)
    registry = get_host().registry()
    builder = registry.resolve(
        [order for order in registry.orders if order.name == "zeroth"], "order zeroth", settings.prefer
    )
    changed = _by_value(trace, weights)
    values = list(trace.values)
    for id, tensor in changed.items():
        values[id] = dataclasses.replace(values[id], data=tensor)
    with _in_modules(trace, changed):
        made: StructureGraph = builder.build(dataclasses.replace(trace, values=values), settings, registry)
    return made


def _by_value(trace: OpGraph, weights: Mapping[str, torch.Tensor]) -> dict[int, torch.Tensor]:
    """Value of the trace -> new tensor, laid out in memory like the old one."""
    known = {**trace.parameters, **trace.buffers}
    problems, found = [], {}
    for name, tensor in weights.items():
        if name not in known:
            close = difflib.get_close_matches(str(name), list(known), n=3)
            hint = f" (did you mean {', '.join(close)}?)" if close else ""
            problems.append(f"no parameter or buffer {name!r}{hint}")
            continue
        old = trace.values[known[name]].data
        assert old is not None
        if tuple(tensor.shape) != tuple(old.shape):
            problems.append(f"{name!r} is of shape {tuple(tensor.shape)}, the model's is {tuple(old.shape)}")
            continue
        with torch.no_grad():
            found[known[name]] = torch.empty_strided(old.shape, old.stride(), dtype=old.dtype).copy_(tensor.detach())
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        model = trace.calls[0].name if trace.calls else "the model"
        raise InputError(f"the weights do not fit the graph of {model}: {shown}")
    return found


@contextmanager
def _in_modules(trace: OpGraph, changed: Mapping[int, torch.Tensor]) -> Iterator[None]:
    """The new tensors as attributes of the modules, for rules that look there; put back afterwards."""
    new = {id(trace.values[v].data): tensor for v, tensor in changed.items()}
    names = {**trace.parameters, **trace.buffers}
    by_name = {name: changed[v] for name, v in names.items() if v in changed}
    root = trace.calls[0].module if trace.calls else None
    saved: list[tuple[dict[str, Any], str, Any]] = []
    wrapped: dict[int, torch.Tensor] = {}
    try:
        for path, module in root.named_modules(remove_duplicate=True) if root is not None else ():
            for table in (module._parameters, module._buffers):
                for name, old in table.items():
                    tensor = by_name.get(f"{path}.{name}" if path else name, new.get(id(old)))
                    if old is None or tensor is None:
                        continue
                    saved.append((table, name, old))
                    # tied attributes stay one object: rules tell tied weights by that
                    table[name] = wrapped.setdefault(id(old), _like(old, tensor))
        yield
    finally:
        for table, name, old in saved:
            table[name] = old


def _like(old: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    return nn.Parameter(tensor, requires_grad=False) if isinstance(old, nn.Parameter) else tensor


def stored_weights(graph: StructureGraph) -> dict[Hashable, StoredWeight]:
    """Every stored weight tensor behind the edges of a graph, tied ones once, by the key of its `WeightRef`.

    Raises StructureError for weights without values (on the meta device).
    """
    users: dict[Hashable, list[EdgeOperator]] = defaultdict(list)
    for op in graph.operators:
        if op.weight is not None and op.weighted and op.weight.tensor.numel():
            if op.weight.tensor.is_meta:
                raise StructureError(f"the weights of {op.name!r} have no values: they are on the meta device")
            users[op.weight.key].append(op)
    found: dict[Hashable, StoredWeight] = {}
    for key, ops in users.items():
        refs = [op.weight for op in ops if op.weight is not None]
        size = max(_reach(ref.tensor) for ref in refs)
        values, union = torch.zeros(size, dtype=refs[0].tensor.dtype), WeightUnion()
        seen: set[Any] = set()
        for op, ref in zip(ops, refs, strict=True):
            where = (ref.tensor.storage_offset(), ref.tensor.shape, ref.tensor.stride())
            if where not in seen:
                _view(values, ref.tensor).copy_(_once(ref.tensor.detach()))
            if where not in seen or isinstance(op, Conv):  # kernels on maps of several sizes meet padding elsewhere
                union.mark(ref, _possible(op))
            seen.add(where)
        possible = union.marked(key, size)
        found[key] = StoredWeight(values, possible, tuple(dict.fromkeys(op.name for op in ops)))
    return found


def weights_by_name(graph: StructureGraph) -> dict[str, torch.Tensor]:
    """Weights behind the edges of a zeroth-order graph that was read from a model, each once.

    A parameter that is used as it is stored has its qualified name (the first of tied ones) and shape; weights that
    the model computes (normalized, masked) are named "path.weight" after the module that uses them.
    """
    trace: OpGraph = graph.context.trace
    names: dict[Hashable, str] = {}
    for name, id in trace.parameters.items():
        names.setdefault(("parameter", id), name)
    found: dict[str, torch.Tensor] = {}
    done: set[Hashable] = set()
    for op in graph.operators:
        if op.weight is None or not op.weighted or op.weight.key in done:
            continue
        done.add(op.weight.key)
        known = names.get(op.weight.key)
        data = None if known is None else trace.values[trace.parameters[known]].data
        if known is not None and data is not None:
            threshold = getattr(op, "threshold", 0.0)
            found[known] = data.detach() * alive(data.detach(), threshold)
            continue
        tensor = op.weight.tensor.detach()
        if isinstance(op, Matmul) and tensor.dim() == 2:
            tensor = tensor.T  # (outputs, inputs), as linear layers store it
        name, k = f"{op.name}.weight", 1
        while name in found:
            name, k = f"{op.name}.weight#{k}", k + 1
        found[name] = tensor
    return found


def with_stored_weights(graph: StructureGraph, values: Mapping[Hashable, torch.Tensor]) -> StructureGraph:
    """The graph with other values behind its edges.

    What was read from the weights otherwise (constants that are zero, experts that were chosen) stays; sums are
    fused anew. For null models; `reweighted` takes the tensors of a model.

    Args:
        graph: of zeroth order.
        values: key of a stored weight -> flat tensor, as `StoredWeight.values`; others keep theirs.
    """
    from deepstruct.structure.orders.zeroth import silent_layers

    operators = [_rebuilt(op, values) for op in graph.operators]
    parent = fuse_sums(graph.spaces, operators, graph.is_output)
    old = set(silent_layers(graph.operators))
    notes = [note for note in graph.notes if note not in old] + silent_layers(operators)
    return dataclasses.replace(graph, operators=operators, parent=parent, notes=notes)


def _rebuilt(op: EdgeOperator, values: Mapping[Hashable, torch.Tensor]) -> EdgeOperator:
    """The operator made anew where its weights change or a sum may be fused otherwise; else itself."""
    made: EdgeOperator
    if isinstance(op, Identity):
        if op.fusable is False:
            return op
        made = Identity(op.source, op.target, op.fusable)
    elif op.weight is None or not op.weighted or op.weight.key not in values:
        return op
    else:
        new = values[op.weight.key]
        old = op.weight.tensor
        if new.dim() != 1 or new.numel() < _reach(old):
            raise InputError(
                f"the stored weights of {op.name!r} need a flat tensor of at least {_reach(old)} elements, "
                f"got shape {tuple(new.shape)}"
            )
        tensor = new.as_strided(old.shape, old.stride(), old.storage_offset())
        ref = op.weight._replace(tensor=tensor)
        if type(op) is Matmul:
            made = Matmul(op.source, op.target, ref, threshold=op.threshold)
        elif type(op) is Conv:
            made = Conv(
                op.source, op.target, ref, op.stride, op.padding, op.dilation, op.transposed, op.output_padding,
                op.groups, op.threshold,
            )  # fmt: skip
        elif type(op) is Sparse:
            made = Sparse(op.source, op.target, op.rows, op.cols, ref, op.threshold)
        else:
            raise StructureError(
                f"edges of {op.name!r} are of type {type(op).__name__}, whose weights cannot be exchanged in place"
            )
    made.name, made.call = op.name, op.call
    return made


def _reach(tensor: torch.Tensor) -> int:
    """Elements of the storage up to the last one of a view."""
    extent = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return int(tensor.storage_offset() + 1 + extent)


def _once(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor without repetitions along broadcast axes."""
    for axis, step in enumerate(tensor.stride()):
        if step == 0:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


def _view(flat: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    like = _once(like)
    return flat.as_strided(like.shape, like.stride(), like.storage_offset())


def _possible(op: EdgeOperator) -> torch.Tensor:
    """Boolean of the weight's shape: elements that are an edge when they are not zero."""
    assert op.weight is not None
    if isinstance(op, Conv):
        return (op.tap_counts > 0).expand(op.weight.tensor.shape)
    return torch.ones((), dtype=torch.bool).expand(op.weight.tensor.shape)


__all__ = ["StoredWeight", "reweighted", "stored_weights", "weights_by_name", "with_stored_weights"]
