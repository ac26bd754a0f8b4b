"""Every built-in rule against the derivative of a layer that uses it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.ops import aten

from deepstruct.errors import ModelStateError, StructureError, UnknownOpError
from deepstruct.structure.rules import deepstruct_rules
from deepstruct.structure.settings import Settings
from deepstruct.testing import build_graph, check_containment, check_equality, count_paths
from deepstruct.testing.build import build_from_trace
from deepstruct.trace import trace

from .cases import CASES, Case, Fn, r

BY_NAME = {case.name: case for case in CASES}

# rules that no layer reaches on a CPU, and the tests that reach them
ELSEWHERE = {
    "op cudnn_batch_norm": "test_kernels_of_other_devices",
    "op miopen_batch_norm": "test_kernels_of_other_devices",
    "op cudnn_grid_sampler": "test_kernels_of_other_devices",
    "op _batch_norm_with_update": "test_batch_norm_in_training_is_refused",
}
_seen: set[str] = set()


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_case(case: Case) -> None:
    if not case.replay:
        graph = build_graph(case.model(), case.inputs, **case.settings)
    else:
        check = check_equality if case.equal else check_containment
        graph = check(case.model(), case.inputs, **case.settings)
    edges = graph.edge_list()
    assert edges.num_edges == graph.num_edges
    assert edges.num_nodes == graph.num_nodes
    assert not graph.unknown
    _seen.update(graph.providers)


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(CASES)
    rules = [rule.name for rule in deepstruct_rules()]
    assert len(set(rules)) == len(rules)


def test_every_rule_has_a_case() -> None:
    """A rule that no case exercises is a rule that nobody knows to be right."""
    used = set(_seen)
    if not used:  # run alone: find out again
        for case in CASES:
            used.update(build_graph(case.model(), case.inputs, **case.settings).providers)
    missing = {rule.name for rule in deepstruct_rules()} - used - set(ELSEWHERE)
    assert not missing
    assert all(test in globals() for test in ELSEWHERE.values())


def test_case_names_say_why_they_are_not_equal() -> None:
    assert all(case.why for case in CASES if not case.equal)
