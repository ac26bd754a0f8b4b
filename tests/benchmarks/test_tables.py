"""What the benchmarks make of their measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import deepstruct
from benchmarks import bench_mlp, bench_panel, bench_scaling, floors, measuring, pictures
from benchmarks.nets import Net

LIMITS = measuring.Limits(seconds=10.0, memory=8 << 30)


def ok(contestant: str, size: int, seconds: float, **more: Any) -> dict[str, Any]:
    row = {"family": "mlp", "size": size, "sparsity": 0.0, "contestant": contestant, "status": "ok", "reason": ""}
    return {**row, "seconds": seconds, "wall": seconds, "growth": 2 << 20, "peak": 1 << 30, "edges": size + 7, **more}


def points(*arguments: Any) -> list[dict[str, Any]]:
    return list(bench_scaling.series(*arguments))


def stopped(contestant: str, size: int) -> dict[str, Any]:
    return {**ok(contestant, size, 0.0), "status": "seconds", "reason": "more than 1 s"}


def test_medians_over_rounds() -> None:
    rows = [ok("extract", 1000, seconds, growth=growth) for seconds, growth in ((3.0, 1), (1.0, 9), (2.0, 5))]
    merged = bench_scaling.combined(rows)
    assert (merged["seconds"], merged["growth"], merged["runs"]) == (2.0, 5, 3)


def test_one_stop_stops_all_rounds() -> None:
    assert bench_scaling.combined([ok("extract", 1000, 1.0), stopped("extract", 1000)])["status"] == "seconds"


def test_who_stops_takes_no_further_part() -> None:
    asked: list[tuple[str, int]] = []

    def measure(contestant: str, net: Net) -> dict[str, Any]:
        asked.append((contestant, net.size))
        slow = contestant == "networkx"
        return stopped(contestant, net.size) if slow and net.size > 1000 else ok(contestant, net.size, 4.0 * slow)

    rows = points("mlp", 0.0, [1000, 10_000, 10**5], ["extract", "networkx"], 2, measure, 3.0, LIMITS)
    assert asked == [
        ("extract", 1000), ("networkx", 1000), ("extract", 1000),  # a slow one is measured once
        ("extract", 10_000), ("networkx", 10_000), ("extract", 10_000),
        ("extract", 10**5), ("extract", 10**5),
    ]  # fmt: skip
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "seconds", "ok"]


def test_what_would_pass_the_limit_by_far_is_not_tried() -> None:
    def measure(contestant: str, net: Net) -> dict[str, Any]:
        return ok(contestant, net.size, net.size / 5000)

    rows = points("mlp", 0.0, [1000, 10_000, 10**5], ["igraph"], 1, measure, 1.0, LIMITS)
    assert [row["reason"] for row in rows] == ["", "", "not tried: about 20 s"]
    assert [row["status"] for row in rows] == ["ok", "ok", "seconds"]
    assert bench_scaling.extrapolated([0.01, 0.5]) == bench_scaling.extrapolated([3.0]) == 0.0


def test_too_many_weights_are_not_tried() -> None:
    rows = points("mlp", 0.9, [10**10], ["extract"], 1, lambda *_: pytest.fail("tried"), 1.0, LIMITS)
    assert [(row["status"], row["reason"]) for row in rows] == [
        ("memory", "not tried: the weights alone take 372.5 GiB")
    ]


def test_disagreements_are_found() -> None:
    rows = [ok("operator", 1000, 1.0, values={"edges": 10.0}), ok("igraph", 1000, 1.0, values={"edges": 10.0})]
    assert bench_scaling.disagreements(rows) == []
    rows.append(ok("networkx", 1000, 1.0, values={"edges": 11.0}))
    assert bench_scaling.disagreements(rows) == ["edges of mlp 1e+03: networkx 11.0, operator 10.0"]


def test_table_shows_what_stopped_whom() -> None:
    text = bench_scaling.table([ok("extract", 1000, 0.5), ok("networkx", 1000, 12.34), stopped("networkx", 10_000)])
    assert text.splitlines()[2:] == [
        "| MLP | 0% | 1,007 | 0.500 s, 2.0 MiB | 12.3 s, 2.0 MiB |",
        "| MLP | 0% | about 1e+04 |  | more than 1 s |",
    ]


def test_pictures(tmp_path: Path) -> None:
    rows = [ok("extract", 1000, 0.5), ok("networkx", 1000, 12.0), stopped("networkx", 10_000)]
    pictures.scaling(rows, bench_scaling.LABELS, tmp_path / "scaling")
    assert (tmp_path / "scaling.png").stat().st_size > 1000
    first = (tmp_path / "scaling.svg").read_bytes()
    pictures.scaling(rows, bench_scaling.LABELS, tmp_path / "scaling")
    assert (tmp_path / "scaling.svg").read_bytes() == first
    pictures.metrics([{"network": "a", "metrics": {"nodes": 0.1, "edges": 2.0}}], tmp_path / "metrics")
    assert (tmp_path / "metrics.svg").exists()


def test_ratios_of_the_target_mlp() -> None:
    assert bench_mlp.EDGES == 1_655_000
    rows = {name: ok(name, 1, seconds) for name, seconds in (("extract", 0.01), ("operator", 0.5), ("original", 20.0))}
    assert bench_mlp.ratios(rows) == {"extract": pytest.approx(2000), "operator": pytest.approx(40)}
    assert "| 2,000 | 1,000 |" in bench_mlp.table(rows)


def test_floor_counts_edges_of_pruned_and_elements_of_dense_layers() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    with torch.no_grad():
        model[0].weight.fill_(1)[0, :3] = 0
        model[2].weight.fill_(1)
    graph = deepstruct.extract(model, torch.zeros(1, 6))
    need = floors.one_pass(graph)
    assert need.operations == 27 + (5 + 4)
    assert need.bytes == 8 * (6 + 5 + 5 + 4) + 4 * 27
    assert need.seconds(floors.Rates(1.0, 1.0)) == need.bytes


def test_panel_tables() -> None:
    row = {
        "network": "resnet18", "sparsity": 0.9, "status": "ok", "reason": "", "nodes": 10, "weight edges": 20,
        "structural edges": 0, "digits": 30, "extraction": 1.0, "panel": 2.0, "peak": 1 << 30,
        "passes": {"or": 0.25}, "need": {"operations": 1e6, "bytes": 2e6}, "rates": {"operations": 1e7, "bytes": 1e9},
        "metrics": {"path_count": 1.5, "nodes": 0.01, "edges": 0.02},
    }  # fmt: skip
    failed = {"network": "alexnet", "sparsity": 0.0, "status": "memory", "reason": "more than 8 GiB"}
    assert bench_panel.totals([row, failed]).splitlines()[2:] == [
        "| ResNet-18, 90% | 10 | 20 | 0 | 30 | 1.00 s | 2.00 s | 1.00 GiB |",
        "| AlexNet, dense | more than 8 GiB | | | | | | |",
    ]
    assert bench_panel.floor_table([row, failed]).splitlines()[2:] == [
        "| ResNet-18, 90% | 1 M | 2 MB | 0.1000 s | 0.250 s (2.5) |"
    ]
    assert bench_panel.metric_table([row, failed]).splitlines()[2:] == [
        "| path_count | 1.50 |", "| the 2 others together | 0.03 |",
    ]  # fmt: skip
    whole = {
        "network": "alexnet", "sparsity": 0.9, "wall": 1.5, "cpu": 2.5, "threads": 2, "before": 1 << 29,
        "peak": 1 << 30, "edges": 1234, "values": 70, "walls": [1.25, 1.5, 1.75],
    }  # fmt: skip
    assert bench_panel.whole_table([whole]).splitlines()[2:] == [
        "| AlexNet, 90% | 1,234 | 1.50 s (1.25, 1.50, 1.75) | 2.50 s | 1.00 GiB | 0.50 GiB |"
    ]
