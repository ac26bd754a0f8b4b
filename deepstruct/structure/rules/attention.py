"""Scaled dot-product attention as one call: its scores stay implicit."""

from __future__ import annotations

from typing import Any

import torch

from deepstruct.structure.builder import Builder
from deepstruct.structure.node import Arg, Node
from deepstruct.structure.rules.base import RuleSet
from deepstruct.structure.rules.pointwise import RANDOM

rules = RuleSet()


@rules.function("scaled_dot_product_attention")
def attention(b: Builder, node: Node) -> Any:
    """softmax(q k' + mask) v. Declined where scores need slots of their own; the operations inside are read then."""
    query, key, value, mask = (node.arg(k, name) for k, name in enumerate(("query", "key", "value", "attn_mask")))
    dropout, causal = node.arg(4, "dropout_p", 0.0), node.arg(5, "is_causal", False)
    scale, grouped = node.kwargs.get("scale"), node.kwargs.get("enable_gqa", False)
    if b.settings.attention == "units" or scale == 0 or dropout >= 1:
        return NotImplemented
    for side in (query, key, value):
        if side.signal is None and (side.stored or side.data_dependent or side.zeros() is not None):
            return NotImplemented  # stored weights make weight edges
    rows, columns, features = query.shape[-2], key.shape[-2], value.shape[-1]
    if isinstance(mask, Arg) and mask.signal is not None:
        return NotImplemented  # a bias from activations: every score reads units of its own
    keep = _kept(b, mask)
    if causal:
        keep = torch.ones(rows, columns, dtype=torch.bool).tril()
    heads = key.shape[-3] if grouped else 0
    if grouped and value.shape[-3] != heads:
        return NotImplemented
    shapes = [_split(torch.empty(side.shape, device="meta"), heads).shape[:-2] for side in (query, key, value)]
    lead = torch.broadcast_shapes(*shapes)
    if keep is not None:
        keep = _split(keep, heads)
        if torch.broadcast_shapes(keep.shape[:-2], lead) != lead:
            return NotImplemented
    q, k, v = (
        None if side.signal is None else side.signal.mapped(lambda t: _spread(_split(t, heads), lead))
        for side in (query, key, value)
    )
    out = b.attention(q, k, v, keep, (rows, columns, features), name="" if b.where[0] else _op_name(query))
    if out is None:
        return NotImplemented
    if dropout:
        b.note(RANDOM)
    shape = node.out[0].shape if node.out[0] is not None else out.shape
    return out.mapped(lambda t: t.reshape(shape))


def _kept(b: Builder, mask: object) -> torch.Tensor | None:
    """Boolean: scores that the mask leaves; None for all, also where its values are not known."""
    if not isinstance(mask, Arg) or mask.data_dependent or not mask.known():
        return None
    value = mask.tensor()
    keep = value if value.dtype == torch.bool else ~(value <= b.settings.mask_threshold)
    while keep.dim() < 2:
        keep = keep.unsqueeze(0)
    return keep


def _op_name(query: Arg) -> str:
    return "mm" if len(query.shape) == 2 else "bmm"


def _split(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """With grouped queries, the axis of heads as (heads of keys, queries that share one of them)."""
    if not heads or tensor.dim() < 3:
        return tensor
    return tensor.unsqueeze(-3) if tensor.shape[-3] in (1, heads) else tensor.unflatten(-3, (heads, -1))


def _spread(tensor: torch.Tensor, lead: tuple[int, ...]) -> torch.Tensor:
    return tensor.expand(*lead, *tensor.shape[-2:])
