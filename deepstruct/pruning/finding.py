"""Which weights of a model can be pruned, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from functools import partial
from typing import NoReturn

from torch import nn
from torch.nn.utils import parametrize

from deepstruct.errors import InputError
from deepstruct.pruning.dag_targets import DagPairs
from deepstruct.pruning.parametrization import original_of, weight_masks
from deepstruct.pruning.recurrent_targets import MASKS, RecurrentMask
from deepstruct.pruning.targets import MaskBuffer, Parametrized, SparseValues, Target
from deepstruct.recurrent import BaseRecurrentLayer
from deepstruct.sparse.dag import DagLinear
from deepstruct.sparse.linear import SparseLinear
from deepstruct.sparse.masked import MaskedLayer

_PLAIN = (
    nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


def find_targets(
    model: nn.Module, only: str | Iterable[str] | None = None, skip: str | Iterable[str] = ()
) -> dict[str, Target]:
    """The weights of a model that can be pruned, by name; nothing is changed yet.

    Those of masked layers (recurrent ones, too) and SparseLinear, of linear, bilinear and convolutional layers, the
    matrices of recurrent layers and of multi-head attention, and whatever has a mask already. Tied weights are one
    target: whatever else uses the same parameter (an embedding) gets the same mask.

    Args:
        only, skip: patterns of names, as "features.*" or "*.weight_hh_l0"; the default is all, and none.

    Raises InputError where a pattern names nothing, nothing is left, or a weight is computed by a parametrization
    of another kind.
    """
    owners, paths = _owners(model), {module: path for path, module in model.named_modules()}
    found: dict[str, Callable[[], Target]] = {}
    for module in model.modules():
        for name in _names(module):
            parameter = _parameter(module, name)
            if parameter is None:
                key = f"{paths[module]}.{name}" if paths[module] else name
                found[key] = partial(_refuse, key)
                continue
            users = owners[id(parameter)]
            found.setdefault(users[0][0], _maker(users, module))
    chosen = _chosen(list(found), only, skip)
    if not chosen:
        raise InputError(f"{type(model).__name__} has no weight that could be pruned: no linear, convolutional, "
                         "recurrent or masked layer is left")  # fmt: skip
    return {name: found[name]() for name in chosen}


def _names(module: nn.Module) -> list[str]:
    """The parameters of a module itself that can be pruned."""
    if isinstance(module, SparseLinear):
        return ["values"]
    if isinstance(module, (MaskedLayer, *_PLAIN)):
        return ["weight"]
    if isinstance(module, nn.RNNBase):
        return [name for name in module._flat_weights_names if name.startswith("weight_")]
    if isinstance(module, BaseRecurrentLayer):
        return list(MASKS)
    if isinstance(module, (nn.RNNCellBase,)):
        return ["weight_ih", "weight_hh"]
    if isinstance(module, nn.MultiheadAttention):
        names = ["in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"]
        return [name for name in names if getattr(module, name) is not None]
    return [name for name, _ in weight_masks(module)]


def _parameter(module: nn.Module, name: str) -> nn.Parameter | None:
    """The Parameter behind a name; None where another parametrization computes it."""
    if parametrize.is_parametrized(module, name):
        return original_of(module, name) if name in dict(weight_masks(module)) else None
    parameter = module._parameters.get(name)
    if parameter is None:
        raise InputError(
            f"the {name!r} of a {type(module).__name__} is no parameter (it is computed from others, as by "
            "torch.nn.utils.prune or the old weight_norm): pruning.from_torch takes masks of torch over, others have "
            "to be removed first"
        )
    return parameter


def _owners(model: nn.Module) -> dict[int, list[tuple[str, nn.Module, str]]]:
    """id of each parameter -> (dense key, module, name) of all that use it, in order."""
    owners: dict[int, list[tuple[str, nn.Module, str]]] = {}
    for path, module in model.named_modules():
        if isinstance(module, (parametrize.ParametrizationList,)):
            continue
        own = [(name, p) for name, p in module._parameters.items() if p is not None]
        if parametrize.is_parametrized(module):
            own += [
                (name, chain.original)
                for name, chain in module.parametrizations.items()
                if isinstance(getattr(chain, "original", None), nn.Parameter)
            ]
        for name, parameter in own:
            dense = "weight" if isinstance(module, SparseLinear) and name == "values" else name
            key = f"{path}.{dense}" if path else dense
            owners.setdefault(id(parameter), []).append((key, module, name))
    return owners


def _maker(users: list[tuple[str, nn.Module, str]], module: nn.Module) -> Callable[[], Target]:
    name = users[0][0]
    if isinstance(module, SparseLinear):
        return lambda: SparseValues(name, module)
    if isinstance(module, BaseRecurrentLayer) and len(users) == 1:
        return lambda: RecurrentMask(name, module, users[0][2])
    if isinstance(module, DagLinear) and module.grows:
        if len(users) > 1:
            raise InputError(f"{name!r} is tied, so its edges cannot move: leave `grows` of the layer as it was")
        return lambda: DagPairs(name, module)
    masked = [m for _, m, _ in users if isinstance(m, MaskedLayer)]
    if len(masked) == len(users):
        return lambda: MaskBuffer(name, masked)

    def make() -> Target:
        for key, owner, own in users:
            if isinstance(owner, (MaskedLayer, BaseRecurrentLayer)):
                raise InputError(f"{key!r} is tied, and only some of the layers that share it are masked ones: skip it")
            if parametrize.is_parametrized(owner, own) and own not in dict(weight_masks(owner)):
                _refuse(key)
        return Parametrized(name, [(owner, own) for _, owner, own in users])

    return make


def _refuse(name: str) -> NoReturn:
    raise InputError(
        f"{name!r} is computed by a parametrization of another kind: remove that one, or leave the weight out with "
        "skip="
    )


def _chosen(names: list[str], only: str | Iterable[str] | None, skip: str | Iterable[str]) -> list[str]:
    wanted = None if only is None else [only] if isinstance(only, str) else list(only)
    unwanted = [skip] if isinstance(skip, str) else list(skip)
    for pattern in [*(wanted or []), *unwanted]:
        if not any(_fits(name, pattern) for name in names):
            raise InputError(f"no weight is called {pattern!r}: there are {', '.join(names[:12])}")
    return [
        name
        for name in names
        if (wanted is None or any(_fits(name, p) for p in wanted)) and not any(_fits(name, p) for p in unwanted)
    ]


def _fits(name: str, pattern: str) -> bool:
    """A pattern names a weight, or the layer that it is in."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
