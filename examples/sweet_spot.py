"""The sweet spot of relational graphs, recomputed on MNIST (You et al. 2020).

Each hidden layer of a multilayer perceptron is one round of message exchange on a graph of 64 nodes: units are dealt
out to the nodes, and read those of their neighbors. Graphs between rings and complete ones (WS-flex) are binned by
average clustering C and path length L, and each network is trained. The article finds the best ones away from both the
ring and the complete graph, for C in .10 to .50 and L in 1.82 to 2.75.
"""

from __future__ import annotations

import networkx as nx
import torch
from common import arguments, fit, mean, mlp, mnist, picture, table

from deepstruct import pruning as P
from deepstruct.graph import message_exchange_mask, relational_graph

NODES = 64


def main() -> None:
    options = arguments(__doc__, seeds=1)
    width, epochs, size = (64, 1, (600, 400)) if options.quick else (128, 5, (4000, 1000))
    degrees = (4, 16) if options.quick else (3, 4, 6, 8, 12, 16, 24, 32, 48)
    rewired = (0.0, 0.3) if options.quick else (0.0, 0.03, 0.1, 0.3, 1.0)
    graphs = [("complete", nx.complete_graph(NODES))]
    for degree in degrees:
        for p in rewired:
            graph = relational_graph(NODES, degree, p, seed=0)
            if nx.is_connected(graph):
                graphs.append((f"degree {degree}, rewired {p}", graph))
    rows = []
    for k, (name, graph) in enumerate(graphs, 1):
        accuracies = [trained(graph, width, epochs, size, seed) for seed in range(options.seeds)]
        clustering, length = nx.average_clustering(graph), nx.average_shortest_path_length(graph)
        rows.append((name, clustering, length, nx.density(graph), mean(accuracies)))
        print(f"{k} of {len(graphs)}: {name}: {rows[-1][-1]:.4f}", flush=True)
    rows.sort(key=lambda row: -row[-1])
    header = ("graph", "clustering C", "path length L", "density", "accuracy")
    table(header, rows if options.quick else rows[:15])
    sweet = [row for row in rows if 0.1 <= row[1] <= 0.5 and 1.82 <= row[2] <= 2.75]
    whole = next(row for row in rows if row[0] == "complete")
    if sweet:
        elsewhere = mean(row[-1] for row in rows if row not in sweet)
        print(f"\nmean accuracy of the {len(sweet)} in the published sweet spot: {mean(r[-1] for r in sweet):.4f}")
        print(f"elsewhere: {elsewhere:.4f}; complete graph: {whole[-1]:.4f}")

    def draw(axes) -> None:
        from matplotlib.patches import Rectangle

        points = axes.scatter([r[1] for r in rows], [r[2] for r in rows], c=[r[-1] for r in rows], s=60)
        axes.add_patch(Rectangle((0.1, 1.82), 0.4, 0.93, fill=False, ls="--"))
        axes.set(xlabel="average clustering C", ylabel="average path length L", title="Accuracy of relational graphs")
        axes.figure.colorbar(points, label="accuracy on the test images")

    picture(options.out / "sweet_spot.png", draw)


def trained(graph: nx.Graph, width: int, epochs: int, size: tuple[int, int], seed: int) -> float:
    """Accuracy of a perceptron with four rounds of exchange on a graph; the widths make up for its density."""
    dense = (width / NODES) * NODES * width
    share = (2 * graph.number_of_edges() + NODES) / NODES**2
    # as in the article, networks of equal cost are compared: sparser ones are wider
    units = max(NODES, round((dense / share) ** 0.5)) if share < 1 else width
    model = mlp((784, units, units, units, 10), seed)
    exchange = torch.from_numpy(message_exchange_mask(graph, units, units))
    P.set_masks(model, {"2.weight": exchange, "4.weight": exchange})
    return fit(model, mnist(seed, *size), epochs, seed=seed)


if __name__ == "__main__":
    main()
