"""prepare.py: from photos to shards, alone and with others, interrupted and in the way of a full disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from processes import TRAIN, start_two

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.data.dataset import DataError
from emorig_diffusers.data.preparation import open_all_shards, open_shards, shown_square
from emorig_diffusers.data.shards import CodeShards, Sample, ShardError
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.photo.crops import square_matrix
from emorig_diffusers.photo.resample import transform_points, warp_crop
from emorig_diffusers.render.buffers import draw_buffers
from emorig_diffusers.render.camera import project

Run = Callable[..., None]


@pytest.fixture(scope="module")
def aligned(run_script: Run, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of one photo each."""
    folder = tmp_path_factory.mktemp("aligned")
    run_script("prepare", photos, folder, "--shard_size", 1)
    return folder


@pytest.fixture(scope="module")
def whole(run_script: Run, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> CodeShards:
    """One shard of whole photos."""
    folder = tmp_path_factory.mktemp("whole")
    run_script("prepare", photos, folder, "--crop", "whole", "--resolution", 128)
    return CodeShards(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# What a sample holds


def test_an_aligned_sample(
    aligned: Path, pipe: EmoRigPipeline, astronaut: np.ndarray, astronaut_face: EncodedFace
) -> None:
    shards = CodeShards(aligned)
    assert shards.keys == ["astronaut", "hopper"]
    sample = shards[0]
    crop = warp_crop(astronaut, astronaut_face.grid_matrix(256), 256)
    assert np.abs(sample.picture - crop.astype(float)).mean() < 2
    for name in ("shape", "expression", "pose", "camera", "light", "texture"):
        torch.testing.assert_close(getattr(sample.codes, name), getattr(astronaut_face.codes, name), atol=1e-4, rtol=0)
    np.testing.assert_array_equal(sample.transform, np.eye(3))
    np.testing.assert_allclose(sample.residual, astronaut_face.residual, atol=1e-4)
    assert sample.info.pop("error") == pytest.approx(astronaut_face.error * 192, abs=0.01)
    unknown = dict.fromkeys(("label", "valence", "arousal", "attributes"))
    assert sample.info == {"file": "astronaut.png"} | unknown


def test_what_the_manifest_says(aligned: Path) -> None:
    manifest = CodeShards(aligned).manifest
    assert (manifest["photos"], manifest["used"], manifest["failures"]) == (3, 2, {"unreadable": 1})
    assert [shard["samples"] for shard in manifest["shards"]] == [1, 1, 0]
    settings = manifest["settings"]
    assert (settings["resolution"], settings["crop"], settings["photos"]["count"]) == (256, "aligned", 3)
    assert (aligned / "manifest.json").is_file()


def place_landmarks(pipe: EmoRigPipeline, sample: Sample, size: int) -> np.ndarray:
    """The sample's detected landmarks [N, 2] in pixels of its picture: the head's, moved by the residual."""
    points = project(pipe.head.landmarks(pipe.pose_head(sample.codes)), sample.codes.camera)[0, :, :2].numpy()
    points = points + sample.residual[: len(points)]
    moved = np.column_stack([points, np.ones(len(points))]) @ sample.transform.T
    return (moved[:, :2] / moved[:, 2:] + 1) * size / 2


def test_the_codes_tell_where_the_landmarks_are(
    pipe: EmoRigPipeline, whole: CodeShards, astronaut_face: EncodedFace, hopper_face: EncodedFace
) -> None:
    for sample, face, shape in zip(whole, (astronaut_face, hopper_face), ((512, 512), (600, 512)), strict=True):
        expected = transform_points(square_matrix(shape, 128), face.face.landmarks[:468, :2])
        np.testing.assert_allclose(place_landmarks(pipe, sample, 128)[:468], expected, atol=0.05)


def test_the_drawn_head_lies_on_the_photo(
    pipe: EmoRigPipeline, whole: CodeShards, astronaut_face: EncodedFace, hopper_face: EncodedFace
) -> None:
    """The head is painted with its own coordinates, which are then read where the photo's landmarks are."""
    head = pipe.head
    for sample, face, shape in zip(whole, (astronaut_face, hopper_face), ((512, 512), (600, 512)), strict=True):
        vertices = pipe.pose_head(sample.codes)
        transform = torch.from_numpy(sample.transform)[None]
        drawn = draw_buffers(
            vertices, head.faces, sample.codes.camera, sample.codes.light, vertices, 128, transform=transform
        )
        where = transform_points(square_matrix(shape, 128), face.face.landmarks[:468, :2])
        columns, rows = where.astype(int).T
        seen = drawn.mask[0, 0, rows, columns] > 0
        distance = (drawn.albedo[0, :2, rows, columns].T - head.landmarks(vertices)[0, :468, :2]).norm(dim=1)
        assert seen.float().mean() > 0.9
        assert distance[seen].median() < 0.004  # metres


def test_a_whole_photo_keeps_its_middle(whole: CodeShards, hopper: np.ndarray) -> None:
    middle = Image.fromarray(hopper[44:556]).resize((128, 128), Image.Resampling.BOX)
    assert np.abs(whole[1].picture - np.asarray(middle, float)).mean() < 4
    corners = np.array([[0, 44.0], [512, 556]])
    np.testing.assert_allclose(transform_points(square_matrix((600, 512), 128), corners), [[0, 0], [128, 128]])


def test_labels_are_kept(run_script: Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """AffectNet's layout: happy, neutral, and a photo that its annotators left without an emotion."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, (name, label) in enumerate((("astronaut.png", 1), ("hopper.PNG", 0), ("astronaut.png", 8))):
        (folder / f"{number}.png").symlink_to(photos / name)
        for kind, value in (("exp", label), ("val", 0.5), ("aro", -0.25)):
            np.save(folder / f"{number}_{kind}.npy", value)
    run_script("prepare", folder, tmp_path / "out", "--resolution", 64)
    shards = CodeShards(tmp_path / "out")
    assert shards.labels == ["happy", "neutral"]
    assert shards.manifest["labels"] == {"happy": 1, "neutral": 1}
    info = shards.info(1)
    assert (info["label"], info["valence"], info["arousal"]) == ("neutral", 0.5, -0.25)
    output = capsys.readouterr().out
    assert "Happy 1\n" in output and "None 1\n" in output
    assert "2 of 2 photos prepared (shards: 1, " in output


# What gives no sample


def test_photos_without_a_usable_face(
    run_script: Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (64, 64), "grey").save(folder / "wall.png")
    (folder / "astronaut.png").symlink_to(photos / "astronaut.png")
    run_script("prepare", folder, tmp_path / "out", "--max_error", 0.1)
    with pytest.raises(ShardError, match="No photo in .* could be used"):
        CodeShards(tmp_path / "out")
    assert "0 of 2 photos prepared (shards: 1, " in (output := capsys.readouterr().out)
    assert output.endswith("left out: 1 no face, 1 poor fit.\n")


# Going on, and several processes


def test_finished_shards_are_kept(run_script: Run, photos: Path, aligned: Path, tmp_path: Path) -> None:
    """One shard is lost, one is cut off: both come back the same, the third is not touched."""
    for name, data in contents(aligned).items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "00000.tar").unlink()
    (tmp_path / "00001.tar").write_bytes(b"half")
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    run_script("prepare", photos, tmp_path, "--shard_size", 1)
    assert contents(tmp_path) == contents(aligned)
    assert times["00002.tar"] == (tmp_path / "00002.tar").stat().st_mtime_ns


def test_two_processes_write_the_same(photos: Path, aligned: Path, tmp_path: Path) -> None:
    """Started as `accelerate launch` starts them."""
    out = tmp_path / "out"
    scripts = start_two(tmp_path, TRAIN / "prepare.py", photos, out, "--shard_size=1")
    assert [script.wait() for script in scripts] == [0, 0], [script.output for script in scripts]
    told = "2 of 3 photos prepared (shards: 3, "
    assert told in scripts[0].output and told not in scripts[1].output
    assert contents(out) == contents(aligned)


def test_other_settings_need_another_folder(run_script: Run, photos: Path, aligned: Path) -> None:
    before = contents(aligned)
    with pytest.raises(SystemExit, match=r"other settings \(resolution\): choose another folder, or delete this one\."):
        run_script("prepare", photos, aligned, "--shard_size", 1, "--resolution", 128)
    with pytest.raises(SystemExit, match=r"other settings \(photos\)"):
        run_script("prepare", photos, aligned, "--shard_size", 1, "--limit", 2)
    assert contents(aligned) == before


# Where a training asks for shards


def test_shards_are_opened_and_photos_prepared(
    photos: Path, aligned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once: they are found again, as a training that is resumed asks for them."""
    ask = lambda folder: open_shards(folder, tmp_path, Accelerator(), "mine", resolution=256)
    assert ask(aligned).folder == aligned and not list(tmp_path.iterdir())
    shards = ask(photos)
    assert shards.folder == tmp_path / "mine" and shards.keys == CodeShards(aligned).keys
    told = f"{photos} holds photos: they are prepared in {tmp_path / 'mine'}, which can be given in their place.\n"
    assert capsys.readouterr().out.startswith(told)
    written = {path: path.stat().st_mtime_ns for path in shards.folder.glob("0*")}
    assert ask(photos).keys == shards.keys == ask(shards.folder).keys
    assert {path: path.stat().st_mtime_ns for path in shards.folder.glob("0*")} == written


def test_several_folders_have_shards_of_their_own(photos: Path, aligned: Path, tmp_path: Path) -> None:
    """Larger pictures than a small network's are kept, as the command keeps them."""
    folders = [photos, aligned, photos]
    shards = open_all_shards(folders, tmp_path, Accelerator(), resolution=32, crop="ffhq")
    assert [one.folder for one in shards] == [tmp_path / "shards", aligned, tmp_path / "shards-3"]
    assert {one.manifest["settings"]["resolution"] for one in shards} == {256}
    with pytest.raises(DataError, match=r"show different squares \(aligned, ffhq\): prepare them alike"):
        shown_square(shards)
    assert shown_square([shards[0], shards[2]]) == "ffhq"


def test_photos_that_have_changed(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "hopper.png").symlink_to(photos / "hopper.PNG")
    open_shards(folder, tmp_path, Accelerator())
    (folder / "another.png").symlink_to(photos / "hopper.PNG")
    with pytest.raises(ShardError, match=r"shards was prepared with other settings \(photos\): .* or delete this one"):
        open_shards(folder, tmp_path, Accelerator())


def test_damaged_shards_are_not_taken_for_photos(photos: Path, aligned: Path, tmp_path: Path) -> None:
    damaged, empty = tmp_path / "damaged", tmp_path / "empty"
    shutil.copytree(aligned, damaged)
    (damaged / "00000.tar").write_bytes(b"half")
    empty.mkdir()
    for folder, sentence in (
        (damaged, "Shard .* is damaged"),
        (empty, "The folder .* is empty: give a folder with photos"),
        (tmp_path / "nothing", "There is no file or folder '.*nothing': check the path"),
    ):
        with pytest.raises(DataError, match=sentence):
            open_shards(folder, tmp_path / "out", Accelerator())
    assert not (tmp_path / "out").exists()


# What stops it


def test_a_full_disk(
    run_script: Run, photos: Path, full_disk: Callable[[int], AbstractContextManager[None]], tmp_path: Path
) -> None:
    with full_disk(4096), pytest.raises(SystemExit, match=r"00000\.tar cannot be written \(File too large\): make"):
        run_script("prepare", photos, tmp_path)
    assert not list(tmp_path.iterdir())


def test_wrong_arguments(run_script: Run, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_script("prepare", photos, tmp_path, "--shard_size", 0)
    assert "--shard_size must be at least 1." in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        run_script("prepare", tmp_path / "nothing", tmp_path)
    assert "nothing" in str(stopped.value.code)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"file cannot be made \(File exists\): choose another folder\."):
        run_script("prepare", photos, tmp_path / "file")
