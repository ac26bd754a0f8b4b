"""Models written by hand to be awkward: state, control flow, routing, sharing, recurrence, hidden parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from tests.zoo.registry import WIDE, Built, architecture, image, tokens


def awkward(name: str, **traits: Any) -> Callable[[Callable[[], Built]], Callable[[], Built]]:
    return architecture(f"awkward/{name}", into=WIDE, sample=True, **traits)


def one(*shape: int) -> torch.Tensor:
    return torch.randn(1, *shape)


# -- in-place writes


class WritesInPlace(nn.Module):
    """Adds, activates and overwrites slices of what it has, and reads views of it afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(4, 4), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        left = y[:, :4]  # a view that sees the later writes
        y += x
        y.relu_()
        y[:, 4:] = self.b(left)
        y[:, ::2] *= 2
        y.add_(1).sub_(x)
        return self.c(y)


@awkward("writes_in_place")
def writes_in_place() -> Built:
    return WritesInPlace(), one(8)


class FillsABuffer(nn.Module):
    """Makes an empty tensor and fills it row by row, some rows twice, and adds at repeated places."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.Linear(5, 5) for _ in range(3))
        self.register_buffer("places", torch.tensor([0, 2, 2]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x.new_zeros(x.shape[0], 3, 5)
        for k, step in enumerate(self.steps):
            out[:, k] = torch.tanh(step(x))
        out[:, 0] = out[:, 1] + out[:, 2]
        more = torch.zeros_like(out)
        more.index_add_(1, self.places, out)
        more.scatter_(2, torch.zeros(x.shape[0], 3, 1, dtype=torch.int64), out[:, :, 1:2])
        return more.index_put((torch.tensor([0]), torch.tensor([1])), out[:, 2], accumulate=True).flatten(1)


@awkward("fills_a_buffer")
def fills_a_buffer() -> Built:
    return FillsABuffer(), one(5)


# -- control flow and routing by the data


class Branches(nn.Module):
    """Takes one of two ways by what it computed, and repeats a step until something is small."""

    def __init__(self) -> None:
        super().__init__()
        self.yes, self.no, self.step = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.yes(x) if x.mean() > 0 else self.no(x)
        rounds = 0
        while x.norm() > 0.5 and rounds < 5:
            x = 0.4 * torch.tanh(self.step(x))
            rounds += 1
        return x * int(x.argmax()) + x


@awkward("branches")
def branches() -> Built:
    return Branches(), one(6)


class HardRouting(nn.Module):
    """A mixture of experts that picks tokens with nonzero, and adds what the experts say."""

    def __init__(self, experts: int = 3, top: int = 2) -> None:
        super().__init__()
        self.gate, self.top = nn.Linear(6, experts), top
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 6)) for _ in range(experts))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = self.gate(flat).softmax(-1).topk(self.top, -1)
        out = torch.zeros_like(flat)
        for k, expert in enumerate(self.experts):
            rows, slot = (chosen == k).nonzero(as_tuple=True)
            if rows.numel():
                out.index_add_(0, rows, expert(flat[rows]) * weights[rows, slot, None])
        return out.view_as(x)


@awkward("experts_by_nonzero")
def experts_by_nonzero() -> Built:
    return HardRouting(), one(5, 6)


class CapacityRouting(nn.Module):
    """Experts with a capacity, reached through one-hot products, as in Switch Transformers of the Mesh kind."""

    def __init__(self, experts: int = 2, capacity: int = 3) -> None:
        super().__init__()
        self.gate, self.capacity = nn.Linear(4, experts), capacity
        self.up, self.down = nn.Parameter(torch.randn(experts, 4, 6)), nn.Parameter(torch.randn(experts, 6, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gates = self.gate(x).softmax(-1)
        choice = F.one_hot(gates.argmax(-1), gates.shape[-1]).to(x.dtype)
        place = (choice.cumsum(1) - 1) * choice
        kept = choice * (place < self.capacity)
        send = kept.unsqueeze(-1) * F.one_hot(place.long().clamp(0, self.capacity - 1), self.capacity)
        inside = torch.einsum("btec,btd->becd", send, x)
        worked = torch.einsum("becf,efd->becd", torch.einsum("becd,edf->becf", inside, self.up).relu(), self.down)
        return torch.einsum("btec,becd->btd", send * gates.unsqueeze(-1), worked)


@awkward("experts_with_capacity")
def experts_with_capacity() -> Built:
    return CapacityRouting(), one(5, 4)


class SoftExperts(nn.Module):
    """All experts at once: one batched product over a stack of weights, mixed by a softmax."""

    def __init__(self, experts: int = 3) -> None:
        super().__init__()
        self.gate = nn.Linear(4, experts)
        self.weight, self.bias = nn.Parameter(torch.randn(experts, 4, 5)), nn.Parameter(torch.randn(experts, 1, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        every = torch.baddbmm(self.bias, x.expand(self.weight.shape[0], -1, -1), self.weight)
        return torch.einsum("be,ebo->bo", self.gate(x).softmax(-1), every)


@awkward("experts_all_at_once")
def experts_all_at_once() -> Built:
    return SoftExperts(), one(4)


class ExpertChoice(nn.Module):
    """Experts pick their tokens (topk along the tokens), work on what they gathered, and scatter it back."""

    def __init__(self, experts: int = 2, take: int = 2) -> None:
        super().__init__()
        self.gate, self.take = nn.Linear(4, experts), take
        self.weight = nn.Parameter(torch.randn(experts, 4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score, token = self.gate(x[0]).softmax(0).T.topk(self.take, -1)
        picked = x[0][token]
        worked = torch.bmm(picked, self.weight) * score.unsqueeze(-1)
        return x + torch.zeros_like(x[0]).index_add(0, token.reshape(-1), worked.reshape(-1, 4))


@awkward("experts_choose")
def experts_choose() -> Built:
    return ExpertChoice(), one(6, 4)


# -- hidden from PyTorch


class NumpyHop(nn.Module):
    """Leaves PyTorch for numpy on one of two ways: what comes back has no past."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        away = torch.from_numpy(np.tanh(self.a(x).detach().cpu().numpy()))
        return self.b(x) + away


@awkward("numpy_hop")
def numpy_hop() -> Built:
    return NumpyHop(), one(5)


class HiddenModules(nn.Module):
    """Keeps layers in a plain list, a dict and a closure, where named_modules does not look."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.layers = [nn.Linear(6, 6), nn.Linear(6, 6)]
        self.table = {"norm": nn.LayerNorm(6)}
        last = nn.Linear(6, 3)
        self.function = lambda x: last(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = x + layer(x).relu()
        return self.function(self.table["norm"](x))


@awkward("hidden_modules")
def hidden_modules() -> Built:
    return HiddenModules(), one(6)


class Caches(nn.Module):
    """Keeps tables by length, the last keys and values, and a growing history."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.tables: dict[int, torch.Tensor] = {}
        self.past: tuple[torch.Tensor, torch.Tensor] | None = None
        self.history: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        if length not in self.tables:
            self.tables[length] = torch.sin(torch.arange(length)[:, None] / torch.arange(1, 9))
        q, k, v = self.qkv(x + self.tables[length]).chunk(3, -1)
        if self.past is not None:
            k, v = torch.cat([self.past[0], k], 1), torch.cat([self.past[1], v], 1)
        self.past = (k, v)
        self.history.append(x)
        return self.out(F.scaled_dot_product_attention(q, k, v))


@awkward("caches")
def caches() -> Built:
    return Caches(), one(4, 8)


class Scripted(nn.Module):
    """A part compiled by TorchScript, and a part that is recomputed in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.scripted = torch.jit.trace(nn.Sequential(nn.Linear(6, 6), nn.ReLU()), torch.zeros(1, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = checkpoint(lambda t: self.b(self.a(t).tanh()), x, use_reentrant=False)
        return y + self.scripted(x)


@awkward("scripted_and_checkpointed")
def scripted_and_checkpointed() -> Built:
    return Scripted(), one(6)


class Hamiltonian(nn.Module):
    """Differentiates inside its forward pass: the output is the gradient of a scalar that it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
        return torch.cat([slope[:, 2:], -slope[:, :2]], 1)


@awkward("gradient_in_forward")
def gradient_in_forward() -> Built:
    return Hamiltonian(), one(4)


class Ensemble(nn.Module):
    """A stack of models run as one, by vmap over their parameters."""

    def __init__(self, members: int = 3) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(members, 5, 4)), nn.Parameter(torch.randn(members, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        each = torch.vmap(lambda w, b: F.linear(x, w, b).relu())(self.weight, self.bias)
        return each.mean(0)


@awkward("vmap_ensemble")
def vmap_ensemble() -> Built:
    return Ensemble(), one(4)


# -- shared, and computed weights


class TiedAutoencoder(nn.Module):
    """The decoder is the encoder turned around; the middle is used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.middle = nn.Parameter(torch.randn(4, 8)), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.linear(x, self.weight).tanh()
        for _ in range(3):
            h = h + self.middle(h).tanh()
        return F.linear(h, self.weight.t())


@awkward("tied_weights")
def tied_weights() -> Built:
    return TiedAutoencoder(), one(8)


@awkward("weight_norm")
def weight_norm() -> Built:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Conv1d(3, 6, 3, padding=1)), nn.Tanh(),
        torch.nn.utils.weight_norm(nn.Conv1d(6, 4, 3)), nn.Flatten(), nn.Linear(4 * 6, 2),
    ), one(3, 8)  # fmt: skip


@awkward("spectral_norm")
def spectral_norm() -> Built:
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(6, 6)), nn.ReLU(), torch.nn.utils.spectral_norm(nn.Linear(6, 3))
    ), one(6)  # fmt: skip


@awkward("orthogonal")
def orthogonal() -> Built:
    return nn.Sequential(parametrizations.orthogonal(nn.Linear(6, 6)), nn.ELU(), nn.Linear(6, 3)), one(6)


class StandardisedConv(nn.Conv2d):
    """A convolution whose kernels are standardised before use."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding)


@awkward("weight_standardisation")
def weight_standardisation() -> Built:
    layers = StandardisedConv(3, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 2, 3)
    return nn.Sequential(*layers), image(8)


class LowRank(nn.Module):
    """A frozen layer with an adapter: the weight is a sum that is computed at every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(6, 6)
        self.down, self.up = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(6, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.base.weight + 0.5 * self.up @ self.down, self.base.bias)


@awkward("low_rank_weight")
def low_rank_weight() -> Built:
    return LowRank(), one(6)


class Hypernetwork(nn.Module):
    """The kernel of a convolution is what another network computes."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Linear(4, 3 * 2 * 9)

    def forward(self, x: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.make(code).view(3, 2, 3, 3), padding=1)


@awkward("hypernetwork")
def hypernetwork() -> Built:
    return Hypernetwork(), (image(5, 2), one(4))


# -- recurrence in Python


class CellLoop(nn.Module):
    """Cells of all kinds, stepped in a loop."""

    def __init__(self, cell: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.cell, self.head = cell(4, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state: Any = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


for _cell in (nn.LSTMCell, nn.GRUCell, nn.RNNCell):
    awkward(f"loop_of_{_cell.__name__}")(lambda cell=_cell: (CellLoop(cell), one(5, 4)))


class ConvLSTM(nn.Module):
    """Gates are convolutions, the state is an image."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.head = nn.Conv2d(2 + 3, 12, 3, padding=1), nn.Conv2d(3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = x.new_zeros(x.shape[0], 3, *x.shape[-2:])
        for t in range(x.shape[1]):
            i, f, g, o = self.gates(torch.cat([x[:, t], h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.head(h)


@awkward("conv_lstm")
def conv_lstm() -> Built:
    return ConvLSTM(), one(3, 2, 5, 5)


class Decoder(nn.Module):
    """Feeds the token that it thinks most likely back into itself: control, not a path."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell, self.head = nn.Embedding(7, 4), nn.GRUCell(4, 4), nn.Linear(4, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        token, state, out = torch.zeros(x.shape[0], dtype=torch.int64), x, []
        for _ in range(3):
            state = self.cell(self.embed(token), state)
            out.append(self.head(state))
            token = out[-1].argmax(-1)
        return torch.stack(out, 1)


@awkward("greedy_decoder")
def greedy_decoder() -> Built:
    return Decoder(), one(4)


class RungeKutta(nn.Module):
    """A neural ordinary differential equation, four evaluations of one network a step."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            a = self.f(x)
            b = self.f(x + 0.05 * a)
            c = self.f(x + 0.05 * b)
            d = self.f(x + 0.1 * c)
            x = x + 0.1 / 6 * (a + 2 * b + 2 * c + d)
        return x


@awkward("runge_kutta")
def runge_kutta() -> Built:
    return RungeKutta(), one(4)


class PackedLSTM(nn.Module):
    """Sequences of different lengths, packed."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(40, 4), nn.LSTM(4, 5, batch_first=True, bidirectional=True)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(self.embed(ids), torch.tensor([ids.shape[1] - 2]), batch_first=True)
        out, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return out.mean(1)


@awkward("packed_lstm", acyclic_first=False)
def packed_lstm() -> Built:
    return PackedLSTM(), tokens(6)


class TuringMachine(nn.Module):
    """A memory that is addressed by content, read and written at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.control, self.erase = nn.Linear(4 + 3, 6), nn.Linear(6, 3)
        self.key, self.add, self.out = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(6 + 3, 2)
        self.memory = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        memory = self.memory.expand(x.shape[0], -1, -1)
        read = memory.mean(1)
        out = x.new_zeros(x.shape[0], 2)
        for t in range(x.shape[1]):
            h = self.control(torch.cat([x[:, t], read], -1)).tanh()
            where = F.cosine_similarity(self.key(h).unsqueeze(1), memory, dim=-1).softmax(-1).unsqueeze(-1)
            memory = memory * (1 - where * self.erase(h).sigmoid().unsqueeze(1)) + where * self.add(h).unsqueeze(1)
            read = (where * memory).sum(1)
            out = self.out(torch.cat([h, read], -1))
        return out


@awkward("turing_machine")
def turing_machine() -> Built:
    return TuringMachine(), one(3, 4)


# -- outputs, inputs and randomness


class ManyOutputs(nn.Module):
    """Returns a dict with a tuple, an integer tensor and a copy of an input in it, and wants a nested input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(3, 5)

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        h = self.a(batch["x"]) + self.b(batch["more"][0])
        return {"logits": h, "parts": (h[:, :2], h[:, 2:].exp()), "label": h.argmax(-1), "same": batch["x"], "n": 3}


@awkward("many_outputs")
def many_outputs() -> Built:
    return ManyOutputs(), ({"x": one(4), "more": [one(3)]},)


class Variational(nn.Module):
    """Draws from a distribution in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 4), nn.Linear(2, 6)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log = self.encode(x).chunk(2, -1)
        drawn = torch.distributions.Normal(mean, (0.5 * log).exp()).rsample()
        divergence = -0.5 * (1 + log - mean**2 - log.exp()).sum(-1)
        return self.decode(drawn), divergence


@awkward("variational")
def variational() -> Built:
    return Variational(), one(6)


@awkward("random_features")
def random_features() -> Built:
    class Gumbel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 4), nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(F.gumbel_softmax(self.a(x), tau=0.5))

    return Gumbel(), one(5)
