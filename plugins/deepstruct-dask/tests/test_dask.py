"""Batches on a real cluster of worker processes, one of which is killed: nothing is lost."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("distributed")

sys.path.insert(0, str(Path(__file__).parent))
# Workers are spawned from this process and import what tasks name.
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
os.environ["DEEPSTRUCT_PLUGINS"] = "dask"  # whatever else is installed here: workers and this process measure the same

from dask_work import Fragile, Net

import deepstruct
from deepstruct.errors import InputError
from deepstruct.plugin import Host, use_host
from deepstruct.plugin.events import WorkOptions

sys.path.insert(0, str(Path(__file__).parents[1]))
from deepstruct_dask import plugin
from deepstruct_dask.executor import DaskExecutor


@pytest.fixture(scope="module")
def cluster():
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as cluster:
        yield cluster


@pytest.fixture
def folder(tmp_path) -> Path:
    for k in range(12):
        torch.manual_seed(k)
        torch.save(Net().state_dict(), tmp_path / f"step-{k}.pt")
    (tmp_path / "bad.pt").write_bytes(b"junk")
    return tmp_path


def table(results) -> list[dict]:
    drop = ("seconds", "checkpoint_seconds", "peak_memory", "finished", "plugins", "config_hash")
    return [{key: value for key, value in row.items() if key not in drop} for row in results.rows()]


def test_hook_executors_gives_the_table_of_a_local_run(cluster, folder) -> None:
    local = deepstruct.batch(folder, Net, torch.ones(1, 6), orders=("zeroth", "first"))
    with use_host(Host([("dask", plugin)], entry_points=False)):
        results = deepstruct.batch(
            folder, Net, torch.ones(1, 6), orders=("zeroth", "first"), executor="dask", workers=2,
            executor_options={"scheduler": cluster.scheduler_address},
        )  # fmt: skip
        assert table(results) == table(local)
        assert [os.path.basename(r.path) for r in results.failures] == ["bad.pt"]


def test_a_worker_that_is_killed_costs_nothing(cluster, folder) -> None:
    """The batch goes on while a worker process is ended from outside; the cluster starts another."""
    local = deepstruct.batch(folder, Net, torch.ones(1, 6))
    with use_host(Host([("dask", plugin)], entry_points=False)):
        results = deepstruct.batch(
            folder, Net, torch.ones(1, 6), executor="dask", workers=2,
            executor_options={"scheduler": cluster.scheduler_address},
        )  # fmt: skip
        next(iter(results))
        victim = next(iter(cluster.workers.values())).pid
        os.kill(victim, signal.SIGKILL)
        assert table(results) == table(local)
    deadline = time.monotonic() + 60
    while not _alive(cluster, victim) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _alive(cluster, victim), "the nanny has replaced it"


def _alive(cluster, victim) -> bool:
    pids = [worker.pid for worker in cluster.workers.values()]
    return len(pids) == 2 and None not in pids and victim not in pids


def test_items_that_kill_their_workers(tmp_path) -> None:
    """A cluster of its own: one item ends each worker that takes it, one only the first."""
    once = tmp_path / "once"
    items = [1, "die", 2, f"once:{once}", "error", 3]
    done = {d.index: d for d in DaskExecutor().run(Fragile(), items, WorkOptions(workers=2, attempts=3))}
    assert sorted(done) == list(range(len(items)))
    assert [done[k].value for k in (0, 2, 5)] == [2, 4, 6]
    assert done[1].crashed
    assert done[3].value == f"once:{once}"
    assert (type(done[4].error), done[4].crashed) == (ValueError, False)


def test_no_scheduler_is_told() -> None:
    options = WorkOptions(extra={"scheduler": "nonsense"})
    with pytest.raises(InputError, match="no Dask scheduler"):
        list(DaskExecutor().run(Fragile(), [1], options))
