"""`deepstruct batch` and `deepstruct results`: what they print, write and exit with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from batch_nets import small_state

NETS = f"{Path(__file__).resolve().parents[1] / 'batch_nets.py'}:Small"


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    for k in range(3):
        torch.save(small_state(k), folder / f"step-{k}.pt")
    return folder


def options(folder, out):
    return ("batch", folder, "--model", NETS, "--input", "1,1,6,6", "--out", out)


def test_a_folder_in_a_table_out(run, folder, tmp_path) -> None:
    out = tmp_path / "m.db"
    first = run(*options(folder, out), "--orders", "zeroth,first")
    assert first.code == 0
    assert "3 done in" in first.err
    assert first.out == ""
    table = run("results", out, "--where", "\"order\" = 'first' AND step >= 1")
    assert table.code == 0
    assert "step-0.pt" not in table.out
    assert "step-1.pt" in table.out
    assert table.out.count("first") == 2


def test_failures_are_told_and_exit_with_one(run, folder, tmp_path) -> None:
    (folder / "bad.pt").write_bytes(b"junk")
    out = tmp_path / "m.db"
    first = run(*options(folder, out))
    assert first.code == 1
    assert "failed: " in first.err
    assert "bad.pt cannot be read" in first.err
    assert "3 done, 1 failed in" in first.err
    again = run(*options(folder, out), "--quiet")
    assert (again.code, again.out, again.err) == (1, "", "")
    assert "bad.pt cannot be read" in run("results", out).out


def test_json(run, folder, tmp_path) -> None:
    outcome = run(*options(folder, tmp_path / "m.jsonl"), "--json")
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    assert [line["state"] for line in lines[:-1]] == ["ok"] * 3
    assert (lines[-1]["ok"], lines[-1]["failed"], lines[-1]["interrupted"]) == (3, 0, False)
    assert len((tmp_path / "m.jsonl").read_text().splitlines()) == sum(line["values"] for line in lines[:-1])
    assert run("results", tmp_path / "m.jsonl").code == 0


def test_exports_and_pictures(run, folder, tmp_path) -> None:
    out = tmp_path / "m.db"
    assert run(*options(folder, out), "--quiet").code == 0
    csv = run("results", out, "--format", "csv", "--wide", "--metrics", "edges,sparsity")
    assert len(csv.out.splitlines()) == 4
    assert csv.out.splitlines()[0].endswith("edges,sparsity")
    assert run("results", out, "--format", "parquet", "--out", tmp_path / "m.parquet").code == 0
    assert (tmp_path / "m.parquet").read_bytes().startswith(b"PAR1")
    assert run("results", out, "--plot", tmp_path / "m.svg", "--by", "sparsity", "--metrics", "edges").code == 0
    assert "<svg" in (tmp_path / "m.svg").read_text()


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        (("--shard", "3"), "write I/N"),
        (("--shard", "4/3"), "1 <= i <= n"),
        (("--metrics", "edgess"), "unknown metric"),
        (("--executor", "nobody"), "no executor called 'nobody'"),
        (("--input", "1,2"), ""),
    ],
)
def test_errors_of_the_user(run, folder, tmp_path, extra, text) -> None:
    outcome = run(*options(folder, tmp_path / "m.db"), *extra)
    assert outcome.code == 2
    assert text in outcome.err
    assert "Traceback" not in outcome.err


def test_stores_that_are_none(run, tmp_path) -> None:
    assert "there is no store" in run("results", tmp_path / "none.db").err
    (tmp_path / "x.db").write_text("text")
    assert run("results", tmp_path / "x.db").code == 2
    assert run("results", tmp_path / "x.db", "--format", "parquet").code == 2
