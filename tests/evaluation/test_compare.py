"""emorig compare: every pair of encoders from one noise, each as the pipeline itself makes it, on one sheet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import assert_close
from PIL import Image
from torch import nn
from two_encoders import NOISE, PAIRS, STEPS, rig

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.diffusion.sampling import Sampling
from emorig_diffusers.evaluation import sheets
from emorig_diffusers.evaluation.compare import (
    BUFFERS,
    Comparison,
    code_distance,
    compare,
    describe_comparison,
    draw_comparison,
)
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.models.detail import DetailModel
from emorig_diffusers.models.emoca import EmocaEncoder
from emorig_diffusers.painting.base import PhotoEdits
from emorig_diffusers.photo.resample import warp_crop
from emorig_diffusers.pipelines.request import EditRequest

pytestmark = pytest.mark.usefixtures("searched")


@pytest.fixture(scope="module")
def alone(pipe: EmoRigPipeline, both: EmoRigPipeline) -> EmoRigPipeline:
    """With its DECA only."""
    encoder = EmocaEncoder.from_config(both.encoder.config, expression_encoder=False)
    encoder.load_state_dict({k: v for k, v in both.encoder.state_dict().items() if k in encoder.state_dict()})
    return rig(pipe, encoder.eval())


@pytest.fixture(scope="module")
def seen(both: EmoRigPipeline) -> Iterator[list[torch.Tensor]]:
    """What the network of `both` is given in each call."""
    inputs: list[torch.Tensor] = []
    handle = both.unet.register_forward_pre_hook(lambda _, given: inputs.append(given[0].clone()))
    yield inputs
    handle.remove()


@pytest.fixture(scope="module")
def four(both: EmoRigPipeline, seen: list[torch.Tensor], hopper: np.ndarray, astronaut: np.ndarray) -> Comparison:
    """The astronaut's smile on Hopper's face."""
    seen.clear()
    return compare(both, hopper, astronaut, latents=NOISE)


@pytest.fixture(scope="module")
def sides(both: EmoRigPipeline, hopper: np.ndarray, astronaut: np.ndarray) -> dict[str, list[EncodedFace]]:
    """Hopper and the astronaut as each branch reads them."""
    return {
        name: [both.encode(p, encoder=name.lower())[0] for p in (hopper, astronaut)] for name in ("DECA", "EMOCA")
    }


# networks that draw the whole crop


def test_four_results_from_one_noise(
    four: Comparison, seen: list[torch.Tensor], sides: dict[str, list[EncodedFace]]
) -> None:
    assert [face.encoders for face in four.pairs] == PAIRS
    assert [face.encoders for face in four.redrawn] == [("DECA", "DECA"), ("EMOCA", "EMOCA")]
    assert len(seen) == STEPS and len(seen[0]) == 6  # one batch
    assert torch.equal(seen[0][:, :3], NOISE.expand(6, -1, -1, -1))
    assert len({face.result.tobytes() for face in four.pairs + four.redrawn}) == 6
    for face in four.pairs:
        source, target = sides[face.encoders[0]][0].codes, sides[face.encoders[1]][1].codes
        assert torch.equal(face.before.expression, source.expression)
        assert torch.equal(face.wanted.expression, target.expression)
        assert not torch.equal(face.after.expression, source.expression)
        assert torch.equal(face.after.shape, source.shape)


def test_pairs_are_what_the_pipeline_makes(
    four: Comparison, both: EmoRigPipeline, hopper: np.ndarray, astronaut: np.ndarray
) -> None:
    for face in four.pairs:
        source, target = (name.lower() for name in face.encoders)
        edit = {"source_encoder": source, "target_encoder": target, "latents": NOISE, "output_type": "np"}
        output = both(hopper, reference=astronaut, **edit)
        made = output.faces[0][0]
        assert torch.equal(face.after.expression, made.target.expression)
        assert np.abs(face.result.astype(int) - output.images[0]).max() <= 1  # a batch of six rounds differently
        for name in BUFFERS:
            pictures = [np.asarray(buffers[name]).astype(int) for buffers in (face.buffers, made.buffers)]
            assert np.abs(pictures[0] - pictures[1]).max() <= 1, name


def test_redrawn_is_the_source_under_its_own_codes(
    four: Comparison, both: EmoRigPipeline, hopper: np.ndarray, sides: dict[str, list[EncodedFace]]
) -> None:
    for face in four.redrawn:
        own = sides[face.encoders[0]][0]
        assert code_distance(face.after, own.codes) == code_distance(face.wanted, own.codes) == (0, 0)
        with torch.no_grad():
            edits = PhotoEdits(hopper, [own], [[own.codes]], EditRequest(), redraw=True)
            [drawn] = both.painter.paint([edits], Sampling(STEPS, latents=NOISE))
        assert np.abs(face.result.astype(int) - drawn.rgb).max() <= 1


def test_photos_are_searched_and_read_once(
    both: EmoRigPipeline, hopper: np.ndarray, astronaut: np.ndarray, searched: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    read, branches = both.encode_face, []
    monkeypatch.setattr(both, "encode_face", lambda *a: branches.append(a[3:]) or read(*a))
    searched.clear()
    times = compare(both, hopper, astronaut, latents=NOISE).milliseconds
    assert [searched.count(photo.tobytes()) for photo in (hopper, astronaut)] == [1, 1]
    assert branches[:5] == [(), ("deca",), ("emoca",), ("deca",), ("emoca",)]  # the first is not timed
    encoding = [f"encode {role}, {kind}" for role in ("source", "target") for kind in ("DECA", "EMOCA")]
    PAINTING = ("code of the photo", "draw buffers", "network", "paste", "buffers for the output")
    assert list(times) == ["find faces", *encoding, *PAINTING, "read results"]
    assert all(time > 0 for time in times.values())


def test_modes(both: EmoRigPipeline, hopper: np.ndarray, astronaut: np.ndarray, four: Comparison) -> None:
    looks: list[torch.Tensor] = []
    handle = both.appearance_encoder.register_forward_pre_hook(lambda _, given: looks.append(given[0]))
    lent = compare(both, hopper, astronaut, ("light", "pose", "latent"), latents=NOISE)
    handle.remove()
    for face in lent.pairs:
        assert torch.equal(face.after.light, face.wanted.light)
        assert torch.equal(face.after.pose[:, :3], face.wanted.pose[:, :3])
        assert torch.equal(face.after.expression, face.before.expression)
    for look, photo in ((looks[0], lent.target), (looks[-1], lent.source)):
        picture = torch.from_numpy(np.array(photo.reduce(4))).permute(2, 0, 1) / 127.5 - 1
        assert (look[0] - picture).abs().mean() < 0.05
    for one, same in zip(lent.redrawn, four.redrawn, strict=True):
        assert_close(one.result, same.result)


def test_noise_of_the_photo_and_of_the_generator(
    alone: EmoRigPipeline, hopper: np.ndarray, astronaut: np.ndarray
) -> None:
    [own] = compare(alone, hopper, astronaut, latents="photo").pairs
    made = alone(hopper, reference=astronaut, latents="photo", output_type="np").images[0]
    assert np.abs(own.result.astype(int) - made).max() <= 1
    drawn, given = (
        compare(alone, hopper, astronaut, num_inference_steps=1, **noise).pairs[0].result
        for noise in ({"generator": torch.Generator().manual_seed(5)}, {"latents": NOISE})
    )
    assert_close(drawn, given)
    assert (drawn != own.result).any()


def test_deca_alone(alone: EmoRigPipeline, hopper: np.ndarray, astronaut: np.ndarray) -> None:
    comparison = compare(alone, hopper, astronaut, num_inference_steps=1)
    assert [face.encoders for face in comparison.pairs + comparison.redrawn] == [("DECA", "DECA")] * 2
    assert draw_comparison(comparison).width == 3 * (256 + sheets.GAP) + sheets.GAP


def test_wrinkles_are_on_the_sheet(pipe: EmoRigPipeline, hopper: np.ndarray, astronaut: np.ndarray) -> None:
    torch.manual_seed(0)
    sizes = {"num_shape": 80, "num_expression": 52, "image_size": 32, "expression_encoder": False}
    encoder = EmocaEncoder("small", hidden=32, **sizes).eval()
    nn.init.zeros_(encoder.E_flame.layers[2].weight)
    encoder.E_flame.layers[2].bias.data[-30] = 7  # a head of the crop's size
    detail = DetailModel("small", 16, num_expression=52, image_size=32).eval()
    wrinkled = rig(pipe, encoder, detail=detail)
    deep = compare(wrinkled, hopper, astronaut, ("light",), 1, detail=True).pairs[0].buffers
    plain = wrinkled(hopper, reference=astronaut, modes=("light",), num_inference_steps=1).faces[0][0].buffers
    assert np.asarray(plain["albedo"]).any()
    differ = [np.abs(np.asarray(plain[name]).astype(int) - deep[name]).max() > 3 for name in BUFFERS]
    assert differ == [True, True, False]  # rendered, normal, albedo


# pipelines that move pixels


def test_the_open_default_has_one_pair(tiny_pipe: EmoRigPipeline, hopper: np.ndarray, astronaut: np.ndarray) -> None:
    noise = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    comparison = compare(tiny_pipe, hopper, astronaut, num_inference_steps=1, latents=noise)
    assert comparison.redrawn == []
    [face] = comparison.pairs
    assert face.encoders == ("landmark", "landmark")
    edit = {"num_inference_steps": 1, "latents": noise, "output_type": "np"}
    output = tiny_pipe(hopper, reference=astronaut, **edit)
    assert_close(face.result, output.images[0])
    for name in BUFFERS:
        assert_close(face.buffers[name], output.faces[0][0].buffers[name])
    assert face.seen is not None
    assert code_distance(face.seen, face.wanted)[0] < code_distance(face.before, face.wanted)[0]


def test_both_encoders_without_a_network(
    pipe: EmoRigPipeline, both: EmoRigPipeline, hopper: np.ndarray, astronaut: np.ndarray
) -> None:
    bare = EmoRigPipeline(pipe.head, both.encoder)
    comparison = compare(bare, hopper, astronaut)
    assert [face.encoders for face in comparison.pairs] == PAIRS and not comparison.redrawn
    edit = {"source_encoder": "deca", "target_encoder": "emoca", "output_type": "np"}
    assert_close(comparison.pairs[1].result, bare(hopper, reference=astronaut, **edit).images[0])
    assert len({face.result.tobytes() for face in comparison.pairs}) == 4


# the sheet and the table


def tile(sheet: Image.Image, row: int, column: int, side: int = 256) -> np.ndarray:
    x, y = sheets.GAP + column * (side + sheets.GAP), row * (side + sheets.CAPTION) + sheets.CAPTION
    return np.asarray(sheet.crop((x, y, x + side, y + side)))


def test_sheet(four: Comparison, hopper: np.ndarray, sides: dict[str, list[EncodedFace]]) -> None:
    sheet = draw_comparison(four)
    assert sheet.size == (4 * (256 + sheets.GAP) + sheets.GAP, 5 * (256 + sheets.CAPTION) + sheets.GAP)
    crops = [four.source, four.target, *(face.crop for face in four.redrawn + four.pairs)]
    assert all(np.array_equal(tile(sheet, *divmod(i, 4)), crop) for i, crop in enumerate(crops))
    around = sides["DECA"][0].grid_matrix(256)
    assert np.array_equal(four.source, warp_crop(hopper, around, 256))
    assert np.array_equal(four.pairs[3].crop, warp_crop(four.pairs[3].result, around, 256))
    for row, name in enumerate(BUFFERS, 2):
        for column, face in enumerate(four.pairs):
            large = face.buffers[name].resize((256, 256), Image.Resampling.LANCZOS)
            assert np.array_equal(tile(sheet, row, column), large)
    captions = [np.asarray(sheet)[row * (256 + sheets.CAPTION) :][: sheets.CAPTION] for row in range(5)]
    starts = [sheets.GAP + column * (256 + sheets.GAP) for column in range(4)]
    assert all((caption[:, x : x + 256] < 100).any() for caption in captions for x in starts)


def test_table(four: Comparison) -> None:
    lines, face = describe_comparison(four).splitlines(), four.pairs[1]
    numbers = [f"{code_distance(codes, face.wanted)[0]:.2f}" for codes in (face.before, face.after)]
    assert next(line for line in lines if line.startswith("S: DECA  T: EMOCA")).split()[4:6] == numbers
    assert sum(line.startswith(("S: ", "DECA redrawn", "EMOCA redrawn")) for line in lines) == 6
    assert lines[-1].startswith("read results") and lines[-1].endswith(" ms")
    blind = replace(four, pairs=[replace(face, seen=None)], redrawn=[])
    assert describe_comparison(blind).count("no face") == 2


def test_distance(sides: dict[str, list[EncodedFace]]) -> None:
    codes = sides["DECA"][0].codes
    moved = codes.expression.clone()
    moved[0, 3] += 3
    moved[0, 7] -= 4
    open_jaw = codes.pose + torch.tensor([[1.0, 1, 1, np.radians(10), 0, 0]])
    assert code_distance(codes.with_(expression=moved, pose=open_jaw), codes) == pytest.approx((5, 10), abs=1e-3)
