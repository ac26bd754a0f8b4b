"""`deepstruct analyze`: from the command line to a report, and what goes wrong on the way."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import deepstruct


def test_a_report_in_the_terminal(run, model_file) -> None:
    result = run("analyze", f"{model_file}:build", "--input", "1,8")
    assert result.code == 0, result.err
    assert result.err == ""
    for word in ("Sequential", "zeroth", "third", "weight_edges", "path_count"):
        assert word in result.out


def test_json_equals_the_function(run, model_file, tmp_path) -> None:
    out = tmp_path / "out.json"
    result = run("analyze", f"{model_file}:build", "--input", "1,8", "--orders", "zeroth,second", "--json", out)
    assert result.code == 0
    written = json.loads(out.read_text())
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    expected = deepstruct.analyze(model, torch.zeros(1, 8), orders=("zeroth", "second")).to_dict()

    def values(report):
        return {(r["order"], r["scope"], r["name"]): r["value"] for r in report["rows"]}

    ours, theirs = values(written), values(json.loads(json.dumps(expected)))
    assert ours.keys() == theirs.keys()
    assert ours["zeroth", "graph", "weight_edges"] == 8 * 4 + 4 * 2
    assert ours["zeroth", "graph", "path_count"] == theirs["zeroth", "graph", "path_count"] == 64
    assert ours["zeroth", "graph", "strength_mean"] == theirs["zeroth", "graph", "strength_mean"]


def test_html_and_quiet(run, model_file, tmp_path) -> None:
    out = tmp_path / "out.html"
    result = run("analyze", f"{model_file}:build", "--input", "1,8", "--html", out, "--quiet")
    assert (result.code, result.out) == (0, "")
    assert result.err.strip() == f"wrote {out}"
    assert "weight_edges" in out.read_text()


def test_metrics_and_analyzer(run, model_file, tmp_path) -> None:
    out = tmp_path / "out.json"
    arguments = ("--input", "1,8", "--orders", "zeroth", "--metrics", "nodes,edges", "--analyzer", "networkx")
    assert run("analyze", f"{model_file}:build", *arguments, "--json", out).code == 0
    rows = json.loads(out.read_text())["rows"]
    assert {(r["name"], r["value"], r["analyzer"]) for r in rows} == {
        ("nodes", 14, "networkx"),
        ("edges", 40, "networkx"),
    }


def test_weights_threshold_and_density(run, model_file, tmp_path) -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)
    model[0].weight.data[0] = 0.0
    model[2].weight.data[0] = 0.1
    torch.save({"state_dict": model.state_dict()}, tmp_path / "w.pt")
    out = tmp_path / "out.json"

    def edges(*arguments):
        fixed = (
            "--input",
            "1,8",
            "--orders",
            "zeroth",
            "--metrics",
            "weight_edges",
            "--quiet",
            "--json",
            out,
        )
        result = run("analyze", f"{model_file}:build", *fixed, "--weights", tmp_path / "w.pt", *arguments)
        assert result.code == 0, result.err
        return json.loads(out.read_text())["rows"][0]["value"]

    assert edges() == 24 + 8
    assert edges("--threshold", "0.2") == 24 + 4
    assert edges("--density", "0.7") == 28


def test_keyword_inputs_and_tokens(run, model_file) -> None:
    by_name = run("analyze", f"{model_file}:Net", "--input", "1,3", "--input", "scale=1,2", "--orders", "zeroth")
    assert by_name.code == 0, by_name.err
    tokens = run("analyze", f"{model_file}:Tokens", "--input", "1,6", "--dtype", "int64", "--orders", "zeroth")
    assert tokens.code == 0, tokens.err


def test_an_input_is_found_where_the_model_has_one(run, model_file) -> None:
    assert run("analyze", f"{model_file}:build", "--orders", "second").code == 0


def test_the_model_is_in_evaluation_mode(run, tmp_path) -> None:
    (tmp_path / "norm.py").write_text(
        "from torch import nn\ndef build(): return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))\n"
    )
    assert run("analyze", f"{tmp_path / 'norm.py'}:build", "--input", "1,3", "--orders", "zeroth").code == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--input", "1,9"], "9"),
        (["--input", "1,8", "--orders", "fifth"], "unknown order 'fifth'"),
        (["--input", "1,8", "--metrics", "nodse"], "nodes"),
        (["--input", "1,8", "--analyzer", "magic"], "magic"),
        (["--input", "1,8", "--max-memory", "much"], "is no size"),
        (["--input", "1,8", "--density", "2"], "density"),
        (["--input", "1,8", "--weights", "absent.pt"], "absent.pt cannot be opened"),
        (["--input", "1,8", "--json", "no/such/folder/x.json"], "there is no folder"),
        (["--input", "1,8", "--prefer", "x", "--prefer", "a=b"], "KEY=DISTRIBUTION"),
        (["--input", "one"], "is no shape"),
    ],
)
def test_mistakes_are_one_message(run, model_file, arguments, expected) -> None:
    result = run("analyze", f"{model_file}:build", *arguments)
    assert result.code == 2
    assert expected in result.err
    assert result.err.startswith("deepstruct: ")
    assert "Traceback" not in result.err
    assert result.out == ""


def test_weights_that_do_not_fit(run, model_file, tmp_path) -> None:
    torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "w.pt")
    result = run("analyze", f"{model_file}:build", "--input", "1,8", "--weights", tmp_path / "w.pt")
    assert result.code == 2
    assert "does not fit Sequential: 4 missing (0.weight, 0.bias, 2.weight, ...)" in result.err


def test_debug_shows_the_traceback(spawn, model_file) -> None:
    plain = spawn("analyze", f"{model_file}:number")
    assert (plain.code, "Traceback" in plain.err) == (2, False)
    for arguments, env in ((("--debug",), {}), ((), {"DEEPSTRUCT_DEBUG": "1"})):
        result = spawn(*arguments, "analyze", f"{model_file}:number", env=env)
        assert result.code == 2
        assert "Traceback" in result.err
        assert result.err.rstrip().splitlines()[-1].startswith("deepstruct: ")


def test_a_wrong_option_is_a_usage_error(run) -> None:
    result = run("analyze", "x:y", "--normalization", "none")
    assert result.code == 2
    assert "Usage:" in result.err
