"""The checkpoint files of a folder, in the order in which they were written."""

from __future__ import annotations

import re
from pathlib import Path

from deepstruct.checkpoints.load import PathLike, find_reader
from deepstruct.errors import CheckpointError
from deepstruct.plugin import Registry, get_host


def checkpoint_files(folder: PathLike, *, registry: Registry | None = None) -> list[Path]:
    """The files of a folder that some reader takes for a checkpoint, by name with numbers by value.

    So `step-2.pt` comes before `step-10.pt`. Raises CheckpointError when the folder is missing or has none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder")
    registry = get_host().registry() if registry is None else registry
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    found = [path for path in sorted(files, key=_natural) if find_reader(path, registry) is not None]
    if not found:
        raise CheckpointError(f"{folder} holds no checkpoint among its {len(files)} files")
    return found


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", path.name)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]
