"""Tracking as callbacks of trainers; the classes are made when they are asked for, since their bases are optional."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from deepstruct.errors import MissingExtraError

if TYPE_CHECKING:
    from deepstruct.tracking import Tracker


def lightning_callback(tracker: Tracker) -> Any:
    """See `Tracker.lightning`."""
    base = _first(("lightning.pytorch", "pytorch_lightning"), "Callback", "lightning")

    class DeepstructCallback(base):  # type: ignore[misc,valid-type]
        """Starts with the fit, counts optimizer steps, ends with the fit or its error."""

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            tracker.__enter__()

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
            if trainer.global_step > tracker.steps:  # batches that only accumulate gradients are no step
                tracker.step(trainer.global_step)

        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
            tracker.__exit__(None, None, None)

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            tracker.__exit__(type(exception), exception, exception.__traceback__)

    return DeepstructCallback()


def transformers_callback(tracker: Tracker) -> Any:
    """See `Tracker.transformers`."""
    base = _first(("transformers",), "TrainerCallback", "transformers")

    class DeepstructCallback(base):  # type: ignore[misc,valid-type]
        """Starts with the training, counts optimizer steps, ends with the training."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            tracker.__enter__()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            tracker.step(state.global_step)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            tracker.__exit__(None, None, None)

    return DeepstructCallback()


def _first(modules: tuple[str, ...], name: str, package: str) -> Any:
    for module in modules:
        try:
            return getattr(import_module(module), name)
        except ImportError:
            continue
    raise MissingExtraError(f"this callback needs {package}: pip install {package}")
