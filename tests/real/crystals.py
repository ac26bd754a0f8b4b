"""A network of gated perceptrons over the atoms, bonds and angles of a crystal, as trained checkpoints have it."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

WIDTH, ELEMENTS = 64, 94


class Perceptron(nn.Module):
    """Linear layers with SiLU between them, and dropout before the last."""

    def __init__(self, sizes: list[int], bias: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for k in range(len(sizes) - 2):
            layers += [nn.Linear(sizes[k], sizes[k + 1]), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Dropout(0.1), nn.Linear(sizes[-2], sizes[-1], bias=bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Gated(nn.Module):
    """silu(core(x)) * sigmoid(gate(x)), each normalised first where there are norms."""

    def __init__(self, sizes: list[int], norm: bool) -> None:
        super().__init__()
        self.mlp_core, self.mlp_gate = Perceptron(sizes), Perceptron(sizes)
        self.bn1, self.bn2 = (nn.LayerNorm(sizes[-1]) if norm else nn.Identity() for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(self.bn1(self.mlp_core(x))) * self.bn2(self.mlp_gate(x)).sigmoid()


class AtomLayer(nn.Module):
    """Messages along bonds, summed up at the atoms."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.twoBody_atom = Gated([3 * WIDTH, WIDTH, WIDTH], norm)
        self.mlp_out = Perceptron([WIDTH, WIDTH], bias=not norm)

    def forward(self, atoms: torch.Tensor, bonds: torch.Tensor, weights: torch.Tensor, pairs: torch.Tensor,
                bond_of: torch.Tensor) -> torch.Tensor:  # fmt: skip
        ends = atoms.index_select(0, pairs[:, 0]), atoms.index_select(0, pairs[:, 1])
        messages = self.twoBody_atom(torch.cat([ends[0], bonds.index_select(0, bond_of), ends[1]], 1))
        messages *= weights.index_select(0, bond_of)
        summed = torch.zeros_like(atoms).index_add_(0, pairs[:, 0], messages)
        return self.mlp_out(summed) + atoms


class BondLayer(nn.Module):
    """Messages along angles, summed up at their first bonds (`update`), or written to the angles."""

    def __init__(self, norm: bool, update: bool) -> None:
        super().__init__()
        self.twoBody_bond = Gated([4 * WIDTH, WIDTH, WIDTH] if update else [4 * WIDTH, WIDTH], norm)
        self.mlp_out = Perceptron([WIDTH, WIDTH], bias=not norm) if update else None

    def forward(self, atoms: torch.Tensor, bonds: torch.Tensor, weights: torch.Tensor, angles: torch.Tensor,
                corners: torch.Tensor) -> torch.Tensor:  # fmt: skip
        one, two = bonds.index_select(0, corners[:, 1]), bonds.index_select(0, corners[:, 2])
        messages = self.twoBody_bond(torch.cat([one, two, angles, atoms.index_select(0, corners[:, 0])], 1))
        if self.mlp_out is None:
            return messages + angles
        messages = messages * weights.index_select(0, corners[:, 1]) * weights.index_select(0, corners[:, 2])
        summed = torch.zeros_like(bonds).index_add_(0, corners[:, 1], messages)
        return self.mlp_out(summed) + bonds


class Radial(nn.Module):
    """Bessel functions of a distance under a smooth cutoff, with learned frequencies."""

    def __init__(self, count: int, cutoff: float, power: float) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(math.pi * torch.arange(1, count + 1, dtype=torch.float))
        self.cutoff, self.power = cutoff, power

    def forward(self, distance: torch.Tensor) -> torch.Tensor:
        distance, p = distance[:, None], self.power
        r = distance / self.cutoff
        out = (2 / self.cutoff) ** 0.5 * torch.sin(self.frequencies * r) / distance
        smooth = 1 - (p + 1) * (p + 2) / 2 * r**p + p * (p + 2) * r ** (p + 1) - p * (p + 1) / 2 * r ** (p + 2)
        return torch.where(r < 1, smooth, torch.zeros_like(r)) * out


class Angular(nn.Module):
    """A Fourier series of an angle, with learned frequencies."""

    def __init__(self, order: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.arange(1, order + 1, dtype=torch.float))

    def forward(self, angle: torch.Tensor) -> torch.Tensor:
        order = len(self.frequencies)
        result = angle.new_zeros(len(angle), 1 + 2 * order)
        result[:, 0] = 0.5**0.5
        waves = torch.outer(angle, self.frequencies)
        result[:, 1 : order + 1] = waves.sin()
        result[:, order + 1 :] = waves.cos()
        return result / math.pi**0.5


class CrystalNet(nn.Module):
    """Energy per atom, and a magnetic moment per atom.

    Args:
        norm: layer norms in the gates and before the readout (later versions), else biases in the output layers.
        hidden: layers of the readout.
        power: of the smooth cutoff.
        radial, angular: functions that a distance and an angle are expanded in.
    """

    def __init__(
        self, norm: bool = True, hidden: int = 3, power: float = 8, radial: int = 31, angular: int = 31, layers: int = 4
    ) -> None:
        super().__init__()
        self.composition_model = nn.ModuleDict({"fc": nn.Linear(ELEMENTS, 1, bias=False)})
        self.atom_embedding = nn.ModuleDict({"embedding": nn.Embedding(ELEMENTS, WIDTH)})
        self.bond_basis_expansion = nn.ModuleDict(
            {"rbf_expansion_ag": Radial(radial, 6.0, power), "rbf_expansion_bg": Radial(radial, 3.0, power)}
        )
        self.angle_basis_expansion = nn.ModuleDict({"fourier_expansion": Angular(angular // 2)})
        self.bond_embedding, self.bond_weights_ag, self.bond_weights_bg = (
            nn.Linear(radial, WIDTH, bias=False) for _ in range(3)
        )
        self.angle_embedding = nn.Linear(angular, WIDTH, bias=False)
        self.atom_conv_layers = nn.ModuleList([AtomLayer(norm) for _ in range(layers)])
        self.bond_conv_layers = nn.ModuleList([BondLayer(norm, True) for _ in range(layers - 1)])
        self.angle_layers = nn.ModuleList([BondLayer(norm, False) for _ in range(layers - 1)])
        self.site_wise = nn.Linear(WIDTH, 1)
        self.readout_norm = nn.LayerNorm(WIDTH) if norm else nn.Identity()
        self.mlp = Perceptron([WIDTH] * (hidden + 1) + [1])

    def forward(
        self, numbers: torch.Tensor, lengths: torch.Tensor, angles: torch.Tensor, pairs: torch.Tensor,
        bond_of: torch.Tensor, corners: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        near, far = (self.bond_basis_expansion[f"rbf_expansion_{k}"](lengths) for k in ("bg", "ag"))
        atoms, bonds = self.atom_embedding["embedding"](numbers - 1), self.bond_embedding(far)
        weights, near = self.bond_weights_ag(far), self.bond_weights_bg(near)
        turns = self.angle_embedding(self.angle_basis_expansion["fourier_expansion"](angles))
        moments = atoms
        for k, layer in enumerate(self.atom_conv_layers):
            atoms = layer(atoms, bonds, weights, pairs, bond_of)
            if k < len(self.bond_conv_layers):
                bonds = self.bond_conv_layers[k](atoms, bonds, near, turns, corners)
                turns = self.angle_layers[k](atoms, bonds, near, turns, corners)
                moments = self.site_wise(atoms).abs()
        energy = self.mlp(self.readout_norm(atoms)).sum() / len(atoms)
        counts = torch.bincount(numbers - 1, minlength=ELEMENTS).float() / len(atoms)
        return energy + self.composition_model["fc"](counts), moments


def ring(atoms: int = 4) -> tuple[torch.Tensor, ...]:
    """A ring of sodium and chlorine: atomic numbers, bond lengths, angles, and who is bound to whom."""
    here = torch.arange(atoms)
    there = (here + 1) % atoms
    pairs = torch.cat([torch.stack([here, there], 1), torch.stack([there, here], 1)])
    before = (here - 1) % atoms  # bond k joins atom k with the next one
    corners = torch.cat([torch.stack([here, before, here], 1), torch.stack([here, here, before], 1)])
    lengths = 2.4 + 0.1 * torch.arange(atoms, dtype=torch.float)
    angles = 1.2 + 0.1 * torch.arange(2 * atoms, dtype=torch.float)
    return torch.where(here % 2 == 0, 11, 17), lengths, angles, pairs, here.repeat(2), corners
