"""The record of one forward pass: values, operations, and the calls they belong to.

The record is functional: an operation that wrote in place appears as one that returns the new
value, so that it can be replayed and interpreted without aliasing in mind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

ValueKind = Literal["input", "parameter", "buffer", "constant", "op"]


@dataclass(frozen=True)
class Ref:
    """Stands for a tensor in recorded arguments: the index of a value in `OpGraph.values`."""

    id: int


@dataclass
class Value:
    """One tensor of the forward pass.

    `data` is the real tensor of an input, parameter, buffer or constant, and None for results of
    operations. `name` is the argument name of an input and the qualified name of a parameter or
    buffer (of tied ones: the first name).
    """

    id: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: ValueKind
    name: str = ""
    producer: int | None = None
    data: torch.Tensor | None = None


@dataclass
class Op:
    """One recorded ATen operation.

    `args` and `kwargs` are as they were passed, with `Ref` in the place of tensors. `outputs` has
    the value of each returned tensor in flat order (None for a return that is no tensor), then the
    new values of arguments that were written in place and not returned. `name` is the base name
    without namespace, overload and in-place underscore ("add", "convolution", "native_layer_norm");
    what is not of the aten namespace keeps its own ("torchvision::nms"). `mutates` holds positions of written
    arguments: an int for a positional one, a str for a keyword.
    """

    index: int
    target: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[int | None, ...]
    call: int
    mutates: tuple[int | str, ...] = ()


@dataclass
class Call:
    """One call of a module, or of a composite function such as `torch.lstm`.

    The operations that it issued are `ops[start:stop]`; `args`, `kwargs` and `output` are what it
    was called with and what it returned, with `Ref` for tensors. Call 0 is the whole model. `repeat`
    counts earlier calls of the same module (0 for the first). `depth` is 0 for the model, 1 for modules
    that it calls, and so on; function calls do not add to the depth of what is inside them.
    """

    index: int
    kind: Literal["module", "function"]
    path: str
    name: str  # class name of the module, or name of the function ("lstm", "scaled_dot_product_attention")
    module: nn.Module | None
    parent: int | None
    depth: int
    start: int
    stop: int
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    output: Any = None
    repeat: int = 0
