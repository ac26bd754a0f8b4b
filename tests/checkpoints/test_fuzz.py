"""A short run of the fuzzer (`fuzz.py` runs for any time), and states made up by hypothesis, saved and read."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from deepstruct.checkpoints import load_state_dict
from deepstruct.checkpoints.pickles import globals_in
from deepstruct.checkpoints.unwrap import find_state
from deepstruct.errors import CheckpointError

spec = importlib.util.spec_from_file_location("fuzz", Path(__file__).with_name("fuzz.py"))
fuzz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)

NAMES = st.text("abcdef.0123_", min_size=1, max_size=12)
SHAPES = st.lists(st.integers(0, 4), max_size=4)
DTYPES = st.sampled_from(
    [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8]
)


@st.composite
def states(draw):
    shapes = draw(st.dictionaries(NAMES, st.tuples(SHAPES, DTYPES), min_size=1, max_size=6))
    return {name: torch.ones(shape).to(dtype) for name, (shape, dtype) in shapes.items()}


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_end_in_an_error_that_names_them(tmp_path, seed) -> None:
    chance, files = random.Random(seed), fuzz.seeds()
    found = set()
    for k in range(150):
        path = tmp_path / f"case-{k}{chance.choice(fuzz.SUFFIXES)}"
        path.write_bytes(fuzz.mutate(chance.choice(files), chance, files))
        found.add(fuzz.check(path))
    assert found == {"read", "refused"}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=states(), zipped=st.booleans())
def test_states_come_back_as_they_were_saved(tmp_path, state, zipped) -> None:
    torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    save_file(state, tmp_path / "x.safetensors")
    for name in ("x.pt", "x.safetensors"):
        found = load_state_dict(tmp_path / name)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in state.items())


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3), st.just(torch.ones(2))),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.integers(), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(value=VALUES)
def test_whatever_a_file_holds_is_a_state_or_no_state(value) -> None:
    try:
        state = find_state(value, "x.pt")
    except CheckpointError:
        return
    assert state
    assert all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items())


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300))
def test_opcodes_of_anything_are_read_without_an_error(data) -> None:
    assert all(isinstance(name, str) for name in globals_in(data))
    assert all(isinstance(name, str) for name in globals_in(b"\x80\x04" + data + b"."))
