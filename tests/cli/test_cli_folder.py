"""emorig edit on folders: all below them, nothing twice, nothing lost, by one process or by two."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image
from processes import start_two
from recording_pipeline import RecordingPipeline

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.cli import main, models

FACE = skimage.data.astronaut()[:240, 110:330]


@pytest.fixture(scope="module")
def pipeline(pipe: EmoRigPipeline) -> RecordingPipeline:
    return RecordingPipeline(**pipe.components)


@pytest.fixture
def recorder(pipeline: RecordingPipeline, monkeypatch: pytest.MonkeyPatch) -> RecordingPipeline:
    """What the command works with."""
    monkeypatch.setattr(models, "load_pipeline", lambda name: pipeline)
    pipeline.calls.clear()
    return pipeline


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Photos in a folder, in one below it and in one below that."""
    for name in ("a.png", "b.jpg", "trip/a.png", "trip/day/c.webp"):
        write(tmp_path / "album" / name)
    return tmp_path / "album"


def write(path: Path, pixels: np.ndarray = FACE, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def edit(folder: Path, out: Path, *words: str) -> int:
    return main.main(["edit", str(folder), "--emotion", "happy", "-o", str(out), *words])


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_folder_run_goes_on_after_bad_photos(
    recorder: RecordingPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "photos", tmp_path / "made" / "results"
    write(folder / "b_good.png")
    write(folder / "coffee.png", skimage.data.coffee())
    (folder / "a_text.jpg").write_text("This is no picture.")
    (folder / "empty.webp").touch()
    (folder / "notes.txt").write_text("Not meant.")
    assert edit(folder, out, "--seed", "3") == 1
    printed, err = capsys.readouterr()
    assert files(out) == ["b_good.png"]
    assert printed.splitlines()[-1] == "1 of 4 photos edited, 3 failed"
    first, *lines = err.splitlines()
    assert first == "emorig: 1 file is left out, as no photo: 1 .txt."
    for line, name in zip(lines, ("a_text.jpg", "coffee.png", "empty.webp"), strict=True):
        assert line.startswith("emorig: ") and name in line
    [(source, asked)] = recorder.calls
    assert source == folder / "b_good.png" and (asked["emotion"], asked["seed"]) == ("happy", 3)
    assert (np.asarray(Image.open(out / "b_good.png")) != FACE).any()


def test_folders_below_are_kept(recorder: RecordingPipeline, album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A result's folder within the album is no part of it; hidden files are nobody's business."""
    (album / ".hidden.jpg").write_text("none")
    out = album / "happy"
    for words in ((), ("--skip-existing",)):
        assert edit(album, out, *words) == 0
        assert files(out) == ["a.png", "b.jpg", "trip/a.png", "trip/day/c.webp"]
    assert capsys.readouterr() == (
        "4 of 4 photos edited, 0 failed\n0 of 4 photos edited, 0 failed, 4 were there already\n", ""
    )
    assert edit(album / "trip", album.parent / "trip") == 0
    assert files(album.parent / "trip") == ["a.png", "day/c.webp"]


def test_every_kind_of_photo(recorder: RecordingPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    for name in ("a.jpg", "b.bmp", "c.avif", "d.jfif"):
        write(folder / name)
    write(folder / "a.gif", save_all=True, append_images=[Image.fromarray(FACE[::-1])])
    for name in ("film.mov", "film.MOV", "README"):
        (folder / name).write_text("no photo")
    assert edit(folder, out) == 0
    assert files(out) == ["a.jpg", "a.png", "b.bmp", "c.avif", "d.jfif"]
    printed, err = capsys.readouterr()
    assert printed == "5 of 5 photos edited, 0 failed\n"
    assert err.splitlines() == [
        "emorig: 3 files are left out, as no photo: 2 .mov, 1 without a suffix.",
        f"emorig: '{folder / 'a.gif'}' holds 2 pictures: only the first is edited.",
    ]
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mov").write_text("no photo")
    assert edit(tmp_path / "films", out) == 2
    assert ".heic" in (line := capsys.readouterr().err) and line.endswith(", but 1 .mov.\n")


def test_results_that_are_there_are_left_out(
    recorder: RecordingPipeline, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    mine = write(out / "trip" / "a.png", FACE[::-1]).read_bytes()
    assert edit(album, out, "--skip-existing") == 0
    assert (out / "trip" / "a.png").read_bytes() == mine and len(recorder.calls) == 3
    assert capsys.readouterr().out == "3 of 4 photos edited, 0 failed, 1 were there already\n"
    assert edit(album, out) == 0 and (out / "trip" / "a.png").read_bytes() != mine
    capsys.readouterr()
    recorder.calls.clear()
    one = ["edit", str(album / "a.png"), "--emotion", "sad", "--skip-existing", "-o", str(tmp_path / "one.png")]
    for _ in range(2):
        assert main.main(one) == 0
        assert capsys.readouterr() == (f"{tmp_path / 'one.png'}\n", "")
    assert len(recorder.calls) == 1


def test_an_interrupted_run_says_how_far_it_came_and_goes_on(
    recorder: RecordingPipeline, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out, call = tmp_path / "out", RecordingPipeline.__call__

    def interrupt(self: RecordingPipeline, *args: Any, **options: Any) -> Any:
        if len(self.calls) == 2:
            raise KeyboardInterrupt
        return call(self, *args, **options)

    monkeypatch.setattr(RecordingPipeline, "__call__", interrupt)
    assert edit(album, out) == 130
    line = "emorig: interrupted: 2 of 4 photos done, 0 failed; run again with --skip-existing to go on.\n"
    assert capsys.readouterr() == ("", line)
    assert files(out) == ["a.png", "b.jpg"]
    monkeypatch.setattr(RecordingPipeline, "__call__", call)
    assert edit(album, out, "--skip-existing") == 0
    assert capsys.readouterr().out == "2 of 4 photos edited, 0 failed, 2 were there already\n"
    assert len(recorder.calls) == 4


def test_an_odd_error_costs_one_photo(
    recorder: RecordingPipeline, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    encode = RecordingPipeline.encode

    def fail(self: RecordingPipeline, *args: Any) -> Any:
        if not self.calls:
            self.calls.append((None, {}))
            raise RuntimeError("out of\nmemory")
        return encode(self, *args)

    monkeypatch.setattr(RecordingPipeline, "encode", fail)
    assert edit(album, tmp_path / "out") == 1
    assert capsys.readouterr() == (
        "3 of 4 photos edited, 1 failed\n",
        f"emorig: '{album / 'a.png'}': RuntimeError: out of memory\n",
    )


def test_two_processes_do_what_one_does(
    pipe: EmoRigPipeline, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Really; the second process goes on with what is left of both."""
    (album / "none.png").write_text("no photo")
    monkeypatch.setattr(models, "load_pipeline", lambda name: pipe)
    assert edit(album, tmp_path / "one", "--intensity", ".6") == 1
    told = capsys.readouterr().out
    assert told == "4 of 5 photos edited, 1 failed\n"
    write(tmp_path / "two" / "b.jpg")
    words = ("edit", album, "--emotion", "happy", "--intensity", ".6", "--skip-existing", "-o", tmp_path / "two")
    scripts = start_two(tmp_path, "emorig_diffusers", *words)
    assert [script.wait() for script in scripts] == [1, 1], [script.output for script in scripts]
    told = "3 of 5 photos edited, 1 failed, 1 were there already"
    assert told in scripts[0].output and "edited" not in scripts[1].output
    assert files(tmp_path / "two") == files(tmp_path / "one")
    for name in files(tmp_path / "one"):
        if name != "b.jpg":
            pair = [np.asarray(Image.open(tmp_path / which / name)).astype(int) for which in ("one", "two")]
            assert np.abs(pair[0] - pair[1]).max() <= 1, name
    assert not [name for name in os.listdir(tmp_path / "two") if name.startswith(".")]
