"""Reports as HTML: well-formed, self-contained, escaped."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from deepstruct.metrics.base import MetricValue, Skipped
from deepstruct.report import Report, compare

VOID = {"meta", "link", "br", "hr", "img", "input"}
EVIL = "<script>alert('x')</script>\"&"


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def test_the_page_holds_the_report(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    html = report.to_html(path)
    assert path.read_text(encoding="utf-8") == html
    page = Page(html)
    for part in ("Net", "path_count", "1,234,567", "-0.4142 *", "skipped", "padding makes no edges", "fc2",
                 "one sample of the batch counts", "needs about 4 GiB", "Source: folklore"):  # fmt: skip
        assert part in page.text, part
    assert any(tag == "td" and f"{3**300} (operator)" == a.get("title") for tag, a in page.tags)
    assert "charset" in dict(page.tags)["meta"] or any("charset" in a for t, a in page.tags if t == "meta")


def test_the_page_loads_nothing(report: Report) -> None:
    page = Page(report.to_html())
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "embed"}
    assert all(key not in ("src", "href") for _, attributes in page.tags for key in attributes)
    assert "url(" not in report.to_html()
    assert len(report.to_html()) < 20_000


def test_everything_is_escaped() -> None:
    report = Report(
        EVIL,
        [
            MetricValue(EVIL, EVIL, "graph", EVIL, EVIL, source=EVIL, definition=EVIL, note=EVIL),
            MetricValue("layer_" + EVIL, EVIL, "layer", {EVIL: 1}, EVIL),
            MetricValue("n", EVIL, "node", np.zeros(2), EVIL),
        ],
        [Skipped(EVIL, EVIL, EVIL)],
        {EVIL: EVIL},
        [EVIL],
    )
    for html in (
        report.to_html(),
        report._repr_html_(),
        report[EVIL]._repr_html_(),
        report.layers(EVIL)._repr_html_(),
        compare([report, report])._repr_html_(),
    ):
        page = Page(html)
        assert not any(tag == "script" for tag, _ in page.tags)
        assert EVIL in page.text
    titles = [attributes["title"] for tag, attributes in Page(report.to_html()).tags if "title" in attributes]
    assert titles == [f"{EVIL} ({EVIL}): exact; {EVIL}"]


def test_how_a_value_was_found_is_told(report: Report) -> None:
    page = Page(report.to_html())
    titles = [attributes["title"] for _, attributes in page.tags if "title" in attributes]
    assert "15.25 (operator): not exact; did not converge; residual 0.001" in titles
    assert "-0.4142 (igraph): not exact; Louvain" in titles
    assert "radius (zeroth): not exact; did not converge; residual 0.001" in page.text


def test_null_models_have_a_table() -> None:
    rows = [
        MetricValue("a", "zeroth", "graph", 5, "x", null_mean=3.0, null_std=0.5, z=4.0, null_samples=7),
        MetricValue("b", "zeroth", "graph", 5, "x", null_mean=5.0, null_std=0.0, z=float("nan"), null_samples=7),
    ]
    page = Page(Report("Net", rows).to_html())
    assert "Net: against null models" in page.text
    assert "null_mean" in page.text
    assert "1 of them have no z-score: the note of the row says why" in page.text
    assert "null_mean" not in Report("Net", [MetricValue("a", "zeroth", "graph", 5, "x")]).to_html()


def test_a_notebook_gets_a_fragment(report: Report) -> None:
    html = report._repr_html_()
    Page(html)
    assert "<html" not in html
    assert html.startswith('<div class="deepstruct">')


def test_the_empty_report() -> None:
    page = Page(Report("Net", []).to_html())
    assert "No graph-scope metrics were computed." in page.text
    assert "Nothing was skipped." in page.text
