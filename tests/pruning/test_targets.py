"""Masks on layers of every kind: set, respected, saved, loaded, baked and handed to torch."""

from __future__ import annotations

import copy

import pytest
import torch
from pruning_nets import Recurrent, Tied, convolutional, lenet, small, sparse, train
from torch import nn
from torch.nn.utils import prune as torch_prune

from deepstruct import pruning as P
from deepstruct.errors import CheckpointError, InputError
from deepstruct.sparse import MaskedLinearLayer, SparseLinear

INPUTS = {
    "linear": (lambda: small(), (16, 8), 4),
    "masked": (lambda: small(MaskedLinearLayer), (16, 8), 4),
    "sparse": (lambda: sparse(), (16, 8), 4),
    "conv": (lambda: convolutional(), (16, 2, 8, 8), 5),
    "masked-conv": (lambda: convolutional(True), (16, 2, 8, 8), 5),
    "lstm": (lambda: Recurrent(), (16, 4, 3), 2),
}
KINDS = sorted(INPUTS)


def made(kind):
    make, shape, classes = INPUTS[kind]
    return make(), torch.randn(shape), torch.randint(classes, (shape[0],))


def random_masks(model, density=0.5):
    return {name: torch.rand(t.shape) < density for name, t in P.find_targets(model).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_set_and_the_function_is_that_of_zeros(kind) -> None:
    model, x, _ = made(kind)
    dense = P.bake(model)
    masks = random_masks(model)
    assert set(masks) == {n for n, p in dense.named_parameters() if p.dim() > 1}
    P.set_masks(model, masks)
    with torch.no_grad():
        for name, mask in masks.items():
            dict(dense.named_parameters())[name].mul_(mask)
    assert all(torch.equal(P.get_masks(model)[n], m) for n, m in masks.items())
    torch.testing.assert_close(model(x), dense(x))
    torch.testing.assert_close(P.bake(model)(x), dense(x))
    assert list(P.bake(model).state_dict()) == list(dense.state_dict())
    again = copy.deepcopy(model)
    torch.testing.assert_close(again(x), dense(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "nesterov"])
def test_training_respects_masks(kind, optimizer) -> None:
    """Momentum and weight decay move nothing that is masked, and gradients are those of the dense twin."""
    model, x, y = made(kind)
    make = {
        "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
        "nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
        "adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1),
        "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    }[optimizer]
    chosen = make(model.parameters())
    train(model, chosen, x, y, steps=3)  # momentum builds up before the masks come
    P.set_masks(model, random_masks(model), chosen)
    masks = P.get_masks(model)
    before = P.dense_state_dict(model)
    train(model, chosen, x, y, steps=3)
    after = P.dense_state_dict(model)
    for name, mask in masks.items():
        assert not bool(after[name][~mask].any()), name
        assert not torch.equal(before[name], after[name])
    for name, target in P.find_targets(model).items():
        raw = target.parameter.detach()
        if raw.shape == masks[name].shape:
            assert not bool(raw[~masks[name]].any()), "weights under a mask stay zero, too"


@pytest.mark.parametrize("kind", KINDS)
def test_dense_gradients_include_absent_connections(kind) -> None:
    model, x, y = made(kind)
    P.set_masks(model, random_masks(model))
    twin = P.bake(model)
    nn.functional.cross_entropy(twin(x), y).backward()
    wanted = dict(twin.named_parameters())
    targets = P.find_targets(model)
    for target in targets.values():
        target.watch(True)
    nn.functional.cross_entropy(model(x), y).backward()
    for name, target in targets.items():
        torch.testing.assert_close(target.gradient(), wanted[name].grad, atol=1e-6, rtol=1e-4)
        target.watch(False)
    masks = P.get_masks(model)
    for name, target in targets.items():
        if target.parameter.shape == target.shape:
            assert not bool(target.parameter.grad[~masks[name]].any())


def test_grown_connections_begin_at_zero_and_kept_state_stays() -> None:
    for kind in ("linear", "masked", "sparse"):
        model, x, y = made(kind)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        first = random_masks(model)
        P.set_masks(model, first, optimizer)
        train(model, optimizer, x, y, steps=3)
        name = "0.weight"
        target = P.find_targets(model)[name]

        def spread(key, target=target, model=model, optimizer=optimizer):
            value = optimizer.state[target.parameter][key]
            if isinstance(target.modules[0], SparseLinear):
                out = torch.zeros(target.shape)
                out[model[0].indices().unbind()] = value
                return out
            return value.clone()

        weight, moment = target.weight(), spread("exp_avg")
        second = first[name].roll(1, 1)
        kept, step = first[name] & second, optimizer.state[target.parameter]["step"].clone()
        P.set_masks(model, {name: second}, optimizer)
        assert torch.equal(target.weight(), torch.where(kept, weight, 0))
        assert torch.equal(spread("exp_avg"), torch.where(kept, moment, 0))
        assert torch.equal(optimizer.state[target.parameter]["step"], step)
        if kind != "sparse":
            assert torch.equal(target.parameter.grad != 0, (target.parameter.grad != 0) & kept)
        train(model, optimizer, x, y, steps=1)
        assert bool(target.weight()[second & ~first[name]].any())


def test_optimizer_state_without_a_rule() -> None:
    model, x, y = made("linear")
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.01)
    train(model, optimizer, x, y, steps=1)
    before = P.dense_state_dict(model)
    with pytest.raises(InputError, match="unknown_state='reset'"):
        P.set_masks(model, random_masks(model), optimizer)
    assert all(torch.equal(v, P.dense_state_dict(model)[n]) for n, v in before.items())
    assert list(model.state_dict()) == list(before)
    masks = random_masks(model)
    P.set_masks(model, masks, optimizer, unknown_state="reset")
    train(model, optimizer, x, y, steps=2)
    assert all(not bool(P.dense_state_dict(model)[n][~m].any()) for n, m in masks.items())


def test_tied_weights_share_one_mask() -> None:
    model, words = Tied(), torch.randint(7, (4, 3))
    assert list(P.find_targets(model)) == ["body.weight", "embedding.weight"]
    mask = torch.rand(7, 5) < 0.5
    P.set_masks(model, {"embedding.weight": mask})
    assert not bool(model.embedding.weight[~mask].any())
    assert not bool(model.head.weight[~mask].any())
    assert sum(p.numel() for p in model.parameters()) == 35 + 30
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    train(model, optimizer, words, torch.randint(3, (4, 7)))
    assert torch.equal(model.embedding.weight, model.head.weight)
    assert not bool(model.head.weight[~mask].any())
    plain = P.bake(model)
    assert plain.head.weight is plain.embedding.weight
    torch.testing.assert_close(plain(words), model(words))


def test_tied_masked_layers() -> None:
    a, b = MaskedLinearLayer(6, 6), MaskedLinearLayer(6, 6)
    b.weight = a.weight
    model = nn.Sequential(a, nn.ReLU(), b)
    mask = torch.rand(6, 6) < 0.5
    P.set_masks(model, {"0.weight": mask})
    assert torch.equal(a.mask, mask)
    assert torch.equal(b.mask, mask)


def test_masked_lstms_are_really_masked() -> None:
    model, x = Recurrent(), torch.randn(5, 4, 3)
    P.prune(model, P.Magnitude(), 0.3, P.Gate(4), only="lstm.*")
    masks = P.get_masks(model)
    assert all(int(m.sum()) == 4 * round(0.3 * m.numel() / 4) for n, m in masks.items() if n.startswith("lstm"))
    assert bool(masks["head.weight"].all())
    torch.testing.assert_close(P.bake(model)(x), model(x))
    model.double()
    torch.testing.assert_close(P.bake(model)(x.double()), model(x.double()))


def test_masks_beside_a_checkpoint(tmp_path) -> None:
    model, x, _ = made("conv")
    P.prune(model, P.Magnitude(), 0.3)
    P.save_masks(model, tmp_path / "masks.pt")
    torch.save(P.dense_state_dict(model), tmp_path / "weights.pt")
    size = (tmp_path / "masks.pt").stat().st_size
    assert size < 8000
    other = convolutional()
    P.load_masks(other, tmp_path / "masks.pt")
    P.load_dense(other, torch.load(tmp_path / "weights.pt", weights_only=True))
    torch.testing.assert_close(other(x), model(x))
    plain = convolutional()
    plain.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    torch.testing.assert_close(plain(x), model(x))
    with pytest.raises(InputError, match=r"0\.weight: the mask has shape"):
        P.load_masks(small(), tmp_path / "masks.pt")
    with pytest.raises(CheckpointError, match="holds no masks"):
        P.load_masks(other, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="no file"):
        P.read_masks(tmp_path / "missing.pt")
    (tmp_path / "bad.pt").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="cannot be read"):
        P.read_masks(tmp_path / "bad.pt")


@pytest.mark.parametrize("kind", ["linear", "masked", "sparse", "conv", "masked-conv"])
def test_dense_keys_load_into_masked_models(kind) -> None:
    model, x, _ = made(kind)
    P.set_masks(model, random_masks(model))
    donor = P.bake(made(kind)[0])
    P.load_dense(model, donor.state_dict())
    with torch.no_grad():
        for name, mask in P.get_masks(model).items():
            dict(donor.named_parameters())[name].mul_(mask)
    torch.testing.assert_close(model(x), donor(x))
    state = dict(donor.state_dict())
    weight = state.pop("0.weight")
    with pytest.raises(CheckpointError, match=r"missing '0\.weight'"):
        P.load_dense(model, state)
    P.load_dense(model, state, strict=False)
    with pytest.raises(CheckpointError, match="is of shape"):
        P.load_dense(model, {**state, "0.weight": weight[:1]})


def test_models_of_torch_prune_go_in_and_out() -> None:
    model, x, _ = made("conv")
    torch_prune.l1_unstructured(model[0], "weight", 0.5)
    torch_prune.ln_structured(model[3], "weight", 0.25, 2, 0)
    wanted = P.bake(model)(x)
    torch.testing.assert_close(model(x), wanted)
    torch.testing.assert_close(P.bake(model)(x), wanted)
    with pytest.raises(InputError, match="from_torch"):
        P.find_targets(model)
    mask = model[0].weight_mask
    mine = P.from_torch(model)
    assert not any("weight_mask" in key for key in mine.state_dict())
    torch.testing.assert_close(mine(x), wanted)
    assert torch.equal(P.get_masks(mine)["0.weight"], mask.bool())
    assert int(P.get_masks(mine)["3.weight"].sum()) == 6 * 6 * 9
    theirs = P.to_torch(mine)
    assert torch_prune.is_pruned(theirs)
    assert torch.equal(theirs[0].weight_mask, mask)
    torch.testing.assert_close(theirs(x), wanted)
    recurrent = Recurrent()
    P.prune(recurrent, P.Magnitude(), 0.5)
    with pytest.raises(InputError, match="recurrent"):
        P.to_torch(recurrent)


def test_which_weights() -> None:
    model = lenet()
    assert list(P.find_targets(model)) == ["0.weight", "2.weight", "4.weight"]
    assert list(P.find_targets(model, only=("0", "2.*"), skip="0.weight")) == ["2.weight"]
    with pytest.raises(InputError, match="'7'"):
        P.find_targets(model, only="7")
    with pytest.raises(InputError, match="no weight that could be pruned"):
        P.find_targets(nn.Sequential(nn.ReLU()))
    nn.utils.parametrizations.weight_norm(model[0])
    with pytest.raises(InputError, match="another kind"):
        P.find_targets(model, only="0")
    assert list(P.find_targets(model, skip="0")) == ["2.weight", "4.weight"]
    learned = nn.Sequential(MaskedLinearLayer(3, 3, mask_as_params=True))
    with pytest.raises(InputError, match="being learned"):
        P.find_targets(learned)


def test_wrong_masks_change_nothing() -> None:
    model, _, _ = made("linear")
    keys = list(model.state_dict())
    good = torch.ones(12, 8, dtype=torch.bool)
    for wrong, match in (
        ({"0.weight": good, "2.weight": good}, "2.weight"),
        ({"0.weight": good.float()}, "boolean"),
        ({"0.weight": [[True]]}, "list"),
        ({"0.wait": good}, "no weight is called"),
    ):
        with pytest.raises(InputError, match=match):
            P.set_masks(model, wrong)
        assert list(model.state_dict()) == keys


def test_copies_are_independent() -> None:
    """Torch's parametrized classes are shared by deep copies: what one loses, the other must not."""
    model, x = Recurrent(), torch.randn(2, 4, 3)
    P.prune(model, P.Magnitude(), 0.5, only="*.weight_hh_l0")
    again = copy.deepcopy(model)
    P.prune(again, P.Magnitude(), 0.5, only="*.weight_ih_l1")
    assert "lstm.parametrizations.weight_ih_l1.original" not in model.state_dict()
    torch.testing.assert_close(P.bake(model)(x), model(x))
    torch.testing.assert_close(P.bake(again, inplace=True)(x), again(x))
    torch.testing.assert_close(P.bake(model)(x), model(x))
    assert type(again.lstm) is nn.LSTM


def test_attention_is_masked() -> None:
    model, x = nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.randn(2, 5, 8)
    P.set_masks(model, random_masks(model))
    assert set(P.get_masks(model)) == {"in_proj_weight", "out_proj.weight"}
    torch.testing.assert_close(model(x, x, x)[0], P.bake(model)(x, x, x)[0])
