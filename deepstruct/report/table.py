"""A table of a report: rows as dicts, printable, convertible to a pandas frame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from deepstruct.errors import MissingExtraError

if TYPE_CHECKING:
    import pandas


class Table(Sequence[dict[str, Any]]):
    """Rows (dict column -> value) under named columns, and notes below.

    A value that a row does not have is None in `column` and in the frame, and shown as "-".
    """

    def __init__(
        self,
        columns: Iterable[str],
        rows: Iterable[Mapping[str, Any]],
        title: str = "",
        notes: Iterable[str] = (),
    ) -> None:
        self.columns = list(columns)
        self.rows = [dict(row) for row in rows]
        self.title = title
        self.notes = list(notes)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        return self.rows[index]

    def column(self, name: str) -> list[Any]:
        """The values of one column. Raises KeyError for a column that the table does not have."""
        if name not in self.columns:
            raise KeyError(f"no column {name!r}; columns: {', '.join(self.columns)}")
        return [row.get(name) for row in self.rows]

    def to_frame(self) -> pandas.DataFrame:
        """A pandas DataFrame. Raises MissingExtraError when pandas is not installed."""
        return frame(self.rows, self.columns)

    def __repr__(self) -> str:
        from deepstruct.report.text import table_text

        return table_text(self)

    def _repr_html_(self) -> str:
        from deepstruct.report.html import table_html

        return table_html(self)


class Conventions(dict[str, str]):
    """What the numbers of a report mean: topic -> convention."""

    def __repr__(self) -> str:
        from deepstruct.report.text import listed

        return "\n".join(listed(self)) or "(no conventions recorded)"


def frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pandas.DataFrame:
    """A DataFrame of these rows; integers of any length stay exact (as objects)."""
    try:
        import pandas
    except ImportError as error:
        raise MissingExtraError("to_frame() needs pandas: pip install 'deepstruct[frame]'") from error
    return pandas.DataFrame({name: _series([row.get(name) for row in rows]) for name in columns})


def _series(values: list[Any]) -> pandas.Series:
    import pandas

    whole = all(type(value) is int and abs(value) < 2**63 for value in values)
    real = all(type(value) in (int, float) or value is None for value in values)
    small = all(not isinstance(value, int) or abs(value) < 2**53 for value in values)
    if whole and values:
        return pandas.Series(values, dtype="int64")
    if real and small and any(type(value) is float for value in values):
        return pandas.Series(values, dtype="float64")
    return pandas.Series(values, dtype="object")
