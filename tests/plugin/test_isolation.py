"""A broken plugin costs one line on stderr and its own features, nothing more."""

from __future__ import annotations

import time

import pytest

from deepstruct.errors import PluginError
from deepstruct.plugin import Host, PluginSettings

GOOD = """
    from deepstruct import hookimpl

    class Reader:
        name = "good"
        safe = True
        def probe(self, path, head): return 0
        def open(self, path): return {}

    @hookimpl
    def deepstruct_checkpoint_readers(ctx):
        return [Reader()]
"""

HEAD = "from deepstruct import hookimpl\n"

BROKEN = {
    "import-error": ("import a_module_that_is_missing", "ModuleNotFoundError"),
    "missing-dependency": ("from numpy import a_name_that_numpy_lacks", "ImportError"),
    "syntax-error": ("def (:", "SyntaxError"),
    "exit-at-import": ("raise SystemExit(3)", "SystemExit: 3"),
    "base-exception": ("class Odd(BaseException): pass\nraise Odd('odd')", "Odd: odd"),
    "broken-message": (
        "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd",
        "its message cannot be shown",
    ),
    "many-lines": ("raise RuntimeError('one\\ntwo\\n' * 200)", "one two one two"),
    "wrong-api": (f"deepstruct_api = 99\n{HEAD}", "plugin API 99"),
    "odd-api": (f"deepstruct_api = 'one'\n{HEAD}", "'one'"),
    "no-hooks": ("x = 1", "implements no hook"),
    "unmarked": ("def deepstruct_metrics(ctx): return []", "not marked with @deepstruct.hookimpl"),
    "unknown-argument": (
        f"{HEAD}@hookimpl\ndef deepstruct_checkpoint_readers(ctx, folder): return []",
        "folder",
    ),
    "half-registered": (
        f"{HEAD}@hookimpl\ndef deepstruct_analyzers(ctx): return []\n"
        "@hookimpl\ndef deepstruct_rules(nonsense): return []",
        "nonsense",
    ),
    "wrapper": (
        f"{HEAD}@hookimpl(wrapper=True)\ndef deepstruct_checkpoint_readers(ctx):\n    return (yield)",
        "wrapper",
    ),
}

BROKEN_HOOKS = {
    "raises": ("raise ZeroDivisionError('in the hook')", "ZeroDivisionError: in the hook"),
    "exits": ("raise SystemExit", "SystemExit"),
    "raises-while-read": ("yield 1 / 0", "ZeroDivisionError"),
    "number": ("return 7", "a value of type int"),
    "text": ("return 'reader'", "a value of type str"),
    "list-of-rubbish": ("return [object()]", "has no name"),
    "list-of-none": ("return [None]", "plain value"),
    "class": ("return [Reader]", "which is a class"),
    "half-a-reader": ("return [Half()]", "no method open()"),
}


def readers(host: Host) -> list[str]:
    return [reader.name for reader in host.registry().readers]


def isolated(recorder, **settings) -> Host:
    return Host(builtins=False, settings=PluginSettings(**settings), stream=recorder)


@pytest.mark.parametrize("case", BROKEN)
def test_a_plugin_that_does_not_load(case, install, recorder) -> None:
    source, expected = BROKEN[case]
    install("broken", source)
    install("good", GOOD)
    host = isolated(recorder)
    assert readers(host) == ["good"]
    record = host.record("broken")
    assert (record.state, record.hooks) == ("failed", [])
    assert expected in record.error
    assert len(recorder.lines) == 1, recorder.text
    line = recorder.lines[0]
    assert "plugin broken (deepstruct-broken 1.2)" in line
    assert expected in line
    assert "deepstruct plugins --check broken" in line
    assert "DEEPSTRUCT_PLUGINS=-broken" in line
    assert len(line) < 450


@pytest.mark.parametrize("case", BROKEN_HOOKS)
def test_a_hook_that_does_not_work(case, install, recorder) -> None:
    body, expected = BROKEN_HOOKS[case]
    install(
        "broken",
        f"""
    from deepstruct import hookimpl

    class Reader:
        name = "half working"
        def probe(self, path, head): return 0
        def open(self, path): return {{}}

    class Half:
        name = "half"
        def probe(self, path, head): return 0

    class Order:
        name = "order"
        def build(self, trace, settings, registry): return None

    @hookimpl
    def deepstruct_checkpoint_readers(ctx):
        {body}

    @hookimpl
    def deepstruct_orders(ctx):
        return [Order()]
    """,
    )
    install("good", GOOD)
    host = isolated(recorder)
    assert readers(host) == ["good"]
    record = host.record("broken")
    assert record.state == "failed"
    assert expected in record.failed_hooks["deepstruct_checkpoint_readers"]
    assert len(recorder.lines) == 1
    assert "deepstruct_checkpoint_readers" in recorder.lines[0]
    # Its other hook still works, and so does the other plugin; what failed is not asked again.
    assert record.hooks == ["deepstruct_orders"]
    assert [order.name for order in host.registry().orders] == ["order"]
    assert readers(host) == ["good"]
    assert len(recorder.lines) == 1
    assert host.record("good").state == "ok"


def test_half_a_registration_is_rolled_back(install, recorder) -> None:
    install("broken", BROKEN["half-registered"][0])
    host = isolated(recorder)
    host.load()
    assert host.plugins() == []
    for hook in ("deepstruct_analyzers", "deepstruct_rules"):
        assert host.implementers(hook) == []


def test_an_unknown_hook_name_is_reported_and_the_others_work(install, recorder) -> None:
    install("typo", GOOD + "\n    @hookimpl\n    def deepstruct_metric(ctx):\n        return []\n")
    host = isolated(recorder)
    assert readers(host) == ["good"]
    record = host.record("typo")
    assert record.state == "failed"
    assert "did you mean deepstruct_metrics?" in record.error
    assert record.hooks == ["deepstruct_checkpoint_readers"]
    assert len(recorder.lines) == 1


def test_an_optional_hook_of_a_later_version_is_no_error(install, recorder) -> None:
    install(
        "early",
        GOOD + "\n    @hookimpl(optionalhook=True)\n    def deepstruct_of_tomorrow(ctx):\n        return []\n",
    )
    host = isolated(recorder)
    assert readers(host) == ["good"]
    assert host.record("early").state == "ok"
    assert recorder.lines == []


def test_keyboard_interrupt_passes(install, recorder) -> None:
    install("slow", "raise KeyboardInterrupt")
    host = isolated(recorder)
    with pytest.raises(KeyboardInterrupt):
        host.load()


def test_a_slow_plugin_is_timed(install, recorder) -> None:
    install("slow", "import time\ntime.sleep(0.2)\n" + _flat(GOOD))
    install("quick", GOOD)
    host = isolated(recorder)
    started = time.perf_counter()
    assert readers(host) == ["good", "good"]
    assert time.perf_counter() - started >= 0.2
    assert host.record("slow").seconds >= 0.2
    assert host.record("quick").seconds < 0.2


def test_two_distributions_with_one_plugin_name(install, recorder) -> None:
    install("twin", GOOD, distribution="deepstruct-a")
    install("twin", GOOD, distribution="deepstruct-b")
    host = isolated(recorder)
    assert readers(host) == ["good"]
    first, second = (r for r in host.records() if r.name == "twin")
    assert (first.distribution, first.state) == ("deepstruct-a", "ok")
    assert (second.distribution, second.state) == ("deepstruct-b", "conflict")
    assert "deepstruct-a 1.2" in second.error
    assert len(recorder.lines) == 1


def test_one_module_as_two_plugins(install, recorder) -> None:
    module = install("one", GOOD)
    install("two", GOOD, entry=module)
    host = isolated(recorder)
    assert readers(host) == ["good"]
    assert sorted(r.state for r in host.records()) == ["conflict", "ok"]


def test_a_distribution_without_metadata(install, recorder) -> None:
    install("bare", GOOD, metadata=False)
    install("good", GOOD)
    host = isolated(recorder)
    assert readers(host) == ["good", "good"]


def test_unreadable_entry_points_of_one_distribution(install, site, recorder) -> None:
    install("good", GOOD)
    info = site / "odd-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    (info / "entry_points.txt").write_bytes(b"[deepstruct.plugins]\n\xff\xfe = \xff\n")
    host = isolated(recorder)
    assert readers(host) == ["good"]
    assert host.record("odd").state == "failed"
    assert len(recorder.lines) == 1


def test_an_entry_point_may_be_a_class(install, recorder) -> None:
    module = install(
        "classy",
        """
    from deepstruct import hookimpl

    class Plugin:
        name = "classy"

        def build(self, trace, settings, registry):
            return None

        @hookimpl
        def deepstruct_orders(self, ctx):
            return [self]
    """,
        entry="plugin_deepstruct_classy_classy:Plugin",
    )
    host = isolated(recorder)
    assert [type(order).__module__ for order in host.registry().orders] == [module]
    assert recorder.lines == []


def test_strict_settings_raise(install, recorder) -> None:
    install("broken", "import a_module_that_is_missing")
    host = isolated(recorder, strict=True)
    with pytest.raises(PluginError, match=r"plugin broken \(deepstruct-broken 1\.2\).*a_module_that_is_missing"):
        host.registry()
    with pytest.raises(PluginError):  # and does so again: nothing half-loaded stays behind
        host.registry()


@pytest.mark.parametrize("case", ["wrong-api", "unknown-argument", "no-hooks"])
def test_strict_settings_name_the_plugin(case, install, recorder) -> None:
    install("broken", BROKEN[case][0])
    with pytest.raises(PluginError, match=r"^plugin broken \(deepstruct-broken 1\.2\) failed"):
        isolated(recorder, strict=True).load()


def test_strict_settings_raise_for_a_hook(install, recorder) -> None:
    install("broken", f"{HEAD}@hookimpl\ndef deepstruct_rules(ctx): return 1")
    host = isolated(recorder, strict=True)
    with pytest.raises(PluginError, match="deepstruct_rules"):
        _ = host.registry().rules


def test_a_plugin_that_analyses_while_it_loads(install, recorder) -> None:
    install("eager", "from deepstruct.plugin import get_host\nget_host().registry()\n")
    from deepstruct.plugin import use_host

    host = isolated(recorder)
    with use_host(host):
        assert host.registry().rules == []
    assert "while its plugins load" in host.record("eager").error


def _flat(source: str) -> str:
    import textwrap

    return textwrap.dedent(source)
