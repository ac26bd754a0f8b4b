"""Models at the size that people run: counts that were measured before, and derivatives of single outputs."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from deepstruct.structure.settings import Settings
from deepstruct.testing import check_vjp
from deepstruct.testing.build import build_from_trace
from deepstruct.trace import trace

from ..zoo_compat import declare_torchvision_ops

pytestmark = pytest.mark.zoo

# nodes, weight edges, structural edges at 224 x 224
COUNTS = {
    "alexnet": (742_248, 657_918_720, 804_096),
    "resnet18": (2_660_840, 1_680_390_912, 2_387_008),
    "resnet50": (9_962_984, 3_948_251_904, 5_899_328),
}


def model_of(name: str) -> nn.Module:
    declare_torchvision_ops()
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model = getattr(models, name)(weights=None).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # a random initialisation holds a few exact zeros
            parameter.add_((parameter == 0).to(parameter.dtype))
    return model


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name: str) -> None:
    model = model_of(name)
    graph = build_from_trace(trace(model, torch.zeros(1, 3, 224, 224)), Settings())
    assert (graph.num_nodes, graph.num_weight_edges, graph.num_structural_edges) == COUNTS[name]
    assert graph.num_parameters == sum(p.numel() for p in model.parameters())


def test_reading_takes_no_time_to_speak_of() -> None:
    """Processor time of this thread, which does not hang on what else the machine does; ten times what it takes."""
    model = model_of("resnet50")
    record = trace(model, torch.zeros(1, 3, 224, 224))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = time.thread_time()
        graph = build_from_trace(record, Settings())
        built = time.thread_time()
        assert graph.num_edges > 3_900_000_000
        counted = time.thread_time()
    finally:
        torch.set_num_threads(threads)
    assert built - start < 15
    assert counted - built < 15


def test_memory_is_that_of_the_weights() -> None:
    graph = build_from_trace(trace(model_of("resnet18"), torch.zeros(1, 3, 224, 224)), Settings())
    beyond = sum(op.bytes() for op in graph.operators)
    tables = sum(o.table.numel() * 8 for op in graph.operators for o in (op.source, op.target) if o.table is not None)
    assert beyond < 1 << 20
    assert tables < 1 << 20


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1"])
def test_derivatives_at_real_size(name: str) -> None:
    probes = check_vjp(model_of(name), torch.randn(1, 3, 224, 224), outputs=2)
    assert all(p.equal and p.depends_on > 1000 for p in probes)
