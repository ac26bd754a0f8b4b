"""What a score or a constraint sees of a model: weights, masks, gradients, and its graph."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from deepstruct.errors import InputError
from deepstruct.pruning.bake import bake
from deepstruct.pruning.dag_targets import with_all_edges
from deepstruct.pruning.finding import find_targets
from deepstruct.pruning.network import Network
from deepstruct.pruning.protocols import Tensors
from deepstruct.pruning.targets import Target
from deepstruct.sparse.masked import maskable_layers


class View:
    """A model at one moment.

    Attributes:
        model: as it is; leave it as it is.
        targets: name -> target.
        masks: name -> boolean, of the dense weight's shape.
        weights: name -> the dense weight, 0 where it is masked.
        generator: for whatever is drawn at random; on the CPU.
        step: of the schedule.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: Mapping[str, Target] | None = None,
        *,
        example_input: Any = None,
        generator: torch.Generator | None = None,
        known: list[Network] | None = None,
        masks: Mapping[str, Tensor] | None = None,
        step: int = 0,
    ) -> None:
        self.model = model
        self.targets = dict(find_targets(model) if targets is None else targets)
        self.masks: Tensors = (
            {name: target.mask() for name, target in self.targets.items()} if masks is None else dict(masks)
        )
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.step = step
        self._example = example_input
        self._known = [] if known is None else known  # the graph once it was traced, shared between views

    @cached_property
    def weights(self) -> Tensors:
        return {
            name: torch.where(self.masks[name], target.weight(), 0) for name, target in self.targets.items()
        }

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Name -> shape of the dense weight."""
        return {name: target.shape for name, target in self.targets.items()}

    @cached_property
    def gradients(self) -> Tensors:
        """Gradients of the dense weights in the last backward pass; InputError where there was none."""
        found = {}
        for name, target in self.targets.items():
            gradient = target.gradient()
            if gradient is None:
                raise InputError(
                    f"no gradient of {name!r} is known: run a backward pass after attaching the plan (and keep "
                    "gradients until step()), or give the score a loss"
                )
            found[name] = gradient
        return found

    def plain(self) -> tuple[nn.Module, dict[str, nn.Parameter]]:
        """A copy of the model without masks (see `bake`), and the parameters of the targets in it."""
        model = bake(self.model)
        with_all_edges(model)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        chosen = {name: parameters[name] for name in self.targets}
        with torch.no_grad():
            for name, parameter in chosen.items():
                parameter.masked_fill_(~self.masks[name], 0)
                parameter.requires_grad_(True)
            for layer in maskable_layers(model):  # weights are 0 where they were masked: the same function, all edges
                layer.mask = torch.ones_like(layer.mask)
        return model, chosen

    @property
    def network(self) -> Network:
        """The graph behind the weights, traced when it is first needed."""
        if not self._known:
            self._known.append(Network(self.model, self.shapes, self._example))
        return self._known[0]

    def explicit(self) -> View:
        """The same, in a graph where every attention score has a place of its own."""
        if not self.network.full.score_spaces:
            return self
        if len(self._known) < 2:
            self._known.append(Network(self.model, self.shapes, self._example, "units"))
        made = self.given(self.masks)
        made._known = self._known[1:]
        return made

    def given(self, masks: Mapping[str, Tensor]) -> View:
        """The same moment with other masks."""
        made = View(
            self.model, self.targets, example_input=self._example, generator=self.generator, known=self._known,
            masks=masks, step=self.step,
        )  # fmt: skip
        made.__dict__["weights"] = {
            name: torch.where(masks[name], target.weight(), 0) for name, target in self.targets.items()
        }
        return made
