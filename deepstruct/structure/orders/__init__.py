"""The four orders of structure, offered through the same hook as anybody's."""

from __future__ import annotations

from typing import Any

from deepstruct.plugin.markers import hookimpl

__all__ = ["deepstruct_orders"]


@hookimpl
def deepstruct_orders() -> list[Any]:
    """Zeroth (units), first (channels or heads), second (layers), third (cells)."""
    from deepstruct.structure.orders.higher import FirstOrder, SecondOrder, ThirdOrder
    from deepstruct.structure.orders.zeroth import ZerothOrder

    return [ZerothOrder(), FirstOrder(), SecondOrder(), ThirdOrder()]
