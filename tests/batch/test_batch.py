"""`deepstruct.batch`: the table that `analyze` would give for each checkpoint, resumed, shared and exported."""

from __future__ import annotations

import csv
import json
import os
import sqlite3

import pandas
import pyarrow.parquet
import pytest
import torch
from batch_nets import Small, comparable, small_state
from torch import nn

import deepstruct
from deepstruct import hookimpl
from deepstruct.checkpoints.store import Store, decoded, encoded
from deepstruct.checkpoints.tables import export, long_rows, wide_rows
from deepstruct.errors import CheckpointError, InputError, MetricError
from deepstruct.plugin import Host, use_host

ORDERS = ("zeroth", "first", "second", "third")


def test_rows_are_those_of_analyze(runs, example) -> None:
    """Every value of every order, for weights that are swapped into one trace, against a model that has them."""
    results = deepstruct.batch(runs(3), Small, example, orders=ORDERS)
    assert len(results) == 3
    for k, result in enumerate(results):
        model = Small().eval()
        model.load_state_dict(small_state(k))
        report = deepstruct.analyze(model, example, orders=ORDERS, analyzer="operator")
        expected = {}
        for row in report.rows:
            if row.scope == "graph":
                expected[row.order, None, row.name] = row.value
            elif row.scope == "layer":
                expected.update({(row.order, layer, row.name): value for layer, value in row.value.items()})
        found = {(row["order"], row["layer"], row["name"]): row["value"] for row in result.rows}
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key] == pytest.approx(value), key
        assert (result.step, result.parameters) == (k, sum(p.numel() for p in model.parameters()))


def test_a_model_that_is_given_stays_as_it_is(runs, example) -> None:
    model = Small().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    deepstruct.batch(runs(2), model, example, metrics=["edges"]).run()
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_weights_of_one_checkpoint_leave_no_trace_in_the_next(runs, example) -> None:
    folder = runs(3)
    forward = deepstruct.batch(folder, Small, example).rows()
    alone = [row for k in range(3) for row in deepstruct.batch(folder / f"step-{k}.pt", Small, example).rows()]
    assert comparable(forward) == comparable(alone)


def test_iteration_runs_as_far_as_it_goes(runs, example) -> None:
    results = deepstruct.batch(runs(4), Small, example)
    first = next(iter(results))
    assert first.path.endswith("step-0.pt")
    assert results.summary.ok == 1
    assert [os.path.basename(r.path) for r in results] == [f"step-{k}.pt" for k in range(4)]
    assert results.summary.ok == 4
    first_again = next(iter(results))
    assert first_again["zeroth"] == first["zeroth"]
    assert (first_again.step, first_again.parameters, first_again.earlier) == (0, first.parameters, False)


def test_a_run_continues_where_it_was(runs, example, tmp_path) -> None:
    folder, out = runs(4), tmp_path / "m.db"
    results = deepstruct.batch(folder, Small, example, out=out)
    going = iter(results)
    next(going)
    next(going)
    results.close()
    again = deepstruct.batch(folder, Small, example, out=out)
    assert [r.earlier for r in again] == [True, True, False, False]
    rows = comparable(again.rows())
    again.close()
    assert rows == comparable(deepstruct.batch(folder, Small, example).rows())


def test_what_changed_is_done_again_and_nothing_else(runs, example, tmp_path) -> None:
    folder, out = runs(4), tmp_path / "m.db"
    deepstruct.batch(folder, Small, example, out=out).run().close()
    torch.save(small_state(9), folder / "step-1.pt")
    os.utime(folder / "step-2.pt", (1, 1))  # touched, with the same content
    (folder / "step-3.pt").unlink()
    again = deepstruct.batch(folder, Small, example, out=out)
    assert [(os.path.basename(r.path), r.earlier) for r in again] == [
        ("step-0.pt", True), ("step-1.pt", False), ("step-2.pt", True),
    ]  # fmt: skip
    assert len({row["path"] for row in again.rows()}) == 3, "the one that is gone is not part of this run"
    fresh = deepstruct.batch(folder, Small, example)
    assert comparable(again.rows()) == comparable(fresh.rows())
    again.close()
    third = deepstruct.batch(folder, Small, example, out=out)
    assert all(r.earlier for r in third)
    third.close()


def test_other_questions_and_other_models_are_asked_anew(runs, example, tmp_path) -> None:
    folder, out = runs(2), tmp_path / "m.db"

    class Strided(Small):
        def __init__(self) -> None:
            super().__init__()
            self.conv.padding = (1, 1)
            self.conv.stride = (2, 2)
            self.head = nn.Linear(27, 4)

        def forward(self, x):
            return self.head(self.conv(x).flatten(1))

    kinds = [(Small, {}), (Small, {"threshold": 0.5}), (Small, {"metrics": ["edges"]}), (Small, {"orders": "first"})]
    for factory, options in kinds:
        results = deepstruct.batch(folder, factory, example, out=out, **options)
        assert not any(r.earlier for r in results)
        results.close()
    other = deepstruct.batch(folder, Strided, example, out=out)
    assert [r.state for r in other] == ["failed", "failed"]
    assert "head.weight is (4, 48) where the model has (4, 27)" in other.failures[0].error
    other.close()
    store = Store(out, readonly=True)
    assert len({row["config_hash"] for row in long_rows(store)}) == 5


def test_failures_are_tried_again(runs, example, tmp_path) -> None:
    folder, out = runs(2), tmp_path / "m.db"
    good = (folder / "step-1.pt").read_bytes()
    (folder / "step-1.pt").write_bytes(good[:400])
    first = deepstruct.batch(folder, Small, example, out=out)
    assert [r.state for r in first.failures] == ["failed"]
    first.close()
    (folder / "step-1.pt").write_bytes(good)
    second = deepstruct.batch(folder, Small, example, out=out)
    assert [r.earlier for r in second] == [True, False]
    assert second.failures == []
    second.close()


def test_shards_cover_everything_once(runs, example) -> None:
    folder = runs(7)
    shards = [deepstruct.batch(folder, Small, example, metrics=["edges"], shard=(k, 3)) for k in (1, 2, 3)]
    parts = [[r.path for r in shard] for shard in shards]
    assert sorted(map(len, parts)) == [2, 2, 3]
    assert len({path for part in parts for path in part}) == 7
    for wrong in ((0, 3), (4, 3), (1, 0)):
        with pytest.raises(InputError, match="shard"):
            deepstruct.batch(folder, Small, example, shard=wrong)


def test_two_workers_give_the_same_table(runs, example) -> None:
    folder = runs(6)
    one = deepstruct.batch(folder, Small, example, orders=("zeroth", "second"))
    two = deepstruct.batch(folder, Small, example, orders=("zeroth", "second"), workers=2)
    assert comparable(two.rows()) == comparable(one.rows())
    assert all(row["peak_memory"] > 1 << 20 for row in two.rows())


def test_unchanged_layers_are_recognised(tmp_path, example) -> None:
    """A frozen layer keeps its operator, and what is computed once for it."""
    from deepstruct.checkpoints.bench import Bench
    from deepstruct.checkpoints.spec import BatchSpec
    from deepstruct.plugin import get_host

    bench = Bench(BatchSpec(Small, example), get_host().registry())
    first = small_state(0)
    second = {**small_state(1), "conv.weight": first["conv.weight"].clone()}
    assert bench.measure(first, "a").reused == 0
    conv = next(op for op in bench.model().graph.operators if op.name == "conv")
    head = next(op for op in bench.model().graph.operators if op.name == "head")
    measured = bench.measure(second, "b")
    changed = sum(not torch.equal(first[key], second[key]) for key in first)
    assert 0 < changed < len(first)
    assert measured.reused == len(first) - changed
    after = bench.model().graph.operators
    assert any(op is conv for op in after)
    assert not any(op is head for op in after)
    whole = bench.measure({key: value.clone() for key, value in second.items()}, "c")
    assert whole.reused == len(first)
    assert [r.value for r in whole.report.rows if r.scope == "graph"] == [
        r.value for r in measured.report.rows if r.scope == "graph"
    ]


def test_spectra_of_unchanged_layers_are_not_computed_again(tmp_path, example, monkeypatch) -> None:
    sizes = []
    original = torch.linalg.eigvalsh

    def counted(matrix):
        sizes.append(matrix.shape[0])
        return original(matrix)

    monkeypatch.setattr(torch.linalg, "eigvalsh", counted)
    first = small_state(0)
    for k in range(3):
        torch.save({**small_state(k), "conv.weight": first["conv.weight"]}, tmp_path / f"step-{k}.pt")
    results = deepstruct.batch(tmp_path, Small, example, metrics=["layer_stable_rank"])
    norms = [{row["layer"]: row["value"] for row in r.rows} for r in results]
    assert sorted(sizes) == [3, 4, 4, 4], "the frozen convolution once, the linear layer each time"
    assert norms[0]["conv"] == norms[2]["conv"]
    for k, found in enumerate(norms):
        values = torch.linalg.svdvals(small_state(k)["head.weight"].double())
        assert found["head"] == pytest.approx(float(values.square().sum() / values[0] ** 2))


def test_without_a_model(runs, tmp_path) -> None:
    (result,) = deepstruct.batch(runs(1), orders=("zeroth", "first"))
    state = small_state(0)
    weights = {row["layer"]: row["value"] for row in result.rows if row["name"] == "layer_nonzero_weights"
               and row["order"] == "zeroth"}  # fmt: skip
    assert {name: weights[name] for name in ("conv", "head")} == {
        name: int(state[f"{name}.weight"].count_nonzero()) for name in ("conv", "head")
    }
    rank = {row["layer"]: row["value"] for row in result.rows if row["name"] == "layer_stable_rank"}
    for name in ("conv", "head"):
        values = torch.linalg.svdvals(state[f"{name}.weight"].double().flatten(1))
        assert rank[name] == pytest.approx(float(values.square().sum() / values[0] ** 2))
    assert "path_count" not in {row["name"] for row in result.rows}
    assert result.parameters == sum(p.numel() for p in Small().parameters())


def test_without_a_model_what_needs_one_is_told(runs) -> None:
    results = deepstruct.batch(runs(1), metrics=["path_count", "layer_density"])
    (result,) = results
    assert {row["name"] for row in result.rows} == {"layer_density"}
    ((_, name, reason),) = results.store.query('SELECT "order", metric, reason FROM skipped').fetchall()
    assert (name, reason) == ("path_count", "it says something across layers: name a model")
    assert "without a model" in results.rows()[0]["notes"]


def test_hook_checkpoint_model_of_a_batch(runs, example) -> None:
    class Knows:
        @hookimpl
        def deepstruct_checkpoint_model(self, tensors, path):
            return Small() if "conv.weight" in tensors else None

    host = Host([("knows", Knows())], entry_points=False)
    with use_host(host):
        (result,) = deepstruct.batch(runs(1), example_input=example)
    with_model = deepstruct.batch(runs(1), Small, example)
    assert result["zeroth"] == next(iter(with_model))["zeroth"]


def test_wrong_arguments_are_errors_before_any_file_is_read(runs, example, tmp_path) -> None:
    folder = runs(1)
    with pytest.raises(MetricError, match="unknown metric"):
        deepstruct.batch(folder, Small, example, metrics=["edgess"])
    with pytest.raises(InputError, match="unknown order"):
        deepstruct.batch(folder, Small, example, orders="fifth")
    with pytest.raises(InputError, match="suffix"):
        deepstruct.batch(folder, Small, example, out=tmp_path / "x.xlsx")
    with pytest.raises(InputError, match="workers"):
        deepstruct.batch(folder, Small, example, workers=0)
    with pytest.raises(CheckpointError, match="no folder"):
        deepstruct.batch(folder, Small, example, out=tmp_path / "none" / "x.db")
    with pytest.raises(InputError, match="no sink takes"):
        deepstruct.batch(folder, Small, example, sinks=["ftp:x"])
    (tmp_path / "text.db").write_text("no database at all, but long enough to look like one" * 9)
    with pytest.raises(CheckpointError, match="no store"):
        deepstruct.batch(folder, Small, example, out=tmp_path / "text.db")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_exports_hold_every_row(runs, example, tmp_path, suffix) -> None:
    folder = runs(2)
    (folder / "bad.pt").write_bytes(b"junk")
    out = tmp_path / f"m.{suffix}"
    results = deepstruct.batch(folder, Small, example, out=out)
    rows = results.rows()
    if suffix == "csv":
        with out.open(newline="") as file:
            found = list(csv.DictReader(file))
        assert [r["metric"] for r in found] == [r["metric"] or "" for r in rows]
    elif suffix == "jsonl":
        found = [json.loads(line) for line in out.read_text().splitlines()]
        assert found == json.loads(json.dumps(rows))
    else:
        found = pyarrow.parquet.read_table(out).to_pylist()
        assert [r["metric"] for r in found] == [r["metric"] for r in rows]
        assert [r["path"] for r in found] == [r["path"] for r in rows]
    assert len(found) == len(rows)
    results.close()
    again = deepstruct.batch(folder, Small, example, out=out)
    assert [r.earlier for r in again] == [True, True, False]
    again.close()


def test_long_integers_survive_the_store_and_the_files(tmp_path) -> None:
    for value in (0, -1, 2**62, 2**63, -(10**5000), True, 1.5, "text", None):
        kept, kind, _ = encoded(value)
        assert decoded(kept, kind) == value
        assert type(decoded(kept, kind)) is type(value)
    rows = [{"value": 10**30}, {"value": 2}]
    for suffix in ("csv", "jsonl", "parquet"):
        export(rows, tmp_path / f"x.{suffix}")
    assert json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0])["value"] == 10**30
    assert pyarrow.parquet.read_table(tmp_path / "x.parquet").to_pylist()[0]["value"] == str(10**30)


def test_frames(runs, example) -> None:
    results = deepstruct.batch(runs(3), Small, example)
    wide = results.to_frame(wide=True)
    assert isinstance(wide, pandas.DataFrame)
    assert list(wide["step"]) == [0, 1, 2]
    assert (wide["edges"] > 0).all()
    long = results.to_frame()
    assert set(long["scope"]) == {"graph", "layer"}


def test_conditions(runs, example, tmp_path) -> None:
    folder = runs(4)
    (folder / "bad.pt").write_bytes(b"junk")
    results = deepstruct.batch(folder, Small, example, out=tmp_path / "m.db", orders=("zeroth", "second"))
    rows = results.rows(wide=True)
    limit = sorted(row["sparsity"] for row in rows if row["order"] == "zeroth")[1]
    store = results.store
    found = wide_rows(store, f"sparsity > {limit} AND \"order\" = 'zeroth'")
    assert len(found) == 2
    assert all(row["sparsity"] > limit for row in found)
    late = {row["path"] for row in rows if (row["step"] or 0) >= 2}
    assert {row["path"] for row in long_rows(store, "step >= 2")} == late
    assert [os.path.basename(row["path"]) for row in wide_rows(store, "state != 'ok'")] == ["bad.pt"]
    for wrong in ("nonsense >", "1); DELETE FROM checkpoints; --", "load_extension('x')", "no_such_column > 1"):
        with pytest.raises(InputError, match="cannot be used"):
            wide_rows(store, wrong)
    assert len(wide_rows(store)) == 9
    results.close()


def test_two_writers_share_a_store(runs, example, tmp_path) -> None:
    """Two runs at once, in threads' place two interleaved iterations with stores of their own on one file."""
    folder, out = runs(8), tmp_path / "m.db"
    halves = [deepstruct.batch(folder, Small, example, out=out, shard=(k, 2)) for k in (1, 2)]
    going = [iter(half) for half in halves]
    for _ in range(4):
        for one in going:
            next(one)
    for half in halves:
        half.close()
    whole = deepstruct.batch(folder, Small, example, out=out)
    assert all(r.earlier for r in whole)
    assert comparable(whole.rows()) == comparable(deepstruct.batch(folder, Small, example).rows())
    whole.close()


def test_a_transaction_is_all_or_nothing(tmp_path) -> None:
    from deepstruct.checkpoints.work import Outcome

    store = Store(tmp_path / "m.db")
    row = {"order": "zeroth", "scope": "graph", "name": "edges", "value": 3, "seconds": 0.0}
    store.write(Outcome("a", rows=(row,)), "c", "v", "")
    broken = Outcome("a", rows=(row, {"order": None, "scope": None, "name": None, "value": 1}))
    with pytest.raises(sqlite3.IntegrityError):
        store.write(broken, "c", "v", "")
    assert [r["value"] for r in long_rows(store)] == [3]
    store.close()


def test_sinks_get_rows_as_they_come(runs, example, tmp_path) -> None:
    target = tmp_path / "rows.csv"
    results = deepstruct.batch(runs(2), Small, example, metrics=["edges", "nodes"],
                               sinks=[str(target), str(tmp_path / "rows.jsonl")])  # fmt: skip
    next(iter(results))
    assert len(target.read_text().splitlines()) == 3
    results.run()
    found = list(csv.DictReader(target.open(newline="")))
    assert [row["name"] for row in found] == ["edges", "nodes"] * 2
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["value"] for row in lines] == [row["value"] for row in results.rows()]


def test_plugins_are_told_of_a_batch(runs, example) -> None:
    told = []

    class Listens:
        @hookimpl
        def deepstruct_batch_started(self, batch):
            told.append(("started", batch.total, batch.skipped, batch.executor))

        @hookimpl
        def deepstruct_checkpoint_done(self, batch, outcome):
            told.append((outcome.state, outcome.done, bool(outcome.content_hash)))

        @hookimpl
        def deepstruct_batch_finished(self, batch, summary):
            told.append(("finished", summary.ok, summary.failed, summary.interrupted))

    folder = runs(2)
    (folder / "bad.pt").write_bytes(b"junk")
    with use_host(Host([("listens", Listens())], entry_points=False)):
        deepstruct.batch(folder, Small, example).run()
    assert told == [
        ("started", 3, 0, "in-process"), ("failed", 1, True), ("ok", 2, True), ("ok", 3, True),
        ("finished", 2, 1, False),
    ]  # fmt: skip


def test_an_executor_that_breaks_its_word_is_named(runs, example) -> None:
    from deepstruct.errors import PluginError
    from deepstruct.plugin.events import Done

    class Forgetful:
        name = "forgetful"

        def __init__(self, done) -> None:
            self.done = done

        def available(self):
            return None

        def run(self, work, items, options):
            yield from self.done(work, items)

    def offered(done):
        class Offers:
            @hookimpl
            def deepstruct_executors(self):
                return [Forgetful(done)]

        return use_host(Host([("acme", Offers())], entry_points=False))

    folder = runs(2)
    with offered(lambda work, items: [Done(0, work(items[0]))]):
        results = deepstruct.batch(folder, Small, example, executor="forgetful")
        assert [r.state for r in results] == ["ok", "failed"]
        assert "'forgetful' (acme) returned nothing for it" in results.failures[0].error
    with offered(lambda work, items: [Done(0, work(items[0])), Done(0)]):
        with pytest.raises(PluginError, match="forgetful"):
            deepstruct.batch(folder, Small, example, executor="forgetful").run()


def test_pictures(runs, example, tmp_path) -> None:
    from deepstruct.report.trajectories import trajectories

    rows = deepstruct.batch(runs(4), Small, example).rows(wide=True)
    figure = trajectories(rows, path=tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 10_000
    line = figure.axes[0].lines[0]
    assert list(line.get_xdata()) == [0, 1, 2, 3]
    assert list(line.get_ydata()) == [row["sparsity"] for row in rows]
    over = trajectories(rows, ["edges"], by="sparsity")
    assert sorted(row["sparsity"] for row in rows) == list(over.axes[0].lines[0].get_xdata())
    with pytest.raises(InputError, match="nothing to draw of edgess"):
        trajectories(rows, ["edgess"])
    with pytest.raises(InputError, match="suffix"):
        trajectories(rows, path=tmp_path / "x.doc")
    with pytest.raises(InputError, match="no checkpoint"):
        trajectories([])
