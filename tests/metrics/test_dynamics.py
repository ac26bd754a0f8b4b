"""Drift between checkpoints against brute force on small matrices."""

from __future__ import annotations

import copy
import itertools
import json
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from click.testing import CliRunner
from torch import nn
from torch.nn.utils import prune

import deepstruct
from deepstruct.errors import InputError
from deepstruct.metrics.dynamics import (
    DEFINITIONS,
    exploration_rate,
    fingerprint,
    graph_fingerprint,
    layer_drift,
    topology_distance,
)


def pair(shape: tuple[int, ...], keep: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = (
        torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < keep) for _ in range(2)
    )
    return a, b


@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 2, 2), (1, 6), (6, 1)])
@pytest.mark.parametrize("keep", [0.3, 1.0])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_connections_by_sets(shape: tuple[int, ...], keep: float, threshold: float) -> None:
    a, b = pair(shape, keep)
    found = layer_drift(a, b, threshold=threshold)
    one, two = ({tuple(i) for i in (w.abs() > threshold).nonzero().tolist()} for w in (a, b))
    assert (found.before, found.after) == (len(one), len(two))
    assert found.survival == (len(one & two) / len(one) if one else None)
    assert found.jaccard == len(one & two) / len(one | two)
    cut = [(w * (w.abs() > threshold)).double() for w in (a, b)]
    assert found.change == pytest.approx(float((cut[1] - cut[0]).norm() / cut[0].norm()))


@pytest.mark.parametrize("seed", range(6))
def test_outputs_are_matched_as_well_as_possible(seed: int) -> None:
    a, b = (w != 0 for w in pair((5, 6), 0.5, seed))
    sets = [[frozenset(row.nonzero().view(-1).tolist()) for row in w] for w in (a, b)]

    def cost(x: frozenset[int], y: frozenset[int]) -> float:
        return len(x ^ y) / (len(x) + len(y)) if x or y else 0.0

    best = min(
        sum(cost(x, sets[1][k]) for x, k in zip(sets[0], order, strict=True)) / 5
        for order in itertools.permutations(range(5))
    )
    assert topology_distance(a, b) == pytest.approx(best)
    assert topology_distance(a, a[torch.randperm(5)]) == 0
    assert topology_distance(a, torch.zeros_like(a)) == pytest.approx(float(a.any(1).float().mean()))


def test_large_layers_are_not_matched() -> None:
    assert topology_distance(torch.ones(2049, 1, dtype=torch.bool), torch.ones(2049, 1, dtype=torch.bool)) is None


@pytest.mark.parametrize("rank", [1, 3, 50])
def test_subspaces_and_spectra_by_scipy(rank: int) -> None:
    a, b = pair((6, 9), 1.0)
    found = layer_drift(a, b, rank=rank)
    k = min(rank, 6)
    (ua, sa, va), (ub, sb, vb) = (np.linalg.svd(w.double().numpy(), full_matrices=False) for w in (a, b))
    left = scipy.linalg.subspace_angles(ua[:, :k], ub[:, :k])
    right = scipy.linalg.subspace_angles(va[:k].T, vb[:k].T)
    assert found.left_overlap == pytest.approx(np.mean(np.cos(left) ** 2))
    assert found.right_overlap == pytest.approx(np.mean(np.cos(right) ** 2))
    assert found.largest_angle == pytest.approx(left.max(), abs=1e-6)
    assert found.spectrum_drift == pytest.approx(np.linalg.norm(sb[:k] - sa[:k]) / np.linalg.norm(sa[:k]))


def test_large_matrices_take_another_way_to_the_same_values() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(530, 6, generator=generator) @ torch.diag(torch.tensor([9.0, 7, 5, 4, 3, 2]))
    a = base @ torch.randn(6, 540, generator=generator)
    b = a + 0.1 * torch.randn(530, 540, generator=generator)
    found = layer_drift(a, b, rank=4)
    (ua, sa, _), (ub, sb, _) = (np.linalg.svd(w.double().numpy(), full_matrices=False) for w in (a, b))
    angles = scipy.linalg.subspace_angles(ua[:, :4], ub[:, :4])
    assert found.left_overlap == pytest.approx(np.mean(np.cos(angles) ** 2), rel=1e-6)
    assert found.spectrum_drift == pytest.approx(np.linalg.norm(sb[:4] - sa[:4]) / np.linalg.norm(sa[:4]), rel=1e-6)


def test_nothing_changed() -> None:
    a, _ = pair((5, 7), 0.5)
    found = layer_drift(a, a.clone())
    assert (found.survival, found.jaccard, found.topology_distance, found.change) == (1, 1, 0, 0)
    assert (found.spectrum_drift, found.fingerprint) == (0, 0)
    assert found.left_overlap == pytest.approx(1)
    assert found.largest_angle == pytest.approx(0, abs=1e-6)


def test_empty_layers_say_so() -> None:
    zero = torch.zeros(3, 4)
    found = layer_drift(zero, zero)
    assert (found.survival, found.jaccard, found.change, found.left_overlap) == (None, 1.0, None, None)
    assert layer_drift(zero, torch.ones(3, 4)).jaccard == 0


def test_permutations_leave_the_fingerprint_alone() -> None:
    a, b = pair((5, 7), 0.5)
    moved = a[torch.randperm(5)][:, torch.randperm(7)]
    assert layer_drift(a, moved).fingerprint == pytest.approx(0, abs=1e-12)
    assert layer_drift(a, b).fingerprint > 0.01
    assert layer_drift(a, torch.zeros(5, 7)).fingerprint == 1
    assert fingerprint(a)["in_degree"].tolist() == sorted((a != 0).sum(1).tolist())


@pytest.mark.parametrize("seed", range(4))
def test_renaming_hidden_units_leaves_the_graph_fingerprint_alone(seed: int) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    with torch.no_grad():
        for layer in net[::2]:
            layer.weight.mul_(torch.rand_like(layer.weight) < 0.4)
    moved, order = copy.deepcopy(net), torch.randperm(8)
    with torch.no_grad():
        moved[0].weight.copy_(net[0].weight[order])
        moved[2].weight.copy_(net[2].weight[:, order])
    x = torch.randn(1, 5)
    one, two = (graph_fingerprint(deepstruct.extract(m, x)) for m in (net, moved))
    assert one.keys() == two.keys()
    for layer in one:
        for name in ("in_degree", "out_degree", "strength", "paths"):
            np.testing.assert_allclose(one[layer][name], two[layer][name], rtol=1e-12)
    assert sum(np.isfinite(v["paths"]).any() for v in one.values()) == 4


def test_exploration_over_a_sequence() -> None:
    masks = [torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0.0, 1, 0, 0]]), torch.tensor([[1.0, 0, 1, 0]])]
    rates, rate = exploration_rate([{"a": m, "b": torch.ones(2, 2)} for m in masks])
    assert rates == {"a": 0.75, "b": 1.0}
    assert rate == 7 / 8


def nets() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    one = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)).eval()
    two = copy.deepcopy(one)
    with torch.no_grad():
        two[3].weight[0] = 0
        two[0].weight.add_(0.1)
    return one, two


def test_models_states_graphs_and_files_are_one(tmp_path) -> None:
    one, two = nets()
    x = torch.randn(1, 1, 4, 4)
    torch.save(two.state_dict(), tmp_path / "two.pt")
    expected = deepstruct.drift(one, two)
    assert list(expected) == ["0.weight", "3.weight"]
    assert expected["3.weight"].survival == 0.75
    for other in (two.state_dict(), deepstruct.extract(two, x), deepstruct.extract(two, x).quotient("second"),
                  tmp_path / "two.pt", str(tmp_path / "two.pt")):  # fmt: skip
        found = deepstruct.drift(one, other)
        assert found.steps == expected.steps
        assert found.unmatched == ()
    wrapped = {f"module.{name}": tensor for name, tensor in two.state_dict().items()}
    assert deepstruct.drift(one, wrapped).steps == expected.steps


def test_masks_are_multiplied_in() -> None:
    from deepstruct.sparse import MaskedLinearLayer, SparseLinear

    dense = nn.Sequential(nn.Linear(6, 4))
    weight = dense[0].weight.detach()
    mask = torch.rand(4, 6) < 0.5
    pruned = copy.deepcopy(dense)
    prune.custom_from_mask(pruned[0], "weight", mask)
    masked = nn.Sequential(MaskedLinearLayer(6, 4))
    with torch.no_grad():
        masked[0].weight.copy_(weight)
        masked[0].mask.copy_(mask)
    learned = nn.Sequential(MaskedLinearLayer(6, 4, mask_as_params=True))
    with torch.no_grad():
        learned[0].weight.copy_(weight)
        learned[0].mask = mask
    sparse = nn.Sequential(SparseLinear.from_dense(weight, mask))
    plain = {"0.weight": weight * mask}
    x = torch.randn(1, 6)
    for other in (pruned, masked, learned, sparse, pruned.state_dict(), masked.state_dict(), plain,
                  *(deepstruct.extract(m.eval(), x) for m in (pruned, masked, sparse))):  # fmt: skip
        found = deepstruct.drift(dense, other)["0.weight"]
        assert found.after == int(mask.sum())
        assert found.survival == pytest.approx(int(mask.sum()) / 24)


def test_a_sequence_of_checkpoints() -> None:
    masks = [torch.rand(4, 5) < 0.4 for _ in range(3)]
    found = deepstruct.drift(*({"w": m.float()} for m in masks), labels=["a", "b", "c"])
    assert [(s["w"].before, s["w"].after) for s in found.steps] == [
        (int(x.sum()), int(y.sum())) for x, y in itertools.pairwise(masks)
    ]
    union = masks[0] | masks[1] | masks[2]
    assert found.rate == found.rates["w"] == int(union.sum()) / 20
    frame = found.to_frame()
    assert list(frame["step"]) == ["a > b"] * 2 + ["b > c"] * 2
    assert list(frame["layer"]) == ["w", "(all)"] * 2


def test_the_row_over_all_layers() -> None:
    one, two = nets()
    found = deepstruct.drift(one, two)
    row = found.table()[-1]
    assert row["layer"] == "(all)"
    assert (row["before"], row["after"]) == (27 + 48, 27 + 36)
    assert row["survival"] == pytest.approx(63 / 75)
    assert row["jaccard"] == pytest.approx(63 / 75)


def test_what_does_not_match_is_named() -> None:
    a = {"w": torch.ones(2, 3), "only": torch.ones(2, 2), "v": torch.ones(3, 3), "bias": torch.ones(3)}
    b = {"w": torch.ones(2, 3), "v": torch.ones(4, 3)}
    found = deepstruct.drift(a, b, labels=["old", "new"])
    assert list(found) == ["w"]
    assert found.unmatched == ("only is not in new", "v is of shape (3, 3) in old, (4, 3) in new")
    assert "only is not in new" in repr(found)
    with pytest.raises(InputError, match="no weight in common: w is not in #2"):
        deepstruct.drift({"w": torch.ones(2, 2)}, {"u": torch.ones(2, 2)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank must be"),
        ({"threshold": -1}, "threshold must be"),
        ({"threshold": math.nan}, "threshold must be"),
        ({"labels": ["a"]}, "2 checkpoints have 1 labels"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict, message: str) -> None:
    state = {"w": torch.ones(2, 2)}
    with pytest.raises(InputError, match=message):
        deepstruct.drift(state, state, **arguments)


def test_checkpoints_of_another_kind() -> None:
    with pytest.raises(InputError, match="checkpoint #2 is of type int"):
        deepstruct.drift({"w": torch.ones(2, 2)}, 3)
    with pytest.raises(InputError, match="meta device"):
        deepstruct.drift({"w": torch.ones(2, 2)}, {"w": torch.ones(2, 2, device="meta")})


def test_it_can_be_shown() -> None:
    found = deepstruct.drift(*nets())
    text, html = repr(found), found._repr_html_()
    for column in DEFINITIONS:
        assert column in text
        assert column in html
    assert json.loads(json.dumps(found.to_dict()))["steps"][0]["3.weight"]["survival"] == 0.75


def test_on_the_command_line(tmp_path) -> None:
    from deepstruct.cli.main import cli

    one, two = nets()
    for name, net in (("a.pt", one), ("b.pt", two)):
        torch.save(net.state_dict(), tmp_path / name)
    out = tmp_path / "out.json"
    run = CliRunner().invoke(
        cli, ["drift", str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), "--json", str(out)], catch_exceptions=False
    )
    assert run.exit_code == 0
    assert "a.pt > b.pt" in run.output
    assert json.loads(out.read_text())["steps"][0]["3.weight"]["survival"] == 0.75
    failed = CliRunner().invoke(cli, ["drift", str(tmp_path / "a.pt")])
    assert isinstance(failed.exception, InputError)
