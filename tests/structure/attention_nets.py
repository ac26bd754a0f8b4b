"""Small nets with attention of every kind, for the tests that compare implicit scores with scores as units."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

NETS: dict[str, tuple[Callable[[], nn.Module], tuple[torch.Tensor, ...]]] = {}
EXPLICIT: set[str] = set()  # nets whose scores must keep slots of their own


def r(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Attend(nn.Module):
    """Multi-head attention of x to `memory` (or to itself), fused or written out, with masks of many kinds.

    `heads` and `groups` are the heads of queries and of keys; `mask` a boolean tensor or None.
    """

    def __init__(
        self, width: int = 6, heads: int = 2, groups: int | None = None, *, fused: bool = True, causal: bool = False,
        mask: torch.Tensor | None = None, how: str = "fill", bias: torch.Tensor | None = None,
        values: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads, self.groups, self.fused, self.causal, self.how = heads, groups or heads, fused, causal, how
        self.d, self.e = width // heads, values or width // heads
        self.q = nn.Linear(width, heads * self.d)
        self.k = nn.Linear(width, self.groups * self.d)
        self.v = nn.Linear(width, self.groups * self.e)
        self.o = nn.Linear(heads * self.e, width)
        self.register_buffer("mask", mask)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: torch.Tensor, memory: torch.Tensor | None = None) -> torch.Tensor:
        y = x if memory is None else memory
        n, rows, cols = x.shape[0], x.shape[1], y.shape[1]
        q = self.q(x).view(n, rows, self.heads, self.d).transpose(1, 2)
        k = self.k(y).view(n, cols, self.groups, self.d).transpose(1, 2)
        v = self.v(y).view(n, cols, self.groups, self.e).transpose(1, 2)
        if self.fused:
            options: dict[str, Any] = {"enable_gqa": True} if self.groups != self.heads else {}
            if self.bias is not None:
                options["attn_mask"] = self.bias
            elif self.mask is not None and self.how == "add":
                options["attn_mask"] = torch.zeros(()).masked_fill(~self.mask, -1e9)
            else:
                options["attn_mask"] = self.mask
            out = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, **options)
        else:
            k, v = (t.repeat_interleave(self.heads // self.groups, 1) for t in (k, v))
            s = q @ k.transpose(-1, -2) / math.sqrt(self.d)
            if self.bias is not None:
                s = s + self.bias
            keep = torch.ones(rows, cols, dtype=torch.bool).tril() if self.causal else self.mask
            if keep is not None:
                if self.how == "fill":
                    s = s.masked_fill(~keep, float("-inf"))
                elif self.how == "where":
                    s = torch.where(keep, s, torch.finfo(s.dtype).min)
                else:
                    s = s + torch.zeros(()).masked_fill(~keep, -1e9)
            out = F.dropout(s.softmax(-1), 0.1, self.training) @ v
        return self.o(out.transpose(1, 2).reshape(n, rows, self.heads * self.e))


def net(name: str, make: Callable[[], nn.Module], *inputs: torch.Tensor, explicit: bool = False) -> None:
    NETS[name] = (make, inputs)
    if explicit:
        EXPLICIT.add(name)


X, Y = r(1, 5, 6), r(1, 4, 6, seed=1)
KEEP = torch.rand(5, 5, generator=torch.Generator().manual_seed(3)) < 0.6
PADDED = torch.tensor([1, 1, 1, 0, 0], dtype=torch.bool).expand(5, 5)
BLIND = KEEP.clone()
BLIND[2] = False
PER_HEAD = torch.rand(1, 2, 5, 5, generator=torch.Generator().manual_seed(4)) < 0.5
BAND = (torch.arange(5)[:, None] - torch.arange(5)).abs() <= 1
SLIDING = torch.ones(5, 5, dtype=torch.bool).tril() & BAND
CACHE = torch.ones(5, 4, dtype=torch.bool).tril(-1)

for fused in (True, False):
    tag = "fused" if fused else "eager"
    net(f"self, {tag}", lambda f=fused: Attend(fused=f), X)
    net(f"cross, {tag}", lambda f=fused: Attend(fused=f), X, Y)
    net(f"causal, {tag}", lambda f=fused: Attend(fused=f, causal=True), X)
    net(f"one head, {tag}", lambda f=fused: Attend(heads=1, fused=f), X)
    net(f"heads of width one, {tag}", lambda f=fused: Attend(heads=6, fused=f, causal=True), X)
    net(f"wide values, {tag}", lambda f=fused: Attend(fused=f, values=4), X, Y)
    net(f"values of width one, {tag}", lambda f=fused: Attend(fused=f, values=1), X)
    net(f"grouped queries, {tag}", lambda f=fused: Attend(heads=3, groups=1, fused=f, causal=True), X)
    net(f"grouped queries in pairs, {tag}", lambda f=fused: Attend(8, 4, 2, fused=f, mask=KEEP), r(1, 5, 8))
    net(f"shared bias, {tag}", lambda f=fused: Attend(fused=f, bias=r(5, 5)), X)
    net(f"bias per head, {tag}", lambda f=fused: Attend(fused=f, bias=r(1, 2, 5, 5)), X)
    net(f"one query, {tag}", lambda f=fused: Attend(fused=f), r(1, 1, 6), Y)
    net(f"one key, {tag}", lambda f=fused: Attend(fused=f), X, r(1, 1, 6))
    net(f"batch of two, {tag}", lambda f=fused: Attend(fused=f, causal=True), r(2, 4, 6))
    net(f"shorter keys, {tag}", lambda f=fused: Attend(fused=f, mask=CACHE), X, Y)
    for kind, mask in (("random", KEEP), ("padding", PADDED), ("blind row", BLIND), ("head", PER_HEAD), ("band", BAND),
                       ("sliding", SLIDING)):  # fmt: skip
        for how in ("fill", "add"):
            net(f"{kind} mask, {how}, {tag}", lambda f=fused, m=mask, h=how: Attend(fused=f, mask=m, how=h), X)
net("mask by where, eager", lambda: Attend(fused=False, mask=KEEP, how="where"), X)


class Module(nn.Module):
    """nn.MultiheadAttention, with what its forward takes."""

    def __init__(self, *, weights: bool = False, returned: bool = False, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, **{"batch_first": True, **options})
        self.weights, self.returned = weights, returned

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> Any:
        y = x if y is None else y
        out, weights = self.attention(x, y, y, need_weights=self.weights or self.returned)
        return (out, weights) if self.returned else out


class Causal(Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.attention(x, x, x, attn_mask=mask, need_weights=self.weights)[0]


class Padded(Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        hidden = torch.tensor([[False, False, True, True, True]])
        return self.attention(x, x, x, key_padding_mask=hidden, need_weights=self.weights)[0]


net("module", Module, X)
net("module, cross", Module, X, Y)
net("module, causal", Causal, X)
net("module, padded", Padded, X)
net("module, bias on keys", lambda: Module(add_bias_kv=True), X)
net("module, zero key", lambda: Module(add_zero_attn=True), X, explicit=True)
net("module with weights", lambda: Module(weights=True), X)
net("module with weights, cross", lambda: Module(weights=True), X, Y)
net("module with weights, time first", lambda: Module(weights=True, batch_first=False), r(5, 1, 6))
net("module with weights, causal", lambda: Causal(weights=True), X)
net("module, weights returned", lambda: Module(returned=True), X, explicit=True)
net("encoder layer", lambda: nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), X)
net("encoder layer, norm first", lambda: nn.TransformerEncoderLayer(6, 2, 8, norm_first=True, batch_first=True), X)
net("decoder layer", lambda: nn.TransformerDecoderLayer(6, 2, 8, batch_first=True), X, Y)
net("transformer", lambda: nn.Transformer(6, 2, 1, 1, 8, batch_first=True), X, Y)


class Learned(nn.Module):
    """Learned queries read the input: the query side is constant."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.query, self.k, self.v = nn.Parameter(r(1, 3, 6)), nn.Linear(6, 6), nn.Linear(6, 4)
        self.fused = fused

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        k, v = self.k(x), self.v(x)
        if self.fused:
            return F.scaled_dot_product_attention(self.query, k, v)
        return (self.query @ k.mT).softmax(-1) @ v


class Memory(nn.Module):
    """The input reads a learned memory: keys and values are constant."""

    def __init__(self, fused: bool, values: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(6, 4), nn.Parameter(r(1, 3, 4)), nn.Linear(6, 4)
        self.constant = nn.Parameter(r(1, 3, 4, seed=5))
        self.fused, self.values = fused, values

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v = self.v(x)[:, :3] if self.values else self.constant
        if self.fused:
            return F.scaled_dot_product_attention(self.q(x), self.k, v)
        return (self.q(x) @ self.k.mT).softmax(-1) @ v


class ClassToken(nn.Module):
    """A learned token before the others: its query, key and value are constants, and sees nobody but others."""

    def __init__(self, fused: bool, layers: int = 1) -> None:
        super().__init__()
        self.token = nn.Parameter(r(1, 1, 6))
        self.layers = nn.ModuleList([Attend(fused=fused) for _ in range(layers)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        for layer in self.layers:
            x = x + layer(x)
        return x[:, 0]


class Windows(nn.Module):
    """Swin: windows of a shifted image, a bias by relative position, -100 (or -inf) between regions."""

    def __init__(self, low: float = -100.0) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(4, 12), nn.Linear(4, 4)
        self.table, self.low = nn.Parameter(r(9, 2)), low

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, h, w, c = x.shape
        x = x.roll((-1, -1), (1, 2)).view(n, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
        q, k, v = self.qkv(x).view(-1, 4, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        at = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
        apart = (at[:, :, None] - at[:, None] + 1).permute(1, 2, 0)
        bias = self.table[apart[..., 0] * 3 + apart[..., 1]].permute(2, 0, 1)
        region = (torch.arange(h)[:, None] >= h - 1).long() * 2 + (torch.arange(w) >= w - 1).long()
        region = region.view(h // 2, 2, w // 2, 2).transpose(1, 2).reshape(-1, 4)
        mask = torch.zeros(()).masked_fill(region[:, None] != region[:, :, None], self.low)
        s = q @ k.transpose(-1, -2) + bias + mask[:, None]
        return self.out((s.softmax(-1) @ v).transpose(1, 2).reshape(-1, 4, c))


class Block(nn.Module):
    """A transformer block with norms; `first` says where they are."""

    def __init__(self, causal: bool, fused: bool = True, width: int = 6, groups: int | None = None) -> None:
        super().__init__()
        self.a, self.b = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attend(width, 2, groups, causal=causal, fused=fused)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.a(x))
        return x + self.mlp(self.b(x))


class Gpt(nn.Module):
    def __init__(self, layers: int = 2, fused: bool = True) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(7, 6), nn.Embedding(5, 6)
        self.blocks = nn.Sequential(*(Block(True, fused) for _ in range(layers)))
        self.head = nn.Linear(6, 7, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.words(ids) + self.places(torch.arange(ids.shape[1]))))


class Vit(nn.Module):
    def __init__(self, layers: int = 2, fused: bool = True) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(2, 6, 2, 2), nn.Parameter(r(1, 1, 6))
        self.places = nn.Parameter(r(1, 5, 6))
        self.blocks = nn.Sequential(*(Block(False, fused) for _ in range(layers)))
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        return self.head(self.blocks(x)[:, 0])


class Rotary(nn.Module):
    """Queries and keys turned by their position; at position 0 nothing is turned."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.qkv, self.fused = nn.Linear(4, 12), fused

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        angle = torch.arange(x.shape[1])[:, None] * torch.tensor([1.0, 0.1]).repeat(2)
        q, k = (t * angle.cos() + torch.cat([-t[..., 2:], t[..., :2]], -1) * angle.sin() for t in (q, k))
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        keep = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        return (q @ k.mT).masked_fill(~keep, float("-inf")).softmax(-1) @ v


class Odd(nn.Module):
    """Attention whose scores are more than scores."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.qkv, self.how, self.mix = nn.Linear(4, 12), how, nn.Conv2d(1, 1, 1)

    def forward(self, x: torch.Tensor) -> Any:
        q, k, v = self.qkv(x).chunk(3, -1)
        s = q @ k.mT
        if self.how == "added":
            return (s + x.sum(-1)[:, None]).softmax(-1) @ v
        if self.how == "talking":
            return self.mix(s.softmax(-1)[:, None])[:, 0] @ v
        if self.how == "returned":
            p = s.softmax(-1)
            return p @ v, p
        if self.how == "read twice":
            p = s.softmax(-1)
            return p @ v + (p @ x)
        if self.how == "transposed":
            return s.softmax(-2).mT @ v
        if self.how == "cut":
            return s.softmax(-1)[..., :-1] @ v[:, :-1]
        if self.how == "gated":
            return (s.softmax(-1) * torch.sigmoid(s)) @ v
        if self.how == "linear":
            return s @ v
        if self.how == "zero keys":
            return (q @ (k * torch.tensor([1.0, 0, 1, 1])).mT).softmax(-1) @ v
        if self.how == "biased from x":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=x @ x.mT)
        assert self.how == "zero values"
        return F.scaled_dot_product_attention(q, k, F.pad(v[:, 1:], (0, 0, 1, 0)))


for fused in (True, False):
    tag = "fused" if fused else "eager"
    net(f"learned queries, {tag}", lambda f=fused: Learned(f), X, explicit=True)
    net(f"learned memory, {tag}", lambda f=fused: Memory(f, False), X, explicit=True)
    net(f"learned keys, {tag}", lambda f=fused: Memory(f, True), X, explicit=True)
    net(f"class token, {tag}", lambda f=fused: ClassToken(f), X)
    net(f"class token twice, {tag}", lambda f=fused: ClassToken(f, 2), r(1, 3, 6))
    net(f"block, {tag}", lambda f=fused: Block(False, f), X)
    net(f"gpt, {tag}", lambda f=fused: Gpt(2, f), torch.tensor([[3, 1, 4, 1]]))
    net(f"vit, {tag}", lambda f=fused: Vit(1, f), r(1, 2, 4, 4))
    net(f"rotary, {tag}", lambda f=fused: Rotary(f), r(1, 4, 4))
net("windows", Windows, r(1, 4, 4, 4))
net("windows cut apart", lambda: Windows(-1e9), r(1, 4, 4, 4))
net("scores gated", lambda: Odd("gated"), r(1, 3, 4))
net("linear attention", lambda: Odd("linear"), r(1, 3, 4))
for how in ("added", "talking", "returned", "read twice", "transposed", "cut", "zero keys", "zero values",
            "biased from x"):  # fmt: skip
    net(f"scores {how}", lambda h=how: Odd(h), r(1, 3, 4), explicit=True)


class Decoding(nn.Module):
    """One new token reads a cache of keys and values, which are inputs."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.qkv, self.fused = nn.Linear(4, 12), fused

    def forward(self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        k, v = torch.cat([keys, k], 1), torch.cat([values, v], 1)
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v)
        return (q @ k.mT).softmax(-1) @ v


for fused in (True, False):
    net(f"decoding, {'fused' if fused else 'eager'}", lambda f=fused: Decoding(f), r(1, 1, 4), r(1, 3, 4), r(1, 3, 4))


def build(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A net with random weights that are the same every time, and its inputs."""
    make, inputs = NETS[name]
    torch.manual_seed(0)
    return make().eval(), inputs
