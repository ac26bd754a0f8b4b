"""Building, finding and doing without the compiled kernels, each in a Python of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepstruct._build import stamp
from deepstruct.sparse import calibration, extension
from deepstruct.sparse.build import BuildError, build

ROOT = Path(__file__).resolve().parents[2]
USE = (
    "import torch, deepstruct.sparse as s\n"
    "from deepstruct.sparse import extension as e\n"
    "torch.manual_seed(0); l = s.SparseLinear(9, 5); l(torch.ones(2, 9))\n"
    "print(l(torch.ones(2, 9)).sum().item())\n"
    "print(e.isa())\n"
)
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")


def python(code: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DEEPSTRUCT_NATIVE": "1", **variables}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )


def test_without_a_library_one_line_says_so(tmp_path):
    done = python(USE, DEEPSTRUCT_MASKED_LIBRARY=str(tmp_path / "none.so"))
    assert done.stdout.splitlines()[1] == "pytorch"
    assert [line for line in done.stderr.splitlines() if "deepstruct" in line] == [
        "deepstruct: sparse layers run on plain PyTorch (extension: not built); "
        "`deepstruct build-ext` builds it"
    ]


def test_a_broken_library_is_named_and_left_alone(tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"\x7fELF and no more")
    done = python(USE, DEEPSTRUCT_MASKED_LIBRARY=str(broken))
    assert done.stdout.splitlines()[1] == "pytorch"
    assert str(broken) in done.stderr


@needs_compiler
def test_a_library_of_other_sources_is_named_and_left_alone(tmp_path):
    """An older one would register kernels that the code here calls in another way."""
    older = tmp_path / "older.so"
    older.write_bytes(build(tmp_path / "lib.so").read_bytes().replace(stamp("masked").encode(), b"0" * 16))
    done = python(USE, DEEPSTRUCT_MASKED_LIBRARY=str(older))
    assert done.stdout.splitlines()[1] == "pytorch"
    assert f"{older} cannot be loaded: it was built from other sources" in done.stderr


@needs_compiler
def test_build_ext_builds_what_runs(tmp_path):
    target = tmp_path / "deep" / "lib.so"
    target.parent.mkdir()
    target.write_bytes(b"an older one")
    code = f"from deepstruct.cli.main import main; main(['build-ext', '--only', 'masked', '--target', {str(target)!r}])"
    assert f"wrote {target}" in python(code).stdout
    assert [path.name for path in target.parent.iterdir()] == ["lib.so"]
    plain = python(USE, DEEPSTRUCT_NATIVE="0")
    for isa in ("plain", "avx2", "avx512"):
        done = python(USE, DEEPSTRUCT_MASKED_LIBRARY=str(target), DEEPSTRUCT_ISA=isa)
        assert float(done.stdout.split()[0]) == pytest.approx(float(plain.stdout.split()[0]), rel=1e-5)
        assert done.stdout.split()[1] in ("plain", "avx2", "avx512")
        assert done.stderr == ""


def test_a_failing_build_leaves_the_old_library(tmp_path, monkeypatch):
    target = tmp_path / "lib.so"
    target.write_bytes(b"old")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match="no-such-compiler"):
        build(target)
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(BuildError, match="false failed"):
        build(target)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["lib.so"]


def test_the_crossover_can_be_set(monkeypatch):
    monkeypatch.setenv("DEEPSTRUCT_CROSSOVER", "0.25")
    assert calibration.sparse_pays(1 << 20, 64, lambda: 0.2)
    assert not calibration.sparse_pays(1 << 20, 64, lambda: 0.3)
    assert not calibration.sparse_pays(100, 64, lambda: 0.01)  # too small for any density
    monkeypatch.setenv("DEEPSTRUCT_CROSSOVER", "much")
    with pytest.raises(ValueError, match="no density"):
        calibration.override()


@given(at=st.floats(0.012, 0.45), slope=st.floats(0.2, 3))
def test_the_crossover_lies_between_the_densities_that_were_timed(at, slope):
    def gain(density):
        return calibration.MARGIN * (at / density) ** slope

    assert calibration.crossing(gain) == pytest.approx(at, rel=0.01)


def test_the_crossover_of_what_always_or_never_pays():
    assert calibration.crossing(lambda density: 2.0) == calibration.DENSITIES[0]
    assert calibration.crossing(lambda density: 0.5) == 0


def test_the_crossover_is_kept_for_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibration, "DENSITIES", (0.5,))
    monkeypatch.setattr(calibration, "SIZES", (64, 128))
    calibration.crossovers.cache_clear()
    measured = calibration.crossovers()
    stored = json.loads(calibration.cache_file().read_text())
    assert stored["crossovers"] == measured
    assert len(measured) == 6
    stored["crossovers"] = dict.fromkeys(measured, 0.125)
    calibration.cache_file().write_text(json.dumps(stored))
    calibration.crossovers.cache_clear()
    assert set(calibration.crossovers().values()) == {0.125}  # read, not measured
    stored["signature"]["threads"] = -1
    calibration.cache_file().write_text(json.dumps(stored))
    calibration.crossovers.cache_clear()
    assert set(calibration.crossovers().values()) <= {0.0, 0.5}  # another machine's: measured again
    calibration.crossovers.cache_clear()


@pytest.mark.skipif(extension.path() is None, reason="the extension is not built")
def test_doctor_reports_the_kernels(tmp_path):
    code = "from deepstruct.cli.main import main; main(['doctor'])"
    out = python(code, XDG_CACHE_HOME=str(tmp_path), DEEPSTRUCT_CROSSOVER="0.2").stdout
    assert extension.isa() in out
    assert "density 0.2, set by DEEPSTRUCT_CROSSOVER" in out
