"""Graphs that networks are built from: layered acyclic graphs, orientation, and generators.

Importing this module loads networkx, whose graphs these are.
"""

from __future__ import annotations

from deepstruct.graph.bipartite import (
    BipartiteExpansion,
    expansion,
    ramanujan_bipartite,
    random_regular_bipartite,
)
from deepstruct.graph.generators import (
    barabasi_albert,
    erdos_renyi,
    grid,
    newman_watts,
    random_wired,
    stochastic_block,
    tree,
    uniform_proportions,
    watts_strogatz,
)
from deepstruct.graph.labeled import LabeledDAG
from deepstruct.graph.layered import CachedLayeredGraph, LayeredGraph
from deepstruct.graph.layers import build_layer_index
from deepstruct.graph.relational import message_exchange_mask, relational_graph
from deepstruct.graph.structure import Structure, orient, read_structure

__all__ = [
    "BipartiteExpansion",
    "CachedLayeredGraph",
    "LabeledDAG",
    "LayeredGraph",
    "Structure",
    "barabasi_albert",
    "build_layer_index",
    "erdos_renyi",
    "expansion",
    "grid",
    "message_exchange_mask",
    "newman_watts",
    "orient",
    "ramanujan_bipartite",
    "random_regular_bipartite",
    "random_wired",
    "read_structure",
    "relational_graph",
    "stochastic_block",
    "tree",
    "uniform_proportions",
    "watts_strogatz",
]
