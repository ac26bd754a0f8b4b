"""Which nodes the sampled metrics start from: the settings "samples" and "sample_seed"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.errors import MetricError

SAMPLES = 64  # without the setting


@dataclass(frozen=True)
class Sample:
    """slots: of the chosen nodes, ascending. population: how many nodes they were drawn from."""

    slots: torch.Tensor
    population: int

    @property
    def size(self) -> int:
        return self.slots.numel()

    @property
    def complete(self) -> bool:
        """Whether every node was chosen, so that nothing is left to chance."""
        return self.size == self.population

    @property
    def note(self) -> str:
        return f"{self.size} of {self.population} nodes sampled"

    def error_of_mean(self, values: np.ndarray) -> float:
        """Standard error of the mean of one value per sampled node, drawn without replacement."""
        return self.error_of_ratio(values, np.ones(len(values)))

    def error_of_ratio(self, above: np.ndarray, below: np.ndarray) -> float:
        """Standard error, to first order, of sum(above) / sum(below) over the sampled nodes."""
        if self.complete:
            return 0.0
        if self.size < 2 or not below.any():
            return float("nan")
        rest = above - above.sum() / below.sum() * below
        correction = 1 - self.size / self.population
        return float(np.sqrt(correction * (rest**2).sum() / (self.size - 1) / self.size) / below.mean())


def sample(view: OperatorView, among: torch.Tensor | None = None, *, salt: int = 0) -> Sample:
    """Nodes drawn uniformly without replacement, as many as the setting "samples" says.

    Args:
        among: boolean per slot, the nodes to draw from; None for all nodes.
        salt: makes the draws of one metric differ from one another.

    Raises MetricError where there is no node to draw from.
    """
    pool = (view.graph.is_node if among is None else among & view.graph.is_node).nonzero().reshape(-1)
    if pool.numel() == 0:
        raise MetricError("the graph has no nodes" if among is None else "there are no nodes to start from")
    wanted = int(view.context.settings.get("samples", SAMPLES))
    if wanted < 1:
        raise MetricError(f"the setting 'samples' is {wanted}: give 1 or more")
    if wanted >= pool.numel():
        return Sample(pool, pool.numel())
    seed = int(view.context.settings.get("sample_seed", 0))
    chosen = np.random.default_rng((seed, salt)).choice(pool.numel(), wanted, replace=False)
    return Sample(pool[torch.from_numpy(np.sort(chosen))], pool.numel())
