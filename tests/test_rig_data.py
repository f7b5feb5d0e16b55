"""prepare.py and rig_data.py: from a folder of photos to the batches that a network is trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import prepare
import pytest
import torch
from rig_data import REGIONS, RigData, mirror_code, random_masks, window
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.faces import warp_crop
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.rig import EncodedFace

Run = Callable[..., None]


# prepare.py


@pytest.fixture(scope="module")
def arrays(prepared: Path) -> dict[str, np.ndarray]:
    return load_file(prepared / "00000.safetensors")


def test_both_photos_are_in_the_shard(prepared: Path, arrays: dict[str, np.ndarray]) -> None:
    assert [p.name for p in prepared.iterdir()] == ["00000.safetensors"]
    expected = {
        "photo": (np.uint8, (2, 160, 160, 3)),
        "returned": (np.uint8, (2, 160, 160, 3)),
        "painted": (np.uint8, (2, 160, 160, 3)),
        "normal": (np.uint8, (2, 160, 160, 3)),
        "albedo": (np.uint8, (2, 160, 160, 3)),
        "regions": (np.uint8, (2, 160, 160)),
        "cond": (np.float32, (2, 58)),
        "opening": (np.float32, (2,)),
    }
    assert {n: (a.dtype.type, a.shape) for n, a in arrays.items()} == expected
    with safe_open(prepared / "00000.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["failed"]) == ["notes.jpg"]


def test_what_a_shard_says_of_a_photo(
    arrays: dict[str, np.ndarray], pipe: EmoRigPipeline, astronaut: np.ndarray, astronaut_face: EncodedFace
) -> None:
    left, top, side = pipe.config.repaint_window
    crop = warp_crop(astronaut, astronaut_face.grid_matrix(256), 256)
    assert np.array_equal(arrays["photo"][0], crop[top : top + side, left : left + side])
    np.testing.assert_allclose(arrays["cond"][0], pipe.condition_code(astronaut_face.codes)[0], atol=1e-5)
    area = dict(
        zip(REGIONS, np.unpackbits(arrays["regions"][..., None], -1).transpose(3, 0, 1, 2) > 0, strict=False)
    )
    assert area["mouth"][0].sum() > 100 and not area["mouth"][1].any()  # a smile with teeth, a closed mouth
    assert arrays["opening"][0] > 0.003 > 0.0012 > arrays["opening"][1]
    assert not (area["mouth"] & ~area["edge"]).any()
    assert not (area["folds"] & area["lips"]).any()
    assert area["folds"].any((1, 2)).all() and area["lips"].any((1, 2)).all()


def test_there_and_back_is_nearly_the_photo(arrays: dict[str, np.ndarray]) -> None:
    error = np.abs(arrays["returned"].astype(int) - arrays["photo"]).max(-1)
    assert (error > 4).any((1, 2)).all()  # the smear the network is to repair
    assert np.median(error) < 6
    normal = arrays["normal"].astype(float) / 127 - 128 / 127
    middle = np.linalg.norm(normal[:, 40:120, 50:110], axis=-1)
    assert 0.9 < np.median(middle) < 1.05


def test_finished_shards_are_kept(run_script: Run, photos: Path, prepared: Path, tmp_path: Path) -> None:
    """The smaller shards of one run: one is lost, the others stay, and the lost one comes back the same."""
    run_script(prepare, photos, tmp_path, "--shard_size", 1)
    shards = sorted(tmp_path.iterdir())
    assert [s.name for s in shards] == [f"0000{i}.safetensors" for i in range(3)]
    contents, times = [s.read_bytes() for s in shards], [s.stat().st_mtime_ns for s in shards]
    shards[1].unlink()
    run_script(prepare, photos, tmp_path, "--shard_size", 1)
    assert [s.read_bytes() for s in shards] == contents
    assert [s.stat().st_mtime_ns == t for s, t in zip(shards, times, strict=True)] == [True, False, True]
    whole, parts = load_file(prepared / "00000.safetensors"), [load_file(s) for s in shards]
    assert parts[2] == {}  # the file that is no photo
    for name, array in whole.items():
        assert np.array_equal(np.concatenate([p[name] for p in parts[:2]]), array), name


def test_a_folder_without_photos(run_script: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(SystemExit) as stop:
            run_script(prepare, folder, tmp_path / "out")
        assert stop.value.code == 2
        assert f"{folder} has no photos (.jpeg, .jpg, .png, .webp)." in capsys.readouterr().err


# rig_data.py


def test_batches_as_they_are(data: RigData, arrays: dict[str, np.ndarray]) -> None:
    assert len(data) == 2
    index = np.array([0, 1, 0, 0, 1, 1])
    batch = data.batch(index, 160, np.random.default_rng(0), augment=False)
    shapes = {n: tuple(v.shape) for n, v in vars(batch).items()}
    assert shapes == {
        "photo": (6, 3, 160, 160),
        "base": (6, 3, 160, 160),
        "mask": (6, 1, 160, 160),
        "conditions": (6, 11, 160, 160),
        "code": (6, 58),
    }
    photo = torch.from_numpy(arrays["photo"][index]).permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(batch.photo, photo)
    torch.testing.assert_close(batch.code, torch.from_numpy(arrays["cond"][index]))
    assert set(batch.mask.unique().tolist()) == {0, 1}
    returned = torch.from_numpy(arrays["returned"][index]).permute(0, 3, 1, 2) / 127.5 - 1
    free = (batch.mask == 0).expand_as(photo)
    for i in range(6):  # what is not painted is the photo, or the photo there and back
        sources = [torch.equal(batch.base[i][free[i]], s[i][free[i]]) for s in (photo, returned)]
        assert any(sources)
    torch.testing.assert_close(batch.conditions[:, :3], batch.base)
    torch.testing.assert_close(batch.conditions[:, 9:10], batch.mask)
    mouth = batch.conditions[:, 10:]
    assert mouth[0].any() and not (mouth > batch.mask).any()


def test_a_mouth_that_is_not_painted_is_no_mouth(data: RigData) -> None:
    batch = data.batch(np.zeros(60, int), 112, np.random.default_rng(0), augment=False)
    mask, mouth = batch.conditions[:, 9:10], batch.conditions[:, 10:]
    assert not (mouth > mask).any()
    without = ~mouth.any((1, 2, 3))  # only folds are painted
    assert 0 < without.sum() < 20
    assert mask[without].any((1, 2, 3)).all()


def test_random_batches(data: RigData) -> None:
    first, second = (next(data.batches(5, 64, seed)) for seed in (3, 3))
    for name, value in vars(first).items():
        assert torch.equal(value, getattr(second, name)), name
    assert not torch.equal(next(data.batches(5, 64, 4)).photo, first.photo)
    batch = next(data.batches(16, 96, 0))
    assert batch.photo.shape == (16, 3, 96, 96)
    assert batch.photo.min() >= -1 and batch.photo.max() <= 1
    assert batch.mask.any((1, 2, 3)).all()  # the windows show what is to be painted
    # the answer is the base outside the mask, but for the smear of the way there and back
    outside = (batch.photo - batch.base).abs() * (1 - batch.mask)
    assert outside.mean() < 0.05


def test_mirrored_samples(data: RigData, arrays: dict[str, np.ndarray]) -> None:
    """An augmented sample is the photo or its mirror image in another tint, and its code says which."""
    batch = data.batch(np.zeros(12, int), 160, np.random.default_rng(1))
    own = torch.from_numpy(arrays["cond"][0])
    order, sign = data.mirror
    other = own[order] * sign
    assert (own - other).abs().max() > 0.02
    photo = torch.from_numpy(arrays["photo"][0]).permute(2, 0, 1) / 127.5 - 1
    correlation = lambda a, b: float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])
    flips = 0
    for picture, code in zip(batch.photo, batch.code, strict=True):
        flipped = correlation(picture, photo.flip(2)) > correlation(picture, photo)
        flips += flipped
        torch.testing.assert_close(code, other if flipped else own)
    assert 0 < flips < 12


def test_mirror_code_is_an_involution(names: tuple[str, ...]) -> None:
    order, sign = mirror_code(names)
    code = torch.randn(4, 58, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close((code[:, order] * sign)[:, order] * sign, code)


def test_mirror_code_gives_the_mirror_image(head: HeadModel, names: tuple[str, ...]) -> None:
    """The head under a mirrored code is the mirrored head."""
    generator = torch.Generator().manual_seed(0)
    code = torch.cat(
        [torch.rand(1, 52, generator=generator), torch.randn(1, 6, generator=generator) * 0.2], 1
    )
    order, sign = mirror_code(names)
    shape = torch.zeros(1, 80)
    ours, mirrored = (head(shape, c[:, :52], c[:, 52:]) for c in (code, code[:, order] * sign))
    points, swapped = (head.landmarks68(v)[0] for v in (ours, mirrored * torch.tensor([-1.0, 1, 1])))
    pairs = [(36, 45), (39, 42), (48, 54), (31, 35), (17, 26), (21, 22), (0, 16), (37, 44)]
    left, right = map(list, zip(*pairs, strict=True))
    error = torch.cat([points[left] - swapped[right], points[right] - swapped[left]]).norm(dim=1)
    plain = (points[left] - head.landmarks68(ours * torch.tensor([-1.0, 1, 1]))[0][right]).norm(dim=1)
    assert error.mean() < 0.0015 and plain.mean() > 0.005  # metres


def test_random_masks() -> None:
    area = {name: torch.zeros(40, 1, 32, 32) for name in ("edge", "folds", "lips", "mouth", "hole")}
    area["edge"][..., 10:12, 8:24] = 1
    area["folds"][..., 2:5, 8:24] = 1
    masks = random_masks(area, np.random.default_rng(0))
    assert masks.shape == (40, 1, 32, 32) and set(masks.unique().tolist()) == {0, 1}
    edge, folds = masks[..., 10:12, 8:24], masks[..., 2:5, 8:24]
    for part in (edge, folds):
        assert set(part.mean((1, 2, 3)).tolist()) == {0, 1}  # whole or not at all
    assert (masks[..., 20:, :] == 0).all()
    assert len({int(m.sum()) for m in masks}) > 3  # grown differently


def test_windows() -> None:
    stack = torch.arange(40 * 40.0).view(1, 1, 40, 40)
    assert torch.equal(window(stack, 40, np.random.default_rng(0)), stack)
    assert torch.equal(window(stack, 20, None), stack[..., 10:30, 10:30])
    corners = {float(window(stack, 30, np.random.default_rng(i))[0, 0, 0, 0]) for i in range(20)}
    assert len(corners) > 5
    with pytest.raises(ValueError, match="windows are 40 pixels wide: choose a resolution up to that"):
        window(stack, 41, None)


def test_no_shards(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no prepared shards: run train/prepare\.py"):
        RigData(tmp_path, ("jawOpen",))


def test_an_empty_first_shard(prepared: Path, names: tuple[str, ...], tmp_path: Path) -> None:
    save_file({}, tmp_path / "00000.safetensors", metadata={"failed": '["notes.jpg"]'})
    (tmp_path / "00001.safetensors").write_bytes((prepared / "00000.safetensors").read_bytes())
    assert len(RigData(tmp_path, names)) == 2
