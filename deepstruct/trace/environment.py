"""The surroundings of a traced pass: the fake tensor mode, and kernels that decompose."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def weightless(model: nn.Module) -> bool:
    """Whether some weight has no values: it is on the meta device, or a fake tensor."""
    from torch._subclasses.fake_tensor import FakeTensor

    return any(t.is_meta or isinstance(t, FakeTensor) for t in (*model.parameters(), *model.buffers()))


@contextmanager
def fake_mode_for(model: nn.Module) -> Iterator[Any]:
    """A fake tensor mode: that of the model's own fake weights when it has some."""
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    own = next(
        (t.fake_mode for t in (*model.parameters(), *model.buffers()) if isinstance(t, FakeTensor)), None
    )
    if own is None:
        own = FakeTensorMode()
    before = own.allow_non_fake_inputs, own.allow_fallback_kernels
    # no fallback kernels: they would run on zeros, and a result that depends on data would be wrong
    own.allow_non_fake_inputs, own.allow_fallback_kernels = True, False
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    log.setLevel(logging.CRITICAL)  # it logs errors that are raised as well
    try:
        yield own
    finally:
        log.setLevel(level)
        own.allow_non_fake_inputs, own.allow_fallback_kernels = before


@contextmanager
def plain_kernels() -> Iterator[None]:
    """No fused attention fast path, and no compiled functions."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
