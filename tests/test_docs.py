"""The pages under docs/ say what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_table_of_settings_is_up_to_date() -> None:
    checked = subprocess.run([sys.executable, DOCS / "settings.py", "--check"], capture_output=True, text=True)
    assert not checked.returncode, checked.stderr
