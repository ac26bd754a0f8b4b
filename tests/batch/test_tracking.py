"""Tracking never changes training, and gives the rows that `analyze` gives."""

from __future__ import annotations

import csv
import importlib.util
import random

import numpy as np
import pytest
import torch
from batch_nets import Small
from torch import nn
from zoo_compat import declare_torchvision_ops

import deepstruct
from deepstruct.checkpoints.store import Store
from deepstruct.checkpoints.tables import wide_rows
from deepstruct.errors import InputError


def train(model, steps, tracker=None) -> list[float]:
    """Losses of a training that uses every kind of random number, dropout among them."""
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        x = torch.randn(8, 1, 6, 6) + random.random() + np.random.rand()
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if tracker is not None:
            before = {name: p.grad.clone() for name, p in model.named_parameters()}
            tracker.step()
            assert all(torch.equal(p.grad, before[name]) for name, p in model.named_parameters())
            assert model.training
            assert torch.is_grad_enabled()
    return losses


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Small(), nn.Dropout(0.5), nn.Linear(4, 2)).train()


def test_training_is_the_same_to_the_last_bit(example, tmp_path, capsys) -> None:
    alone = network()
    expected = train(alone, 7)
    tracked = network()
    with deepstruct.track(tracked, example, every=2, out=[str(tmp_path / "t.db"), str(tmp_path / "t.csv")],
                          name="run") as tracker:  # fmt: skip
        assert train(tracked, 7, tracker) == expected
    for a, b in zip(alone.state_dict().values(), tracked.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    rows = wide_rows(Store(tmp_path / "t.db", readonly=True))
    assert [row["step"] for row in rows] == [0, 2, 4, 6, 7]
    report = deepstruct.analyze(tracked.eval(), example, orders="zeroth", analyzer="operator")
    for name in ("edges", "strength_mean", "path_count_log10", "parameters"):
        assert rows[-1][name] == pytest.approx(report["zeroth"][name])
    with (tmp_path / "t.csv").open(newline="") as file:
        assert {row["path"] for row in csv.DictReader(file)} == {f"run@{k}" for k in (0, 2, 4, 6, 7)}
    err = capsys.readouterr().err
    assert "5 measurements of run over 7 steps took" in err
    assert 0 < tracker.overhead < 1
    assert not tracked[0]._forward_hooks


def test_an_optimizer_is_followed(example) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with deepstruct.track(model, example, every=3, metrics=["edges"], verbose=False).follow(optimizer) as tracker:
        for _ in range(4):
            model(torch.ones(2, 1, 6, 6)).sum().backward()
            optimizer.step()
    assert (tracker.steps, tracker.measurements) == (4, 3)
    optimizer.step()
    assert tracker.steps == 4, "the hook is gone"


def test_an_error_of_the_training_passes(example, tmp_path) -> None:
    with pytest.raises(ZeroDivisionError):
        with deepstruct.track(network(), example, out=tmp_path / "t.db", verbose=False) as tracker:
            tracker.step()
            raise ZeroDivisionError
    assert [row["step"] for row in wide_rows(Store(tmp_path / "t.db", readonly=True))] == [0]


def test_compiled_and_parallel_wrappers_are_looked_through(example) -> None:
    model = nn.DataParallel(network())
    with deepstruct.track(model, example, metrics=["edges"], verbose=False) as tracker:
        tracker.step()
    assert tracker.rows[0]["value"] > 0


def test_wrong_arguments(example) -> None:
    with pytest.raises(InputError, match="every"):
        deepstruct.track(network(), example, every=0)
    with pytest.raises(InputError, match=r"torch\.nn\.Module"):
        deepstruct.track("model", example)
    with pytest.raises(InputError, match="has not started"):
        deepstruct.track(network(), example).measure()


def test_tensorboard(example, tmp_path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = network()
    with deepstruct.track(model, example, every=1, out=f"tensorboard:{tmp_path / 'tb'}", metrics=["edges"],
                          verbose=False) as tracker:  # fmt: skip
        tracker.step()
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    edges = deepstruct.extract(network().eval(), example).num_edges
    assert [(e.step, e.value) for e in events.Scalars("zeroth/edges")] == [(0, edges), (1, edges)]


def torchvision_imports() -> None:
    """Trainers import torchvision where it is installed."""
    if importlib.util.find_spec("torchvision") is not None:
        declare_torchvision_ops()


def test_lightning(example, tmp_path, monkeypatch) -> None:
    torchvision_imports()
    lightning = pytest.importorskip("pytorch_lightning")
    monkeypatch.chdir(tmp_path)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, index):
            return self(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(10, 1, 6, 6)), batch_size=2)
    module = Module()
    tracker = deepstruct.track(module, example, every=2, out=tmp_path / "t.db", verbose=False)
    trainer = lightning.Trainer(
        max_epochs=1, callbacks=[tracker.lightning()], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data)
    assert [row["step"] for row in wide_rows(Store(tmp_path / "t.db", readonly=True))] == [0, 2, 4, 5]


@pytest.mark.zoo
def test_transformers(tmp_path) -> None:
    torchvision_imports()
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x, labels=None):
            y = self.layer(x)
            return {"loss": y.square().mean(), "logits": y}

    model = Net()
    tracker = deepstruct.track(model, torch.ones(1, 4), every=2, out=tmp_path / "t.db", verbose=False)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=2, report_to=[], use_cpu=True,
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    data = [{"x": torch.ones(4), "labels": torch.zeros(2)} for _ in range(8)]
    transformers.Trainer(model, arguments, train_dataset=data, callbacks=[tracker.transformers()]).train()
    assert [row["step"] for row in wide_rows(Store(tmp_path / "t.db", readonly=True))] == [0, 2, 3]
