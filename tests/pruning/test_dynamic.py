"""Plans during training, rewiring, lottery tickets."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from pruning_nets import convolutional, lenet, small, sparse, train
from torch import nn

from deepstruct import pruning as P
from deepstruct.errors import InputError
from deepstruct.pruning.rewire import moved
from deepstruct.sparse import MaskedLinearLayer

KINDS = {"linear": lambda: small(), "masked": lambda: small(MaskedLinearLayer), "sparse": lambda: sparse()}


def data():
    return torch.randn(16, 8), torch.randint(4, (16,))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_plan_follows_its_schedule(kind) -> None:
    x, y = data()
    model = KINDS[kind]()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    plan = P.Plan(P.Magnitude(), P.Global(), P.cubic(0.2, 0, 20, every=5), P.no_dead())
    seen = []
    with plan.attach(model, optimizer) as session:
        for _ in range(22):
            train(model, optimizer, x, y, steps=1)
            session.step()
            seen.append(session.density)
    total = 96 + 120 + 40
    wanted = {4: 0.2 + 0.8 * 0.75**3, 9: 0.2 + 0.8 * 0.5**3, 14: 0.2 + 0.8 * 0.25**3, 19: 0.2}
    for step, density in wanted.items():
        assert seen[step] == round(density * total) / total
    assert seen[3] == 1
    assert seen[21] == round(0.2 * total) / total
    assert [event.step for event in session.history] == [5, 10, 15, 20]
    assert sum(event.dropped for event in session.history) == total - round(0.2 * total)
    assert session.alive().dead_units == 0
    with pytest.raises(InputError, match="closed"):
        session.step()


def test_an_infeasible_step_changes_nothing() -> None:
    x, y = data()
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    plan = P.Plan(P.Magnitude(), P.Global(), P.iterative(0.02, 2), P.connected())
    with pytest.raises(P.Infeasible):
        with plan.attach(model, optimizer) as session:
            for _ in range(3):
                train(model, optimizer, x, y, steps=1)
                before = P.dense_state_dict(model)
                session.step()
    assert all(torch.equal(v, before[n]) for n, v in P.dense_state_dict(model).items())


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_rewiring_keeps_every_layer_at_its_size(kind, optimizer) -> None:
    x, y = data()
    model = KINDS[kind]()
    choose = {"sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-3), "adam": torch.optim.Adam}
    rewire = P.Rewire(P.ERK(0.3), P.Magnitude(), P.Gradient(), P.cosine(0.3, 12), every=3)
    chosen = choose[optimizer](model.parameters())
    counts = [group.keep for group in P.ERK().groups(P.View(model).shapes, 0.3)]
    with rewire.attach(model, chosen) as session:
        masks = P.get_masks(model)
        assert [int(m.sum()) for m in masks.values()] == counts
        for step in range(1, 16):
            train(model, chosen, x, y, steps=1)
            old = P.dense_state_dict(model)
            grads = None
            if step % 3 == 0 and step < 12:
                grads = P.View(model, session.targets).gradients
            changed = session.step()
            now = P.get_masks(model)
            assert [int(m.sum()) for m in now.values()] == counts
            if not changed:
                assert all(torch.equal(now[n], masks[n]) for n in now)
            else:
                fraction = P.cosine(0.3, 12)(step)
                for name, mask in now.items():
                    amount = int(fraction * int(mask.sum()))
                    weight = old[name].abs()
                    lost, new = masks[name] & ~mask, mask & ~masks[name]
                    assert int(lost.sum()) == int(new.sum()) <= amount
                    if amount:
                        threshold = weight[masks[name]].sort().values[amount - 1]
                        assert not bool((weight[lost] > threshold).any())
                    if grads is not None and bool(new.any()):
                        absent = ~masks[name] & ~mask
                        assert not bool(absent.any()) or grads[name].abs()[new].min() >= grads[name].abs()[absent].max()
                    assert not bool(P.dense_state_dict(model)[name][new].any())
            masks = now
    assert any(event.grown for event in session.history)


def test_gradients_are_watched_only_when_they_are_needed() -> None:
    x, y = data()
    model = small(MaskedLinearLayer)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with P.RigL(0.3, end=100, every=4).attach(model, optimizer) as session:
        hooks = []
        for _ in range(8):
            hooks.append(len(model[0]._forward_hooks))
            train(model, optimizer, x, y, steps=1)
            session.step()
    assert hooks == [0, 0, 0, 1, 0, 0, 0, 1]
    assert len(model[0]._forward_hooks) == 0


def test_moved_by_hand() -> None:
    mask = torch.tensor([[True, True, True, False, False, False]])
    lose, gain = torch.tensor([[3.0, 1.0, 2.0, 9, 9, 9]]), torch.tensor([[9.0, 8.0, 7.0, 1.0, 3.0, 2.0]])
    assert moved(mask, lose, gain, 0.34).tolist() == [[True, True, True, False, False, False]]  # taken back at once
    assert moved(mask, lose, gain, 0.34, regrow=False).tolist() == [[True, False, True, False, True, False]]
    assert moved(mask, lose, gain, 0.67, regrow=False).tolist() == [[True, False, False, False, True, True]]
    full = torch.ones(1, 6, dtype=torch.bool)
    assert torch.equal(moved(full, gain, gain, 0.5, regrow=False), full)


def test_set_static_and_growth_by_a_graph_metric() -> None:
    x, y = data()
    for rewire, moves in (
        (P.SET(0.3, every=2), True),
        (P.static(0.3), False),
        (P.Rewire(P.ERK(0.3), grow=P.PathCentrality(), fraction=P.constant(0.3), every=2, regrow=False), True),
        (P.Rewire(P.ERK(0.3), grow=P.GraphMetric("in_degree", sign=-1), fraction=P.constant(0.3), every=2), True),
    ):
        model = small()
        optimizer = torch.optim.Adam(model.parameters())
        with rewire.attach(model, optimizer) as session:
            first = P.get_masks(model)
            train(model, optimizer, x, y, session.step, steps=4)
        assert session.density == pytest.approx(0.3, abs=0.01)
        assert moves == any(not torch.equal(first[n], m) for n, m in P.get_masks(model).items())


@pytest.mark.parametrize(
    ("scope", "counts"),
    [
        (P.Layer(0.25), [24, 30, 10]),
        (P.NM(1, 2), [48, 60, 20]),
        (P.Channel(within=P.Layer(0.5)), [48, 60, 20]),
    ],
    ids=["layer", "n-of-m", "channel"],
)
def test_what_to_begin_with(scope, counts) -> None:
    model = small()
    with P.Rewire(scope).attach(model) as session:
        assert list(session.history[0].kept.values()) == counts


def test_growth_where_it_opens_most_paths() -> None:
    model = small()
    P.prune(model, P.Random(), 0.3, P.Layer())
    view = P.View(model)
    opens = P.PathCentrality()(view)
    rewire = P.Rewire(drop=P.Magnitude(), grow=P.PathCentrality(), fraction=P.constant(0.2), regrow=False)
    for name, mask in rewire.masks(view, 0.2).items():
        new, absent = mask & ~view.masks[name], ~mask & ~view.masks[name]
        assert opens[name][new].min() >= opens[name][absent].max()


def test_rewiring_with_a_constraint() -> None:
    x, y = data()
    model = small()
    optimizer = torch.optim.Adam(model.parameters())
    rewire = P.Rewire(P.ERK(0.2), grow=P.Random(), fraction=P.constant(0.5), every=1, constraint=P.no_dead())
    with rewire.attach(model, optimizer) as session:
        for _ in range(6):
            assert session.alive().dead_units == 0
            train(model, optimizer, x, y, session.step, steps=1)


def test_movement_during_training_reaches_its_density() -> None:
    x, y = data()
    model = convolutional(True)
    images = torch.randn(16, 2, 8, 8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    plan = P.Plan(P.Movement(), P.Global(), P.cubic(0.2, 2, 8, every=2))
    with plan.attach(model, optimizer) as session:
        train(model, optimizer, images, y, session.step, steps=9)
    assert session.density == pytest.approx(0.2, abs=0.002)
    del x


def test_tickets_rewind_and_keep_their_masks() -> None:
    x, y = data()
    model = small()
    start = P.snapshot(model)
    seen = []

    def fit(net: nn.Module) -> float:
        seen.append(P.dense_state_dict(net))
        optimizer = torch.optim.Adam(net.parameters(), 0.05)
        train(net, optimizer, x, y, steps=10)
        return nn.functional.cross_entropy(net(x), y).item()

    rounds = P.iterate(fit, model, P.keep(0.5, {"4.weight": 0.8}), rounds=4, rewind=start)
    assert [r.number for r in rounds] == [0, 1, 2, 3]
    for number, (found, begun) in enumerate(zip(rounds, seen, strict=True)):
        sizes = {n: int(m.sum()) for n, m in found.masks.items()}
        assert sizes == {
            "0.weight": round(96 * 0.5**number),
            "2.weight": round(120 * 0.5**number),
            "4.weight": round(40 * 0.8**number),
        }
        assert found.density == pytest.approx(sum(sizes.values()) / 256)
        for name, value in begun.items():
            mask = found.masks.get(name, torch.ones_like(value, dtype=torch.bool))
            assert torch.equal(value, torch.where(mask, start[name], 0)), "each round begins at the snapshot"
        assert isinstance(found.result, float)
    for a, b in itertools.pairwise(rounds):
        assert all(not bool((b.masks[n] & ~a.masks[n]).any()) for n in a.masks)


def test_the_masks_of_a_ticket_are_those_of_the_largest_trained_weights() -> None:
    x, y = data()
    model, trained = small(), {}

    def fit(net: nn.Module) -> None:
        train(net, torch.optim.Adam(net.parameters(), 0.05), x, y, steps=10)
        trained.update(P.dense_state_dict(net))

    rounds = P.iterate(lambda net: fit(net) if not trained else None, model, P.keep(0.5), 2, P.snapshot(model))
    for name, mask in rounds[1].masks.items():
        assert trained[name].abs()[mask].min() >= trained[name].abs()[~mask].max()


def test_rewinding_by_a_function_and_permuted_masks() -> None:
    model = small()
    P.prune(model, P.Magnitude(), 0.5, P.Layer())
    masks = P.get_masks(model)
    other = P.permuted(masks, seed=1)
    for name, mask in masks.items():
        assert int(mask.sum()) == int(other[name].sum())
        assert not torch.equal(mask, other[name])

    def fresh(net: nn.Module) -> None:
        P.load_dense(net, small().state_dict())

    rounds = P.iterate(lambda net: None, model, P.keep(0.5), rounds=2, rewind=fresh)
    assert rounds[1].density == pytest.approx(0.5, abs=0.01)
    weights = P.dense_state_dict(model)
    assert all(not bool(weights[n][~m].any()) for n, m in rounds[1].masks.items())
    with pytest.raises(InputError, match="rounds=0"):
        P.iterate(lambda net: None, model, P.keep(0.5), rounds=0)
    with pytest.raises(InputError, match="share above 0"):
        P.keep(1.2)


def test_sessions_of_copies_and_wrong_arguments() -> None:
    model = small()
    P.prune(model, P.Magnitude(), 0.5)
    again = copy.deepcopy(model)
    P.prune(again, P.Magnitude(), 0.2)
    assert sum(int(m.sum()) for m in P.get_masks(model).values()) == 128
    for wrong in (
        lambda: P.prune(model, P.Magnitude(), 0.1, rounds=0),
        lambda: P.Plan(P.Magnitude(), P.Global(), 1.5),
        lambda: P.prune(model, P.Magnitude(), 0.1, optimizer="adam"),
        lambda: P.Rewire(every=0),
        lambda: P.Rewire(P.ERK()).attach(lenet()),
        lambda: P.prune(model, P.Magnitude(), 0.1, unknown_state="ignore"),
    ):
        with pytest.raises(InputError):
            wrong()


def test_compiled_models_see_new_masks() -> None:
    model, x = small(), torch.randn(4, 8)
    P.prune(model, P.Magnitude(), 0.5)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
    P.prune(model, P.Magnitude(), 0.1)
    torch.testing.assert_close(compiled(x), P.bake(model)(x))
