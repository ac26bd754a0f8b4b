"""check_plugin: named checks of everything that a plugin owes, run alone, beside nothing but what is built in."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deepstruct.errors import PluginError
from deepstruct.plugin import Host, PluginSettings
from deepstruct.testing.contract import CHECKS, METRIC_PREFIX, PluginUnderTest, applies, check_one_metric
from deepstruct.testing.support import OracleError

PluginLike = Any | tuple[str, Any]


@dataclass(frozen=True)
class PluginCheck:
    """One check of one plugin; calling it runs it. Raises OracleError when the plugin does not pass."""

    plugin: PluginLike
    name: str
    options: Mapping[str, Any]

    def __call__(self) -> None:
        with PluginUnderTest(*_named(self.plugin)) as subject:
            if self.name.startswith(METRIC_PREFIX):
                metric = self.name.removeprefix(METRIC_PREFIX)
                check_one_metric(subject, metric, dict(self.options.get(metric, {})))
            else:
                CHECKS[self.name](subject)

    def __repr__(self) -> str:
        return f"{_named(self.plugin)[0]}: {self.name}"


def plugin_checks(plugin: PluginLike, metrics: Mapping[str, Mapping[str, Any]] | None = None) -> list[PluginCheck]:
    """The checks that apply to a plugin: those of all plugins, those of its hooks, and one for each metric.

    `plugin` is a module, an object, a class without arguments, a pair (name, object), or the name of an
    installed plugin. `metrics` gives options of `check_metric` by the name of the metric.
    """
    name, candidate = _named(plugin)
    hooks, offered = _what_it_has(name, candidate)
    chosen = [check for check in CHECKS if applies(check, hooks)] + [f"{METRIC_PREFIX}{m}" for m in offered]
    return [PluginCheck((name, candidate), check, dict(metrics or {})) for check in chosen]


def check_plugin(
    plugin: PluginLike,
    *,
    expected_failures: Mapping[str, str] | None = None,
    metrics: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, str]:
    """Runs every check that applies to a plugin.

    Args:
        expected_failures: check -> why it fails; one that passes all the same is a failure.
        metrics: options of `check_metric`, by the name of the metric.

    Returns:
        check -> "passed" or "expected: reason". Raises OracleError that lists every check that failed.
    """
    expected = dict(expected_failures or {})
    checks = plugin_checks(plugin, metrics)
    _known(expected, checks)
    outcome: dict[str, str] = {}
    problems = []
    for check in checks:
        try:
            check()
        except Exception as error:
            if check.name in expected:
                outcome[check.name] = f"expected: {expected[check.name]}"
            else:
                problems.append(f"{check.name}: {type(error).__name__}: {error}")
        else:
            outcome[check.name] = "passed"
            if check.name in expected:
                problems.append(f"{check.name}: passes, though a failure is expected ({expected[check.name]})")
    if problems:
        failed = "\n  ".join(problems)
        raise OracleError(f"plugin {checks[0].plugin[0]}: {len(problems)} of {len(checks)} checks failed:\n  {failed}")
    return outcome


def parametrize_with_plugin_checks(
    plugins: Iterable[PluginLike],
    *,
    expected_failures: Mapping[str, str] | None = None,
    metrics: Mapping[str, Mapping[str, Any]] | None = None,
) -> Any:
    """A pytest decorator that runs a test once for each check of each plugin, as the argument `check`.

    ::

        @parametrize_with_plugin_checks([plugin], expected_failures={"metric slow_one": "it samples"})
        def test_plugin(check):
            check()

    Checks in `expected_failures` are marked as strict expected failures with the reason.
    """
    import pytest

    expected = dict(expected_failures or {})
    every = [check for plugin in plugins for check in plugin_checks(plugin, metrics)]
    _known(expected, every)
    parameters = []
    for check in every:
        reason = expected.get(check.name)
        marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]
        parameters.append(pytest.param(check, id=repr(check).replace(": ", "-").replace(" ", "-"), marks=marks))
    return pytest.mark.parametrize("check", parameters)


def _known(expected: Mapping[str, str], checks: list[PluginCheck]) -> None:
    names = [check.name for check in checks]
    unknown = sorted(set(expected) - set(names))
    if unknown:
        raise OracleError(f"expected_failures names {unknown}; the checks are {', '.join(dict.fromkeys(names))}")


def _named(plugin: PluginLike) -> tuple[str, Any]:
    if isinstance(plugin, tuple):
        return str(plugin[0]), plugin[1]
    if isinstance(plugin, str):
        from deepstruct.plugin.discovery import installed

        found = [candidate for candidate in installed() if plugin in (candidate.name, candidate.distribution)]
        if not found:
            raise PluginError(f"no installed plugin is called {plugin!r}")
        return found[0].name, found[0].load()
    name = getattr(plugin, "__name__", type(plugin).__name__)
    return str(name).rpartition(".")[2] if str(name).rpartition(".")[2] != "plugin" else str(name), plugin


def _what_it_has(name: str, plugin: Any) -> tuple[set[str], list[str]]:
    """Its hooks and the names of its metrics, as far as it works."""
    host = Host([(name, plugin)], entry_points=False, builtins=False, settings=PluginSettings(), stream=io.StringIO())
    (record,) = host.records()
    hooks = set(record.hooks)
    return hooks, list(dict.fromkeys(metric.name for metric in host.registry().metrics))
