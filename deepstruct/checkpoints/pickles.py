"""What a pickle would import and call, found by reading its opcodes: nothing is run."""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path

_MOST_BYTES = 64 << 20  # of a pickle that is looked through
_STRINGS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING")

_BUILTINS = {
    f"{module}.{name}"
    for module in ("builtins", "__builtin__")
    for name in ("set", "frozenset", "bytearray", "complex", "int", "float", "bool", "list", "dict", "tuple", "str")
}

_TENSORS = (
    "collections.OrderedDict",
    "torch._utils._rebuild_",
    "torch._tensor._rebuild_",
    "torch.storage.",
    "torch.serialization._get_layout",
    "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer",
)


def wanted_globals(path: Path) -> list[str]:
    """Functions and classes beyond tensors and plain containers that loading a file would import, sorted.

    Empty when there are none, or when the file is too damaged to tell.
    """
    found: set[str] = set()
    for data in _streams(path):
        found |= globals_in(data)
    return sorted(name for name in found if not _plain(name))


def globals_in(data: bytes) -> set[str]:
    """"module.name" of everything that the pickles in `data`, one after another, import."""
    found: set[str] = set()
    stream = io.BytesIO(data)
    while True:
        start = stream.tell()
        strings: list[str] = []
        memo: dict[int, str] = {}
        last = ""
        try:
            for code, argument, _ in pickletools.genops(stream):
                if code.name in _STRINGS:
                    last = argument if isinstance(argument, str) else str(argument)
                    strings.append(last)
                elif code.name == "MEMOIZE":
                    memo[len(memo)] = last
                elif code.name in ("PUT", "BINPUT", "LONG_BINPUT"):
                    memo[int(argument or 0)] = last
                elif code.name in ("GET", "BINGET", "LONG_BINGET"):
                    strings.append(memo.get(int(argument or 0), ""))
                elif code.name in ("GLOBAL", "INST"):
                    found.add(str(argument).replace(" ", "."))
                elif code.name == "STACK_GLOBAL" and len(strings) >= 2:
                    found.add(f"{strings[-2]}.{strings[-1]}")
        except (ValueError, EOFError, IndexError, OverflowError, UnicodeDecodeError):  # past the last pickle, or cut
            return found
        if stream.tell() == start:
            return found


def _streams(path: Path) -> list[bytes]:
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                return [file.read(_MOST_BYTES)]
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".pkl")]
            return [archive.open(info).read(_MOST_BYTES) for info in members[:8]]
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError):
        return []


def _plain(name: str) -> bool:
    """Whether it is part of how tensors are pickled."""
    import torch

    module, _, attribute = name.rpartition(".")
    if module == "torch":
        known = getattr(torch, attribute, None)
        return attribute.endswith(("Storage", "Tensor")) or attribute in ("Size", "device") or isinstance(
            known, torch.dtype
        )
    return name in _BUILTINS or name.startswith(_TENSORS)
