"""The graphs of the table, and how a time is taken: shared with the environment of the original."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import networkx as nx

BATCH, INPUTS, OUTPUTS = 64, 64, 10
CASES = [("ws", 100, 4), ("ws", 500, 8), ("ws", 1000, 8), ("ws", 2000, 8), ("random", 5000, 100_000)]


def make(kind: str, nodes: int, parameter: int) -> nx.Graph:
    """Watts-Strogatz with `parameter` neighbours and p=0.5, or a random graph with that many edges."""
    if kind == "ws":
        return nx.watts_strogatz_graph(nodes, parameter, 0.5, seed=1)
    return nx.gnm_random_graph(nodes, parameter, seed=1)


def best(work: Callable[[], Any], enough: float = 1.0, most: int = 20) -> float:
    """Least processor time of up to `most` runs, in seconds, after one that does not count."""
    work()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < enough and len(times) < most):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)
