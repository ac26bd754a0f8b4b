"""The primitives that rules are written with: each makes units or edges, or renames what is there."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from deepstruct.errors import StructureError
from deepstruct.structure.mask import Mask
from deepstruct.structure.node import MODULUS
from deepstruct.structure.operand import CONST, MASKED, ZERO, Operand
from deepstruct.structure.operators import (
    Conv,
    EdgeOperator,
    Identity,
    KeyScores,
    Matmul,
    QueryScores,
    ScoreOutputs,
    Separable,
    Sparse,
    WeightRef,
)
from deepstruct.structure.scores import Scores
from deepstruct.structure.settings import Settings
from deepstruct.structure.signal import Flag, Signal, constant, flag_tensor, join_flags
from deepstruct.structure.space import Space


@dataclass(frozen=True)
class Region:
    """A contiguous part of a space that was allocated as a whole, to be filled piece by piece."""

    space: Space
    start: int
    shape: tuple[int, ...]

    @property
    def target(self) -> Operand:
        return Operand.strided(self.shape, _row_major(self.shape), self.space.offset + self.start)

    @property
    def slots(self) -> slice:
        return slice(self.start, self.start + math.prod(self.shape))


class Builder:
    """Collects spaces and edge operators while a trace is read from its first operation to its last."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.spaces: list[Space] = []
        self.operators: list[EdgeOperator] = []
        self.notes: list[str] = []
        self.num_slots = 0
        self._bases: dict[int, tuple[StorageWeakRef, int]] = {}  # address of a numbering -> its memory, first slot
        self._names: dict[str, int] = {}
        self.where = ("", "", 0)  # module path, op name and call of what is being read
        self.position = 0  # index of the op that is being read

    # -- spaces

    def space(
        self, shape: Sequence[int], kind: str, *, additive: bool = False, name: str = "", scores: Scores | None = None
    ) -> Space:
        """A new block of units of the given shape; `scores` for implicit ones."""
        path, op, call = self.where
        title = name or (f"{path}" if path else op) or kind
        count = self._names.get(title, 0)
        self._names[title] = count + 1
        if count:
            title = f"{title}#{count}"
        space = Space(
            len(self.spaces), title, path, kind, tuple(int(n) for n in shape), self.num_slots,
            additive=additive, call=call, position=self.position, scores=scores,
        )  # fmt: skip
        self.spaces.append(space)
        self.num_slots += space.numel
        return space

    def region(self, space: Space, start: int, shape: Sequence[int]) -> Region:
        """A part of a space that rules fill by themselves; units there are live once something reads into them."""
        if space.live is None:
            space.live = torch.zeros(space.numel, dtype=torch.bool)
        return Region(space, start, tuple(shape))

    def signal(self, place: Space | Region, live: torch.Tensor | None = None, code: int = CONST) -> Signal:
        """The signal that reads a space element by element; `live` False marks elements without a unit."""
        region = place if isinstance(place, Region) else Region(place, 0, place.shape)
        space, first, count = region.space, region.space.offset + region.start, math.prod(region.shape)
        if isinstance(place, Region):
            assert space.live is not None
            now = torch.ones(count, dtype=torch.bool) if live is None else live.expand(region.shape).reshape(-1)
            live = (space.live[region.slots] | now).view(region.shape)
            space.live[region.slots] = live.reshape(-1)
        base = torch.arange(first, first + count, dtype=torch.int64).view(region.shape)
        if live is None or bool(live.all()):
            if count:
                memory = base.untyped_storage()
                self._bases[memory.data_ptr()] = (StorageWeakRef(memory), first)
            return Signal(base)
        live = live.expand(region.shape)
        if not isinstance(place, Region):
            space.live = live.reshape(-1).clone()
        return Signal(torch.where(live, base, code))

    def source(self, shape: Sequence[int], name: str, kind: str = "source", value: int | None = None) -> Signal:
        """Units that the graph starts from: a model input, or the rows that integers looked up.

        `value` is the id of the trace's value whose elements they are.
        """
        space = self.space(shape, kind, name=name)
        space.value = value
        return self.signal(space)

    def operand(self, signal: Signal) -> Operand:
        """The operand behind a signal: strided where its index is still a view of a space's numbering."""
        index = signal.index
        first = self._first_slot(index)
        if first is not None:
            return Operand.strided(index.shape, index.stride(), int(first + index.storage_offset()))
        return Operand.indexed(index)

    def _first_slot(self, index: torch.Tensor) -> int | None:
        """The first slot of the numbering that an index map is a view of; None where it is none."""
        address = index.untyped_storage().data_ptr()
        known = self._bases.get(address) if index.numel() else None
        if known is None:
            return None
        if known[0].expired():  # nothing reads that numbering any more, and other numbers are in its place
            del self._bases[address]
            return None
        return known[1]

    def add(self, operator: EdgeOperator) -> None:
        """Append an edge operator; operators are swept in the order in which they are added."""
        path, op, call = self.where
        operator.name, operator.call = path or op, call
        if operator.weight is not None and operator.weight.key[0] == MODULUS:
            self.note("complex weights stand for their moduli: one edge each, as a complex activation is one unit")
        self.operators.append(operator)

    def is_view(self, signal: Signal) -> bool:
        """Whether a signal is a strided view of one space: then all its elements are units."""
        return self._first_slot(signal.index) is not None

    def note(self, text: str) -> None:
        """Something that the report should tell, once."""
        if text not in self.notes:
            self.notes.append(text)

    # -- units made of other units

    def units(
        self,
        x: Signal,
        shape: Sequence[int],
        make: Callable[[Operand, Operand], EdgeOperator],
        *,
        kind: str,
        additive: bool,
        bias: bool = False,
        name: str = "",
        into: Region | None = None,
    ) -> Signal:
        """New units of the given shape that one operator wires to the signal (or more edges of units `into`).

        Elements that read no unit at all are constants: no units stand behind them.
        """
        source = self.operand(x)
        valid = source.valid()
        if valid is not None and not bool(valid.any()):
            if into is not None:
                return self.signal(into, torch.zeros((), dtype=torch.bool), self._empty_code(x, bias))
            return Signal(torch.full(tuple(shape), self._empty_code(x, bias), dtype=torch.int64))
        place: Space | Region = into or self.space(shape, kind, additive=additive, name=name)
        target = _target(place)
        operator = make(source, target)
        live = None if valid is None else operator.touches(valid)
        self.add(operator)
        return self.signal(place, live, self._empty_code(x, bias))

    def _empty_code(self, x: Signal, bias: bool) -> int:
        constant = bias or (not self.is_view(x) and bool((x.index == CONST).any()))
        return CONST if constant else ZERO

    def matmul(
        self, x: Signal, weight: WeightRef, *, bias: bool = False, name: str = "", into: Region | None = None
    ) -> Signal:
        """Units x @ weight: (..., inner) with a stored matrix (inner, outer), or one matrix per batch entry."""
        tensor = weight.tensor
        if x.shape[-1] != tensor.shape[-2]:
            raise StructureError(f"a product of shapes {x.shape} and {tuple(tensor.shape)} does not fit")
        shape = (*x.shape[:-1], tensor.shape[-1])
        return self.units(
            x, shape, lambda s, t: Matmul(s, t, weight, threshold=self.settings.cut(weight)),
            kind="contraction", additive=True, bias=bias, name=name, into=into,
        )  # fmt: skip

    def conv(self, x: Signal, weight: WeightRef, out_shape: Sequence[int], *, bias: bool, **geometry: Any) -> Signal:
        """Units of a convolution of x (batch, channels, *spatial); `geometry` as in `Conv`."""
        cut = self.settings.cut(weight)
        return self.units(
            x, out_shape, lambda s, t: Conv(s, t, weight, threshold=cut, **geometry),
            kind="contraction", additive=True, bias=bias,
        )  # fmt: skip

    def window(
        self, x: Signal, axes: list[torch.Tensor | None], *, kind: str = "window", additive: bool = False
    ) -> Signal:
        """Units that read a product of windows: per axis a boolean matrix (out, in), None to pass through."""
        shape = [n if m is None else m.shape[0] for n, m in zip(x.shape, axes, strict=True)]
        return self.units(x, shape, lambda s, t: Separable(s, t, axes), kind=kind, additive=additive)

    def reduce(self, x: Signal, dims: Sequence[int], *, additive: bool, size: int = 1, kind: str = "reduce") -> Signal:
        """Units that read everything along `dims`, which get length `size` (1: a reduction)."""
        reduced = {d % max(len(x.shape), 1) for d in dims}
        axes: list[torch.Tensor | None] = [
            torch.ones(size, n, dtype=torch.bool) if d in reduced and not (n == 1 and size == 1) else None
            for d, n in enumerate(x.shape)
        ]
        if all(a is None for a in axes):
            return x if additive else x.curved()
        return self.window(x, axes, kind=kind, additive=additive)

    def sparse(
        self, x: Signal, shape: Sequence[int], rows: torch.Tensor, cols: torch.Tensor,
        weight: WeightRef | None = None, *, additive: bool = False, kind: str = "merge",
    ) -> Signal:  # fmt: skip
        """Units wired by an explicit list: flat element rows[k] of x to flat element cols[k] of the result."""
        cut = self.settings.cut(weight) if weight is not None else 0.0
        return self.units(
            x, shape, lambda s, t: Sparse(s, t, rows, cols, weight, cut), kind=kind, additive=additive
        )

    def dense(self, signals: Sequence[Signal], shape: Sequence[int], *, kind: str = "dense") -> Signal:
        """Units of the given shape that each read every element of every signal."""
        space = self.space(shape, kind)
        target = Operand.strided((1, space.numel), (space.numel, 1), space.offset)
        any_unit = False
        for signal in signals:
            flat = signal.mapped(lambda t: t.reshape(1, -1))
            source = self.operand(flat)
            valid = source.valid()
            if valid is not None and not bool(valid.any()):
                continue
            any_unit = True
            self.add(Matmul(source, target))
        live = None if any_unit else torch.zeros(space.shape, dtype=torch.bool)
        return self.signal(space, live)

    def mix(self, a: Signal | None, b: Signal | None, zeros: tuple[torch.Tensor | None, torch.Tensor | None],
            shape: Sequence[int]) -> Signal:  # fmt: skip
        """Units a @ b for two activations: (*batch, rows, inner) with (*batch, inner, outer).

        A side that is no activation is None; `zeros` then has where that side is exactly zero (boolean, or
        None for nowhere). An element that is ZERO removes the edge of its partner.
        """
        space = self.space(shape, "mix", additive=True)
        target = Operand.strided(space.shape, _row_major(space.shape), space.offset)
        solid = [_solid(self, s, z) for s, z in zip((a, b), zeros, strict=True)]
        live: torch.Tensor | None = torch.zeros((), dtype=torch.bool).expand(space.shape)
        for signal, partner, swap in ((a, solid[1], False), (b, solid[0], True)):
            if signal is None:
                continue
            if swap:  # out^T = b^T a^T
                signal = signal.mapped(lambda t: t.transpose(-1, -2))
                partner = None if partner is None else partner.transpose(-1, -2)
            out = _swapped(target) if swap else target
            source = self.operand(signal)
            valid = source.valid()
            if valid is not None and not bool(valid.any()):
                continue
            operator = Matmul(source, out, pattern=partner)
            if valid is None and partner is None:
                live = None
            elif live is not None:
                here = operator.touches(torch.ones(source.shape, dtype=torch.bool) if valid is None else valid)
                live = live | (here.transpose(-1, -2) if swap else here)
            self.add(operator)
        result = self.signal(space, live, ZERO)
        if live is None or bool(live.all()):
            return result
        constant = ~live & _met(solid[0], solid[1]).expand(space.shape)  # of constants alone, but not of zeros
        return Signal(result.index.masked_fill(constant, CONST)) if bool(constant.any()) else result

    def attention(
        self, query: Signal | None, key: Signal | None, value: Signal | None, keep: torch.Tensor | None,
        sizes: tuple[int, int, int], *, name: str = "",
    ) -> Signal | None:  # fmt: skip
        """Units softmax(query @ key') @ value with implicit scores; None where those cannot be implicit.

        Args:
            query, key, value: (*lead, rows, d), (*lead, columns, d) and (*lead, columns, features), or None for
                what is no activation and nowhere exactly zero. Query or key is an activation.
            keep: boolean, broadcastable to (*lead, rows, columns): the scores that are not masked; None for all.
            sizes: (rows, columns, features).
            name: of the spaces, where no module gives them one.
        """
        some = query if query is not None else key
        if some is None or any(s is not None and _solid(self, s, None) is not None for s in (query, key, value)):
            return None  # what is exactly zero removes edges of its partner, which rows and columns cannot tell
        lead, (rows, columns, features) = some.shape[:-2], sizes
        if 0 in (*some.shape, *sizes):
            return None
        # a score of constants alone is no unit, and lets its value through all the same
        scores = Scores(lead, rows, columns, _mask(_and(keep, _reading(self, query, key)), rows, columns))
        if scores.num_units == 0:
            return None
        batch = (scores.heads,) if lead else ()
        space = self.space((*batch, rows, columns), "mix", additive=True, name=name, scores=scores)
        carriers = Operand.carriers(scores, space.offset)
        if query is not None:
            self.add(QueryScores(self.operand(query), carriers, scores))
        if key is not None:
            self.add(KeyScores(self.operand(key), carriers, scores))
        place = self.space((*batch, rows, features), "mix", additive=True, name=name)
        shape = (*lead, rows, features)
        target = Operand.strided(shape, _row_major(shape), place.offset)
        self.add(ScoreOutputs(carriers, target, scores))
        live = None if scores.mask is None else (scores.row_counts > 0).unsqueeze(-1).expand(shape)
        if value is not None:
            source = self.operand(value.mapped(lambda t: t.transpose(-1, -2)))
            valid = source.valid()
            if valid is None or bool(valid.any()):
                mask = _mask(keep, rows, columns)
                pattern = None if mask is None else mask.matrix.transpose(-1, -2)
                values = Matmul(source, _swapped(target), pattern=pattern)
                self.add(values)
                if live is not None:
                    here = values.touches(torch.ones(source.shape, dtype=torch.bool) if valid is None else valid)
                    live = live | here.transpose(-1, -2)
        if live is None or bool(live.all()):
            return self.signal(place)
        out = self.signal(place, live.reshape(place.shape), ZERO)
        kept = torch.ones((), dtype=torch.bool) if keep is None else keep.any(-1, keepdim=True)
        constant = ~live & kept.expand(shape)  # of constants alone; a row that is masked as a whole is zero
        return Signal(out.index.masked_fill(constant.reshape(place.shape), CONST))

    def merge(self, signals: Sequence[Signal], *, additive: bool = False, product: bool = False,
              kind: str | None = None, into: Region | None = None) -> Signal:  # fmt: skip
        """One unit per element that reads that element of every signal; equal operands are one operand.

        Args:
            additive: the merge is a sum, of which linear identity edges can be part.
            product: an element that is ZERO in one operand is ZERO in the result.
            into: a region to make the units in, where they are needed at all.
        """
        shape = torch.broadcast_shapes(*(s.shape for s in signals))
        signals = [s.mapped(lambda t: t.expand(shape)) for s in signals]
        if additive and any(s.unmasked is not None for s in signals):
            return self._masked_sum(signals, kind)
        distinct: list[Signal] = []
        for s in signals:
            if not any(s.same_units(d) for d in distinct):
                distinct.append(s)
        if len(distinct) == 1:
            if additive and all(s.nonlinear is False for s in signals):
                return distinct[0]
            return distinct[0].curved()
        kind = kind or ("sum" if additive else "product" if product else "merge")
        operands = [self.operand(s) for s in distinct]
        if all(self.is_view(s) for s in distinct):
            live = None
        else:
            table = torch.stack([s.index for s in distinct])
            zero = (table == ZERO).any(0) if product else (table == ZERO).all(0)
            count = (table >= 0).sum(0).masked_fill(zero, 0)
            if int(count.max() if count.numel() else 0) <= 1:  # disjoint operands: no element meets another
                flags = torch.stack([flag_tensor(s.nonlinear, shape) for s in distinct])
                index = table.amax(0).masked_fill(zero, ZERO)
                flag = (flags & (table >= 0)).any(0)
                return Signal(index, (flag if bool(flag.any()) else False) if additive else True)
            live = count > 0
            if product and bool(zero.any()):
                operands = [Operand.indexed(s.index.masked_fill(zero, ZERO)) for s in distinct]
        place: Space | Region = into or self.space(shape, kind, additive=additive)
        target = _target(place)
        for s, operand in zip(distinct, operands, strict=True):
            fusable: Flag = False
            if additive:
                fusable = ~s.nonlinear if isinstance(s.nonlinear, torch.Tensor) else not s.nonlinear
            self.add(Identity(operand, target, fusable))
        out = self.signal(place, live, CONST)
        if live is not None and bool(zero.any()):
            out = Signal(out.index.masked_fill(zero, ZERO))
        return out

    def _masked_sum(self, signals: Sequence[Signal], kind: str | None) -> Signal:
        """A sum with scores of minus infinity in it: the sum is minus infinity there, whatever is added."""
        masked = torch.stack([s.index == MASKED for s in signals]).any(0)
        before = signals[0].index
        for s in signals:
            if s.unmasked is not None:
                before = torch.where(s.index == MASKED, s.unmasked, before)
        parts = [Signal(s.index.masked_fill(masked, ZERO), s.nonlinear) for s in signals]
        out = self.merge(parts, additive=True, kind=kind)
        return Signal(out.index.masked_fill(masked, MASKED), out.nonlinear, torch.where(masked, before, out.index))

    # -- renaming

    def reindex(
        self, function: Callable[..., Any], parts: Sequence[Signal | torch.Tensor], *, fill: int = ZERO
    ) -> list[Signal]:
        """Run a function that only moves elements on the index maps of its operands.

        Args:
            function: takes one tensor per part and returns a tensor or a sequence of tensors.
            parts: signals, and index maps of constants (see `signal.constant`).
        """
        tables = [p.index if isinstance(p, Signal) else p for p in parts]
        flags: list[Flag] = [p.nonlinear for p in parts if isinstance(p, Signal)]
        out = function(*tables)
        many = list(out) if isinstance(out, (tuple, list)) else [out]
        flag = join_flags(flags)
        if flag is not None:
            many_flags: list[Flag] = [flag] * len(many)
        else:
            moved = function(*[
                flag_tensor(p.nonlinear, p.shape).to(torch.int64) if isinstance(p, Signal) else torch.zeros_like(p)
                for p in parts
            ])  # fmt: skip
            moved = list(moved) if isinstance(moved, (tuple, list)) else [moved]
            many_flags = [m == 1 for m in moved]
        keep: list[torch.Tensor | None] = [None] * len(many)
        if any(isinstance(p, Signal) and p.unmasked is not None for p in parts):
            before = function(*[
                (p.index if p.unmasked is None else p.unmasked) if isinstance(p, Signal) else p for p in parts
            ])  # fmt: skip
            keep = list(before) if isinstance(before, (tuple, list)) else [before]
        return [Signal(i, f, u) for i, f, u in zip(many, many_flags, keep, strict=True)]

    def one_to_one(self, x: Signal, *, linear: bool = False, zeros: torch.Tensor | None = None,
                   keeps_zero: bool = True) -> Signal:  # fmt: skip
        """An element-wise operation: the units stay with their producer.

        Args:
            linear: whether it is affine, so that a later sum can take the unit in.
            zeros: where the result is exactly zero whatever the unit does (multiplied by zero).
            keeps_zero: whether f(0) = 0; otherwise ZERO elements become CONST.
        """
        out = x if linear else dataclasses.replace(x, nonlinear=True)
        if not keeps_zero and not self.is_view(out) and bool((out.index == ZERO).any()):
            out = dataclasses.replace(out, index=out.index.masked_fill(out.index == ZERO, CONST))
        return out if zeros is None else out.filled(zeros, ZERO)

    def finish_mask(self, x: Signal) -> Signal:
        """What a softmax does to masked scores: they are zero, and the units behind them are gone."""
        if x.unmasked is None:
            return x.curved()
        gone = x.unmasked[(x.index == MASKED) & (x.unmasked >= 0)]
        for space in self.spaces:
            here = gone[(gone >= space.offset) & (gone < space.offset + space.numel)]
            if here.numel() and space.kind == "mix":
                if space.live is None:
                    space.live = torch.ones(space.numel, dtype=torch.bool)
                space.live[here - space.offset] = False
        return Signal(x.index.masked_fill(x.index == MASKED, ZERO), True)

    def statistics(self, x: Signal, dims: Sequence[int]) -> Signal:
        """A normalization over `dims`, by the convention in force: one to one, or through statistics units."""
        if self.settings.normalization == "one_to_one":
            return x.curved()
        stats = self.reduce(x, dims, additive=False, kind="stats")
        return self.merge([x, stats]).curved()


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _target(place: Space | Region) -> Operand:
    if isinstance(place, Region):
        return place.target
    return Operand.strided(place.shape, _row_major(place.shape), place.offset)


def _swapped(operand: Operand) -> Operand:
    assert operand.stride is not None
    order = [*range(len(operand.shape) - 2), -1, -2]
    return Operand.strided(
        tuple(operand.shape[i] for i in order), tuple(operand.stride[i] for i in order), operand.offset
    )


def _reading(builder: Builder, query: Signal | None, key: Signal | None) -> torch.Tensor | None:
    """Boolean (*lead, rows, columns): scores that read some unit; None for all of them."""
    met = None
    for signal, axis in ((query, -1), (key, -2)):
        if signal is None:
            continue
        if builder.is_view(signal):
            return None
        reads = (signal.index >= 0).any(-1).unsqueeze(axis)
        if bool(reads.all()):
            return None
        met = reads if met is None else met | reads
    return met


def _and(a: torch.Tensor | None, b: torch.Tensor | None) -> torch.Tensor | None:
    return b if a is None else a if b is None else a & b


def _mask(keep: torch.Tensor | None, rows: int, columns: int) -> Mask | None:
    if keep is None or bool(keep.all()):
        return None
    return Mask(keep.expand(*keep.shape[:-2], rows, columns))


def _met(left: torch.Tensor | None, right: torch.Tensor | None) -> torch.Tensor:
    """Boolean, broadcastable to (*batch, rows, outer): some term of the product has no zero in it (None: nowhere)."""
    if left is None and right is None:
        return torch.ones((), dtype=torch.bool)
    if left is None:
        assert right is not None
        return right.any(-2, keepdim=True)
    if right is None:
        return left.any(-1, keepdim=True)
    return (left.to(torch.float32) @ right.to(torch.float32)) > 0


def _solid(builder: Builder, signal: Signal | None, zeros: torch.Tensor | None) -> torch.Tensor | None:
    """Where one side of a product is not exactly zero; None for everywhere."""
    if signal is None:
        return None if zeros is None or not bool(zeros.any()) else ~zeros
    if builder.is_view(signal):
        return None
    solid = signal.index != ZERO
    return None if bool(solid.all()) else solid


__all__ = ["Builder", "constant"]
