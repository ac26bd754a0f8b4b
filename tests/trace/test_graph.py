"""What an OpGraph answers: dependencies, users, slices, budgets; and models without weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepstruct.errors import CapacityError, TraceError
from deepstruct.trace import Ref, execute, refs_of, substitute, trace


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.position = nn.Parameter(torch.randn(4))
        self.unused = nn.Parameter(torch.randn(2))

    def forward(self, x):
        scale = (self.position * 2).exp()
        y = self.fc(x) * scale
        return y.relu(), y.shape[0]


@pytest.fixture
def graph(mode):
    return trace(Net(), torch.randn(2, 4), mode=mode)


def test_dependence_on_inputs(graph):
    by_name = {op.name: op for op in graph.ops}
    assert not graph.depends_on(by_name["exp"].outputs[0])
    assert graph.depends_on(by_name["relu"].outputs[0])
    assert graph.input_dependent[graph.inputs[0]]
    assert not graph.input_dependent[graph.parameters["position"]]
    assert len(graph.input_dependent) == len(graph.values)


def test_users_and_last_use(graph):
    for v, users in enumerate(graph.users):
        expected = [op.index for op in graph.ops if v in refs_of(op.args) + refs_of(op.kwargs)]
        assert users == expected
        assert graph.last_use[v] == (expected[-1] if expected else None)
    assert graph.users[graph.parameters["unused"]] == []


def test_evaluate_runs_only_what_is_needed(graph):
    exp = next(op for op in graph.ops if op.name == "exp")
    values = graph.evaluate([exp.outputs[0], graph.parameters["position"]])
    position = graph.values[graph.parameters["position"]].data
    torch.testing.assert_close(values[exp.outputs[0]], (position * 2).exp().detach())
    assert values[graph.parameters["position"]] is position
    assert not values[exp.outputs[0]].requires_grad


def test_every_value_can_be_evaluated(graph):
    values = graph.evaluate(range(len(graph.values)))
    for value in graph.values:
        assert tuple(values[value.id].shape) == value.shape
        assert values[value.id].dtype == value.dtype


def test_budget_is_checked_before_anything_runs(graph):
    v = graph.outputs[0][1]
    with pytest.raises(CapacityError, match=r"needs [\d,]+ bytes"):
        graph.evaluate([v], byte_budget=16)
    assert tuple(graph.evaluate([v], byte_budget=4096)[v].shape) == (2, 4)


def test_peak_counts_freed_results():
    deep = nn.Sequential(*[nn.Tanh() for _ in range(50)])
    graph = trace(deep, torch.randn(1, 256))
    v = graph.outputs[0][1]
    assert graph.evaluate([v], byte_budget=2 * 1024)[v].shape == (1, 256)  # two results of 1 KiB at a time
    with pytest.raises(CapacityError):
        graph.evaluate([v], byte_budget=2 * 1024 - 1)


def test_a_transposed_weight_takes_no_memory() -> None:
    layer = nn.Linear(256, 64, bias=False)
    graph = trace(layer, torch.randn(1, 256))
    (turned,) = (op.outputs[0] for op in graph.ops if op.name in ("t", "transpose", "permute"))
    assert torch.equal(graph.evaluate([turned], byte_budget=1)[turned], layer.weight.T)
    (product,) = (op.outputs[0] for op in graph.ops if op.name == "mm")
    assert graph.evaluate([product], byte_budget=4 * 64)[product].shape == (1, 64)
    with pytest.raises(CapacityError):
        graph.evaluate([product], byte_budget=4 * 64 - 1)


def test_a_view_of_a_result_keeps_it_alive() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * 2).t().exp()

    graph = trace(Net(), torch.randn(8, 8))
    (last,) = (op.outputs[0] for op in graph.ops if op.name == "exp")
    with pytest.raises(CapacityError):
        graph.evaluate([last], byte_budget=2 * 256 - 1)


def test_results_are_freed_after_their_last_use():
    import weakref

    class Watch(nn.Module):
        def forward(self, x):
            for _ in range(5):
                x = x.tanh()
            return x

    graph = trace(Watch(), torch.randn(3))
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def watched(target):
        def run(*args, **kwargs):
            nonlocal most
            out = target(*args, **kwargs)
            alive.append(weakref.ref(out))
            most = max(most, sum(r() is not None for r in alive))
            return out

        return run

    for op in graph.ops:
        op.target = watched(op.target)
    graph.evaluate([graph.outputs[0][1]])
    assert len(alive) == 5
    assert most == 2


def test_interpret_takes_any_feed_and_can_be_differentiated(graph):
    x = torch.randn(2, 4, requires_grad=True)
    weight = torch.zeros(4, 4, requires_grad=True)
    v = graph.outputs[0][1]
    out = graph.interpret([v], {graph.inputs[0]: x, graph.parameters["fc.weight"]: weight})[v]
    assert out.requires_grad
    out.sum().backward()
    assert weight.grad is not None
    model = Net()
    model.fc.bias.data = graph.values[graph.parameters["fc.bias"]].data
    model.position.data = graph.values[graph.parameters["position"]].data
    with torch.no_grad():
        model.fc.weight.zero_()
    torch.testing.assert_close(out, model(x)[0])


def test_a_record_with_mutation_can_be_differentiated():
    class InPlace(nn.Module):
        def forward(self, x):
            y = x * 1
            y[:, 1:].mul_(y[:, :1])
            y.t()[0].add_(y[:, 2])
            return y.exp_()

    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    graph = trace(InPlace(), x.detach())
    v = graph.outputs[0][1]
    assert torch.autograd.gradcheck(lambda t: graph.interpret([v], {graph.inputs[0]: t})[v], (x,))


def test_execute_and_substitute():
    graph = trace(nn.ReLU(inplace=True), torch.tensor([-1.0, 2.0]))
    (op,) = graph.ops
    x = torch.tensor([-3.0, 4.0])
    args = substitute(op.args, lambda v: x)
    assert op.args == (Ref(graph.inputs[0]),)
    assert execute(op, args, op.kwargs)[0].tolist() == [0.0, 4.0]
    assert x.tolist() == [-3.0, 4.0]


@pytest.mark.parametrize("kind", ["meta", "fake"])
def test_models_without_weights(kind):
    from torch._subclasses.fake_tensor import FakeTensorMode

    def build() -> nn.Module:
        layer = nn.TransformerEncoderLayer(512, 8, 40960, batch_first=True)
        return nn.Sequential(*[layer for _ in range(3)], nn.Linear(512, 100_000)).eval()

    if kind == "meta":
        with torch.device("meta"):
            model = build()
    else:
        with FakeTensorMode():
            model = build()
    graph = trace(model, torch.randn(2, 6, 512))
    ((_, v),) = graph.outputs
    assert graph.values[v].shape == (2, 6, 100_000)
    assert graph.mode == "fake"
    with pytest.raises(TraceError, match=r"parameter '.*' of shape .* has no values"):
        graph.evaluate([v])
    with pytest.raises(TraceError, match="real"):
        trace(model, torch.randn(2, 6, 512), mode="real")


def test_meta_model_with_meta_inputs_and_devices():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            device = next(self.parameters()).device
            mask = torch.arange(x.shape[0], device=device) > 0
            return self.fc(x.to(device)) * mask[:, None] + torch.ones(4, device=x.device)

    with torch.device("meta"):
        model = Net()
    for x in (torch.randn(3, 4), torch.empty(3, 4, device="meta")):
        graph = trace(model, x)
        assert graph.values[graph.outputs[0][1]].shape == (3, 4)


def test_data_dependent_slice_without_weights_is_an_error():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return x if self.fc(x).sum().item() > 0 else -x

    with torch.device("meta"):
        model = Net()
    with pytest.raises(TraceError, match=r"fc\.weight"):
        trace(model, torch.randn(3, 4))


def test_repr(graph):
    assert f"{len(graph.ops)} ops" in repr(graph)
