"""What is before a mouth is told, and stays on top; eyes and brows are edited as ever."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.cli.main import main
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.models.occlusion import MOUTH_KEPT, MOUTH_NOT_LENT, MOUTH_UNITS, SEEN_UNITS, mouth_covered
from emorig_diffusers.photo.faces import choose_faces, find_faces
from emorig_diffusers.photo.landmarks import OUTER_LIPS
from emorig_diffusers.photo.masks import fill_polygon
from emorig_diffusers.photo.resample import align, paste, transform_points, warp_crop
from emorig_diffusers.pipelines.outputs import notes_of
from emorig_diffusers.training.covers.draw import SHAPES, Portrait, cover_mouth, covered_share

SIZE = 320  # pixels of the aligned crop that covers are drawn on
NOSE_BASE = 2  # landmark
pytestmark = pytest.mark.filterwarnings("ignore:The mouth")


def landmarks(photo: np.ndarray) -> np.ndarray:
    return choose_faces(find_faces(photo))[0].landmarks


@pytest.fixture(scope="module")
def portraits(astronaut: np.ndarray, hopper: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Photos with the landmarks of their faces."""
    return [(photo, landmarks(photo)) for photo in (astronaut, hopper)]


def cover(photo: np.ndarray, points: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """A photo whose mouth a drawn cover hides for the most part."""
    matrix = align(points, SIZE)
    face = Portrait(warp_crop(photo, matrix, SIZE).astype(np.float32) / 255, transform_points(matrix, points[:, :2]))
    rng = np.random.default_rng(seed)
    picture, alpha = cover_mouth(kind, face, [face], rng)
    while covered_share(alpha, face) < 0.6:
        picture, alpha = cover_mouth(kind, face, [face], rng)
    return paste(photo, picture, alpha, matrix)


@pytest.fixture(scope="module")
def masked(hopper: np.ndarray) -> np.ndarray:
    """A light blue mask from the nose to the chin, with pleats."""
    points = landmarks(hopper)[:, :2]
    outline = np.array([points[k] for k in (195, 280, 361, 397, 378, 152, 149, 172, 132, 50)])
    mask = fill_polygon(hopper.shape, outline)
    pleats = (np.arange(len(hopper)) // 9 % 3 == 0)[:, None, None]
    return np.where(mask[..., None], np.uint8([150, 190, 215]) - 25 * pleats.astype(np.uint8), hopper)


@pytest.fixture(scope="module")
def masked_face(pipe: EmoRigPipeline, masked: np.ndarray) -> EncodedFace:
    return pipe.encode(masked)[0]


def lipstick(photo: np.ndarray) -> np.ndarray:
    lips = fill_polygon(photo.shape, landmarks(photo)[list(OUTER_LIPS), :2])[..., None]
    return np.where(lips, (0.5 * photo + [50, 5, 60]).astype(np.uint8), photo)


@pytest.mark.parametrize("person", ["astronaut", "hopper"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda photo: photo, id="as it is"),
        pytest.param(lambda photo: np.repeat(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None], 3, 2), id="grey"),
        pytest.param(lambda photo: (photo * 0.25).astype(np.uint8), id="dim"),
        pytest.param(lambda photo: (photo * [1.0, 0.75, 0.5]).astype(np.uint8), id="warm light"),
        pytest.param(lambda photo: cv2.GaussianBlur(photo, (0, 0), 3), id="blurred"),
        pytest.param(lipstick, id="purple lips"),
        pytest.param(lambda photo: cv2.flip(photo, 1), id="mirrored"),
    ],
)
def test_lips_that_are_seen(person: str, change: Callable, request: pytest.FixtureRequest) -> None:
    photo = change(request.getfixturevalue(person))
    assert not mouth_covered(photo, landmarks(photo))


@pytest.mark.parametrize("emotion", ["surprise", "fear", "happy", "disgust"])
def test_own_edits_are_seen(pipe: EmoRigPipeline, hopper: np.ndarray, emotion: str) -> None:
    made = pipe(hopper, emotion, output_type="np", generator=torch.Generator().manual_seed(0)).images[0]
    assert not mouth_covered(made, landmarks(made))


@pytest.mark.parametrize("kind", SHAPES)
def test_covers_are_found(kind: str, portraits: list[tuple[np.ndarray, np.ndarray]]) -> None:
    pictures = [cover(*portrait, kind, seed) for portrait in portraits for seed in range(5)]
    found = [(picture, faces) for picture in pictures if (faces := find_faces(picture))]
    covered = [mouth_covered(picture, choose_faces(faces)[0].landmarks) for picture, faces in found]
    assert len(found) >= 4 and np.mean(covered) >= 2 / 3


@pytest.mark.parametrize("emotion", ["surprise", "happy", "disgust", "sad"])
def test_what_covers_stays_on_top(
    pipe: EmoRigPipeline, hopper: np.ndarray, masked: np.ndarray, masked_face: EncodedFace, emotion: str
) -> None:
    with pytest.warns(UserWarning, match=MOUTH_KEPT):
        result = pipe(masked, emotion, output_type="np", generator=torch.Generator().manual_seed(0))
    [face] = result.faces[0]
    assert face.notes == (MOUTH_KEPT,)
    below = transform_points(masked_face.grid_matrix(256), masked_face.face.landmarks[NOSE_BASE, None, :2])[0, 1]
    assert not np.asarray(face.buffers["repainted"])[int(below) :].any()
    changed = (result.images[0] != masked).any(2)
    points = masked_face.face.landmarks[:, :2]
    assert not changed[int(points[NOSE_BASE, 1]) :].any() and not changed[(masked != hopper).any(2)].any()
    brows = fill_polygon(
        changed.shape, cv2.convexHull(points[[70, 105, 107, 336, 334, 300, 9]].astype(np.float32))[:, 0]
    )
    assert changed[brows].mean() > 0.5


def test_a_seen_mouth_is_edited_below_the_nose(
    pipe: EmoRigPipeline, hopper: np.ndarray, hopper_face: EncodedFace
) -> None:
    result = pipe(hopper, "surprise", output_type="np", generator=torch.Generator().manual_seed(0))
    changed = (result.images[0] != hopper).any(2)
    assert changed[int(hopper_face.face.landmarks[NOSE_BASE, 1]) :].any() and not result.faces[0][0].notes


def test_units_of_the_mouth_are_left_out(
    pipe: EmoRigPipeline, masked_face: EncodedFace, names: tuple[str, ...]
) -> None:
    assert masked_face.covered
    kept = torch.tensor([name.startswith(MOUTH_UNITS) for name in names])
    target = pipe.edit_codes(masked_face, "surprise", action_units={"AU26": 0.5, "AU4": 0.3})
    change = (target.expression - masked_face.codes.expression)[0]
    assert not change[kept].any() and torch.equal(target.pose, masked_face.codes.pose)
    assert change[names.index("browDownLeft")] > 0.1 and change[names.index("browInnerUp")] > 0.1


def test_a_covered_reference_lends_eyes_and_brows(
    pipe: EmoRigPipeline, astronaut: np.ndarray, astronaut_face: EncodedFace, masked: np.ndarray,
    masked_face: EncodedFace, names: tuple[str, ...],
) -> None:  # fmt: skip
    lent = torch.tensor([name.startswith(SEEN_UNITS) for name in names])
    raised = masked_face.codes.expression.clone()
    raised[0, [names.index(unit) for unit in ("browInnerUp", "jawOpen", "mouthFrownLeft")]] += 0.6
    lender = replace(masked_face, codes=masked_face.codes.with_(expression=raised))
    target = pipe.edit_codes(astronaut_face, reference=lender)
    change = (target.expression - astronaut_face.codes.expression)[0]
    assert not change[~lent].any() and change[names.index("browInnerUp")] > 0.2
    with pytest.warns(UserWarning, match=MOUTH_NOT_LENT):
        result = pipe(astronaut, reference=masked, generator=torch.Generator().manual_seed(0))
    assert result.faces[0][0].notes == (MOUTH_NOT_LENT,)


def test_a_mask_turns_with_the_head_and_stays_whole(pipe: EmoRigPipeline, masked: np.ndarray) -> None:
    result = pipe(masked, "surprise", rotate=(12, 0, 0), output_type="np", generator=torch.Generator().manual_seed(0))
    points = landmarks(masked)[:, :2]
    lips = fill_polygon(masked.shape, points[list(OUTER_LIPS)] * 0.9 + points[list(OUTER_LIPS)].mean(0) * 0.1)
    red, _, blue = result.images[0][lips].astype(int).T
    assert (result.images[0] != masked).any(2)[lips].any()
    assert (blue - red).min() > 30  # neither lips nor teeth


@pytest.mark.parametrize("asked", [{"action_units": {"AU12": 0.8}}, {"emotion": "happy", "intensity": 0.0}])
def test_nothing_is_left_to_do(pipe: EmoRigPipeline, masked: np.ndarray, asked: dict) -> None:
    result = pipe(masked, **asked, output_type="np")
    assert np.array_equal(result.images[0], masked)
    assert bool(result.faces[0][0].notes) == ("action_units" in asked)


def test_given_codes_leave_the_mouth(
    pipe: EmoRigPipeline, masked_face: EncodedFace, masked: np.ndarray, names: tuple[str, ...]
) -> None:
    expression = masked_face.codes.expression.clone()
    expression[0, names.index("jawOpen")] = 0.8
    result = pipe(masked, codes=masked_face.codes.with_(expression=expression), output_type="np")
    assert np.array_equal(result.images[0], masked) and result.faces[0][0].notes == (MOUTH_KEPT,)


def test_each_face_has_its_own_notes(pipe: EmoRigPipeline, hopper: np.ndarray, masked: np.ndarray) -> None:
    result = pipe(np.hstack([hopper, masked]), {"surprise": 0.3}, face="all", output_type="np")
    assert [face.notes for face in result.faces[0]] == [(), (MOUTH_KEPT,)]
    assert notes_of(result.faces[0]) == [f"Face 2: {MOUTH_KEPT}"]


def test_the_command_line_says_so(masked: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photo = tmp_path / "masked.png"
    Image.fromarray(masked).save(photo)
    assert main(["edit", str(photo), "--emotion", "sad", "-o", str(tmp_path / "sad.png")]) == 0
    assert capsys.readouterr().err.splitlines() == [f"emorig: '{photo}': {MOUTH_KEPT}"]


def test_the_demo_says_so(
    pipe: EmoRigPipeline, masked: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradio = pytest.importorskip("gradio")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "space"))
    import gradio as gr
    import photo_page
    from editor import Editor
    from looks import Sitting
    from photo_tab import PhotoTab

    said, photo = [], tmp_path / "masked.png"
    monkeypatch.setattr(gradio, "Info", lambda sentence, **_: said.append(sentence))
    Image.fromarray(masked).save(photo)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with gr.Blocks():
        editor = Editor(pipe)
        page = photo_page.lay_out(editor.offer, tmp_path / "examples")
        tab, sitting = PhotoTab(editor, page, gr.Button()), Sitting()
    updates = tab.look_at(str(photo), sitting)
    still = [updates[one]["value"] if isinstance(updates[one], dict) else updates[one]
             for one in (*tab.page.angles, *tab.page.units)]  # fmt: skip
    looks = False, 0.0, 0.0, 0.0, 0.0, 1.0  # at the camera, gaze, light as they are
    tab.show(sitting, "1", 0, 1, updates[tab.page.basis], "sad", 1.0, None, ["exp"], 0, [], 0, *looks, *still)
    assert said == [MOUTH_KEPT]


def test_a_network_is_trained(
    run_script: Callable[..., None], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from emorig_diffusers.models import occlusion
    from emorig_diffusers.training.covers import fit

    folder = tmp_path / "portraits"
    folder.mkdir()
    for name in ("astronaut.png", "hopper.PNG"):
        for copy in range(8):  # files are people where no manifest says more: some for every part
            (folder / f"{copy}{name}").write_bytes((photos / name).read_bytes())
    monkeypatch.setattr(fit, "SHAPES", {"mask": SHAPES["mask"]})
    run_script("fit_cover", folder, tmp_path / "lips", "--count", 6)
    said = capsys.readouterr().out
    assert "seen, as they are" in said and "mask, made worse" in said
    network = occlusion.read_network(tmp_path / "lips" / "model.safetensors")
    assert np.isfinite(network(torch.zeros(1, 4, occlusion.PATCH, occlusion.PATCH)).item())
