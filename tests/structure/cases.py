"""Small layers and functions, at least one for every built-in rule; each is checked against its derivative."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.ops import aten


class Fn(nn.Module):
    """A function as a model, with stored weights where it asks for them by name."""

    def __init__(self, function: Callable[..., Any], **weights: torch.Tensor) -> None:
        super().__init__()
        self.function = function
        for name, tensor in weights.items():
            if tensor.dtype.is_floating_point:
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)
        self.names = list(weights)

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs, *(getattr(self, name) for name in self.names))


@dataclass(frozen=True)
class Case:
    """A model, an input for it, and what may be asked of it.

    `equal` is False where the structure is known to be more than the derivative shows, with the reason.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: tuple[Any, ...]
    equal: bool = True
    why: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    replay: bool = True  # whether the recorded operation can run on this machine

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make()

    def arguments(self) -> tuple[Any, ...]:
        return self.inputs


CASES: list[Case] = []


def case(name: str, make: Callable[[], nn.Module], *inputs: Any, **options: Any) -> None:
    CASES.append(Case(name, make, inputs, **options))


def fn(name: str, function: Callable[..., Any], *inputs: Any, weights: Mapping[str, torch.Tensor] | None = None,
       **options: Any) -> None:  # fmt: skip
    given = dict(weights or {})
    case(name, lambda: Fn(function, **given), *inputs, **options)


def r(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random numbers without coincidences, the same at every run."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1000 * sum(shape)))


GRID = torch.tensor([[[[-0.7, 0.2], [0.9, 0.95]], [[0.05, -0.4], [0.3, 0.3]]]])
GRID3 = torch.tensor([[[[[-0.7, 0.2, 0.1], [0.9, 0.5, -0.3]]]]])
STATS = {"settings": {"normalization": "stats"}}
CANCELS = {"equal": False, "why": "the derivative cancels"}

# -- contractions ------------------------------------------------------------------------------------

case("linear", lambda: nn.Linear(5, 3), r(1, 5))
case("linear no bias, tokens", lambda: nn.Linear(5, 3, bias=False), r(1, 4, 5))
case("linear vector", lambda: nn.Linear(5, 3), r(5))
case("bilinear", lambda: nn.Bilinear(3, 4, 2), r(1, 3), r(1, 4))
fn("mm stored", lambda x, w: x @ w, r(2, 3), weights={"w": r(3, 4)})
fn("mm stored left", lambda x, w: w @ x, r(3, 2), weights={"w": r(4, 3)})
fn("mv", lambda x, w: w @ x, r(3), weights={"w": r(4, 3)})
fn("mv stored vector", lambda x, w: x @ w, r(2, 3), weights={"w": r(3)})
fn("vector times matrix", lambda x, w: x @ w, r(3), weights={"w": r(3, 4)})
fn("dot", lambda x, w: torch.dot(x, w), r(3), weights={"w": r(3)})
fn("vdot", lambda x, y: torch.vdot(x, y), r(3), r(3, seed=1))
fn("mv of activations", lambda x, y: torch.mv(x, y), r(2, 3), r(3))
fn("mm of activations", lambda x, y: x @ y, r(2, 3), r(3, 4))
fn("bmm of activations", lambda x, y: torch.bmm(x, y), r(2, 2, 3), r(2, 3, 4))
fn("bmm of x with itself", lambda x: x @ x.transpose(1, 2), r(1, 3, 4))
fn("matmul broadcast", lambda x, y: x @ y, r(2, 1, 2, 3), r(2, 3, 2))
fn("bmm stored", lambda x, w: torch.bmm(x, w), r(2, 2, 3), weights={"w": r(2, 3, 4)})
fn("baddbmm", lambda x, y, z: torch.baddbmm(z, x, y), r(2, 2, 3), r(2, 3, 4), r(2, 2, 4))
fn("baddbmm beta 0", lambda x, y, z: torch.baddbmm(z, x, y, beta=0), r(1, 2, 3), r(1, 3, 4), r(1, 2, 4))
fn("baddbmm alpha 0", lambda x, y, z: torch.baddbmm(z, x, y, alpha=0), r(1, 2, 3), r(1, 3, 4), r(1, 2, 4))
fn("addbmm", lambda x, y, z: torch.addbmm(z, x, y), r(2, 2, 3), r(2, 3, 4), r(2, 4))
fn("addmm", lambda x, z, w: torch.addmm(z, x, w), r(2, 3), r(2, 4), weights={"w": r(3, 4)})
fn("addmm broadcast start", lambda x, z, w: torch.addmm(z, x, w), r(2, 3), r(4), weights={"w": r(3, 4)})
fn("addmv", lambda x, z, w: torch.addmv(z, w, x), r(3), r(4), weights={"w": r(4, 3)})
fn("addr", lambda x, y, z: torch.addr(z, x, y), r(2), r(3), r(2, 3))
fn("outer", lambda x, y: torch.outer(x, y), r(2), r(3))
fn("grouped products", lambda x, w: torch.nn.functional.grouped_mm(x, w, offs=torch.tensor([2, 2, 5], dtype=torch.int32)),
   r(5, 8), weights={"w": r(3, 8, 8)})  # fmt: skip
fn("einsum mix", lambda x, y: torch.einsum("bic,bjc->bij", x, y), r(1, 3, 2), r(1, 4, 2))
fn("einsum stored", lambda x, w: torch.einsum("bhi,hio->bho", x, w), r(1, 2, 3), weights={"w": r(2, 3, 4)})
fn("einsum three", lambda x, y, w: torch.einsum("bi,bj,ijk->bk", x, y, w), r(1, 2), r(1, 3), weights={"w": r(2, 3, 2)})
fn("einsum diagonal", lambda x: torch.einsum("bii->bi", x), r(1, 3, 3))
fn("einsum trace", lambda x: torch.einsum("bii->b", x), r(1, 3, 3))
fn("tensordot", lambda x, w: torch.tensordot(x, w, dims=2), r(1, 2, 3), weights={"w": r(2, 3, 4)})
fn("sum of stored products", lambda x, w: (x.unsqueeze(-1) * w).sum(1), r(1, 3), weights={"w": r(3, 2)})
fn("zeros in a constant factor", lambda x, y: (x * torch.tensor([1.0, 0.0, 2.0])) @ y, r(2, 3), r(3, 2))

for dims, conv, shape in ((1, nn.Conv1d, (7,)), (2, nn.Conv2d, (5, 6)), (3, nn.Conv3d, (4, 3, 4))):
    x = r(1, 2, *shape)
    case(f"conv{dims}d", lambda conv=conv: conv(2, 3, 3), x)
    case(f"conv{dims}d stride padding", lambda conv=conv: conv(2, 2, 3, stride=2, padding=1), x)
    case(f"conv{dims}d dilation", lambda conv=conv: conv(2, 2, 2, dilation=2), x)
    case(f"conv{dims}d groups", lambda conv=conv: conv(2, 4, 3, padding=1, groups=2), x)
    for mode in ("reflect", "replicate", "circular"):
        case(
            f"conv{dims}d {mode}",
            lambda conv=conv, mode=mode: conv(2, 2, 3, padding=1, padding_mode=mode, stride=2), x,
        )  # fmt: skip
for dims, conv, shape in (
    (1, nn.ConvTranspose1d, (4,)), (2, nn.ConvTranspose2d, (3, 3)), (3, nn.ConvTranspose3d, (2, 2, 2)),
):  # fmt: skip
    x = r(1, 2, *shape)
    case(f"conv{dims}d transposed", lambda conv=conv: conv(2, 3, 3, stride=2, padding=1, output_padding=1), x)
    case(f"conv{dims}d transposed groups", lambda conv=conv: conv(2, 4, 2, stride=2, groups=2, dilation=2), x)
case("conv2d same", lambda: nn.Conv2d(1, 2, (3, 2), padding="same"), r(1, 1, 4, 4))
case("conv2d asymmetric", lambda: nn.Conv2d(1, 2, (1, 3), stride=(1, 2), padding=(0, 1)), r(1, 1, 3, 5))
case("conv2d unbatched", lambda: nn.Conv2d(2, 2, 3), r(2, 4, 4))
case("conv2d depthwise multiplier", lambda: nn.Conv2d(2, 4, 3, groups=2), r(1, 2, 4, 4))
case("conv2d batch of two", lambda: nn.Conv2d(1, 2, 2), r(2, 1, 3, 3))
case(
    "convs in a row", lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 1, 3)), r(1, 1, 5, 5)
)
fn("conv2d with weights of the data", lambda x, w: F.conv2d(x, w, padding=1, groups=2), r(1, 4, 3, 3), r(4, 2, 2, 2))
fn("conv1d with weights of the data only", lambda w: F.conv1d(torch.ones(1, 2, 5), w), r(3, 2, 2))
fn("conv2d transposed with weights of the data", lambda x, w: F.conv_transpose2d(x, w, stride=2), r(2, 4, 3, 3), r(4, 2, 2, 2))
fn("_convolution op", lambda x, w: aten._convolution.default(
    x, w, None, [1], [1], [1], False, [0], 1, False, False, True, True), r(1, 2, 5), weights={"w": r(2, 2, 3)})  # fmt: skip

# -- pooling, reductions, scans ------------------------------------------------------------------------

for dims, shape in ((1, (7,)), (2, (5, 6)), (3, (4, 4, 4))):
    x = r(1, 2, *shape)
    for kind in ("Max", "Avg"):
        pool = getattr(nn, f"{kind}Pool{dims}d")
        adaptive = getattr(nn, f"Adaptive{kind}Pool{dims}d")
        case(f"{kind} pool {dims}d", lambda pool=pool: pool(2), x)
        case(f"{kind} pool {dims}d ceil", lambda pool=pool: pool(3, stride=2, padding=1, ceil_mode=True), x)
        case(f"adaptive {kind} pool {dims}d", lambda adaptive=adaptive: adaptive(3), x)
        case(f"global {kind} pool {dims}d", lambda adaptive=adaptive: adaptive(1), x)
    case(f"Max pool {dims}d dilation", lambda dims=dims: getattr(nn, f"MaxPool{dims}d")(2, stride=1, dilation=2), x)
case("avg pool without padding in the count", lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), r(1, 1, 5, 5))
case("adaptive pool to the same size", lambda: nn.AdaptiveAvgPool2d(3), r(1, 2, 3, 3))
case("adaptive max pool to the same size", lambda: nn.AdaptiveMaxPool2d(3), r(1, 2, 3, 3))
case("Lp pool", lambda: nn.LPPool2d(2, 2), r(1, 1, 4, 4).abs())
for name in ("sum", "mean", "amax", "amin", "prod", "logsumexp", "var", "std", "nansum"):
    fn(f"{name} dim", lambda x, name=name: getattr(torch, name)(x, 1), r(1, 3, 4))
    fn(f"{name} keepdim", lambda x, name=name: getattr(torch, name)(x, dim=-1, keepdim=True), r(1, 3, 4))
for name in ("sum", "mean", "max", "min", "prod", "var", "std", "median", "nanmedian", "norm"):
    fn(f"{name} of all", lambda x, name=name: getattr(torch, name)(x), r(1, 3, 2))
fn("mean over two dims", lambda x: x.mean((2, 3)), r(1, 2, 3, 3))
fn("sum of a scalar", lambda x: x.sum().sum(), r(1, 3))
fn("sum over length 1", lambda x: x.unsqueeze(1).sum(1), r(1, 3))
fn("amax over length 1", lambda x: x.unsqueeze(1).amax(1) + x.relu(), r(1, 3))
for name in ("max", "min", "median", "nanmedian", "mode"):
    fn(f"{name} along dim", lambda x, name=name: getattr(torch, name)(x, 1)[0], r(1, 4, 2))
fn("kthvalue", lambda x: torch.kthvalue(x, 2, dim=1)[0], r(1, 4, 2))
fn("aminmax", lambda x: torch.aminmax(x, dim=1), r(1, 4, 2))
fn("var_mean", lambda x: torch.var_mean(x, 1), r(1, 4, 2))
fn("std_mean", lambda x: torch.std_mean(x, 1), r(1, 4, 2))
fn("vector norm", lambda x: torch.linalg.vector_norm(x, dim=1), r(1, 4, 2))
fn("norm along dim", lambda x: torch.norm(x, dim=1), r(1, 4, 2))
fn("linalg norm", lambda x: torch.linalg.norm(x), r(2, 3))
fn("normalize", lambda x: F.normalize(x, dim=1), r(1, 4, 2))
fn("cosine similarity", lambda x, y: F.cosine_similarity(x, y), r(1, 4), r(1, 4, seed=1))
for name in ("cumsum", "cumprod", "logcumsumexp"):
    fn(name, lambda x, name=name: getattr(torch, name)(x, 1), r(1, 4, 2))
for name in ("cummax", "cummin"):
    fn(name, lambda x, name=name: getattr(torch, name)(x, 1)[0], r(1, 4, 2))
fn("cumsum of a scalar", lambda x: x.sum().cumsum(0), r(1, 3))
fn("sort", lambda x: x.sort(1)[0], r(1, 4, 2))
fn("sort last dim, descending", lambda x: torch.sort(x, descending=True)[0], r(1, 2, 4))
fn("msort", lambda x: torch.msort(x), r(4, 2))
fn("topk", lambda x: x.topk(2, 1)[0], r(1, 4, 2))
fn("topk last dim", lambda x: x.topk(2)[0], r(1, 2, 4))

# -- normalizations ------------------------------------------------------------------------------------


def affine(norm: nn.Module) -> nn.Module:
    """A norm with statistics and weights that are no round numbers."""
    with torch.no_grad():
        for tensor in (*norm.parameters(), *norm.buffers()):
            if tensor.dtype.is_floating_point:
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return norm.eval()


for options, label in (({}, ""), (STATS, " with statistics")):
    case("layer norm" + label, lambda: affine(nn.LayerNorm(4)), r(1, 3, 4), **options)
    case("layer norm two dims" + label, lambda: nn.LayerNorm((3, 4)), r(1, 2, 3, 4), **options)
    case("layer norm bare" + label, lambda: nn.LayerNorm(4, elementwise_affine=False), r(1, 3, 4), **options)
    case("rms norm" + label, lambda: nn.RMSNorm(4), r(1, 3, 4), **options)
    case("group norm" + label, lambda: affine(nn.GroupNorm(2, 4)), r(1, 4, 3), **options)
    case("group norm bare" + label, lambda: nn.GroupNorm(2, 4, affine=False), r(1, 4, 2, 2), **options)
    case("instance norm" + label, lambda: nn.InstanceNorm2d(2), r(1, 2, 3, 3), **options)
    case("instance norm 1d" + label, lambda: nn.InstanceNorm1d(2, affine=True), r(1, 2, 5), **options)
    case("instance norm 3d" + label, lambda: nn.InstanceNorm3d(2), r(1, 2, 2, 2, 2), **options)
    case("instance norm unbatched" + label, lambda: nn.InstanceNorm2d(2), r(2, 3, 3), **options)
    fn("instance norm function" + label, lambda x: F.instance_norm(x), r(1, 2, 3, 3), **options)
    fn("rms norm function, then a product" + label, lambda x, w: F.rms_norm(x, (4,)) @ w, r(1, 3, 4), weights={"w": r(4, 2)},
       **options)  # fmt: skip
    fn("rms norm function" + label, lambda x: F.rms_norm(x, (4,)), r(1, 3, 4), **options)
    fn("renorm" + label, lambda x: torch.renorm(x, 2, 1, 0.5), r(1, 3, 4), **options)
    fn("softmax" + label, lambda x: x.softmax(-1), r(1, 2, 4), **options)
    fn("log softmax" + label, lambda x: x.log_softmax(1), r(1, 3, 2), **options)
    fn("softmax before a product" + label, lambda x, y: x.softmax(-1) @ y, r(1, 2, 4), r(1, 4, 2), **options)
case("batch norm", lambda: affine(nn.BatchNorm1d(3)), r(1, 3))
case("batch norm 2d", lambda: nn.Sequential(nn.Conv2d(1, 2, 3), affine(nn.BatchNorm2d(2)), nn.ReLU()), r(1, 1, 4, 4))
case("batch norm bare", lambda: nn.BatchNorm1d(3, affine=False).eval(), r(1, 3, 4))
case("instance norm with running statistics",
     lambda: affine(nn.InstanceNorm1d(2, track_running_stats=True)), r(1, 2, 4))  # fmt: skip
fn("_native_batch_norm_legit_no_training op", lambda x, m, v: aten._native_batch_norm_legit_no_training.default(
    x, None, None, m, v, 0.1, 1e-5)[0], r(1, 3, 4), weights={"m": r(3), "v": r(3).abs() + 1})  # fmt: skip
fn("_batch_norm_no_update op", lambda x, w, m, v: aten._batch_norm_no_update.default(
    x, w, None, m, v, 0.1, 1e-5)[0], r(1, 3, 4), weights={"w": r(3), "m": r(3), "v": r(3).abs() + 1})  # fmt: skip
fn("_native_batch_norm_legit op", lambda x, w, m, v: aten._native_batch_norm_legit.default(
    x, w, None, m, v, False, 0.1, 1e-5)[0], r(1, 3, 4), weights={"w": r(3), "m": r(3), "v": r(3).abs() + 1})  # fmt: skip
case("local response norm", lambda: nn.LocalResponseNorm(2), r(1, 4, 3), **CANCELS)

# -- element-wise --------------------------------------------------------------------------------------

for name in (
    "ReLU", "ReLU6", "LeakyReLU", "PReLU", "RReLU", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish", "Softplus", "Tanh",
    "Sigmoid", "Hardtanh", "Hardsigmoid", "Hardswish", "Hardshrink", "Softshrink", "Tanhshrink", "Softsign",
    "LogSigmoid", "Identity", "Threshold",
):  # fmt: skip
    arguments = (0.1, 0.0) if name == "Threshold" else ()
    case(
        f"activation {name}",
        lambda name=name, arguments=arguments: nn.Sequential(
            nn.Linear(3, 4), getattr(nn, name)(*arguments), nn.Linear(4, 2)
        ).eval(),
        r(1, 3),
    )
for name in ("exp", "log1p", "sin", "cos", "tanh", "erf", "abs", "neg", "square", "rsqrt", "reciprocal", "sigmoid", "floor",
             "sign", "sqrt", "expm1", "frac"):  # fmt: skip
    fn(f"torch.{name}", lambda x, name=name: getattr(torch, name)(x), r(1, 3).abs() + 0.1)
fn("pow", lambda x: x**3 + x**2, r(1, 3))
fn("pow of activations", lambda x, y: x.abs() ** y, r(1, 3), r(1, 3, seed=1))
fn("atan2", lambda x, y: torch.atan2(x, y), r(1, 3), r(1, 3, seed=1))
fn("add", lambda x, y: x + y, r(1, 3), r(1, 3, seed=1))
fn("add broadcast", lambda x, y: x + y, r(1, 3, 1), r(1, 1, 2))
fn("add alpha", lambda x, y: torch.add(x, y, alpha=2), r(1, 3), r(1, 3, seed=1))
fn("add constant", lambda x: x + 1, r(1, 3))
fn("add to itself", lambda x: x + x, r(1, 3))
fn("sub", lambda x, y: x - y, r(1, 3), r(1, 3, seed=1))
fn("rsub", lambda x: 1 - x, r(1, 3))
fn("rsub op", lambda x, y: torch.rsub(x, y), r(1, 3), r(1, 3, seed=1))
fn("mul", lambda x, y: x * y, r(1, 3), r(1, 3, seed=1))
fn("mul broadcast", lambda x, y: x * y, r(1, 2, 3), r(1, 2, 1))
fn("mul by stored", lambda x, w: x * w, r(1, 3), weights={"w": torch.tensor([1.0, 0.0, 2.0])})
fn("mul by zero", lambda x: x * 0 + x.roll(1), r(1, 3))
fn("mul by its own activation", lambda x: x * x.sigmoid(), r(1, 3))
fn("div", lambda x, y: x / y, r(1, 3), r(1, 3, seed=1))
fn("div by constant", lambda x: x / 2 + 2 / x, r(1, 3))
fn("where constant", lambda x, y: torch.where(torch.tensor([True, False, True]), x, y), r(1, 3), r(1, 3, seed=1))
fn("where scalar", lambda x: torch.where(torch.tensor([True, False, True]), x, 0.0), r(1, 3))
fn("where by the data", lambda x, y: torch.where(x > 0, x, y), r(1, 3), r(1, 3, seed=1))
fn("leaky by where", lambda x: torch.where(x > 0, x, 0.1 * x), r(1, 3))
fn("masked_fill constant", lambda x: x.masked_fill(torch.tensor([True, False, True]), 0.0), r(1, 3))
fn("masked_fill number", lambda x: x.masked_fill(torch.tensor([True, False, True]), 3.0), r(1, 3))
fn("masked_fill by the data", lambda x: x.masked_fill(x > 0, 0.0), r(1, 3))
fn("masked_fill with an activation", lambda x, y: x.masked_fill(torch.tensor([True, False, True]), y.sum()),
   r(1, 3), r(1, 2))  # fmt: skip
fn("masked scores", lambda x, y: x.masked_fill(torch.ones(4, 4).triu(1).bool(), float("-inf")).softmax(-1) @ y,
   r(1, 4, 4), r(1, 4, 2))  # fmt: skip
fn("masked scores by where", lambda x, y: torch.where(
    torch.ones(4, 4).tril().bool(), x, torch.finfo(x.dtype).min).softmax(-1) @ y, r(1, 4, 4), r(1, 4, 2))  # fmt: skip
fn("masked scores by addition", lambda x, y: (x + torch.full((4, 4), -1e9).triu(1)).softmax(-1) @ y,
   r(1, 4, 4), r(1, 4, 2))  # fmt: skip
fn("masked scores less their maximum", lambda x, y: (lambda s: (s - s.amax(-1, keepdim=True)).softmax(-1) @ y)(
    x + torch.full((4, 4), -1e9).triu(1)), r(1, 4, 4), r(1, 4, 2), equal=False, why="a lone score less itself is zero")  # fmt: skip
fn("masked scores and an activation", lambda x, z, y: (x + z.masked_fill(torch.ones(4, 4).triu(1).bool(), -1e9)).softmax(-1) @ y,
   r(1, 4, 4), r(1, 4, 4, seed=1), r(1, 4, 2))  # fmt: skip
fn("clamp", lambda x: x.clamp(-0.5, 0.5) + x.clamp_min(0).flip(1), r(1, 3))
fn("padding that a clamp makes a constant", lambda x, y: F.pad(x, (0, 1)).clamp_min(0.5) @ y, r(2, 2), r(3, 2))
fn("padding that a clamp leaves at zero", lambda x, y: F.pad(x, (0, 1)).clamp(0, 6) @ y + F.pad(x, (1, 0)).clamp_max(1.0) @ y,
   r(2, 2), r(3, 2))  # fmt: skip
fn("clamp by activations", lambda x, y, z: torch.clamp(x, y, z), r(1, 3), r(1, 3, seed=1), r(1, 3, seed=2))
fn("maximum", lambda x, y: torch.maximum(x, y) + torch.minimum(x, y).roll(1), r(1, 3), r(1, 3, seed=1))
fn("max of two", lambda x, y: torch.max(x, y), r(1, 3), r(1, 3, seed=1))
fn("min of two", lambda x, y: torch.min(x, y), r(1, 3), r(1, 3, seed=1))
fn("glu", lambda x: F.glu(x, 1), r(1, 6))
fn("swiglu", lambda x, w: F.silu(x @ w[:, :4]) * (x @ w[:, 4:]), r(1, 3), weights={"w": r(3, 8)})
fn("geglu", lambda x: (lambda a, b: a * F.gelu(b))(*x.chunk(2, -1)), r(1, 2, 6))
fn("addcmul", lambda x, y, z: torch.addcmul(x, y, z), r(1, 3), r(1, 3, seed=1), r(1, 3, seed=2))
fn("addcdiv", lambda x, y, z: torch.addcdiv(x, y, z), r(1, 3), r(1, 3, seed=1), r(1, 3, seed=2))
fn(
    "addcmul with a stored factor",
    lambda x, y, w: torch.addcmul(x, y, w),
    r(1, 3),
    r(1, 3, seed=1),
    weights={"w": r(3)},
)
fn("addcmul from a constant", lambda y, z, w: torch.addcmul(w, y, z), r(1, 3), r(1, 3, seed=2), weights={"w": r(3)})
fn("lerp", lambda x, y: torch.lerp(x, y, 0.3), r(1, 3), r(1, 3, seed=1))
fn("lerp by an activation", lambda x, y, z: torch.lerp(x, y, z), r(1, 3), r(1, 3, seed=1), r(1, 3, seed=2))
fn("sub of a mean", lambda x: (x - x.mean(1, keepdim=True)).relu(), r(1, 4))
fn("softmax by hand", lambda x: x.exp() / x.exp().sum(-1, keepdim=True), r(1, 4))
case("dropout in training", lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)), r(1, 3))
case("dropout2d in training", lambda: nn.Sequential(nn.Dropout2d(0.5), nn.Conv2d(2, 2, 2)), r(1, 2, 3, 3))
case("dropout1d in training", lambda: nn.Dropout1d(0.5), r(1, 2, 3))
case("dropout3d in training", lambda: nn.Dropout3d(0.5), r(1, 2, 2, 2, 2))
case("alpha dropout in training", lambda: nn.AlphaDropout(0.5), r(1, 3))
case("feature alpha dropout in training", lambda: nn.FeatureAlphaDropout(0.5), r(1, 2, 3))
fn("feature_dropout in training", lambda x: torch.feature_dropout(x, 0.5, True), r(1, 2, 3))
fn("feature_alpha_dropout function", lambda x: torch.feature_alpha_dropout(x, 0.5, True), r(1, 2, 3))
fn("alpha_dropout function", lambda x: torch.alpha_dropout(x, 0.5, True), r(1, 2, 3))
fn("native_dropout op", lambda x: aten.native_dropout.default(x, 0.5, True)[0], r(1, 2, 3))

# -- lookups and attention -----------------------------------------------------------------------------

case("embedding", lambda: nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 2)), torch.tensor([[1, 4, 4]]))
case("embedding bag", lambda: nn.EmbeddingBag(7, 3, mode="mean"), torch.tensor([[1, 4, 2], [3, 3, 0]]), replay=False)
case(
    "embedding bag offsets",
    lambda: nn.EmbeddingBag(7, 3, mode="sum"),
    torch.tensor([1, 4, 2, 3]),
    torch.tensor([0, 3]),
    replay=False,
)
case("embedding bag max", lambda: nn.EmbeddingBag(7, 3, mode="max"), torch.tensor([[1, 4, 2]]), replay=False)
fn("_embedding_bag_forward_only op", lambda i, o, w: aten._embedding_bag_forward_only.default(w, i, o, False, 0)[0],
   torch.tensor([1, 4, 2, 3]), torch.tensor([0, 3]), weights={"w": r(5, 2)}, replay=False)  # fmt: skip
fn("lookup by index", lambda i, w: w[i] * 2, torch.tensor([1, 3]), weights={"w": r(5, 2)})
fn("lookup by index_select", lambda i, w: w.index_select(0, i), torch.tensor([1, 3]), weights={"w": r(5, 2)})
fn("lookup by gather", lambda i, w: w.gather(0, i), torch.tensor([[1, 3]]), weights={"w": r(5, 2)})
fn("one-hot lookup", lambda i, w: F.one_hot(i, 5).float() @ w, torch.tensor([[1, 3]]), weights={"w": r(5, 2)},
   equal=False, why="a product with integers has no sources")  # fmt: skip


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, **options)


Q, K, V = r(1, 2, 3, 4), r(1, 2, 5, 4, seed=1), r(1, 2, 5, 3, seed=2)
S = [r(1, 2, 4, 3, seed=k) for k in range(3)]
BOOL = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
fn("attention", attend, Q, K, V)
fn("attention causal", lambda q, k, v: attend(q, k, v, is_causal=True), *S)
fn("attention bool mask", lambda q, k, v: attend(q, k, v, attn_mask=BOOL), Q, K, V)
fn("attention float mask", lambda q, k, v: attend(
    q, k, v, attn_mask=torch.zeros(3, 5).masked_fill(~BOOL, float("-inf"))), Q, K, V)  # fmt: skip
fn("attention bias", lambda q, k, v, w: attend(q, k, v, attn_mask=w), Q, K, V, weights={"w": r(2, 3, 5)})
fn(
    "attention grouped queries",
    lambda q, k, v: attend(q, k, v, enable_gqa=True),
    r(1, 4, 3, 2),
    r(1, 2, 3, 2),
    r(1, 2, 3, 2, seed=1),
)
fn("attention scale", lambda q, k, v: attend(q, k, v, scale=0.3), Q, K, V)
fn("attention of x with itself", lambda x: attend(x, x, x), S[0])
fn("attention learned queries", lambda k, v, w: attend(w, k, v), K, V, weights={"w": r(1, 2, 3, 4)})
fn("attention constant keys", lambda q, v, w: attend(q, w, v), Q, V, weights={"w": r(1, 2, 5, 4)})
fn("attention constant values", lambda q, k, w: attend(q, k, w), Q, K, weights={"w": r(1, 2, 5, 3)})
fn("attention with dropout", lambda q, k, v: attend(q, k, v, dropout_p=0.5), Q, K, V)
fn("softmax with a sink", lambda x, w: torch.cat([x, w.expand(1, 3, 1)], -1).softmax(-1)[..., :-1] @ x.transpose(1, 2),
   r(1, 3, 4), weights={"w": r(1)})  # fmt: skip


class Attention(nn.Module):
    """Multi-head attention with the given options; `call` are those of its forward."""

    def __init__(self, call: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **options)
        self.call = {"need_weights": False, **(call or {})}

    def forward(self, q: torch.Tensor, k: torch.Tensor | None = None, v: torch.Tensor | None = None) -> Any:
        k = q if k is None else k
        return self.attention(q, k, k if v is None else v, **self.call)


CAUSAL = torch.ones(3, 3).triu(1).bool()
PADDING = torch.tensor([[False, False, True]])
case("multi-head attention", lambda: Attention().eval(), r(1, 3, 4))
case("multi-head attention in training", lambda: Attention(dropout=0.2), r(1, 3, 4))
case("multi-head attention weights", lambda: Attention({"need_weights": True}).eval(), r(1, 3, 4))
case("multi-head attention causal", lambda: Attention({"attn_mask": CAUSAL, "is_causal": True}).eval(), r(1, 3, 4))
case("multi-head attention padding", lambda: Attention({"key_padding_mask": PADDING}).eval(), r(1, 3, 4))
case("multi-head attention both masks",
     lambda: Attention({"key_padding_mask": PADDING, "attn_mask": CAUSAL}).eval(), r(1, 3, 4))  # fmt: skip
case("multi-head attention cross", lambda: Attention().eval(), r(1, 2, 4), r(1, 3, 4))
case("multi-head attention other widths", lambda: Attention(kdim=3, vdim=5).eval(), r(1, 2, 4), r(1, 3, 3), r(1, 3, 5))
case("multi-head attention bias of keys", lambda: Attention(add_bias_kv=True).eval(), r(1, 3, 4))
case("multi-head attention zero token", lambda: Attention(add_zero_attn=True).eval(), r(1, 3, 4))
case("transformer encoder", lambda: nn.TransformerEncoder(
    nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), 2).eval(), r(1, 3, 4))  # fmt: skip
case("transformer encoder norm first", lambda: nn.TransformerEncoderLayer(
    4, 2, 6, batch_first=True, norm_first=True, activation="gelu").eval(), r(1, 3, 4))  # fmt: skip
case("transformer encoder, time first", lambda: nn.TransformerEncoderLayer(4, 2, 6).eval(), r(3, 1, 4))
case(
    "transformer decoder", lambda: nn.TransformerDecoderLayer(4, 2, 6, batch_first=True).eval(), r(1, 2, 4), r(1, 3, 4)
)


class Seq2Seq(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Transformer(4, 2, 1, 1, 6, batch_first=True)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        mask = self.transformer.generate_square_subsequent_mask(target.shape[1])
        return self.transformer(source, target, tgt_mask=mask, tgt_is_causal=True)


case("transformer", lambda: Seq2Seq().eval(), r(1, 3, 4), r(1, 2, 4))

# -- recurrence ----------------------------------------------------------------------------------------

for kind in ("RNN", "LSTM", "GRU"):
    layer = getattr(nn, kind)
    case(kind, lambda layer=layer: layer(2, 3), r(3, 1, 2))
    case(f"{kind} layers", lambda layer=layer: layer(2, 3, num_layers=2), r(3, 1, 2))
    case(f"{kind} both ways", lambda layer=layer: layer(2, 2, bidirectional=True, num_layers=2), r(3, 1, 2))
    case(f"{kind} batch first", lambda layer=layer: layer(2, 3, batch_first=True, bias=False), r(2, 3, 2))
    case(f"{kind} unbatched", lambda layer=layer: layer(2, 3), r(3, 2))
    case(f"{kind} dropout in training", lambda layer=layer: layer(2, 3, num_layers=2, dropout=0.5), r(3, 1, 2))
    state = r(1, 1, 3)
    case(f"{kind} initial states", lambda layer=layer: layer(2, 3), r(3, 1, 2),
         (state, r(1, 1, 3, seed=1)) if kind == "LSTM" else state)  # fmt: skip
case("RNN relu", lambda: nn.RNN(2, 3, nonlinearity="relu"), r(3, 1, 2))
case("LSTM projection", lambda: nn.LSTM(2, 4, proj_size=3), r(3, 1, 2))
case("LSTM projection both ways", lambda: nn.LSTM(2, 3, proj_size=2, num_layers=2, bidirectional=True), r(3, 1, 2))


class Packed(nn.Module):
    """A recurrent layer on sequences of different lengths."""

    def __init__(self, layer: nn.Module, lengths: tuple[int, ...]) -> None:
        super().__init__()
        self.layer, self.lengths = layer, lengths

    def forward(self, x: torch.Tensor) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor(self.lengths), enforce_sorted=False)
        out, state = self.layer(packed)
        return nn.utils.rnn.pad_packed_sequence(out)[0], state


for kind in ("RNN", "LSTM", "GRU"):
    case(f"packed {kind}", lambda kind=kind: Packed(getattr(nn, kind)(2, 3), (2, 3)), r(3, 2, 2))
    case(f"packed {kind} both ways",
         lambda kind=kind: Packed(getattr(nn, kind)(2, 2, bidirectional=True), (1, 3, 2)), r(3, 3, 2))  # fmt: skip


class Unrolled(nn.Module):
    """A recurrent cell in a loop of its own."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: list[torch.Tensor] = []
        state: Any = None
        for step in x:
            state = self.cell(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs)


for kind in ("RNNCell", "LSTMCell", "GRUCell"):
    case(f"{kind} in a loop", lambda kind=kind: Unrolled(getattr(nn, kind)(2, 3)), r(3, 1, 2))
