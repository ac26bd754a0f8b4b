"""Measures the zoo and writes docs/coverage.md: `python docs/generate_coverage.py [--only WORD] [--again] [--page]`.

Each architecture runs in a process of its own, with a limit of memory and of time; what became of it goes into
docs/coverage.jsonl at once, so a run that was stopped goes on where it was. `--again` measures anew what is there
(with `--failed`: what failed), `--seconds` stops after that time, `--page` only writes the page.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import pkgutil
import resource
import signal
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).with_name("coverage.md")
RESULTS = Path(__file__).with_name("coverage.jsonl")
ORDERS = ("zeroth", "first", "second", "third")
SKIP = ("__main__", "_masked", "_graph")  # of our modules: what is no module of Python's, or runs when imported
LIBRARIES = ("torchvision", "timm", "transformers", "by hand")

Result = dict[str, Any]

HEAD = """\
# Coverage

What `deepstruct.analyze` does with {total} architectures: every family of torchvision and timm, and model types of
transformers, built from configurations with random weights and made small, and models written by hand to be
awkward. This page is made by `python docs/generate_coverage.py` from `docs/coverage.jsonl`; the architectures are
in `tests/zoo/`, and a sample of them runs with the tests.

Analysed at an order means: traced, wired, and measured at that order by passes over the operators: numbers of nodes
and edges by kind, effective nodes and edges, path counts, longest path. Contained means: for
random output elements, every source element with a non-zero derivative (double precision, random weights, smooth
stand-ins for operations that hide edges) is connected to it by a path of the zeroth-order graph. As it was means:
state, attributes, flags, caches and random generators after the analysis are those from before.

"""


def load() -> dict[str, Result]:
    """Name -> the latest result."""
    if not RESULTS.exists():
        return {}
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines() if line.strip()]
    return {row["name"]: row for row in rows}


def save(results: dict[str, Result]) -> None:
    """The results, sorted, one a line."""
    text = "".join(json.dumps(results[name], sort_keys=True) + "\n" for name in sorted(results))
    RESULTS.write_text(text)


# -- one architecture in a process of its own


def run_apart(kind: Any, seconds: int, gigabytes: float) -> Result:
    """Measure in a child process, which ends at the limits; the reason is the result then."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _child(kind, write, seconds, gigabytes)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    if data:
        result: Result = json.loads(data)
        return result
    number = os.waitstatus_to_exitcode(status)
    late = -number in (signal.SIGXCPU, signal.SIGKILL)
    why = f"more than {seconds} s of processor time" if late else f"the process ended with {number}"
    library = kind.library or "by hand"
    return {"name": kind.name, "library": library, "orders": {}, "errors": {"process": why}, "parameters": 0}


def _child(kind: Any, write: int, seconds: int, gigabytes: float) -> None:
    from tests.zoo.measure import measure

    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    used = _memory("VmSize")
    limit = int(used + gigabytes * (1 << 30))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = _memory("VmRSS")
    try:
        result = measure(kind)
    except BaseException as error:
        text = " ".join(str(error).split())[:400]
        result = {"name": kind.name, "library": kind.library or "by hand", "orders": {}, "parameters": 0}
        result["errors"] = {"model": f"{type(error).__name__}: {text}"}
    result["megabytes"] = max(round((_memory("VmHWM") - before) / (1 << 20)), 1)
    with os.fdopen(write, "wb") as pipe:
        pipe.write(json.dumps(result).encode())
    os._exit(0)


def _memory(what: str) -> int:
    """Bytes, from the kernel's own account of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) << 10
    return 0


def measure_all(options: argparse.Namespace) -> None:
    """Everything that is asked for and not there yet."""
    from deepstruct.progress import progress_bar

    kinds = prepared()
    results = load()
    todo = [k for k in kinds if all(word in k.name for word in options.only) and _wanted(results.get(k.name), options)]
    end = time.monotonic() + options.seconds
    gc.freeze()
    with progress_bar("coverage") as tick:
        for done, kind in enumerate(todo):
            if time.monotonic() > end:
                print(f"{len(todo) - done} are left: run it again", file=sys.stderr)
                break
            if tick is not None:
                tick(kind.name, done, len(todo))
            result = run_apart(kind, options.limit, options.gigabytes)
            if tick is None or result["errors"]:
                print(kind.name, result.get("seconds", ""), result["errors"] or "", flush=True)
            with RESULTS.open("a") as file:
                file.write(json.dumps(result, sort_keys=True) + "\n")
    names = {k.name for k in kinds}
    save({name: row for name, row in load().items() if name in names})


def prepared() -> list[Any]:
    """The whole zoo, with its libraries imported, so that each process finds them."""
    import importlib

    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    from tests.zoo.everything import everything
    from tests.zoo.registry import require

    kinds = everything()
    for library in sorted({k.library for k in kinds if k.library}):
        require(library)
    package = importlib.import_module("deepstruct")
    own = [m.name for m in pkgutil.walk_packages(package.__path__, "deepstruct.")]
    own = [name for name in own if name.rpartition(".")[2] not in SKIP]
    for module in ("transformers.modeling_utils", "transformers.models.llama.modeling_llama", *own):
        importlib.import_module(module)
    return kinds


def _wanted(row: Result | None, options: argparse.Namespace) -> bool:
    if row is None:
        return True
    failed = bool(row["errors"]) or row.get("contained") is not True
    return options.again or (options.failed and failed)


# -- the page


def page(results: Iterable[Result]) -> str:
    """The text of the page."""
    rows = sorted(results, key=lambda r: (LIBRARIES.index(r["library"]), r["name"]))
    parts = [HEAD.format(total=len(rows)), _totals(rows)]
    failures = [r for r in rows if r["errors"] or r.get("contained") is not True]
    parts.append("\n## What fails, and what could not be asked\n\n| architecture | where | why |\n|---|---|---|\n")
    for row in failures:
        for where, why in row["errors"].items():
            parts.append(f"| {row['name']} | {where} | {_cell(why)} |\n")
        if isinstance(row.get("contained"), str):
            parts.append(f"| {row['name']} | oracle not run | {_cell(row['contained'])} |\n")
    if not failures:
        parts.append("| none | | |\n")
    parts.append(_skipped(rows))
    for library in LIBRARIES:
        mine = [r for r in rows if r["library"] == library]
        if mine:
            parts.append(_table(library, mine))
    return "".join(parts)


def _totals(rows: Sequence[Result]) -> str:
    def share(what: str, count: int, of: int) -> str:
        return f"| {what} | {count} of {of} ({100 * count / max(of, 1):.1f} %) |\n"

    n = len(rows)
    asked = [r for r in rows if isinstance(r.get("contained"), bool)]
    lines = [share(f"analysed at {order} order", sum(order in r["orders"] for r in rows), n) for order in ORDERS]
    lines += [
        share("contained, where the oracle can be asked", sum(r["contained"] for r in asked), len(asked)),
        share("and no path beyond the derivative's", sum(bool(r.get("equal")) for r in asked), len(asked)),
        share("left as it was", sum(bool(r.get("untouched")) for r in rows), n),
        share("traced with fake tensors (else with real ones)", sum(r.get("trace") == "fake" for r in rows), n),
    ]
    total = sum(r.get("seconds", 0) for r in rows)
    lines.append(f"| processor time of one thread, all together | {total / 60:.0f} minutes |\n")
    return "| | |\n|---|---|\n" + "".join(lines)


def _skipped(rows: Sequence[Result]) -> str:
    """Metrics that have no value somewhere, and how often."""
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        for order, found in row["orders"].items():
            for name in found["skipped"]:
                counts[order, name] = counts.get((order, name), 0) + 1
    if not counts:
        return ""
    lines = ["\n## Metrics that were skipped\n\n| order | metric | architectures |\n|---|---|---|\n"]
    lines += [f"| {order} | `{name}` | {count} |\n" for (order, name), count in sorted(counts.items())]
    return "".join(lines)


def _table(library: str, rows: Sequence[Result]) -> str:
    head = (
        f"\n## {library}\n\n"
        "| architecture | parameters | orders | units | edges | layers | cells | seconds | MB | contained |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(_row(r) for r in rows)


def _row(row: Result) -> str:
    orders = row["orders"]
    done = "".join(str(k) if order in orders else "-" for k, order in enumerate(ORDERS))
    zeroth, second, third = (orders.get(o, {}) for o in ("zeroth", "second", "third"))
    contained = {True: "yes", False: "NO"}.get(row.get("contained", ""), "-")  # type: ignore[call-overload]
    cells = [
        row["name"], f"{row['parameters']:,}", done, _number(zeroth.get("nodes")), _number(zeroth.get("edges")),
        _number(second.get("nodes")), _number(third.get("nodes")), row.get("seconds", "-"), row.get("megabytes", "-"),
        contained,
    ]  # fmt: skip
    return "| " + " | ".join(str(c) for c in cells) + " |\n"


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def current() -> str:
    """The page for the results that are there."""
    return page(load().values())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], help="words that a name has to have")
    parser.add_argument("--again", action="store_true", help="measure what is there too")
    parser.add_argument("--failed", action="store_true", help="measure again what failed")
    parser.add_argument("--page", action="store_true", help="write the page only")
    parser.add_argument("--seconds", type=float, default=1e9, help="start nothing new after that time")
    parser.add_argument("--limit", type=int, default=90, help="seconds of processor time per architecture")
    parser.add_argument("--gigabytes", type=float, default=5, help="memory per architecture, beyond the libraries")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if not options.page:
        measure_all(options)
    PAGE.write_text(current())
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
