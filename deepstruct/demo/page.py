"""The page of a demonstration: one HTML file with the picture, the table and what it means."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from deepstruct.demo.measure import Row
from deepstruct.demo.picture import TITLES
from deepstruct.demo.table import COLUMNS, number

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933 }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin-top: 2rem }
p { max-width: 46rem } img { max-width: 100%; border: 1px solid #e4e7eb; border-radius: 6px }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #e4e7eb; white-space: nowrap }
th:first-child, td:first-child { text-align: left } th { color: #616e7c; font-weight: 600 }
dt { font-weight: 600 } dd { margin: 0 0 .5rem 1rem; color: #3e4c59 }
"""

INTRODUCTION = (
    "Two networks were trained on the 1,797 handwritten digits that scikit-learn ships and pruned by global "
    "magnitude, step by step. Every number below was read from the checkpoint files of one folder."
)


def write_page(rows: Sequence[Row], picture: Path, conventions: Mapping[str, str], path: Path) -> None:
    """Write the page; the picture is embedded, so that the file can be moved."""
    image = base64.b64encode(picture.read_bytes()).decode()
    tables = "".join(_table(model, rows) for model in dict.fromkeys(row.model for row in rows))
    meaning = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in conventions.items()
    )
    path.write_text(
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>deepstruct: pruning digits</title><style>{STYLE}</style></head><body>"
        f"<h1>Accuracy and structure as a network is pruned</h1><p>{INTRODUCTION}</p>"
        f"<img alt='Accuracy and structure over the weights left' src='data:image/png;base64,{image}'>"
        f"{tables}<h2>What the numbers mean</h2><dl>{meaning}</dl></body></html>\n",
        encoding="utf-8",
    )


def _table(model: str, rows: Sequence[Row]) -> str:
    titles = ["checkpoint", "sparsity", "accuracy", *(title for title, _, _ in COLUMNS)]
    head = "".join(f"<th>{title}</th>" for title in titles)
    body = ""
    for row in rows:
        if row.model != model:
            continue
        cells = [row.file, f"{100 * row.sparsity:.1f} %", f"{100 * row.accuracy:.1f} %"]
        cells += [number(row.value(order, name)) for _, order, name in COLUMNS]
        body += "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
    title = html.escape(TITLES.get(model, model))
    return f"<h2>{title}</h2><div class='wide'><table><tr>{head}</tr>{body}</table></div>"
