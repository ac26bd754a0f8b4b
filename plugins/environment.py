"""Makes an environment for the plugins of this repository: `python plugins/environment.py FOLDER LINKS`.

A new virtual environment at FOLDER that sees the packages of the running one through links at LINKS, so that
nothing large is installed twice. Left out are torchvision and timm, which fit a torch of their own: libraries
that find them import them. The packages of requirements/plugins.txt and the plugins themselves are installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HIDDEN = ("torchvision", "timm", "pip")


def main(folder: Path, links: Path) -> None:
    """Make the environment anew."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(links, ignore_errors=True)
    venv.create(folder, with_pip=True)
    share(Path(sysconfig.get_paths()["purelib"]), links)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    # Python 3.11 and older bring a setuptools of their own, which would hide the newer one that is shared.
    subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "setuptools"], check=True)
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = subprocess.check_output([python, "-c", code], text=True)
    # addsitedir also reads the .pth files of the shared packages, which editable ones need.
    (Path(site.strip()) / "shared.pth").write_text(f"import site; site.addsitedir({str(links.resolve())!r})\n")
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    requirements, pins = ROOT / "requirements", links.parent / "shared-pins.txt"
    # What is shared stays as it is: pip may neither replace nor hide it.
    pins.write_text("".join(f"{d.metadata['Name']}=={d.version}\n" for d in distributions(path=[str(links)])))
    subprocess.run([*pip, "-c", pins, "-r", requirements / "plugins.txt"], check=True)
    for plugin in plugins():
        # From a copy: a build leaves its traces beside the source.
        copy = links.parent / "plugin-sources" / plugin.name
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(plugin, copy, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
        subprocess.run([*pip, "--no-deps", "--no-build-isolation", copy], check=True)


def share(source: Path, links: Path) -> None:
    """Link every package of `source`. The links lie outside of the environment, so that pip removes none."""
    links.mkdir(parents=True)
    for entry in sorted(source.iterdir()):
        if not entry.name.startswith(HIDDEN) and entry.name != "__pycache__":
            (links / entry.name).symlink_to(entry)


def plugins() -> list[Path]:
    """The plugin packages that have tests."""
    found = (path.parent for path in (ROOT / "plugins").glob("*/tests"))
    return sorted(path for path in found if (path / "pyproject.toml").exists())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
