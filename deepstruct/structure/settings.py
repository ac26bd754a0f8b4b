"""What a caller may choose about the structure of a model, and the conventions that follow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from deepstruct.errors import InputError
from deepstruct.structure.operators import WeightRef

MASK_THRESHOLD = -1e4


@dataclass(frozen=True)
class Settings:
    """How a trace is read.

    Args:
        threshold: a weight is an edge when its magnitude is above this; 0 keeps every non-zero weight.
        density: keep only this fraction (0, 1] of the weights, the largest magnitudes over all layers.
        normalization: "one_to_one" (norms make no units) or "stats" (one statistics unit per group).
        on_unknown: "error" for an op without a rule, or "dense" to wire it all to all and say so.
        attention: "implicit" (scores are units that are counted but not stored) or "units" (a slot for each score,
            which metrics that change the values of single units need).
        prefer: which plugin wins where two offer a rule for the same target: a distribution, or target -> distribution.
    """

    threshold: float = 0.0
    density: float | None = None
    normalization: Literal["one_to_one", "stats"] = "one_to_one"
    on_unknown: Literal["error", "dense"] = "error"
    mask_threshold: float = MASK_THRESHOLD
    attention: Literal["implicit", "units"] = "implicit"
    prefer: Any = None
    cut_density: float | None = None  # the density that the threshold was found for

    def __post_init__(self) -> None:
        if not (_number(self.threshold) and self.threshold >= 0 and math.isfinite(self.threshold)):
            raise InputError(f"threshold must be a number >= 0, got {self.threshold!r}")
        if self.density is not None and not (_number(self.density) and 0 < self.density <= 1):
            raise InputError(f"density must be a number in (0, 1], got {self.density!r}")
        if self.density is not None and self.threshold:
            raise InputError("threshold and density are two ways to cut: give one of them")
        if self.normalization not in ("one_to_one", "stats"):
            raise InputError(f'normalization must be "one_to_one" or "stats", got {self.normalization!r}')
        if self.on_unknown not in ("error", "dense"):
            raise InputError(f'on_unknown must be "error" or "dense", got {self.on_unknown!r}')
        if self.attention not in ("implicit", "units"):
            raise InputError(f'attention must be "implicit" or "units", got {self.attention!r}')

    def cut(self, weight: WeightRef) -> float:
        """The magnitude at or below which a stored weight is no edge."""
        return self.threshold if weight.learned else 0.0

    def conventions(self) -> dict[str, str]:
        """What the numbers of a graph mean, in words."""
        if self.cut_density is not None:
            edges = f"the {self.cut_density:g} of all weights with the largest magnitude (|w| > {self.threshold:g})"
        elif self.threshold:
            edges = f"|w| > {self.threshold:g}"
        else:
            edges = "w != 0 (after masks)"
        norms = (
            "one to one: no units"
            if self.normalization == "one_to_one"
            else "through one statistics unit per group"
        )
        return {
            "units": "scalars made by ops that mix elements (contractions, windows, reductions, merges), and inputs",
            "weight_edges": edges,
            "structural_edges": "pooling taps, identity edges into merges, attention mixing",
            "padding": "no edges: only taps that read a real unit",
            "parallel_edges": "counted: the graph is a multigraph",
            "sums": "a unit whose only out-edge is a linear identity edge into a sum is part of that sum",
            "normalization": norms,
            "softmax": "one to one",
            "attention": f"scores are units; masked ones (additive constant <= {self.mask_threshold:g}) are removed"
            + (", held by rows and columns" if self.attention == "implicit" else ", each with a slot of its own"),
            "constants": "biases, class tokens, position embeddings and learned queries are no units",
            "integers": "control; what they look up (embedding rows) are the sources of the graph",
            "sample": "one sample: the batch axis is no part of the graph",
            "paths": "from sources to outputs; a unit that is both counts its trivial path",
        }


def _number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
