"""The report: everything that an analysis measured and everything that it left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepstruct.metrics.base import ORDERS, MetricValue, Skipped
from deepstruct.report.orders import NotMeasured, OrderReport, why_not
from deepstruct.report.table import Conventions, Table, frame

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from deepstruct.structure.graph import StructureGraph

LAYER_PREFIX = "layer_"


class Report:
    """What `deepstruct.analyze` returns.

    Attributes:
        model_name: class name of the model.
        rows: every measured value, with analyzer, exactness, source and provider.
        skipped: what was not computed, and why.
        conventions: what the numbers mean; printed with every report.
        notes: remarks on this analysis.
        graphs: order -> StructureGraph; empty for a report that was loaded from a file.
        settings: what the analysis was asked for.
    """

    def __init__(
        self,
        model_name: str,
        rows: Iterable[MetricValue],
        skipped: Iterable[Skipped] = (),
        conventions: Mapping[str, str] | None = None,
        notes: Iterable[str] = (),
        graphs: Mapping[str, StructureGraph] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.model_name = model_name
        self.rows = list(rows)
        self.skipped = list(skipped)
        self.conventions = Conventions(conventions or {})
        self.notes = list(notes)
        self.graphs = dict(graphs or {})
        self.settings = dict(settings or {})

    @property
    def orders(self) -> list[str]:
        """Orders that were analyzed, the built-in ones in their own order, then those of plugins."""
        found = dict.fromkeys([*self.graphs, *(row.order for row in self.rows)])
        return [*(order for order in ORDERS if order in found), *(o for o in found if o not in ORDERS)]

    def __getitem__(self, order: str) -> OrderReport:
        """The graph-scope values of one order, by metric name. Raises NotMeasured (a KeyError)."""
        self._check(order)
        return OrderReport(self, order)

    def __contains__(self, order: object) -> bool:
        return order in self.orders

    def __iter__(self) -> Iterator[str]:
        return iter(self.orders)

    def __len__(self) -> int:
        return len(self.orders)

    def layers(self, order: str) -> Table:
        """One row per layer: its name under "layer", then the layer-scope metrics.

        Columns leave out the prefix "layer_" of the metrics' names. Empty when no such metric was asked for.
        """
        self._check(order)
        rows: dict[str, dict[str, Any]] = {}
        columns = ["layer"]
        for metric in self.rows:
            if metric.order == order and metric.scope == "layer":
                columns.append(metric.name.removeprefix(LAYER_PREFIX))
                for layer, value in metric.value.items():
                    rows.setdefault(layer, {"layer": layer})[columns[-1]] = value
        return Table(columns, rows.values(), f"{self.model_name}: layers at order {order}")

    def null_models(self) -> Table:
        """One row per value that was compared with null models: its mean and spread there, and its z-score.

        Columns "order", "metric", "value", "null_mean", "null_std", "z", "null_samples"; those that are the same
        in every null model have no z. Empty without `analyze(null=...)`.
        """
        columns = ["order", "metric", "value", "null_mean", "null_std", "z", "null_samples"]
        rows = [
            {"order": row.order, "metric": row.name, "value": row.value}
            | {column: getattr(row, column) for column in columns[3:]}
            for row in self.rows
            if row.null_samples is not None
        ]
        same = [f"{row['metric']} ({row['order']})" for row in rows if row["z"] is None or row["z"] != row["z"]]
        notes = []
        if rows:
            notes.append(
                "a null model has the same stored weights at random positions of the same layers; "
                "z = (value - null_mean) / null_std"
            )
        if same:
            notes.append(f"{len(same)} of them have no z-score: the note of the row says why")
        return Table(columns, rows, f"{self.model_name}: against null models" if rows else "", notes)

    def nodes(self, order: str, name: str) -> dict[str, npt.NDArray[np.float64]]:
        """A node-scope metric as one array per space, in the space's shape; NaN where no node is.

        Raises NotMeasured when it was not measured, or when the report was loaded without its graphs.
        """
        self._check(order)
        for row in self.rows:
            if (row.order, row.name, row.scope) == (order, name, "node"):
                if order not in self.graphs:
                    raise NotMeasured(
                        f"this report has no graph (it was loaded from a file) to place {name!r} in; "
                        "the flat vector is the value of its row in report.rows"
                    )
                return self.graphs[order].node_values_by_space(row.value)
        raise NotMeasured(why_not(self, order, name))

    def _check(self, order: str) -> None:
        if order in self:
            return
        reasons = [line.reason for line in self.skipped if line.kind == "order" and line.order == order]
        why = f": {reasons[0]}" if reasons else ""
        known = ", ".join(self.orders) or "none"
        raise NotMeasured(f"order {order!r} was not analyzed{why}; orders of this report: {known}")

    def to_dict(self) -> dict[str, Any]:
        """Everything but the graphs, as dicts, lists, strings and numbers that JSON can hold."""
        from deepstruct.report.serial import report_to_dict

        return report_to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """The report that `to_dict` described. Raises InputError when `data` is no such description."""
        from deepstruct.report.serial import report_from_dict

        return report_from_dict(data)

    def to_json(self, path: str | Path | None = None) -> str:
        """Strict JSON (integers exact at any length, no NaN); written to `path` when one is given."""
        from deepstruct.report.serial import dumps

        return _saved(dumps(self.to_dict()) + "\n", path)

    @classmethod
    def from_json(cls, path: str | Path) -> Report:
        """The report in a file that `to_json` wrote. Raises InputError when it is none."""
        from deepstruct.report.serial import loads

        return cls.from_dict(loads(Path(path).read_text(encoding="utf-8"), str(path)))

    def to_frame(self) -> pandas.DataFrame:
        """One line per graph-scope value and per layer of a layer-scope value.

        Node-scope values are left out: see `nodes`. Raises MissingExtraError without pandas.
        """
        from deepstruct.report.serial import FRAME_COLUMNS, frame_rows

        return frame(frame_rows(self), FRAME_COLUMNS)

    def to_html(self, path: str | Path | None = None) -> str:
        """A self-contained page; written to `path` when one is given."""
        from deepstruct.report.html import page

        return _saved(page(self), path)

    def render(self, renderer: str) -> str | bytes:
        """A document by the renderer of this name: "text", "json", "html", or one of a plugin.

        Raises InputError for an unknown name, PluginError when the renderer of a plugin fails.
        """
        from deepstruct.report.renderers import render

        return render(self, renderer)

    def save(self, path: str | Path, renderer: str | None = None) -> None:
        """Write a document to a file, by a renderer's name or, without one, by the suffix of the path."""
        from deepstruct.report.renderers import save

        save(self, path, renderer)

    def plot(self, path: str | Path | None = None, order: str | None = None) -> Figure:
        """Degree distributions and layers of one order (the lowest by default), as a matplotlib figure.

        Saved to `path` when one is given. Raises MissingExtraError without matplotlib.
        """
        from deepstruct.report.plots import figure

        drawing = figure(self, order)
        if path is not None:
            drawing.savefig(path)
        return drawing

    def __repr__(self) -> str:
        from deepstruct.report.text import report_text

        return report_text(self)

    def _repr_html_(self) -> str:
        from deepstruct.report.html import fragment

        return fragment(self)


def _saved(text: str, path: str | Path | None) -> str:
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text
