"""Element-wise operations: one operand keeps its units, several make a merge."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from deepstruct.structure.builder import Builder
from deepstruct.structure.node import Arg, Node
from deepstruct.structure.operand import CONST, MASKED
from deepstruct.structure.rules.base import RuleSet
from deepstruct.structure.signal import Signal
from deepstruct.trace.opgraph import Op

rules = RuleSet()

# f(0) = 0: an element that is ZERO stays so
_KEEPS_ZERO = frozenset({
    "relu", "relu6", "hardtanh", "leaky_relu", "rrelu", "prelu", "_prelu_kernel", "elu", "celu", "selu", "gelu",
    "silu", "mish", "hardswish", "tanh", "abs", "neg", "sqrt", "square", "sin", "asin", "atan", "sinh", "asinh",
    "sign", "sgn", "erf", "expm1", "log1p", "softsign", "tan", "floor", "ceil", "round", "trunc", "mul", "div",
    "maximum", "minimum", "nan_to_num", "threshold", "softshrink",
    "hardshrink", "tanhshrink", "real", "imag", "conj", "_conj", "view_as_real", "view_as_complex",
    "dropout", "native_dropout", "fmod", "remainder", "i0e", "relu_",
})  # fmt: skip
_AFFINE = frozenset({"neg", "add", "sub", "rsub", "mul", "div", "positive", "real", "imag"})
RANDOM = "activations are multiplied by random numbers (dropout in training mode): that was ignored, as in evaluation"


def _shaped(signal: Signal, shape: tuple[int, ...]) -> Signal:
    return signal if signal.shape == shape else signal.mapped(lambda t: t.expand(shape))


@rules.op("<pointwise>", "_prelu_kernel", "rrelu_with_noise", "floor_divide", "hardswish")
def pointwise(b: Builder, node: Node) -> Signal:
    """Any other element-wise op: one to one for a single activation, a merge for several."""
    shape = _out_shape(node)
    signals = [s.mapped(lambda t: t.expand(shape)) for s in node.signals()]
    if len(signals) == 1:
        return b.one_to_one(
            signals[0], linear=node.name in _AFFINE, keeps_zero=node.name in _KEEPS_ZERO
        )
    return b.merge(signals)


@rules.op("add", "sub", "rsub")
def add(b: Builder, node: Node) -> Signal:
    """A sum: of two activations a merge; with a constant one to one, and a large negative one is a mask."""
    shape = _out_shape(node)
    left, right = node.arg(0, "self"), node.arg(1, "other")
    signals = [_shaped(a.signal, shape) for a in (left, right) if isinstance(a, Arg) and a.signal is not None]
    if len(signals) == 2:
        return b.merge(signals, additive=True)
    (x,) = signals
    other = right if isinstance(left, Arg) and left.signal is not None else left
    negative = node.name == "sub" and other is right
    return _plus_constant(b, x, other, negative)


def _plus_constant(b: Builder, x: Signal, other: object, negative: bool) -> Signal:
    if isinstance(other, Arg):
        if not other.known() or (other.data_dependent and other.signal is None):
            return b.one_to_one(x, linear=True, keeps_zero=False)
        value = other.tensor()
        if value.dtype == torch.bool or value.is_complex():
            return b.one_to_one(x, linear=True, keeps_zero=False)
        value = -value if negative else value
        masked = value <= b.settings.mask_threshold
        out = x
        if not b.is_view(x):
            zero = x.index == -2
            if bool(zero.any()):
                out = x.filled(zero & (value != 0), CONST)
        return out.filled(masked, MASKED) if bool(masked.any()) else out
    return b.one_to_one(x, linear=True, keeps_zero=other == 0)


@rules.op("mul")
def mul(b: Builder, node: Node) -> Signal:
    """A product: of two activations a merge; by a constant one to one, and zero where that is zero."""
    shape = _out_shape(node)
    left, right = node.arg(0, "self"), node.arg(1, "other")
    signals = [_shaped(a.signal, shape) for a in (left, right) if isinstance(a, Arg) and a.signal is not None]
    if len(signals) == 2:
        return b.merge(signals, product=True)
    (x,) = signals
    other = right if isinstance(left, Arg) and left.signal is not None else left
    if isinstance(other, Arg):
        if other.random:
            b.note(RANDOM)
        if other.data_dependent or other.random:
            return b.one_to_one(x, linear=True)
        zeros = other.zeros()
        return b.one_to_one(x, linear=True, zeros=None if zeros is None else zeros)
    if other == 0:
        return b.one_to_one(x, linear=True, zeros=torch.ones((), dtype=torch.bool))
    return b.one_to_one(x, linear=True)


@rules.op("div")
def div(b: Builder, node: Node) -> Signal:
    """A quotient: linear in the numerator where the denominator is a constant."""
    shape = _out_shape(node)
    left, right = node.arg(0, "self"), node.arg(1, "other")
    signals = [_shaped(a.signal, shape) for a in (left, right) if isinstance(a, Arg) and a.signal is not None]
    if len(signals) == 2:
        return b.merge(signals, product=False)
    over = isinstance(left, Arg) and left.signal is not None
    return b.one_to_one(signals[0], linear=over and node.kwargs.get("rounding_mode") is None, keeps_zero=over)


@rules.op("where")
def where(b: Builder, node: Node) -> Signal | list[Signal | None]:
    """A choice: by a constant condition a renaming, by the data a merge of what can be chosen."""
    condition, yes, no = node.arg(0, "condition"), node.arg(1, "self"), node.arg(2, "other")
    shape = _out_shape(node)
    parts = [_as_part(a, shape) for a in (yes, no)]
    if not condition.data_dependent and condition.known():
        chosen = condition.tensor().expand(shape)
        parts = [_masked_part(p, a, b) for p, a in zip(parts, (yes, no), strict=True)]
        out = b.reindex(lambda y, n: torch.where(chosen, y, n), parts)[0]
        masked = out.index == MASKED
        if bool(masked.any()):
            before = [p if isinstance(p, Signal) else None for p in parts]
            source = before[0] or before[1]
            if source is not None:
                return Signal(out.index, out.nonlinear, torch.where(masked, source.index.expand(shape), out.index))
        return out
    signals = [p for p in parts if isinstance(p, Signal)]
    return b.one_to_one(signals[0], keeps_zero=False) if len(signals) == 1 else b.merge(signals).curved()


@rules.op("masked_fill")
def masked_fill(b: Builder, node: Node) -> Signal:
    """Fills by a constant mask: zero, or minus infinity before a softmax; a mask from data is control."""
    shape = _out_shape(node)
    x = _shaped(node.arg(0, "self").signal, shape) if node.arg(0, "self").signal is not None else None
    mask, value = node.arg(1, "mask"), node.arg(2, "value")
    if x is None:
        return NotImplemented  # a constant filled with an activation
    if mask.data_dependent or not mask.known():
        return b.one_to_one(x, keeps_zero=False)
    if isinstance(value, Arg):
        if value.signal is not None:
            filler = value.signal.mapped(lambda t: t.expand(shape))
            return b.reindex(lambda a, f: torch.where(mask.tensor().expand(shape), f, a), [x, filler])[0]
        value = value.tensor().item() if value.known() else 1.0
    code = MASKED if value <= b.settings.mask_threshold else (-2 if value == 0 else CONST)
    return x.filled(mask.tensor(), code)


@rules.op("log_sigmoid_forward")
def log_sigmoid(b: Builder, node: Node) -> list[Signal | None]:
    """One to one, with a buffer for the derivative."""
    return [b.one_to_one(node.signals()[0], keeps_zero=False), None]


@rules.op("_softmax", "_safe_softmax", "_log_softmax")
def softmax(b: Builder, node: Node) -> Signal:
    """One to one; what was masked becomes zero, and its score units are gone."""
    x = node.signals()[0]
    assert node.out[0] is not None
    if b.settings.normalization == "stats" and not feeds_product(node.out[0].id, node.users):
        return b.statistics(b.finish_mask(x), [node.arg(1, "dim", -1)])
    return b.finish_mask(x)


@rules.op("sigmoid", "exp")
def squash(b: Builder, node: Node) -> Signal:
    """One to one; at minus infinity both are zero."""
    x = node.signals()[0]
    return b.one_to_one(b.finish_mask(x), keeps_zero=x.unmasked is not None)


@rules.op("native_dropout")
def dropout(b: Builder, node: Node) -> list[Signal | None]:
    """Dropout in training mode: the units are those of evaluation."""
    b.note(RANDOM)
    return [node.signals()[0], None]


@rules.op("clamp", "clamp_min", "clamp_max")
def clamp(b: Builder, node: Node) -> Signal:
    """One to one between fixed bounds, of which zero may be none; a merge with bounds that are activations."""
    if len(node.signals()) > 1 or any(isinstance(a, Arg) for a in (*node.args[1:], *node.kwargs.values())):
        return pointwise(b, node)
    low, high = node.arg(1, "min"), node.arg(2, "max")
    if node.name == "clamp_max":
        low, high = None, node.arg(1, "max")
    inside = (low is None or low <= 0) and (high is None or high >= 0)
    return b.one_to_one(node.signals()[0], keeps_zero=inside)


@rules.op("glu")
def glu(b: Builder, node: Node) -> Signal:
    """a * sigmoid(b) for the two halves of the input: a product."""
    x, dim = node.signals()[0], node.arg(1, "dim", -1)
    first, second = b.reindex(lambda t: t.chunk(2, dim), [x])
    return b.merge([first, second.curved()], product=True)


@rules.op("addcmul", "addcdiv")
def addcmul(b: Builder, node: Node) -> Signal:
    """self + value * a * b (or a / b): a product that joins a sum."""
    shape = _out_shape(node)
    start, left, right = (node.args[i] for i in range(3))
    factors = [_shaped(a.signal, shape) for a in (left, right) if a.signal is not None]
    if not factors:
        return b.one_to_one(_shaped(start.signal, shape), linear=True, keeps_zero=False)
    inner = b.merge(factors, product=node.name == "addcmul") if len(factors) == 2 else factors[0]
    if start.signal is None:
        return b.one_to_one(inner, linear=True, keeps_zero=False)
    return b.merge([_shaped(start.signal, shape), inner], additive=True)


@rules.op("lerp")
def lerp(b: Builder, node: Node) -> Signal:
    """start + weight * (end - start): a sum where the weight is a constant."""
    shape = _out_shape(node)
    tensors = [a for a in node.args if isinstance(a, Arg) and a.signal is not None]
    weight = node.arg(2, "weight")
    additive = not (isinstance(weight, Arg) and weight.signal is not None)
    return b.merge([_shaped(a.signal, shape) for a in tensors if a.signal is not None], additive=additive)


def _out_shape(node: Node) -> tuple[int, ...]:
    value = node.out[0]
    assert value is not None
    return value.shape


def _as_part(value: object, shape: tuple[int, ...]) -> Signal | torch.Tensor:
    if isinstance(value, Arg):
        table = value.table()
        if isinstance(table, Signal):
            return _shaped(table, shape)
        return table.expand(shape)
    return torch.full(shape, -2 if value == 0 else -1, dtype=torch.int64)


def _masked_part(part: Signal | torch.Tensor, value: object, b: Builder) -> Signal | torch.Tensor:
    """A constant that stands for minus infinity, marked as such."""
    if isinstance(part, Signal):
        return part
    if isinstance(value, Arg):
        if not value.known():
            return part
        number = value.tensor()
        if number.is_complex() or number.dtype == torch.bool:
            return part
        return part.masked_fill((number <= b.settings.mask_threshold).expand(part.shape), MASKED)
    low = isinstance(value, (int, float)) and value <= b.settings.mask_threshold
    return torch.full_like(part, MASKED) if low else part


def feeds_product(value: int | None, users: Callable[[int], Sequence[Op]]) -> bool:
    """Whether a value reaches a matrix product through renaming alone, as attention weights do."""
    from deepstruct.structure.rules.reindex import MOVES

    stack, seen = [] if value is None else [value], set()
    while stack:
        id = stack.pop()
        if id in seen:
            continue
        seen.add(id)
        for op in users(id):
            if op.name in ("bmm", "mm", "matmul", "baddbmm"):
                return True
            if op.name in MOVES or op.name in ("native_dropout", "where", "masked_fill"):
                stack.extend(o for o in op.outputs if o is not None)
    return False
