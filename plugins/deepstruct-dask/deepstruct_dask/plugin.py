"""The hook that offers the executor; Dask is imported when it runs."""

from __future__ import annotations

from typing import Any

from deepstruct import hookimpl
from deepstruct_dask import __version__
from deepstruct_dask.executor import DaskExecutor

__all__ = ["__version__", "deepstruct_executors"]


@hookimpl
def deepstruct_executors() -> list[Any]:
    """The executor "dask"."""
    return [DaskExecutor()]
