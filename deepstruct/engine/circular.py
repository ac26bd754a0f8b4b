"""Singular values of circular convolutions, exactly, by the Fourier transform (Sedghi, Gupta & Long 2019)."""

from __future__ import annotations

import math

import torch

from deepstruct.engine import budget


def circular_singular_values(
    kernel: torch.Tensor, size: tuple[int, ...], dilation: tuple[int, ...]
) -> torch.Tensor:
    """All singular values of x -> kernel * x on a torus, descending.

    The map is block diagonal in the Fourier basis: one (out, in) block for each frequency.

    Args:
        kernel: real, (out, in, *taps).
        size: of the torus along each spatial axis; taps beyond it wrap around.
        dilation: distance of neighboring taps along each axis.

    Returns:
        float64, min(out, in) values for each position of the torus.
    """
    flat = torch.zeros((), dtype=torch.int64)  # position of each tap on the torus
    for n, taps, step in zip(size, kernel.shape[2:], dilation, strict=True):
        flat = flat.unsqueeze(-1) * n + torch.arange(taps) * step % n
    spread = torch.zeros(*kernel.shape[:2], math.prod(size), dtype=torch.float64)
    spread.index_add_(2, flat.reshape(-1), kernel.to(torch.float64).flatten(2))
    spread = spread.reshape(*kernel.shape[:2], *size)
    blocks = torch.fft.fftn(spread, dim=tuple(range(2, kernel.dim()))).flatten(2).permute(2, 0, 1)
    out = []
    for part in blocks.split(max(1, (1 << 22) // max(kernel.shape[0] * kernel.shape[1], 1))):
        budget.check()
        out.append(torch.linalg.svdvals(part).reshape(-1))
    return torch.cat(out).sort(descending=True).values
