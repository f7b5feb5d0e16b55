"""The pages under docs/ say what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from emorig_diffusers.painting.photo_texture import STAGES

DOCS, PACKAGE = (Path(__file__).parents[1] / name for name in ("docs", "emorig_diffusers"))


def test_table_of_settings_is_up_to_date() -> None:
    checked = subprocess.run([sys.executable, DOCS / "settings.py", "--check"], capture_output=True, text=True)
    assert not checked.returncode, checked.stderr


def test_house_shows_every_folder_and_stage_in_order() -> None:
    rows = [line.split("|")[1].strip() for line in (DOCS / "house.md").read_text("utf-8").splitlines() if "| `" in line]
    order = lambda names: [rows.index(f"`{name}`") for name in names]
    assert order(stage.__name__ for stage in STAGES) == sorted(order(stage.__name__ for stage in STAGES))
    folders = {f"{file.parent.name}/" for file in PACKAGE.glob("*/__init__.py")}
    assert {row.strip("`") for row in rows} == folders | {stage.__name__ for stage in STAGES}


def test_files_that_the_house_names_are_there() -> None:
    page = (DOCS / "house.md").read_text("utf-8")
    named = re.findall(r"`((?:\w+/)+\w+\.py)`", page)
    assert len(named) > 5 and not [name for name in named if not (PACKAGE / name).is_file()]
