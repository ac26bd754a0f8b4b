"""trace(): runs a model once and records what happens."""

from __future__ import annotations

import reprlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ..errors import DeepstructError, InputError, ModelStateError, TraceError
from .calls import FunctionRecorder, module_calls
from .callstack import CallStack
from .environment import fake_mode_for, plain_kernels, weightless
from .evaluator import Evaluator
from .graph import OpGraph
from .inputs import Arguments, as_arguments, check_devices, find_example_input, named_tensors
from .leaves import Leaves
from .opgraph import Ref
from .products import check_products
from .record import Record
from .recorder import Recorder
from .state import Snapshot, clear_leaking_caches, random_state
from .tree import Opaque, leaves, map_tensors

Mode = Literal["auto", "fake", "real"]
_ONE_AT_A_TIME = threading.RLock()


def trace(
    model: nn.Module,
    example_input: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    mode: Mode = "auto",
    byte_budget: int = 1 << 30,
) -> OpGraph:
    """Runs `model` on an example input and returns the record of the pass.

    Args:
        model: any `nn.Module`, in the mode (training or evaluation) that the record shall show. It is
            left as it was, after a failure too.
        example_input: a tensor, a tuple or list of positional arguments, or a dict of keyword arguments.
            None looks for one (`find_example_input`). It is not modified; the graph refers to it.
        example_kwargs: further keyword arguments.
        mode: "fake" computes shapes only, so weights and activations of any size do; "real" computes
            with real numbers; "auto" tries fake and falls back to real, with a note that says why.
        byte_budget: bytes that intermediate results may take where fake mode must know real values
            (`.item()`, `nonzero`, ...), and the default budget of `OpGraph.evaluate`.

    Raises:
        InputError: `model` is no module or not initialised, or the input does not fit it.
        TraceError: the model raised, or cannot be recorded; the message names the module path.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"trace needs a torch.nn.Module, not a {type(model).__name__}")
    if mode not in ("auto", "fake", "real"):
        raise InputError(f"mode is {mode!r}; it must be 'auto', 'fake' or 'real'")
    _refuse_lazy(model)
    if example_input is None and not example_kwargs:
        args, kwargs = find_example_input(model)
    else:
        args, kwargs = as_arguments(() if example_input is None else example_input, example_kwargs)
    check_devices(model, named_tensors(model.forward, args, kwargs))

    with _ONE_AT_A_TIME:
        if mode != "auto":
            return _Attempt(model, args, kwargs, mode, byte_budget).run()
        fake = _Attempt(model, args, kwargs, "fake", byte_budget)
        try:
            return fake.run()
        except TraceError as error:
            if weightless(model):
                raise
            first = error
        real = _Attempt(model, args, kwargs, "real", byte_budget)
        graph = real.run()
        graph.notes.insert(0, f"traced with real tensors, since fake tensors failed: {first}")
        return graph


def _refuse_lazy(model: nn.Module) -> None:
    from torch.nn.parameter import is_lazy

    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise InputError(
                f"parameter {name!r} is not initialised (lazy module); run the model on an input first"
            )


class _Attempt:
    """One pass over the model in one mode."""

    def __init__(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], mode: Any, byte_budget: int
    ) -> None:
        self.model = model
        self.args = args
        self.kwargs = kwargs
        self.fake = mode == "fake"
        self.weightless = weightless(model)
        self.graph = OpGraph(mode=mode, byte_budget=byte_budget)
        self.graph._arguments = (args, kwargs)
        self.graph._forward = model.forward
        self.failed_at: str | None = None
        self._error: BaseException | None = None

    def run(self) -> OpGraph:
        if not self.fake and self.weightless:
            raise TraceError(
                "the model has weights without values (on the meta device, or fake tensors): it cannot run "
                "in real mode; use mode='fake' or 'auto', or load weights"
            )
        snapshot = Snapshot(self.model)
        leaves_: Leaves | None = None
        try:
            with random_state(), ExitStack() as stack:
                fake_mode = stack.enter_context(fake_mode_for(self.model)) if self.fake else None
                record = Record(self.graph)
                leaves_ = Leaves(
                    record, fake_mode, lambda t: _attribute_name(snapshot, t), self.fake and self.weightless
                )
                self._pass(record, leaves_, fake_mode, stack)
        except TraceError:
            raise
        except Exception as error:
            raise self._explained(error) from error
        finally:
            with torch.no_grad():
                if leaves_ is not None:
                    leaves_.restore()
                self.graph.notes.extend(snapshot.restore())
        if self.fake:
            self.graph.notes.extend(clear_leaking_caches(snapshot.modules))
            check_products(self.graph)
        self.graph.notes.extend(leaves_.notes() if leaves_ is not None else [])
        return self.graph

    def _pass(self, record: Record, leaves_: Leaves, fake_mode: Any, stack: ExitStack) -> None:
        graph = self.graph
        args, kwargs = self._prepare(record, leaves_, fake_mode)
        for path, parameter in self.model.named_parameters(remove_duplicate=False):
            for name, tensor in _plain(path, parameter):
                graph.parameters[name] = record.leaf(tensor, "parameter", name)
        for path, buffer in self.model.named_buffers(remove_duplicate=False):
            for name, tensor in _plain(path, buffer):
                graph.buffers[name] = record.leaf(tensor, "buffer", name)
        calls = CallStack(record, self.model)
        evaluator = Evaluator(record, leaves_, graph.byte_budget)
        stack.enter_context(torch.no_grad())
        stack.enter_context(plain_kernels())
        if fake_mode is not None:
            stack.enter_context(fake_mode)
        stack.enter_context(Recorder(record, leaves_, evaluator))
        stack.enter_context(FunctionRecorder(calls, leaves_, evaluator))
        stack.enter_context(module_calls(calls, self._note_failure))
        self.model(*args, **kwargs)
        graph.output = graph.calls[0].output
        self._note_outputs()

    def _prepare(self, record: Record, leaves_: Leaves, fake_mode: Any) -> Arguments:
        """The arguments to run with; registers their tensors as inputs."""
        names = [name for name, _ in named_tensors(self.model.forward, self.args, self.kwargs)]
        position = 0
        seen: set[int] = set()

        def prepare(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal position
            twin = self._input_twin(tensor, fake_mode, seen)
            v = record.leaf(twin, "input", names[position], data=tensor)
            storage = record.storages.find(twin)
            if storage is not None:
                storage.foreign = False
            self.graph.inputs.append(v)
            position += 1
            return twin

        args = tuple(map_tensors(a, prepare) for a in self.args)
        return args, {k: map_tensors(a, prepare) for k, a in self.kwargs.items()}

    def _input_twin(self, tensor: torch.Tensor, fake_mode: Any, seen: set[int]) -> torch.Tensor:
        if fake_mode is None:
            with torch.no_grad():
                return tensor.detach().clone()
        if self.weightless and tensor.is_meta:
            meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
            return fake_mode.fake_tensor_converter.from_meta_and_device(fake_mode, meta, torch.device("cpu"))
        address = tensor.untyped_storage()._cdata if tensor.layout == torch.strided else id(tensor)
        if address in seen:  # two inputs in one storage are two inputs all the same
            tensor = tensor.detach().clone()
        seen.add(address)
        return fake_mode.from_tensor(tensor.detach())

    def _note_failure(self, path: str, error: BaseException) -> None:
        if self._error is not error:
            self._error, self.failed_at = error, path

    def _note_outputs(self) -> None:
        for name, leaf in leaves(self.graph.output, "output"):
            if isinstance(leaf, Opaque):
                self.graph.notes.append(
                    f"{name} is a {leaf.type_name}: it is not looked into, and no output of the graph"
                )
            elif leaf is not None and not isinstance(leaf, Ref):
                self.graph.notes.append(f"{name} is {reprlib.repr(leaf)}, no tensor: no output of the graph")

    def _explained(self, error: Exception) -> DeepstructError:
        if self.failed_at is None:
            where = "before the model was called"
        else:
            module = type(self.model).__name__
            where = (
                f"in module {self.failed_at!r} of {module}"
                if self.failed_at
                else f"in the forward of {module}"
            )
        shapes = ", ".join(
            f"{name} {tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}"
            for name, t in named_tensors(self.model.forward, self.args, self.kwargs)
        )
        message = str(error).strip() or "(no message)"
        advice = "The model has to run on its example input: try model(example_input)."
        if self.args and all(type(value) is int for value in self.args) and self.failed_at == "":
            advice = f"A tuple is the positional arguments; for a tensor of this shape give torch.randn{self.args}."
        if isinstance(error, ValueError) and self._failed_in_batch_norm():
            return ModelStateError(
                f"batch norm {where} is in training mode: it couples the samples of a batch, and fails on one sample "
                f"({message}). Call model.eval() first."
            )
        return TraceError(
            f"the model raised {type(error).__name__} {where}, given {shapes or 'no tensors'}: {message} ({advice})"
        )

    def _failed_in_batch_norm(self) -> bool:
        module = dict(self.model.named_modules()).get(self.failed_at or "")
        return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training


def _plain(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor); for a subclass that wraps other tensors (quantised weights): those inside."""
    if not is_traceable_wrapper_subclass(tensor):
        yield name, tensor
        return
    for attribute in tensor.__tensor_flatten__()[0]:
        yield from _plain(f"{name}.{attribute}", getattr(tensor, attribute))


def _attribute_name(snapshot: Snapshot, tensor: torch.Tensor) -> str:
    if tensor.layout != torch.strided:
        return ""
    return snapshot.names.get(tensor.untyped_storage()._cdata, "")
