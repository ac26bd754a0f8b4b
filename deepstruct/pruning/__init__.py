"""Pruning, growing and dynamic sparse training as five small protocols: score, scope, schedule, constraint, commit."""

from __future__ import annotations

from deepstruct.pruning import engine, strategy, util
from deepstruct.pruning.alive import Alive, alive
from deepstruct.pruning.bake import bake, dense_state_dict, load_dense
from deepstruct.pruning.constraints import AllOf, connected, no_dead, outputs_alive
from deepstruct.pruning.expansion import Expansion, Ramanujan, expansion
from deepstruct.pruning.finding import find_targets
from deepstruct.pruning.masks import from_torch, get_masks, load_masks, read_masks, save_masks, set_masks, to_torch
from deepstruct.pruning.network import Network
from deepstruct.pruning.parametrization import WeightMask, mask_parameter
from deepstruct.pruning.path_scores import GraphMetric, PathCentrality, SynFlow
from deepstruct.pruning.plan import Plan, prune
from deepstruct.pruning.protocols import Constraint, Group, Infeasible, Scope, Score
from deepstruct.pruning.rewire import SET, Rewire, RigL, static
from deepstruct.pruning.schedules import constant, cosine, cubic, iterative, one_shot
from deepstruct.pruning.scopes import ERK, Global, Layer
from deepstruct.pruning.scores import Gradient, Grasp, Magnitude, Movement, Random, Saliency, Snip
from deepstruct.pruning.session import Event, Session
from deepstruct.pruning.shrink import shrink
from deepstruct.pruning.structured import NM, Block, Channel, Gate, Head
from deepstruct.pruning.targets import Target
from deepstruct.pruning.tickets import Round, iterate, keep, permuted, rewind, snapshot
from deepstruct.pruning.view import View

__all__ = [
    "ERK",
    "NM",
    "SET",
    "Alive",
    "AllOf",
    "Block",
    "Channel",
    "Constraint",
    "Event",
    "Expansion",
    "Gate",
    "Global",
    "Gradient",
    "GraphMetric",
    "Grasp",
    "Group",
    "Head",
    "Infeasible",
    "Layer",
    "Magnitude",
    "Movement",
    "Network",
    "PathCentrality",
    "Plan",
    "Ramanujan",
    "Random",
    "Rewire",
    "RigL",
    "Round",
    "Saliency",
    "Scope",
    "Score",
    "Session",
    "Snip",
    "SynFlow",
    "Target",
    "View",
    "WeightMask",
    "alive",
    "bake",
    "connected",
    "constant",
    "cosine",
    "cubic",
    "dense_state_dict",
    "engine",
    "expansion",
    "find_targets",
    "from_torch",
    "get_masks",
    "iterate",
    "iterative",
    "keep",
    "load_dense",
    "load_masks",
    "mask_parameter",
    "no_dead",
    "one_shot",
    "outputs_alive",
    "permuted",
    "prune",
    "read_masks",
    "rewind",
    "save_masks",
    "set_masks",
    "shrink",
    "snapshot",
    "static",
    "strategy",
    "to_torch",
    "util",
]
