"""`deepstruct.drift`: what changed between checkpoints of one architecture."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deepstruct.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from deepstruct.report.drift import Drift
    from deepstruct.structure.graph import StructureGraph

    Checkpoint = nn.Module | Mapping[str, Tensor] | StructureGraph | str | os.PathLike[str]


def drift(
    a: Checkpoint,
    b: Checkpoint,
    *later: Checkpoint,
    rank: int = 8,
    threshold: float = 0.0,
    labels: Sequence[str] | None = None,
) -> Drift:
    """How the weights changed from checkpoint to checkpoint: connections, subspaces, spectra, fingerprints.

    Args:
        a, b, later: models, state dicts, structure graphs read from models, or checkpoint files, in the order of
            time. Weights are matched by name; masks (torch.nn.utils.prune, masked layers) are multiplied in. What
            one of them lacks, or has in another shape, is named in `unmatched` and left out; so are parameters
            with fewer than two axes (biases, norms).
        rank: how many leading singular values and vectors are compared.
        threshold: magnitude up to which a weight is no connection.
        labels: names of the checkpoints; file names or numbers without it.

    Raises:
        InputError: when they have no weight in common, or an argument makes no sense.
        CheckpointError: when a file cannot be read.
    """
    from deepstruct.metrics.dynamics import DEFINITIONS, exploration_rate, layer_drift
    from deepstruct.report.drift import Drift

    given = [a, b, *later]
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise InputError(f"rank must be a whole number, at least 1, got {rank!r}")
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold < float("inf"):
        raise InputError(f"threshold must be a number >= 0, got {threshold!r}")
    names = tuple(_label(item, k) for k, item in enumerate(given)) if labels is None else tuple(labels)
    if len(names) != len(given):
        raise InputError(f"{len(given)} checkpoints have {len(names)} labels: give one for each")
    weights = [_weights(item, label) for item, label in zip(given, names, strict=True)]
    common, unmatched = _common(weights, names)
    if not common:
        raise InputError(f"the checkpoints have no weight in common: {'; '.join(unmatched[:6]) or 'none has any'}")
    chosen = [{name: found[name] for name in common} for found in weights]
    rates, rate = exploration_rate(chosen, threshold)
    steps = tuple(
        {name: layer_drift(one[name], two[name], rank, threshold) for name in common}
        for one, two in itertools.pairwise(chosen)
    )
    conventions = {
        **DEFINITIONS,
        "explored": "share of the weights that were a connection at any of the checkpoints (Liu et al. 2021, in-time "
        "over-parametrization)",
        "connection": "a weight other than 0" if not threshold else f"a weight with |w| > {threshold:g}",
        "rank": f"up to {rank} leading singular values and vectors of (outputs, inputs x taps)",
    }
    return Drift(names, steps, rates, rate, tuple(unmatched), conventions)


def _label(item: Any, position: int) -> str:
    return os.path.basename(os.fspath(item)) if isinstance(item, (str, os.PathLike)) else f"#{position + 1}"


def _weights(item: Any, label: str) -> dict[str, Tensor]:
    """Name -> weight of at least two axes, masks multiplied in."""
    import torch
    from torch import nn

    from deepstruct.checkpoints import load_state_dict
    from deepstruct.structure.graph import StructureGraph

    if isinstance(item, StructureGraph):
        return _of_graph(item, label)
    if isinstance(item, (str, os.PathLike)):
        found: Mapping[str, Tensor] = load_state_dict(item)
    elif isinstance(item, nn.Module):
        found = {**item.state_dict(), **_sparse(item)}
    elif isinstance(item, Mapping):
        found = item
    else:
        kind = type(item).__name__
        raise InputError(
            f"checkpoint {label} is of type {kind}; pass a model, a state dict, a StructureGraph or a file"
        )
    out = {}
    for name, tensor in _folded(found).items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or tensor.dim() < 2:
            continue
        if tensor.is_meta:
            raise InputError(f"{name!r} of checkpoint {label} has no values: it is on the meta device")
        out[name] = tensor.detach().cpu()
    return out


def _folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with masks multiplied in: those of torch.nn.utils.prune, and those of masked layers."""
    from deepstruct.checkpoints.unwrap import fold_masks, strip_prefixes

    found = fold_masks(strip_prefixes(state))
    for name in list(found):
        path, _, last = name.rpartition(".")
        weight = f"{path}.weight" if path else "weight"
        if last not in ("mask", "_mask") or weight not in found:
            continue
        mask, shape = found[name], found[weight].shape
        if mask.shape == (*shape, 2):  # learned masks: scores of absent and present
            mask = mask[..., 1] >= mask[..., 0]
        if mask.shape == shape:
            del found[name]
            found[weight] = found[weight] * mask.to(found[weight].dtype)
    return found


def _sparse(model: nn.Module) -> dict[str, Tensor]:
    """Whole matrices of layers that store their connections only, under the name that a dense layer has."""
    from deepstruct.sparse import SparseLinear

    return {
        f"{path}.weight" if path else "weight": module.to_dense().detach()
        for path, module in model.named_modules()
        if isinstance(module, SparseLinear)
    }


def _of_graph(graph: StructureGraph, label: str) -> dict[str, Tensor]:
    """Weights behind the edges, by the name of their parameter, or of the module where they are computed."""
    from deepstruct.structure.orders.zeroth import Origin
    from deepstruct.structure.reweigh import weights_by_name

    while graph.origin is not None:
        graph = graph.origin
    if not isinstance(graph.context, Origin):
        raise InputError(f"checkpoint {label} is a graph that was not read from a model: its edges have no names")
    return {name: tensor for name, tensor in weights_by_name(graph).items() if tensor.dim() >= 2}


def _common(weights: Sequence[Mapping[str, Tensor]], labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names that all have in one shape, in the order of the first; and a line for each that is left out."""
    lines, common = [], []
    for name in dict.fromkeys(name for found in weights for name in found):
        holders = list(zip(labels, weights, strict=True))
        missing = [label for label, found in holders if name not in found]
        shapes = {tuple(found[name].shape): label for label, found in holders if name in found}
        if missing:
            lines.append(f"{name} is not in {', '.join(missing)}")
        elif len(shapes) > 1:
            lines.append(f"{name} is of shape {', '.join(f'{s} in {label}' for s, label in shapes.items())}")
        else:
            common.append(name)
    return common, lines
