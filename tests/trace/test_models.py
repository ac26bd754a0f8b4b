"""Replay of feed-forward models: what a record computes is what the model computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from deepstruct.trace import trace


def image(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        y = self.act(self.norm(self.first(x)))
        z = self.act(self.second(y))
        z += y
        return self.head(self.pool(z).flatten(1))


def test_mlp(mode, replays):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(-1))
    graph = replays(model, torch.randn(2, 4), torch.randn(2, 4), mode=mode)
    assert [op.name for op in graph.ops] == ["t", "addmm", "relu", "t", "addmm", "_softmax"]
    assert graph.values[graph.inputs[0]].name == "input"
    assert graph.outputs == [("output", graph.ops[-1].outputs[0])]
    assert set(graph.parameters) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert graph.values[graph.parameters["0.weight"]].data is model[0].weight


def test_cnn_with_in_place_relu_and_residual(mode, replays):
    replays(Residual().eval(), image(0), image(1), mode=mode)
    replays(Residual().eval().to(memory_format=torch.channels_last), image(0), image(1), mode=mode)


def test_channels_last_input(mode, replays):
    x = image(0).to(memory_format=torch.channels_last)
    graph = replays(Residual().eval(), x, image(1), mode=mode)
    assert graph.values[graph.inputs[0]].shape == (2, 3, 8, 8)


def test_an_empty_model_has_no_ops(mode, replays):
    graph = replays(nn.Sequential(), torch.randn(2), torch.randn(2), mode=mode)
    assert graph.ops == []
    assert graph.outputs == [("output", graph.inputs[0])]


def test_tied_parameters_are_one_value(mode, replays):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.decode = nn.Linear(4, 7)
            self.decode.weight = self.embed.weight

        def forward(self, ids):
            return self.decode(self.embed(ids))

    ids = torch.tensor([[1, 2, 3]])
    graph = replays(Tied(), ids, ids + 1, mode=mode)
    assert graph.parameters["embed.weight"] == graph.parameters["decode.weight"]
    assert graph.values[graph.parameters["decode.weight"]].name == "embed.weight"


def weight_norm_old(layer: nn.Linear) -> nn.Module:
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(layer)
    return without_gradients(layer)


def without_gradients(layer: nn.Linear) -> nn.Module:
    with torch.no_grad():  # the derived weight becomes a plain tensor, which can be deep-copied
        layer(torch.zeros(1, 4))
    return layer


def pruned(layer: nn.Linear) -> nn.Module:
    prune.random_unstructured(layer, "weight", 0.5)
    return without_gradients(layer)


@pytest.mark.parametrize(
    "wrap",
    [
        weight_norm_old,
        pruned,
        parametrizations.weight_norm,
        parametrizations.orthogonal,
        parametrizations.spectral_norm,
    ],
)
def test_derived_weights(wrap, mode, replays):
    model = nn.Sequential(wrap(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 2)).eval()
    before = dict(model[0].__dict__)
    graph = replays(model, torch.randn(3, 4), torch.randn(3, 4), mode=mode)
    assert all(model[0].__dict__[k] is v for k, v in before.items())
    assert graph.values[graph.inputs[0]].kind == "input"


def test_masked_weight_is_seen_as_parameter_times_buffer(replays):
    graph = replays(nn.Sequential(pruned(nn.Linear(4, 4))), torch.randn(3, 4))
    product = next(op for op in graph.ops if op.name == "mul")
    kinds = {graph.values[ref.id].name: graph.values[ref.id].kind for ref in product.args}
    assert kinds == {"0.weight_orig": "parameter", "0.weight_mask": "buffer"}


def test_einsum(mode, replays):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 5, 6))

        def forward(self, x):
            return torch.einsum("bi,ijk->bkj", x, self.w)

    graph = replays(Net(), torch.randn(2, 4), torch.randn(2, 4), mode=mode)
    call = next(call for call in graph.calls if call.kind == "function")
    assert (call.name, call.args[0]) == ("einsum", "bi,ijk->bkj")


def test_complex_fft(mode, replays):
    class Filter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(5, dtype=torch.complex64))

        def forward(self, x):
            z = torch.fft.rfft(x) * self.w
            z = z + z.conj() * z.abs().sum()
            return torch.fft.irfft(z, n=8), torch.view_as_real(z), z.angle()

    replays(Filter(), torch.randn(3, 8), torch.randn(3, 8), mode=mode)


def test_several_outputs_and_what_is_no_tensor(mode, replays):
    class Net(nn.Module):
        def forward(self, x, scale):
            return {"a": x * scale, "b": [x + 1, (x, None)], "n": 3, "s": "text", "o": object()}

    graph = replays(Net(), (torch.ones(2), 2.0), (torch.ones(2) * 3, 2.0), mode=mode)
    assert [name for name, _ in graph.outputs] == ["a", "b.0", "b.1.0"]
    assert [note.split(" is ")[0] for note in graph.notes] == ["output.n", "output.s", "output.o"]
    assert graph.output["n"] == 3


def test_nested_inputs_have_dotted_names(mode):
    class Net(nn.Module):
        def forward(self, pair, *args, batch=None, **kwargs):
            return pair[0] + pair[1][0] + args[0] + batch["image"] * batch["scale"] + kwargs["more"]

    t = [torch.randn(3) for _ in range(5)]
    kwargs = {"batch": {"image": t[3], "scale": 2}, "more": t[4]}
    graph = trace(Net(), ((t[0], [t[1]]), t[2]), example_kwargs=kwargs, mode=mode)
    assert [graph.values[v].name for v in graph.inputs] == [
        "pair.0",
        "pair.1.0",
        "args.0",
        "batch.image",
        "more",
    ]
    torch.testing.assert_close(graph.replay(), Net()((t[0], [t[1]]), t[2], **kwargs))
    u = [2 * x for x in t]
    again = {"batch": {"image": u[3], "scale": 2}, "more": u[4]}
    torch.testing.assert_close(graph.replay((u[0], [u[1]]), u[2], **again), Net()((u[0], [u[1]]), u[2], **again))


def test_random_ops_are_noted(mode):
    graph = trace(nn.Dropout(0.5).train(), torch.ones(4), mode=mode)
    assert any("random" in note for note in graph.notes)
    out = graph.replay()
    assert set(out.tolist()) <= {0.0, 2.0}


def test_literals_and_factories_need_no_note(mode, replays):
    class Net(nn.Module):
        def forward(self, x):
            y = x * torch.tensor([1.0, 2.0]) + torch.arange(2) + torch.ones_like(x) + torch.tensor(3.0)
            return y + torch.eye(2)[0] + x.new_full((2,), 4) + torch.as_tensor([2, 3])

    graph = replays(Net(), torch.randn(2), torch.randn(2), mode=mode)
    assert graph.notes == []


def test_autocast(mode, replays):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.fc(x)

    replays(Net(), torch.randn(2, 4), torch.randn(2, 4), mode=mode)


def test_inference_mode_inside_the_model(mode, replays):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        @torch.inference_mode()
        def forward(self, x):
            return F.gelu(self.fc(x).matmul(self.fc.weight))

    graph = replays(Net(), torch.randn(2, 4), torch.randn(2, 4), mode=mode)
    assert {op.name for op in graph.ops} <= {"t", "addmm", "mm", "gelu", "view", "linear", "matmul"}
    assert "addmm" in {op.name for op in graph.ops}


def test_gradients_inside_the_model(mode):
    class Force(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

        def forward(self, x):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                return torch.autograd.grad(self.fc(x).sum(), x)[0]

    model, x, y = Force(), torch.randn(4, 3), torch.randn(4, 3)
    graph = trace(model, x, mode=mode)
    torch.testing.assert_close(graph.replay(y), model(y))


def test_vmap_inside_the_model(mode, replays):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 4))

        def forward(self, x):
            return torch.vmap(lambda row: F.softmax(self.w @ row, dim=0))(x)

    replays(Net(), torch.randn(3, 4), torch.randn(3, 4), mode=mode)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_scripted_submodule(mode, replays):
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return torch.relu(self.fc(x)) + 1

    model = nn.Sequential(torch.jit.trace(Inner(), torch.randn(2, 4)), nn.Linear(4, 2))
    graph = replays(model, torch.randn(2, 4), torch.randn(2, 4), mode=mode)
    assert "0.fc.weight" in graph.parameters


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_model_runs_as_written(mode):
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    graph = trace(torch.compile(inner), torch.randn(2, 4), mode=mode)
    assert [op.name for op in graph.ops] == ["t", "addmm", "relu"]
    y = torch.randn(2, 4)
    torch.testing.assert_close(graph.replay(y), inner(y))


class Branch(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda t: t.sin(), lambda t: t.cos(), (x,))


class Repeat(nn.Module):
    def forward(self, x):
        from torch._higher_order_ops.while_loop import while_loop

        return while_loop(lambda i, t: i < 3, lambda i, t: (i + 1, t * 2), (torch.tensor(0), x))[1]


class Carry(nn.Module):
    def forward(self, x):
        from torch._higher_order_ops.scan import scan

        return scan(lambda c, v: (c.tanh() + v, c * v), torch.zeros(()), x, dim=0)


class Prefix(nn.Module):
    def forward(self, x):
        from torch._higher_order_ops.associative_scan import associative_scan

        return associative_scan(lambda a, b: a * b, x, dim=0, combine_mode="generic")


@pytest.mark.parametrize(
    ("model", "ops"),
    [
        (Branch, {"sum", "gt", "sin"}), (Repeat, {"lt", "add", "mul"}), (Carry, {"tanh", "add", "mul", "scatter"}),
        (Prefix, {"mul", "cat"}),
    ],
)  # fmt: skip
def test_operators_that_take_functions(model, ops, mode, replays):
    graph = replays(model(), torch.rand(3) + 1, torch.rand(3) + 2, mode=mode)
    found = {op.name for op in graph.ops}
    assert found == ops if model in (Branch, Repeat) else found >= ops


def test_flex_attention(mode, replays):
    class Flex(nn.Module):
        def forward(self, q):
            from torch.nn.attention.flex_attention import flex_attention

            return flex_attention(q, q, q, score_mod=lambda score, b, h, i, j: score + (i - j))

    with pytest.MonkeyPatch.context() as patch:
        # the module warns that it runs without a compiler
        patch.setattr("torch.nn.attention.flex_attention._warn_once", lambda *args, **kwargs: None, raising=False)
        graph = replays(Flex(), torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8), mode=mode)
    assert graph.notes == []


@torch.library.custom_op("deepstruct_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def test_custom_operator_without_a_shape_function(mode, replays):
    class Net(nn.Module):
        def forward(self, x):
            return twice(x) + 1

    graph = replays(Net(), torch.randn(3), torch.randn(3), mode=mode)
    assert [op.name for op in graph.ops] == ["deepstruct_tests::twice", "add"]


def test_checkpointing_and_autograd_functions(mode, replays):
    from torch.utils.checkpoint import checkpoint

    class Ramp(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clamp(min=0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return Ramp.apply(checkpoint(self.fc, x, use_reentrant=False))

    graph = replays(Net(), torch.randn(2, 4), torch.randn(2, 4), mode=mode)
    assert [op.name for op in graph.ops] == ["t", "addmm", "clamp"]


class Sum(torch.Tensor):
    """A weight kept as the sum of two tensors, as quantised weights are kept in parts."""

    @staticmethod
    def __new__(cls, a: torch.Tensor, b: torch.Tensor) -> Sum:
        self = torch.Tensor._make_wrapper_subclass(cls, a.shape, dtype=a.dtype, strides=a.stride())
        self.a, self.b = a, b
        return self

    def __tensor_flatten__(self):
        return ["a", "b"], None

    @staticmethod
    def __tensor_unflatten__(inner, meta, size, stride):
        return Sum(inner["a"], inner["b"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return Sum(args[0].a, args[0].b)
        return func(*[arg.a + arg.b if isinstance(arg, Sum) else arg for arg in args], **(kwargs or {}))


def test_weights_that_are_tensor_subclasses(mode):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(Sum(torch.randn(4, 4), torch.randn(4, 4)), requires_grad=False)

        def forward(self, x):
            return x @ self.w

    model, x = Net(), torch.randn(2, 4)
    graph = trace(model, x, mode=mode)
    assert set(graph.parameters) == {"w.a", "w.b"}
    assert [op.name for op in graph.ops] == ["add", "mm"]
    torch.testing.assert_close(graph.replay(), model(x))
