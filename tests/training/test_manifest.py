"""Manifests of people's photos: what is read, and the sentence about what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from emorig_diffusers.data.dataset import DataError
from emorig_diffusers.training.manifest import read_manifest, read_rows

ROWS = ("a0.png,a,neutral", "a1.png,a,happy", "a2.png,a,sad", "b0.png,b,neutral", "b1.png,b,happy")


def write(folder: Path, *rows: str, header: str = "file,person,expression") -> Path:
    (folder / "manifest.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def test_photos_by_person_and_expression(tmp_path: Path) -> None:
    write(tmp_path, *ROWS)
    everything = read_manifest(tmp_path)
    assert len(everything) == 5 and everything["a", "sad"] == tmp_path / "a2.png"
    assert set(read_manifest(tmp_path, ["happy"])) == {(p, e) for p in "ab" for e in ("neutral", "happy")}
    assert set(read_manifest(tmp_path, without=["a"])) == {("b", "neutral"), ("b", "happy")}
    (tmp_path / "manifest.csv").write_bytes(b"\xef\xbb\xbffile,person,note\nx.png,a,1\n")  # as Excel saves it
    assert read_rows(tmp_path, ("file", "person")) == [{"file": "x.png", "person": "a", "note": "1"}]


@pytest.mark.parametrize(
    ("rows", "options", "sentence"),
    [
        (ROWS, {"without": ["a", "carol", "dave"]}, "has nobody called carol, dave: check whom to leave out."),
        (ROWS, {"without": ["a"], "expressions": ["happy", "sad"]}, "has nobody left who acts sad: give more photos."),
        (ROWS, {"expressions": ["fear"]}, "has nobody left who acts fear: give more photos."),
        (ROWS[:1], {}, "has nobody left who acts an expression: give more photos."),
        (ROWS[1:], {}, "has no neutral photo of a: add one."),
    ],
)
def test_people_who_are_missing(rows: tuple[str, ...], options: dict, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read_manifest(write(tmp_path, *rows), **options)
    assert str(error.value) == f"{tmp_path / 'manifest.csv'} {sentence}"


def test_files_that_are_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.csv cannot be read \(No such file or directory\): it must list"):
        read_manifest(tmp_path)
    with pytest.raises(DataError, match="has no column person and no column expression: name its columns in the first"):
        read_manifest(write(tmp_path, "a.png", header="file"))
    (tmp_path / "manifest.csv").write_text("")
    with pytest.raises(DataError, match="has no column file and no"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.csv").write_bytes(b"file,person,expression\n\xff\xfe,a,b\n")
    with pytest.raises(DataError, match=r"is no CSV file in UTF-8: save it anew\.$"):
        read_manifest(tmp_path)
