"""`deepstruct draw`."""

from __future__ import annotations

import pytest

MODEL = "torch.nn:Identity"


def test_a_picture_is_written(run, tmp_path) -> None:
    model = tmp_path / "net.py"
    model.write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))\n"
    )
    out = tmp_path / "layers.svg"
    result = run("draw", f"{model}:build", "--input", "1,4", "--out", str(out))
    assert result.code == 0, result.out + result.err
    assert "layered, 3 nodes, 2 edges" in result.out
    assert "<svg" in out.read_text()


@pytest.mark.parametrize("out", ["nowhere/x.svg", "x.bmp"])
def test_a_bad_place_is_told_before_the_work(run, tmp_path, out) -> None:
    result = run("draw", MODEL, "--out", str(tmp_path / out))
    assert result.code != 0
    assert not (tmp_path / out).exists()
