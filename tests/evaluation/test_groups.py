"""`emorig evaluate --by`: groups of a CSV and of skin tone, their figures, and every way a CSV can be wrong."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from emorig_diffusers.cli import main
from emorig_diffusers.evaluation.groups import (
    CLASSES,
    FEW,
    PATCHES,
    Grouping,
    by_ita,
    check_groupings,
    read_csv,
    split,
    typology_angle,
)
from emorig_diffusers.evaluation.report import write_report
from emorig_diffusers.evaluation.run import Evaluation
from emorig_diffusers.evaluation.table import ALL, Record, bootstrap
from emorig_diffusers.photo.faces import Face, find_faces

PHOTOS = ["a", "b", "c", "d.e"]


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text("photo,age,sex\nb.jpg,old,f\na,young,m\n\nd.e.PNG,old,\nc,young,f\n", "utf-8")
    return path


def test_groups_of_a_csv(labels: Path) -> None:
    age, sex = read_csv(labels, PHOTOS)
    assert (age.name, age.groups, age.left_out) == ("age", {"old": ["b", "d.e"], "young": ["a", "c"]}, [])
    assert (sex.name, sex.groups, sex.left_out) == ("sex", {"f": ["b", "c"], "m": ["a"]}, ["d.e"])
    assert read_csv(labels, [*PHOTOS, "z"])[0].left_out == ["z"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "needs a first line of names"),
        ("photo\na\n", "needs a first line of names"),
        ("photo,age\n", "needs a first line of names"),
        ("photo,age,age\na,1,2\n", "a name of its own for each column"),
        ("photo,\na,1\n", "a name of its own for each column"),
        ("photo,age\na,1\na.jpg,2\n", "names the photo 'a' twice"),
        ("photo,age\na,1,2\n", "the line of 'a' has 3 cells, the first line 2"),
        ("photo,age\nx,1\ny,2\nz,2\nw,1\na,1\n", "not among the sources: x, y, z and 1 more"),
        ("photo,age\na,\nb,\n", "The column 'age' of '.*' is empty"),
        ("photo,age\na,1\nb,1\n", "puts all photos into one group, '1'"),
        ("photo,age\na,\xff\n", "cannot be read as a CSV in UTF-8"),
    ],
)
def test_mistakes_of_a_csv_take_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "labels.csv").write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=sentence):
        read_csv(tmp_path / "labels.csv", PHOTOS)


def test_one_name_is_one_grouping(labels: Path, tmp_path: Path) -> None:
    check_groupings([str(labels), "ita", "ita-classes"], PHOTOS)
    named = tmp_path / "ita.csv"
    named.write_text("photo,ita\na,1\nb,2\n")
    for words in (["ita", "ita"], ["ita", str(named)], [str(labels), str(labels)]):
        with pytest.raises(ValueError, match="two groupings called"):
            check_groupings(words, PHOTOS)


def painted(face: Face, rgb: np.ndarray, lab: tuple[float, float, float]) -> np.ndarray:
    """A photo whose face has one colour of skin, CIE Lab, all over it, and its own colours elsewhere."""
    colour = cv2.cvtColor(np.array(lab, np.float32).reshape(1, 1, 3), cv2.COLOR_LAB2RGB)[0, 0]
    hull, filled = cv2.convexHull(face.landmarks[:, :2].astype(np.int32)), rgb.copy()
    cv2.fillPoly(filled, [hull], [round(255 * float(c)) for c in colour])
    return filled


@pytest.fixture(scope="module")
def face(astronaut: np.ndarray) -> Face:
    return find_faces(astronaut)[0]


@pytest.mark.parametrize("lab", [(70.0, 10.0, 15.0), (60.0, 12.0, 20.0), (40.0, 12.0, 18.0), (25.0, 6.0, 6.0)])
def test_angle_is_that_of_the_skin(astronaut: np.ndarray, face: Face, lab: tuple[float, float, float]) -> None:
    expected = np.degrees(np.arctan((lab[0] - 50) / lab[2]))
    assert typology_angle(painted(face, astronaut, lab), face) == pytest.approx(expected, abs=3)


def test_one_dark_patch_does_not_count(astronaut: np.ndarray, face: Face) -> None:
    """A fringe on the forehead."""
    photo = painted(face, astronaut, (65.0, 10.0, 18.0))
    whole = typology_angle(photo, face)
    cv2.fillPoly(photo, [face.landmarks[list(PATCHES[2]), :2].astype(np.int32)], (20, 12, 8))
    assert typology_angle(photo, face) == pytest.approx(whole, abs=0.5)


def test_monochrome_photos_have_no_angle(astronaut: np.ndarray, face: Face) -> None:
    grey = np.repeat(cv2.cvtColor(astronaut, cv2.COLOR_RGB2GRAY)[..., None], 3, -1)
    assert typology_angle(astronaut, face) is not None and typology_angle(grey, face) is None


@pytest.fixture
def photos(tmp_path: Path, astronaut: np.ndarray, face: Face) -> dict[str, Path]:
    """Four faces, light to dark, then a grey one and no face."""
    made = [painted(face, astronaut, (lightness, 10.0, 18.0)) for lightness in (80, 66, 56, 35)]
    grey = np.repeat(cv2.cvtColor(astronaut, cv2.COLOR_RGB2GRAY)[..., None], 3, -1)
    found = {}
    for name, picture in zip(("very", "light", "tan", "dark", "grey", "none"), (*made, grey, np.zeros_like(grey))):
        found[name] = tmp_path / f"{name}.png"
        Image.fromarray(picture).save(found[name])
    return found


@pytest.fixture
def known(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faces are where the astronaut's is, unless all is black."""
    from emorig_diffusers.evaluation import groups

    monkeypatch.setattr(groups, "find_faces", lambda rgb: [face] if rgb.any() else [])


@pytest.mark.usefixtures("known")
def test_thirds_and_classes(photos: dict[str, Path]) -> None:
    thirds = by_ita(photos)
    assert list(thirds.groups.values()) == [["dark", "tan"], ["light"], ["very"]]
    assert [name.split(" (")[0] for name in thirds.groups] == ["darkest third", "middle third", "lightest third"]
    assert thirds.left_out == ["grey", "none"] and "white balance" in thirds.about
    classes = by_ita(photos, classes=True)
    assert classes.groups == {"dark": ["dark"], "tan": ["tan"], "light": ["light"], "very light": ["very"]}
    assert set(classes.groups) <= set(CLASSES)


@pytest.mark.usefixtures("known")
def test_too_few_faces_to_group(photos: dict[str, Path]) -> None:
    few = {name: photos[name] for name in ("very", "dark", "grey", "none")}
    with pytest.raises(ValueError, match="Only 2 of 4 photos show a face in colour"):
        by_ita(few)
    same = dict.fromkeys("xyz", photos["tan"])
    with pytest.raises(ValueError, match="All photos are of one class of ITA, tan: use --by ita"):
        by_ita(same, classes=True)


# figures


def record(method: str, emotion: str, name: str, accuracy: float) -> Record:
    """A scored picture with a few figures."""
    key = {"method": method, "emotion": emotion, "name": name, "failure": None, "note": None, "seconds": {}}
    return key | {"accuracy": accuracy, "csim": 0.5 + accuracy / 4, "target_probability": accuracy, "top": emotion}


@pytest.fixture
def evaluation() -> Evaluation:
    """Twelve photos; method m succeeds on the last four."""
    names = [f"p{i:02d}" for i in range(12)]
    rows = [record("m", e, n, float(i > 7)) for e in ("happy", "sad") for i, n in enumerate(names)]
    roles = ("emotion", "second", "identity", "codes", "lpips")
    return Evaluation(dict(zip(roles, roles)), ["m"], ["happy", "sad"], ["happy", "sad"], {"m": "m"}, rows)


GROUPING = Grouping("age", {"old": [f"p{i:02d}" for i in range(2, 12)], "young": ["p00", "p01"]}, [], "As labelled.")


def test_figures_are_those_of_the_groups_pictures(evaluation: Evaluation) -> None:
    groups = split(evaluation.records, ["m"], ["happy", "sad"], [GROUPING])["age"]
    assert (groups["old"].photos, groups["old"].few) == (FEW, False)
    assert (groups["young"].photos, groups["young"].few) == (2, True)
    values = [float(i > 7) for i in range(2, 12)]
    assert groups["old"].table["m"]["happy"]["accuracy"] == bootstrap(values, GROUPING.groups["old"])
    assert groups["young"].table["m"][ALL]["accuracy"].mean == 0


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from emorig_diffusers.evaluation import report

    for name in ("_plots", "_tradeoff"):
        monkeypatch.setattr(report, name, lambda *_: ())
    yield


@pytest.mark.usefixtures("no_plots")
def test_report_in_all_formats(evaluation: Evaluation, tmp_path: Path) -> None:
    files = write_report(evaluation, tmp_path, by=[GROUPING])
    assert [file.name for file in files] == ["scores.json", "report.md", "report.html", "groups.csv"]
    text, page = files[1].read_text(), files[2].read_text()
    for row in ("m: old, 10 photos", "m: young, 2 photos: few"):
        assert f"| {row} |" in text and row in page
    assert "As labelled." in text and "## By age" in text and "### By age: all emotions" in text
    lines = list(csv.DictReader(files[3].open()))
    (line,) = [r for r in lines if (r["group"], r["emotion"], r["figure"]) == ("old", "sad", "accuracy")]
    assert (line["photos"], line["few"], line["mean"], line["count"]) == ("10", "0", "0.4", "10")
    assert float(line["low"]) < 0.4 < float(line["high"])
    written = json.loads(files[0].read_text())["groups"]["age"]
    assert written["groups"]["young"]["few"] and written["groups"]["young"]["photos"] == ["p00", "p01"]
    assert written["groups"]["old"]["table"]["m"]["sad"]["accuracy"]["mean"] == 0.4


@pytest.mark.usefixtures("no_plots")
def test_without_groups_nothing_is_added(evaluation: Evaluation, tmp_path: Path) -> None:
    assert len(write_report(evaluation, tmp_path)) == 3
    assert "groups" not in json.loads((tmp_path / "scores.json").read_text())


def test_command_refuses_before_it_scores(
    tmp_path: Path, astronaut: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "source").mkdir()
    Image.fromarray(astronaut).save(tmp_path / "source/astronaut.png")
    (tmp_path / "labels.csv").write_text("photo,age\nsomebody,1\nastronaut,2\n")
    run = ["evaluate", "--source", str(tmp_path / "source"), "--pipeline", "emorig-open", "-o", str(tmp_path / "out")]
    for by, sentence in (("labels.csv", "not among the sources: somebody."), ("none.csv", "No such file")):
        assert main.main([*run, "--by", str(tmp_path / by)]) == 2
        err = capsys.readouterr().err
        assert sentence in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
