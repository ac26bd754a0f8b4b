"""Products of mixed number types: real kernels refuse them, fake ones do not."""

from __future__ import annotations

from ..errors import InputError
from .graph import OpGraph
from .opgraph import Ref

# name of the op: positions of the two factors
_FACTORS = {
    "mm": (0, 1), "bmm": (0, 1), "mv": (0, 1), "dot": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2), "addbmm": (1, 2),
    "addmv": (1, 2), "convolution": (0, 1),
}  # fmt: skip


def check_products(graph: OpGraph) -> None:
    """InputError for a product that fails when the model runs: an int64 image, an input for half weights."""
    for op in graph.ops:
        places = _FACTORS.get(op.name)
        if places is None:
            continue
        left, right = (op.args[p] for p in places)
        if not (isinstance(left, Ref) and isinstance(right, Ref)):
            continue
        kinds = [graph.values[ref.id].dtype for ref in (left, right)]
        if kinds[0] == kinds[1]:
            continue
        path = graph.calls[op.call].path
        where = f"in module {path!r}" if path else "in the model's own forward"
        names = " by ".join(str(kind).removeprefix("torch.") for kind in kinds)
        raise InputError(
            f"{op.name} {where} multiplies {names}, which fails when the model runs: pass an input of the dtype of the "
            "weights (example_input.to(dtype)), or convert the model"
        )
