"""Time and memory of a piece of work, measured from inside a process of its own.

Needs the standard library alone: the processes of the peers use it as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

READY = "ready"
_STATUS = Path("/proc/self/status")


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process in memory now, or ("VmHWM") at most so far; 0 where /proc does not tell."""
    return status_bytes(_STATUS, field)


def status_bytes(status: Path, field: str) -> int:
    """A size in bytes from a /proc/.../status file; 0 where there is none."""
    with contextlib.suppress(OSError):  # not on Linux, or the process has ended
        for line in status.read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) << 10
    return 0


def measured(work: Callable[[], Any], enough: float = 0.5, most: int = 5) -> tuple[Any, dict[str, Any]]:
    """The first result of `work`, and its times and memory.

    The work is repeated up to `most` times until it has taken `enough` seconds. "seconds" is the median of the
    processor time of this process, which on one thread and a machine of its own is the time on the clock, and
    on a shared machine does not count what others do; "wall" is the median on the clock. "growth" is what the
    first run adds to the memory of the process at its peak, in bytes.
    """
    gc.collect()
    _give_back()
    before = resident()
    _reset_peak()
    tell({READY: True})
    result, first = _timed(work)
    growth = max(0, _peak() - before)
    times = [first]
    while sum(cpu for cpu, _ in times) < enough and len(times) < most:
        times.append(_timed(work)[1])
    seconds, wall = (statistics.median(column) for column in zip(*times, strict=True))
    return result, {"seconds": seconds, "wall": wall, "repeats": len(times), "growth": growth, "peak": process_peak()}


def _timed(work: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, (time.process_time() - cpu, time.perf_counter() - wall)


def processor_seconds(process: int) -> float | None:
    """Processor time that another process has taken so far; None where /proc does not tell."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return None


def process_peak() -> int:
    """Bytes that this process had in memory at most: interpreter, torch and model included."""
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(usage) * (1 if sys.platform == "darwin" else 1024)


def tell(message: dict[str, Any]) -> None:
    """One line for the parent process."""
    print(json.dumps(message), flush=True)


def serve(job: Callable[[list[str]], None]) -> None:
    """Run jobs, each in a fork of this process, so that what they import is loaded once.

    Every line of stdin is a JSON object: "arguments" of the job, "out" and "err", files that it prints to. Two
    lines answer it: the process id of the fork, and when that has ended its exit status.
    """
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for stream, name in ((1, "out"), (2, "err")):
                    os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), stream)
                job(request["arguments"])
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        tell({"pid": child})
        tell({"exit": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])})


def _peak() -> int:
    return resident("VmHWM") or process_peak()


def _reset_peak() -> None:
    # On Linux the high-water mark starts anew; elsewhere it stays that of the whole process, an upper bound.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _give_back() -> None:
    """Hand freed memory back, so that the work does not live on what building the model left behind."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
