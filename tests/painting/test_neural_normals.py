"""A neural head's normals in the place of the linear head's, in what a published network sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from drawing_unet import drawing_unet
from torch import Tensor

from emorig_diffusers import EmoRigPipeline, FaceCodes
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.models import nphm_fit
from emorig_diffusers.models.appearance import AppearanceEncoder
from emorig_diffusers.models.mesh_fields import similarity
from emorig_diffusers.models.nphm import NeuralHeadModel
from emorig_diffusers.models.nphm_fit import HeadFit, HeadFitter
from emorig_diffusers.painting import neural_normals
from emorig_diffusers.painting.diffusion_rig import published_scheduler
from emorig_diffusers.painting.neural_normals import NeuralNormals
from emorig_diffusers.render.sphere_trace import trace_buffers
from emorig_diffusers.render.spherical_harmonics import sh_shading

SIDE = 64


@pytest.fixture(scope="module")
def neural() -> NeuralHeadModel:
    """A small head that starts as an ellipsoid, and that its codes bend."""
    torch.manual_seed(0)
    head = NeuralHeadModel(16, 7, 8, 4, 20, 4, 8, 6, 24, 4, 4, deformation="backward").eval().requires_grad_(False)
    torch.nn.init.normal_(head.expression.linears[-1].weight, std=0.05)
    head.shape_std.fill_(0.05)
    head.expression_std.fill_(0.5)
    return head


@pytest.fixture(scope="module")
def rig(pipe: EmoRigPipeline, neural: NeuralHeadModel) -> Callable[..., EmoRigPipeline]:
    """A small published rig with the open head; the neural one lies beside it."""
    parts = (pipe.head, pipe.encoder, drawing_unet(64), published_scheduler(), AppearanceEncoder(cond_dim=64).eval())

    def make(**settings: object) -> EmoRigPipeline:
        made = EmoRigPipeline(
            *parts, default_num_inference_steps=2, crop_size=SIDE, code_parts=["appearance"], **settings
        )
        made.set_progress_bar_config(disable=True)
        return made

    return make


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Few steps: how close a fit comes is asked elsewhere."""
    few = {"PERSON_STEPS": 8, "EXPRESSION_STEPS": 8, "RESOLUTION": 64, "PICTURE_SCALE": 0.05}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in few.items():
            patch.setattr(neural_normals, name, value)
        patch.setattr(nphm_fit, "AVERAGE_RESOLUTION", 32)
        yield


@pytest.fixture(scope="module")
def on(rig: Callable[..., EmoRigPipeline], neural: NeuralHeadModel) -> EmoRigPipeline:
    """The rig with its flag on, which remembers what it fitted."""
    return rig(neural_head=neural, normals="neural")


def drawn(pipe: EmoRigPipeline, face: EncodedFace, codes: FaceCodes) -> tuple[Tensor, object]:
    """Vertices of the head as it is drawn, and the buffers."""
    vertices = pipe.painter.recentred_head(face.codes, codes)
    plain = pipe.draw_head(codes, SIDE, face.transform, vertices)
    return vertices, pipe.neural_normals.replace(plain, codes, vertices, face.transform)


def test_off_is_as_ever(
    rig: Callable[..., EmoRigPipeline], on: EmoRigPipeline, astronaut: np.ndarray, astronaut_face: EncodedFace
) -> None:
    """A neural head that no flag asks for changes no bit; with the flag, the network sees another picture."""
    results = [
        made(astronaut, "happy", faces=[astronaut_face], generator=torch.Generator().manual_seed(0))
        for made in (rig(), rig(neural_head=on.neural_head), on)
    ]
    plain, off, on = (np.asarray(result.images[0]) for result in results)
    assert np.array_equal(plain, off) and not np.array_equal(plain, on)
    shown = [np.asarray(result.faces[0][0].buffers["normal"]) for result in results]
    assert np.array_equal(shown[0], shown[1]) and not np.array_equal(shown[0], shown[2])


def test_normals_are_the_traced_ones(on: EmoRigPipeline, astronaut_face: EncodedFace) -> None:
    """Of a turned head that does something: as rays find them in the neural head's field; light falls on them."""
    codes = on.edit_codes(astronaut_face, "happy", 1.0, rotate=(20, 10, 0))
    vertices, buffers = drawn(on, astronaut_face, codes)
    own = on.neural_normals
    person = own._person(codes.shape)
    rest = own._rest_vertices(codes).double().numpy()
    matrix, shift = (torch.from_numpy(part).float() for part in similarity(rest, vertices[0].double().numpy()))
    place, surface = person.placement, own.surface(codes)
    field = own.neural.field(person.shape, expression_again(own, codes), threshold=0.0)
    turn, move = (torch.from_numpy(np.asarray(part)).float() for part in (place.rotation, place.shift))
    to_neural = lambda points: place.scale * ((points - shift) @ matrix) @ turn.T + move
    low, high = (((surface.vertices @ matrix.T + shift).amin(0) - 0.01), (surface.vertices @ matrix.T + shift).amax(0))
    traced = trace_buffers(
        lambda points: field(to_neural(points)) / place.scale, codes.camera[0], SIDE, tuple(low.tolist()),
        tuple((high + 0.01).tolist()),
    )  # fmt: skip
    both = (traced.mask * buffers.mask)[0, 0] > 0
    assert both.float().mean() > 0.1
    angle = torch.rad2deg((traced.normal * buffers.normal).sum(1)[0][both].clamp(-1, 1).acos())
    assert angle.median() < 3 and angle.quantile(0.9) < 15
    plain = on.draw_head(codes, SIDE, astronaut_face.transform, vertices)
    assert torch.rad2deg((plain.normal * buffers.normal).sum(1)[0][both].clamp(-1, 1).acos()).median() > 5
    shading = sh_shading(buffers.normal.permute(0, 2, 3, 1), codes.light).permute(0, 3, 1, 2)
    assert torch.equal(buffers.rendered, buffers.albedo * shading) and torch.equal(buffers.albedo, plain.albedo)
    outside = plain.mask[0, 0] == 0
    assert torch.equal(buffers.mask, plain.mask) and not buffers.normal[0, :, outside].any()


def expression_again(own: neural_normals.NeuralNormals, codes: FaceCodes) -> Tensor:
    """The expression code of a face, fitted once more."""
    person, steps = own._person(codes.shape), neural_normals.EXPRESSION_STEPS
    fitter = HeadFitter(own.neural, steps, free_placement=False, shape=person.shape)
    found = fitter.fit(*own._seen(own._rest_vertices(codes)), person.placement)
    assert found.shape is person.shape and found.expression is not None and found.expression.any()
    return found.expression


def test_a_person_is_fitted_once(
    on: EmoRigPipeline, astronaut_face: EncodedFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Identity and place depend on the shape alone, and what was found is kept; turns need no new fit."""
    own, codes = NeuralNormals(on.head, on.neural_head), astronaut_face.codes
    people = []
    known = on.neural_normals._person(codes.shape)
    monkeypatch.setattr(neural_normals, "fit_scan", lambda *_: people.append(1) or known)
    first = own.surface(codes)
    happy = own.surface(on.edit_codes(astronaut_face, "happy", 1.0))
    assert own.surface(codes.with_(pose=codes.pose + torch.tensor([[0.2, 0, 0, 0, 0, 0]]))) is first
    assert people == [1] and not torch.equal(happy.vertices[:100], first.vertices[:100])
    assert on.neural_normals is on.neural_normals


def test_ctrl_c_stops_the_edit(
    on: EmoRigPipeline, astronaut_face: EncodedFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not leave half a fit behind."""
    own = NeuralNormals(on.head, on.neural_head)
    monkeypatch.setattr(neural_normals, "fit_scan", lambda *_: HeadFit(*[None] * 3, interrupted=True))
    with pytest.raises(KeyboardInterrupt):
        own.surface(astronaut_face.codes)
    assert not own._people and not own._surfaces


def test_a_folder_says_so(rig: Callable[..., EmoRigPipeline], on: EmoRigPipeline, tmp_path: Path) -> None:
    """The flag and the head are the checkpoint's; without the head, and with wrinkles, one sentence."""
    on.save_pretrained(tmp_path / "rig")
    opened = EmoRigPipeline.from_pretrained(tmp_path / "rig")
    assert opened.config.normals == "neural" and isinstance(opened.neural_head, NeuralHeadModel)
    assert type(opened)(**opened.components).config.normals == "neural" and opened.brought == ""
    assert opened.to(torch.float16).neural_head.dtype == torch.float32
    assert EmoRigPipeline.from_pretrained(tmp_path / "rig", normals="linear").neural_normals is None
    with pytest.raises(ValueError, match="needs a neural head"):
        rig(normals="neural")
    with pytest.raises(ValueError, match="choose one of linear, neural"):
        rig(normals="both")
    bare = NeuralHeadModel(16, 7, 4, 3, 16, 2, 8, 0)
    with pytest.raises(ValueError, match="no expressions"):
        _ = rig(neural_head=bare, normals="neural").neural_normals
    brought = NeuralHeadModel(16, 7, 4, 3, 16, 2, 8, 6, 24, 4, 4, blend_epsilon=1e-6)
    assert "NPHM" in rig(neural_head=brought).brought
