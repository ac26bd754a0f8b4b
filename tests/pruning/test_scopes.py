"""Scopes and schedules against published numbers and by counting."""

from __future__ import annotations

import pytest
import torch

from deepstruct import pruning as P
from deepstruct.errors import InputError

LENET = {"a": torch.Size((300, 784)), "b": torch.Size((100, 300)), "c": torch.Size((10, 100))}


def scores(shapes=LENET):
    return {name: torch.rand(shape) for name, shape in shapes.items()}


def test_erk_densities_of_lenet() -> None:
    found = P.ERK().densities(LENET, 0.1)
    assert found["a"] == pytest.approx(0.079568, abs=1e-6)
    assert found["b"] == pytest.approx(0.230189, abs=1e-6)
    assert found["c"] == 1


@pytest.mark.parametrize(
    ("density", "counts"),
    [(0.1, [18714, 6906, 1000]), (0.05, [9051, 3340, 919]), (0.02, [3621, 1336, 367])],
)
def test_erk_counts_of_lenet(density, counts) -> None:
    assert [group.keep for group in P.ERK().groups(LENET, density)] == counts
    masks = P.ERK().select(scores(), density)
    assert [int(mask.sum()) for mask in masks.values()] == counts
    assert sum(counts) == round(density * 266200)


def test_erk_of_convolutions_counts_the_kernel() -> None:
    shapes = {"a": torch.Size((16, 3, 3, 3)), "b": torch.Size((64, 16, 3, 3))}
    found = P.ERK().densities(shapes, 0.1)
    raw = [(16 + 3 + 3 + 3) / (16 * 27), (64 + 16 + 3 + 3) / (64 * 144)]
    assert found["a"] / found["b"] == pytest.approx(raw[0] / raw[1])


def test_erk_fills_layers_up_and_no_further() -> None:
    found = P.ERK().densities(LENET, 0.9)
    assert max(found.values()) == 1
    assert sum(found[n] * LENET[n].numel() for n in LENET) == pytest.approx(0.9 * 266200)
    assert P.ERK().densities(LENET, 1.0) == {"a": 1, "b": 1, "c": 1}


def test_global_and_layer_keep_the_best() -> None:
    values = scores()
    everything = torch.cat([v.reshape(-1) for v in values.values()])
    masks = P.Global().select(values, 0.03)
    chosen = torch.cat([m.reshape(-1) for m in masks.values()])
    assert int(chosen.sum()) == round(0.03 * 266200)
    assert everything[chosen].min() >= everything[~chosen].max()
    for name, mask in P.Layer().select(values, 0.03).items():
        assert int(mask.sum()) == round(0.03 * mask.numel())
        assert values[name][mask].min() >= values[name][~mask].max()


def test_what_is_not_allowed_is_not_chosen_and_ties_fall_the_same_way() -> None:
    values = {"a": torch.zeros(4, 5)}
    allowed = {"a": torch.zeros(4, 5, dtype=torch.bool)}
    allowed["a"][2:] = True
    mask = P.Layer().select(values, 0.25, allowed)["a"]
    assert mask.reshape(-1).nonzero().flatten().tolist() == [10, 11, 12, 13, 14]
    assert int(P.Layer().select(values, 0.9, allowed)["a"].sum()) == 10  # no more than is allowed


def test_densities_by_name() -> None:
    masks = P.Layer().select(scores(), {"a": 0.1, "b": 0.5, "c": 1.0})
    assert [int(m.sum()) for m in masks.values()] == [23520, 15000, 1000]
    with pytest.raises(InputError, match="'c'"):
        P.Layer().select(scores(), {"a": 0.1, "b": 0.5})


@pytest.mark.parametrize("density", [-0.1, 1.5, True, "half"])
def test_densities_that_are_none(density) -> None:
    with pytest.raises(InputError, match="share from 0 to 1"):
        P.Layer().select(scores(), density)


def test_nan_scores() -> None:
    values = scores()
    values["b"][0, 0] = torch.nan
    for scope in (P.Layer(), P.Channel(), P.NM(1, 2)):
        with pytest.raises(InputError, match="'b' is NaN"):
            scope.select(values, 0.5)


def test_channels_heads_and_blocks_stay_whole() -> None:
    values = {"a": torch.rand(8, 12, 3, 3)}
    mask = P.Channel().select(values, 0.5)["a"]
    rows = mask.flatten(1)
    assert torch.equal(rows.any(1), rows.all(1))
    assert int(rows.all(1).sum()) == 4
    best = values["a"].flatten(1).mean(1).topk(4).indices.sort().values
    assert rows.all(1).nonzero().flatten().tolist() == best.tolist()
    columns = P.Channel(axis=1).select(values, 0.5)["a"].transpose(0, 1).flatten(1)
    assert torch.equal(columns.any(1), columns.all(1))
    packed = P.Head(4, parts=3).select({"w": torch.rand(24, 8)}, 0.5)["w"]
    heads = packed.reshape(3, 4, 2, 8)
    assert torch.equal(heads.any(3).any(2).any(0), heads.all(3).all(2).all(0))
    assert int(heads.all(3).all(2).all(0).sum()) == 2
    block = P.Block(2, 4).select({"w": torch.rand(6, 10)}, 0.4)["w"]
    for i in range(0, 6, 2):
        for j in range(0, 10, 4):
            part = block[i : i + 2, j : j + 4]
            assert bool(part.all()) or not bool(part.any())
    assert 0 < int(block.sum()) <= 24


def test_global_channels_compete_across_layers() -> None:
    values = {"a": torch.rand(6, 4), "b": torch.rand(5, 8) + 2}
    masks = P.Channel(within=P.Global()).select(values, 40 / 64)
    assert int(masks["b"].sum()) == 40
    assert int(masks["a"].sum()) == 0


def test_n_of_m() -> None:
    values = {"a": torch.rand(6, 8, 3)}
    mask = P.NM(2, 4).select(values, 0.5)["a"]
    assert torch.equal(mask.reshape(6, 2, 4, 3).sum(2), torch.full((6, 2, 3), 2))
    assert int(P.NM(2, 4).select(values, 0.6)["a"].sum()) == 144 * 3 // 4  # on the way there
    top = values["a"].reshape(6, 2, 4, 3).topk(2, 2).values.min(2).values
    assert bool((values["a"].reshape(6, 2, 4, 3)[mask.reshape(6, 2, 4, 3)] >= top.min()).all())
    with pytest.raises(InputError, match="do not divide into 4s"):
        P.NM(2, 4).select({"a": torch.rand(4, 6)}, 0.5)


def test_gates_keep_equal_shares() -> None:
    value = torch.rand(24, 5) * torch.arange(1, 25)[:, None]
    mask = P.Gate(4).select({"w": value}, 0.4)["w"]
    assert [int(part.sum()) for part in mask.chunk(4)] == [12, 12, 12, 12]
    with pytest.raises(InputError, match="5 gates"):
        P.Gate(5).select({"w": value}, 0.4)


def test_cubic_to_a_tenth_in_ten_steps() -> None:
    schedule = P.cubic(0.1, 0, 10)
    sparsities = [1 - schedule(step) for step in range(1, 11)]
    wanted = [0.2439, 0.4392, 0.5913, 0.7056, 0.7875, 0.8424, 0.8757, 0.8928, 0.8991, 0.9]
    assert sparsities == pytest.approx(wanted, abs=1e-9)
    assert schedule(0) == 1
    assert schedule(11) is None


def test_cosine_of_rigl() -> None:
    fraction = P.cosine(0.3, 10_000)
    values = [fraction(step) for step in (100, 2500, 5000, 7500)]
    assert values == pytest.approx([0.299926, 0.256066, 0.15, 0.043934], abs=1e-6)
    assert [int(f * 18714) for f in values] == [5612, 4792, 2807, 822]
    assert fraction(10_001) is None


def test_other_schedules() -> None:
    assert [P.cubic(0.1, 10, 20, every=4)(step) is None for step in (9, 10, 12, 14, 18, 19, 20, 21)] == [
        True, False, True, False, False, True, False, True,
    ]  # fmt: skip
    shares = [P.iterative(0.01, 4, every=5)(step) for step in range(21)]
    assert [s for s in shares if s is not None] == pytest.approx([0.01**0.25, 0.1, 0.01**0.75, 0.01])
    assert [step for step, s in enumerate(shares) if s is not None] == [0, 5, 10, 15]
    assert (P.one_shot(0.2)(0), P.one_shot(0.2)(1)) == (0.2, None)
    assert [P.constant(0.3, 3, begin=1)(step) for step in range(5)] == [None, 0.3, None, None, 0.3]
    for wrong in (lambda: P.cubic(1.2, 0, 5), lambda: P.cubic(0.2, 5, 1), lambda: P.iterative(0.0, 3)):
        with pytest.raises(InputError):
            wrong()
