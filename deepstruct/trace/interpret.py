"""Running a recorded graph on tensors: one op, or the slice of ops that some values need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import CapacityError, TraceError
from .opgraph import Op, Ref, Value

Feeds = Mapping[int, torch.Tensor]

# View-like operations that only succeed for the strides they were recorded with. A replayed tensor can
# have others, and only the logical values matter.
_LAYOUT_FREE: dict[str, Callable[..., Any]] = {
    "view": lambda x, size: x.reshape(size),
    "_unsafe_view": lambda x, size: x.reshape(size),
    "_reshape_alias": lambda x, size, stride: x.reshape(size),
    "view_as_complex": lambda x: torch.view_as_complex(x.contiguous()),
}


def substitute(tree: Any, get: Callable[[int], Any]) -> Any:
    """`tree` (nested tuples, lists, dicts) with every `Ref` replaced by `get(ref.id)`."""
    if isinstance(tree, Ref):
        return get(tree.id)
    if isinstance(tree, tuple):
        items = [substitute(item, get) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    if isinstance(tree, list):
        return [substitute(item, get) for item in tree]
    if isinstance(tree, dict):
        return {key: substitute(item, get) for key, item in tree.items()}
    return tree


def refs_of(tree: Any) -> list[int]:
    """Value ids of all `Ref`s in nested tuples, lists and dicts, in order."""
    found: list[int] = []
    _collect(tree, found)
    return found


def _collect(tree: Any, found: list[int]) -> None:
    if isinstance(tree, Ref):
        found.append(tree.id)
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            _collect(item, found)
    elif isinstance(tree, dict):
        for item in tree.values():
            _collect(item, found)


def flat_tensors(result: Any) -> list[torch.Tensor | None]:
    """The returns of an operation in flat order, None where a return is no tensor."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, (tuple, list)):
        flat: list[torch.Tensor | None] = []
        for item in result:
            flat.extend(flat_tensors(item))
        return flat
    return [None]


def _copy(tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        # a contiguous copy: an expanded tensor could not be written to
        return (
            tree.clone(memory_format=torch.contiguous_format)
            if tree.layout == torch.strided
            else tree.clone()
        )
    if isinstance(tree, (list, tuple)):
        return [_copy(item) for item in tree]
    return tree


def execute(op: Op, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor | None]:
    """Runs one recorded operation on tensors, without touching its arguments.

    `args` and `kwargs` are those of the op with its `Ref`s replaced. Returns one entry per entry of
    `op.outputs`. Use this rather than `op.target`: it copies what the operation writes to, and does not
    depend on the strides that the recorded tensors had.
    """
    args = list(args)
    kwargs = dict(kwargs)
    results = flat_tensors(_call(op, args, kwargs))
    if len(results) < len(op.outputs):
        for position in op.mutates:
            written = args[position] if isinstance(position, int) else kwargs[position]
            # what is returned as well is already there
            if not any(w is r for w in flat_tensors(written) for r in results):
                results.extend(flat_tensors(written))
    return results


def execute_raw(op: Op, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Like `execute`, but with the result as the operation returned it."""
    return _call(op, list(args), dict(kwargs))


def _call(op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Calls the target; `args` and `kwargs` are left with the copies that were written to."""
    for position in op.mutates:
        if isinstance(position, int):
            args[position] = _copy(args[position])
        else:
            kwargs[position] = _copy(kwargs[position])
    target = op.target
    if not op.mutates and op.name in _LAYOUT_FREE:
        if op.name == "view" and isinstance(args[1], torch.dtype):
            args[0] = args[0].contiguous()
        else:
            target = _LAYOUT_FREE[op.name]
    return target(*args, **kwargs)


def map_result(result: Any, fn: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The result of an operation with its tensors mapped."""
    if isinstance(result, torch.Tensor):
        return fn(result)
    if isinstance(result, (tuple, list)):
        return type(result)(map_result(item, fn) for item in result)
    return result


def needed_ops(values: Sequence[Value], ops: Sequence[Op], wanted: Iterable[int], feeds: Feeds) -> list[int]:
    """Indices of the ops that `wanted` needs when `feeds` are known, in order."""
    seen: set[int] = set()
    stack = [v for v in wanted if v not in feeds]
    chosen: set[int] = set()
    while stack:
        value = stack.pop()
        if value in seen or value in feeds:
            continue
        seen.add(value)
        producer = values[value].producer
        if producer is None or producer in chosen:
            continue
        chosen.add(producer)
        op = ops[producer]
        stack.extend(refs_of(op.args))
        stack.extend(refs_of(op.kwargs))
    return sorted(chosen)


def _bytes(value: Value) -> int:
    count = 1
    for n in value.shape:
        count *= n
    return count * value.dtype.itemsize


def peak_bytes(
    values: Sequence[Value], ops: Sequence[Op], order: Sequence[int], wanted: Iterable[int]
) -> int:
    """Largest number of bytes of op results alive at one time when `order` runs and only `wanted` stay.

    Views of leaves (a transposed weight) take none; views of results are counted, as they keep those alive.
    """
    last = last_uses(ops, order)
    keep = set(wanted)
    free: set[int] = set()
    alive = peak = 0
    for index in order:
        op = ops[index]
        reads = {*refs_of(op.args), *refs_of(op.kwargs)}
        results = {v for v in op.outputs if v is not None}
        is_view = getattr(op.target, "is_view", False) and op.name != "reshape"  # that one may copy
        if is_view and all(values[v].producer is None or v in free for v in reads):
            free |= results
        alive += sum(_bytes(values[v]) for v in results - free)
        peak = max(peak, alive)
        dying = {v for v in reads if last.get(v) == index} | {v for v in results if v not in last}
        alive -= sum(_bytes(values[v]) for v in dying - keep - free if values[v].producer is not None)
    return peak


def last_uses(ops: Sequence[Op], order: Sequence[int]) -> dict[int, int]:
    """For every value that an op of `order` reads: the last op that does."""
    last: dict[int, int] = {}
    for index in order:
        op = ops[index]
        for v in refs_of(op.args):
            last[v] = index
        for v in refs_of(op.kwargs):
            last[v] = index
    return last


def leaf_data(value: Value) -> torch.Tensor:
    """The real tensor of a leaf; TraceError where there is none (meta or fake weights)."""
    data = value.data
    if data is None or data.is_meta or _is_fake(data):
        what = f"{value.kind} {value.name!r}" if value.name else value.kind
        raise TraceError(
            f"the {what} of shape {tuple(value.shape)} has no values (it is on the meta device, or a fake "
            "tensor), so nothing that depends on it can be computed; load real weights to evaluate this graph"
        )
    return data


def _is_fake(tensor: torch.Tensor) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(tensor, FakeTensor)


def run(
    values: Sequence[Value],
    ops: Sequence[Op],
    wanted: Sequence[int],
    feeds: Feeds,
    byte_budget: int | None = None,
    *,
    seeded: bool = False,
) -> dict[int, torch.Tensor]:
    """Values of `wanted`, from `feeds` (values known beforehand) and the data of leaves.

    Runs only the ops that are needed and drops intermediate results after their last use.
    With `seeded`, an op that draws random numbers draws the same ones whenever it is run, whatever else is run
    beside it, and the generators of the process stay as they are.
    Raises CapacityError, before anything runs, when the results alive at one time exceed `byte_budget`,
    and TraceError when a leaf that is needed has no real data.
    """
    order = needed_ops(values, ops, wanted, feeds)
    if byte_budget is not None:
        peak = peak_bytes(values, ops, order, wanted)
        if peak > byte_budget:
            raise CapacityError(
                f"evaluating {len(wanted)} value(s) needs {peak:,} bytes at its peak ({len(order)} ops), "
                f"more than the budget of {byte_budget:,}; raise byte_budget or use a smaller example input"
            )
    last = last_uses(ops, order)
    keep = set(wanted)
    known: dict[int, torch.Tensor] = {}

    def get(v: int) -> torch.Tensor:
        if v in known:
            return known[v]
        if v in feeds:
            return feeds[v]
        return leaf_data(values[v])

    for index in order:
        op = ops[index]
        try:
            with _drawing(op, seeded):
                results = execute(op, substitute(op.args, get), substitute(op.kwargs, get))
        except TraceError:
            raise
        except Exception as error:
            raise TraceError(f"op {index} ({op.name}) failed when it was run again: {error}") from error
        for v, result in zip(op.outputs, results, strict=False):
            if v is not None and result is not None and (v in keep or v in last):
                known[v] = result
        for v in (*refs_of(op.args), *refs_of(op.kwargs)):
            if last[v] == index and v not in keep:
                known.pop(v, None)
    return {v: get(v) for v in wanted}


@contextmanager
def _drawing(op: Op, seeded: bool) -> Iterator[None]:
    """With `seeded`, random numbers that hang on the op's place in the graph alone."""
    if not seeded or torch.Tag.nondeterministic_seeded not in getattr(op.target, "tags", ()):
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(op.index + 1)
        yield
