"""EmoRigPipeline with a network of conditioning 1 (DiffusionRig): what it sees, how it is sampled, what is pasted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from drawing_unet import drawing_unet
from pictures import assert_close
from torch import nn

from emorig_diffusers import EmoRigPipeline, FaceCodes
from emorig_diffusers.diffusion.sampling import Sampling
from emorig_diffusers.face.encode import EncodedFace, code_width
from emorig_diffusers.models.appearance import AppearanceEncoder
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.painting.diffusion_rig import draw_conditions, paste_mask, published_scheduler
from emorig_diffusers.photo.resample import warp_crop
from emorig_diffusers.render.buffers import draw_buffers
from emorig_diffusers.render.camera import project

SIDE = 64
LAB_PARTS = ("appearance", "shape", "shape", "expression")


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@contextmanager
def watched(module: nn.Module) -> Iterator[list[tuple]]:
    """The arguments of every call of a module."""
    calls: list[tuple] = []
    handle = module.register_forward_pre_hook(lambda _, arguments: calls.append(arguments))
    try:
        yield calls
    finally:
        handle.remove()


# what the network sees


def test_which_networks_draw_the_whole_crop(
    published: EmoRigPipeline, pipe: EmoRigPipeline, tiny_pipe: EmoRigPipeline
) -> None:
    bare = EmoRigPipeline(pipe.head, pipe.encoder)
    assert ["whole_crop" in p.capabilities for p in (published, pipe, tiny_pipe, bare)] == [True, False, False, False]


def test_conditions_are_the_heads_buffers(pipe: EmoRigPipeline, codes: FaceCodes) -> None:
    drawn = draw_conditions(pipe.head, codes, SIDE)
    assert drawn.shape == (2, 9, SIDE, SIDE)
    head = pipe.head
    for index, picture in enumerate(drawn):
        one = codes[index]
        vertices = head(one.shape, one.expression, one.pose)
        expected = draw_buffers(vertices, head.faces, one.camera, one.light, head.albedo[None], SIDE)
        parts = (expected.rendered[0], expected.normal[0], expected.albedo[0])
        torch.testing.assert_close(picture, torch.cat(parts), atol=1e-4, rtol=0)
        background = expected.mask[0, 0] == 0
        assert background.any() and not picture[:, background].any()
    bright = draw_conditions(pipe.head, codes.with_(light=codes.light * 9), SIDE)
    assert bright[:, :3].max() > 1  # rendered is not clamped
    torch.testing.assert_close(bright[:, 3:], drawn[:, 3:])


def test_conditions_in_another_frame(pipe: EmoRigPipeline, codes: FaceCodes) -> None:
    """Half the size and to the right: the lower left of the picture is the whole crop."""
    half = torch.tensor([[0.5, 0, -0.5], [0, 0.5, 0.5], [0, 0, 1]]).expand(2, 3, 3)
    placed = draw_conditions(pipe.head, codes, 2 * SIDE, half)
    torch.testing.assert_close(placed[..., SIDE:, :SIDE], draw_conditions(pipe.head, codes, SIDE), atol=1e-4, rtol=0)


def test_the_network_is_told_of_target_and_photo(
    published: EmoRigPipeline, astronaut: np.ndarray, astronaut_face: EncodedFace
) -> None:
    with watched(published.unet) as calls, watched(published.appearance_encoder) as looks:
        target = published(astronaut, "surprise", generator=seed(0)).faces[0][0].target
    assert len(calls) == 3 and len(looks) == 1
    crop = torch.from_numpy(warp_crop(astronaut, astronaut_face.grid_matrix(SIDE), SIDE)).permute(2, 0, 1)
    torch.testing.assert_close(looks[0][0], crop[None] / 127.5 - 1)
    vertices = published.painter.recentred_head(astronaut_face.codes, target)
    drawn = published.draw_head(target, SIDE, vertices=vertices)
    for sample, _, code in calls:
        torch.testing.assert_close(sample[:, 3:], torch.cat([drawn.rendered, drawn.normal, drawn.albedo], 1))
        torch.testing.assert_close(code, published.appearance_encoder(looks[0][0]))
    torch.testing.assert_close(calls[0][0][:, :3], torch.randn(1, 3, SIDE, SIDE, generator=seed(0)))


def test_the_face_stays_in_place_when_the_head_turns(
    published: EmoRigPipeline, hopper: np.ndarray, hopper_face: EncodedFace
) -> None:
    with watched(published.unet) as calls:
        (face,) = published(hopper, rotate=(20, 0, 0), num_inference_steps=1).faces[0]
    source, target, head = hopper_face.codes, face.target, published.head
    placed = published.painter.recentred_head(source, target)

    def middle(vertices: torch.Tensor) -> torch.Tensor:
        """A tenth of the way from between the eyes to between the mouth's corners, in the picture."""
        points = project(head.landmarks68(vertices), source.camera)[0, :, :2]
        eyes = (points[36:42].mean(0) + points[42:48].mean(0)) / 2
        return 0.9 * eyes + 0.1 * (points[48] + points[54]) / 2

    torch.testing.assert_close(middle(placed), middle(published.pose_head(source)), atol=1e-4, rtol=0)
    assert (middle(published.pose_head(target)) - middle(placed)).norm() > 0.05
    drawn = draw_buffers(placed, head.faces, target.camera, target.light, head.albedo[None], SIDE)
    torch.testing.assert_close(calls[0][0][:, 6:9], drawn.normal)
    assert torch.equal(face.vertices, placed[0])


# the code


def test_parts_of_the_code(pipe: EmoRigPipeline, codes: FaceCodes) -> None:
    assert torch.equal(pipe.condition_code(codes), torch.cat([codes.expression, codes.pose], 1))
    z = torch.randn(2, 64)
    parts = {
        "appearance": z, "shape": codes.shape, "texture": codes.texture, "expression": codes.expression,
        "pose": codes.pose, "light": codes.light.reshape(2, 27), "camera": codes.camera,
    }  # fmt: skip
    for chosen in (("appearance",), LAB_PARTS, tuple(parts), ("light", "camera")):
        told = EmoRigPipeline(pipe.head, pipe.encoder, code_parts=chosen)
        assert told.code_parts == chosen
        # diffusers would look for lists of texts as components of a Hub repository
        assert EmoRigPipeline(pipe.head, pipe.encoder, code_parts=told.config.code_parts).code_parts == chosen
        assert isinstance(told.config.code_parts, str)
        code = told.condition_code(codes, z)
        assert torch.equal(code, torch.cat([parts[name] for name in chosen], 1))
        assert code.shape[1] == code_width(pipe.head, chosen, 64)


def test_width_of_published_codes() -> None:
    flame = HeadModel(num_vertices=3, num_faces=1, num_uv=3, num_shape=100, num_expression=50)
    assert code_width(flame, ("appearance",), 64) == 64
    assert code_width(flame, ("appearance", "shape", "shape", "texture"), 64, 50) == 314
    assert code_width(flame, ("expression", "pose")) == 56


def test_unknown_parts_are_refused(pipe: EmoRigPipeline) -> None:
    for refuse in (
        lambda: EmoRigPipeline(pipe.head, pipe.encoder, code_parts=("pose", "jaw")),
        lambda: code_width(pipe.head, ("pose", "jaw")),
    ):
        with pytest.raises(ValueError, match="Unknown code part 'jaw' in code_parts: choose from appearance, shape"):
            refuse()


def test_missing_components_are_told_before_any_work(published: EmoRigPipeline, astronaut: np.ndarray) -> None:
    parts = published.components
    for missing, sentence in (
        ("appearance_encoder", "takes a code of the photo but there is no appearance_encoder"),
        ("scheduler", "has a network but no scheduler"),
    ):
        broken = EmoRigPipeline(**parts | {missing: None}, crop_size=SIDE, code_parts=["appearance"])
        with pytest.raises(ValueError, match=sentence) as caught:
            broken(astronaut, "happy")
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="takes a code of the photo: give that"):
        published.condition_code(FaceCodes(*(torch.zeros(1, 1) for _ in range(6))))


def test_photo_code_changes_the_picture(published: EmoRigPipeline, astronaut: np.ndarray) -> None:
    other = EmoRigPipeline(**published.components, crop_size=SIDE, code_parts=["appearance"])
    other.set_progress_bar_config(disable=True)
    torch.manual_seed(1)
    other.appearance_encoder = AppearanceEncoder(cond_dim=64).eval()
    edit = {"emotion": "sad", "num_inference_steps": 3, "output_type": "np"}
    first, second = (p(astronaut, **edit, generator=seed(0)).images[0].astype(int) for p in (published, other))
    assert np.abs(first - second).max() > 4


def test_the_labs_code(published: EmoRigPipeline, astronaut: np.ndarray) -> None:
    parts = published.components | {"unet": drawing_unet(code_width(published.head, LAB_PARTS, 64))}
    lab = EmoRigPipeline(**parts, crop_size=SIDE, code_parts=LAB_PARTS)
    lab.set_progress_bar_config(disable=True)
    with watched(lab.unet) as calls:
        target = lab(astronaut, "fear", num_inference_steps=1).faces[0][0].target
    expected = torch.cat([target.shape, target.shape, target.expression], 1)
    assert torch.equal(calls[0][2][:, 64:], expected)


# sampling


def test_scheduler_is_the_published_one() -> None:
    scheduler = published_scheduler()
    bars = scheduler.alphas_cumprod
    for step, bar in ((0, 0.9999), (500, 0.0778), (950, 1.06e-4), (999, 4.04e-5)):
        assert float(bars[step]) == pytest.approx(bar, rel=5e-3)
    scheduler.set_timesteps(20)
    assert scheduler.timesteps.tolist() == list(range(950, -1, -50))


def guided_ddim(predict: Callable[[torch.Tensor, int], torch.Tensor], noise: torch.Tensor, steps: int) -> torch.Tensor:
    """DDIM (Song et al. 2021, eq. 12) in double precision; x0 is clipped and the noise derived from it again."""
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    times = range(0, 1000, 1000 // steps)
    x = noise
    for t, before in zip(reversed(times), [*reversed(times[:-1]), None], strict=True):
        bar, bar_before = kept[t], 1.0 if before is None else kept[before]
        clean = ((x - (1 - bar) ** 0.5 * predict(x, t)) / bar**0.5).clamp(-1, 1)
        epsilon = (x - bar**0.5 * clean) / (1 - bar) ** 0.5
        x = bar_before**0.5 * clean + (1 - bar_before) ** 0.5 * epsilon
    return x


def test_sampler_is_that_of_guided_diffusion(published: EmoRigPipeline, codes: FaceCodes) -> None:
    conditions, code = draw_conditions(published.head, codes, SIDE), torch.randn(2, 64, generator=seed(1))
    noise = published.prepare_latents(2, seed(2))
    sample, _ = published.sample(noise, conditions, code, Sampling(20))

    def predict(x: torch.Tensor, t: int) -> torch.Tensor:
        stacked = torch.cat([x.float(), conditions], 1)
        return published.unet(stacked, torch.tensor([t, t]), code).sample.double()

    expected = guided_ddim(predict, noise.double(), 20)
    assert (expected.abs() > 0.999).any()  # clipping has bitten
    torch.testing.assert_close(sample.double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_other_schedulers_of_the_same_noise(published: EmoRigPipeline, astronaut: np.ndarray, kind: type) -> None:
    parts = published.components | {"scheduler": kind.from_config(published.scheduler.config)}
    other = EmoRigPipeline(**parts, crop_size=SIDE, code_parts=["appearance"])
    other.set_progress_bar_config(disable=True)
    edit = {"emotion": "happy", "num_inference_steps": 4, "output_type": "np"}
    images = [other(astronaut, **edit, generator=seed(0)).images[0] for _ in range(2)]
    assert_close(*images)
    assert (images[0] != astronaut).any()


def test_noise_is_the_generators_or_the_callers(published: EmoRigPipeline, hopper: np.ndarray) -> None:
    paint = lambda **how: published(hopper, "happy", output_type="np", **how).images[0]
    first = paint(generator=seed(3))
    assert_close(first, paint(generator=seed(3)))
    assert (first != paint(generator=seed(4))).any()
    noise = torch.randn(1, 3, SIDE, SIDE, generator=seed(3))
    assert_close(first, paint(latents=noise))
    for wrong in (noise[0], noise[..., :32], noise.numpy(), 7):
        with pytest.raises(ValueError, match=r"latents must be a tensor \[1, 3, 64, 64\]"):
            paint(latents=wrong)


def test_the_callers_noise_serves_the_open_network_too(tiny_pipe: EmoRigPipeline, hopper: np.ndarray) -> None:
    edit = {"emotion": "surprise", "num_inference_steps": 1, "output_type": "np"}
    noise = torch.randn(1, 3, 160, 160, generator=seed(3))
    images = [tiny_pipe(hopper, **edit, **how).images[0] for how in ({"generator": seed(3)}, {"latents": noise})]
    assert_close(*images)


def test_callback_sees_and_changes_every_step(published: EmoRigPipeline, hopper: np.ndarray) -> None:
    times = []

    def silence(pipeline: EmoRigPipeline, step: int, timestep: torch.Tensor, values: dict) -> dict:
        times.append(int(timestep))
        return {"latents": torch.zeros_like(values["latents"])}

    edit = {"emotion": "happy", "num_inference_steps": 4, "callback_on_step_end": silence}
    crop = np.asarray(published(hopper, **edit).faces[0][0].crop)
    assert times == [750, 500, 250, 0]
    assert (np.abs(crop[20:44, 20:44].astype(int) - 127) <= 2).all()  # zero is middle grey


# what is pasted


def test_what_lies_outside_the_heads_stays(published: EmoRigPipeline, hopper: np.ndarray) -> None:
    output = published(hopper, "happy", 1.2, rotate=(25, 0, 0), generator=seed(0), output_type="np")
    result, face = output.images[0], output.faces[0][0]
    assert result.shape == hopper.shape and result.dtype == np.uint8
    change = (result != hopper).any(-1)
    mask = np.asarray(face.buffers["repainted"])
    assert mask.shape == (SIDE, SIDE) and mask[32, 32] == 255 and not mask[0].any()
    before = published.draw_head(face.source, SIDE).mask[0, 0, 8:-8, 8:-8] > 0
    after = published.draw_head(face.target, SIDE, vertices=face.vertices[None]).mask[0, 0, 8:-8, 8:-8] > 0
    assert (before & ~after).sum() > 50  # where the head was and is no more, something has to stand
    assert (mask[8:-8, 8:-8] == 255)[before | after].all()
    x0, y0, x1, y1 = (round(v) for v in face.box)
    assert change[y0:y1, x0:x1].mean() > 0.9
    far = 0.5 * max(x1 - x0, y1 - y0)
    rows, columns = np.nonzero(change)
    assert x0 - far < columns.min() and columns.max() < x1 + far
    assert y0 - far < rows.min() and rows.max() < y1 + far
    assert 0.02 < change.mean() < 0.5


def test_the_photo_stays_where_the_network_saw_it_blurred(published: EmoRigPipeline, astronaut: np.ndarray) -> None:
    """A face at the photo's border, cut out by FFHQ's recipe."""
    photo = astronaut[30:230, 140:320]
    rig = EmoRigPipeline(**published.components, crop="ffhq", resampling="skimage")
    rig.set_progress_bar_config(disable=True)
    result = rig(photo, "happy", num_inference_steps=1, output_type="np")
    changed = (result.images[0] != photo).any(-1)
    own = rig.encode(photo)[0].picture.own
    assert own.min() == 0 and own.max() == 1
    assert changed[60:150, 60:120].mean() > 0.9
    difference = np.abs(result.images[0].astype(int) - photo)
    assert difference[0].max() < 16 < difference.max()
    assert (np.asarray(result.faces[0][0].buffers["repainted"])[own == 0] == 0).all()


def test_paste_fades_and_ends() -> None:
    heads = torch.zeros(2, 1, 200, 200)
    heads[0, 0, 80:100, 80:100] = 1
    heads[1, 0, 90:120, 90:120] = 1
    mask = paste_mask(heads)
    assert (mask[heads.amax((0, 1)) > 0] == 1).all()
    assert not mask[:80 - 17].any() and not mask[:, 120 + 17:].any()  # grown by 3 %, faded over 5 %
    row = mask[85, 60:81]
    assert (np.diff(row) >= 0).all() and ((row > 0) & (row < 1)).sum() > 5
    full = paste_mask(torch.ones(1, 1, 200, 200))
    assert full[100, 100] == 1 and not full[0].any() and not full[:, -1].any()
    assert not paste_mask(torch.zeros(1, 1, 200, 200)).any()


def test_intensity_0_is_the_photo(published: EmoRigPipeline, astronaut: np.ndarray) -> None:
    with watched(published.unet) as calls:
        output = published(astronaut, "happy", 0, output_type="np")
    assert np.array_equal(output.images[0], astronaut) and not calls
    assert not np.asarray(output.faces[0][0].buffers["repainted"]).any()


def test_reference_lends_expression_and_jaw(
    published: EmoRigPipeline, hopper: np.ndarray, astronaut: np.ndarray, hopper_face: EncodedFace
) -> None:
    target = published(hopper, reference=astronaut, num_inference_steps=1).faces[0][0].target
    lent = published.edit_codes(hopper_face, reference=published.encode(astronaut)[0])
    assert torch.equal(target.expression, lent.expression)
    assert torch.equal(target.pose[:, :3], hopper_face.codes.pose[:, :3])
    assert torch.equal(target.light, hopper_face.codes.light)


def test_the_network_sees_the_head_in_the_turned_light(
    published: EmoRigPipeline, hopper: np.ndarray, hopper_face: EncodedFace
) -> None:
    paint = lambda **edit: published(hopper, faces=[hopper_face], generator=seed(0), num_inference_steps=1, **edit)
    with watched(published.unet) as calls:
        for light in ({}, {"light_turn": (60, 0), "light_strength": 1.5}):
            paint(emotion="happy", **light)
    (noise, rendered, *rest), (other_noise, turned, *others) = (call[0].split(3, 1) for call in calls)
    assert torch.equal(noise, other_noise) and all(map(torch.equal, rest, others))
    ratio = (turned.clamp(min=1e-3) / rendered.clamp(min=1e-3)).mean(1)[0]
    head = rest[0][0].abs().sum(0) > 0
    left, right = (ratio[:, half][head[:, half]].mean() for half in (slice(SIDE // 2, None), slice(0, SIDE // 2)))
    assert left > 1.1 * right


def test_several_faces(published: EmoRigPipeline, astronaut: np.ndarray) -> None:
    couple = np.hstack([astronaut[:, 40:450], astronaut[:, 40:450]])
    with watched(published.unet) as calls:
        output = published(couple, "anger", face="all", num_inference_steps=1, generator=seed(0), output_type="np")
    assert [f.number for f in output.faces[0]] == [1, 2]
    change = (output.images[0] != couple).any(-1)
    assert change[:, :410].any() and change[:, 410:].any()
    noise = calls[0][0][:, :3]
    assert len(calls) == 1 and (noise[0] != noise[1]).any()  # one batch, noise of its own for each
    second = published(couple, "anger", face=2, num_inference_steps=1, latents=noise[1:], output_type="np")
    np.testing.assert_allclose(second.images[0][:, 500:], output.images[0][:, 500:].astype(int), atol=1)
    assert np.array_equal(second.images[0][:, :400], couple[:, :400])
