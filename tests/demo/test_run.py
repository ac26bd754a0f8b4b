"""The demonstration from end to end, small: its files say the same, and what they say is right."""

from __future__ import annotations

import csv
import json
import math

import pytest
import torch

import deepstruct
from deepstruct.checkpoints import checkpoint_files, load_weights
from deepstruct.demo.measure import measure
from deepstruct.demo.models import EXAMPLE_SHAPE, MODELS
from deepstruct.demo.run import empty_folder, run_demo
from deepstruct.errors import CheckpointError


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    ticks = []
    result = run_demo(out, steps=4, quick=True, progress=lambda *tick: ticks.append(tick))
    return result, out, ticks


def test_every_checkpoint_is_measured(demo) -> None:
    result, out, ticks = demo
    files = [path.name for path in checkpoint_files(out / "checkpoints")]
    assert len(files) == 2 * 3
    assert sorted(row.file for row in result.rows) == sorted(files)
    assert [done for _, done, _ in ticks] == list(range(1, 13))
    assert {total for _, _, total in ticks} == {12}


def test_structure_falls_as_sparsity_grows(demo) -> None:
    result, _, _ = demo
    for model in MODELS:
        rows = [row for row in result.rows if row.model == model]
        assert [row.step for row in rows] == [0, 1, 2]
        assert [row.sparsity for row in rows] == pytest.approx([0.0, 0.9, 0.99], abs=1e-3)
        for name in ("edges", "effective_edges", "effective_nodes"):
            values = [row.value("zeroth", name) for row in rows]
            assert values == sorted(values, reverse=True)
            assert values[0] > values[-1]
        assert all(row.value("zeroth", "effective_edges") <= row.value("zeroth", "edges") for row in rows)
        assert rows[0].accuracy > 0.9


def test_values_are_those_of_the_files(demo) -> None:
    _, out, _ = demo
    path = out / "checkpoints" / "cnn-step-01.pt"
    model = MODELS["cnn"]()
    load_weights(model, path)
    report = deepstruct.analyze(model.eval(), torch.zeros(EXAMPLE_SHAPE), orders=("zeroth",))
    row = measure(path)
    for name in ("nodes", "weight_edges", "effective_edges"):
        assert row.values["zeroth"][name] == report["zeroth"][name]


def test_the_dense_networks_have_the_edges_that_arithmetic_says(demo) -> None:
    rows = {row.model: row for row in demo[0].rows if row.step == 0}
    assert rows["mlp"].value("zeroth", "weight_edges") == 64 * 128 + 128 * 64 + 64 * 10
    # Valid taps of a 3 x 3 kernel on 8 x 8: 22 per axis, and with stride 2: 3 * 4 - 1 = 11.
    cnn = 22**2 * (1 * 16 + 2 * 16 * 16) + 11**2 * 16 * 32 + 128 * 10
    assert rows["cnn"].value("zeroth", "weight_edges") == cnn


def test_the_table_in_both_files(demo) -> None:
    result, _, _ = demo
    with result.files["table"].open() as file:
        table = list(csv.DictReader(file))
    data = json.loads(result.files["data"].read_text())
    assert len(table) == len(data["checkpoints"]) == len(result.rows)
    assert "paths" in data["conventions"]
    for line, entry, row in zip(table, data["checkpoints"], result.rows, strict=True):
        assert int(line["zeroth_effective_edges"]) == entry["zeroth_effective_edges"]
        assert float(line["accuracy"]) == pytest.approx(row.accuracy, abs=1e-6)


def test_picture_and_page(demo) -> None:
    result, _, _ = demo
    assert result.files["picture"].read_bytes().startswith(b"\x89PNG")
    page = result.files["report"].read_text()
    assert page.count("<tr>") == len(result.rows) + len(MODELS)
    assert "data:image/png;base64," in page
    assert "http" not in page.replace("data:image", "")


def test_the_table_is_printed_with_the_paths(demo, capsys) -> None:
    result, _, _ = demo
    result.print()
    lines = capsys.readouterr().out.splitlines()
    assert sum("-step-" in line for line in lines) == len(result.rows)
    for path in result.files.values():
        assert any(line.endswith(str(path)) for line in lines)


def test_checkpoints_of_an_earlier_run_are_removed(tmp_path) -> None:
    for name in ("mlp-step-09.pt", "mlp-step-09.json", "mine.pt"):
        (tmp_path / name).write_text("x")
    assert empty_folder(tmp_path) == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["mine.pt"]
    assert empty_folder(tmp_path / "new" / "one").is_dir()


@pytest.mark.parametrize("notes", [None, "no json", '{"model": "unknown"}'])
def test_checkpoints_without_notes(tmp_path, notes) -> None:
    path = tmp_path / "mlp-step-00.pt"
    torch.save(MODELS["mlp"]().state_dict(), path)
    if notes is not None:
        path.with_suffix(".json").write_text(notes)
    with pytest.raises(CheckpointError, match=r"mlp-step-00"):
        measure(path)


def test_a_network_without_any_path_is_measured(tmp_path) -> None:
    model = MODELS["mlp"]()
    torch.nn.init.zeros_(model.layers[3].weight)
    path = tmp_path / "mlp-step-00.pt"
    torch.save(model.state_dict(), path)
    path.with_suffix(".json").write_text('{"model": "mlp", "step": 0, "accuracy": 0.1}')
    row = measure(path)
    assert row.value("zeroth", "effective_edges") == 0
    assert math.isnan(row.value("zeroth", "path_count_log10"))
    assert any(line["name"] == "path_count_log10" for line in row.skipped)
