"""SparseLinear and the masked layers as modules: training, state, copies, conversion, structure updates."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from deepstruct.errors import InputError, ModelStateError
from deepstruct.sparse import (
    MaskableModule,
    MaskedConv1d,
    MaskedConv2d,
    MaskedLinearLayer,
    SparseLinear,
    compress,
    densify,
    maskable_layers,
    maskable_layers_with_name,
)


def masked_layer(rows=40, cols=30, density=0.3, backend="auto", seed=0) -> MaskedLinearLayer:
    torch.manual_seed(seed)
    layer = MaskedLinearLayer(cols, rows, backend=backend)
    layer.mask[:, :] = torch.rand(rows, cols) < density
    return layer


def reference(layer, x):
    return nn.functional.linear(x, layer.weight * layer.mask, layer.bias)


@pytest.mark.parametrize("backend", ["auto", "dense", "sparse"])
def test_masked_layer_computes_the_masked_product(backend):
    layer, x = masked_layer(backend=backend), torch.randn(6, 5, 30)
    torch.testing.assert_close(layer(x), reference(layer, x))
    layer(x).square().sum().backward()
    got = layer.weight.grad.clone()
    layer.weight.grad = None
    reference(layer, x).square().sum().backward()
    torch.testing.assert_close(got, layer.weight.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["dense", "sparse"])
def test_edits_of_the_mask_and_the_weight_are_noticed(backend):
    layer, x = masked_layer(backend=backend), torch.randn(4, 30)
    for edit in (
        lambda: layer.mask.__setitem__((slice(None), slice(0, 5)), False),
        lambda: layer.mask.fill_(True),
        lambda: layer.__setitem__((0, 0), False),
        lambda: setattr(layer, "mask", torch.rand(40, 30) < 0.5),
        lambda: layer.recompute_mask(0.05),
        lambda: layer.apply_mask(),
        lambda: layer.weight.data.mul_(2),
        lambda: layer.reset_parameters(keep_mask=True),
        lambda: layer.reset_parameters(),
    ):
        layer(x)
        edit()
        torch.testing.assert_close(layer(x), reference(layer, x))
    assert bool(layer.mask.all())


@pytest.mark.parametrize("backend", ["dense", "sparse"])
def test_gradients_survive_later_steps_and_accumulate(backend):
    layer, x = masked_layer(backend=backend), torch.randn(4, 30)
    layer(x).sum().backward()
    first, copied = layer.weight.grad, layer.weight.grad.clone()
    layer.weight.grad = None
    layer(2 * x).sum().backward()
    assert torch.equal(first, copied)  # nobody wrote into the gradient that was taken away
    layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, 3 * copied)
    layer.weight.grad.data.add_(1.0)  # what a hand-written weight decay does
    del first
    layer.weight.grad = None
    layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, copied)


@pytest.mark.parametrize("backend", ["dense", "sparse"])
def test_a_graph_keeps_the_weights_of_its_forward(backend):
    layer, x = masked_layer(backend=backend), torch.randn(4, 30, requires_grad=True)
    before = (layer.weight * layer.mask).detach()
    y = layer(x)
    with torch.no_grad():
        layer.weight.add_(1)
    layer(x.detach())
    y.sum().backward()
    torch.testing.assert_close(x.grad, before.sum(0).expand(4, 30))
    y = layer(x)
    with torch.no_grad():
        layer.weight.add_(1)
    with pytest.raises(ModelStateError, match="in place"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


@pytest.mark.parametrize("shape", [(30,), (4, 30), (2, 3, 30), (0, 30)])
def test_small_layers_choose_what_the_dense_one_computes(shape):
    layer, x = masked_layer(backend="auto"), torch.randn(shape, requires_grad=True)
    other = copy.deepcopy(layer)
    other.backend = "dense"
    for _ in range(2):
        results = []
        for each in (layer, other):
            x.grad = each.weight.grad = each.bias.grad = None
            y = each(x)
            y.square().sum().backward()
            results.append((y.detach(), x.grad, each.weight.grad, each.bias.grad))
            (grad,) = torch.autograd.grad(each(x).square().sum(), x, create_graph=True)
            results[-1] += torch.autograd.grad(grad.square().sum(), each.weight)
        torch.testing.assert_close(*results)
        for each in (layer, other):
            each.mask[0, :] = ~each.mask[0, :]  # noticed by both


def test_seed_names():
    layer = MaskedLinearLayer(5, 7, keep_layer_input=True)
    assert {name for name, _ in layer.named_parameters()} == {"weight", "bias"}
    assert set(layer.state_dict()) == {"weight", "bias", "_mask"}
    x = torch.randn(2, 5)
    layer(x)
    assert torch.equal(layer.layer_input, x)
    assert layer(torch.randn(5, dtype=torch.float64)).numel() == 7
    assert torch.equal(layer.saliency, layer.weight.detach().abs())
    layer.saliency = torch.ones(7, 5)
    assert torch.equal(layer.saliency, torch.ones(7, 5))
    with pytest.raises(InputError, match="saliency"):
        layer.saliency = torch.ones(5, 7)
    layer[0, 0] = False
    assert not layer[0, 0]
    assert layer.get_weight_count() == 34
    layer[1] = torch.zeros(5)
    assert layer.get_weight_count() == 29
    with pytest.raises(InputError, match="boolean"):
        layer[0, 1] = 0.5


def test_masks_as_parameters_learn():
    layer = MaskedLinearLayer(20, 10, mask_as_params=True)
    assert dict(layer.named_parameters())["_mask"].shape == (10, 20, 2)
    assert bool(layer.mask.all())
    layer.mask = torch.rand(10, 20) < 0.5
    before, x = layer.mask.clone(), torch.randn(8, 20)
    torch.testing.assert_close(layer(x), reference(layer, x))
    layer[0, 0] = not bool(before[0, 0])
    assert layer[0, 0] != before[0, 0]
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()
    assert layer._mask.grad.abs().sum() > 0
    assert (layer.mask != before).any()


def test_bad_masks_are_refused():
    layer = MaskedLinearLayer(4, 3)
    with pytest.raises(InputError, match=r"boolean, got torch\.float32"):
        layer.mask = torch.ones(3, 4)
    with pytest.raises(InputError, match=r"shape \(4, 3\)"):
        layer.mask = torch.ones(4, 3, dtype=torch.bool)
    with pytest.raises(InputError, match="meta"):
        layer.mask = torch.ones(3, 4, dtype=torch.bool, device="meta")
    with pytest.raises(InputError, match="backend"):
        MaskedLinearLayer(4, 3, backend="gpu")
    with torch.no_grad():
        layer.weight[0, 0] = float("nan")
    for act in (layer.recompute_mask, lambda: compress(layer)):
        with pytest.raises(InputError, match="NaN"):
            act()


def test_modules_are_found_at_any_depth():
    class Net(MaskableModule):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                nn.Sequential(MaskedLinearLayer(4, 4)), nn.ModuleList([MaskedLinearLayer(4, 2)])
            )

    net = Net()
    assert [name for name, _ in maskable_layers_with_name(net)] == ["body.0.0", "body.1.0"]
    net.recompute_mask(10.0)
    net.apply_mask()
    assert all(not layer.mask.any() and not layer.weight.any() for layer in maskable_layers(net))


@pytest.mark.parametrize(
    "make", [lambda: masked_layer(backend="sparse"), lambda: SparseLinear(30, 40, density=0.2)]
)
def test_copies_pickles_and_state_dicts(make):
    layer, x = make(), torch.randn(3, 30)
    y = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), y)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), y)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = make()
    if isinstance(other, SparseLinear):
        other = SparseLinear(30, 40, density=0.5)  # a different number of connections
    else:
        other.mask[:, :] = True
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(x), y)
    assert layer.to(torch.float64)(x.double()).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    x = torch.randn(3, 30)
    for layer in (masked_layer(backend="sparse"), SparseLinear(30, 40, density=0.2)):
        with torch.autocast("cpu", dtype):
            y = layer(x)
        assert y.dtype == dtype
        torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.05)


def test_damaged_checkpoints_are_refused():
    layer = SparseLinear(30, 40, density=0.2)
    state = layer.state_dict()
    for name, change in (
        ("columns", lambda t: t + 200),
        ("twin_order", lambda t: t.roll(1)),
        ("values", lambda t: t[1:]),
        ("table", lambda t: t[:20]),
    ):
        with pytest.raises(InputError):
            layer.load_state_dict({**state, name: change(state[name])})
    with pytest.raises(InputError, match="not"):
        SparseLinear(31, 40).load_state_dict(state)
    with pytest.raises(InputError, match="_mask"):
        MaskedLinearLayer(3, 2).load_state_dict(
            {**MaskedLinearLayer(3, 2).state_dict(), "_mask": torch.ones(2, 3)}
        )


def test_compress_and_densify_are_exact():
    torch.manual_seed(0)
    shared = masked_layer(30, 30)
    model = nn.Sequential(masked_layer(30, 20), nn.ReLU(), shared, shared, nn.Linear(30, 2)).double()
    x = torch.randn(5, 20, dtype=torch.float64)
    small = compress(model)
    assert isinstance(model[0], MaskedLinearLayer)
    assert small[2] is small[3]
    torch.testing.assert_close(small(x), model(x))
    big = densify(small)
    torch.testing.assert_close(big(x), model(x))
    for before, after in zip(maskable_layers(model), maskable_layers(big), strict=True):
        assert torch.equal(before.mask, after.mask)
        assert torch.equal(before.weight * before.mask, after.weight)
        assert torch.equal(before.bias, after.bias)
    assert isinstance(compress(masked_layer()), SparseLinear)
    tied = nn.Sequential(masked_layer(30, 30), masked_layer(30, 30))
    tied[1].weight = tied[0].weight
    with pytest.raises(InputError, match="shared"):
        compress(tied)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p, 0.01),
        lambda p: torch.optim.AdamW(p, 0.01),
    ],
)
def test_optimizers_train_sparse_as_they_train_dense(make):
    dense = masked_layer(40, 30, 0.2, backend="dense").double()
    dense.apply_mask()
    sparse = compress(dense)
    x, target = torch.randn(50, 30, dtype=torch.float64), torch.randn(50, 40, dtype=torch.float64)
    for layer in (dense, sparse):
        optimizer = make(layer.parameters())
        for _ in range(10):
            optimizer.zero_grad()
            nn.functional.mse_loss(layer(x), target).backward()
            optimizer.step()
    torch.testing.assert_close(dense.weight * dense.mask, sparse.to_dense())


def test_update_structure_moves_state_with_its_connections():
    layer = SparseLinear(20, 10, density=0.3)
    optimizer = torch.optim.Adam(layer.parameters(), 0.01)
    for _ in range(3):
        layer(torch.randn(4, 20)).square().sum().backward()
        optimizer.step()
    dense = {
        name: torch.zeros(10, 20).index_put(layer.indices().unbind(), tensor.clone())
        for name, tensor in {
            "values": layer.values.detach(),
            "grad": layer.values.grad,
            "exp_avg": optimizer.state[layer.values]["exp_avg"],
        }.items()
    }
    parameter, old = layer.values, layer.indices()
    dropped = layer.values.detach().abs().argsort()[:20]
    free = (~layer.mask()).nonzero()[:15].T
    again = old[:, dropped[:3]]  # what was just dropped may come back, from zero
    layer.update_structure(dropped, torch.cat([free, again], 1), optimizer)
    assert layer.values is parameter
    assert layer.nnz == 60 - 20 + 18
    expected_mask = torch.zeros(10, 20, dtype=torch.bool).index_put(old.unbind(), torch.tensor(True))
    expected_mask[old[:, dropped].unbind()] = False
    for tensor in dense.values():
        tensor[~expected_mask] = 0
    expected_mask[torch.cat([free, again], 1).unbind()] = True
    assert torch.equal(layer.mask(), expected_mask)
    now = layer.indices().unbind()
    assert torch.equal(layer.values.detach(), dense["values"][now])
    assert torch.equal(layer.values.grad, dense["grad"][now])
    assert torch.equal(optimizer.state[layer.values]["exp_avg"], dense["exp_avg"][now])
    assert optimizer.state[layer.values]["step"] == 3
    for _ in range(2):
        optimizer.zero_grad()
        layer(torch.randn(4, 20)).square().sum().backward()
        optimizer.step()


def test_update_structure_refuses_what_makes_no_sense():
    layer = SparseLinear(6, 5, density=0.5)
    before = copy.deepcopy(layer.state_dict())
    stranger = torch.optim.Adam([nn.Parameter(torch.ones(1))])
    for arguments, message in (
        ({"grow": layer.indices()[:, :1]}, "exist already"),
        ({"drop": torch.tensor([15])}, "outside"),
        ({"drop": torch.ones(3, dtype=torch.bool)}, "one boolean per value"),
        ({"grow": torch.tensor([[9], [0]])}, "outside"),
        ({"grow": torch.tensor([1.0])}, "coordinates"),
        ({"drop": torch.tensor([0]), "optimizer": stranger}, "does not hold"),
    ):
        with pytest.raises(InputError, match=message):
            layer.update_structure(**arguments)
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


def test_sparse_linear_edges():
    assert SparseLinear(4, 3, density=0.0)(torch.ones(2, 4)).shape == (2, 3)
    assert SparseLinear(0, 3, bias=False)(torch.ones(2, 0)).abs().sum() == 0
    assert SparseLinear(4, 0)(torch.ones(2, 4)).shape == (2, 0)
    assert SparseLinear(4, 3)(torch.ones(0, 4)).shape == (0, 3)
    full = SparseLinear.from_dense(torch.arange(1.0, 7).view(2, 3))
    assert torch.equal(full(torch.eye(3)).T, torch.arange(1.0, 7).view(2, 3))
    for arguments in (
        {"density": 1.5},
        {"mask": torch.ones(3, 4)},
        {"mask": torch.ones(4, 3, dtype=torch.bool)},
    ):
        with pytest.raises(InputError):
            SparseLinear(4, 3, **arguments)
    with pytest.raises(InputError, match="float64"):
        SparseLinear(4, 3)(torch.ones(2, 4, dtype=torch.float64))
    with pytest.raises(InputError, match="4 in its last axis"):
        SparseLinear(4, 3)(torch.ones(2, 5))


def test_training_memory_with_adam():
    layer = SparseLinear(512, 512, density=0.1)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.randn(2, 512)).sum().backward()
    optimizer.step()
    tensors = [*layer.parameters(), *(p.grad for p in layer.parameters()), *layer.buffers()]
    tensors += [t for state in optimizer.state.values() for t in state.values()]
    # 22 bytes per non-zero, and tables that shrink with the size of the tiles.
    assert sum(t.numel() * t.element_size() for t in tensors) < 24 * layer.nnz + 40_000


@pytest.mark.parametrize("layer", [masked_layer(backend="sparse"), SparseLinear(30, 40, density=0.2)])
def test_compile_fullgraph(layer):
    model = nn.Sequential(layer, nn.ReLU())
    x = torch.randn(5, 30, requires_grad=True)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))
    got = torch.autograd.grad(compiled(x).square().sum(), (x, *model.parameters()))
    wanted = torch.autograd.grad(model(x).square().sum(), (x, *model.parameters()))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_ddp_single_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = DistributedDataParallel(
            nn.Sequential(masked_layer(30, 30, backend="sparse"), SparseLinear(30, 4))
        )
        for _ in range(2):
            model(torch.randn(3, 30)).sum().backward()
        assert all(p.grad is not None for p in model.parameters())
    finally:
        torch.distributed.destroy_process_group()


CONVOLUTIONS = [
    (MaskedConv2d, (4, 6, 3), {"padding": 1}, (2, 4, 8, 7)),
    (MaskedConv2d, (4, 6, (3, 2)), {"stride": (2, 1), "dilation": (1, 2), "bias": False}, (2, 4, 9, 9)),
    (MaskedConv2d, (4, 6, 3), {"padding": "same", "padding_mode": "reflect"}, (2, 4, 6, 6)),
    (MaskedConv2d, (4, 6, 3), {"padding": 1, "padding_mode": "circular"}, (4, 6, 6)),
    (MaskedConv1d, (4, 6, 5), {"padding": 2, "stride": 2}, (3, 4, 11)),
    (MaskedConv1d, (4, 6, 3), {"dilation": 2}, (3, 4, 11)),
]


@pytest.mark.parametrize("backend", ["auto", "dense", "sparse"])
@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize(("kind", "arguments", "options", "shape"), CONVOLUTIONS)
def test_masked_convolutions(kind, arguments, options, shape, backend, dead):
    torch.manual_seed(0)
    layer = kind(*arguments, **options, backend=backend).double()
    plain = (nn.Conv1d if kind is MaskedConv1d else nn.Conv2d)(*arguments, **options).double()
    layer.mask[:] = torch.rand(layer.weight.shape) < 0.5
    if dead:
        layer.mask[1:3] = False
        layer.mask[:, 0] = False
    with torch.no_grad():
        plain.weight.copy_(layer.weight * layer.mask)
        if layer.bias is not None:
            plain.bias.copy_(layer.bias)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(layer(x), plain(x))
    got = torch.autograd.grad(layer(x).square().sum(), (x, layer.weight))
    wanted = torch.autograd.grad(plain(x).square().sum(), (x, plain.weight))
    torch.testing.assert_close(got[0], wanted[0])
    torch.testing.assert_close(got[1], wanted[1] * layer.mask)


def test_convolution_without_any_weight_and_bad_input():
    layer = MaskedConv2d(3, 5, 3)
    layer.mask[:] = False
    torch.testing.assert_close(layer(torch.randn(2, 3, 5, 5)), layer.bias.view(1, 5, 1, 1).expand(2, 5, 3, 3))
    with pytest.raises(InputError, match="3 channels"):
        layer(torch.randn(2, 4, 5, 5))
    grouped = MaskedConv2d(4, 8, 3, groups=2)
    grouped.mask[0] = False
    x = torch.randn(1, 4, 5, 5)
    wanted = nn.functional.conv2d(x, grouped.weight * grouped.mask, grouped.bias, groups=2)
    torch.testing.assert_close(grouped(x), wanted)
    grouped.backend = "sparse"
    with pytest.raises(InputError, match="groups"):
        grouped(x)
