"""Choosing between two plugins that offer the same thing."""

from __future__ import annotations

import pytest

from deepstruct import hookimpl
from deepstruct.errors import PluginError
from deepstruct.plugin import Host, Offer, resolve
from deepstruct.structure.rules.base import Rule


class Thing:
    def __init__(self, priority: int | None = None) -> None:
        if priority is not None:
            self.priority = priority


def offer(distribution: str, priority: int | None = None, builtin: bool = False) -> Offer[Thing]:
    return Offer(Thing(priority), distribution, distribution, "1.0", builtin)


def test_the_highest_priority_wins() -> None:
    low, high = offer("a"), offer("b", 5)
    assert resolve([low, high], "nn.Linear") is high


def test_a_plugin_goes_before_what_is_built_in() -> None:
    builtin, plugin = offer("deepstruct", builtin=True), offer("a")
    assert builtin.priority == -100
    assert offer("deepstruct", -100, builtin=True).priority == -100
    assert offer("deepstruct", 3, builtin=True).priority == -97
    assert resolve([builtin, plugin], "nn.Linear") is plugin


def test_equal_offers_are_a_conflict_that_names_both_and_the_way_out() -> None:
    with pytest.raises(PluginError) as error:
        resolve([offer("acme"), offer("other")], "nn.Linear")
    message = str(error.value)
    assert "nn.Linear" in message
    assert "acme 1.0 and other 1.0" in message
    assert "prefer='acme'" in message
    assert "DEEPSTRUCT_PLUGINS=-acme" in message


def test_equal_offers_of_one_distribution() -> None:
    with pytest.raises(PluginError, match=r"offered 2 times at priority 0 by acme 1\.0"):
        resolve([offer("acme"), offer("acme")], "nn.Linear")


@pytest.mark.parametrize("prefer", ["other", "Other", ["none", "other"], {"nn.Linear": "other", "nn.Conv2d": "acme"}])
def test_prefer_decides(prefer) -> None:
    other = offer("other")
    assert resolve([offer("acme"), other], "nn.Linear", prefer) is other


def test_prefer_goes_before_priority() -> None:
    builtin = offer("deepstruct", builtin=True)
    assert resolve([offer("acme", 10), builtin], "nn.Linear", "deepstruct") is builtin


def test_prefer_for_another_key_does_not_decide() -> None:
    with pytest.raises(PluginError):
        resolve([offer("acme"), offer("other")], "nn.Linear", {"nn.Conv2d": "other"})


def test_no_offer() -> None:
    with pytest.raises(PluginError, match=r"no plugin offers nn\.Linear"):
        resolve([], "nn.Linear")


def test_the_registry_says_once_that_a_plugin_replaces_ours(capsys) -> None:
    class Plugin:
        def __init__(self) -> None:
            self.rule = Rule("add", lambda builder, node: None)

        @hookimpl
        def deepstruct_rules(self, ctx):
            return [self.rule]

    plugin = Plugin()
    registry = Host([("acme", plugin)], entry_points=False).registry()
    ours = registry.rules[-1]
    for _ in range(3):
        assert registry.resolve([ours, plugin.rule], "nn.Linear") is plugin.rule
    lines = [line for line in capsys.readouterr().err.splitlines() if "nn.Linear" in line]
    assert len(lines) == 1
    assert "acme" in lines[0]
