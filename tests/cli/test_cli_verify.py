"""`emorig verify`: its words, its JSON and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emorig_diffusers.cli.main import main
from emorig_diffusers.photo.io import save_photo
from emorig_diffusers.provenance.edits import Edit


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    plain = Image.fromarray(np.full((40, 60, 3), 90, np.uint8))
    save_photo(plain, tmp_path / "plain.png")
    plain.info["edit"] = Edit("emorig-open", "happy", 0.5)
    save_photo(plain, tmp_path / "edited.jpg")
    return [str(tmp_path / "edited.jpg"), str(tmp_path / "plain.png")]


def test_verdicts_and_exit_codes(pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    edited, plain = pictures
    assert main(["verify", edited]) == 0
    said = capsys.readouterr().out
    assert "edited (99.00 %)" in said and "emotion happy, intensity 0.5" in said and "no face" in said
    assert main(["verify", edited, plain]) == 1
    assert capsys.readouterr().out.splitlines()[1].startswith(f"{plain}: unknown: ")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    assert main(["verify", edited, str(tmp_path / "broken.jpg"), str(tmp_path / "gone.mp4")]) == 2
    captured = capsys.readouterr()
    assert edited in captured.out and len(captured.err.splitlines()) == 2


def test_json(pictures: list[str], capsys: pytest.CaptureFixture) -> None:
    main(["verify", "--json", *pictures])
    first, second = json.loads(capsys.readouterr().out)
    assert (first["verdict"], first["by_us"], first["metadata"]["edit"]["Model"]) == ("edited", True, "emorig-open")
    assert (second["verdict"], second["confidence"], second["credentials"]) == ("unknown", 0, None)
