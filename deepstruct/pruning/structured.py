"""Scopes that keep or drop weights together: channels, heads, gates, blocks, and n of every m."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from deepstruct.errors import InputError
from deepstruct.pruning.protocols import Density, Group, Tensors
from deepstruct.pruning.scopes import Base, Layer, best, check_scores, share


class Together(Base):
    """Units of weights that stay or go as one, ranked by their mean score within the groups of another scope.

    A group's units are taken from the best on as long as they fit its budget of weights.

    Args:
        within: the scope whose groups and budgets hold (`Layer()` unless given).
    """

    def __init__(self, within: Base | None = None) -> None:
        self.within = Layer() if within is None else within
        super().__init__(self.within.density)

    def units(self, name: str, shape: torch.Size) -> Tensor:
        """int64 of the weight's shape: the number, from 0, of the unit that each weight is in."""
        raise NotImplementedError

    def groups(self, shapes: Mapping[str, torch.Size], density: Density) -> list[Group]:
        return self.within.groups(shapes, density)

    def select(
        self, scores: Mapping[str, Tensor], density: Density, allowed: Mapping[str, Tensor] | None = None
    ) -> Tensors:
        """Masks of whole units (of what is allowed)."""
        check_scores(scores)
        masks: Tensors = {}
        for group in self.groups({name: score.shape for name, score in scores.items()}, density):
            values, sizes, places = [], [], {}
            start = 0
            for name in group.names:
                score = scores[name].detach().to("cpu", torch.float64).reshape(-1)
                unit = self.units(name, scores[name].shape).reshape(-1)
                count = int(unit.max()) + 1 if unit.numel() else 0
                open_ = torch.ones_like(score) if allowed is None else allowed[name].cpu().reshape(-1).to(score)
                held = torch.zeros(count, dtype=torch.float64).index_add_(0, unit, open_)
                # 0 * inf is NaN: what is not allowed counts nothing, whatever its score
                total = torch.zeros(count, dtype=torch.float64).index_add_(0, unit, torch.where(open_ > 0, score, 0.0))
                values.append(torch.where(held > 0, total / held, -torch.inf))
                sizes.append(held)
                places[name] = (start, unit, open_)
                start += count
            rank, size = torch.cat(values), torch.cat(sizes)
            order = torch.sort(rank, descending=True, stable=True).indices
            fits = size[order].cumsum(0) <= group.keep + 1e-9
            chosen = torch.zeros(len(rank), dtype=torch.bool)
            chosen[order[fits]] = True
            for name, (first, unit, open_) in places.items():
                kept = chosen[first + unit] & (open_ > 0)
                masks[name] = kept.reshape(scores[name].shape).to(scores[name].device)
        return masks


class Channel(Together):
    """Slices along one axis: output channels (axis 0, rows of linear layers) or input channels (axis 1)."""

    def __init__(self, axis: int = 0, within: Base | None = None) -> None:
        super().__init__(within)
        self.axis = axis

    def units(self, name: str, shape: torch.Size) -> Tensor:
        if not -len(shape) <= self.axis < len(shape):
            raise InputError(f"{name!r} has {len(shape)} axes, and no axis {self.axis}")
        view = [1] * len(shape)
        view[self.axis] = shape[self.axis]
        return torch.arange(shape[self.axis]).reshape(view).expand(shape)


class Head(Together):
    """Attention heads: stretches of equal length along an axis of a projection, `parts` times over.

    Args:
        heads: number of heads.
        axis: 0 for projections to queries, keys and values, 1 for the projection of the output.
        parts: how many projections are packed in one weight: 3 in `in_proj_weight`, whose head h is the h-th stretch
            of queries, of keys and of values together.
    """

    def __init__(self, heads: int, axis: int = 0, parts: int = 1, within: Base | None = None) -> None:
        super().__init__(within)
        if heads < 1 or parts < 1:
            raise InputError(f"heads={heads}, parts={parts}: both are at least 1")
        self.heads, self.axis, self.parts = heads, axis, parts

    def units(self, name: str, shape: torch.Size) -> Tensor:
        length = shape[self.axis] if -len(shape) <= self.axis < len(shape) else 0
        if length == 0 or length % (self.heads * self.parts):
            raise InputError(
                f"axis {self.axis} of {name!r} {tuple(shape)} does not divide into {self.parts} x {self.heads} heads"
            )
        number = torch.arange(self.heads).repeat_interleave(length // (self.heads * self.parts)).repeat(self.parts)
        view = [1] * len(shape)
        view[self.axis] = length
        return number.reshape(view).expand(shape)


class Gate(Base):
    """The gates of recurrent weights (LSTM: 4, GRU: 3) each keep the same share, whatever their scores' scales."""

    def __init__(self, gates: int) -> None:
        if gates < 1:
            raise InputError(f"gates={gates}: an LSTM has 4, a GRU 3")
        super().__init__()
        self.gates = gates

    def groups(self, shapes: Mapping[str, torch.Size], density: Density) -> list[Group]:
        return Layer().groups(shapes, density)

    def select(
        self, scores: Mapping[str, Tensor], density: Density, allowed: Mapping[str, Tensor] | None = None
    ) -> Tensors:
        """Masks in which every gate has round(density * its size) weights."""
        split: dict[str, Tensor] = {}
        for name, score in scores.items():
            if score.dim() == 0 or score.shape[0] % self.gates:
                raise InputError(f"{name!r} of shape {tuple(score.shape)} does not divide into {self.gates} gates")
            for k, part in enumerate(score.chunk(self.gates)):
                split[f"{name}\0{k}"] = part
        open_ = None
        if allowed is not None:
            open_ = {f"{n}\0{k}": part for n, a in allowed.items() for k, part in enumerate(a.chunk(self.gates))}
        wide = {key: share(density, key.split("\0")[0]) for key in split}
        parts = Layer().select(split, wide, open_)
        return {name: torch.cat([parts[f"{name}\0{k}"] for k in range(self.gates)]) for name in scores}


class Block(Together):
    """Rectangles of rows x columns of the weight as a matrix (out, everything else)."""

    def __init__(self, rows: int, columns: int, within: Base | None = None) -> None:
        super().__init__(within)
        if rows < 1 or columns < 1:
            raise InputError(f"blocks of {rows} x {columns}: both are at least 1")
        self.rows, self.columns = rows, columns

    def units(self, name: str, shape: torch.Size) -> Tensor:
        if not shape:
            raise InputError(f"{name!r} is a single number: it has no blocks")
        height, width = shape[0], shape.numel() // max(shape[0], 1)
        across = -(-width // self.columns)
        row, column = torch.arange(height) // self.rows, torch.arange(width) // self.columns
        return (row[:, None] * across + column).reshape(shape)


class NM(Base):
    """At most n of every m weights that follow each other along the inputs (axis 1, kernel taps apart).

    A density above n / m loosens it to the smallest count that holds the density, so that schedules lead there;
    below, n of m stay: the pattern is what hardware asks for.
    """

    def __init__(self, n: int = 2, m: int = 4) -> None:
        if not 0 < n <= m:
            raise InputError(f"{n}:{m}: write 0 < n <= m")
        super().__init__(n / m)
        self.n, self.m = n, m

    def _count(self, density: float) -> int:
        return min(max(self.n, -int(-density * self.m // 1)), self.m)

    def groups(self, shapes: Mapping[str, torch.Size], density: Density) -> list[Group]:
        out = []
        for name, shape in shapes.items():
            self._check(name, shape)
            out.append(Group((name,), shape.numel() // self.m * self._count(share(density, name))))
        return out

    def _check(self, name: str, shape: torch.Size) -> None:
        if len(shape) < 2 or shape[1] % self.m:
            raise InputError(f"{name!r} of shape {tuple(shape)}: the inputs (axis 1) do not divide into {self.m}s")

    def select(
        self, scores: Mapping[str, Tensor], density: Density, allowed: Mapping[str, Tensor] | None = None
    ) -> Tensors:
        """Masks with n in each stretch of m (fewer where fewer are allowed)."""
        check_scores(scores)
        masks: Tensors = {}
        for name, score in scores.items():
            self._check(name, score.shape)
            values = score.detach().to("cpu", torch.float64)
            open_ = torch.ones_like(values, dtype=torch.bool) if allowed is None else allowed[name].cpu()
            values = torch.where(open_, values, -torch.inf).movedim(1, -1)
            rows = values.reshape(-1, self.m)
            first = rows.argsort(dim=1, descending=True, stable=True)[:, : self._count(share(density, name))]
            kept = torch.zeros(rows.shape, dtype=torch.bool).scatter_(1, first, True)
            masks[name] = (kept.reshape(values.shape).movedim(-1, 1) & open_).contiguous().to(score.device)
        return masks


__all__ = ["NM", "Block", "Channel", "Gate", "Head", "Together", "best"]
