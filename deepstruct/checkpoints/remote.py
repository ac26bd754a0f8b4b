"""Checkpoints behind URLs, through fsspec: listed, told apart, and copied to this machine one by one."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from deepstruct.checkpoints.distributed import METADATA
from deepstruct.checkpoints.readers import CONFIGS, FOLDER_FILES, shards_in
from deepstruct.errors import CheckpointError, InputError, MissingExtraError


class Remote(NamedTuple):
    """One logical checkpoint: `path` on its file system, and the files that it is made of (none: it is the file)."""

    path: str
    members: tuple[str, ...] = ()


def is_url(text: str) -> bool:
    """Whether it is for fsspec: a scheme of two letters or more, then "://"."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.\-]+://", text) is not None


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path there."""
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtraError(f"{url} is a URL: reading it needs fsspec (pip install fsspec)") from error
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(f"{url} cannot be reached: {error}") from error
    return fs, path


def listing(url: str) -> tuple[Any, dict[str, Mapping[str, Any]]]:
    """(file system, path -> what it tells) of a file, of the files of a pattern, or of all below a folder."""
    fs, path = filesystem(url)
    try:
        if glob.has_magic(path):
            found = fs.glob(path, detail=True)
        elif fs.isdir(path):
            found = fs.find(path, detail=True)
        else:
            found = {path: fs.info(path)}
    except FileNotFoundError as error:
        raise InputError(f"there is nothing at {url}") from error
    except Exception as error:
        raise InputError(f"{url} cannot be listed: {type(error).__name__}: {error}") from error
    return fs, {name: about for name, about in found.items() if about.get("type") != "directory"}


def together(files: Mapping[str, Any], read: Callable[[str], bytes]) -> Iterator[Remote]:
    """The logical checkpoints among files: folders of Hugging Face and of DCP, indexes with their shards, and others.

    Args:
        files: paths, of which those of one folder belong together.
        read: the bytes of one of them; what it raises makes an index stand alone, to be reported when it is read.
    """
    folders: dict[str, set[str]] = {}
    for path in files:
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, set()).add(name)
    for folder, names in folders.items():

        def at(members: list[str], folder: str = folder) -> tuple[str, ...]:
            return tuple(f"{folder}/{name}" for name in members)

        configs = [name for name in CONFIGS if name in names]
        weights = next((name for name in FOLDER_FILES if name in names), None) if configs else None
        if weights is not None:  # other files of weights are the same ones in another format
            yield Remote(folder, at([*configs, weights, *_shards(f"{folder}/{weights}", read)]))
            continue
        if METADATA in names:
            parts = {name for name in names if name.endswith(".distcp")}
            yield Remote(folder, at([METADATA, *sorted(parts)]))
            names = names - parts - {METADATA}
        indexes = {name: _shards(f"{folder}/{name}", read) for name in names if name.endswith(".index.json")}
        taken = {shard for shards in indexes.values() for shard in shards}
        for name in sorted(names - taken):
            yield Remote(f"{folder}/{name}" if folder else name, at([name, *indexes[name]]) if name in indexes else ())


def _shards(index: str, read: Callable[[str], bytes]) -> list[str]:
    """Names of the shards of an index; none of a file that is no index, or a broken one."""
    if not index.endswith(".index.json"):
        return []
    try:
        return sorted(shards_in(read(index).decode(), index))
    except (CheckpointError, OSError, UnicodeDecodeError):
        return []  # its reader says what is wrong with it


def fetch(url: str, members: tuple[str, ...], folder: Path) -> Path:
    """Copy a checkpoint into a folder of this machine; where it lies there. Raises CheckpointError."""
    fs, path = filesystem(url)
    target = folder / (path.rstrip("/").rpartition("/")[2] or "checkpoint")
    place = target if members and not target.name.endswith(".index.json") else folder  # an index lies beside its shards
    place.mkdir(exist_ok=True)
    for member in members or (path,):
        copy = place / member.rpartition("/")[2] if members else target
        try:
            fs.get_file(member, str(copy))
        except Exception as error:
            raise CheckpointError(f"{url} cannot be fetched: {type(error).__name__}: {error}") from error
    return target


def stamp(about: Mapping[str, Any]) -> str:
    """What changes when the file does, as far as its file system tells."""
    keys = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created")
    return next((str(about[key]) for key in keys if about.get(key)), "")
