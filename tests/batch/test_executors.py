"""Executors by themselves: every item once, whatever dies."""

from __future__ import annotations

import os

import pytest
from batch_nets import Fragile

from deepstruct.checkpoints.executors import InProcess, LocalPool
from deepstruct.errors import InputError
from deepstruct.plugin.events import WorkOptions


def results(items, executor=None, **options):
    done = list((executor or LocalPool()).run(Fragile(), items, WorkOptions(**options)))
    assert sorted(d.index for d in done) == list(range(len(items)))
    return {d.index: d for d in done}


def test_in_process() -> None:
    done = results([1, "error:no", 3], InProcess())
    assert (done[0].value, done[2].value) == (2, 6)
    assert isinstance(done[1].error, ValueError)
    assert not done[1].crashed


def test_a_pool_loses_nothing_when_workers_die(tmp_path) -> None:
    """One item kills every worker, one only its first; a raised error costs no worker."""
    once = tmp_path / "once"
    done = results([1, "die", 2, f"once:{once}", "error:no", 3, 4, 5], workers=2)
    assert [done[k].value for k in (0, 2, 5, 6, 7)] == [2, 4, 6, 8, 10]
    assert done[1].crashed
    assert "SIGKILL" in str(done[1].error)
    assert "tried 2 times" in str(done[1].error)
    assert done[3].value == f"once:{once}"
    assert (type(done[4].error), str(done[4].error), done[4].crashed) == (ValueError, "no", False)


def test_a_worker_that_hangs_is_ended() -> None:
    done = results(["sleep:60", 4], workers=2, attempts=1, extra={"timeout": 8})
    assert done[0].crashed
    assert "not done within 8 s" in str(done[0].error)
    assert done[1].value == 8


def test_threads_and_memory_of_a_worker() -> None:
    done = results(["threads", f"memory:{6 << 30}", 3], workers=1, threads=1, memory=3 << 30)
    assert done[0].value == (1, "1")
    assert "memory" in str(done[1].error)
    assert not done[1].crashed
    assert done[2].value == 6, "the worker lives on"


def test_ending_early_stops_the_workers() -> None:
    going = LocalPool().run(Fragile(), [1, "sleep:60", "sleep:60"], WorkOptions(workers=2))
    next(going)
    children = _children()
    assert children
    going.close()
    assert not _children() & children


def test_work_that_does_not_pickle_is_told() -> None:
    with pytest.raises(InputError, match="cannot be sent to other processes"):
        list(LocalPool().run(lambda item: item, [1], WorkOptions(workers=2)))


def _children() -> set[int]:
    import multiprocessing

    return {child.pid for child in multiprocessing.active_children() if child.pid != os.getpid()}
