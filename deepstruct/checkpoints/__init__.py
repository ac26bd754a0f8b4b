"""Reading checkpoints: which reader opens a file, what in it is the model's state, and loading it."""

from __future__ import annotations

from deepstruct.checkpoints.folder import checkpoint_files
from deepstruct.checkpoints.load import load_state_dict, load_weights

__all__ = ["checkpoint_files", "load_state_dict", "load_weights"]
