"""Every error that deepstruct raises, in one tree.

A message says what went wrong, where (file, module path, shapes), and what to do about it.
"""

from __future__ import annotations


class DeepstructError(Exception):
    """Base of all errors of deepstruct: catching it catches them all."""


class InputError(DeepstructError, ValueError):
    """The example input is missing, or does not fit the model; or an argument makes no sense."""


class TraceError(DeepstructError):
    """The model could not be run or recorded."""


class ModelStateError(DeepstructError):
    """The model is in a state that has no per-sample structure (training-mode batch norm, for one)."""


class UnknownOpError(DeepstructError):
    """No rule says how an operation wires units."""


class StructureError(DeepstructError):
    """A rule, a partition or a graph is inconsistent."""


class CapacityError(DeepstructError, MemoryError):
    """Something does not fit the memory budget; the message has the estimate, and `estimate` the bytes if known."""

    def __init__(self, message: str = "", estimate: int | None = None) -> None:
        super().__init__(message)
        self.estimate = estimate


class MetricError(DeepstructError):
    """A metric is unknown, or is not defined on this graph."""


class BudgetError(MetricError):
    """A metric used up its time (`max_seconds`); the message has the seconds spent."""


class PluginError(DeepstructError):
    """A plugin is broken, in conflict with another, or missing."""


class CheckpointError(DeepstructError):
    """A checkpoint file cannot be read, or does not fit the model."""


class MissingExtraError(DeepstructError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""
