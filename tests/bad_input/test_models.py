"""Models that cannot be run, recorded or read: what went wrong, where, and what to do."""

from __future__ import annotations

import gc
import itertools

import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.errors import InputError, ModelStateError, TraceError, UnknownOpError
from tests.bad_input.untouched import untouched


def mlp():
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


class Ends(nn.Module):
    """A linear layer and a function of its outputs."""

    def __init__(self, function):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.function = function

    def forward(self, x):
        return self.function(self.layer(x))


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


# -- no model


@pytest.mark.parametrize(
    "thing", [None, 3, lambda x: x, nn.Linear, {"weight": torch.ones(2)}], ids=lambda t: str(type(t))
)
def test_no_module(thing, refused):
    refused(InputError, thing, torch.ones(1, 2), "torch.nn.Module", type(thing).__name__)


# -- a model that raises


def fail(y):
    raise ValueError("deliberate failure")


def test_a_model_that_raises(refused):
    error = refused(
        TraceError, Wrapped(Ends(fail)), torch.ones(1, 4), "ValueError", "deliberate failure", "'inner'", "(1, 4)"
    )
    assert isinstance(error.__cause__, ValueError)
    assert "model(example_input)" in str(error)


def test_a_model_that_raises_half_way_through_its_state(refused):
    """What was counted, stored and written in place before the failure is taken back."""

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.register_buffer("seen", torch.zeros(3))
            self.calls = 0
            self.log = []

        def forward(self, x):
            self.calls += 1
            y = self.layer(x)
            self.seen += y.detach().mean(0)
            self.log.append(y)
            self.cache = y
            with torch.no_grad():
                self.layer.weight.mul_(2)
            torch.rand(3)
            raise RuntimeError("after all that")

    model = Counting()
    refused(TraceError, model, torch.ones(1, 4), "after all that")
    assert not hasattr(model, "cache")


def test_an_error_without_a_message(refused):
    def silent(y):
        raise RuntimeError

    refused(TraceError, Ends(silent), torch.ones(1, 4), "RuntimeError", "no message")


def test_interrupts_pass():
    def interrupt(y):
        raise KeyboardInterrupt

    model = Ends(interrupt)
    with untouched(model), pytest.raises(KeyboardInterrupt):
        deepstruct.analyze(model, torch.ones(1, 4))


# -- training mode


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), (5, 4)),
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), (1, 4)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), (1, 3, 6, 6)),
        (nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2)), (2, 1, 4, 4, 4)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4)), (1, 3, 6, 6)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), (1, 3, 6, 6)),
    ],
    ids=lambda v: str(v) if isinstance(v, tuple) and "0x" not in str(v) else None,
)
def test_batch_norm_in_training_mode(model, shape, refused):
    x = torch.randn(shape)
    refused(ModelStateError, model.train(), x, "training mode", "model.eval()", "'1'")
    assert model.training
    assert model[1].num_batches_tracked is None or int(model[1].num_batches_tracked) == 0


def test_batch_norm_in_evaluation_mode(analysed):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    assert analysed(model, torch.randn(1, 4), orders="zeroth")["zeroth"]["edges"] == 12


def test_norms_without_a_batch_may_train(analysed):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2), nn.GroupNorm(1, 2), nn.Dropout(0.5)).train()
    report = analysed(model, torch.randn(1, 1, 5, 5), orders="zeroth", metrics=["edges"])
    assert report["zeroth"]["edges"] == 2 * 9 * 9
    assert any("dropout" in note for note in report.notes)
    assert model.training


# -- ops without a rule


@pytest.fixture(scope="module")
def custom():
    """Operators that nobody knows: one says what shape it returns, one does not."""
    library = torch.library.Library("deepstruct_bad_input", "DEF")
    library.define("mystery(Tensor x) -> Tensor")
    library.define("untold(Tensor x) -> Tensor")
    library.impl("mystery", lambda x: x.flip(-1) * 2, "CPU")
    library.impl("untold", lambda x: x.cumsum(-1), "CPU")
    torch.library.register_fake("deepstruct_bad_input::mystery", torch.empty_like, lib=library)
    yield torch.ops.deepstruct_bad_input
    library._destroy()
    gc.collect()


@pytest.mark.parametrize("name", ["mystery", "untold"])
def test_an_op_without_a_rule(name, custom, refused, analysed):
    model, x = Wrapped(Ends(getattr(custom, name))), torch.randn(1, 4)
    refused(
        UnknownOpError, model, x, f"deepstruct_bad_input.{name}", "'inner'", "(1, 3)", "deepstruct_rules",
        f"Rule('deepstruct_bad_input::{name}'", 'on_unknown="dense"',
    )  # fmt: skip
    report = analysed(model, x, on_unknown="dense", orders="zeroth", metrics=["nodes", "edges"])
    assert report["zeroth"] == {"nodes": 4 + 3 + 3, "edges": 4 * 3 + 3 * 3}
    (line,) = report.skipped
    assert (line.name, line.kind) == (f"deepstruct_bad_input::{name}", "layer")
    assert "all to all" in line.reason
    assert "'inner'" in line.reason


# -- weights


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor")
def test_dynamically_quantised_weights(refused):
    quantization = pytest.importorskip("torch.ao.quantization")
    model = quantization.quantize_dynamic(mlp(), {nn.Linear}, dtype=torch.qint8)
    refused(UnknownOpError, model, torch.randn(1, 4), "quantized.linear_dynamic", "'0'", "plugin")


def test_a_quantised_buffer(refused):
    model = Ends(lambda y: y)
    model.register_buffer("table", torch.quantize_per_tensor(torch.randn(3, 3), 0.1, 0, torch.qint8))
    refused(InputError, model, torch.randn(1, 4), "'table'", "quantised", "before quantisation")


def test_uninitialised_weights(refused):
    refused(InputError, nn.Sequential(nn.LazyLinear(3)), torch.randn(1, 4), "'0.weight'", "lazy")


@pytest.mark.parametrize("example", ["cpu", "meta"])
def test_weights_without_values(example, analysed, refused):
    """On the meta device the structure is known, and magnitudes are not."""
    model, x = mlp().to("meta"), torch.randn(1, 4, device=example)
    metrics = ["nodes", "edges", "weight_edges", "path_count", "strength_mean"]
    report = analysed(model, x, metrics=metrics)
    assert [report[order]["edges"] for order in report] == [18, 18, 2, 2]
    assert report["zeroth"]["path_count"] == 24
    assert {(s.name, s.order) for s in report.skipped} == {("strength_mean", order) for order in report}
    assert "no values" in report.skipped[0].reason
    assert any("meta device" in note for note in report.notes)
    refused(InputError, model, x, "threshold", "meta device", threshold=0.1)
    refused(InputError, model, x, "density", "meta device", density=0.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(value, analysed, refused):
    """They are not zero, so they are edges at every order; what adds them up is skipped and says so."""
    model, x = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, bias=False)), torch.randn(1, 1, 1, 1)
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].weight[0, 0, 1, 1] = value
        model[0].weight[1, 0, 0, 0] = value  # reads nothing but padding on a map of one pixel
    report = analysed(model, x, metrics=["edges", "nonzero_weights", "strength_max"])
    assert [report[order]["edges"] for order in report] == [1, 1, 1, 1]
    assert report["zeroth"]["nonzero_weights"] == 2
    assert {s.name for s in report.skipped} == {"strength_max"}
    assert all("not finite" in s.reason for s in report.skipped)
    above = analysed(model, x, orders=("zeroth", "first"), threshold=0.5, metrics=["edges"])
    expected = 0 if value != value else 1  # not a number is above nothing
    assert [above[order]["edges"] for order in above] == [expected] * 2
    if value != value:
        refused(InputError, model, x, "NaN", "'0'", density=0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_other_sizes(dtype, analysed):
    """The structure does not hang on the precision; sums of magnitudes are those of the weights as they are stored."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)).eval()
    x = torch.randn(1, 3, 5, 5)
    metrics = ["nodes", "edges", "path_count", "effective_nodes", "strength_mean"]
    plain = analysed(model, x, metrics=metrics)
    other = analysed(model.to(dtype), x.to(dtype), metrics=metrics)
    for order in plain:
        for name in metrics[:-1]:
            assert plain[order][name] == other[order][name]
        assert other[order]["strength_mean"] == pytest.approx(plain[order]["strength_mean"], rel=1e-2)
    stored = 2 * (9 * model[0].weight.detach().double().abs().sum() + model[4].weight.detach().double().abs().sum())
    total = other["zeroth"]["strength_mean"] * other["zeroth"]["nodes"]
    assert total == pytest.approx(float(stored), rel=1e-9)


# -- what a model returns


def classes(y):
    return y.argmax(-1)


@pytest.mark.parametrize(
    ("function", "note"),
    [
        (classes, "no units"),
        (lambda y: None, ""),
        (lambda y: "text", "'text'"),
        (lambda y: torch.ones(3), "no units"),
        (lambda y: y.sum().item(), "no tensor"),
        (lambda y: y.detach().numpy(), "numpy"),
    ],
    ids=["integers", "None", "text", "constant", "number", "array"],
)
def test_outputs_that_are_no_units(function, note, analysed):
    report = analysed(
        Ends(function), torch.randn(1, 4), metrics=["weight_edges", "outputs", "effective_nodes", "path_count"]
    )
    assert report["zeroth"] == {"weight_edges": 12, "outputs": 0, "effective_nodes": 0, "path_count": 0}
    assert any(note in text for text in report.notes) or not note


def test_containers_of_outputs(analysed):
    model = Ends(lambda y: {"a": y[:, :1], "rest": [y[:, 1:], None, (y.sum(1),)]})
    row = analysed(model, torch.randn(1, 4), orders="zeroth", metrics=["nodes", "outputs"])["zeroth"]
    assert row == {"nodes": 4 + 3 + 1, "outputs": 3 + 1}


# -- empty models


@pytest.mark.parametrize("model", [nn.Sequential(), nn.Identity(), nn.ReLU(), nn.Flatten(), nn.Dropout()], ids=str)
def test_a_module_without_parameters(model, analysed, refused):
    report = analysed(model, torch.randn(1, 4))
    row = report["zeroth"]
    assert (row["nodes"], row["edges"], row["parameters"], row["path_count"]) == (4, 0, 0, 4)
    assert report["third"]["nodes"] == 1
    assert "sparsity" in {s.name for s in report.skipped}
    refused(InputError, model, None, "no example input", type(model).__name__, "torch.randn")


@pytest.mark.parametrize(("widths", "nodes"), [((0, 3), 3), ((4, 0), 4), ((4, 0, 2), 6)])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_layers_of_size_zero(widths, nodes, analysed):
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))
    report = analysed(model, torch.randn(1, widths[0]))
    assert (report["zeroth"]["nodes"], report["zeroth"]["edges"]) == (nodes, 0)
    assert all(report[order]["path_count"] == 0 for order in report)


def test_a_module_that_returns_its_input(analysed):
    row = analysed(nn.Identity(), torch.randn(2, 5), orders="zeroth")["zeroth"]
    assert (row["nodes"], row["sources"], row["outputs"], row["longest_path"]) == (5, 5, 5, 0)
