"""What the schema of an ATen operation says: its base name, and what it writes to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

# Running statistics that these update in training mode although their schemas do not say so.
_HIDDEN_WRITES = {
    "aten::native_batch_norm": ("running_mean", "running_var"),
    "aten::cudnn_batch_norm": ("running_mean", "running_var"),
    "aten::miopen_batch_norm": ("running_mean", "running_var"),
    "aten::batch_norm": ("running_mean", "running_var"),
}

# Operations whose result depends on the layout of the storage beneath their argument.
LAYOUT_READS = frozenset({"as_strided"})


@dataclass(frozen=True)
class Facts:
    """Facts about one operation.

    `written` has (position, name) of the arguments that it writes to, `returned` says for each return
    which of those it is (None: a new tensor, or a view). `only_if_training`: the writes happen only
    when the argument `training` is true. `view_in_place` marks what changes the geometry of its
    argument instead of its content (`unsqueeze_`); `composite` what can be decomposed into other
    operations; `random` what draws random numbers; `data_dependent` what returns
    a Python number, or a tensor whose shape depends on data.
    """

    name: str
    arguments: tuple[str, ...]
    written: tuple[tuple[int, str], ...]
    returned: tuple[int | None, ...]
    only_if_training: bool
    view_in_place: bool
    composite: bool
    random: bool
    data_dependent: bool


def base_name(schema_name: str, writes: bool) -> str:
    """ "aten::add_" -> "add"; names of other namespaces keep it ("torchvision::nms")."""
    namespace, _, name = schema_name.rpartition("::")
    if name.startswith("__i") and name.endswith("__") and writes:
        name = "__" + name[3:]
    elif writes and name.endswith("_") and not name.endswith("__"):
        name = name[:-1]
    return name if namespace in ("", "aten") else f"{namespace}::{name}"


@cache
def facts(func: Any) -> Facts:
    """Facts of an `OpOverload`."""
    schema = func._schema
    hidden = _HIDDEN_WRITES.get(schema.name, ())
    written: list[tuple[int, str]] = []
    alias_of: dict[str, int] = {}
    for position, argument in enumerate(schema.arguments):
        info = argument.alias_info
        if (info is not None and info.is_write) or argument.name in hidden:
            written.append((position, argument.name))
            if info is not None:
                for alias in info.before_set:
                    alias_of[alias] = position
    returned: list[int | None] = []
    for result in schema.returns:
        info = result.alias_info
        source = None
        if info is not None and info.is_write:
            source = next((alias_of[a] for a in info.before_set if a in alias_of), None)
        returned.append(source)
    tags = {str(tag).rpartition(".")[2] for tag in func.tags}
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    return Facts(
        name=base_name(schema.name, bool(written) and not hidden),
        arguments=tuple(argument.name for argument in schema.arguments),
        written=tuple(written),
        returned=tuple(returned),
        only_if_training=bool(hidden),
        view_in_place="inplace_view" in tags,
        composite=composite,
        random="nondeterministic_seeded" in tags,
        data_dependent="data_dependent_output" in tags or "dynamic_output_shape" in tags,
    )


def written_positions(known: Facts, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int | str, ...]:
    """The written arguments of one call: an int for a positional one, a str for a keyword."""
    if not known.written:
        return ()
    if known.only_if_training:
        at = known.arguments.index("training")
        training = args[at] if at < len(args) else kwargs.get("training")
        if not training:
            return ()
    found: list[int | str] = []
    for position, name in known.written:
        if position < len(args):
            if args[position] is not None:
                found.append(position)
        elif kwargs.get(name) is not None:
            found.append(name)
    return tuple(found)
