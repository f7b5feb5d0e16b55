"""What users bring: every layout is listed right, and everything else is refused in one sentence."""

from __future__ import annotations

import csv
import json
import pickle
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emorig_diffusers.data.attributes import one_hot_rows, write_attributes
from emorig_diffusers.data.lmdb_layouts import write_diffae_lmdb
from emorig_diffusers.data.sources import LAYOUTS, DataError, Dataset, count_table, open_dataset
from emorig_diffusers.face.emotions import EMOTIONS
from emorig_diffusers.photo.io import PhotoError

PICTURE = np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3)
LABELS = [0, 1, 1, 8, 9, 9, 10, 7]  # of the photos 0, 1, … of `tree` and `rows`
COUNTS = """\
Neutral 1
Happy 2
Sad 0
Surprise 0
Fear 0
Disgust 0
Anger 0
Contempt 1
None 1
Uncertain 2
Non-Face 1
total 8"""
HEADER = ["subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression",
          "valence", "arousal"]  # fmt: skip


def photos(root: Path, names: Iterable[str]) -> Path:
    """A folder with small pictures."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PICTURE).save(root / name)
    return root


def files(dataset: Dataset) -> list[str]:
    return [source.file for source in dataset.sources]


def keys(dataset: Dataset) -> list[str]:
    return [source.key for source in dataset.sources]


def tree(root: Path, images: str, annotations: str, text: bool) -> Path:
    """AffectNet's files for LABELS; numbers are stored as text, as the published ones are, or as floats."""
    photos(root, [f"{images}{i}.png" for i in range(len(LABELS))])
    (root / annotations).mkdir(parents=True, exist_ok=True)
    for i, label in enumerate(LABELS):
        values = {"exp": label, "val": -2 if label > 8 else 0.25 * i - 1, "aro": -0.5}
        for kind, value in values.items():
            np.save(root / f"{annotations}{i}_{kind}.npy", str(value) if text else float(value))
        np.save(root / f"{annotations}{i}_lnd.npy", np.zeros(136))
    return root


def rows() -> list[list[object]]:
    """AffectNet's CSV list for LABELS."""
    landmarks = ";".join(["12.5"] * 136)
    return [[f"{i % 2}/{i}.png", 5, 6, 20, 20, landmarks, n, 0.25 * i - 1, -2] for i, n in enumerate(LABELS)]


def write_csv(path: Path, lines: list[list[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(lines)
    return path


def test_a_folder(tmp_path: Path) -> None:
    photos(tmp_path, ["b.JPG", "a.png", "c.webp", "sub/hidden.png", ".hidden.png"])
    (tmp_path / "notes.txt").write_text("is left alone")
    dataset = open_dataset(tmp_path, "folder")
    assert (dataset.layout, files(dataset), keys(dataset)) == ("folder", ["a.png", "b.JPG", "c.webp"], ["a", "b", "c"])
    assert np.array_equal(dataset.read(dataset.sources[0]), PICTURE)
    assert count_table(dataset) == "Unlabelled 3\ntotal 3"
    assert open_dataset(tmp_path, "album").sources == dataset.sources


def test_keys_are_plain_and_unique(tmp_path: Path) -> None:
    names = ["a b.png", "a_b.png", "a.b.png", "a-b.png", "é.png", "猫.png", "犬.png", "x.png", "x.jpg"]
    dataset = open_dataset(photos(tmp_path, names))
    found = dict(zip(files(dataset), keys(dataset)))
    assert len(set(found.values())) == len(names)
    assert all(re.fullmatch("[A-Za-z0-9_-]+", key) for key in found.values())
    assert found["a-b.png"] == "a-b" and found["a b.png"].startswith("a_b-")
    (tmp_path / "0.png").write_bytes((tmp_path / "x.png").read_bytes())
    again = open_dataset(tmp_path)
    assert {source.file: source.key for source in again.sources if source.file != "0.png"} == found


def test_a_photo_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no photo")
    dataset = open_dataset(photos(tmp_path, ["b.png"]))
    (tmp_path / "b.png").unlink()
    for source, message in zip(dataset.sources, ("not a readable picture", "There is no file"), strict=True):
        with pytest.raises(PhotoError, match=message):
            dataset.read(source)


def test_a_data_set_goes_to_other_processes(tmp_path: Path) -> None:
    dataset = open_dataset(photos(tmp_path, ["a.png"]))
    there = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(there.read(there.sources[0]), PICTURE)


@pytest.mark.parametrize("names, first", [
    (["00000.png", "00001.png", "69999.png"], "00000.png"),
    (["00000/00000.png", "00000/00001.png", "69000/69999.png"], "00000/00000.png"),
    (["images1024x1024/00000.png", "images1024x1024/00001.png", "images1024x1024/69999.png",
      "thumbnails128x128/00000.png"], "00000.png"),
    (["images1024x1024/00000/00000.png", "images1024x1024/00000/00001.png", "images1024x1024/69000/69999.png"],
     "00000/00000.png"),
])  # fmt: skip
def test_ffhq(names: list[str], first: str, tmp_path: Path) -> None:
    dataset = open_dataset(photos(tmp_path, names))
    assert (dataset.layout, keys(dataset), dataset.dropped) == ("ffhq", ["00000", "00001", "69999"], {})
    assert files(dataset)[0] == first
    assert np.array_equal(dataset.read(dataset.sources[0]), PICTURE)


def test_ffhq_counts_other_photos(tmp_path: Path) -> None:
    dataset = open_dataset(photos(tmp_path, ["00000.png", "mine.png"]), "ffhq")
    assert (keys(dataset), dataset.dropped) == (["00000"], {"not numbered": 1})
    assert count_table(dataset) == "Unlabelled 1\nnot numbered 1\ntotal 2"


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("images, annotations", [
    ("", ""), ("images/", "annotations/"), ("v/images/", "v/annotations/")
])  # fmt: skip
def test_affectnets_tree(images: str, annotations: str, text: bool, tmp_path: Path) -> None:
    dataset = open_dataset(tree(tmp_path, images, annotations, text))
    assert dataset.layout == "affectnet"
    assert [source.label for source in dataset.sources] == ["neutral", "happy", "happy", "contempt"]
    assert [source.valence for source in dataset.sources] == [-1, -0.75, -0.5, 0.75]
    assert {source.arousal for source in dataset.sources} == {-0.5}
    assert files(dataset) == [f"{images}{i}.png" for i in (0, 1, 2, 7)]
    assert keys(dataset) == [images.replace("images/", "").replace("/", "_") + str(i) for i in (0, 1, 2, 7)]
    assert dataset.dropped == {"None": 1, "Uncertain": 2, "Non-Face": 1}
    assert count_table(dataset) == COUNTS
    assert np.array_equal(dataset.read(dataset.sources[-1]), PICTURE)
    json.dumps(dataset.sources[0].__dict__)


def test_affectnets_two_sets_share_numbers(tmp_path: Path) -> None:
    for part in ("train_set", "val_set"):
        tree(tmp_path, f"{part}/images/", f"{part}/annotations/", True)
    dataset = open_dataset(tmp_path)
    assert keys(dataset) == [f"{part}_{i}" for part in ("train_set", "val_set") for i in (0, 1, 2, 7)]


def test_affectnets_gaps_are_counted(tmp_path: Path) -> None:
    tree(tmp_path, "images/", "annotations/", True)
    photos(tmp_path, ["images/new.png", "images/1.webp"])
    (tmp_path / "images/0.png").unlink()
    (tmp_path / "annotations/2_val.npy").unlink()
    dataset = open_dataset(tmp_path)
    assert files(dataset) == ["images/1.png", "images/2.png", "images/7.png"]
    assert [source.valence for source in dataset.sources] == [-0.75, None, 0.75]
    gaps = {"missing image": 1, "missing label": 1, "repeated image": 1}
    assert dataset.dropped == gaps | {"None": 1, "Uncertain": 2, "Non-Face": 1}
    end = ["Non-Face 1", "missing image 1", "missing label 1", "repeated image 1", "total 10"]
    assert count_table(dataset).splitlines()[-5:] == end


@pytest.mark.parametrize("value, message", [
    (np.array([{}], object), "needs unpickling, which could run code: save the number again"),
    (np.array("happy"), "holds no number"),
    (np.zeros(2), "holds no number"),
    (np.array(11), "holds 11.0: AffectNet's labels are whole numbers from 0 to 10"),
    (np.array("1.5"), "holds 1.5"),
    (np.array(np.nan), "holds nan"),
    (b"", "holds no number"),
    (pickle.dumps(1), "needs unpickling"),
])  # fmt: skip
def test_affectnets_broken_labels(value: np.ndarray | bytes, message: str, tmp_path: Path) -> None:
    photos(tmp_path, ["3.png"])
    if isinstance(value, bytes):
        (tmp_path / "3_exp.npy").write_bytes(value)
    else:
        np.save(tmp_path / "3_exp.npy", value)
    with pytest.raises(DataError, match=f"3_exp.npy' {message}"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("lists, images", [
    ("", "Manually_Annotated_Images/"), ("", ""), ("Manually_Annotated_file_lists/", "Manually_Annotated_Images/")
])  # fmt: skip
def test_affectnets_lists(lists: str, images: str, header: bool, tmp_path: Path) -> None:
    photos(tmp_path, [f"{images}{row[0]}" for row in rows()])
    path = write_csv(tmp_path / f"{lists}training.csv", [HEADER] * header + rows())
    dataset = open_dataset(path)
    assert dataset.layout == "affectnet"
    assert keys(dataset) == ["0_0", "0_2", "1_1", "1_7"]
    assert [source.label for source in dataset.sources] == ["neutral", "happy", "happy", "contempt"]
    assert [source.valence for source in dataset.sources] == [-1, -0.5, -0.75, 0.75]
    assert {source.arousal for source in dataset.sources} == {None}
    assert count_table(dataset) == COUNTS
    assert np.array_equal(dataset.read(dataset.sources[0]), PICTURE)
    assert open_dataset(path.parent).sources == dataset.sources


def test_affectnets_lists_are_joined(tmp_path: Path) -> None:
    photos(tmp_path, [str(row[0]) for row in rows()[1:]])
    write_csv(tmp_path / "training.csv", [HEADER, *rows()[:3]])
    columns = [6, 8, 0, 7]  # a list with the needed columns only, in another order
    write_csv(tmp_path / "validation.csv", [[row[i] for i in columns] for row in [HEADER, *rows()[2:]]])
    dataset = open_dataset(tmp_path)
    assert [source.label for source in dataset.sources] == ["happy", "happy", "contempt"]
    unused = {"None": 1, "Uncertain": 2, "Non-Face": 1}
    assert dataset.dropped == unused | {"missing image": 1, "repeated image": 1}


@pytest.mark.parametrize("lines, message", [
    ([HEADER[:6], ["a.png"]], "has no column expression, valence, arousal"),
    ([HEADER, rows()[0][:7]], "line 2: 7 columns where 9 are needed"),
    ([HEADER, rows()[0], [*rows()[1][:6], "happy", 0, 0]], "line 3: could not convert .*'happy'; label, valence and"),
    ([HEADER, [*rows()[1][:6], 12, 0, 0]], "line 2 holds 12.0: AffectNet's labels are whole numbers from 0 to 10"),
    ([HEADER, ["none.png", *rows()[0][1:]]], "None of the photos of .* put Manually_Annotated_Images beside the list"),
    ([HEADER, rows()[3]], r"no usable photos for the layout affectnet \(left out: 1 None\)"),
    ([HEADER], "no usable photos for the layout affectnet"),
    ([["x" * 200_000]], "cannot be read .field larger than"),
])  # fmt: skip
def test_affectnets_broken_lists(lines: list[list[object]], message: str, tmp_path: Path) -> None:
    path = write_csv(photos(tmp_path, ["0/0.png", "1/1.png", "1/3.png"]) / "training.csv", lines)
    with pytest.raises(DataError, match=message):
        open_dataset(path, "affectnet")


def celeba(
    root: Path, images: str = "img_align_celeba/", listed: str = "list_attr_celeba.txt", end: str = "jpg"
) -> Path:
    photos(root, [f"{images}{i:06d}.{end}" for i in (1, 2, 4)])
    (root / listed).parent.mkdir(exist_ok=True)
    body = "".join(f"{i:06d}.jpg {'-1  1' if i % 2 else ' 1 -1'}\n" for i in (1, 2, 3))
    (root / listed).write_text(f"3\nSmiling Young \n{body}")
    (root / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    return root


@pytest.mark.parametrize("images, listed, end", [
    ("img_align_celeba/", "list_attr_celeba.txt", "jpg"),
    ("Img/img_align_celeba/", "Anno/list_attr_celeba.txt", "jpg"),
    ("img_align_celeba/img_align_celeba/", "list_attr_celeba.txt", "jpg"),
    ("CelebA-HQ-img/", "CelebAMask-HQ-attribute-anno.txt", "jpg"),
    ("", "list_attr_celeba.txt", "png"),
])  # fmt: skip
def test_celeba(images: str, listed: str, end: str, tmp_path: Path) -> None:
    dataset = open_dataset(celeba(tmp_path, images, listed, end))
    assert (dataset.layout, dataset.attribute_names) == ("celeba", ("Smiling", "Young"))
    found = [(source.key, source.label, source.attributes) for source in dataset.sources]
    assert found == [("000001", None, (-1, 1)), ("000002", None, (1, -1))]
    assert dataset.dropped == {"missing image": 1, "not listed": 1}
    assert dataset.read(dataset.sources[0]).shape == PICTURE.shape


def test_one_hot_lists_give_emotions(tmp_path: Path) -> None:
    photos(tmp_path, [f"images/{i}.png" for i in range(8)])
    write_attributes(tmp_path / "list_attr.txt", *one_hot_rows(EMOTIONS))
    dataset = open_dataset(tmp_path)
    assert [source.label for source in dataset.sources] == list(EMOTIONS)
    assert count_table(dataset).startswith("Neutral 1\nHappy 1\nSad 1\n")


def test_a_broken_attribute_list_is_said(tmp_path: Path) -> None:
    (celeba(tmp_path) / "list_attr_celeba.txt").write_text("1\nSmiling\n000001.jpg 2\n")
    with pytest.raises(DataError, match="line 3: '2' is not a value"):
        open_dataset(tmp_path)


def test_links_are_followed_once(tmp_path: Path) -> None:
    tree(tmp_path / "far", "images/", "annotations/", True)
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "set").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "loop").symlink_to(tmp_path / "far")
    assert keys(open_dataset(tmp_path / "near")) == ["set_0", "set_1", "set_2", "set_7"]


def test_folders_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("text")
    photos(tmp_path / "mixed", ["a.png", "sub/b.png"])
    photos(tmp_path / "below", ["sub/a.png"])
    tree(celeba(tmp_path / "both"), "t/", "t/", True)
    write_diffae_lmdb(photos(tmp_path / "lmdb", ["a.png"]) / "x", [np.zeros((32, 32, 3), np.uint8)], 32)
    (tmp_path / "lmdb" / "x" / "data.mdb").rename(tmp_path / "lmdb" / "data.mdb")
    messages = {
        "none": "There is no file or folder '.*none': check the path",
        "empty": "The folder '.*empty' is empty: give a folder with photos",
        "text": r"holds no photos \(.jpg .*\): give a folder with photos",
        "mixed": "mixes photos and sub-folders with photos such as '.*sub': name the layout folder",
        "below": "has photos only in sub-folders of no known layout: give one of them, as '.*sub'",
        "both": "mixes affectnet and celeba: keep one of them in a folder of its own, or name the layout",
        "lmdb": "mixes diffae_lmdb and photos",
        "text/a.txt": "is a file of no known layout: give the folder it is in",
        "mixed/a.png": "is a file of no known layout",
    }
    for name, message in messages.items():
        with pytest.raises(DataError, match=message) as error:
            open_dataset(tmp_path / name)
        assert str(error.value).count("\n") == 0
    for name, layout in (("mixed", "folder"), ("both", "celeba"), ("both", "affectnet"), ("lmdb", "diffae_lmdb")):
        assert open_dataset(tmp_path / name, layout).layout == layout


def test_layouts_that_do_not_fit(tmp_path: Path) -> None:
    photos(tmp_path, ["a.png", "b.png"])
    messages = {
        "affectnet": "has no files <id>_exp.npy: give AffectNet's folder, or its CSV list",
        "celeba": "has no attribute list such as list_attr_celeba.txt",
        "ffhq": r"no usable photos for the layout ffhq \(left out: 2 not numbered\)",
        "diffae_lmdb": "is no LMDB: give the folder that holds data.mdb",
        "diffusionrig_lmdb": "is no LMDB",
        "imagenet": f"Unknown layout 'imagenet': choose auto, {', '.join(LAYOUTS)}",
    }
    for layout, message in messages.items():
        with pytest.raises(DataError, match=message):
            open_dataset(tmp_path, layout)
    for layout in ("folder", "album", "ffhq", "celeba"):
        with pytest.raises(DataError, match="is a file: give the folder with the photos"):
            open_dataset(tmp_path / "a.png", layout)
