"""Shapes, dtypes and sizes as they are written on the command line."""

from __future__ import annotations

import pytest
import torch

from deepstruct.cli.inputs import names, parse_bytes, parse_inputs
from deepstruct.errors import InputError


def test_positional_and_named_inputs() -> None:
    args, kwargs = parse_inputs(["1,3,8,8", "2x4:int64", "mask=1,4:bool"], "float32")
    assert [tuple(a.shape) for a in args] == [(1, 3, 8, 8), (2, 4)]
    assert (args[0].dtype, args[1].dtype) == (torch.float32, torch.int64)
    assert kwargs["mask"].dtype == torch.bool
    assert kwargs["mask"].all()
    assert (args[1] == 1).all()


def test_the_default_dtype_and_the_seed() -> None:
    (first,), _ = parse_inputs(["1,4"], "float64", 3)
    (again,), _ = parse_inputs(["1,4"], "float64", 3)
    (other,), _ = parse_inputs(["1,4"], "float64", 4)
    assert first.dtype == torch.float64
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_two_inputs_differ() -> None:
    args, _ = parse_inputs(["1,4", "1,4"], "float32")
    assert not torch.equal(*args)


def test_none() -> None:
    assert parse_inputs([], "float32") == ((), {})


@pytest.mark.parametrize("spec", ["", "a,b", "1,0", "-1", "1,2:flot", "1,2:nn", "2a=1,2", "1;2"])
def test_bad_inputs(spec) -> None:
    with pytest.raises(InputError):
        parse_inputs([spec], "float32")


def test_one_name_twice() -> None:
    with pytest.raises(InputError, match="twice"):
        parse_inputs(["x=1", "x=2"], "float32")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4GB", 4 * 10**9),
        ("2GiB", 2**31),
        ("512mb", 512 * 10**6),
        ("1.5k", 1500),
        ("77", 77),
        (" 1 TiB ", 2**40),
    ],
)
def test_sizes(text, expected) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "4XB", "-1GB", "4 4GB"])
def test_bad_sizes(text) -> None:
    with pytest.raises(InputError, match="is no size"):
        parse_bytes(text)


def test_names() -> None:
    assert names("zeroth, first,") == ("zeroth", "first")
    assert names(None) is None


def test_settings() -> None:
    from deepstruct.cli.inputs import parse_settings

    given = ["max_operations=1e10", "removal_fractions=[0.1, 0.5]", "name=plain text", "flag=true", "empty="]
    assert parse_settings(given) == {
        "max_operations": 1e10, "removal_fractions": [0.1, 0.5], "name": "plain text", "flag": True, "empty": "",
    }  # fmt: skip
    for wrong in ("max_operations", "=3"):
        with pytest.raises(InputError, match="write NAME=VALUE"):
            parse_settings([wrong])
