"""The CUDA kernels: compiled wherever nvcc is, run wherever a GPU is. (The emulated grid is a C++ test.)"""

from __future__ import annotations

import shutil

import pytest
import torch
from click.testing import CliRunner

from deepstruct.errors import DeepstructError
from deepstruct.sparse import SparseLinear, cuda, functional, install
from deepstruct.sparse.build import BuildError

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc here")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@needs_nvcc
def test_kernels_and_binding_compile(tmp_path):
    kernels, binding = cuda.compile_objects(tmp_path)
    assert binding.stat().st_size > 0
    code = kernels.read_bytes()
    for architecture in cuda.ARCHITECTURES:
        assert f"sm_{architecture}".encode() in code


def test_a_cpu_torch_says_why_there_is_no_cuda_library(tmp_path):
    if torch.version.cuda is not None:
        pytest.skip("this torch has CUDA")
    with pytest.raises(BuildError, match="CPU build"):
        cuda.build(tmp_path / "library.so")
    assert "CPU build" in cuda.state()


def test_no_nvcc_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(BuildError, match="nvcc"):
        cuda.nvcc()


def test_build_ext_says_why_it_leaves_the_gpu_out_and_fails_when_asked_for_it(monkeypatch):
    if cuda.missing() is None:
        pytest.skip("CUDA can be built here")
    from deepstruct.cli import build_ext

    done = CliRunner().invoke(build_ext.build_ext, ["--only", "cuda"])
    assert isinstance(done.exception, DeepstructError)
    assert str(cuda.missing()) in str(done.exception)
    monkeypatch.setattr(build_ext, "_graph", lambda target: ("graph", "plain"))  # minutes of compiling
    monkeypatch.setattr(build_ext, "_masked", lambda target: ("masked", "plain"))
    done = CliRunner().invoke(build_ext.build_ext, [])
    assert done.exit_code == 0
    assert f"cuda: left out ({cuda.missing()})" in done.output


def test_doctor_has_a_line_for_the_gpu():
    assert ("cuda ext", cuda.state()) in install.report()


@pytest.fixture(scope="module")
def gpu():
    if cuda.state().startswith("off"):
        cuda.build()
        cuda.load()
    assert not cuda.state().startswith("off")
    return torch.device("cuda")


@needs_gpu
@pytest.mark.parametrize("dtype", cuda.DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(5, 7), (600, 40), (530, 270), (1, 513)], ids=str)
@pytest.mark.parametrize("batch", [0, 1, 33, 256])
@pytest.mark.parametrize("density", [0.2, 0.01])
def test_gpu_agrees_with_the_reference(gpu, dtype, shape, batch, density):
    mask = torch.rand(shape) < density
    layer = SparseLinear.from_dense(torch.randn(shape), mask, torch.randn(shape[0]))
    x = torch.randn(batch, shape[1])
    y = layer(x.requires_grad_())
    grad = torch.randn_like(y)
    expected = torch.autograd.grad(y, [x, *layer.parameters()], grad)
    there = layer.to(gpu, dtype)
    moved = x.detach().to(gpu, dtype).requires_grad_()
    found = there(moved)
    got = torch.autograd.grad(found, [moved, *there.parameters()], grad.to(gpu, dtype))
    tolerance = {torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 2e-1}[dtype]
    for a, b in zip((found, *got), (y, *expected), strict=True):
        torch.testing.assert_close(a.float().cpu(), b.detach(), rtol=tolerance, atol=tolerance)


@needs_gpu
def test_gpu_is_deterministic_and_float64_goes_to_the_reference(gpu):
    weight, mask = torch.randn(700, 300, device=gpu), torch.rand(700, 300, device=gpu) < 0.1
    x = torch.randn(100, 300, device=gpu)
    runs = [functional.masked_linear(x, weight, mask) for _ in range(3)]
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])
    double = functional.masked_linear(x.double(), weight.double(), mask)
    torch.testing.assert_close(double, x.double() @ (weight * mask).double().T)
