"""The original deepstruct's network over a graph, in its own environment (see ../peers.py).

    python peer_dan.py FOLDER KIND NODES PARAMETER

Builds the model of a graph (see graphs.py), times it, and writes result.json and model.pt into FOLDER.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from graphs import BATCH, INPUTS, OUTPUTS, best, make

np.float, np.int = float, int  # type: ignore[attr-defined]  # names that numpy dropped, before the import
warnings.simplefilter("ignore")

from deepstruct.graph import CachedLayeredGraph  # noqa: E402
from deepstruct.sparse import MaskedDeepDAN  # noqa: E402


def main(folder: Path, kind: str, nodes: int, parameter: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sys.setrecursionlimit(100_000)
    graph = make(kind, nodes, parameter)
    structure = CachedLayeredGraph()
    structure.add_nodes_from(graph.nodes)
    structure.add_edges_from(graph.edges)
    start = time.process_time()
    model = MaskedDeepDAN(INPUTS, OUTPUTS, structure)
    build = time.process_time() - start
    x = torch.randn(BATCH, INPUTS)
    with torch.no_grad():
        out = model(x)
        forward = best(lambda: model(x))

    def both() -> None:
        model.zero_grad()
        model(x).sum().backward()

    result = {"build": build, "forward": forward, "both": best(both)}
    (folder / "result.json").write_text(json.dumps(result))
    torch.save({"state": model.state_dict(), "x": x, "out": out}, folder / "model.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
