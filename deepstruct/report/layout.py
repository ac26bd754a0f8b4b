"""Where the nodes and edges of a layered drawing go: igraph's Sugiyama layout, folded into columns.

Sugiyama's method (K. Sugiyama, S. Tagawa, M. Toda: Methods for Visual Understanding of Hierarchical System
Structures, 1981) puts every node below what it reads and orders each rank so that few edges cross. A deep
network is one long strip then; it is cut where few edges pass, and the pieces stand side by side.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Layout:
    """Places in units of ranks (down) and of nodes (across).

    Attributes:
        nodes: (x, y) of every node; y grows downwards.
        routes: for every edge the pieces that it is drawn in, each a list of points from source to target; an
            edge between two columns has two pieces, the first leaving one column and the second entering the other.
        folded: for every edge whether it passes from one column to another.
        columns: number of columns.
        width, height: extent, in the same units.
    """

    nodes: list[Point]
    routes: list[list[list[Point]]]
    folded: list[bool]
    columns: int
    width: float
    height: float


def layered(count: int, edges: Sequence[tuple[int, int]], columns: int | None, aspect: float = 0.35) -> Layout:
    """The layout of `count` nodes; edges that close a cycle are drawn against the direction of the others.

    Args:
        columns: into how many columns the ranks are cut; None chooses so that the picture is about as wide as high.
        aspect: height of a rank over the width of a node, for that choice.
    """
    import igraph

    if count == 0:
        return Layout([], [], [], 1, 0.0, 0.0)
    forward = [(a, b) if a <= b else (b, a) for a, b in edges]  # nodes are numbered in the order of the graph
    rank = _ranks(count, forward)
    places: list[Point] = [(0.0, 0.0)] * count
    bends: list[list[Point]] = [[] for _ in edges]
    # One connected part at a time: given several, igraph 1.0.0 takes the bends of most from where none are.
    parts = igraph.Graph(count, forward).connected_components()
    inside: list[list[int]] = [[] for _ in parts]
    for edge, (a, _) in enumerate(forward):
        inside[parts.membership[a]].append(edge)
    start = 0.0
    for part, own in zip(parts, inside, strict=True):
        place = {node: k for k, node in enumerate(part)}
        graph = igraph.Graph(len(part), [(place[a], place[b]) for a, b in (forward[e] for e in own)], directed=True)
        drawn = graph.layout_sugiyama(layers=[rank[node] for node in part], hgap=1, vgap=1, maxiter=200)
        for node, (x, y) in zip(part, drawn.coords, strict=True):
            places[node] = (start + x, float(y))
        for edge, inner in zip(own, drawn.edge_routing, strict=True):
            bends[edge] = [(start + x, float(y)) for x, y in inner]
        start = 1 + max(x for x, _ in (*(places[node] for node in part), *(p for edge in own for p in bends[edge])))
    paths = [[places[a], *inner, places[b]] for (a, b), inner in zip(forward, bends, strict=True)]
    paths = [path if a <= b else path[::-1] for path, (a, b) in zip(paths, edges, strict=True)]
    return _fold(places, rank, paths, columns, aspect)


def _ranks(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The length of the longest path to each node, but no node earlier than just before what reads it first."""
    rank, before = [0] * count, defaultdict(list)
    for a, b in edges:
        if a != b:
            before[b].append(a)
    for node in range(count):
        rank[node] = max((rank[a] + 1 for a in before[node]), default=0)
    first_reader: dict[int, int] = {}
    for a, b in edges:
        if a != b:
            first_reader[a] = min(rank[b], first_reader.get(a, rank[b]))
    for node, reader in first_reader.items():
        if not before[node]:  # a late input stands where it is used
            rank[node] = max(rank[node], reader - 1)
    return rank


def _fold(
    places: list[Point], rank: Sequence[int], paths: list[list[Point]], columns: int | None, aspect: float
) -> Layout:
    depth = max(rank) + 1
    left = min(min(x for x, _ in path) for path in [places, *paths])
    width = max(max(x for x, _ in path) for path in [places, *paths]) - left + 1
    if columns is None:
        columns = max(1, round((depth * aspect / width) ** 0.5))
    cuts = _cuts(depth, paths, min(columns, depth))
    column_of = [sum(y >= cut for cut in cuts) for y in range(depth)]
    starts = [0, *cuts]

    def moved(point: Point, column: int) -> Point:
        return point[0] - left + column * (width + 0.6), point[1] - starts[column]

    nodes = [moved(point, column_of[round(point[1])]) for point in places]
    routes, folded = [], []
    for path in paths:
        here = column_of[round(path[0][1])]
        pieces = [[moved(path[0], here)]]
        for point in path[1:]:
            column = column_of[round(point[1])]
            if here != column:  # leave at the bottom, enter at the top
                down = column > here
                edge = starts[max(here, column)]
                x = pieces[-1][-1][0] - here * (width + 0.6)
                pieces[-1].append((x + here * (width + 0.6), edge - starts[here] - (0.35 if down else -0.35)))
                pieces.append([(x + column * (width + 0.6), edge - starts[column] - (0.65 if down else -0.65))])
            here = column
            pieces[-1].append(moved(point, column))
        routes.append(pieces)
        folded.append(len(pieces) > 1)
    height = max(b - a for a, b in zip(starts, [*cuts, depth], strict=True))
    return Layout(nodes, routes, folded, len(starts), len(starts) * (width + 0.6) - 0.6, float(height))


def _cuts(depth: int, paths: list[list[Point]], columns: int) -> list[int]:
    """The ranks at which columns begin: near equal parts, where the fewest edges pass."""
    passing = [0] * (depth + 1)
    for path in paths:
        first, last = sorted((round(path[0][1]), round(path[-1][1])))
        for r in range(first + 1, last + 1):
            passing[r] += 1
    cuts: list[int] = []
    for k in range(1, columns):
        ideal, reach = depth * k / columns, depth / columns / 4
        here = [r for r in range(1, depth) if abs(r - ideal) <= max(reach, 1) and r > (cuts[-1] if cuts else 0)]
        if here:
            cuts.append(min(here, key=lambda r: (passing[r], abs(r - ideal))))
    return cuts
