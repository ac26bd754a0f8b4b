"""Networks over any directed acyclic graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from deepstruct.errors import InputError
from deepstruct.graph.structure import Order, Structure, read_structure
from deepstruct.sparse.dag import DagLinear
from deepstruct.sparse.graphs import ROLES, Block, ReadGraph, assemble, block_of, fill_layer, read_graph
from deepstruct.sparse.maskable import MaskableModel, flat_input, flat_size
from deepstruct.sparse.masked import MaskedLinearLayer
from deepstruct.sparse.original import from_original, is_original, to_original

if TYPE_CHECKING:
    from deepstruct.graph import CachedLayeredGraph


class MaskedDeepDAN(MaskableModel):
    """A feed-forward network whose hidden units are the vertices of a directed acyclic graph.

    The input feeds the vertices of layer 0, those without predecessors. Layers are longest paths, unless the
    graph says otherwise. The hidden weights are one number per edge (`hidden`, see `DagLinear`), masked as
    those of any masked layer.

    Args:
        size_input: number of features, or the shape of a sample, which is made flat.
        size_output: number of outputs.
        structure: a networkx or igraph graph, a list of edges, or the path of a GraphML file. An undirected
            one is oriented from earlier to later vertices, or as `order` says, see `deepstruct.graph.orient`.
        use_layer_norm: layer norm over the vertices of every layer but layer 0, before the relu.
        skips: "separate": what a vertex reads from each layer is a sum with a bias and a relu of its own, and
            the vertex adds these up; layer norm is for the layer just below only. "sum": a vertex is one
            neuron, with one bias and one relu.
        readout: "last": the output reads the last layer, so that other vertices without successors have no
            effect. "sinks": it reads all vertices without successors.
        init: "sparse": weights start by the fan-in of the graph. "original": by that of dense layers.
        order: orients all edges, those of a directed graph too.

    Raises:
        InputError: for an empty graph, self-loops, or arguments that make no sense.
        StructureError: for a directed cycle.
    """

    reads: Tensor

    def __init__(
        self,
        size_input: int | Sequence[int],
        size_output: int | Sequence[int],
        structure: Any,
        use_layer_norm: bool = False,
        *,
        skips: str = "separate",
        readout: str = "last",
        init: str = "sparse",
        order: Order = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _choice("skips", skips, ("separate", "sum"))
        _choice("readout", readout, ("last", "sinks"))
        found = structure if isinstance(structure, Structure) else _hidden_structure(structure, order)
        self._build(
            flat_size(size_input, "size_input"), flat_size(size_output, "size_output"), found, bool(use_layer_norm),
            skips, readout, init, _reads(found, readout), None, {"device": device, "dtype": dtype},
        )  # fmt: skip

    def _build(
        self, size_input: int, size_output: int, structure: Structure, use_layer_norm: bool, skips: str, readout: str,
        init: str, reads: np.ndarray, pairs: np.ndarray | None, options: dict[str, Any],
    ) -> None:  # fmt: skip
        self.size_input, self.size_output = size_input, size_output
        self.skips, self.readout, self.use_layer_norm = skips, readout, use_layer_norm
        self.layer_first = MaskedLinearLayer(size_input, int(structure.layer_start[1]), **options)
        self.hidden = DagLinear(
            structure, separate=skips == "separate", use_layer_norm=use_layer_norm, init=init, pairs=pairs, **options
        )
        self.layer_out = MaskedLinearLayer(len(reads), size_output, **options)
        self.activation = nn.ReLU()
        self.register_buffer("reads", torch.from_numpy(reads.astype(np.int32)).to(options.get("device")))

    def forward(self, input: Tensor) -> Tensor:
        """(batch, ...) to (batch, size_output)."""
        first = self.activation(self.layer_first(flat_input(input, self.size_input)))
        return self.layer_out(self.hidden(first, self.reads))

    def activations(self, input: Tensor) -> Tensor:
        """(batch, vertices): of all hidden vertices, in the order of `vertices`."""
        first = self.activation(self.layer_first(flat_input(input, self.size_input)))
        every = torch.arange(self.hidden.num_vertices, dtype=torch.int32, device=first.device)
        return self.hidden(first, every)

    @property
    def vertices(self) -> tuple[Any, ...]:
        """The graph's vertices, sorted by layer."""
        return self.hidden.structure.names

    @property
    def structure(self) -> CachedLayeredGraph:
        """The graph of all edges, masked or not, under the names of its vertices."""
        from deepstruct.graph import CachedLayeredGraph

        names = self.vertices
        graph = CachedLayeredGraph()
        graph.add_nodes_from(names)
        graph.add_edges_from((names[u], names[v]) for u, v in self.hidden.edges.T.tolist())
        return graph

    def example_input(self) -> Tensor:
        """One sample that fits, of zeros."""
        return self.layer_first.weight.new_zeros(1, self.size_input)

    # -- graphs

    def generate_structure(self, include_input: bool = False, include_output: bool = False) -> CachedLayeredGraph:
        """The graph of the current masks: hidden vertices, and inputs and outputs if asked for.

        Nodes are numbered from 0: inputs, vertices sorted by layer, outputs. Isolated vertices are nodes, too.
        """
        return self._graph(("input",) * include_input + ("hidden",) + ("output",) * include_output, False)

    def to_graph(self, weights: bool = False) -> CachedLayeredGraph:
        """All units, with `role`, `layer` and (of hidden ones) `vertex` and `read` on nodes.

        `weights` adds `weight` on edges, and on nodes `bias`, `skip_bias` (layer -> bias, of what a vertex
        reads from farther down) and `norm_weight`, `norm_bias`. `from_graph` makes a model of it, with the
        same outputs if weights are there.
        """
        attributes = {
            "model": type(self).__name__, "use_layer_norm": self.use_layer_norm, "skips": self.skips,
            "readout": self.readout,
        }  # fmt: skip
        if weights and self.skips == "separate":
            attributes["pairs"] = self.hidden.pairs.tolist()
        return self._graph(ROLES, weights, attributes, True)

    def _graph(
        self, include: tuple[str, ...], weights: bool, attributes: dict[str, Any] | None = None, data: bool = False
    ) -> CachedLayeredGraph:
        n, inputs = self.hidden.num_vertices, self.size_input
        hidden, outputs = np.arange(inputs, inputs + n), np.arange(inputs + n, inputs + n + self.size_output)
        reads = self.reads.cpu().numpy()
        mask = self.hidden.mask.cpu().numpy()
        u, v = self.hidden.edges.cpu().numpy()[:, mask]
        blocks = [
            block_of(self.layer_first, np.arange(inputs), hidden[: self.hidden.in_features]),
            Block(hidden[u], hidden[v], self.hidden.weight.detach().cpu().double().numpy()[mask]),
            block_of(self.layer_out, hidden[reads], outputs),
        ]
        roles = ["input"] * inputs + ["hidden"] * n + ["output"] * self.size_output
        rows: list[dict[str, Any]] = []
        if data:
            layer = self.hidden.structure.layer
            level = [0] * inputs + (layer + 1).tolist() + [int(layer[-1]) + 2] * self.size_output
            rows = [{"role": role, "layer": k} for role, k in zip(roles, level, strict=True)]
            for k, name in enumerate(self.vertices):
                rows[inputs + k].update(vertex=name if isinstance(name, (int, str)) else str(name), read=False)
            for k in reads.tolist():
                rows[inputs + k]["read"] = True
        if weights:
            self._note_parameters(rows)
        return assemble(roles, blocks, include, weights, attributes, rows)

    def _note_parameters(self, rows: list[dict[str, Any]]) -> None:
        inputs, layout, hidden = self.size_input, self.hidden.layout, self.hidden
        for k, value in enumerate(self.layer_first.bias.tolist()):
            rows[inputs + k]["bias"] = value
        for k, value in enumerate(self.layer_out.bias.tolist()):
            rows[inputs + hidden.num_vertices + k]["bias"] = value
        main = np.concatenate([layout.main, np.zeros(len(layout.empty_target), dtype=bool)]).tolist()
        target = np.concatenate([layout.target, layout.empty_target]).tolist()
        origin = np.concatenate([layout.origin, layout.empty_origin]).tolist()
        for v, low, is_main, value in zip(target, origin, main, hidden.bias.tolist(), strict=True):
            if is_main:
                rows[inputs + v]["bias"] = value
            else:
                rows[inputs + v].setdefault("skip_bias", {})[str(low)] = value
        if self.use_layer_norm:
            for k, (scale, shift) in enumerate(
                zip(hidden.norm_weight.tolist(), hidden.norm_bias.tolist(), strict=True)
            ):
                rows[inputs + k].update(norm_weight=scale, norm_bias=shift)

    @classmethod
    def from_graph(cls, graph: Any, **options: Any) -> MaskedDeepDAN:
        """A model of a graph that `to_graph` made, or of its GraphML file; `options` are device and dtype.

        It has the graph's edges only. Layers, and which vertices are read, are those that the nodes say.
        Raises InputError for a graph without roles.
        """
        if isinstance(graph, str) or hasattr(graph, "__fspath__"):
            from deepstruct.graph import LayeredGraph

            graph = LayeredGraph.load(graph)
        read, attributes = read_graph(graph), getattr(graph, "graph", {})
        inputs, hidden, outputs = (read.of(role) for role in ROLES)
        if not len(inputs) or not len(outputs):
            raise InputError(f"the graph has {len(inputs)} inputs and {len(outputs)} outputs: a model has some of both")
        structure = _hidden_structure(graph, None)
        model = cls.__new__(cls)
        MaskableModel.__init__(model)
        skips, readout = attributes.get("skips", "separate"), attributes.get("readout", "last")
        norm = bool(attributes.get("use_layer_norm", False))
        # Back from the structure's order to that of the nodes: `hidden[k]` becomes the node of vertex k.
        position = {name: i for i, name in enumerate(read.nodes)}
        hidden = np.array([position[name] for name in structure.names], dtype=np.int64)
        flags = [bool(read.data[i].get("read", False)) for i in hidden.tolist()]
        reads = np.flatnonzero(flags) if any(flags) else _reads(structure, readout)
        pairs = np.array(attributes.get("pairs", []), dtype=np.int64).reshape(-1, 2)
        model._build(
            len(inputs), len(outputs), structure, norm, skips, readout, "sparse", reads,
            pairs if skips == "separate" else None, {"device": None, "dtype": None, **options},
        )  # fmt: skip
        fill_layer(model.layer_first, read, inputs, hidden[: model.hidden.in_features])
        fill_layer(model.layer_out, read, hidden[reads], outputs)
        if read.weight is not None:
            model._take_parameters(read, hidden, outputs)
        return model

    def _take_parameters(self, read: ReadGraph, hidden: np.ndarray, outputs: np.ndarray) -> None:
        layer, layout, data = self.hidden, self.hidden.layout, read.data
        n = len(read.nodes)
        assert read.weight is not None
        key = read.target * n + read.source
        order = np.argsort(key)
        wanted = hidden[layout.target[layout.row]] * n + hidden[layout.cols]
        weight = read.weight[order[np.searchsorted(key, wanted, sorter=order)]] if len(wanted) else np.zeros(0)
        rows = zip(
            np.concatenate([layout.target, layout.empty_target]).tolist(),
            np.concatenate([layout.origin, layout.empty_origin]).tolist(),
            [*layout.main.tolist(), *[False] * len(layout.empty_target)],
            strict=True,
        )
        try:
            bias = [
                data[hidden[v]]["bias"] if is_main else data[hidden[v]].get("skip_bias", {}).get(str(low), 0.0)
                for v, low, is_main in rows
            ]
            first = [data[i]["bias"] for i in hidden[: layer.in_features].tolist()]
            out = [data[i]["bias"] for i in outputs.tolist()]
            parts = ("norm_weight", "norm_bias") if self.use_layer_norm else ()
            norm = [[data[i][part] for i in hidden.tolist()] for part in parts]
        except KeyError as error:
            raise InputError(f"a node of this graph has no {error}: take model.to_graph(weights=True)") from None
        targets = [layer.weight, layer.bias, self.layer_first.bias, self.layer_out.bias]
        values = [weight.tolist(), bias, first, out]
        if norm:
            targets, values = [*targets, layer.norm_weight, layer.norm_bias], [*values, *norm]
        with torch.no_grad():
            for parameter, value in zip(targets, values, strict=True):
                parameter.copy_(torch.tensor(value, dtype=torch.float64))

    # -- state dicts of versions before 1.0

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if is_original(state_dict, prefix):
            from_original(self.hidden, state_dict, prefix)
            state_dict[f"{prefix}reads"] = self.reads
        super()._load_from_state_dict(state_dict, prefix, *args)

    def original_state_dict(self) -> dict[str, Tensor]:
        """The state dict under the names of versions before 1.0, on the CPU: dense layers between layers.

        `load_state_dict` takes it as well as its own. Only with skips="separate" and readout="last".
        """
        if self.readout != "last":
            raise InputError('versions before 1.0 read the last layer only: this model has readout="sinks"')
        found: dict[str, Tensor] = {}
        for name in ("layer_first", "layer_out"):
            found |= {f"{name}.{k}": v.detach().cpu().clone() for k, v in getattr(self, name).state_dict().items()}
        return found | to_original(self.hidden)

    def extra_repr(self) -> str:
        return f"skips={self.skips!r}, readout={self.readout!r}"


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name}={value!r}: choose one of {', '.join(choices)}")


def _reads(structure: Structure, readout: str) -> np.ndarray:
    if readout == "last":
        return np.arange(int(structure.layer_start[-2]), len(structure.layer))
    return np.setdiff1d(np.arange(len(structure.layer)), structure.source)


def _hidden_structure(graph: Any, order: Order) -> Structure:
    """The vertices that are hidden units, with the layers that their graph gives them, if it does."""
    nodes = getattr(graph, "nodes", None)
    if nodes is not None and len(nodes) and all("role" in data for _, data in nodes(data=True)):
        chosen = [data["role"] == "hidden" for _, data in nodes(data=True)]
        layers = [data.get("layer") for _, data in nodes(data=True) if data["role"] == "hidden"]
        given = None if any(k is None for k in layers) or order is not None else layers
        return read_structure(graph, order, layers=given, among=chosen)
    if order is None and type(graph).__name__ == "LabeledDAG":
        return read_structure(graph, layers=[graph.get_layer(v) for v in graph.nodes])
    return read_structure(graph, order)
