"""Families of networks: one theme, built at any scale."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepstruct.errors import InputError
from deepstruct.graph import CachedLayeredGraph, orient
from deepstruct.sparse import MaskedDeepDAN, MaskedDeepFFN
from deepstruct.util import kullback_leibler

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Shape = int | Sequence[int]


class ScalableDeepFFN:
    """Feed-forward networks whose layers have given shares of all hidden units.

    Args:
        proportions: one share per hidden layer, adding up to one (to 0.001).

    Two families are equal when the Kullback-Leibler divergence of their shares is below
    `entropy_similarity_epsilon` nats.
    """

    def __init__(self, proportions: ArrayLike) -> None:
        shares = np.asarray(proportions, dtype=np.float64)
        if shares.ndim != 1 or not len(shares) or (shares < 0).any() or abs(shares.sum() - 1) >= 0.001:
            raise InputError(f"proportions are shares that add up to one, got {shares.tolist()}")
        self._proportions = shares
        self._precision, self._epsilon = 2, 0.1

    @property
    def proportions(self) -> np.ndarray:
        """The shares, rounded to `precision` digits."""
        return np.round(self._proportions, self.precision)

    @property
    def precision(self) -> int:
        """Digits of the shares that count."""
        return self._precision

    @precision.setter
    def precision(self, precision: int) -> None:
        if precision < 1:
            raise InputError(f"precision={precision}: at least one digit")
        self._precision = precision

    @property
    def entropy_similarity_epsilon(self) -> float:
        return self._epsilon

    @entropy_similarity_epsilon.setter
    def entropy_similarity_epsilon(self, epsilon: float) -> None:
        if epsilon <= 0:
            raise InputError(f"entropy_similarity_epsilon={epsilon}: above zero")
        self._epsilon = epsilon

    def draw(self, scale: int) -> list[int]:
        """Units of each hidden layer of a network of that scale: share times scale, rounded down, at least 1."""
        _scale(scale)
        # Shares are rounded decimals, so that 0.29 * 100 must not become 28.
        return [max(1, int(size + 1e-9)) for size in (scale * self.proportions).tolist()]

    def build(self, input_shape: Shape, output_shape: Shape, scale: int) -> MaskedDeepFFN:
        """A network of about `scale` hidden units."""
        return MaskedDeepFFN(input_shape, output_shape, self.draw(scale))

    def entropy_similarity(self, other: ScalableDeepFFN) -> float:
        """Kullback-Leibler divergence of the shares in nats, the shorter list filled up with zeros."""
        length = max(len(self._proportions), len(other._proportions))
        a, b = (np.pad(f._proportions, (0, length - len(f._proportions))) for f in (self, other))
        return kullback_leibler(a, b)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScalableDeepFFN):
            return NotImplemented
        return self.entropy_similarity(other) < self.entropy_similarity_epsilon

    __hash__ = None  # type: ignore[assignment]  # equality is a tolerance, which has no hash

    def __str__(self) -> str:
        return str(self.draw(10**self.precision))


class ScalableDAN:
    """Networks whose graph is a theme with every vertex replaced by a block of vertices.

    An edge of the theme becomes all edges between the two blocks.

    Args:
        structure: the theme, a directed acyclic graph or one that is oriented (see `deepstruct.graph.orient`).
        proportion_map: share of each vertex, adding up to one; equal shares if None.
    """

    def __init__(self, structure: Any, proportion_map: Mapping[Hashable, float] | None = None) -> None:
        self.structure = structure
        n = len(self.structure)
        self.proportions = dict.fromkeys(self.structure.nodes, 1 / n) if proportion_map is None else proportion_map
        self.reset()

    @property
    def structure(self) -> CachedLayeredGraph:
        return self._structure

    @structure.setter
    def structure(self, structure: Any) -> None:
        self._structure = orient(structure, None)

    @property
    def proportions(self) -> Mapping[Hashable, float]:
        return self._proportions

    @proportions.setter
    def proportions(self, shares: Mapping[Hashable, float]) -> None:
        if set(shares) != set(self.structure.nodes):
            raise InputError("proportions name one share for each vertex of the structure, and no others")
        if min(shares.values()) < 0 or not np.isclose(sum(shares.values()), 1):
            raise InputError(f"proportions add up to one, not {sum(shares.values())}")
        self._proportions = shares

    def reset(self) -> None:
        """Forget what has grown."""
        self._grown = CachedLayeredGraph()
        self._blocks: dict[Hashable, list[int]] = {vertex: [] for vertex in self.structure.nodes}

    @property
    def blocks(self) -> dict[Hashable, list[int]]:
        """Vertices of what has grown, by vertex of the theme."""
        return {vertex: list(block) for vertex, block in self._blocks.items()}

    def grow(self, scale: int) -> CachedLayeredGraph:
        """Add about `scale` vertices to what has grown, at least one for each vertex of the theme."""
        _scale(scale)
        for layer in self.structure.layers:
            for vertex in self.structure.get_vertices(layer):
                self.scale(vertex, max(1, round(self.proportions[vertex] * scale)))
        return self._grown

    def scale(self, vertex: Hashable, size: int) -> CachedLayeredGraph:
        """Add `size` vertices to the block of one vertex, connected to all blocks that it has edges with."""
        if vertex not in self._blocks or size < 0:
            raise InputError(f"no block {vertex!r} can grow by {size}")
        start = self._grown.number_of_nodes()
        new = list(range(start, start + size))
        self._grown.add_nodes_from(new)
        self._blocks[vertex] += new
        for source in self.structure.predecessors(vertex):
            self._grown.add_edges_from(itertools.product(self._blocks[source], new))
        for target in self.structure.successors(vertex):
            self._grown.add_edges_from(itertools.product(new, self._blocks[target]))
        return self._grown

    def build(
        self,
        input_shape: Shape,
        output_shape: Shape,
        scale: int,
        use_layer_norm: bool = True,
        return_graph: bool = False,
        **options: Any,
    ) -> Any:
        """A network of about `scale` hidden units, and its graph if `return_graph`; forgets what has grown.

        `options` are further arguments of `MaskedDeepDAN`.
        """
        self.reset()
        grown = self.grow(scale)
        self.reset()
        model = ScalableDAN.model(input_shape, output_shape, grown, use_layer_norm, **options)
        return (model, grown) if return_graph else model

    @staticmethod
    def model(
        input_shape: Shape, output_shape: Shape, structure: Any, use_layer_norm: bool = True, **options: Any
    ) -> MaskedDeepDAN:
        """A network over any graph, with layer norm unless told otherwise."""
        return MaskedDeepDAN(input_shape, output_shape, structure, use_layer_norm=use_layer_norm, **options)


def _scale(scale: int) -> None:
    if scale < 1:
        raise InputError(f"scale={scale}: at least one unit")
