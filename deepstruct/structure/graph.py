"""StructureGraph: spaces of units and the edge operators between them, at any order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deepstruct.errors import CapacityError, StructureError
from deepstruct.structure.csr import ExplicitCsr, build_csr, weights_wanted
from deepstruct.structure.edges import EdgeList, build_edge_list, edge_list_bytes
from deepstruct.structure.fuse import ParentField, Parents, live_slots
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import EdgeOperator, Identity
from deepstruct.structure.scores import Join, natural_join
from deepstruct.structure.space import Space
from deepstruct.structure.vectors import how_many
from deepstruct.structure.weights import count_weights

if TYPE_CHECKING:
    import igraph
    import networkx
    import scipy.sparse

    from deepstruct.report.draw import Drawing


@dataclass(eq=False)
class StructureGraph:
    """A directed multigraph whose edges are linear operators between spaces of units.

    Attributes:
        order: "zeroth", "first", "second" or "third".
        name: what it was made from (the class name of a model).
        spaces: blocks of slots; a slot is a node unless it is part of a sum or was never a unit.
        operators: in an order in which every space is complete before it is read (when `is_dag`).
        is_output: boolean per slot.
        parent: per slot the sum that it is part of (itself for others); None if there are none.
        num_parameters: elements of all parameters of the model, tied ones once.
        conventions: what the numbers mean.
        unknown: (op, module path) pairs that were wired all to all.
        origin: the graph of the order below, when this one is a quotient of it.
        outputs: (name, operand) of every output tensor of the model: which slot each of its elements is.
        self_loops: of a quotient, boolean per slot: whether edges of zeroth order run within the node.
    """

    order: str
    name: str
    spaces: list[Space]
    operators: list[EdgeOperator]
    is_output: torch.Tensor
    parent: ParentField = ParentField()  # noqa: RUF009
    num_parameters: int = 0
    is_dag: bool = True
    conventions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    unknown: Sequence[tuple[str, str]] = ()
    providers: Mapping[str, str] = field(default_factory=dict)
    origin: StructureGraph | None = None
    context: Any = field(default=None, repr=False)  # the trace and settings, for the orders above
    num_self_loops: int = 0  # nodes of a quotient within which edges of zeroth order run (not drawn)
    outputs: Sequence[tuple[str, Operand]] = ()
    self_loops: torch.Tensor | None = None

    # -- sizes

    @property
    def num_slots(self) -> int:
        return self.is_output.numel()

    @cached_property
    def live(self) -> torch.Tensor | None:
        """Boolean per slot: whether there is a unit (part of a sum or not); None where all are."""
        return live_slots(self.spaces, self.num_slots)

    def meets_dead_slots(self, op: EdgeOperator) -> tuple[bool, bool]:
        """Whether an operator's source and target have slots that are no units (masked scores)."""
        if self.live is None:
            return False, False
        known = self._meets_dead.get(id(op))
        if known is None:
            source, target = (not bool(side.gather(self.live, True).all()) for side in (op.source, op.target))
            known = self._meets_dead[id(op)] = (source, target)
        return known

    @cached_property
    def _meets_dead(self) -> dict[int, tuple[bool, bool]]:
        return {}

    @cached_property
    def is_node(self) -> torch.Tensor:
        """Boolean per slot: whether it is a node of the graph; False on the carriers of implicit scores."""
        node = torch.ones(self.num_slots, dtype=torch.bool) if self.live is None else self.live.clone()
        parents = self.__dict__["_parents"]
        if parents is not None:
            parents.clear(node)
        for space in self.score_spaces:
            node[space.slots] = False
        return node

    @cached_property
    def score_spaces(self) -> list[Space]:
        """Spaces of implicit attention scores: their slots are carriers, which are no nodes (`structure.scores`)."""
        return [space for space in self.spaces if space.scores is not None]

    @cached_property
    def is_carrier(self) -> torch.Tensor:
        """Boolean per slot: whether it is a carrier of implicit scores, which holds values but is no node."""
        carrier = torch.zeros(self.num_slots, dtype=torch.bool)
        for space in self.score_spaces:
            carrier[space.slots] = True
        return carrier

    def need_units(self, what: str) -> None:
        """Raise CapacityError where some units have no slot of their own: the scores of implicit attention."""
        spaces = self.score_spaces
        if spaces:
            count = sum(self.nodes_in(s) for s in spaces)
            raise CapacityError(
                f"{what} needs a value for each of the {count:,} attention scores, which are held by rows and columns "
                f'here ({spaces[0].name!r} is the first): extract or analyze with attention="units" to compute it'
            )

    @cached_property
    def num_nodes(self) -> int:
        return how_many(self.is_node) + sum(s.scores.num_units for s in self.score_spaces if s.scores is not None)

    @cached_property
    def operator_edges(self) -> list[int]:
        """Number of edges of each operator."""
        return [self._count(op) for op in self.operators]

    @property
    def num_edges(self) -> int:
        return sum(self.operator_edges)

    @property
    def num_weight_edges(self) -> int:
        """Edges through a non-zero parameter."""
        return sum(n for n, op in zip(self.operator_edges, self.operators, strict=True) if op.weighted)

    @property
    def num_structural_edges(self) -> int:
        """Edges of pooling, merges and mixing."""
        return self.num_edges - self.num_weight_edges

    @cached_property
    def num_parallel_edges(self) -> int | None:
        """Edges beyond the first between the same two nodes; None where counting them does not fit 256 MiB."""
        if self.order != "zeroth" and self.origin is not None:
            return 0
        from deepstruct.structure.parallel import count_parallel

        return count_parallel(self, 256 << 20 if self.order == "zeroth" else 1 << 62)

    @cached_property
    def _weights(self) -> tuple[int, int]:
        base = self if self.origin is None else self.origin
        while base.origin is not None:
            base = base.origin
        return count_weights(base.operators)

    @property
    def num_weights(self) -> int:
        """Stored weights of all contractions, tied ones once: the connections that could be."""
        return self._weights[0]

    @property
    def num_nonzero_weights(self) -> int:
        """Stored weights that are edges: non-zero after masks and cuts."""
        return self._weights[1]

    def _count(self, op: EdgeOperator) -> int:
        source, target = op.source.valid(), None
        if self.live is not None:
            target = op.target.gather(self.live)
            target = None if bool(target.all()) else target
            readable = op.source.gather(self.live, False)
            if not bool(readable.all()):
                source = readable if source is None else source & readable
        if isinstance(op, Identity):
            kept = op.kept()
            alive = torch.ones((), dtype=torch.bool).expand(op.source.shape)
            for mask in (source, target, kept):
                if mask is not None:
                    alive = alive & mask
            return int(alive.sum()) if alive.numel() else 0
        return op.count(source, target)

    # -- nodes

    def node_ids(self) -> torch.Tensor:
        """int64 per slot: the node id, -1 where a slot is no node (and on the carriers of implicit scores)."""
        before = self.is_node.to(torch.int64)
        for space in self.score_spaces:
            assert space.scores is not None
            before[space.offset] += space.scores.num_units
        return torch.where(self.is_node, torch.cumsum(before, 0) - 1, -1)

    def _first_unit(self, space: Space) -> int:
        """Node id of the first unit of implicit scores."""
        first = how_many(self.is_node[: space.offset])
        return first + sum(s.scores.num_units for s in self.score_spaces if s.scores and s.offset < space.offset)

    def element_nodes(self, op: EdgeOperator, ids: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Node id of each source and target element of an operator, flat, as `op.edges()` numbers them; -1 for none.

        Elements of implicit scores are units there, (*lead, rows, columns). The target of an edge into a part of a
        sum is that sum. `ids` are those of `node_ids()`, where the caller has them.
        """
        ids = self.node_ids() if ids is None else ids
        source = self._elements(op.source, ids, None)
        return source, self._elements(op.target, ids, self.parent)

    def sums_of(self, slots: torch.Tensor) -> torch.Tensor:
        """The slot of the sum that each of some units is part of, itself for all others.

        Without the vector `parent` over all slots.

        Args:
            slots: int64, of any shape; negative numbers (no unit) stay.
        """
        given = self.__dict__.get("_parents")
        if given is None:
            return slots
        if isinstance(given, Parents):
            return given.of(slots)
        return torch.where(slots >= 0, given[slots.clamp(min=0)], slots)

    def score_nodes(self, side: Operand) -> torch.Tensor:
        """Node id of each unit of implicit scores, flat in (*lead, rows, columns); -1 where the mask took it away."""
        assert side.scores is not None
        space = next(s for s in self.score_spaces if s.offset == side.offset)
        kept = side.scores.kept().reshape(-1)
        return torch.where(kept, torch.cumsum(kept, 0) - 1 + self._first_unit(space), -1)

    def _elements(self, side: Operand, ids: torch.Tensor, parent: torch.Tensor | None) -> torch.Tensor:
        if side.scores is not None:
            return self.score_nodes(side)
        slots = side.index().reshape(-1)
        if ids.numel() == 0:
            return slots
        here = slots.clamp(min=0)
        return torch.where(slots >= 0, ids[here if parent is None else parent[here]], -1)

    @cached_property
    def is_source(self) -> torch.Tensor:
        """Boolean per slot: units of the model's inputs, and rows that integers looked up."""
        source = torch.zeros(self.num_slots, dtype=torch.bool)
        for space in self.spaces:
            if space.is_source:
                source[space.slots] = True
        return source & self.is_node

    def input_nodes(self) -> np.ndarray:
        """Node ids of the sources."""
        return self.node_ids()[self.is_source].numpy()

    def output_nodes(self) -> np.ndarray:
        """Node ids of the outputs."""
        return self.node_ids()[self.is_output & self.is_node].numpy()

    def slots_to_nodes(self, values: torch.Tensor, join: Join | None = None) -> np.ndarray:
        """A vector over slots as a vector over nodes.

        Args:
            join: how the two carriers of an implicit score make its value; None for "or" of booleans and "sum" of
                numbers. Lengths of paths need "max" or "min".
        """
        if not self.score_spaces:
            return values[self.is_node].numpy()
        parts, start = [], 0
        for space in self.score_spaces:
            assert space.scores is not None
            before = slice(start, space.offset)
            here = space.scores.values(values[space.slots], join or natural_join(values))
            parts += [values[before][self.is_node[before]], here]
            start = space.slots.stop
        parts.append(values[start:][self.is_node[start:]])
        return torch.cat(parts).numpy()

    def blocks(
        self, *vectors: torch.Tensor, joins: Sequence[Join] | None = None
    ) -> Iterator[tuple[Space, list[torch.Tensor], torch.Tensor | None]]:
        """The nodes' values of vectors over slots, space by space: (space, one array per vector, counts).

        Without counts each entry is one node. Implicit scores may come in several pieces, and with counts where
        few combinations of values occur: each entry then stands for that many nodes.

        Args:
            joins: as in `slots_to_nodes`, one for each vector.
        """
        for space in self.spaces:
            for values, counts in self.blocks_of(space, [v[space.slots] for v in vectors], joins):
                yield space, values, counts

    def blocks_of(
        self, space: Space, here: list[torch.Tensor], joins: Sequence[Join] | None = None
    ) -> Iterator[tuple[list[torch.Tensor], torch.Tensor | None]]:
        """The same of one space, from the values at its slots."""
        if space.scores is not None:
            yield from space.scores.blocks(here, joins or [natural_join(v) for v in here])
        elif self.nodes_in(space) == space.numel:
            yield here, None
        else:
            node = self.is_node[space.slots]
            yield [v[node] for v in here], None

    def nodes_in(self, space: Space) -> int:
        """Number of nodes of a space; units that are part of a later sum count there."""
        return space.scores.num_units if space.scores is not None else self._nodes_by_space[space.index]

    @cached_property
    def _nodes_by_space(self) -> list[int]:
        return [how_many(self.is_node[space.slots]) for space in self.spaces]

    def total(self, values: torch.Tensor) -> float:
        """Sum over the nodes of a vector over slots, in float64; of a boolean one, how many are true."""
        if values.dtype == torch.bool:
            amount = float(how_many(values & self.is_node))
        else:
            amount = float(sum(float(here.sum(dtype=torch.float64)) for here in self._own_values(values)))
        for space in self.score_spaces:
            assert space.scores is not None
            here = values[space.slots]
            if values.dtype == torch.bool:
                amount += float(space.scores.marked_in_rows(here.to(torch.float64)).sum())
            else:
                amount += space.scores.total(here)
        return amount

    def dot(self, left: torch.Tensor, right: torch.Tensor) -> float:
        """Inner product over the nodes of two vectors over slots that add up (no lengths, no truth values)."""
        pairs = zip(self._own_values(left), self._own_values(right), strict=True)
        amount = float(sum(float(torch.dot(a.to(torch.float64), b.to(torch.float64))) for a, b in pairs))
        for space in self.score_spaces:
            assert space.scores is not None
            amount += space.scores.dot(left[space.slots], right[space.slots])
        return amount

    def _own_values(self, values: torch.Tensor) -> Iterator[torch.Tensor]:
        """The nodes' values of a vector over slots, space by space; those of implicit scores left out."""
        for space in self.spaces:
            if space.scores is None and self.nodes_in(space):
                here = values[space.slots]
                yield here if self.nodes_in(space) == space.numel else here[self.is_node[space.slots]]

    def ones(self, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """The vector over slots that is 1 on every node and 0 elsewhere (on carriers: 1 per row)."""
        out = self.is_node.to(dtype)
        for space in self.score_spaces:
            assert space.scores is not None
            space.scores.split(out[space.slots])[0].fill_(1)
        return out

    def node_values_by_space(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """A vector over nodes as one array per space, in the space's shape; NaN where there is no node."""
        values = np.asarray(values)
        if values.shape[:1] != (self.num_nodes,):
            raise StructureError(f"expected one value for each of {self.num_nodes} nodes, got shape {values.shape}")
        out, start = {}, 0
        for space in self.spaces:
            if not space.numel:
                continue
            node = self.places(space)
            full = np.full(node.shape, np.nan)
            count = int(node.sum())
            full[node] = values[start : start + count]
            out[space.name], start = full.reshape(space.shape), start + count
        return out

    def places(self, space: Space) -> np.ndarray:
        """Boolean, flat over the shape of a space: where there is a node."""
        if space.scores is not None:
            return space.scores.kept().reshape(-1).numpy()
        return self.is_node[space.slots].numpy()

    def node_table(self) -> list[dict[str, Any]]:
        """One row per node: id, space, module path, kind, index in the space, role."""
        from deepstruct.structure.export import node_rows

        return list(node_rows(self))

    # -- exports

    def explicit_bytes(self) -> int:
        """Estimated memory of `edge_list()`, in bytes."""
        return edge_list_bytes(self)

    def edge_list(self, max_memory: int | None = None) -> EdgeList:
        """Every edge, written down. Raises CapacityError with an estimate when it does not fit."""
        return build_edge_list(self, max_memory)

    def to_csr(self, *, weights: bool | str = False, max_memory: int | None = 4 << 30) -> ExplicitCsr:
        """Compressed sparse rows of the explicit graph: 4 bytes an edge and 8 a node, parallel edges kept.

        Args:
            weights: True or "float64", or "float32", for the weight of each edge beside it, NaN on structural ones;
                "index" for the position of its stored weight (see `ExplicitCsr.weights`).

        Raises CapacityError with an estimate when it does not fit `max_memory` bytes.
        """
        return build_csr(self, weights_wanted(weights), max_memory)

    def to_scipy(self, *, max_memory: int | None = 4 << 30, weights: bool = False) -> scipy.sparse.csr_array:
        """Sparse adjacency matrix (nodes, nodes), row u column v for u -> v.

        Entries count parallel edges, or with `weights=True` sum their weights (structural edges count 1).
        """
        from deepstruct.structure.export import to_scipy

        return to_scipy(self, max_memory, weights)

    def to_networkx(self, *, max_memory: int | None = 4 << 30) -> networkx.DiGraph:
        """A networkx DiGraph, or MultiDiGraph where edges are parallel; nodes carry the columns of `node_table`."""
        from deepstruct.structure.export import to_networkx

        return to_networkx(self, max_memory)

    def to_igraph(
        self, *, max_memory: int | None = 4 << 30, weights: bool = True, attributes: bool = True
    ) -> igraph.Graph:
        """A directed igraph Graph, its edges sorted by source and target.

        Args:
            weights: whether edges have the attribute "weight" (NaN on structural ones).
            attributes: whether nodes have the columns of `node_table` as attributes.
        """
        from deepstruct.structure.export import to_igraph

        return to_igraph(self, max_memory, weights, attributes)

    # -- orders

    def quotient(self, order: str, **options: Any) -> StructureGraph:
        """The graph of a higher order, computed from this one.

        Args:
            order: "first", "second" or "third", above this graph's own.
            options: `unit="channel" | "head"` for the first order; `depth=2` or `partition=` for the third.
        """
        from deepstruct.structure.orders.quotient import quotient

        return quotient(self, order, **options)

    def reweighted(
        self, weights: Mapping[str, torch.Tensor], *, threshold: float | None = None, density: float | None = None
    ) -> StructureGraph:
        """The graph of the same model and input with other parameters and buffers, without tracing again.

        Args:
            weights: qualified name -> tensor of the same shape; what is not named keeps its values.
            threshold, density: another cut; that of this graph without it.

        Raises InputError for names and shapes that do not fit, StructureError for a graph that was not read
        from a model or is of a higher order.
        """
        from deepstruct.structure.reweigh import reweighted

        return reweighted(self, weights, threshold=threshold, density=density)

    def draw(self, path: str | Path | None = None, *, kind: str = "auto", columns: int | None = None) -> Drawing:
        """A picture: layers or cells from top to bottom, or a matrix or strips where there are many nodes.

        Args:
            path: a file to write it to, .svg, .png or .pdf.
            kind: "layered" (a box for each node), "matrix" (who reads whom, in cells), "strips" (degrees of the
                units of each layer), or "auto": layered at second and third order, else what fits.
            columns: of a layered drawing, how many columns a deep network is folded into; None chooses.

        Notebooks show what is returned. Raises InputError for more nodes or another file ending than can be drawn,
        and MissingExtraError without matplotlib.
        """
        from deepstruct.report.draw import draw

        drawing = draw(self, kind, columns)
        if path is not None:
            drawing.save(path)
        return drawing

    @classmethod
    def from_networkx(
        cls, graph: networkx.Graph, *, inputs: Sequence[Any] | None = None, outputs: Sequence[Any] | None = None,
        order: str = "zeroth",
    ) -> StructureGraph:  # fmt: skip
        """A structure graph with the nodes and edges of a networkx graph.

        Undirected edges point from the earlier node to the later one. Without `inputs` and `outputs`, nodes
        without in-edges are the inputs and nodes without out-edges the outputs (isolated nodes are neither).
        An edge with attribute "weight" is a weight edge.
        """
        from deepstruct.structure.importing import from_networkx

        return from_networkx(graph, inputs, outputs, order)

    def __repr__(self) -> str:
        return (
            f"StructureGraph({self.name}, order={self.order!r}, nodes={self.num_nodes:,}, edges={self.num_edges:,}, "
            f"weight_edges={self.num_weight_edges:,}, spaces={len(self.spaces)})"
        )

    def _repr_html_(self) -> str:
        from html import escape

        rows = {
            "order": self.order, "nodes": f"{self.num_nodes:,}", "edges": f"{self.num_edges:,}",
            "weight edges": f"{self.num_weight_edges:,}", "structural edges": f"{self.num_structural_edges:,}",
            "spaces": f"{len(self.spaces):,}", "parameters": f"{self.num_parameters:,}",
        }  # fmt: skip
        cells = "".join(f"<tr><th style='text-align:left'>{k}</th><td>{escape(v)}</td></tr>" for k, v in rows.items())
        return f"<table><caption>{escape(self.name)}</caption>{cells}</table>"
