"""Runs measurements, each in a process of its own, within limits of seconds and memory."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.probe import READY, processor_seconds, status_bytes

ROOT = Path(__file__).resolve().parent.parent
_POLL = 0.02
_PROC = Path("/proc/self/stat").exists()  # elsewhere limits of time go by the clock


class Limits(NamedTuple):
    """What a measurement may take. Seconds are processor time, from when its process says that it is ready."""

    seconds: float = 60.0
    memory: int = 8 << 30


class Server:
    """A process that has imported what its jobs need, and forks for each of them (see probe.serve)."""

    def __init__(self, command: Sequence[str | Path], threads: int = 1) -> None:
        env = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
        self._folder = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, cwd=ROOT
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]
        self._folder.cleanup()

    def run(self, arguments: Sequence[str], limits: Limits) -> dict[str, Any]:
        """The last line that a job prints, as JSON, with "status" (ok, seconds, memory or failed) and "reason".

        A job that passes a limit is ended. Raises RuntimeError when the server itself is gone.
        """
        out, err = (Path(self._folder.name) / name for name in ("out", "err"))
        out.write_text("")
        request = {"arguments": list(arguments), "out": str(out), "err": str(err)}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]
        self._process.stdin.flush()  # type: ignore[union-attr]
        child = self._answer()["pid"]
        stopped: dict[str, Any] = {}
        ready: float | None = None
        while not self._ended():
            now = _clock(child)
            if ready is None and READY in out.read_text():
                ready = now
            if now is not None and not stopped and (stopped := passed(limits, now, ready, child)):
                with contextlib.suppress(ProcessLookupError):  # it has ended this moment
                    os.kill(child, signal.SIGKILL)
        status = self._answer()["exit"]
        if stopped:
            return stopped
        if status != 0:
            complaints = err.read_text().splitlines()
            return {"status": "failed", "reason": (complaints or [f"exit status {status}"])[-1][:300]}
        return {"status": "ok", "reason": "", **json.loads(out.read_text().splitlines()[-1])}

    def _ended(self) -> bool:
        return bool(select.select([self._process.stdout], [], [], _POLL)[0])

    def _answer(self) -> dict[str, int]:
        # byte by byte: a buffer would hide the next line from select
        fd, line = self._process.stdout.fileno(), b""  # type: ignore[union-attr]
        while not line.endswith(b"\n"):
            byte = os.read(fd, 1)
            if not byte:
                raise RuntimeError(f"the measuring process {self._process.args} has ended: see its messages above")
            line += byte
        answer: dict[str, int] = json.loads(line)
        return answer


def _clock(child: int) -> float | None:
    """Seconds of a running process; None when it has just ended."""
    return processor_seconds(child) if _PROC else time.monotonic()


def passed(limits: Limits, now: float, ready: float | None, child: int) -> dict[str, Any]:
    """Which limit a job has passed; empty if none. `ready` is the time at which its work began."""
    if ready is not None and now - ready > limits.seconds:
        return {"status": "seconds", "reason": f"more than {limits.seconds:g} s"}
    if status_bytes(Path(f"/proc/{child}/status"), "VmRSS") > limits.memory:
        return {"status": "memory", "reason": f"more than {limits.memory / 2**30:g} GiB"}
    return {}


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    import torch

    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # not on Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "load": round(load, 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
    }


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()
