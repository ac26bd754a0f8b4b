"""Documents made of a report: the renderers that are built in, and finding one for a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepstruct.errors import InputError, PluginError
from deepstruct.plugin.markers import hookimpl

if TYPE_CHECKING:
    from deepstruct.report.report import Report


class TextRenderer:
    """The report as it is printed."""

    name = "text"
    suffixes = (".txt",)

    def render(self, report: Report) -> str:
        """Plain text."""
        return f"{report!r}\n"


class JsonRenderer:
    """Everything but the graphs, as `Report.from_json` reads it."""

    name = "json"
    suffixes = (".json",)

    def render(self, report: Report) -> str:
        """Strict JSON."""
        return report.to_json()


class HtmlRenderer:
    """A self-contained page."""

    name = "html"
    suffixes = (".html", ".htm")

    def render(self, report: Report) -> str:
        """A whole document."""
        return report.to_html()


@hookimpl
def deepstruct_renderers() -> list[Any]:
    """The renderers that are built in."""
    return [TextRenderer(), JsonRenderer(), HtmlRenderer()]


def render(report: Report, name: str, prefer: Any = None) -> str | bytes:
    """The document that the renderer of this name makes. Raises InputError for an unknown name.

    What a renderer of a plugin raises, or returns instead of a document, becomes a PluginError that names it.
    """
    from deepstruct.plugin.current import get_host

    registry = get_host().registry()
    known = sorted({renderer.name for renderer in registry.renderers})
    if name not in known:
        raise InputError(f"there is no renderer called {name!r}; known: {', '.join(known)}")
    renderer = registry.named("renderers", name, prefer)
    who = f"renderer {name!r} of {registry.provider_of(renderer) or 'an unknown plugin'}"
    try:
        document = renderer.render(report)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PluginError(f"{who} failed: {type(error).__name__}: {error}") from error
    if not isinstance(document, (str, bytes)):
        raise PluginError(f"{who} returned a value of type {type(document).__name__}, not text or bytes")
    return document


def save(report: Report, path: str | Path, name: str | None = None, prefer: Any = None) -> None:
    """Write a document to a file; without a name, by the renderer that claims the suffix.

    Raises InputError when no renderer claims it, or several of different names do.
    """
    from deepstruct.plugin.current import get_host

    path = Path(path)
    if name is None:
        renderers = get_host().registry().renderers
        found = sorted({r.name for r in renderers if path.suffix.lower() in r.suffixes})
        if len(found) != 1:
            what = f"{' and '.join(found)} claim" if found else "no renderer claims"
            known = ", ".join(sorted({r.name for r in renderers}))
            raise InputError(f"{what} the suffix {path.suffix!r} of {path}: name one of {known}")
        (name,) = found
    document = render(report, name, prefer)
    if isinstance(document, bytes):
        path.write_bytes(document)
    else:
        path.write_text(document, encoding="utf-8")
