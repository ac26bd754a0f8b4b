"""Which analyzer serves a metric, and what is said when none can."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from deepstruct.analyzers.select import analyze_graph
from deepstruct.errors import CapacityError, MetricError
from deepstruct.metrics.base import AnalysisContext, Measured, Metric


def one(pair: tuple[list[Any], list[Any]]) -> Any:
    (value,), skipped = pair
    assert skipped == []
    return value


def reason(pair: tuple[list[Any], list[Any]]) -> str:
    values, (skipped,) = pair
    assert values == []
    return skipped.reason


def boom(view: Any) -> int:
    raise ZeroDivisionError("division by zero")


class Recording:
    """An analyzer ahead of the built-in ones that counts what is asked of it."""

    def __init__(
        self, bytes: int = 0, missing: str | None = None, error: BaseException | None = None
    ) -> None:
        self.name, self.priority = "early", 5
        self.bytes, self.missing, self.error, self.prepared = bytes, missing, error, 0

    def available(self) -> str | None:
        return self.missing

    def estimate(self, graph: Any) -> int:
        return self.bytes

    def prepare(self, graph: Any, context: AnalysisContext) -> Any:
        self.prepared += 1
        if self.error is not None:
            raise self.error
        return graph


def test_the_standard_panel_by_priority(graph: Any, registry: Any) -> None:
    values, skipped = analyze_graph(graph, registry=registry)
    assert skipped == []
    found = {value.name: value for value in values}
    assert found["path_count"].value == 24
    assert {value.analyzer for value in values} == {"igraph"}
    assert not {"min_vertex_cut", "betweenness"} & found.keys(), "costly, or one value per node: on request"
    assert found["edges"].provider == "deepstruct 1.0"
    assert found["edges"].definition
    assert found["betweenness_mean"].seconds > 0
    assert graph.asked == 1, "the view is prepared once"


def test_all_adds_what_is_not_in_the_panel(graph: Any, registry: Any) -> None:
    values, skipped = analyze_graph(graph, "all", registry=registry)
    names = [value.name for value in values] + [line.name for line in skipped]
    assert "min_vertex_cut" in names
    assert len(names) == len(set(names))
    assert set(names) == {metric.name for metric in registry.metrics}


def test_a_named_analyzer_works_alone(graph: Any, registry: Any) -> None:
    values, _ = analyze_graph(graph, analyzer="networkx", registry=registry)
    assert {value.analyzer for value in values} == {"networkx"}


def test_metrics_of_other_orders_are_no_part_of_the_panel(graph: Any, registry: Any) -> None:
    registry.add(Metric("cells", "igraph", lambda view: 1, orders=("third",)))
    values, skipped = analyze_graph(graph, registry=registry)
    assert all(row.name != "cells" for row in [*values, *skipped])
    told = reason(analyze_graph(graph, ["cells"], registry=registry))
    assert "not offered at order zeroth" in told
    assert "third" in told


def test_a_named_analyzer_that_does_not_offer_the_metric(graph: Any, registry: Any) -> None:
    registry.add(Metric("cells", "igraph", lambda view: 1))
    told = reason(analyze_graph(graph, ["cells"], "networkx", registry=registry))
    assert "(networkx)" in told
    assert "offered by igraph" in told


@pytest.mark.parametrize(("asked", "hint"), [("path_cuont", "path_count"), ("densty", "density")])
def test_unknown_metrics_list_close_names(graph: Any, registry: Any, asked: str, hint: str) -> None:
    with pytest.raises(MetricError, match=f"unknown metric '{asked}': did you mean .*{hint}"):
        analyze_graph(graph, ["edges", asked], registry=registry)


def test_a_single_name_is_a_list_of_one(graph: Any, registry: Any) -> None:
    assert one(analyze_graph(graph, "edges", registry=registry)).value == 18
    with pytest.raises(MetricError, match="unknown metric 'egdes'"):
        analyze_graph(graph, "egdes", registry=registry)


def test_unknown_analyzers_list_the_known_ones(graph: Any, registry: Any) -> None:
    with pytest.raises(MetricError, match="unknown analyzer 'igrahp': did you mean igraph"):
        analyze_graph(graph, analyzer="igrahp", registry=registry)


def test_an_analyzer_that_cannot_run(graph: Any, registry: Any) -> None:
    early = Recording(missing="the package fastgraph is not installed")
    registry.analyzers.append(early)
    registry.add(Metric("edges", "early", lambda view: -1))
    value = one(analyze_graph(graph, ["edges"], registry=registry))
    assert (value.value, value.analyzer) == (18, "igraph")
    assert "early: the package fastgraph is not installed" in value.note
    assert early.prepared == 0
    with pytest.raises(MetricError, match="'early' cannot run here: the package fastgraph"):
        analyze_graph(graph, analyzer="early", registry=registry)


def test_a_broken_metric_costs_only_itself(graph: Any, registry: Any) -> None:
    registry.add(Metric("broken", "igraph", boom))
    values, skipped = analyze_graph(graph, ["nodes", "broken", "edges"], registry=registry)
    assert [value.name for value in values] == ["nodes", "edges"]
    (line,) = skipped
    assert line.name == "broken"
    assert line.reason.startswith("failed: ZeroDivisionError: division by zero")
    assert "acme-metrics 0.3" in line.reason


def test_a_metric_that_exits_costs_only_itself(graph: Any, registry: Any) -> None:
    registry.add(Metric("exits", "igraph", lambda view: sys.exit(3)))
    values, skipped = analyze_graph(graph, ["exits", "edges"], registry=registry)
    assert [value.name for value in values] == ["edges"]
    assert "SystemExit" in skipped[0].reason


def test_ctrl_c_still_stops(graph: Any, registry: Any) -> None:
    def interrupted(view: Any) -> int:
        raise KeyboardInterrupt

    registry.add(Metric("slow", "igraph", interrupted))
    with pytest.raises(KeyboardInterrupt):
        analyze_graph(graph, ["slow"], registry=registry)


def test_an_undefined_metric_gives_its_reason(graph: Any, registry: Any) -> None:
    def undefined(view: Any) -> int:
        raise MetricError("needs two layers")

    registry.add(Metric("odd", "igraph", undefined))
    assert reason(analyze_graph(graph, ["odd"], registry=registry)) == "needs two layers"


def test_acyclic_metrics_on_a_cyclic_graph(make_graph: Any, registry: Any) -> None:
    values, skipped = analyze_graph(make_graph(is_dag=False), ["path_count", "edges"], registry=registry)
    assert [value.name for value in values] == ["edges"]
    assert "the graph has a cycle" in skipped[0].reason


def test_what_does_not_fit_falls_to_the_next_analyzer(graph: Any, registry: Any) -> None:
    early = Recording(bytes=10**9)
    registry.analyzers.append(early)
    registry.add(Metric("edges", "early", lambda view: -1))
    context = AnalysisContext(max_memory=10**8)
    value = one(analyze_graph(graph, ["edges"], context=context, registry=registry))
    assert value.value == 18
    assert "early: needs about 954 MiB, more than the budget of 95.4 MiB" in value.note
    assert early.prepared == 0


def test_what_fits_nowhere_is_skipped_with_the_estimate(make_graph: Any, registry: Any) -> None:
    graph = make_graph(num_edges=10**9)
    context = AnalysisContext(max_memory=10**8)
    values, skipped = analyze_graph(graph, ["edges", "diameter"], context=context, registry=registry)
    assert values == []
    assert graph.asked == 0
    assert skipped[0].estimate_bytes == registry.analyzers[1].estimate(graph)
    assert "igraph: needs about" in skipped[0].reason
    assert "networkx: needs about" in skipped[0].reason


def test_an_edge_list_that_turns_out_too_large(make_graph: Any, registry: Any) -> None:
    graph = make_graph(edge_bytes=10**7)
    context = AnalysisContext(max_memory=10**6)
    values, skipped = analyze_graph(graph, ["edges", "nodes"], context=context, registry=registry)
    assert values == []
    assert all("the edge list needs 10000000 bytes" in line.reason for line in skipped)
    assert skipped[0].estimate_bytes is not None
    assert graph.asked == 2, "once for each analyzer, not once for each metric"


def test_a_metric_that_is_too_much_work(make_graph: Any, registry: Any) -> None:
    graph = make_graph(num_nodes=9, num_edges=18)
    limited = AnalysisContext(settings={"max_operations": 100})
    told = reason(analyze_graph(graph, ["diameter"], context=limited, registry=registry))
    assert "takes about 4e+02 steps" in told
    assert "max_operations" in told
    assert graph.asked == 0
    assert one(analyze_graph(graph, ["diameter"], registry=registry)).value == 2


def test_the_limit_of_each_analyzer_holds_where_nothing_is_set(make_graph: Any, registry: Any) -> None:
    graph = make_graph(num_nodes=10**4, num_edges=10**5)  # 2e9 steps: fine for igraph, not for networkx
    told = reason(analyze_graph(graph, ["diameter"], "networkx", registry=registry))
    assert "limit of 2e+08" in told


def test_a_metric_that_runs_out_of_room_while_it_runs(graph: Any, registry: Any) -> None:
    def large(view: Any) -> int:
        raise CapacityError("needs a table of 9 TiB")

    registry.add(Metric("edges", "igraph", large))
    value = one(analyze_graph(graph, ["edges"], registry=registry))
    assert (value.analyzer, value.value) == ("networkx", 18)
    assert value.note == "igraph: needs a table of 9 TiB"


def test_a_broken_analyzer_is_told_once_and_the_next_one_serves(graph: Any, registry: Any) -> None:
    early = Recording(error=RuntimeError("no device"))
    registry.analyzers.append(early)
    registry.foreign[id(early)] = "acme-analyzer 2.0"
    registry.add(Metric("edges", "early", lambda view: -1))
    registry.add(Metric("nodes", "early", lambda view: -1))
    values, skipped = analyze_graph(graph, ["edges", "nodes"], registry=registry)
    assert [value.value for value in values] == [18, 9]
    (line,) = skipped
    assert (line.name, line.kind) == ("early", "plugin")
    assert line.reason == "failed: RuntimeError: no device (analyzer from acme-analyzer 2.0)"
    assert early.prepared == 1


def test_the_first_offer_of_a_name_stands(graph: Any, registry: Any) -> None:
    registry.add(Metric("edges", "igraph", lambda view: 17), provider="acme-metrics 0.3")
    value = one(analyze_graph(graph, ["edges"], registry=registry))
    assert (value.value, value.provider) == (17, "acme-metrics 0.3")


def test_an_iterative_metric_says_how_it_went(graph: Any, registry: Any) -> None:
    result = Measured(1.5, exact=False, residual=1e-3, converged=False, note="stopped after 10 rounds")
    registry.add(Metric("radius", "igraph", lambda view: result))
    value = one(analyze_graph(graph, ["radius"], registry=registry))
    assert (value.value, value.exact, value.residual, value.converged) == (1.5, False, 1e-3, False)
    assert value.note == "stopped after 10 rounds"


@pytest.mark.parametrize(
    ("given", "expected"),
    [(np.int64(3), 3), (np.float32(0.5), 0.5), (np.array(4), 4), (True, True), (10**40, 10**40)],
)
def test_values_become_plain_numbers(graph: Any, registry: Any, given: Any, expected: Any) -> None:
    registry.add(Metric("m", "igraph", lambda view: given))
    value = one(analyze_graph(graph, ["m"], registry=registry)).value
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("scope", "given", "told"),
    [
        ("graph", float("nan"), "not finite"),
        ("graph", float("inf"), "not finite"),
        ("graph", None, "failed: TypeError: a plain number"),
        ("graph", [1, 2], "failed: TypeError: a plain number"),
        ("layer", 3, "a layer-scope metric gives a mapping"),
        ("layer", {"fc": float("nan")}, "not finite (nan) in layer fc"),
        ("node", [1, 2, 3], "one entry for each of 9 nodes"),
        ("node", ["x"] * 9, "an array of numbers"),
    ],
)
def test_values_that_a_report_cannot_keep(
    graph: Any, registry: Any, scope: Any, given: Any, told: str
) -> None:
    registry.add(Metric("m", "igraph", lambda view: given, scope=scope))
    assert told in reason(analyze_graph(graph, ["m"], registry=registry))


def test_layer_values(graph: Any, registry: Any) -> None:
    registry.add(Metric("m", "igraph", lambda view: {"fc": np.int64(3), "out": None}, scope="layer"))
    assert one(analyze_graph(graph, ["m"], registry=registry)).value == {"fc": 3, "out": None}


def test_progress_is_told(graph: Any, registry: Any) -> None:
    told: list[tuple[str, int, int]] = []
    analyze_graph(graph, ["nodes", "edges"], registry=registry, progress=lambda *step: told.append(step))
    assert told == [("nodes", 0, 2), ("edges", 1, 2)]
