"""How the weights of a network changed over two or more checkpoints, as an object to print, save and plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from deepstruct.metrics.dynamics import DEFINITIONS, LayerDrift
from deepstruct.report.table import Table

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Drift:
    """What `deepstruct.drift` returns.

    Attributes:
        labels: of the checkpoints, in order.
        steps: for each pair of neighbors, layer -> how it changed.
        rates: layer -> share of its weights that were a connection at any time (Liu et al. 2021).
        rate: the same over all layers.
        unmatched: what could not be compared, and why.
        conventions: what the numbers mean.
    """

    labels: tuple[str, ...]
    steps: tuple[Mapping[str, LayerDrift], ...]
    rates: Mapping[str, float]
    rate: float
    unmatched: tuple[str, ...] = ()
    conventions: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, layer: str) -> LayerDrift:
        """The change of one layer from the first checkpoint to the second."""
        return self.steps[0][layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rates)

    def __len__(self) -> int:
        return len(self.rates)

    def table(self) -> Table:
        """One row per pair of neighboring checkpoints and layer, and one over all layers ("(all)") per pair."""
        several = len(self.steps) > 1
        rows: list[dict[str, Any]] = []
        for step, layers in enumerate(self.steps):
            head = {"step": f"{self.labels[step]} > {self.labels[step + 1]}"} if several else {}
            rows += [{**head, "layer": name, **asdict(found), "explored": self.rates[name]}
                     for name, found in layers.items()]  # fmt: skip
            rows.append({**head, "layer": "(all)", **overall(list(layers.values())), "explored": self.rate})
        columns = [*(["step"] if several else []), "layer", *DEFINITIONS, "explored"]
        return Table(columns, rows, " > ".join(self.labels), self.unmatched)

    def to_frame(self) -> pandas.DataFrame:
        """The table as a pandas DataFrame. Raises MissingExtraError without pandas."""
        return self.table().to_frame()

    def to_dict(self) -> dict[str, Any]:
        """Everything, as dicts, lists, strings and numbers that JSON can hold."""
        from deepstruct.report.serial import plain

        return {
            "labels": list(self.labels),
            "steps": [{name: plain(asdict(found)) for name, found in layers.items()} for layers in self.steps],
            "explored": dict(self.rates), "explored_total": self.rate, "unmatched": list(self.unmatched),
            "conventions": dict(self.conventions),
        }  # fmt: skip

    def __repr__(self) -> str:
        from deepstruct.report.text import listed

        return "\n".join([repr(self.table()), "", "Columns", *listed(self.conventions)])

    def _repr_html_(self) -> str:
        from html import escape

        terms = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in self.conventions.items())
        return f"{self.table()._repr_html_()}<details><summary>Columns</summary><dl>{terms}</dl></details>"


def overall(layers: Sequence[LayerDrift]) -> dict[str, Any]:
    """Connections of all layers together: what their counts alone say; other columns stay empty."""
    before, after = sum(x.before for x in layers), sum(x.after for x in layers)
    both = sum(round(x.survival * x.before) for x in layers if x.survival is not None)
    either = before + after - both
    return {
        "before": before, "after": after, "survival": both / before if before else None,
        "jaccard": both / either if either else 1.0,
    }  # fmt: skip
