"""From masks to a really smaller model: channels that no path runs through are taken out, outputs stay the same."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from deepstruct.errors import StructureError
from deepstruct.pruning.bake import bake
from deepstruct.pruning.channels import BATCH_NORMS, DENSE, Channels, find_channels
from deepstruct.trace.inputs import as_arguments, find_example_input


def shrink(model: nn.Module, example_input: Any = None, *, tolerance: float = 1e-4) -> nn.Module:
    """A plain model without the channels and units that are all masked, with equal outputs in evaluation mode.

    Output channels of linear and convolutional layers go, with what reads them, and with batch norms and PReLUs
    between; through residual sums (where all summands lose the channel), concatenations, flattening, pooling and
    depthwise convolutions. What is cut off from the inputs has a constant value, which goes into the biases of its
    readers. Channels that some other layer touches stay.

    Args:
        example_input: as for `deepstruct.extract`.
        tolerance: of the comparison of outputs, relative to the largest.

    Raises StructureError where the smaller model does not run or its outputs differ, as when `forward` has sizes
    written into it.
    """
    plain = bake(model)
    training = plain.training
    plain.eval()
    arguments = find_example_input(plain) if example_input is None else as_arguments(example_input)
    channels = find_channels(plain, example_input)
    constants = _inputs(plain, channels, arguments)
    _pin_what_cannot_be_folded(plain, channels, constants)
    small = copy.deepcopy(plain)
    for path, sides in channels.layers.items():
        module = small.get_submodule(path)
        reads, writes = _kept(sides.inputs, channels), _kept(sides.outputs, channels)
        if isinstance(module, DENSE):
            _cut(module, reads, writes, constants.get(path))
        else:
            _cut_channels(module, writes)
    _compare(plain, small, arguments, tolerance)
    return small.train(training)


def _kept(classes: Tensor, channels: Channels) -> Tensor:
    """Boolean: where a channel stays; those that no unit stands behind do."""
    return (classes < 0) | channels.alive[classes.clamp(min=0)]


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and module.groups > 1


def _inputs(plain: nn.Module, channels: Channels, arguments: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Per layer the lowest and highest value that each of its inputs takes on a run."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    handles = []

    def note(path: str, axis: int) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            flat = args[0].detach().movedim(axis, 0).flatten(1)
            low, high = flat.amin(1), flat.amax(1)
            if path in found:
                low, high = torch.minimum(low, found[path][0]), torch.maximum(high, found[path][1])
            found[path] = (low, high)

        return hook

    for path in channels.layers:
        module: Any = plain.get_submodule(path)
        if isinstance(module, nn.Linear):
            handles.append(module.register_forward_pre_hook(note(path, -1)))
        elif isinstance(module, DENSE):
            axes = module.weight.dim() - 2
            handles.append(module.register_forward_pre_hook(note(path, -axes - 1)))
    with torch.no_grad():
        plain(*arguments[0], **arguments[1])
    for handle in handles:
        handle.remove()
    return found


def _pin_what_cannot_be_folded(
    plain: nn.Module, channels: Channels, constants: dict[str, tuple[Tensor, Tensor]]
) -> None:
    """Classes stay alive that have a value which a bias cannot take over, or whose layer would be left empty."""
    for path, sides in channels.layers.items():
        module: Any = plain.get_submodule(path)
        for classes in (sides.inputs, sides.outputs):
            if len(classes) and not bool(_kept(classes, channels).any()):
                channels.alive[classes[0]] = True
        if path not in constants or _depthwise(module):
            continue
        low, high = constants[path]
        padded = not isinstance(module, nn.Linear) and _pads(module)
        at = sides.inputs.clamp(min=0)
        goes = ~_kept(sides.inputs, channels) & ~channels.reached[at]
        varies = (high - low).abs() > 1e-6 * (1 + high.abs())
        stuck = goes & (varies | ((high.abs() > 0) & padded)).cpu()
        used = module.weight.detach().transpose(0, 1).flatten(1).ne(0).any(1).cpu()
        channels.alive[sides.inputs[stuck & used]] = True


def _pads(module: Any) -> bool:
    if isinstance(module.padding, str):
        return bool(module.padding != "valid" and any(k > 1 for k in module.kernel_size))
    return module.padding_mode == "zeros" and any(p > 0 for p in module.padding)


def _cut(module: Any, reads: Tensor, writes: Tensor, range_: tuple[Tensor, Tensor] | None) -> None:
    weight, bias = module.weight.detach(), module.bias
    reads, writes = reads.to(weight.device), writes.to(weight.device)
    if _depthwise(module):
        if module.groups == len(writes) == len(reads):
            module.groups = int(writes.sum())
            module.weight = _parameter(weight[writes], module.weight)
            reads = writes
    else:
        if range_ is not None and not bool(reads.all()):
            gone = range_[1].to(weight)[~reads]
            columns = weight[:, ~reads].flatten(2).sum(2) if weight.dim() > 2 else weight[:, ~reads]
            # what no path leads through either has weight zero in all rows that stay, or a constant value
            offset = (columns * torch.where(columns != 0, gone, 0)).sum(1)
            if bool((offset[writes] != 0).any()):
                bias = nn.Parameter(offset + (0 if bias is None else bias.detach()))
        module.weight = _parameter(weight[writes][:, reads], module.weight)
    module.bias = None if bias is None else _parameter(bias.detach()[writes], bias)
    if isinstance(module, nn.Linear):
        module.in_features, module.out_features = int(reads.sum()), int(writes.sum())
    else:
        module.in_channels, module.out_channels = int(reads.sum()), int(writes.sum())


def _cut_channels(module: Any, kept: Tensor) -> None:
    """Batch norms and PReLUs."""
    for name, value in [*module._parameters.items(), *module._buffers.items()]:
        if value is not None and value.shape == kept.shape:
            part = value.detach()[kept.to(value.device)].clone()
            setattr(module, name, _parameter(part, value) if name in module._parameters else part)
    if isinstance(module, BATCH_NORMS):
        module.num_features = int(kept.sum())
    else:
        module.num_parameters = int(kept.sum())


def _parameter(data: Tensor, old: Tensor) -> nn.Parameter:
    return nn.Parameter(data.clone(), requires_grad=old.requires_grad)


def _compare(plain: nn.Module, small: nn.Module, arguments: Any, tolerance: float) -> None:
    from deepstruct.trace.tree import leaves, map_tensors

    generator = torch.Generator().manual_seed(0)

    def other(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        return torch.randn(x.shape, generator=generator).to(x)

    for args in (arguments, map_tensors(arguments, other)):
        with torch.no_grad():
            wanted = plain(*args[0], **args[1])
            try:
                found = small(*args[0], **args[1])
            except Exception as error:
                raise StructureError(
                    f"the smaller {type(plain).__name__} does not run ({type(error).__name__}: {error}): its forward "
                    "may have sizes written into it"
                ) from error
        for (name, a), (_, b) in zip(leaves(wanted), leaves(found), strict=True):
            if not isinstance(a, Tensor):
                continue
            far = float((a.double() - b.double()).abs().max()) if a.shape == b.shape and a.numel() else 0.0
            if a.shape != b.shape or not far <= tolerance * (1 + float(a.double().abs().max()) if a.numel() else 1):
                raise StructureError(
                    f"the smaller {type(plain).__name__} has another output{' ' + name if name else ''} (shape "
                    f"{tuple(b.shape)} for {tuple(a.shape)}, off by {far:.3g}): an operation mixes channels that the "
                    "graph takes for independent"
                )
