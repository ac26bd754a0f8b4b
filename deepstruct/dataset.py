"""Data sets of a function: random points, and what the function makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from deepstruct.errors import InputError

_FORMAT = "deepstruct.dataset/1"


class FuncDataset(Dataset):
    """`size` points (x, f(x)), drawn by a sampler when the data set gets one.

    Args:
        fn: the function; it takes a tensor of shape `shape_input`, and returns a number, an array or a tensor.
        size: number of points.
        shape_input: shape of a point.
        sampler: takes nothing and returns a point, such as `lambda: np.random.uniform(-2, 2, size=2)`. It can
            be set later; a new sampler draws new points.

    An item is a pair of tensors, in the precision that sampler and function have.
    """

    def __init__(
        self,
        fn: Callable[[Tensor], Any],
        size: int,
        shape_input: Sequence[int] | None = None,
        sampler: Callable[[], Any] | None = None,
    ) -> None:
        if not callable(fn):
            raise InputError(f"fn is of type {type(fn).__name__}, expected a function")
        if size is None or size < 1:
            raise InputError(f"size={size}: a data set has at least one point")
        if shape_input is None:
            raise InputError("shape_input is missing: write the shape of a point, such as (2,)")
        self._fn, self._size, self._shape_input = fn, int(size), tuple(int(n) for n in shape_input)
        self._sampler: Callable[[], Any] | None = None
        self._inputs: Tensor | None = None
        self._targets: Tensor | None = None
        if sampler is not None:
            self.sampler = sampler

    @property
    def sampler(self) -> Callable[[], Any] | None:
        return self._sampler

    @sampler.setter
    def sampler(self, sampler: Callable[[], Any]) -> None:
        if not callable(sampler):
            raise InputError(f"sampler is of type {type(sampler).__name__}, expected a function without arguments")
        self._sampler = sampler
        # Drawn here and not when first read, since each worker of a loader would draw points of its own.
        self.generate()

    def generate(self, without_progress: bool = True) -> None:
        """Draw all points anew."""
        from deepstruct.progress import reporting

        points: list[tuple[Tensor, Tensor]] = []
        with reporting("generate", False if without_progress else None) as tick:
            for done in range(self._size):
                points.append(self.sample())
                if tick is not None:
                    tick("points", done + 1, self._size)
        try:
            self._inputs, self._targets = (torch.stack(part) for part in zip(*points, strict=True))
        except RuntimeError as error:
            raise InputError(f"the function's results differ in shape: {error}") from error

    def sample(self) -> tuple[Tensor, Tensor]:
        """One new point, which does not become part of the data set."""
        if self._sampler is None:
            raise InputError("this data set has no sampler: pass sampler=, or set it")
        drawn = torch.as_tensor(self._sampler())
        try:
            x = drawn.reshape(self._shape_input)
        except RuntimeError:
            raise InputError(
                f"the sampler gave shape {tuple(drawn.shape)}, shape_input is {self._shape_input}"
            ) from None
        return x, torch.as_tensor(self._fn(x)).detach()

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, idx: int) -> tuple[Tensor, Tensor]:
        if not -self._size <= idx < self._size:
            raise IndexError(f"index {idx} is out of range: the data set has {self._size} points")
        inputs, targets = self._points()
        return inputs[idx], targets[idx]

    def _points(self) -> tuple[Tensor, Tensor]:
        if self._inputs is None or self._targets is None:
            raise InputError("this data set has no points: pass sampler=, or set it")
        return self._inputs, self._targets

    # -- files

    def save(self, path_file: str | Path) -> None:
        """Write the points as a NumPy archive without pickles; the function is not part of it."""
        inputs, targets = self._points()
        about = json.dumps({"format": _FORMAT, "shape_input": list(self._shape_input)})
        with open(path_file, "wb") as file:
            np.savez_compressed(
                file, about=np.frombuffer(about.encode(), dtype=np.uint8), inputs=inputs.numpy(),
                targets=targets.numpy(),
            )  # fmt: skip

    @staticmethod
    def load(path_file: str | Path, *, allow_pickle: bool = False) -> FuncDataset:
        """Read a data set back; it has its points, but neither function nor sampler.

        Files of versions before 1.0 are pickles, which can run any code when they are read: they need
        `allow_pickle=True`. Raises InputError for any other file.
        """
        path = Path(path_file)
        try:
            start = path.open("rb").read(2)
            if start != b"PK":
                return _load_pickle(path, allow_pickle)
            with np.load(path, allow_pickle=False) as archive:
                about = json.loads(archive["about"].tobytes().decode())
                inputs, targets = torch.from_numpy(archive["inputs"]), torch.from_numpy(archive["targets"])
        except (OSError, KeyError, ValueError, EOFError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} is no data set of deepstruct: {error}") from error
        if about.get("format") != _FORMAT or len(inputs) != len(targets):
            raise InputError(f"{path} is no data set of this version of deepstruct (format {about.get('format')!r})")
        return _loaded(inputs, targets, about["shape_input"])


def _load_pickle(path: Path, allowed: bool) -> FuncDataset:
    if not allowed:
        raise InputError(
            f"{path} is not a data set of this version. If it is a pickle of an older one, and you trust who made it, "
            "read it with allow_pickle=True and save it again"
        )
    import pickle

    with path.open("rb") as file:
        try:
            meta = pickle.load(file)
            pairs = [(torch.as_tensor(x), torch.as_tensor(y)) for x, y in meta["data"]]
            shape = meta["shape_input"]
        except (pickle.UnpicklingError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is no data set of deepstruct: {error}") from error
    return _loaded(torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs]), shape)


def _loaded(inputs: Tensor, targets: Tensor, shape: Sequence[int]) -> FuncDataset:
    result = FuncDataset(_no_function, len(inputs), shape)
    result._inputs, result._targets = inputs, targets
    return result


def _no_function(x: Tensor) -> Tensor:
    raise InputError("a data set that was read from a file has no function: make a new one to draw more points")


FunctionalDataset = FuncDataset
