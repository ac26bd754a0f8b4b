"""Packaging that pyproject.toml cannot say: the sources of the kernels, and building them where possible.

DEEPSTRUCT_BUILD_EXT=auto (the default) builds the extension if torch and a compiler are here, 1 insists, and
0 leaves it out. With build isolation torch is not here: `deepstruct build-ext` does it later.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

ROOT = Path(__file__).resolve().parent
SOURCES = ROOT / "csrc" / "masked"
MODE = os.environ.get("DEEPSTRUCT_BUILD_EXT", "auto")
if MODE not in ("auto", "0", "1"):
    sys.exit(f"DEEPSTRUCT_BUILD_EXT={MODE!r}: write auto, 0 or 1")


def builder():
    """deepstruct/sparse/build.py by its path: deepstruct itself is not importable yet."""
    spec = importlib.util.spec_from_file_location(
        "deepstruct_build", ROOT / "deepstruct" / "sparse" / "build.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildPy(build_py):
    def run(self):
        super().run()
        package = (ROOT if self.editable_mode else Path(self.build_lib)) / "deepstruct"
        if not self.editable_mode and SOURCES.is_dir():
            shutil.copytree(SOURCES, package / "_csrc" / "masked", dirs_exist_ok=True)
        if MODE == "0":
            return
        build = builder()
        try:
            target = build.build(package / f"_masked.abi3{build.suffix()}")
            print(f"deepstruct: built {target.name}")
        except build.BuildError as error:
            if MODE == "1":
                sys.exit(f"DEEPSTRUCT_BUILD_EXT=1, but the extension cannot be built: {error}")
            print(f"deepstruct: without compiled kernels ({error}); `deepstruct build-ext` builds them later")


class Binary(Distribution):
    def has_ext_modules(self):
        # The wheel is for one platform as soon as it may hold a library.
        return MODE != "0" and SOURCES.is_dir() and importlib.util.find_spec("torch") is not None


setup(cmdclass={"build_py": BuildPy}, distclass=Binary)
