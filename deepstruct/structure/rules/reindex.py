"""Operations that only move elements: one rule, which runs the op itself on the index maps."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from deepstruct.structure.builder import Builder
from deepstruct.structure.node import Arg, Node
from deepstruct.structure.operand import CONST, MASKED, ZERO
from deepstruct.structure.rules.base import RuleSet
from deepstruct.structure.signal import Signal

rules = RuleSet()

VIEWS = (
    "view", "_unsafe_view", "_reshape_alias", "permute", "transpose", "t", "expand", "slice", "select", "unsqueeze",
    "squeeze", "split", "split_with_sizes", "unsafe_split", "unbind", "diagonal", "unfold",
    "view_copy",
)  # fmt: skip
COPIES = (
    "flip", "roll", "repeat", "rot90", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "cat", "stack", "tril",
    "triu", "slice_scatter", "select_scatter", "diagonal_scatter", "as_strided_scatter", "take", "index_copy",
    "scatter",
    "constant_pad_nd", "alias_read", "alias_write", "diag_embed", "masked_select", "masked_scatter",
)  # fmt: skip
BY_INDEX = ("index", "_unsafe_index", "index_select", "gather")  # a lookup where a table of numbers is read
SAME = ("clone", "_to_copy", "alias_copy", "_conj", "_conj_physical", "conj_physical", "_neg_view")
MOVES = frozenset((*VIEWS, *COPIES, *BY_INDEX, *SAME))


@rules.op(*SAME)
def same(b: Builder, node: Node) -> list[Signal | None]:
    """A copy, a cast or a change of layout."""
    arg = node.tensors()[0]
    return [arg.signal]


@rules.op("copy")
def copy(b: Builder, node: Node) -> list[Signal | None]:
    """An in-place copy: what was written, in the shape of what it was written to."""
    shape = node.arg(0, "self").shape
    table = node.arg(1, "src").table()
    if isinstance(table, Signal):
        return [table.mapped(lambda t: t.expand(shape))]
    return [Signal(table.expand(shape).clone())]


@rules.op("fill", "zero", "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full",
          "new_empty", "new_empty_strided", "rand_like", "randn_like", "bernoulli", "uniform", "normal",
          "randint_like")  # fmt: skip
def created(b: Builder, node: Node) -> list[Signal | None]:
    """A fresh tensor that takes only its shape from an activation is a constant."""
    return [None]


@rules.op(*VIEWS, *COPIES)
def move(b: Builder, node: Node) -> list[Signal | None] | Any:
    """Runs the op on index maps; constants take part as CONST, or ZERO where they are zero."""
    op = node.op
    assert op is not None
    moved: list[Arg] = []  # tensors whose elements move, in order; every other tensor steers (indices, masks)

    def classify(a: Any) -> Any:
        if isinstance(a, Arg) and (a.signal is not None or a.dtype.is_floating_point or a.dtype.is_complex):
            moved.append(a)
        return a

    pytree.tree_map(classify, (node.args, node.kwargs), is_leaf=lambda x: isinstance(x, Arg))
    written = {i for i in op.mutates if isinstance(i, int)}
    kwargs = {k: v for k, v in node.kwargs.items() if k not in ("dtype", "layout", "device", "memory_format")}

    def run(*tables: torch.Tensor) -> Any:
        pool = iter(tables)

        def real(a: Any) -> Any:
            if not isinstance(a, Arg):
                return a
            return next(pool) if a in moved_set else a.tensor()

        args = pytree.tree_map(real, node.args, is_leaf=lambda x: isinstance(x, Arg))
        rest = pytree.tree_map(real, kwargs, is_leaf=lambda x: isinstance(x, Arg))
        args = [a.clone() if i in written and isinstance(a, torch.Tensor) else a for i, a in enumerate(args)]
        if node.name in ("view", "_unsafe_view", "view_copy", "_reshape_alias"):  # a permuted map has no view
            return args[0].reshape(args[1])
        if node.name == "constant_pad_nd":
            value = args[2] if len(args) > 2 else rest.get("value", 0)
            fill = ZERO if value == 0 else MASKED if value <= b.settings.mask_threshold else CONST
            return torch.constant_pad_nd(args[0], args[1], fill)
        if node.name in ("tril", "triu"):
            kept = op.target(torch.ones_like(args[0]), *args[1:])
            return torch.where(kept == 1, args[0], ZERO)
        if node.name in ("scatter", "index_put", "_unsafe_index_put", "_index_put_impl", "diag_embed"):
            return _writing(node.name, op.target, args, rest)
        return op.target(*args, **rest)

    moved_set = _IdentitySet(moved)
    parts = [a.table() for a in moved]
    if all(not isinstance(p, Signal) for p in parts):
        return [None] * len(node.out)
    signals = b.reindex(run, parts)
    return [
        s if v is not None and (v.dtype.is_floating_point or v.dtype.is_complex) else None
        for s, v in zip(signals, node.out, strict=False)
    ]


def _writing(name: str, target: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Ops that write numbers, where a plain number stands for a constant."""
    if name == "scatter" and not isinstance(args[3], torch.Tensor):
        args = [*args[:3], torch.full_like(args[2], ZERO if args[3] == 0 else CONST)]
        return torch.scatter(*args)
    if name.endswith(("index_put", "_index_put_impl")):
        return torch.ops.aten.index_put(args[0], args[1], args[2])
    if name == "diag_embed":
        ones = target(torch.ones_like(args[0]), *args[1:], **kwargs)
        return torch.where(ones == 1, target(args[0], *args[1:], **kwargs), ZERO)
    return target(*args, **kwargs)


class _IdentitySet:
    """Membership by identity: arguments compare equal where they name the same value."""

    def __init__(self, items: list[Arg]) -> None:
        self._ids = {id(item) for item in items}

    def __contains__(self, item: object) -> bool:
        return id(item) in self._ids


@rules.op("reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d",
          "replication_pad3d")  # fmt: skip
def mirror(b: Builder, node: Node) -> list[Signal | None]:
    """Padding by copies of elements."""
    op = node.op
    assert op is not None
    (x,) = node.signals()
    return list(b.reindex(lambda t: _via_float(op.target, t, node.args[1]), [x]))


@rules.op("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
          "_upsample_nearest_exact2d", "_upsample_nearest_exact3d")  # fmt: skip
def nearest(b: Builder, node: Node) -> list[Signal | None]:
    """Upsampling by copies of elements."""
    op = node.op
    assert op is not None
    (x,) = node.signals()
    return list(b.reindex(lambda t: _via_float(op.target, t, *node.args[1:], **node.kwargs), [x]))


@rules.op("_pack_padded_sequence")
def pack(b: Builder, node: Node) -> list[Signal | None]:
    """Sequences of different lengths, one step of all of them after the other."""
    op, data = node.op, node.args[0]
    assert op is not None
    rest = [a.tensor() if isinstance(a, Arg) else a for a in node.args[1:]]
    (moved,) = b.reindex(lambda t: op.target(t.to(torch.float64), *rest)[0].to(torch.int64), [data.signal])
    return [moved, None]


@rules.op("block_diag")
def block_diag(b: Builder, node: Node) -> list[Signal | None]:
    """Matrices along a diagonal, with zeros around them."""
    op = node.op
    assert op is not None
    parts = [a.table() for a in node.args[0]]
    # the rest is filled with 0: shift the codes so that 0 is none of them
    return list(b.reindex(lambda *t: _restore(op.target([x + 4 for x in t])), parts))


@rules.op("max_unpool2d", "max_unpool3d")
def unpool(b: Builder, node: Node) -> list[Signal | None]:
    """Elements written at the recorded positions of maxima, zeros elsewhere."""
    op, (x,) = node.op, node.signals()[:1]
    assert op is not None
    rest = [a.tensor() if isinstance(a, Arg) else a for a in node.args[1:]]
    return list(b.reindex(lambda t: _restore(_via_float(op.target, t + 4, *rest)), [x]))


@rules.op("im2col")
def unfold(b: Builder, node: Node) -> list[Signal | None]:
    """Patches side by side; what lies in the padding is zero."""
    op = node.op
    assert op is not None
    (x,) = node.signals()
    # the padding is filled with 0: shift the codes so that 0 is none of them
    return list(b.reindex(lambda t: _restore(_via_float(op.target, t + 4, *node.args[1:])), [x]))


def _restore(shifted: torch.Tensor) -> torch.Tensor:
    return torch.where(shifted == 0, ZERO, shifted - 4)


def _via_float(target: Any, table: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """An op that moves elements but knows only floats; float64 holds every index exactly."""
    out: torch.Tensor = target(table.to(torch.float64), *args, **kwargs)
    return out.to(torch.int64)
