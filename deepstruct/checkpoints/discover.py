"""From what a person names (files, folders, patterns, URLs) to a list of logical checkpoints."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deepstruct.checkpoints.distributed import METADATA
from deepstruct.checkpoints.load import find_reader
from deepstruct.checkpoints.readers import SUFFIXES, shards_of, weights_in_folder
from deepstruct.checkpoints.remote import is_url, listing, stamp, together
from deepstruct.errors import CheckpointError, InputError
from deepstruct.plugin import Registry

_SURE = 20  # what a reader must score for a file of a folder to be taken for a checkpoint
NAMED = (*SUFFIXES, ".safetensors")
"""What the name of a checkpoint file ends with."""

_BESIDE = re.compile(
    r"(optimizer|scheduler|scaler|rng_state.*|random_states.*|training_args|loss)\.(pt|pth|bin)", re.IGNORECASE
)
"""What the Hugging Face trainer keeps beside the weights."""


@dataclass(frozen=True)
class Found:
    """One logical checkpoint: a file, or a folder or index that stands for several files.

    Attributes:
        path: absolute path, or URL.
        size: bytes, of a folder 0.
        stamp: changes when the file does: modification time in nanoseconds, or what the remote system tells.
        problem: why it cannot be a checkpoint, "" when nothing speaks against it.
        members: behind a URL, the files of a checkpoint of several, as paths of its file system.
    """

    path: str
    size: int = 0
    stamp: str = ""
    problem: str = ""
    members: tuple[str, ...] = ()

    @property
    def remote(self) -> bool:
        return is_url(self.path)


def discover(sources: Iterable[str | os.PathLike[str]], registry: Registry) -> list[Found]:
    """Every checkpoint of the sources, each once, by name with numbers by value ("step-2" before "step-10").

    A folder is searched with everything below it; links are followed, loops of them told. What is named as a
    checkpoint and cannot be one (a folder `x.pt`, a broken link, a file that may not be read) is among them, with
    its problem. Raises InputError when a source does not exist, or nothing is found.
    """
    found: dict[str, Found] = {}
    given = [os.fspath(source) for source in sources]
    for source in given:
        items = list(_of(source, registry))
        found.update({item.path: item for item in items})
        if not items:
            raise InputError(f"{source} holds no checkpoint (files of torch.save, safetensors, or folders of them)")
    return sorted(found.values(), key=lambda item: natural(item.path))


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key: numbers inside a name count by their value."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(part), "") if part.isascii() and part.isdigit() else (0, 0, part) for part in parts]


def _of(source: str, registry: Registry) -> Iterator[Found]:
    if is_url(source):
        yield from _remote(source)
        return
    path = Path(os.path.abspath(os.path.expanduser(source)))
    if glob.has_magic(source) and not os.path.lexists(path):
        matches = sorted(glob.glob(str(path), recursive=True), key=natural)
        if not matches:
            raise InputError(f"no file matches {source!r}")
        for match in matches:
            yield from _local(Path(match), registry, True)
        return
    if not os.path.lexists(path):
        raise InputError(f"there is no file or folder {source}")
    yield from _local(path, registry, True)


def _local(path: Path, registry: Registry, named: bool) -> Iterator[Found]:
    """What a path that the user named, or a folder below it, holds."""
    if path.is_dir():
        yield from _folder(path, registry, set(), named)
    else:
        yield _file(path)


def _folder(folder: Path, registry: Registry, above: set[str], named: bool) -> Iterator[Found]:
    """Checkpoints at and below a folder. `above`: real paths of the folders that it lies in."""
    real = os.path.realpath(folder)
    if real in above:
        yield Found(str(folder), problem=f"a link to a folder that it lies in ({real}): not followed")
        return
    try:
        entries = sorted(os.listdir(folder), key=natural)
    except OSError as error:
        yield Found(str(folder), problem=f"the folder cannot be read: {error.strerror or error}")
        return
    if (folder / METADATA).is_file() or weights_in_folder(folder) is not None:
        yield _whole(folder)
        trainer = weights_in_folder(folder) is not None
        taken = {folder / name for name in entries if not (folder / name).is_dir()}
        if trainer:  # other files of weights are the same ones in another format
            entries = [name for name in entries if folder / name not in taken]
        else:
            entries = [name for name in entries if not name.endswith(".distcp") and name != METADATA]
    elif folder.suffix.lower() in NAMED:
        yield Found(str(folder), problem="it is a folder, though its name is that of a file")
    shards = _shards(folder, entries)
    for name in entries:
        path = folder / name
        if path.is_dir():
            yield from _folder(path, registry, above | {real}, False)
        elif name not in shards and not name.startswith(".") and not _BESIDE.fullmatch(name):
            yield from _candidate(path, registry)


def _candidate(path: Path, registry: Registry) -> Iterator[Found]:
    """A file inside a folder: only what is named or looks like a checkpoint."""
    named = path.suffix.lower() in NAMED or path.name.endswith(".index.json")
    if not named:
        try:
            mode = path.stat().st_mode
            if not stat.S_ISREG(mode) or find_reader(path, registry, least=_SURE) is None:
                return
        except (OSError, CheckpointError):
            return  # neither its name nor its content says that it is a checkpoint
    yield _file(path)


def _file(path: Path) -> Found:
    try:
        about = path.stat()
    except OSError as error:
        return Found(str(path), problem=f"it cannot be opened: {error.strerror or error}")
    if not stat.S_ISREG(about.st_mode):
        return Found(str(path), problem="it is neither a file nor a folder (a pipe, a socket or a device)")
    if path.name.endswith(".index.json"):
        return _whole(path)
    return Found(str(path), about.st_size, str(about.st_mtime_ns))


def _whole(path: Path) -> Found:
    """A folder, or an index of shards: its stamp covers the files that belong to it."""
    files = member_files(path)
    size, stamps = 0, []
    for file in files:
        try:
            about = file.stat()
        except OSError:
            continue  # told when it is read
        size += about.st_size
        stamps.append(f"{file.name}:{about.st_size}:{about.st_mtime_ns}")
    return Found(str(path), size, ";".join(stamps))


def member_files(path: Path) -> list[Path]:
    """The files that make up a logical checkpoint."""
    if path.is_dir():
        weights = weights_in_folder(path)
        if weights is None:
            return sorted(file for file in path.iterdir() if file.suffix == ".distcp" or file.name == METADATA)
        return member_files(weights)
    if path.name.endswith(".index.json"):
        try:
            return [path, *(path.parent / name for name in sorted(shards_of(path)))]
        except CheckpointError:
            return [path]
    return [path]


def _shards(folder: Path, names: Iterable[str]) -> set[str]:
    """Files of a folder that belong to an index there."""
    found: set[str] = set()
    for name in names:
        if name.endswith(".index.json"):
            try:
                found |= set(shards_of(folder / name))
            except CheckpointError:
                continue  # the index itself is reported
    return found


def _remote(url: str) -> Iterator[Found]:
    """What is behind a URL: a file, a pattern, or everything below a folder that is named as a checkpoint."""
    fs, files = listing(url)
    listed = glob.has_magic(url) or [path.rpartition("/")[2] for path in files] == [url.rpartition("/")[2]]
    for path, members in together(files, fs.cat_file):
        name = path.rpartition("/")[2]
        if not members and not listed and (name.startswith(".") or not name.endswith((*NAMED, ".index.json"))):
            continue
        if not members and _BESIDE.fullmatch(name):
            continue
        about = [files[member] for member in members or (path,) if member in files]
        yield Found(
            fs.unstrip_protocol(path), sum(int(one.get("size") or 0) for one in about),
            ";".join(stamp(one) for one in about) if all(stamp(one) for one in about) else "", members=members,
        )  # fmt: skip
