"""Metric results as plain values: Python numbers, dicts and arrays, never NaN where a number is due."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from deepstruct.errors import MetricError


def plain_value(value: Any, scope: str, num_nodes: int) -> Any:
    """The value as a report keeps it.

    graph scope: bool, int, float or str. layer scope: dict layer name -> such a value, or
    None where the metric is not defined. node scope: array
    with `num_nodes` numbers. Raises MetricError for NaN and infinity at graph and layer scope, TypeError
    or ValueError when the value does not have the form of its scope.
    """
    if scope == "node":
        array = np.asarray(value)
        if array.shape[:1] != (num_nodes,):
            raise ValueError(
                f"a node-scope metric gives one entry for each of {num_nodes} nodes, got {array.shape}"
            )
        if array.dtype.kind not in "biuf":
            raise TypeError(f"a node-scope metric gives an array of numbers, got dtype {array.dtype}")
        return array
    if scope == "layer":
        if not isinstance(value, Mapping):
            raise TypeError(f"a layer-scope metric gives a mapping, got {type(value).__name__}")
        return {
            str(layer): None if entry is None else plain_number(entry, str(layer))
            for layer, entry in value.items()
        }
    return plain_number(value)


def plain_number(value: Any, where: str = "") -> bool | int | float | str:
    """`value` as bool, int, float or str."""
    if isinstance(value, np.generic) or (hasattr(value, "item") and getattr(value, "ndim", None) == 0):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise MetricError(f"the value is not finite ({value})" + (f" in layer {where}" if where else ""))
    if isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a plain number was expected, got {type(value).__name__}")
