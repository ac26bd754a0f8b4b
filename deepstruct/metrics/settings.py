"""The keys of `analyze(settings=...)`, and the check that what a caller passes is one of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from deepstruct.errors import InputError
from deepstruct.metrics.base import Setting

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "max_operations",
        "5e9 for igraph, 2e8 for networkx",
        "elementary steps that one metric may take on the explicit graph; what needs more is skipped",
    ),
    Setting("max_iterations", 300, "applications of the graph's map that an iterative metric may take"),
    Setting("tolerance", "1e-7", "relative residual at which an iterative metric stops"),
    Setting("iteration_seed", 0, "of the random start of iterative metrics, and of random probes"),
    Setting("probes", 8, "random vectors of metrics that estimate a trace (spectral moments and densities)"),
    Setting("density_bins", 21, "bins that spectral densities are told in"),
    Setting("max_degree_classes", 64, "induced regular subgraphs per layer that iterative Ramanujan bounds look at"),
    Setting("katz_alpha", "0.9 / spectral radius", "attenuation of Katz centrality"),
    Setting("pagerank_damping", 0.85, "damping of PageRank"),
    Setting("samples", 64, "nodes that sampled metrics start from (all of them, where there are no more than that)"),
    Setting("sample_seed", 0, "of the choice of those nodes"),
    Setting(
        "nodes", "all inputs (or outputs)",
        "ids of the nodes that descendants, ancestors and distance_from_nodes start from",
    ),
    Setting("hyperball_log2m", 6, "2 to this power registers of one byte for each node in HyperBall"),
    Setting("removal_fractions", "0.1, 0.2, ..., 0.9", "shares of the hidden nodes that attack curves take out"),
    Setting("removal_repeats", 8, "random orders that attack curves are averaged over"),
    Setting("removal_seed", 0, "of these random orders"),
    Setting(
        "partition", "layer",
        'groups of the metrics "..._of_partition": "layer" (a space of units), "module" (the top-level module that '
        'created the unit), "channel", or one whole number for each node',
    ),
    Setting("top", 10, "edges, or weights of a layer, that rankings by paths list"),
    Setting(
        "batch", "the example input",
        "tensor (or one tensor for each input) with samples along the first axis, that activation_strength averages "
        "over",
    ),
    Setting("clusters", 12, "groups that the spectral clustering of clusterability looks for"),
    Setting(
        "max_floods", 2000,
        "components that are flooded one by one, where attention scores are implicit, before the operator analyzer "
        "gives up",
    ),
)


def known_settings(contributions: Iterable[Any] = ()) -> dict[str, Setting]:
    """Every setting by name: ours, and those that metrics and analyzers of plugins declare as `settings`."""
    known = {setting.name: setting for setting in SETTINGS}
    for item in contributions:
        for setting in getattr(item, "settings", ()):
            known.setdefault(setting.name, setting)
    return known


def check_settings(settings: Mapping[str, Any], contributions: Iterable[Any] = ()) -> None:
    """Raise InputError for a key that nothing reads, with the nearest ones that something does."""
    known = known_settings(contributions)
    problems = []
    for name in settings:
        if name not in known:
            close = difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(sorted(known))}"
            problems.append(f"unknown setting {name!r}: {hint}")
    if problems:
        raise InputError("; ".join(problems))
