"""The front door: `analyze` a model, or `extract` its graph."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

from deepstruct.errors import InputError, PluginError

if TYPE_CHECKING:
    from torch import nn

    from deepstruct.report import Report
    from deepstruct.structure.graph import StructureGraph

Progress = Callable[[str, int, int], None]
ORDERS = ("zeroth", "first", "second", "third")
_OPTIONS = {"first": ("unit",), "third": ("depth", "partition")}


def analyze(
    model: nn.Module | StructureGraph,
    example_input: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    orders: Sequence[str] | str = ORDERS,
    metrics: Iterable[str] | Literal["all"] | None = None,
    analyzer: str = "auto",
    threshold: float = 0.0,
    density: float | None = None,
    normalization: Literal["one_to_one", "stats"] = "one_to_one",
    attention: Literal["implicit", "units"] = "implicit",
    max_memory: int = 2 << 30,
    max_seconds: float | None = None,
    null: int | None = None,
    null_seed: int = 0,
    on_unknown: Literal["error", "dense"] = "error",
    unit: Literal["channel", "head"] = "channel",
    depth: int = 2,
    partition: Mapping[str, str] | Callable[[Any], str] | None = None,
    prefer: Any = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | bool | None = None,
) -> Report:
    """Graph metrics of a model at the orders asked for.

    Args:
        model: any `nn.Module`, in evaluation mode where batch norm is in it; or a StructureGraph.
        example_input: a tensor, a tuple of positional arguments, or a dict of keyword arguments. None looks
            for one on the model. Of a batch, the first sample counts.
        example_kwargs: further keyword arguments.
        orders: of "zeroth" (units), "first" (channels), "second" (layers), "third" (cells).
        metrics: None for the standard panel, "all", or names of the catalogue.
        analyzer: "auto", or "operator", "igraph", "networkx", or one of a plugin.
        threshold: a weight is an edge when its magnitude is above this.
        density: keep only this fraction of all weights, the largest magnitudes.
        normalization: "one_to_one", or "stats" for one statistics unit per group.
        attention: "implicit": scores are counted as units without being stored one by one; or "units": each has a
            slot of its own, which a few metrics need and say so.
        max_memory: bytes that one analyzer's view of a graph may take; what needs more is skipped, with its
            estimate.
        max_seconds: what one metric may take (None: no limit); one that takes longer is skipped, with the
            seconds spent, or hands back what it has. Passes and iterations ask for it as they go; a single
            call of a library runs to its end.
        null: compare graph-scope metrics with this many null models (at least 2): the same weights at random
            places in every layer. Each costs what the metrics cost, once more.
        null_seed: of the random numbers of the null models.
        on_unknown: "error", or "dense" to wire an op without a rule all to all, and say so.
        unit, depth, partition: of the first and third order, see `StructureGraph.quotient`.
        prefer: which plugin wins where two offer the same: a distribution, or target -> distribution.
        settings: for analyzers, such as {"max_operations": 1e9}; docs/settings.md lists them.
        progress: True or False for a progress bar on stderr (None: on a terminal), or a function of
            (what, done, total).

    Raises:
        DeepstructError: with what, where and what to do. The model is left as it was.
    """
    from deepstruct.analyzers.null import against_null, ground
    from deepstruct.analyzers.select import analyze_graph
    from deepstruct.metrics.base import AnalysisContext, Skipped
    from deepstruct.metrics.settings import check_settings
    from deepstruct.plugin.current import get_host
    from deepstruct.progress import reporting
    from deepstruct.report import Report
    from deepstruct.structure.graph import StructureGraph

    chosen = _orders(orders)
    registry = get_host().registry()
    if settings is not None and not isinstance(settings, Mapping):
        kind = type(settings).__name__
        raise InputError(f'settings is of type {kind}; pass a dict, such as {{"max_operations": 1e9}}')
    check_settings(settings or {}, [*registry.analyzers, *registry.metrics])
    _check_preferences(prefer)
    context = AnalysisContext(_budget(max_memory), dict(settings or {}), _seconds(max_seconds))
    samples = _samples(null)
    options = {"unit": unit, "depth": depth, "partition": partition}
    with reporting("analyze", progress) as tick:
        if isinstance(model, StructureGraph):
            if example_input is not None or example_kwargs or threshold or density is not None:
                raise InputError(
                    "a StructureGraph is analysed as it is: an example input, threshold= and density= shape the graph "
                    "when it is made (deepstruct.extract)"
                )
            graphs = _given(model, (model.order,) if orders is ORDERS else chosen, options)
        else:
            graphs = _graphs(
                model, example_input, example_kwargs, chosen, registry, tick,
                _settings(threshold, density, normalization, attention, on_unknown, prefer), options,
            )  # fmt: skip
        base = ground(next(iter(graphs.values()))) if samples else None
        rows, skipped = [], []
        for graph in graphs.values():
            values, missing = analyze_graph(
                graph, metrics, analyzer, context, registry=registry, progress=tick, prefer=prefer
            )
            rows += values
            skipped += missing
        if base is not None:
            rows = against_null(
                rows, base, lambda below, order: _above(below, order, registry, options),
                lambda graph, names: analyze_graph(
                    graph, names, analyzer, context, registry=registry, prefer=prefer
                )[0],
                samples=samples, seed=null_seed, progress=tick,
            )  # fmt: skip
    last = next(reversed(graphs.values()))
    skipped += [
        Skipped(op, "zeroth", f"in module {path!r}: no rule, wired all to all (on_unknown='dense')", "layer")
        for op, path in dict.fromkeys(last.unknown)
    ]
    for record in get_host().records():
        if record.state not in ("ok", "disabled"):
            skipped.append(Skipped(record.name, "", record.error or record.state, "plugin"))
    asked = {
        "orders": list(graphs), "analyzer": analyzer, "threshold": threshold, "density": density,
        "normalization": normalization, "attention": attention, "max_memory": context.max_memory,
        "max_seconds": context.max_seconds,
        "null": samples or None, "null_seed": null_seed if samples else None, "settings": dict(context.settings),
    }  # fmt: skip
    conventions: dict[str, str] = {}
    notes: dict[str, None] = {}
    for graph in graphs.values():
        conventions.update(graph.conventions)
        notes.update(dict.fromkeys(graph.notes))
        notes.update(dict.fromkeys(_rules_of_plugins(graph)))
    return Report(last.name, rows, skipped, conventions, list(notes), graphs, asked)


def _rules_of_plugins(graph: StructureGraph) -> list[str]:
    """A note for each plugin whose structure rules the graph was read with."""
    found: dict[str, list[str]] = {}
    for rule, provider in graph.providers.items():
        if provider and provider.split(" ")[0] != "deepstruct":
            found.setdefault(provider, []).append(rule)
    return [f"structure rules of {provider}: {', '.join(sorted(rules))}" for provider, rules in sorted(found.items())]


def _above(base: StructureGraph, order: str, registry: Any, options: Mapping[str, Any]) -> StructureGraph:
    """The graph of an order from the zeroth-order graph of a model."""
    if order == "zeroth":
        return base
    trace, settings = base.context.trace, base.context.settings
    mine = {k: v for k, v in options.items() if k in _OPTIONS.get(order, ())}
    made: StructureGraph = _order(order, registry, settings.prefer).build(
        trace, settings, registry, None, below=base, **mine
    )
    return made


def _given(graph: StructureGraph, orders: Sequence[str], options: Mapping[str, Any]) -> dict[str, StructureGraph]:
    """A graph that the caller has, and its quotients at the higher orders asked for."""
    found: dict[str, StructureGraph] = {}
    for order in orders:
        if order == graph.order:
            found[order] = graph
            continue
        if order not in ORDERS or graph.order not in ORDERS or ORDERS.index(order) < ORDERS.index(graph.order):
            raise InputError(f"a graph of {graph.order} order has no {order} order: that is below it")
        found[order] = graph.quotient(order, **{k: options[k] for k in _OPTIONS.get(order, ())})
    return found


def extract(
    model: nn.Module,
    example_input: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    order: str = "zeroth",
    threshold: float = 0.0,
    density: float | None = None,
    normalization: Literal["one_to_one", "stats"] = "one_to_one",
    attention: Literal["implicit", "units"] = "implicit",
    on_unknown: Literal["error", "dense"] = "error",
    unit: Literal["channel", "head"] = "channel",
    depth: int = 2,
    partition: Mapping[str, str] | Callable[[Any], str] | None = None,
    prefer: Any = None,
    progress: Progress | bool | None = None,
) -> StructureGraph:
    """The graph of a model at one order. Arguments and errors as for `analyze`."""
    from deepstruct.plugin.current import get_host
    from deepstruct.progress import reporting

    (wanted,) = _orders((order,))
    _check_preferences(prefer)
    with reporting("extract", progress) as tick:
        graphs = _graphs(
            model, example_input, example_kwargs, (wanted,), get_host().registry(), tick,
            _settings(threshold, density, normalization, attention, on_unknown, prefer),
            {"unit": unit, "depth": depth, "partition": partition},
        )  # fmt: skip
    return graphs[wanted]


def _graphs(
    model: Any, example_input: Any, example_kwargs: Mapping[str, Any] | None, orders: Sequence[str], registry: Any,
    progress: Progress | None, settings: Any, options: Mapping[str, Any],
) -> dict[str, StructureGraph]:  # fmt: skip
    """One trace, one reading at zeroth order, and the higher orders from that."""
    from torch import nn

    from deepstruct.sample import one_sample
    from deepstruct.structure.orders.zeroth import ZerothOrder
    from deepstruct.trace import trace
    from deepstruct.trace.inputs import Arguments, as_arguments, find_example_input

    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module (or a StructureGraph), got {type(model).__name__}")
    _check_weights(model)
    if example_input is None and not example_kwargs:
        arguments = find_example_input(model)
    else:
        arguments = as_arguments(() if example_input is None else example_input, example_kwargs)

    _check_samples(model, arguments)

    def record(args: Arguments) -> Any:
        return trace(model, tuple(args[0]), example_kwargs=args[1])

    if progress is not None:
        progress("trace", 0, 1)
    zeroth = _order("zeroth", registry, settings.prefer)
    whole, note = one_sample(arguments, record, lambda t: ZerothOrder().build(t, settings, registry))
    recorded = record(whole)
    if note:
        recorded.notes.append(note)
    base = zeroth.build(recorded, settings, registry, progress)
    graphs: dict[str, StructureGraph] = {}
    for order in orders:
        if order == "zeroth":
            graphs[order] = base
            continue
        if progress is not None:
            progress(f"{order} order", 0, 1)
        mine = {k: v for k, v in options.items() if k in _OPTIONS.get(order, ())}
        graphs[order] = _order(order, registry, settings.prefer).build(
            recorded, settings, registry, progress, below=base, **mine
        )
    return graphs


def _order(name: str, registry: Any, prefer: Any) -> Any:
    """The transformer that the plugins offer for an order."""
    offers = [order for order in registry.orders if order.name == name]
    if not offers:
        known = ", ".join(order.name for order in registry.orders) or "none"
        raise PluginError(f"no plugin offers the order {name!r} (known: {known})")
    return registry.resolve(offers, f"order {name}", prefer)


def _orders(orders: Sequence[str] | str) -> tuple[str, ...]:
    from deepstruct.plugin.current import get_host

    if not isinstance(orders, (str, list, tuple, set, frozenset)):
        kind = type(orders).__name__
        raise InputError(f"orders is of type {kind}; pass names of orders, such as ('zeroth', 'first')")
    chosen = tuple(dict.fromkeys((orders,) if isinstance(orders, str) else orders))
    known = [order.name for order in get_host().registry().orders]
    unknown = [order for order in chosen if order not in known]
    if unknown or not chosen:
        what = f"unknown order {unknown[0]!r}" if unknown else "no order was asked for"
        raise InputError(f"{what}: choose from {', '.join(known)}")
    return chosen


def _settings(
    threshold: float, density: float | None, normalization: Any, attention: Any, on_unknown: Any, prefer: Any
) -> Any:
    from deepstruct.structure.settings import Settings

    return Settings(
        threshold=threshold, density=density, normalization=normalization, attention=attention,
        on_unknown=on_unknown, prefer=prefer,
    )  # fmt: skip


def _budget(max_memory: Any) -> int:
    if not isinstance(max_memory, Real) or isinstance(max_memory, bool) or not float(max_memory) > 0:
        raise InputError(f"max_memory must be a positive number of bytes, got {max_memory!r}")
    return 1 << 62 if max_memory == float("inf") else int(float(max_memory))


def _seconds(max_seconds: Any) -> float | None:
    if max_seconds is None or max_seconds == float("inf"):
        return None
    if not isinstance(max_seconds, Real) or isinstance(max_seconds, bool) or not float(max_seconds) > 0:
        raise InputError(f"max_seconds must be a positive number of seconds, or None, got {max_seconds!r}")
    return float(max_seconds)


def _samples(null: Any) -> int:
    """Number of null models, 0 for none."""
    if null is None or (null == 0 and not isinstance(null, bool)):
        return 0
    if not isinstance(null, int) or isinstance(null, bool) or null < 2:
        raise InputError(f"null must be a number of null models, at least 2 (a spread takes two), got {null!r}")
    return null


def _check_preferences(prefer: Any) -> None:
    """InputError for a distribution or a key that there is not: a typing error would settle nothing."""
    from deepstruct.plugin.current import get_host
    from deepstruct.plugin.settings import normalise

    if prefer is None:
        return
    if not isinstance(prefer, (str, Mapping, Sequence)):
        raise InputError(
            f"prefer is of type {type(prefer).__name__}; pass a distribution, several in a list, or "
            "target -> distribution"
        )
    wanted = [prefer] if isinstance(prefer, str) else list(prefer.values() if isinstance(prefer, Mapping) else prefer)
    known = sorted({name for record in get_host().records() for name in (record.distribution, record.name) if name})
    normal = {normalise(name) for name in known}
    for name in wanted:
        if not isinstance(name, str) or normalise(name) not in normal:
            raise InputError(f"prefer names {name!r}, and no plugin comes from there: {_near(name, known)}")
    if isinstance(prefer, Mapping):
        registry = get_host().registry()
        keys = [f"order {order.name}" for order in registry.orders] + [rule.name for rule in registry.rules]
        keys += [f"metric {metric.name}" for metric in registry.metrics]
        keys += [f"analyzer {each.name}" for each in registry.analyzers]
        for key in prefer:
            if key not in keys and not str(key).startswith("module "):  # a class may have several names
                raise InputError(f"prefer has the key {key!r}, which nothing is offered for: {_near(key, keys)}")


def _near(name: Any, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {', '.join(close)}?"
    return f"known: {', '.join(known[:20]) or 'none'}{', ...' if len(known) > 20 else ''}"


def _check_samples(model: nn.Module, arguments: Any) -> None:
    from deepstruct.trace.inputs import named_tensors

    for name, tensor in named_tensors(model.forward, *arguments):
        if tensor.is_nested:
            raise InputError(f"input {name!r} is a nested tensor: pass one sample, as a plain tensor")
        if tensor.dim() > 0 and tensor.shape[0] == 0:
            raise InputError(f"input {name!r} of shape {tuple(tensor.shape)} holds no sample: pass at least one")


def _check_weights(model: nn.Module) -> None:
    """Weights that have no real numbers to ask whether they are zero."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_quantized:
            raise InputError(
                f"{name!r} is a quantised tensor ({tensor.dtype}): quantised weights need a plugin with rules for "
                "their layers; or analyse the model before quantisation"
            )
