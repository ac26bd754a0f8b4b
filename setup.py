"""Packaging that pyproject.toml cannot say: the sources of the kernels, and building them where possible.

DEEPSTRUCT_BUILD_EXT=auto (the default) builds the extensions if a compiler is here, and torch for those that need
it; 1 insists, and 0 leaves them out. With build isolation torch is not here: `deepstruct build-ext` does it later.
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
SOURCES = ROOT / "csrc"
KINDS = ("graph", "masked")
MODE = os.environ.get("DEEPSTRUCT_BUILD_EXT", "auto")
if MODE not in ("auto", "0", "1"):
    sys.exit(f"DEEPSTRUCT_BUILD_EXT={MODE!r}: write auto, 0 or 1")


def builder():
    """deepstruct/_build.py by its path: deepstruct itself is not importable yet."""
    spec = importlib.util.spec_from_file_location("deepstruct_build", ROOT / "deepstruct" / "_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildPy(build_py):
    def run(self):
        super().run()
        package = (ROOT if self.editable_mode else Path(self.build_lib)) / "deepstruct"
        if not self.editable_mode:
            for kind in KINDS:
                if (SOURCES / kind).is_dir():
                    shutil.copytree(SOURCES / kind, package / "_csrc" / kind, dirs_exist_ok=True)
        if MODE == "0":
            return
        build = builder()
        for make, name in (
            (build.build_graph, build.extension_name("_graph")),
            (build.build_masked, f"_masked.abi3{build.suffix()}"),
        ):
            try:
                print(f"deepstruct: built {make(package / name).name}")
            except build.BuildError as error:
                if MODE == "1":
                    sys.exit(f"DEEPSTRUCT_BUILD_EXT=1, but {name} cannot be built: {error}")
                print(f"deepstruct: without {name} ({error}); `deepstruct build-ext` builds it later")


class Binary(Distribution):
    def has_ext_modules(self):
        # The wheel is for one platform as soon as it may hold a library.
        return MODE != "0" and SOURCES.is_dir()


setup(cmdclass={"build_py": BuildPy}, distclass=Binary)
