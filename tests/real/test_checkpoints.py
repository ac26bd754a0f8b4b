"""Real trained networks at all four orders, against counts by hand and against what the networks compute."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import deepstruct
from deepstruct.checkpoints import load_state_dict, load_weights
from deepstruct.errors import CheckpointError
from deepstruct.testing import check_vjp
from tests.real import models

pytestmark = pytest.mark.real

# name: (module, input shape, parameters)
NETWORKS = {
    "pnet": (models.pnet, (1, 3, 12, 12), 6_632),
    "rnet": (models.rnet, (1, 3, 24, 24), 100_178),
    "onet": (models.onet, (1, 3, 48, 48), 389_040),
    "crepe_tiny": (models.PitchNet, (1, 1024), 486_552),
    "voice_encoder": (models.VoiceEncoder, (1, 8, 40), 1_423_618),
}
CONVOLUTIONAL = ["pnet", "rnet", "onet", "crepe_tiny"]
METRICS = (
    "nodes", "edges", "weight_edges", "structural_edges", "parameters", "weights", "nonzero_weights", "sparsity",
    "effective_nodes", "effective_edges", "effective_parameters", "dead_in", "dead_out", "path_count", "longest_path",
    "strength_max",
)  # fmt: skip


@pytest.fixture(scope="module")
def network(trained):
    """name -> (trained module, example input)."""

    def make(name):
        build, shape, _ = NETWORKS[name]
        generator = torch.Generator().manual_seed(0)
        return trained(name, build()), torch.randn(shape, generator=generator)

    return make


@pytest.fixture(scope="module")
def analysed(network):
    """name -> report, computed once."""
    done = {}

    def get(name):
        if name not in done:
            done[name] = deepstruct.analyze(*network(name), metrics=METRICS)
        return done[name]

    return get


# -- by hand: which taps of a kernel read a real sample, and how often


def reads(before, kernel, stride, padding):
    """For one axis: output length, and per tap the number of outputs at which it reads no padding."""
    total = before + sum(padding)
    after = (total - kernel) // stride + 1
    counts = [sum(0 <= o * stride + tap - padding[0] < before for o in range(after)) for tap in range(kernel)]
    return after, counts


def conv_edges(weight, sizes, stride, paddings):
    """(edges of a dense or pruned kernel, output sizes, kernel entries that are ever used), by counting taps."""
    axes = [reads(n, k, s, p) for n, k, s, p in zip(sizes, weight.shape[2:], stride, paddings, strict=True)]
    edges = used = 0
    for taps in itertools.product(*(range(k) for k in weight.shape[2:])):
        times = math.prod(counts[tap] for (_, counts), tap in zip(axes, taps, strict=True))
        entries = int((weight[(..., *taps)] != 0).sum())
        edges += entries * times
        used += entries * (times > 0)
    return edges, [after for after, _ in axes], used


def by_hand(name, model, shape):
    """(weight edges, kernel entries in use, units of convolutions and linear layers) of a chain, layer by layer."""
    edges = used = units = 0
    if name == "crepe_tiny":
        sizes, convolutions = [shape[1], 1], [model.get_submodule(f"conv{k}") for k in range(1, 7)]
        paddings, pools = [(p, (0, 0)) for p in model.paddings], [(2, 1)] * 6
    else:
        sizes = list(shape[2:])
        convolutions = [model.get_submodule(f"conv{k}") for k in range(1, model.depth + 1)]
        pools = [model.get_submodule(f"pool{k}") for k in range(1, model.depth + 1)]
        paddings = [((0, 0), (0, 0))] * model.depth
    for conv, padding, pool in zip(convolutions, paddings, pools, strict=True):
        count, sizes, entries = conv_edges(conv.weight, sizes, conv.stride, padding)
        edges, used, units = edges + count, used + entries, units + conv.out_channels * math.prod(sizes)
        if isinstance(pool, nn.MaxPool2d):
            sizes = [math.ceil((n - pool.kernel_size) / pool.stride) + 1 for n in sizes]
        elif isinstance(pool, tuple):
            sizes = [n // k for n, k in zip(sizes, pool, strict=True)]
        if not isinstance(pool, nn.Identity):
            units += conv.out_channels * math.prod(sizes)
    for path, layer in model.named_modules():
        is_head = isinstance(layer, nn.Conv2d) and path.startswith("conv4_")
        if isinstance(layer, nn.Linear) or is_head:
            count = int((layer.weight != 0).sum())
            edges, used, units = edges + count, used + count, units + layer.weight.shape[0]
    return edges, used, units


# -- the tests


@pytest.mark.parametrize("name", NETWORKS)
def test_every_key_of_the_file_is_used(name, network, checkpoint):
    model, x = network(name)
    state = load_state_dict(checkpoint(name))
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert sum(p.numel() for p in model.parameters()) == NETWORKS[name][2]
    with torch.no_grad():
        outputs = model(x)
    assert all(bool(y.isfinite().all()) for y in (outputs if isinstance(outputs, tuple) else (outputs,)))


def test_a_checkpoint_of_another_network_is_refused(checkpoint):
    model = models.rnet()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"missing.*unexpected.*another shape"):
        load_weights(model, checkpoint("onet"))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_four_orders(name, analysed):
    report = analysed(name)
    assert list(report) == ["zeroth", "first", "second", "third"]
    nodes = [report[order]["nodes"] for order in report]
    assert nodes == sorted(nodes, reverse=True)
    for order in report:
        row = report[order]
        assert row["parameters"] == NETWORKS[name][2]
        assert row["edges"] == row["weight_edges"] + row["structural_edges"]
        assert 0 < row["effective_nodes"] <= row["nodes"]
    skipped = {(s.name, s.order) for s in report.skipped}
    if name == "voice_encoder":
        assert {("path_count", "first"), ("longest_path", "second")} <= skipped
        assert all("cycle" in s.reason for s in report.skipped if s.name in ("path_count", "longest_path"))
        assert report.graphs["third"].is_dag
    else:
        assert skipped == {("effective_parameters", order) for order in ("first", "second", "third")}


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_weight_edges_by_hand(name, network, analysed):
    model, x = network(name)
    edges, used, units = by_hand(name, model, tuple(x.shape))
    row = analysed(name)["zeroth"]
    assert row["weight_edges"] == edges
    assert row["nodes"] == units + x.numel()
    assert row["effective_parameters"] == used
    stored = [m.weight for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert row["weights"] == sum(w.numel() for w in stored)
    assert row["nonzero_weights"] == sum(int((w != 0).sum()) for w in stored)
    assert row["strength_max"] > 0


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_nothing_of_a_trained_chain_is_dead(name, analysed):
    """No weight is exactly zero and no pool leaves a unit out, so that every unit lies on a path."""
    row = analysed(name)["zeroth"]
    assert row["effective_nodes"] == row["nodes"]
    assert row["effective_edges"] == row["edges"]
    assert row["dead_in"] == row["dead_out"] == 0
    assert row["path_count"] > row["edges"]


def test_channels_and_layers_of_onet(analysed):
    report = analysed("onet")
    widths = [3, 32, 64, 64, 128]
    kernels = sum(a * b for a, b in itertools.pairwise(widths))
    pools = 32 + 64 + 64
    dense = 128 * 256 + 256 * (2 + 4 + 10)
    assert report["first"]["edges"] == kernels + pools + dense
    assert report["first"]["structural_edges"] == pools
    assert report["second"]["nodes"] == 1 + 4 + 3 + 1 + 3
    assert report["second"]["path_count"] == 3
    assert report["second"]["longest_path"] == report["zeroth"]["longest_path"] == 9
    names = [space.name for space in report.graphs["second"].spaces]
    assert names == [
        "x", "conv1", "pool1", "conv2", "pool2", "conv3", "pool3", "conv4", "dense5", "dense6_1", "dense6_2",
        "dense6_3",
    ]  # fmt: skip


def test_unused_taps_of_the_pitch_network(network, analysed):
    """Kernels of 64 taps slide over 8 to 128 samples: some taps read nothing but padding, ever."""
    model, _ = network("crepe_tiny")
    row = analysed("crepe_tiny")["zeroth"]
    unused = 0
    for k, length in zip(range(2, 7), (128, 64, 32, 16, 8), strict=True):
        weight = model.get_submodule(f"conv{k}").weight
        _, counts = reads(length, 64, 1, (31, 32))
        unused += counts.count(0) * weight.shape[0] * weight.shape[1]
    assert unused > 0
    assert row["nonzero_weights"] - row["effective_parameters"] == unused


def test_all_edges_of_pnet_one_by_one(network):
    """Every edge of a whole trained network, written down by loops."""
    model, x = network("pnet")
    graph = deepstruct.extract(model, x)
    rows = graph.node_table()
    at = {row["id"]: (row["space"], row["index"][1:]) for row in rows}
    edges = graph.edge_list()
    found = {
        (at[s], at[t]): w for s, t, w in zip(edges.source.tolist(), edges.target.tolist(), edges.weight, strict=True)
    }
    assert len(found) == graph.num_edges
    expected = {}
    state = {key: value.double() for key, value in model.state_dict().items()}

    def convolve(source, target, size, kernel):
        weight = state[f"{target}.weight"]
        for o, i, dy, dx in itertools.product(*(range(n) for n in weight.shape)):
            for y, z in itertools.product(range(size), repeat=2):
                expected[(source, (i, y + dy, z + dx)), (target, (o, y, z))] = float(weight[o, i, dy, dx])

    convolve("x", "conv1", 10, 3)
    for c, y, z in itertools.product(range(10), range(5), range(5)):
        for dy, dx in itertools.product(range(2), repeat=2):
            expected[("conv1", (c, 2 * y + dy, 2 * z + dx)), ("pool1", (c, y, z))] = math.nan
    convolve("pool1", "conv2", 3, 3)
    convolve("conv2", "conv3", 1, 3)
    convolve("conv3", "conv4_1", 1, 1)
    convolve("conv3", "conv4_2", 1, 1)
    assert found.keys() == expected.keys()
    assert all(found[k] == pytest.approx(w, nan_ok=True) for k, w in expected.items())


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_edges_of_the_first_convolution_compute_it(name, network):
    """The sum of weight times input over the edges into a unit is what the convolution computes there."""
    model, x = network(name)
    x = x.double()
    graph = deepstruct.extract(model, x.float())
    source, target = graph.spaces[0], next(s for s in graph.spaces if s.name == "conv1")
    (op,) = [o for o in graph.operators if o.name == "conv1"]
    sums = torch.zeros(target.numel, dtype=torch.float64)
    inputs = torch.zeros(graph.num_slots, dtype=torch.float64)
    inputs[source.slots] = x.reshape(-1)
    count = 0
    reading, writing = op.source.index().reshape(-1), op.target.index().reshape(-1)
    for piece in op.edges():
        slots = reading[piece.source]
        real = slots >= 0  # padding is no unit
        sums.index_add_(
            0, writing[piece.target][real] - target.offset, piece.weight[real].double() * inputs[slots[real]]
        )
        count += int(real.sum())
    conv = model.conv1
    if name == "crepe_tiny":
        x = F.pad(x[:, None, :, None], (0, 0, 254, 254))
    expected = F.conv2d(x, conv.weight.double(), stride=conv.stride).reshape(-1)
    torch.testing.assert_close(sums, expected, rtol=1e-9, atol=1e-9)
    assert count == graph.operator_edges[graph.operators.index(op)]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("generic", [False, True], ids=["own weights", "generic weights"])
def test_derivatives_are_contained(name, generic, network):
    model, x = network(name)
    probes = check_vjp(model, x, outputs=2, generic=generic)
    assert all(probe.depends_on > 0 for probe in probes)
    assert all(probe.equal for probe in probes), "chains of dense kernels reach what the graph connects"


def test_pruning_a_trained_network(network):
    """Magnitude cuts on trained weights: the counts follow the magnitudes, and structure falls apart at the end."""
    model, x = network("rnet")
    magnitudes = torch.cat([m.weight.detach().abs().flatten() for m in model.modules() if hasattr(m, "in_channels")
                            or isinstance(m, nn.Linear)])  # fmt: skip
    paths = []
    for density in (1.0, 0.5, 0.1, 0.01):
        report = deepstruct.analyze(model, x, orders="zeroth", density=density, metrics=METRICS)
        row = report["zeroth"]
        assert row["nonzero_weights"] == round(density * magnitudes.numel())
        assert row["sparsity"] == pytest.approx(1 - density, abs=1e-5)
        assert row["effective_parameters"] <= row["nonzero_weights"]
        paths.append(row["path_count"])
    assert paths == sorted(paths, reverse=True)
    assert paths[0] > 1000 * paths[2]
    cut = float(magnitudes.median())
    graph = deepstruct.extract(model, x, threshold=cut)
    assert graph.num_nonzero_weights == int((magnitudes > cut).sum())
    again = deepstruct.extract(model, x)
    assert again.num_nonzero_weights == magnitudes.numel(), "the cut stays out of the model"
