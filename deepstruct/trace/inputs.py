"""The example input of a trace: found, checked, and named."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from .tree import leaves, type_name

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def find_example_input(model: nn.Module) -> Arguments:
    """An input for `model`, as (args, kwargs), on its device and in its dtype.

    Looks, in this order, at: an attribute or method `example_input` (masked models have one),
    `example_input_array` (Lightning), `dummy_inputs` (Hugging Face; if forward takes them), the input size
    of `default_cfg` or `pretrained_cfg` (timm) or `config.image_size` (Hugging Face vision models), and the
    first layer when it is `nn.Linear`. Random values come from a generator of their own. Raises InputError
    that says what to pass when none serves.
    """
    found = getattr(model, "example_input", None)
    if callable(found) and not isinstance(found, (torch.Tensor, nn.Module)):
        found = found()
    if found is not None:
        return _moved(as_arguments(found), model)
    found = getattr(model, "example_input_array", None)
    if found is not None:
        return _moved(as_arguments(found), model)
    found = getattr(model, "dummy_inputs", None)
    if isinstance(found, Mapping) and found and _accepts(model, found):
        return _moved(as_arguments(found), model)
    size = _configured_size(model)
    if size is not None:
        return (_random((1, *size), model),), {}
    layers = (m for m in model.modules() if isinstance(m, nn.Linear) or not any(True for _ in m.children()))
    first = next(layers, None)
    if isinstance(first, nn.Linear):
        return (_random((1, first.in_features), model),), {}
    what = f"the first layer is {type(first).__name__}, not Linear, and " if first is not None else ""
    raise InputError(
        f"no example input is known for {type(model).__name__}: {what}it has none of the attributes "
        "example_input, example_input_array, dummy_inputs or default_cfg. Pass one that fits "
        f"forward{_signature(model)}: a tensor (for images: torch.randn(1, 3, 224, 224)), a tuple of "
        "positional arguments or a dict of keyword arguments"
    )


def _signature(model: nn.Module) -> str:
    try:
        return str(inspect.signature(model.forward))
    except (TypeError, ValueError):
        return "(...)"


def _accepts(model: nn.Module, keywords: Mapping[str, Any]) -> bool:
    """Whether forward takes these (vision models of Hugging Face inherit the dummy inputs of text models)."""
    main = getattr(model, "main_input_name", None)
    if isinstance(main, str) and main not in keywords:
        return False
    try:
        inspect.signature(model.forward).bind_partial(**keywords)
    except (TypeError, ValueError):
        return False
    return True


def _configured_size(model: nn.Module) -> tuple[int, ...] | None:
    for attribute in ("default_cfg", "pretrained_cfg"):
        config = getattr(model, attribute, None)
        if config is None:
            continue
        size = (
            config.get("input_size") if isinstance(config, Mapping) else getattr(config, "input_size", None)
        )
        if size is not None:
            return tuple(int(n) for n in size)
    config = getattr(model, "config", None)  # Hugging Face
    size = getattr(config, "image_size", None)
    if getattr(model, "main_input_name", None) == "pixel_values" and size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        return int(getattr(config, "num_channels", 3)), int(height), int(width)
    return None


def model_device(model: nn.Module) -> torch.device | None:
    """The device of the first parameter or buffer; None for a model without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return None


def _dtype(model: nn.Module) -> torch.dtype:
    for p in model.parameters():
        if p.dtype.is_floating_point:
            return p.dtype
    return torch.get_default_dtype()


def _random(shape: tuple[int, ...], model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
    device = model_device(model)
    return values.to(dtype=_dtype(model), device="cpu" if device is None or device.type == "meta" else device)


def _moved(arguments: Arguments, model: nn.Module) -> Arguments:
    """Example inputs that a model keeps usually stay on the CPU when the model moves."""
    from .tree import map_tensors

    device = model_device(model)
    if device is None or device.type == "meta":
        return arguments
    dtype = _dtype(model)

    def move(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device=device, dtype=dtype if tensor.dtype.is_floating_point else None)

    args, kwargs = arguments
    return tuple(map_tensors(a, move) for a in args), {k: map_tensors(a, move) for k, a in kwargs.items()}


def as_arguments(example: Any, extra: Mapping[str, Any] | None = None) -> Arguments:
    """(args, kwargs) of an example input: a tensor, a tuple or list of arguments, or a dict of keywords."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example, torch.Tensor):
        args = (example,)
    elif isinstance(example, (tuple, list)) and not hasattr(example, "_fields"):
        args = tuple(example)
    elif isinstance(example, Mapping):
        kwargs = {str(k): v for k, v in example.items()}
    elif hasattr(example, "_fields"):  # a named tuple (PackedSequence) is one argument
        args = (example,)
    else:
        raise InputError(
            f"example_input is a {type_name(example)}; pass a tensor, a tuple of positional arguments "
            "or a dict of keyword arguments"
        )
    if extra is not None:
        if not isinstance(extra, Mapping):
            raise InputError(f"example_kwargs is a {type_name(extra)}; pass a dict")
        doubled = sorted(set(kwargs) & set(extra))
        if doubled:
            raise InputError(f"arguments {doubled} are in both example_input and example_kwargs")
        kwargs.update(extra)
    return args, kwargs


def named_arguments(
    forward: Callable[..., Any] | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[tuple[str, Any]]:
    """(name, argument): parameter names of `forward`; "args.0" for what falls into *args."""
    names: list[str] = []
    if forward is not None:
        try:
            parameters = list(inspect.signature(forward).parameters.values())
        except (TypeError, ValueError):  # a compiled or builtin forward has no signature
            parameters = []
        for parameter in parameters:
            if parameter.kind is parameter.VAR_POSITIONAL:
                names.extend(f"{parameter.name}.{i}" for i in range(len(args) - len(names)))
            elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                names.append(parameter.name)
    names.extend(f"args.{i}" for i in range(len(names), len(args)))
    return [*zip(names, args, strict=False), *kwargs.items()]


def named_tensors(
    forward: Callable[..., Any] | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[tuple[str, torch.Tensor]]:
    """(name, tensor) of every tensor among the arguments; nested ones have dotted names."""
    found: list[tuple[str, torch.Tensor]] = []
    for name, argument in named_arguments(forward, args, kwargs):
        found.extend((path, leaf) for path, leaf in leaves(argument, name) if isinstance(leaf, torch.Tensor))
    return found


def check_devices(model: nn.Module, tensors: list[tuple[str, torch.Tensor]]) -> None:
    """InputError when an input is on another device than all weights (meta weights take any input)."""
    devices = {t.device for t in (*model.parameters(), *model.buffers())}
    if not devices or any(d.type == "meta" for d in devices):
        return
    for name, tensor in tensors:
        if tensor.device not in devices:
            here = ", ".join(sorted(str(d) for d in devices))
            raise InputError(
                f"input {name!r} is on {tensor.device}, the model's weights are on {here}; move one of them "
                f"(example_input.to({sorted(str(d) for d in devices)[0]!r}))"
            )
