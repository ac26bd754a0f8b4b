"""Module calls and composite functions, recorded as calls around the operations that they issue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from .callstack import CallStack
from .evaluator import Evaluator
from .leaves import Leaves

COMPOSITES = frozenset({
    "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell",
    "scaled_dot_product_attention", "multi_head_attention_forward",
    "batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm", "local_response_norm", "normalize",
    "softmax", "log_softmax", "softmin", "gumbel_softmax",
    "linear", "bilinear", "einsum", "embedding", "embedding_bag",
    "interpolate", "grid_sample", "affine_grid", "cosine_similarity", "cdist", "stft", "istft", "glu",
})  # fmt: skip

_RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
_ESCAPES = frozenset({"numpy", "tolist", "__array__", "__dlpack__"})
_PATCH = threading.RLock()


class FunctionRecorder(TorchFunctionMode):
    """Records composite functions (`COMPOSITES`) as calls, and notices data that Python reads directly."""

    def __init__(self, calls: CallStack, leaves: Leaves, evaluator: Evaluator) -> None:
        super().__init__()
        self.calls = calls
        self.record = calls.record
        self.leaves = leaves
        self.evaluator = evaluator

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in COMPOSITES:
            return self._composite(func, name, args, kwargs)
        if name in _ESCAPES and args and isinstance(args[0], torch.Tensor):
            with torch._C.DisableTorchFunction():
                self.leaves.escape(name, args[0])
                if self.leaves.fake_mode is not None and (
                    name == "tolist" or not self.leaves.is_fake(args[0])
                ):
                    v = self.record.ref(args[0])
                    real = self.evaluator.evaluate([v])[v]
                    with _disable_current_modes():
                        return func(real, *args[1:], **kwargs)
        if name == "_pad_packed_sequence":
            return self._pad_packed_sequence(*args, **kwargs)
        return func(*args, **kwargs)

    def _composite(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with torch._C.DisableTorchFunction():
            index = self.calls.enter_function(name, args, kwargs)
        try:
            if name in _RECURRENT and _is_packed(name, args):
                args = (args[0], self._real(args[1], name), *args[2:])
            if name == "scaled_dot_product_attention":
                from torch.nn.attention import SDPBackend, sdpa_kernel

                with sdpa_kernel(SDPBackend.MATH):
                    output = func(*args, **kwargs)
            elif name == "multi_head_attention_forward":
                with self:  # what it calls in turn is recorded too
                    output = _without_check(func)(*args, **kwargs)
            else:
                output = func(*args, **kwargs)
            with torch._C.DisableTorchFunction():
                self.calls.leave(index, output)
            return output
        finally:
            self.calls.unwind(index)

    def _real(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """Real values of a tensor whose memory a kernel reads."""
        with torch._C.DisableTorchFunction():
            v = self.record.ref(tensor)
            self.leaves.data_read(name, [v])
            if not self.leaves.is_fake(tensor):
                return tensor
            real = self.evaluator.evaluate([v])[v]
            if self.record.storages.find(real) is None:
                self.record.storages.create(real).add_root(self.record.key(real), v)
            self.evaluator.held.append(real)
            return real

    def _pad_packed_sequence(
        self,
        data: torch.Tensor,
        batch_sizes: torch.Tensor,
        batch_first: bool,
        padding_value: float,
        total_length: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`torch._pad_packed_sequence` in recordable operations: its kernel writes to memory directly."""
        with _disable_current_modes():
            sizes = self._real(batch_sizes, "_pad_packed_sequence").tolist()
        steps = total_length if total_length > 0 else len(sizes)
        if steps < len(sizes):
            raise ValueError(
                f"Expected total_length to be at least the length of the longest sequence in input, but got "
                f"total_length={total_length} and max sequence length being {len(sizes)}"
            )
        rows, start = [], 0
        for size in sizes:
            rows.append([start + i if i < size else -1 for i in range(sizes[0])])
            start += size
        rows += [[-1] * sizes[0]] * (steps - len(sizes))
        index = torch.tensor(rows, device=data.device)
        mask = (index >= 0).reshape(steps, sizes[0], *[1] * (data.dim() - 1))
        padded = torch.where(mask, data[index.clamp(min=0)], padding_value)
        lengths = (batch_sizes.unsqueeze(1) > torch.arange(sizes[0])).sum(0)
        return padded.transpose(0, 1) if batch_first else padded, lengths


def _is_packed(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a recurrent function got a packed sequence: (data, batch_sizes, hx, ...)."""
    if len(args) < 3 or not isinstance(args[1], torch.Tensor):
        return False
    return name == "lstm" or isinstance(args[2], torch.Tensor)


@lru_cache(maxsize=4)
def _without_check(func: Any) -> Any:
    """A copy of a function of torch.nn.functional that does not hand itself to torch-function modes.

    The functions of that module start with a check that would send the call back to our mode.
    """
    if not isinstance(func, FunctionType):
        return func
    scope = {**func.__globals__, "has_torch_function": lambda _: False}
    copy = FunctionType(func.__code__, scope, func.__name__, func.__defaults__, func.__closure__)
    copy.__kwdefaults__ = func.__kwdefaults__
    return copy


@contextmanager
def module_calls(calls: CallStack, failed: Callable[[str, BaseException], None]) -> Iterator[None]:
    """Records every call of a module in this thread while the context is open.

    `failed` is told the path of the innermost module that an exception came from.
    """
    thread = threading.get_ident()
    with _PATCH:
        original = nn.Module.__call__

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                return original(module, *args, **kwargs)
            with torch._C.DisableTorchFunction():
                index = calls.enter_module(module, args, kwargs)
            try:
                # not through __call__: that would run the compiled forward of a compiled module
                output = module._call_impl(*args, **kwargs)
                with torch._C.DisableTorchFunction():
                    calls.leave(index, output)
                return output
            except Exception as error:
                failed(calls.record.graph.calls[index].path, error)
                raise
            finally:
                calls.unwind(index)

        nn.Module.__call__ = call  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__call__ = original  # type: ignore[method-assign]
