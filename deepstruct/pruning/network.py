"""From weights to the graph that they make, and from values at its units back to the weights."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deepstruct.errors import InputError
from deepstruct.pruning.bake import bake
from deepstruct.pruning.dag_targets import with_all_edges
from deepstruct.sparse.masked import maskable_layers
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.reweigh import with_stored_weights


class Network:
    """The zeroth-order graph of a model with every prunable weight present, traced once.

    Attributes:
        full: that graph; its prunable weights are all 1.
        names: of the prunable weights.
    """

    def __init__(
        self,
        model: nn.Module,
        shapes: Mapping[str, torch.Size],
        example_input: Any = None,
        attention: Literal["implicit", "units"] = "implicit",
    ) -> None:
        from deepstruct.api import extract

        plain = bake(model).eval()
        with_all_edges(plain)
        parameters = dict(plain.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for name in shapes:
                parameters[name].fill_(1)
            for layer in maskable_layers(plain):  # those that bake knows no plain twin of
                layer.mask = torch.ones_like(layer.mask)
        self.full: StructureGraph = extract(
            plain.cpu(), _on_cpu(example_input), attention=attention, progress=False
        )
        self._shapes = dict(shapes)
        known = self.full.context.trace.parameters
        used = {op.weight.key for op in self.full.operators if op.weight is not None}
        self._keys: dict[str, Hashable] = {}
        for name in shapes:
            key: tuple[str, Any] = ("parameter", known.get(name))
            for kind in ("masked", "dag"):  # layers with rules of their own
                key = (kind, id(parameters[name])) if key not in used else key
            in_part = any(isinstance(k, tuple) and len(k) > 2 and k[:2] == key for k in used)
            if key not in used or in_part:
                raise InputError(
                    f"no edge of the graph runs through {name!r} as it is stored: leave it out with skip=, or use a "
                    "score that needs no graph"
                )
            self._keys[name] = key

    @property
    def names(self) -> list[str]:
        return list(self._keys)

    def graph(self, weights: Mapping[str, Tensor]) -> StructureGraph:
        """The graph in which the named weights (dense, zeros or False for no edge) hold these values."""
        flat = {
            self._keys[name]: weight.detach().to("cpu", torch.float64).contiguous().reshape(-1)
            for name, weight in weights.items()
        }
        return with_stored_weights(self.full, flat)

    def spread(self, ahead: Tensor, back: Tensor) -> dict[str, Tensor]:
        """For each weight the sum over its possible edges u -> v of ahead[u] * back[v], float64, in its shape.

        Args:
            ahead, back: one value per slot. With numbers of paths from the inputs and to the outputs, this is the
                number of paths through the weight, or that it would open.
        """
        out = {name: torch.zeros(shape.numel(), dtype=torch.float64) for name, shape in self._shapes.items()}
        by_key = {key: out[name] for name, key in self._keys.items()}
        for op in self.full.operators:
            if op.weight is None or op.weight.key not in by_key:
                continue
            usage = op.weight_usage(op.source.gather(ahead), op.target.gather(back)).to(torch.float64)
            by_key[op.weight.key].index_add_(0, _places(op.weight.tensor), usage.reshape(-1))
        return {name: flat.reshape(self._shapes[name]) for name, flat in out.items()}

    def positions(self, starts: Mapping[str, int]) -> Tensor:
        """For each position that `to_csr(weights="index")` numbers: start of the target + place in it; else -1."""
        by_key = {self._keys[name]: start for name, start in starts.items()}
        parts = [torch.zeros(0, dtype=torch.int64)]
        for op in self.full.operators:
            if op.weight is None or not op.weighted:
                continue
            start = by_key.get(op.weight.key)
            count = op.weight.tensor.numel()
            parts.append(torch.full((count,), -1) if start is None else _places(op.weight.tensor) + start)
        return torch.cat(parts)


def _places(tensor: Tensor) -> Tensor:
    """Where in its storage each element of a view is, flat."""
    reach = 1 + tensor.storage_offset() + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return torch.arange(int(reach)).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).reshape(-1)


def _on_cpu(example: Any) -> Any:
    from deepstruct.trace.tree import map_tensors

    return None if example is None else map_tensors(example, lambda t: t.cpu())
