"""The whole demonstration: train, save, read back, measure, write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from deepstruct.checkpoints import checkpoint_files
from deepstruct.demo.data import load_digits
from deepstruct.demo.measure import Row, measure
from deepstruct.demo.models import MODELS
from deepstruct.demo.page import write_page
from deepstruct.demo.picture import draw
from deepstruct.demo.table import print_table, write_csv, write_json
from deepstruct.demo.training import train_and_prune

FINAL_DENSITY = 0.01
Tick = Callable[[str, int, int], None]


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration made: a row for each checkpoint, and files by kind."""

    rows: list[Row]
    files: dict[str, Path]
    seconds: float

    def print(self) -> None:
        """The table, then the paths."""
        print_table(self.rows)
        for kind, path in self.files.items():
            print(f"{kind:<12} {path}")
        print(f"done in {self.seconds:.0f} s")


def run_demo(
    out: Path, *, steps: int = 8, quick: bool = False, seed: int = 0, progress: Tick | None = None
) -> DemoResult:
    """Run the demonstration into the folder `out`, which is made if it is missing.

    `steps` prunings per network after the dense training; `quick` halves the steps and the epochs.
    The same seed gives the same checkpoints on the same machine.
    """
    started = time.perf_counter()
    steps, epochs = (max(2, steps // 2), 6) if quick else (steps, 12)
    tick = progress or (lambda what, done, total: None)
    digits = load_digits(seed)
    folder = empty_folder(out / "checkpoints")
    total = 2 * len(MODELS) * (steps + 1)
    done = 0
    rows = []
    with _one_thread():
        for name in MODELS:
            for path in train_and_prune(
                name, digits, folder, steps=steps, final_density=FINAL_DENSITY, epochs=epochs, seed=seed
            ):
                done += 1
                tick(f"trained {path.stem}", done, total)
        for path in checkpoint_files(folder):
            rows.append(measure(path))
            done += 1
            tick(f"measured {path.stem}", done, total)
    rows.sort(key=lambda row: (list(MODELS).index(row.model), row.step))
    return DemoResult(rows, _write(rows, out, folder), time.perf_counter() - started)


def empty_folder(folder: Path) -> Path:
    """The folder, made if it is missing, without the checkpoints of an earlier run; other files stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("*-step-*.pt"), *folder.glob("*-step-*.json")]:
        old.unlink()
    return folder


def _write(rows: list[Row], out: Path, folder: Path) -> dict[str, Path]:
    files = {
        "checkpoints": folder,
        "table": out / "table.csv",
        "data": out / "table.json",
        "picture": out / "picture.png",
        "report": out / "report.html",
    }
    conventions = rows[0].conventions
    write_csv(rows, files["table"])
    write_json(rows, files["data"], conventions=conventions)
    draw(rows, files["picture"])
    write_page(rows, files["picture"], conventions, files["report"])
    return files


@contextmanager
def _one_thread() -> Iterator[None]:
    # Networks this small gain nothing from a second thread and lose much when the cores are shared.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
