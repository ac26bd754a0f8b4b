"""Fuzzing of the readers: files that are damaged, cut, spliced or made up end in a state dict or in a CheckpointError.

For any length of time: `python tests/checkpoints/fuzz.py --minutes 60 [--seed 0]`. Each input is read in this process
after it is written to a file, so that one that crashes or hangs Python is there to look at.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import random
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from deepstruct.checkpoints import load_state_dict
from deepstruct.errors import CheckpointError

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".index.json", ".tar", "")
LIMIT = 20  # seconds that one file may take


def seeds() -> list[bytes]:
    """Files that are fine."""
    state = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).state_dict()
    out = []
    for value in (state, {"state_dict": state, "epoch": 3, "optimizer": {"state": {0: torch.ones(3)}}}, torch.ones(2)):
        for zipped in (True, False):
            file = io.BytesIO()
            torch.save(value, file, _use_new_zipfile_serialization=zipped)
            out.append(file.getvalue())
    out.append(save({key: value.contiguous() for key, value in state.items()}))
    out.append(pickle.dumps({"a": [1, 2, (3, "x")]}))
    out.append(json.dumps({"weight_map": {"a": "x.safetensors", "b": "y.bin"}}).encode())
    return out


def mutate(data: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """A few random changes: bits, bytes, lengths, cuts, repeats, and pieces of other files."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = chance.randrange(len(out) + 1) if out else 0
        kind = chance.randrange(9)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << chance.randrange(8)
        elif kind == 1 and out:
            out[at % len(out)] = chance.randrange(256)
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            del out[at : at + chance.randrange(1, 64)]
        elif kind == 4:
            out[at:at] = out[at : at + chance.randrange(1, 256)]
        elif kind == 5:
            other = chance.choice(others)
            begin = chance.randrange(len(other))
            out[at : at + chance.randrange(64)] = other[begin : begin + chance.randrange(1, 128)]
        elif kind == 6:
            out[at : at + 8] = struct.pack("<Q", chance.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, len(out))))
        elif kind == 7:
            out[at:at] = chance.randbytes(chance.randrange(1, 32))
        else:
            head = chance.randrange(min(len(out), 512) + 1)
            out[head : head + 1] = chance.randbytes(1)
    return bytes(out)


def check(path: Path) -> str:
    """What came of a file: "read" or "refused"; anything else raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            state = load_state_dict(path)
        except CheckpointError as error:
            if path.name not in str(error):
                raise AssertionError(f"the error does not name the file: {error}") from error
            return "refused"
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
    return "read"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, files, counts = random.Random(options.seed), seeds(), Counter[str]()
    folder = Path(tempfile.mkdtemp(prefix="deepstruct-fuzz-"))
    end, slowest, said = time.monotonic() + 60 * options.minutes, 0.0, time.monotonic()

    def hangs(*_: object) -> None:
        raise TimeoutError(f"a file in {folder} was not done within {LIMIT} s")

    signal.signal(signal.SIGALRM, hangs)
    while time.monotonic() < end:
        path = folder / f"case{chance.choice(SUFFIXES)}"
        path.write_bytes(mutate(chance.choice(files), chance, files))
        began = time.monotonic()
        signal.alarm(LIMIT)
        try:
            counts[check(path)] += 1
        except BaseException:
            print(f"kept: {path}", file=sys.stderr)
            raise
        signal.alarm(0)
        slowest = max(slowest, time.monotonic() - began)
        os.unlink(path)
        if time.monotonic() - said > 60:
            said = time.monotonic()
            print(f"{sum(counts.values()):,} files, slowest {slowest:.2f} s", flush=True)
    os.rmdir(folder)
    print(f"{sum(counts.values()):,} files: {dict(counts)}; slowest {slowest:.2f} s")


if __name__ == "__main__":
    main()
