"""The ±1 attribute lists: read, written, and every way to break one."""

from __future__ import annotations

from pathlib import Path

import pytest

from emorig_diffusers.data.attributes import (
    ONE_HOT_NAMES,
    one_hot_label,
    one_hot_rows,
    read_attributes,
    write_attributes,
)
from emorig_diffusers.data.sources import DataError
from emorig_diffusers.face.emotions import EMOTIONS

CELEBA = "2\nBald   Smiling Young \n000001.jpg -1  1  1\n000002.jpg\t 1 -1 -1 \n\n"


def test_celebas_list_is_read(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(CELEBA.replace("\n", "\r\n").encode())
    names, rows = read_attributes(tmp_path / "list.txt")
    assert names == ("Bald", "Smiling", "Young")
    assert rows == {"000001.jpg": (-1, 1, 1), "000002.jpg": (1, -1, -1)}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path, rows = tmp_path / "list.txt", {"b.png": (1, -1), "a.png": (-1, -1)}
    path.write_text("an older list")
    write_attributes(path, ["Happy", "Glasses"], rows)
    assert path.read_text() == "2\nHappy Glasses\nb.png 1 -1\na.png -1 -1\n"
    names, read = read_attributes(path)
    assert names == ("Happy", "Glasses") and list(read.items()) == list(rows.items())
    assert [file.name for file in tmp_path.iterdir()] == ["list.txt"]


def test_emotions_as_one_hot_rows(tmp_path: Path) -> None:
    labels = ["happy", "contempt", *EMOTIONS]
    names, rows = one_hot_rows(labels)
    write_attributes(tmp_path / "list.txt", names, rows)
    first = (tmp_path / "list.txt").read_text().splitlines()[:4]
    assert first == [
        "10",
        "Label_0 Label_1 Label_2 Label_3 Label_4 Label_5 Label_6 Label_7",
        "0.jpg -1 1 -1 -1 -1 -1 -1 -1",
        "1.jpg -1 -1 -1 -1 -1 -1 -1 1",
    ]
    names, read = read_attributes(tmp_path / "list.txt")
    assert names == ONE_HOT_NAMES
    assert [one_hot_label(row) for row in read.values()] == labels
    assert one_hot_label([-1] * 8) is None and one_hot_label([1, 1] + [-1] * 6) is None


@pytest.mark.parametrize("text, message", [
    ("", "is no attribute list: line 1 must be the count of rows, line 2 the names"),
    ("2\n", "is no attribute list"),
    ("000001.jpg 2880\n000002.jpg 2937\n", "is no attribute list"),
    ("3" + CELEBA[1:], "line 1: the count is 3, but 2 rows follow"),
    (CELEBA.replace("-1 -1", "-1"), "line 4: 2 values for 3 names"),
    (CELEBA.replace(".jpg -1", " a.jpg -1"), "line 3: 4 values for 3 names"),
    (CELEBA.replace("-1  1", "0  1"), "line 3: '0' is not a value; every value must be 1 or -1"),
    (CELEBA.replace("000002", "000001"), "line 4: 000001.jpg is listed twice"),
])  # fmt: skip
def test_broken_lists(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_attributes(tmp_path / "list.txt")


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "list.txt", tmp_path / "none.txt", tmp_path):
        with pytest.raises(DataError, match="cannot be read .*: give a text file"):
            read_attributes(path)


@pytest.mark.parametrize("names, rows, message", [
    (["A"], {"a b.jpg": (1,)}, "'a b.jpg' cannot stand in an attribute list"),
    (["A", ""], {}, "'' cannot stand"),
    (["A", "B"], {"a.jpg": (1,)}, r"The row of a.jpg must be 2 values of 1 or -1, got \[1\]"),
    (["A"], {"a.jpg": (0,)}, "must be 1 values"),
])  # fmt: skip
def test_rows_that_cannot_be_written(
    names: list[str], rows: dict[str, tuple[int, ...]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        write_attributes(tmp_path / "list.txt", names, rows)
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Cannot write the attribute list .*: No such file or directory"):
        write_attributes(tmp_path / "none" / "list.txt", ["A"], {})


def test_labels_that_are_no_emotions() -> None:
    with pytest.raises(DataError, match="Picture 1 has the label None: use one of neutral, "):
        one_hot_rows(["happy", None])
