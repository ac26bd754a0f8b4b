"""Masked recurrent layers beside the original (PyPI 0.10.0) and beside PyTorch's dense layers, on one thread.

    python benchmarks/models/bench_recurrent.py             hidden 512, 128 steps, batch 32
    python benchmarks/models/bench_recurrent.py --alone     without the original

Best processor times in milliseconds of a forward pass and of a forward and backward pass; ours and PyTorch's are
measured in turns. About half of the weights are masked, and 90 % of the hidden-to-hidden ones for "at 10 %". "packed"
are sequences of random lengths over the same ones padded; "agree" is the largest difference between our output and the
original's with its state dict.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from deepstruct import recurrent

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from peers import original_python  # noqa: E402

LAYERS = {"MaskedRecurrentLayer": nn.RNN, "MaskedGRULayer": nn.GRU, "MaskedLSTMLayer": nn.LSTM}
SIZE, HIDDEN, STEPS, BATCH, DENSITY = 64, 512, 128, 32, 0.1


def original(name: str, folder: Path) -> dict[str, float]:
    """Times of the original; its state dict and outputs are in the folder afterwards."""
    numbers = map(str, (SIZE, HIDDEN, STEPS, BATCH))
    command = [str(original_python()), str(HERE / "peer_recurrent.py"), str(folder), name, *numbers]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
    if done.returncode:
        raise RuntimeError(f"the original failed on {name}: {done.stderr.strip()[-500:]}")
    result: dict[str, float] = json.loads((folder / "result.json").read_text())
    return result


def in_turns(*works: Callable[[], object], rounds: int = 7) -> list[float]:
    """Best processor milliseconds of each, one after the other in every round."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, kept in zip(works, times, strict=True):
            start = time.process_time()
            work()
            kept.append(time.process_time() - start)
    return [1000 * min(kept) for kept in times]


def row(name: str, alone: bool) -> str:
    model = recurrent.MaskedDeepRNN(SIZE, [HIDDEN], getattr(recurrent, name), batch_first=True)
    model.apply_mask(0.5 / HIDDEN**0.5, i2h=True, h2h=True)
    dense = LAYERS[name](SIZE, HIDDEN, batch_first=True)
    x = torch.randn(BATCH, STEPS, SIZE)
    lengths = torch.randint(STEPS // 4, STEPS + 1, (BATCH,))
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)

    def both(module: nn.Module, values: object) -> Callable[[], None]:
        def work() -> None:
            module.zero_grad()
            out = module(values)
            (out[0][:, -1] if isinstance(out, tuple) else out).sum().backward()

        return work

    with torch.no_grad():
        forward, dense_forward = in_turns(lambda: model(x), lambda: dense(x))
    sparse = recurrent.MaskedDeepRNN(SIZE, [HIDDEN], getattr(recurrent, name), batch_first=True)
    layer = sparse.recurrent_layers[0]
    layer.set_h2h_mask(torch.rand(layer.h2h_mask.shape) < DENSITY)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(DENSITY**-0.5)  # as far from vanishing as the dense layer's
    whole, dense_whole, from_packed, from_sparse = in_turns(
        both(model, x), both(dense, x), both(model, packed), both(sparse, x)
    )
    cells = [name, "", "", f"{forward:.0f} / {forward / dense_forward:.2f}", f"{whole:.0f} / {whole / dense_whole:.2f}",
             f"{from_sparse:.0f} / {from_sparse / dense_whole:.2f}", f"{from_packed / whole:.2f}", ""]  # fmt: skip
    if not alone:
        with tempfile.TemporaryDirectory() as folder:
            theirs = original(name, Path(folder))
            saved = torch.load(Path(folder) / "model.pt", weights_only=True)
        model.load_state_dict(saved["state"])
        with torch.no_grad():
            apart = float((model(saved["x"]) - saved["out"]).abs().max())
        cells[1] = f"{1000 * theirs['forward']:.0f} ({1000 * theirs['forward'] / forward:.1f})"
        cells[2] = f"{1000 * theirs['both']:.0f} ({1000 * theirs['both'] / whole:.1f})"
        cells[7] = f"{apart:.0e}"
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alone", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"hidden {HIDDEN}, {STEPS} steps, batch {BATCH}; milliseconds")
    print("| layer | original forward (over ours) | original both (over ours) | ours forward / over dense | "
          "ours both / over dense | at 10 % / over dense | packed over padded | agree |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for name in LAYERS:
        print(row(name, arguments.alone), flush=True)


if __name__ == "__main__":
    main()
