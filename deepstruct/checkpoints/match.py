"""Matching the tensors of a checkpoint to an architecture, by their names and shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from deepstruct.checkpoints.unwrap import fold_masks
from deepstruct.errors import CheckpointError

_INNER = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
"""Parts of names that wrappers leave anywhere in them."""

_OPTIONAL = ("num_batches_tracked",)
"""Buffers that old checkpoints lack and that mean nothing to the structure."""


Ties = Sequence[Sequence[str]]


def tied(model: nn.Module) -> list[list[str]]:
    """Names of parameters that are one and the same, such as those of an embedding and the head that shares it."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


@dataclass(frozen=True)
class Match:
    """What of a checkpoint belongs to the architecture.

    Attributes:
        state: expected name -> tensor of the expected shape, on the CPU.
        notes: what was taken off or left aside.
    """

    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def match_state(
    state: Mapping[str, Tensor], expected: Mapping[str, Any], source: str, model: str, ties: Ties = ()
) -> Match:
    """The tensors for an architecture, under its own names.

    Prefixes that wrappers put before names (`module.`, `_orig_mod.`, `model.` of Lightning, or any other that all
    expected names share) are taken off or put on, and masks of torch.nn.utils.prune multiplied in where the model has
    none. What stands beside a taken-off prefix (the weights of a loss, of another network) is left aside, and noted.

    Args:
        state: of the checkpoint.
        expected: `model.state_dict()`; what is no tensor in it (extra state of modules) is left as it is.
        source, model: for messages.
        ties: names of one and the same parameter (see `tied`), of which a checkpoint need not hold all.

    Raises CheckpointError naming the first keys or shapes that differ.
    """
    wanted = {key: value for key, value in expected.items() if isinstance(value, Tensor)}
    found, notes = dict(state), []
    if set(found) != set(wanted):
        found = _without_wrappers(found, wanted)
        if not any(key.endswith("_orig") for key in wanted):
            folded = fold_masks(found)
            if len(folded) != len(found):
                notes.append(f"{len(found) - len(folded)} masks of torch.nn.utils.prune are multiplied in")
            found = folded
        found, note = _without_prefix(found, wanted)
        notes += note
    for names in ties:
        held = next((found[name] for name in names if name in found), None)
        if held is not None:
            found.update({name: held for name in names if name in wanted and name not in found})
    problems = differences(found, wanted)
    if problems:
        raise CheckpointError(f"{source} does not fit {model}: {'; '.join(problems)}")
    for key, tensor in found.items():
        if key in wanted and (tensor.is_quantized or tensor.is_complex() != wanted[key].is_complex()):
            raise CheckpointError(
                f"{source} does not fit {model}: {key} is of type {tensor.dtype}, the model's is {wanted[key].dtype}"
            )
    return Match({key: found[key] for key in wanted if key in found}, tuple(notes))


def _without_wrappers(state: dict[str, Tensor], wanted: Mapping[str, Any]) -> dict[str, Tensor]:
    """Names without the parts that torch.compile and FSDP leave in them, where the model has none of these."""
    if any(part in _INNER for key in wanted for part in key.split(".")):
        return state
    out = {".".join(part for part in key.split(".") if part not in _INNER): value for key, value in state.items()}
    return out if len(out) == len(state) else state


def _without_prefix(state: dict[str, Tensor], wanted: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """The state under the model's names, by the prefix that fits the most names and shapes."""
    best, best_score = ("", ""), _fitting(state, wanted)
    for prefix in _prefixes(state, wanted):
        renamed = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
        score = _fitting(renamed, wanted)
        if score > best_score:
            best, best_score = (prefix, ""), score
    for prefix in _prefixes(wanted, state):
        score = _fitting({prefix + key: value for key, value in state.items()}, wanted)
        if score > best_score:
            best, best_score = ("", prefix), score
    off, on = best
    if on:
        return {on + key: value for key, value in state.items()}, [f"the prefix {on!r} is put before its names"]
    if not off:
        return state, []
    beside = [key for key in state if not key.startswith(off)]
    notes = [f"the prefix {off!r} is taken off its names"]
    if beside:
        notes.append(f"{len(beside)} tensors beside it are left aside ({_first(beside)})")
    return {key[len(off) :]: value for key, value in state.items() if key.startswith(off)}, notes


def _prefixes(longer: Mapping[str, Any], shorter: Mapping[str, Any]) -> list[str]:
    """Prefixes that turn names of `shorter` into names of `longer`, the most frequent first."""
    ends = set(shorter)
    count: Counter[str] = Counter()
    for key in longer:
        parts = key.split(".")
        for cut in range(1, min(len(parts), 6)):
            if ".".join(parts[cut:]) in ends:
                count[".".join(parts[:cut]) + "."] += 1
    return [prefix for prefix, _ in count.most_common(8)]


def _fitting(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> int:
    return sum(key in state and state[key].shape == value.shape for key, value in wanted.items())


def differences(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """What keeps a state from fitting: missing and unexpected names, other shapes, the first three of each."""
    missing = [key for key in wanted if key not in state and not key.endswith(_OPTIONAL)]
    extra = [key for key in state if key not in wanted and not key.endswith(_OPTIONAL)]
    shapes = [
        f"{key} is {tuple(state[key].shape)} where the model has {tuple(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing ({_first(missing)})")
    if extra:
        problems.append(f"{len(extra)} unexpected ({_first(extra)})")
    if shapes:
        problems.append(f"{len(shapes)} of another shape ({_first(shapes)})")
    return problems


def _first(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
