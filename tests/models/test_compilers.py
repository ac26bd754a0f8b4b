"""Every model under the default compiler, and in data-parallel training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import networkx as nx
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from deepstruct._build import BuildError, compiler
from deepstruct.recurrent import MaskedDeepRNN, MaskedGRULayer, MaskedLSTMLayer, MaskedRecurrentLayer
from deepstruct.sparse import DeepCellDAN, MaskedDeepDAN, MaskedDeepFFN, SparseLinear

WS = nx.watts_strogatz_graph(30, 4, 0.3, seed=2)


def cell(is_input: bool, in_degree: int, input_channel_size: int, **_: object) -> nn.Module:
    return nn.Sequential(nn.Conv2d(input_channel_size if is_input else in_degree, 1, 3, padding=1), nn.ReLU())


def recurrent(kind: type) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = MaskedDeepRNN(3, [4, 5], kind, batch_first=True)
        model.apply_mask(0.2, i2h=True, h2h=True)
        return model

    return make


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ffn": (lambda: MaskedDeepFFN((2, 3), 4, [10, 8, 8], use_layer_norm=True), (5, 2, 3)),
    "separate": (lambda: MaskedDeepDAN((2, 3), 4, WS), (5, 2, 3)),
    "sum-norm": (lambda: MaskedDeepDAN(6, 4, WS, True, skips="sum", readout="sinks"), (5, 6)),
    # doubles: the gradient of a bias before batch norm is zero but for rounding
    "cells": (lambda: DeepCellDAN(4, 2, cell, nx.watts_strogatz_graph(6, 4, 0.3, seed=1)).double(), (5, 2, 9, 9)),
    "sparse": (lambda: nn.Sequential(SparseLinear(6, 8, density=0.5), nn.ReLU(), SparseLinear(8, 3)), (5, 6)),
    "rnn": (recurrent(MaskedRecurrentLayer), (5, 6, 3)),
    "gru": (recurrent(MaskedGRULayer), (5, 6, 3)),
    "lstm": (recurrent(MaskedLSTMLayer), (5, 6, 3)),
}
each_model = pytest.mark.parametrize("name", list(MODELS))


def can_compile() -> bool:
    try:
        return bool(compiler())
    except BuildError:
        return False


@pytest.fixture(scope="module", autouse=True)
def compiled_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What Inductor compiles goes into a folder that is shared by this module's tests only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(), reason="Inductor needs a C++ compiler")
@each_model
def test_inductor_forward_and_backward(name: str) -> None:
    torch._dynamo.reset()
    make, shape = MODELS[name]
    model = make()
    x = torch.randn(shape, dtype=next(model.parameters()).dtype, requires_grad=True)
    wanted = [p for p in model.parameters() if p.requires_grad]
    out = model(x)
    expected = torch.autograd.grad(out.square().sum(), [x, *wanted], allow_unused=True)
    compiled = torch.compile(model, fullgraph=True)
    again = compiled(x)
    torch.testing.assert_close(again, out, rtol=1e-4, atol=1e-5)
    found = torch.autograd.grad(again.square().sum(), [x, *wanted], allow_unused=True)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_data_parallel_training(tmp_path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for name, (make, shape) in MODELS.items():
            model = make()
            # separate skips read the last layer only: other sinks have no gradient
            parallel = DistributedDataParallel(model, find_unused_parameters=True)
            optimizer = torch.optim.SGD(model.parameters(), 1e-2)
            x, losses = torch.randn(shape, dtype=next(model.parameters()).dtype), []
            for _ in range(4):
                optimizer.zero_grad()
                loss = (parallel(x) - 1).square().mean()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
            assert all(b < a for a, b in pairwise(losses)), (name, losses)
    finally:
        torch.distributed.destroy_process_group()
