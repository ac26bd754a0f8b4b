"""Runs that are ended at random moments, and go on: the table is that of an undisturbed run, row for row."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from batch_nets import comparable

from deepstruct.checkpoints.store import Store
from deepstruct.checkpoints.tables import long_rows

TESTS = Path(__file__).resolve().parents[1]
KILLS = int(os.environ.get("DEEPSTRUCT_TEST_KILLS", "3"))
CHECKPOINTS = int(os.environ.get("DEEPSTRUCT_TEST_CHECKPOINTS", "40"))


def start(folder: Path, out: Path, *options: str, workers: int = 1) -> subprocess.Popen:
    command = [
        sys.executable, "-c", "import sys; from deepstruct.cli.main import main; main(sys.argv[1:])", "batch",
        str(folder), "--model", f"{TESTS / 'batch_nets.py'}:Small", "--input", "1,1,6,6", "--out", str(out),
        "--workers", str(workers), *options,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def listen() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it, and so would this one

    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
        preexec_fn=listen,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return err


def table(out: Path) -> list[dict]:
    store = Store(out, readonly=True)
    rows = comparable(long_rows(store))
    (state,) = store.query("PRAGMA integrity_check").fetchone()
    assert state == "ok"
    store.close()
    return rows


def started(out: Path) -> int:
    """Checkpoints that are in the store of a process that is under way."""
    try:
        store = Store(out, readonly=True)
        count = store.query("SELECT COUNT(*) FROM checkpoints").fetchone()[0]
        store.close()
    except Exception:  # not there yet, or being made
        return 0
    return int(count)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_runs_go_on(runs, tmp_path, workers) -> None:
    folder = runs(CHECKPOINTS)
    finish(start(folder, tmp_path / "whole.db"))
    out = tmp_path / "killed.db"
    chance = random.Random(workers)
    begun = []
    for _ in range(KILLS):
        process = start(folder, out, workers=workers)
        before = started(out)
        while started(out) == before and process.poll() is None:  # somewhere at work, not while Python starts
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.25))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        begun.append(started(out))
        if workers > 1:
            wait_for_orphans(process.pid)
    assert begun == sorted(begun)
    assert begun[0] > 0
    finish(start(folder, out, workers=workers))
    assert table(out) == table(tmp_path / "whole.db")


def wait_for_orphans(group: int) -> None:
    """Workers end when their parent is gone."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("workers outlive the process that started them")


@pytest.mark.slow
def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(runs, tmp_path) -> None:
    folder, out = runs(CHECKPOINTS), tmp_path / "m.db"
    process = start(folder, out, workers=2)
    while not started(out) and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted: the same command goes on from here" in err
    assert "Traceback" not in err
    done = started(out)
    assert 0 < done < CHECKPOINTS
    assert f"{done} done before" in finish(start(folder, out))


@pytest.mark.slow
def test_two_processes_write_to_one_store(runs, tmp_path) -> None:
    folder, out = runs(CHECKPOINTS), tmp_path / "m.db"
    both = [start(folder, out, "--shard", f"{k}/2") for k in (1, 2)]
    for process in both:
        finish(process)
    finish(start(folder, tmp_path / "whole.db"))
    assert table(out) == table(tmp_path / "whole.db")
