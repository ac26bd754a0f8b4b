"""Measurements run in processes of their own, within their limits, and say what became of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import measuring, probe

JOBS = """
import sys
sys.path.insert(0, {root!r})
from benchmarks import probe

def job(arguments):
    what = arguments[0]
    if what == "fail":
        raise ValueError("on purpose")
    if what == "spin":
        probe.tell({{probe.READY: True}})
        while True:
            pass
    if what == "setup":
        total = sum(range(30_000_000))  # before it is ready: does not count
    data = []
    result, row = probe.measured(lambda: data.append(b"x" * int(arguments[1])), most=1)
    probe.tell({{**row, "pid": __import__("os").getpid()}})

probe.serve(job)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[measuring.Server]:
    script = tmp_path_factory.mktemp("jobs") / "jobs.py"
    script.write_text(JOBS.format(root=str(measuring.ROOT)))
    with measuring.Server([sys.executable, script]) as server:
        yield server


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="memory of other processes is read from /proc")
class TestLimits:
    def test_memory_is_that_of_the_work(self, server: measuring.Server) -> None:
        row = server.run(["work", str(64 << 20)], measuring.Limits())
        assert row["status"] == "ok"
        assert 63 << 20 < row["growth"] < 90 << 20
        assert row["peak"] > row["growth"]

    def test_each_in_a_process_of_its_own(self, server: measuring.Server) -> None:
        found = {server.run(["work", "10"], measuring.Limits())["pid"] for _ in range(3)}
        assert len(found) == 3
        assert os.getpid() not in found

    def test_too_long(self, server: measuring.Server) -> None:
        row = server.run(["spin"], measuring.Limits(seconds=0.2))
        assert row == {"status": "seconds", "reason": "more than 0.2 s"}

    def test_too_large(self, server: measuring.Server) -> None:
        row = server.run(["spin"], measuring.Limits(memory=1 << 20))
        assert row["status"] == "memory"
        assert "GiB" in row["reason"]

    def test_preparation_is_free(self, server: measuring.Server) -> None:
        row = server.run(["setup", "10"], measuring.Limits(seconds=0.2))
        assert row["status"] == "ok"
        assert row["seconds"] < 0.2


def test_failure_gives_the_error_and_the_server_goes_on(server: measuring.Server) -> None:
    assert server.run(["fail"], measuring.Limits()) == {"status": "failed", "reason": "ValueError: on purpose"}
    assert server.run(["work", "10"], measuring.Limits())["status"] == "ok"


def test_a_server_that_is_gone() -> None:
    with measuring.Server([sys.executable, "-c", "import sys; sys.stdin.readline()"]) as server:
        with pytest.raises(RuntimeError, match="has ended"):
            server.run(["work"], measuring.Limits())


def test_repeats_until_enough(capsys: pytest.CaptureFixture[str]) -> None:
    calls = []
    first, row = probe.measured(lambda: calls.append(1) or len(calls), enough=1e9, most=4)
    assert first == 1
    assert row["repeats"] == len(calls) == 4
    assert row["seconds"] <= row["wall"] + 0.02
    assert capsys.readouterr().out == '{"ready": true}\n'
