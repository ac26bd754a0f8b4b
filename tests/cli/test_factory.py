"""Naming a model on the command line."""

from __future__ import annotations

import sys

import pytest
import torch

from deepstruct.errors import InputError
from deepstruct.factory import build_model


@pytest.mark.parametrize(
    ("name", "expected"),
    [("build", "Sequential"), ("Net", "Net"), ("instance", "Net"), ("Space.net", "Net")],
)
def test_files(model_file, name, expected) -> None:
    assert type(build_model(f"{model_file}:{name}")).__name__ == expected


def test_modules() -> None:
    assert type(build_model("torch.nn:Identity")).__name__ == "Identity"


def test_modules_of_the_working_directory(model_file, monkeypatch) -> None:
    monkeypatch.chdir(model_file.parent)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    (model_file.parent / "local_nets_module.py").write_text(model_file.read_text())
    assert type(build_model("local_nets_module:Net")).__name__ == "Net"


def test_random_weights_follow_the_seed(model_file) -> None:
    first, again, other = (build_model(f"{model_file}:build", seed) for seed in (1, 1, 2))
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("torch.nn", "write package.module:factory"),
        ("torch.nn:", "write package.module:factory"),
        ("no_such_package.nets:build", "no module 'no_such_package.nets'"),
        ("torch.nn:Lynear", "has no 'Lynear'"),
        ("FILE:number", "neither a model nor something that makes one"),
        ("FILE:wrong", "returned a int"),
        ("FILE:needs", "called without arguments"),
        ("FILE:fails", "KeyError: 'inside'"),
        ("FILE:nothing", "it has torch, nn, build"),
        ("absent/file.py:build", "no file absent/file.py"),
    ],
)
def test_what_is_wrong_is_said(model_file, spec, expected) -> None:
    with pytest.raises(InputError) as error:
        build_model(spec.replace("FILE", str(model_file)))
    assert expected in str(error.value)


def test_an_import_error_inside_is_not_a_missing_module(tmp_path) -> None:
    (tmp_path / "bad.py").write_text("import a_module_that_is_missing")
    with pytest.raises(InputError, match=r"running .*bad\.py failed.*a_module_that_is_missing"):
        build_model(f"{tmp_path / 'bad.py'}:x")
