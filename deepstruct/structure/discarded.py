"""The average of its weights that attention computes for its caller, where the caller throws it away.

`nn.MultiheadAttention` averages its scores over the heads unless it is told not to, and most callers drop the
result. Read as operations those averages would be units without a way out, and the scores, read twice, would each
need a slot.
"""

from __future__ import annotations

from deepstruct.trace.graph import OpGraph

FUNCTION = "multi_head_attention_forward"
_TURNS = frozenset({"transpose", "squeeze", "view", "mean"})


def discarded_averages(graph: OpGraph) -> frozenset[int]:
    """Indices of the operations of multi-head attention that average weights which nothing reads."""
    outputs = {id for _, id in graph.outputs}
    unread: set[int] = set()
    for call in graph.calls:
        if call.kind != "function" or call.name != FUNCTION:
            continue
        stop = call.stop
        while stop < len(graph.ops) and graph.ops[stop].name in _TURNS:
            stop += 1  # the layer turns its results around behind the function
        for op in reversed(graph.ops[call.start : stop]):
            made = [id for id in op.outputs if id is not None]
            read = any(id in outputs or set(graph.users[id]) - unread for id in made)
            if op.name in _TURNS and not op.mutates and not read:
                unread.add(op.index)
    return frozenset(unread)
