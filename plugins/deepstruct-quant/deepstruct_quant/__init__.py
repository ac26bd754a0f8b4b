"""Quantised and low-bit layers of torchao for deepstruct; `deepstruct_quant.plugin` has the hooks."""

from __future__ import annotations
