"""Layers written by hand: norms, attention, transforms, scans, sampling, graphs, matrix functions, reshuffling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.zoo.awkward import awkward, one
from tests.zoo.registry import Built, image


class Between(nn.Module):
    """A function between two linear layers, so that it has something to read and something that reads it."""

    def __init__(self, function: Callable[..., torch.Tensor], width: int, out: int, **weights: torch.Tensor) -> None:
        super().__init__()
        self.before, self.after, self.function = nn.Linear(width, width), nn.Linear(out, 3), function
        self.names = list(weights)
        for name, weight in weights.items():
            if weight.is_floating_point():
                self.register_parameter(name, nn.Parameter(weight))
            else:
                self.register_buffer(name, weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.function(self.before(x), *(getattr(self, name) for name in self.names)))


def layer(
    name: str, width: int, out: int, *shape: int, **weights: Any
) -> Callable[[Callable[..., torch.Tensor]], Callable[..., torch.Tensor]]:
    """Registers a function of (1, *shape, width), with the weights that make() draws, between two linear layers."""

    def register(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def build() -> Built:
            drawn = {k: w() if callable(w) else w for k, w in weights.items()}
            return Between(function, width, out, **drawn), one(*shape, width)

        awkward(name)(build)
        return function

    return register


def normal(*shape: int) -> Callable[[], torch.Tensor]:
    return lambda: torch.randn(shape)


# -- norms


@layer("rms_norm_by_hand", 6, 6, 4, g=normal(6))
def rms_norm(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * g


@layer("global_response_norm", 6, 6, 4, g=normal(6))
def global_response_norm(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    size = x.norm(p=2, dim=1, keepdim=True)
    return g * (x * size / (size.mean(-1, keepdim=True) + 1e-6)) + x


@awkward("local_response_norm")
def local_response_norm() -> Built:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.LocalResponseNorm(3), nn.Conv2d(6, 2, 1)), image(6)


@awkward("instance_and_group_norm")
def instance_and_group_norm() -> Built:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1)), image(6)


# -- attention


@layer("attention_by_einsum", 8, 8, 5, wq=normal(2, 8, 4), wk=normal(2, 8, 4), wv=normal(2, 8, 4))
def attention_by_einsum(x: torch.Tensor, wq: torch.Tensor, wk: torch.Tensor, wv: torch.Tensor) -> torch.Tensor:
    q, k, v = (torch.einsum("bnd,hde->bhne", x, w) for w in (wq, wk, wv))
    score = torch.einsum("bhie,bhje->bhij", q, k) / 2
    score = score.masked_fill(~torch.ones(5, 5, dtype=torch.bool).tril(), float("-inf"))
    return torch.einsum("bhij,bhje->bihe", score.softmax(-1), v).flatten(2)


@layer("relative_attention", 8, 8, 5, table=normal(9, 8))
def relative_attention(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Transformer-XL: the relative part is shifted into place by a view with one more column."""
    content = x @ x.transpose(1, 2)
    position = F.pad(x @ table[:5].T, (1, 0)).view(1, 6, 5)[:, 1:].reshape(1, 5, 5)
    return ((content + position) / 3).softmax(-1) @ x


@layer("sliding_window_attention", 4, 4, 8)
def sliding_window_attention(x: torch.Tensor) -> torch.Tensor:
    keys = F.pad(x, (0, 0, 1, 1)).unfold(1, 3, 1)  # (1, 8, 4, 3)
    weights = torch.einsum("bnd,bndw->bnw", x, keys).softmax(-1)
    return torch.einsum("bnw,bndw->bnd", weights, keys)


@layer("linear_attention", 4, 4, 5)
def linear_attention(x: torch.Tensor) -> torch.Tensor:
    q, k = F.elu(x) + 1, F.elu(x.flip(-1)) + 1
    state = torch.einsum("bnd,bne->bnde", k, x).cumsum(1)
    return torch.einsum("bnd,bnde->bne", q, state) / torch.einsum("bnd,bnd->bn", q, k.cumsum(1)).unsqueeze(-1)


@layer("learned_queries", 6, 6, 5, query=normal(3, 6))
def learned_queries(x: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(query.expand(x.shape[0], -1, -1), x, x)


@layer("rotary_and_alibi", 8, 8, 4)
def rotary_and_alibi(x: torch.Tensor) -> torch.Tensor:
    angle = torch.arange(4)[:, None] / torch.tensor([1.0, 10.0, 100.0, 1000.0])
    first, second = x.chunk(2, -1)
    turned = torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1)
    distance = -(torch.arange(4)[:, None] - torch.arange(4)).abs()
    return F.scaled_dot_product_attention(turned, turned, x, attn_mask=distance * 0.5)


class MultiHead(nn.Module):
    """The layer of PyTorch, asked for its weights, with a padding mask and a constant query beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True)
        self.pool, self.query = nn.MultiheadAttention(8, 2, batch_first=True), nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.tensor([[False, False, False, True]])
        y, weights = self.inner(x, x, x, key_padding_mask=hidden, need_weights=True)
        return self.pool(self.query, y, y, need_weights=False)[0], weights


@awkward("multihead_attention")
def multihead_attention() -> Built:
    return MultiHead(), one(4, 8)


@awkward("whole_transformer")
def whole_transformer() -> Built:
    return nn.Transformer(8, 2, 1, 1, 12, batch_first=True), (one(4, 8), one(3, 8))


# -- complex numbers and transforms


@layer("fourier_mixing", 4, 4, 6)
def fourier_mixing(x: torch.Tensor) -> torch.Tensor:
    return torch.fft.fft2(x).real


@layer("spectral_gate", 4, 4, 6, gate=normal(4, 4, 2))
def spectral_gate(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    return torch.fft.irfft(torch.fft.rfft(x, dim=1) * torch.view_as_complex(gate), n=6, dim=1)


@layer("long_convolution", 3, 3, 6, kernel=normal(6, 3))
def long_convolution(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Hyena and S4: a convolution as long as the sequence, by products of Fourier transforms."""
    return torch.fft.irfft(torch.fft.rfft(x, 12, dim=1) * torch.fft.rfft(kernel, 12, dim=0), n=12, dim=1)[:, :6]


@layer("spectrogram", 16, 10)
def spectrogram(x: torch.Tensor) -> torch.Tensor:
    return torch.stft(x, 8, 4, window=torch.hann_window(8), return_complex=True, center=False).abs().flatten(1)[:, :10]


class ComplexLayers(nn.Module):
    """Complex activations through complex linear maps (kept as two real ones), a modulus and a phase."""

    def __init__(self) -> None:
        super().__init__()
        self.real, self.imag, self.out = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        w = torch.complex(self.real(z.real) - self.imag(z.imag), self.real(z.imag) + self.imag(z.real))
        return self.out((w * w.conj() * torch.exp(1j * w.angle())).abs())


@awkward("complex_valued")
def complex_valued() -> Built:
    return ComplexLayers(), torch.randn(1, 4, dtype=torch.complex64)


class FourierOperator(nn.Module):
    """A Fourier neural operator, whose weights are complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.skip, self.out = nn.Linear(1, 3), nn.Conv1d(3, 3, 1), nn.Linear(3, 1)
        self.weight = nn.Parameter(torch.randn(3, 3, 2, dtype=torch.cfloat))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.lift(x).transpose(1, 2)
        modes = torch.fft.rfft(x)
        kept = torch.zeros_like(modes)
        kept[..., :2] = torch.einsum("bim,iom->bom", modes[..., :2], self.weight)
        return self.out(F.gelu(torch.fft.irfft(kept, n=x.shape[-1]) + self.skip(x)).transpose(1, 2))


@awkward("fourier_operator")
def fourier_operator() -> Built:
    return FourierOperator(), one(6, 1)


# -- scans and state spaces


class SelectiveScan(nn.Module):
    """Mamba's recurrence in its slow form: a state for each channel, updated step by step."""

    def __init__(self, width: int = 4, state: int = 3) -> None:
        super().__init__()
        self.into, self.conv = nn.Linear(width, 2 * width), nn.Conv1d(width, width, 3, groups=width, padding=2)
        self.pick, self.step, self.out = nn.Linear(width, 2 * state + 1), nn.Linear(1, width), nn.Linear(width, width)
        self.a, self.d = nn.Parameter(torch.rand(width, state).log()), nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        x, gate = self.into(x).chunk(2, -1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., :length].transpose(1, 2))
        b, c, dt = self.pick(x).split([3, 3, 1], -1)
        dt = F.softplus(self.step(dt))
        state, out = x.new_zeros(x.shape[0], x.shape[2], 3), []
        for t in range(length):
            keep = torch.exp(-dt[:, t, :, None] * self.a.exp())
            state = keep * state + dt[:, t, :, None] * b[:, t, None] * x[:, t, :, None]
            out.append((state * c[:, t, None]).sum(-1) + self.d * x[:, t])
        return self.out(torch.stack(out, 1) * F.silu(gate))


@awkward("selective_scan")
def selective_scan() -> Built:
    return SelectiveScan(), one(5, 4)


@layer("scan_by_logarithms", 4, 4, 6)
def scan_by_logarithms(x: torch.Tensor) -> torch.Tensor:
    """minGRU: h_t = a_t h_(t-1) + b_t for all t at once, by cumulative sums of logarithms."""
    keep, new = F.logsigmoid(x), F.softplus(x.flip(-1))
    total = keep.cumsum(1)
    return (total + torch.logcumsumexp(new.log() - total, 1)).exp()


@layer("scan_by_doubling", 3, 3, 8)
def scan_by_doubling(x: torch.Tensor) -> torch.Tensor:
    """An associative scan: log2(n) rounds of shifted products."""
    a, b, shift = x.sigmoid(), x, 1
    while shift < x.shape[1]:
        before = F.pad(b[:, :-shift], (0, 0, shift, 0))
        a, b = a * F.pad(a[:, :-shift], (0, 0, shift, 0), value=1.0), b + a * before
        shift *= 2
    return b


@layer("running_products", 3, 12, 5)
def running_products(x: torch.Tensor) -> torch.Tensor:
    x = x.sigmoid()
    return torch.cat([x.cumprod(1), x.cummax(1)[0], x.cummin(1)[0], x.diff(dim=1, prepend=x[:, :1])], -1)


class StateSpace(nn.Module):
    """A diagonal linear state space: a kernel that is computed from its parameters, and convolved."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.rand(4, 3)) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[-1]
        power = torch.exp(-self.a.exp().unsqueeze(-1) * torch.arange(length))
        kernel = torch.einsum("hn,hnl->hl", self.b * self.c, power)
        return F.conv1d(F.pad(x, (length - 1, 0)), kernel.flip(-1).unsqueeze(1), groups=4)


@awkward("state_space")
def state_space() -> Built:
    return StateSpace(), one(4, 6)


# -- sampling, pooling, reshuffling


class SpatialTransformer(nn.Module):
    """Looks where it wants to: the grid is computed from the image."""

    def __init__(self) -> None:
        super().__init__()
        self.where, self.conv = nn.Linear(2 * 36, 6), nn.Conv2d(2, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        theta = self.where(x.flatten(1)).view(-1, 2, 3)
        return self.conv(F.grid_sample(x, F.affine_grid(theta, [1, 2, 6, 6], align_corners=False), align_corners=False))


@awkward("spatial_transformer")
def spatial_transformer() -> Built:
    return SpatialTransformer(), image(6, 2)


class DeformableConv(nn.Module):
    """A deformable convolution from grid_sample and a sum over taps."""

    def __init__(self) -> None:
        super().__init__()
        self.offset, self.weight = nn.Conv2d(2, 18, 3, padding=1), nn.Parameter(torch.randn(3, 2, 9))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        move = self.offset(x).view(n, 9, 2, h, w).permute(0, 1, 3, 4, 2)
        base = torch.stack(torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")[::-1], -1)
        at = (base + 0.1 * move.tanh()).reshape(n, 9 * h, w, 2)
        taps = F.grid_sample(x, at, align_corners=True).view(n, c, 9, h, w)
        return torch.einsum("nckhw,ock->nohw", taps, self.weight)


@awkward("deformable_convolution")
def deformable_convolution() -> Built:
    return DeformableConv(), image(5, 2)


class Pools(nn.Module):
    """Pooling of all kinds, and the way back up."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.back = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.fraction = nn.FractionalMaxPool2d(2, output_size=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        small, places = F.max_pool2d(x, 2, return_indices=True)
        up = F.max_unpool2d(self.back(small), places, 2)
        parts = [
            F.adaptive_avg_pool2d(up, 3), F.adaptive_max_pool2d(x, 3), F.lp_pool2d(x, 2, 2)[..., :3, :3],
            self.fraction(x)[..., :3, :3], F.avg_pool2d(x, 3, 2, ceil_mode=True)[..., :3, :3],
        ]  # fmt: skip
        return torch.cat(parts, 1)


@awkward("pools")
def pools() -> Built:
    return Pools(), image(8, 1)


class Resizes(nn.Module):
    """Upsampling of all kinds, pixel shuffles, folds and rolls."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(2, 8, 1), nn.Conv2d(15, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shuffled = F.pixel_shuffle(self.conv(x), 2)
        ups = [F.interpolate(x, scale_factor=2, mode=mode) for mode in ("nearest", "nearest-exact", "area")]
        ups += [F.interpolate(x, scale_factor=2, mode=mode, align_corners=True) for mode in ("bilinear", "bicubic")]
        folded = F.fold(F.unfold(shuffled, 3, padding=1).relu(), shuffled.shape[-2:], 3, padding=1)
        sharp = F.interpolate(F.pixel_unshuffle(shuffled, 2), scale_factor=2, mode="bilinear", antialias=True)[:, :1]
        return self.last(torch.cat([folded.roll(1, -1), *ups, sharp, shuffled.rot90(1, (2, 3)).flip(2)], 1))


@awkward("resizes")
def resizes() -> Built:
    return Resizes(), image(4, 2)


# -- sets, graphs and points


class GraphAttention(nn.Module):
    """A graph attention layer on an edge list: gathers, a softmax over scattered groups, scattered sums."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.score = nn.Linear(4, 5), nn.Linear(10, 1)
        self.register_buffer("edges", torch.tensor([[0, 1, 2, 3, 0, 2], [1, 2, 3, 0, 2, 1]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.lin(x[0])
        source, target = self.edges
        power = F.leaky_relu(self.score(torch.cat([h[source], h[target]], -1))).exp()
        total = torch.zeros(4, 1).index_add_(0, target, power)
        message = h[source] * power / total[target]
        return torch.zeros_like(h).scatter_add(0, target[:, None].expand(-1, 5), message)


@awkward("graph_attention")
def graph_attention() -> Built:
    return GraphAttention(), one(4, 4)


class NeighbourConv(nn.Module):
    """Edge convolution on points: nearest neighbours by distance, gathered, and a maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near = torch.cdist(x, x).topk(3, -1, largest=False)[1]
        beside = x[0][near[0]].unsqueeze(0)
        here = x.unsqueeze(2).expand_as(beside)
        return self.mlp(torch.cat([here, beside - here], -1)).amax(2)


@awkward("neighbour_convolution")
def neighbour_convolution() -> Built:
    return NeighbourConv(), one(6, 3)


class SparseAdjacency(nn.Module):
    """A graph convolution with the adjacency as a matrix, and segments summed by scatter_reduce."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 4)
        adjacency = torch.tensor([[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.float32)
        self.register_buffer("adjacency", adjacency / adjacency.sum(1, keepdim=True))
        self.register_buffer("segment", torch.tensor([0, 0, 1, 1])[:, None].expand(4, 4).contiguous())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = (self.adjacency @ self.lin(x[0])).relu()
        return torch.zeros(2, 4).scatter_reduce(0, self.segment, h, "amax", include_self=False)


@awkward("graph_convolution")
def graph_convolution() -> Built:
    return SparseAdjacency(), one(4, 3)


@layer("radial_basis", 3, 5, 4, centres=normal(5, 3))
def radial_basis(x: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    return torch.exp(-torch.cdist(x, centres.expand(x.shape[0], -1, -1)) ** 2)


@layer("sorted_and_ranked", 6, 9)
def sorted_and_ranked(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x.sort(-1)[0], x.median(-1, keepdim=True)[0], x.kthvalue(2, -1, keepdim=True)[0], x[:, :1]], -1)


@layer("capsules", 4, 4, 6, weight=normal(6, 2, 4, 4))
def capsules(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Routing by agreement: three rounds of softmax, weighted sums and squashing."""
    votes = torch.einsum("bid,iode->bioe", x, weight)
    logits = x.new_zeros(x.shape[0], 6, 2, 1)
    out = votes.mean(1)
    for _ in range(3):
        joint = (logits.softmax(2) * votes).sum(1)
        size = joint.norm(dim=-1, keepdim=True)
        out = joint * size / (1 + size**2)
        logits = logits + (votes * out.unsqueeze(1)).sum(-1, keepdim=True)
    return out


@layer("splines", 3, 3, w=normal(3, 3, 5))
def splines(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """A Kolmogorov-Arnold layer: a sum of learned functions of single inputs."""
    hats = F.relu(1 - (x.tanh().unsqueeze(-1) * 2 - torch.arange(-2, 3)).abs())
    return torch.einsum("bik,iok->bo", hats, w)


@layer("tensor_train", 8, 8, a=normal(1, 2, 2, 3), b=normal(3, 4, 4, 1))
def tensor_train(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.einsum("nij,aikr,rjlb->nkl", x.view(-1, 2, 4), a, b).flatten(1)


@layer("matrix_functions", 9, 12)
def matrix_functions(x: torch.Tensor) -> torch.Tensor:
    m = x.view(-1, 3, 3) + 4 * torch.eye(3)
    parts = [torch.linalg.inv(m).flatten(1), torch.linalg.svdvals(m)]
    return torch.cat(parts, -1)


@layer("products_and_crosses", 6, 9)
def products_and_crosses(x: torch.Tensor) -> torch.Tensor:
    a, b = x.view(-1, 2, 3).unbind(1)
    outer = torch.einsum("bi,bj->bij", a, b)
    return torch.cat([torch.linalg.cross(a, b), outer.diagonal(dim1=1, dim2=2), outer.triu().sum(1)], -1)


class SinusoidalField(nn.Module):
    """Fourier features and sines all the way, with a bilinear form at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequency", torch.randn(2, 4))
        self.a, self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 6), nn.Bilinear(6, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = 2 * math.pi * x @ self.frequency
        h = torch.sin(30 * self.a(torch.cat([y.sin(), y.cos()], -1)))
        return self.c(torch.sin(self.b(h)), x)


@awkward("sinusoidal_field")
def sinusoidal_field() -> Built:
    return SinusoidalField(), one(2)
