"""The original deepstruct's recurrent models, in their own environment (see ../peers.py).

    python peer_recurrent.py FOLDER LAYER INPUT HIDDEN STEPS BATCH

Builds a model of one masked layer, times it, and writes result.json and model.pt into FOLDER.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from graphs import best

np.float, np.int = float, int  # type: ignore[attr-defined]  # names that numpy dropped, before the import
warnings.simplefilter("ignore")

from deepstruct import recurrent  # noqa: E402


def main(folder: Path, name: str, size: int, hidden: int, steps: int, batch: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layer = getattr(recurrent, name)
    if name != "MaskedRecurrentLayer":
        plain = layer

        def layer(*args: object, nonlinearity: object = None) -> torch.nn.Module:
            return plain(*args)

    model = recurrent.MaskedDeepRNN(size, [hidden], layer, batch_first=True)
    model.apply_mask(threshold=0.5 / hidden**0.5, i2h=True, h2h=True)
    x = torch.randn(batch, steps, size)
    with torch.no_grad():
        out = model(x)
        forward = best(lambda: model(x))

    def both() -> None:
        model.zero_grad()
        model(x).sum().backward()

    (folder / "result.json").write_text(json.dumps({"forward": forward, "both": best(both)}))
    torch.save({"state": model.state_dict(), "x": x, "out": out}, folder / "model.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))  # type: ignore[arg-type]
