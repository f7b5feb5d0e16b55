"""Windows of moved photos, and every random choice about them."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor
from torch.utils.data import default_collate

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.data.dataset import DataError
from emorig_diffusers.data.shards import CodeShards, Sample, write_shard
from emorig_diffusers.diffusion.sampling import Sampling
from emorig_diffusers.face.emotions import EMOTIONS
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.painting.photo_texture import STAGES, EditState, PhotoTexturePainter, plan_inpainting
from emorig_diffusers.painting.stages.inpaint import shrink_warp
from emorig_diffusers.photo.pictures import Picture
from emorig_diffusers.photo.resample import warp_crop
from emorig_diffusers.training.rig import windows
from emorig_diffusers.training.rig.windows import (
    REGIONS,
    WindowData,
    mirror_code,
    random_mask,
    window,
)


@pytest.fixture(scope="module")
def shards(prepared: Path) -> CodeShards:
    return CodeShards(prepared)


@pytest.fixture(scope="module")
def arrays(window_cache: Path) -> dict[str, np.ndarray]:
    return load_file(window_cache / "00000.safetensors")


def pictures(array: np.ndarray) -> Tensor:
    """[..., H, W, 3] in 0...255 -> [..., 3, H, W] in [-1, 1]."""
    return torch.from_numpy(array).movedim(-1, -3) / 127.5 - 1


def collate(data: WindowData, index: list[int], **options: bool) -> dict[str, Tensor]:
    return default_collate([data.sample(i, seed, **options) for seed, i in enumerate(index)])


def test_what_is_drawn_of_a_photo(
    arrays: dict[str, np.ndarray], pipe: EmoRigPipeline, astronaut: np.ndarray, astronaut_face: EncodedFace
) -> None:
    left, top, side = pipe.config.repaint_window
    crop = warp_crop(astronaut, astronaut_face.grid_matrix(256), 256)[top : top + side, left : left + side]
    assert np.abs(arrays["photo"][0] - crop.astype(float)).mean() < 2  # it has been a JPEG
    np.testing.assert_allclose(arrays["cond"][0], pipe.condition_code(astronaut_face.codes)[0], atol=1e-4)
    bits = np.unpackbits(arrays["regions"][..., None], -1).transpose(3, 0, 1, 2) > 0
    area = dict(zip(REGIONS, bits, strict=False))
    assert area["mouth"][0].sum() > 100 and not area["mouth"][1].any()  # a smile with teeth, a closed mouth
    assert arrays["opening"][0] > 0.003 > 0.0012 > arrays["opening"][1]
    assert not (area["mouth"] & ~area["edge"]).any()
    assert not (area["folds"] & area["lips"]).any()
    assert area["folds"].any((1, 2)).all() and area["lips"].any((1, 2)).all()


def test_a_window_is_what_an_edit_shows_the_network(
    pipe: EmoRigPipeline, astronaut: np.ndarray, astronaut_face: EncodedFace
) -> None:
    """Bit for bit, on one grid and with eyes that stay."""
    crop = warp_crop(astronaut, astronaut_face.grid_matrix(256), 256)
    sample = Sample("photo", crop, astronaut_face.codes, np.eye(3), astronaut_face.residual, {})
    face = replace(astronaut_face, picture=Picture(crop, np.eye(2, 3)))
    painter, frame = PhotoTexturePainter(pipe), pipe.repaint_window

    def planned(state: EditState) -> EditState:
        for stage in STAGES[: STAGES.index(plan_inpainting) + 1]:
            state = stage(state)
        return state

    for target in (pipe.edit_codes(face, "fear"), face.codes):
        edit = planned(EditState(painter, crop, face, target, Sampling(1), grid=256, moves_eyes=False))
        prepared = planned(windows.prepared_edit(pipe, sample, target, 256))
        names = {one.name for one in fields(edit.flow)} - {"inside", "teeth"}
        for name in ("albedo", "depth", *names):
            assert np.array_equal(getattr(edit.flow, name), getattr(prepared.flow, name)), name
        for name, value in vars(edit.flow.teeth).items() if edit.flow.teeth else ():
            assert np.array_equal(value, getattr(prepared.flow.teeth, name)), name
        assert (edit.flow.teeth is None) == (prepared.flow.teeth is None)
        for name in ("moved", "base", "normal", "albedo", "network_mask", "mouth", "inside", "drawn"):
            assert np.array_equal(getattr(edit.plan, name), getattr(prepared.plan, name)), name
        assert edit.plan.mouth.any() == (target is not face.codes)
    drawn = windows.draw_window(pipe, sample, np.random.default_rng(0))  # the photo itself is its answer
    assert np.array_equal(drawn["photo"], edit.plan.moved[frame])
    for name, scale, zero in (("normal", 127, 128), ("albedo", 255, 0)):
        seen = getattr(shrink_warp(edit.flow, 256), name)[frame]
        assert np.array_equal(drawn[name], np.round(seen * scale + zero).astype(np.uint8)), name


def test_there_and_back_is_nearly_the_photo(arrays: dict[str, np.ndarray]) -> None:
    error = np.abs(arrays["returned"].astype(int) - arrays["photo"]).max(-1)
    assert (error > 4).any((1, 2)).all()  # the smear the network is to repair
    assert np.median(error) < 6
    normal = arrays["normal"].astype(float) / 127 - 128 / 127
    middle = np.linalg.norm(normal[:, 40:120, 50:110], axis=-1)
    assert 0.9 < np.median(middle) < 1.05


def test_windows_as_they_are(data: WindowData, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "side", 160)
    index = [0, 1, 0, 0, 1, 1, 0, 1]
    batch = collate(data, index, augment=False)
    channels = {"photo": 3, "moved": 3, "painted": 3, "normal": 3, "albedo": 3, "mask": 1, "mouth": 1}
    for name, count in channels.items():
        assert batch[name].shape == (8, count, 160, 160), name
    assert batch["u"].shape == (8, 3) and batch["seed"].tolist() == list(range(8))
    torch.testing.assert_close(batch["code"], torch.from_numpy(arrays["cond"][index]))
    torch.testing.assert_close(batch["photo"], pictures(arrays["photo"][index]))
    torch.testing.assert_close(batch["painted"], pictures(arrays["painted"][index]))
    torch.testing.assert_close(batch["albedo"], (pictures(arrays["albedo"][index]) + 1) / 2)
    assert (batch["normal"].norm(dim=1).median() - 1).abs() < 0.05
    moved, returned = batch["moved"], pictures(arrays["returned"][index])
    still = [torch.equal(m, p) for m, p in zip(moved, batch["photo"], strict=True)]
    torch.testing.assert_close(moved[~torch.tensor(still)], returned[~torch.tensor(still)])
    assert 0 < sum(still) < 8  # half of them are the photo, half the photo there and back
    assert set(batch["mask"].unique().tolist()) == set(batch["mouth"].unique().tolist()) == {0, 1}


def test_a_mouth_that_is_not_painted_is_no_mouth(data: WindowData) -> None:
    batch = collate(data, [0] * 60, augment=False)
    assert not (batch["mouth"] > batch["mask"]).any()
    without = ~batch["mouth"].any((1, 2, 3))  # only folds are painted
    assert 0 < without.sum() < 20
    assert batch["mask"][without].any((1, 2, 3)).all()


def test_a_sample_follows_from_its_seed(data: WindowData) -> None:
    first, again, other = data[0, 3], data[0, 3], data[0, 4]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["photo"], other["photo"]) and not torch.equal(first["u"], other["u"])


def test_random_windows(data: WindowData) -> None:
    batch = collate(data, [0, 1] * 8)
    assert batch["photo"].shape == (16, 3, 64, 64)
    for name in ("photo", "moved", "painted"):
        assert batch[name].min() >= -1 and batch[name].max() <= 1
    assert batch["mask"].any((1, 2, 3)).all()  # the windows show what is to be painted
    assert (batch["photo"] - batch["moved"]).abs().mean() < 0.05  # tinted and shifted alike
    assert batch["photo"].mean((1, 2, 3)).std() > 0.03


def test_mirrored_samples(data: WindowData, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """An augmented sample is the photo or its mirror image in another tint, and code and normals say which."""
    monkeypatch.setattr(data, "side", 160)
    batch = collate(data, [0] * 12)
    own = torch.from_numpy(arrays["cond"][0])
    order, sign = data.mirror
    other = own[order] * sign
    assert (own - other).abs().max() > 0.02
    photo, normal = pictures(arrays["photo"][0]), pictures(arrays["normal"][0])
    similar = lambda a, b: float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])
    flips = 0
    for picture, bent, code in zip(batch["photo"], batch["normal"], batch["code"], strict=True):
        flipped = similar(picture, photo) < similar(picture, photo.flip(2))
        flips += flipped
        torch.testing.assert_close(code, other if flipped else own)
        expected = torch.cat([-normal[:1].flip(2), normal[1:].flip(2)]) if flipped else normal
        assert similar(bent, expected) > 0.99
    assert 0 < flips < 12


def test_mirror_code_is_an_involution(names: tuple[str, ...]) -> None:
    order, sign = mirror_code(names)
    code = torch.randn(4, 58, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close((code[:, order] * sign)[:, order] * sign, code)


def test_mirror_code_gives_the_mirror_image(head: HeadModel, names: tuple[str, ...]) -> None:
    """The head under a mirrored code is the mirrored head."""
    generator = torch.Generator().manual_seed(0)
    code = torch.cat([torch.rand(1, 52, generator=generator), torch.randn(1, 6, generator=generator) * 0.2], 1)
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
    area = {name: np.zeros((32, 32), np.uint8) for name in REGIONS}
    area["edge"][10:12, 8:24] = 1
    area["folds"][2:5, 8:24] = 1
    area["hole"][25:] = 1
    rng = np.random.default_rng(0)
    masks = np.stack([random_mask(area, rng) for _ in range(40)])
    assert masks.shape == (40, 32, 32) and set(np.unique(masks)) == {0, 1}
    for part in (masks[:, 10:12, 8:24], masks[:, 2:5, 8:24]):
        assert set(part.mean((1, 2))) == {0, 1}  # whole or not at all
    assert (masks[:, 20:] == 0).all()
    assert masks.any((1, 2)).all()
    assert len({int(m.sum()) for m in masks}) > 3  # grown differently


def test_windows() -> None:
    stack = torch.arange(40 * 40.0).view(1, 40, 40)
    assert torch.equal(window(stack, 40, np.random.default_rng(0)), stack)
    assert torch.equal(window(stack, 20, None), stack[:, 10:30, 10:30])
    corners = {float(window(stack, 30, np.random.default_rng(i))[0, 0, 0]) for i in range(20)}
    assert len(corners) > 5


def test_wide_mouths_are_seen_more_often(
    pipe: EmoRigPipeline, shards: CodeShards, data: WindowData, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert data.weights().tolist() == [1, 0.5]  # teeth, and lips that touch
    monkeypatch.setattr(windows, "WIDE", 0.004)
    assert data.weights().tolist() == [3, 0.5]
    assert WindowData(pipe, shards, 64).weights().tolist() == [1, 1]  # unknown before they are drawn


def test_pictures_that_the_open_default_cannot_take(
    pipe: EmoRigPipeline, shards: CodeShards, prepared64: Path, tmp_path: Path
) -> None:
    wanted = r"aligned crops of 256 pixels: run train/prepare\.py with --crop aligned --resolution 256\."
    with pytest.raises(DataError, match=wanted):
        WindowData(pipe, CodeShards(prepared64), 64)
    write_shard(tmp_path, 0, [shards[0]], {}, shards.manifest["settings"] | {"crop": "whole"})
    with pytest.raises(DataError, match=wanted):
        WindowData(pipe, CodeShards(tmp_path), 64)
    with pytest.raises(DataError, match=r"windows are 160 pixels wide: choose a --resolution up to that\."):
        WindowData(pipe, shards, 161)


def test_every_emotion_is_a_way_there(pipe: EmoRigPipeline, shards: CodeShards) -> None:
    """The codes between differ from the photo's and from each other, but only in the expression."""
    sample = shards[1]
    ways = [windows._other_expression(pipe, sample, np.random.default_rng(i)) for i in range(24)]
    assert all(way.with_(expression=sample.codes.expression) == sample.codes for way in ways)
    ways = [way for way in ways if not torch.equal(way.expression, sample.codes.expression)]
    assert len(ways) > 16  # a calm face stays as it is where it is to be neutral
    distances = [float((a.expression - b.expression).norm()) for a, b in permutations(ways, 2)]
    assert max(distances) > 1 > 0 < min(distances)
    assert len({int(w.expression.argmax()) for w in ways}) > len(EMOTIONS) // 3
