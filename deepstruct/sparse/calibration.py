"""From which density on sparse execution pays on this machine: measured once, kept in a file.

For two sizes of layer and three of batch, forward and backward of both products are timed at a few densities. The
crossover is the highest density at which the sparse one is clearly faster, interpolated between those that were
timed. DEEPSTRUCT_CROSSOVER=0.2 sets one density for all; 0 keeps `backend="auto"` on the dense path.
"""

from __future__ import annotations

import functools
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from deepstruct.errors import InputError
from deepstruct.sparse import extension

SIZES = (256, 1024)
BATCHES = (1, 32, 256)
DENSITIES = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
SMALLEST = 64 * 1024  # weights, the fewest that are timed; below, calling costs more than multiplying
WIDE = 512  # output channels of a convolution
MARGIN = 1.15  # by so much must the sparse product be faster
METHOD = 2  # of measuring: what an older one found is not used
Table = dict[str, float]


def sparse_pays(weights: int, batch: int, density: Callable[[], float]) -> bool:
    """Whether a layer of so many weights should run sparse; `density` is only asked where it matters."""
    if batch == 0 or weights < SMALLEST:
        return False
    fixed = override()
    if fixed is not None:
        return density() <= fixed
    if extension.path() is None or density() > DENSITIES[0]:
        return False
    size = SIZES[1] if weights >= SIZES[1] ** 2 // 2 else SIZES[0]
    nearest = min(BATCHES, key=lambda known: abs(math.log(known / batch)))
    return density() <= crossovers()[_key(size, nearest)]


def convolution_pays(out_channels: int, weights: int, density: Callable[[], float]) -> bool:
    """Whether a convolution should gather its windows and multiply on the support.

    Gathering costs as much for few output channels as for many: it is worth it for wide layers only (see
    benchmarks/masked/bench_conv.py: even at 256 channels, a gain of a half and more at 512).
    """
    if weights < SMALLEST:
        return False
    fixed = override()
    if fixed is not None:
        return density() <= fixed
    if extension.path() is None or out_channels < WIDE or density() > DENSITIES[0]:
        return False
    return density() <= crossovers()[_key(SIZES[1], BATCHES[-1])]


def override() -> float | None:
    """The density that DEEPSTRUCT_CROSSOVER sets, or None."""
    text = os.environ.get("DEEPSTRUCT_CROSSOVER")
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(f"DEEPSTRUCT_CROSSOVER={text!r} is no density: write a number from 0 to 1") from None


@functools.cache
def crossovers() -> Table:
    """Crossover density by size and batch, from the file of this machine, or measured now (seconds)."""
    path, signature = cache_file(), _signature()
    try:
        known = json.loads(path.read_text())
        table = known["crossovers"]
        if known["signature"] == signature and set(table) == {_key(s, b) for s in SIZES for b in BATCHES}:
            return {key: float(value) for key, value in table.items()}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no file yet, or none of ours: it is written below
    table = measure()
    _write(path, {"signature": signature, "crossovers": table})
    return table


def cache_file() -> Path:
    """One for each number of threads: workers with one thread and their parent with all must not take turns."""
    return extension.user_path().parent / f"crossover-{torch.get_num_threads()}.json"


def measure() -> Table:
    """Time both products for every size and batch."""
    return {_key(size, batch): _crossover(size, batch) for size in SIZES for batch in BATCHES}


def _crossover(size: int, batch: int) -> float:
    from deepstruct.sparse.functional import masked_linear

    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        weight = torch.randn(size, size, generator=generator).requires_grad_()
        x = torch.randn(batch, size, generator=generator).requires_grad_()

        def step(mask: torch.Tensor, backend: str) -> float:
            weight.grad = x.grad = None
            start = time.perf_counter()
            masked_linear(x, weight, mask, None, backend).sum().backward()
            return time.perf_counter() - start

        def gain(density: float) -> float:
            mask = torch.rand(size, size, generator=generator) < density
            # Interleaved, and the best of each: other programs on the machine only ever add time.
            times = [(step(mask, "sparse"), step(mask, "dense")) for _ in range(6)][1:]
            return min(t[1] for t in times) / min(t[0] for t in times)

        return crossing(gain)


def crossing(gain: Callable[[float], float]) -> float:
    """The density up to which `gain`, dense over sparse time, is at least MARGIN; straight lines between logarithms.

    DENSITIES are asked from the highest down until one pays; 0 if none does.
    """
    above: tuple[float, float] | None = None
    for density in DENSITIES:
        reached = gain(density)
        if reached >= MARGIN:
            if above is None:
                return density
            part = math.log(MARGIN / above[1]) / math.log(reached / above[1])
            return round(above[0] * (density / above[0]) ** part, 4)
        above = density, reached
    return 0.0


def _key(size: int, batch: int) -> str:
    return f"{size}x{size}, batch {batch}"


def _signature() -> dict[str, str | int]:
    library = extension.path()
    return {
        "processor": _processor(),
        "isa": extension.isa(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "library": os.stat(library).st_mtime_ns if library else 0,
        "method": METHOD,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def _write(path: Path, content: dict[str, object]) -> None:
    # A machine without a writable cache measures again next time: no reason to fail.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w") as file:
            json.dump(content, file, indent=1)
        os.replace(unfinished, path)
    except OSError:
        return
