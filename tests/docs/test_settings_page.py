"""docs/settings.md lists exactly the settings that there are, and the package reads no other."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from deepstruct.metrics.settings import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
READS = re.compile(r"""settings(?:\.get\(|\[)\s*["'](\w+)["']""")


def test_the_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("generate_settings", ROOT / "docs" / "generate_settings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.current(), "run: python docs/generate_settings.py"


def test_every_setting_that_is_read_is_listed() -> None:
    files = [*(ROOT / "deepstruct" / "analyzers").rglob("*.py"), *(ROOT / "deepstruct" / "metrics").rglob("*.py")]
    read = {name for file in files for name in READS.findall(file.read_text())}
    assert "max_operations" in read
    assert read - {s.name for s in SETTINGS} == set()
