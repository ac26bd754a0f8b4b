"""One architecture, all orders, the oracle, and whether the model is as it was: what the page on coverage tells."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from deepstruct.errors import DeepstructError
from deepstruct.testing import OracleError
from tests.zoo.registry import Architecture
from tests.zoo.untouched import changes, facts

ORDERS = ("zeroth", "first", "second", "third")
METRICS = (
    "nodes", "edges", "weight_edges", "structural_edges", "effective_nodes", "effective_edges", "path_count_log10",
    "longest_path",
)  # fmt: skip
NOT_RUN = ("not finite", "no output element", "nothing to differentiate by")  # of the oracle's errors: no contradiction

Result = dict[str, Any]


def measure(
    kind: Architecture, *, orders: Sequence[str] = ORDERS, metrics: Sequence[str] = METRICS, outputs: int = 2
) -> Result:
    """What became of an architecture, as JSON would have it.

    Keys: `name`, `library`, `parameters`, `trace` (fake or real), `orders` (name -> nodes, edges, skipped metrics),
    `seconds` (processor time of trace, structure and metrics), `contained` (True, False, or a reason why it could
    not be asked), `equal` (whether the oracle found no superfluous path), `errors` (stage -> reason), `untouched`.

    Args:
        metrics: names of metrics, each at every order.
        outputs: how many output elements the oracle looks at; 0 leaves it out.
    """
    result: Result = {"name": kind.name, "library": kind.library or "by hand", "orders": {}, "errors": {}}
    model, example = kind.make()
    result["parameters"] = sum(p.numel() for p in model.parameters())
    before = facts(model)
    start = time.process_time()
    _analyse(model, example, orders, metrics, result)
    result["seconds"] = round(time.process_time() - start, 2)
    left = changes(before, facts(model))
    result["untouched"] = not left
    if left:
        result["errors"]["untouched"] = "; ".join(left[:3])
    if outputs and result["orders"]:
        result["contained"] = kind.oracle or _contained(model, example, outputs, result)
    return result


def _analyse(model: Any, example: Any, orders: Sequence[str], metrics: Sequence[str], result: Result) -> None:
    import deepstruct

    try:
        base = deepstruct.extract(model, example, progress=False)
    except (DeepstructError, MemoryError) as error:
        result["errors"]["structure"] = _reason(error)
        return
    result["trace"] = base.context.trace.mode
    for order in orders:
        try:
            report = deepstruct.analyze(base, orders=order, metrics=metrics, progress=False, max_memory=4 << 30)
            nodes, edges = report[order]["nodes"], int(report[order]["edges"])
        except (DeepstructError, MemoryError) as error:
            result["errors"][order] = _reason(error)
            continue
        result["orders"][order] = {
            "nodes": nodes, "edges": edges,
            "skipped": sorted({s.name for s in report.skipped if s.order == order}),
        }


def _contained(model: Any, example: Any, outputs: int, result: Result) -> bool | str:
    from deepstruct.testing import check_vjp

    try:
        probes = check_vjp(model, example, outputs=outputs)
    except OracleError as error:
        if any(words in str(error) for words in NOT_RUN):
            return _reason(error)
        result["errors"]["oracle"] = _reason(error)
        return False
    except (DeepstructError, MemoryError, RuntimeError, NotImplementedError) as error:
        return f"the replay does not run: {_reason(error)}"
    result["equal"] = all(p.equal for p in probes)
    if not any(p.depends_on for p in probes):
        return "the outputs that were looked at depend on no source"
    return True


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:400]}"
