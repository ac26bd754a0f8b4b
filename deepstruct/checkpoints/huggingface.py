"""The model of a Hugging Face folder, built from its config.json with the classes of the package transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from deepstruct.checkpoints.match import match_state, tied
from deepstruct.errors import CheckpointError, InputError, MissingExtraError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Described:
    """What a config.json says.

    Attributes:
        text: of the file; the same text is the same model.
        values: what it holds.
    """

    text: str
    values: Mapping[str, Any]
    name: str = "config.json"

    def build(self, state: Mapping[str, Tensor], source: str, seed: int = 0) -> nn.Module:
        """The model, with fresh weights of the shapes that the state has; code that comes with the folder is not run.

        A first one without values is compared with the state, so that nothing is allocated that the checkpoint does
        not hold.

        Raises MissingExtraError without transformers, InputError for a model that transformers does not know,
        CheckpointError when the state does not fit.
        """
        import torch

        most = 16 * len(state) + 64
        for key, value in self.values.items():
            if "layer" in key and isinstance(value, int) and value > most:
                raise CheckpointError(f"{key} is {value:,}, and the checkpoint has {len(state):,} tensors")
        kind, config = self._kind()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                with torch.device("meta"):
                    hollow = kind(config)
                match_state(state, hollow.state_dict(), source, kind.__name__, tied(hollow))
                model: nn.Module = kind(config).eval()
            except CheckpointError:
                raise
            except Exception as error:  # of any class of transformers, about values that it does not like
                raise InputError(f"{kind.__name__} cannot be made: {type(error).__name__}: {error}") from error
        return model

    def _kind(self) -> tuple[Any, Any]:
        """(class of the model, its configuration)."""
        try:
            transformers: Any = import_module("transformers")
        except ImportError as error:
            raise MissingExtraError("building it needs transformers (pip install transformers)") from error
        wanted = self.values["model_type"]
        if wanted not in transformers.CONFIG_MAPPING:
            raise InputError(f"transformers {transformers.__version__} has no model of the type {wanted!r}")
        try:
            config = transformers.CONFIG_MAPPING[wanted].from_dict(dict(self.values))
        except Exception as error:
            raise InputError(f"the configuration is none: {type(error).__name__}: {error}") from error
        if getattr(config, "use_cache", False):
            config.use_cache = False  # what is kept for the next token is no output
        names = self.values.get("architectures")
        name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
        try:
            found = getattr(transformers, name, None) if name else None
        except ImportError as error:  # its modules are imported now, and some of them need other packages
            raise MissingExtraError(f"transformers cannot import {name}: {error}") from error
        if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
            try:
                found = transformers.MODEL_MAPPING[type(config)]
            except KeyError as error:
                raise InputError(f"transformers {transformers.__version__} has no model {name or wanted!r}") from error
        return found, config


def described(place: Path) -> Described | None:
    """What the config.json of a folder describes; None where there is none, or it names no type of model."""
    file = place / Described.name
    try:
        if not place.is_dir() or not file.is_file():
            return None
        text = file.read_text(encoding="utf-8")
        values = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return None  # then the weights are measured by themselves
    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        return None
    return Described(text, values)
