"""The faithful path end to end: files laid out as the originals', converted, against `original_inference` on them.

The head of those files is the open one in FLAME's layout, and the encoders' last layers are such that its codes are
usual ones on the two photos, so that there is something to see.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import original_deca
import original_inference
import pytest
import torch
from original_flame import FlameFiles, write_flame
from original_inference import Codes, Drawn, Originals, Read
from original_rig import SMALL, random_state
from torch import Tensor

from emorig_diffusers import EmoRigPipeline, FaceCodes
from emorig_diffusers.convert.adm import Heads
from emorig_diffusers.convert.deca import read_deca, read_emoca
from emorig_diffusers.convert.flame import convert_flame
from emorig_diffusers.convert.rig import CONVENTIONS, convert_rig, read_mean_shape
from emorig_diffusers.face.emotions import EMOTIONS
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.face.retarget import retarget_emotions
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.photo.crops import IBUG68, ffhq_matrix
from emorig_diffusers.photo.faces import find_faces
from emorig_diffusers.photo.resample import warp_crop
from emorig_diffusers.pipelines.outputs import EditedFace
from emorig_diffusers.pipelines.request import MODES
from emorig_diffusers.render.camera import ndc_to_pixels, project, transform_ndc
from emorig_diffusers.render.rasterize import rasterize

SIDE, PHOTO = 64, 160
MODEL = replace(SMALL, blocks=1)
SETTINGS = CONVENTIONS | {"crop_size": SIDE, "code_parts": "appearance"}
BRANCHES = ("deca", "emoca")
# who reads source and target, in every mode; all four pairs occur
WHO = {"exp": ("deca", "emoca"), "pose": ("emoca", "deca"), "light": ("emoca", "emoca"), "latent": ("deca", "deca")}
STEPS = {"exp": 20, "pose": 3, "light": 3, "latent": 3}  # of DDIM
CASES = [*WHO.items(), ("exp", ("deca", "deca")), ("exp", ("emoca", "deca")), ("exp", ("emoca", "emoca"))]
# DECA's name of a code -> ours
NAMES = {
    "shape": "shape", "tex": "texture", "exp": "expression", "pose": "pose", "cam": "camera", "light": "light",
}  # fmt: skip

NOISE = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))

# mean of the codes over the two photos, and how far each is from it
USUAL = {
    "shape": (0.0, 0.7), "tex": (0.0, 1.0), "exp": (0.25, 0.2), "turn": (0.05, 0.12), "jaw": ((0.15, 0, 0), 0.07),
    "cam": ((10.8, 0.0, 0.016), (0.6, 0.004, 0.004)), "light": (((3.0,) * 3 + (0.3,) * 24), 0.2),
}  # fmt: skip
ORDER = {"deca": ("shape", "tex", "exp", "turn", "jaw", "cam", "light"), "emoca": ("exp", "jaw")}
LENGTHS = {"shape": 100, "tex": 50, "exp": 50, "turn": 3, "jaw": 3, "cam": 3, "light": 27}


def square(photo: np.ndarray) -> np.ndarray:
    """The part around the face that FFHQ would show, larger than the network sees it."""
    points = find_faces(photo)[0].landmarks[list(IBUG68), :2]
    return warp_crop(photo, ffhq_matrix(points, PHOTO), PHOTO)


def ibug(photo: np.ndarray) -> np.ndarray:
    """The 68 points [68, 2] that take the place of FAN's, from the centre of the picture's first pixel."""
    return find_faces(photo)[0].landmarks[list(IBUG68), :2].astype(np.float64) * (SIDE / PHOTO) - 0.5


def usual_encoder(name: str, pictures: Tensor, seed: int) -> original_deca.Tensors:
    """A ResnetEncoder with random weights that gives usual codes on two pictures [2, 3, 224, 224]."""
    mean, spread = (
        torch.cat([torch.tensor(USUAL[part][i]).expand(LENGTHS[part]) for part in ORDER[name]]) for i in (0, 1)
    )
    tensors = original_deca.encoder_tensors(len(mean), seed)
    ends = {"layers.2.weight": torch.eye(1024), "layers.2.bias": torch.zeros(1024)}
    hidden = original_deca.encode(tensors | ends, pictures)
    between, middle = (hidden[0] - hidden[1]) / 2, hidden.mean(0)
    signs = tensors["layers.2.bias"].sign()[:, None]
    ours = tensors["layers.2.weight"] + signs * between / between.square().sum()
    tensors["layers.2.weight"] = spread[:, None] * ours
    tensors["layers.2.bias"] = mean - tensors["layers.2.weight"] @ middle
    return tensors


def flame_head(head: HeadModel) -> HeadModel:
    """The open head with pose correctives."""
    other = HeadModel.from_config(dict(head.config) | {"num_pose_correctives": 36})
    correctives = 2e-3 * torch.randn(36, len(head.template), 3, generator=torch.Generator().manual_seed(2))
    other.load_state_dict(head.state_dict() | {"pose_basis": correctives})
    return other


@dataclass
class Files:
    """The originals' files in a folder, and what they hold."""

    flame: FlameFiles
    deca: Path
    emoca: Path
    rig: Path
    held: Originals


Pair = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def squares(astronaut: np.ndarray, hopper: np.ndarray) -> Pair:
    """Source and target as photos, uint8 [160, 160, 3]."""
    return square(astronaut), square(hopper)


@pytest.fixture(scope="module")
def pictures(squares: Pair) -> Pair:
    """Source and target as the network sees them, uint8 [64, 64, 3]."""
    return tuple(original_inference.resized(photo, SIDE) for photo in squares)


@pytest.fixture(scope="module")
def points(squares: Pair) -> Pair:
    """Their faces' 68 points in the pictures."""
    return tuple(map(ibug, squares))


@pytest.fixture(scope="module")
def files(
    head: HeadModel, pictures: Pair, points: Pair, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Files]:
    folder = tmp_path_factory.mktemp("originals")
    flame = write_flame(folder / "flame", flame_head(head))
    crops = torch.cat([original_inference.crop(*both)[0] for both in zip(pictures, points, strict=True)])
    own = {name: usual_encoder(name, crops, seed) for seed, name in enumerate(BRANCHES)}
    by_outputs = {236: own["deca"], 53: own["emoca"], 128: original_deca.encoder_tensors(128, 7, flat=True)}
    with patch.object(original_deca, "encoder_tensors", lambda outputs, *_: by_outputs[outputs]):
        deca = original_deca.write_deca(folder / "deca")
        emoca = original_deca.write_emoca(folder / "emoca", rows=53, jaw=True, detail=True)
    state = random_state(MODEL)
    state["denoisingUNet.out.2.weight"] *= 3  # or most of a sample ends at the limits of its range
    torch.save(state, folder / "model050000.pt")
    held = Originals(flame.values, own["deca"], own["emoca"], state, MODEL)
    yield Files(flame, deca, emoca, folder / "model050000.pt", held)
    shutil.rmtree(folder)  # 400 MB


@pytest.fixture(scope="module")
def rig(files: Files, pipe: EmoRigPipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmoRigPipeline]:
    """All of them converted; the encoder, which would take 600 MB, without a folder of its own."""
    folder = tmp_path_factory.mktemp("converted")
    head = HeadModel.from_pretrained(convert_flame(out=folder / "flame", **files.flame.arguments()))
    encoder, detail = read_emoca(files.emoca)
    made = convert_rig(files.rig, folder / "rig", heads=Heads())
    parts = {"head": head, "encoder": encoder, "detail": detail}
    pipeline = EmoRigPipeline.from_pretrained(made, **parts, emotion_codes=retarget_emotions(pipe.head, head))
    pipeline.set_progress_bar_config(disable=True)
    yield pipeline
    shutil.rmtree(folder)


@dataclass
class Run:
    """One edit: what the network was given [1, 12, S, S] and told [1, Z] each time, its sample [3, S, S], the face."""

    calls: list[tuple[Tensor, Tensor]]
    sample: Tensor
    face: EditedFace

    @property
    def given(self) -> Tensor:
        """[12, S, S] of the first step."""
        return self.calls[0][0][0]


@dataclass
class Scene:
    """Source and target, the converted pipeline, and what the originals read."""

    rig: EmoRigPipeline
    held: Originals
    photos: Pair
    pictures: Pair
    points: Pair
    reads: dict[tuple[int, str], Read]  # (0 for the source or 1 for the target, branch)
    faces: dict[tuple[int, str], EncodedFace]  # as the pipeline reads them
    runs: dict[tuple, Run] = field(default_factory=dict)

    def run(self, mode: str, who: tuple[str, str]) -> Run:
        """The edit that the original is asked for, made once; in STEPS for WHO, else one step."""
        if (mode, who) not in self.runs:
            steps = STEPS[mode] if WHO[mode] == who else 1
            self.runs[mode, who] = self.edit(self.rig, mode, who, steps)
        return self.runs[mode, who]

    def edit(self, rig: EmoRigPipeline, mode: str, who: tuple[str, str], steps: int = 1, **options: object) -> Run:
        """An edit of the source by the target, from NOISE unless `options` say otherwise."""
        calls, samples = [], []

        def keep(_: object, step: int, time: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
            samples.append(values["latents"])
            return values

        handle = rig.unet.register_forward_pre_hook(lambda _, arguments: calls.append(arguments[::2]))
        source, target = self.photos
        lending = {"reference": target, "modes": [mode], "source_encoder": who[0], "target_encoder": who[1]}
        sampling = {"latents": NOISE, "num_inference_steps": steps, "callback_on_step_end": keep}
        try:
            face = rig(source, crop="whole", **lending | sampling | options).faces[0][0]
        finally:
            handle.remove()
        return Run(calls, samples[-1][0], face)

    def lent(self, mode: str, who: tuple[str, str]) -> tuple[Read, Codes]:
        """What the original reads from the source, and the codes that it draws."""
        own = self.reads[0, who[0]]
        return own, original_inference.lend(own.codes, self.reads[1, who[1]].codes, mode)

    def drawn(self, mode: str, who: tuple[str, str]) -> Drawn:
        return original_inference.draw(self.held, *self.lent(mode, who))

    def look(self, mode: str) -> Tensor:
        return original_inference.look(self.held, self.pictures[mode == "latent"])


@pytest.fixture(scope="module")
def scene(rig: EmoRigPipeline, files: Files, squares: Pair, pictures: Pair, points: Pair) -> Scene:
    both = [(i, branch) for i in (0, 1) for branch in BRANCHES]
    reads = {(i, who): original_inference.read(files.held, pictures[i], points[i], who) for i, who in both}
    faces = {(i, who): rig.encode(squares[i], crop="whole", encoder=who)[0] for i, who in both}
    return Scene(rig, files.held, squares, pictures, points, reads, faces)


def far(found: Tensor | np.ndarray, wanted: Tensor | np.ndarray) -> float:
    """The largest difference."""
    return float(np.abs(np.asarray(found, np.float64) - np.asarray(wanted, np.float64)).max())


def check_codes(found: FaceCodes, wanted: Codes) -> None:
    for name, ours in NAMES.items():
        assert far(getattr(found, ours)[0], wanted[name]) < 1e-4 * np.abs(wanted[name]).max(), name


def check_conditions(made: Run, wanted: Drawn) -> None:
    """All but a few pixels at the edges of faces, where rounding decides."""
    off = np.abs(made.given[3:].numpy() - wanted.conditions).max(0) > 5e-3
    assert off.sum() < 0.005 * (wanted.face >= 0).sum()


# codes


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("index", [0, 1])
def test_codes(scene: Scene, index: int, branch: str) -> None:
    picture, face = scene.pictures[index], scene.faces[index, branch]
    assert np.array_equal(face.picture.pixels, picture)
    assert far(face.seen, original_inference.crop(picture, scene.points[index])[0]) < 1e-5
    check_codes(face.codes, scene.reads[index, branch].codes)


def test_the_photos_and_the_encoders_differ(scene: Scene) -> None:
    """Or the tests here would not tell one from the other."""
    source, target = (scene.reads[i, "deca"].codes for i in (0, 1))
    assert all(far(source[name], target[name]) > 0.005 for name in NAMES)
    assert far(scene.reads[0, "emoca"].codes["exp"], source["exp"]) > 0.1
    assert far(scene.reads[0, "emoca"].codes["pose"][3:], source["pose"][3:]) > 0.001


def test_decas_own_file(scene: Scene, files: Files) -> None:
    """deca_model.tar in place of EMOCA's folder."""
    encoder, _ = read_deca(files.deca)
    deca = EmoRigPipeline(**scene.rig.components | {"encoder": encoder}, **SETTINGS)
    face = deca.encode(scene.photos[0], crop="whole")[0]
    check_codes(face.codes, scene.reads[0, "deca"].codes)


# what the network sees


@pytest.mark.parametrize(("mode", "who"), CASES)
def test_what_the_network_sees(scene: Scene, mode: str, who: tuple[str, str]) -> None:
    made, head = scene.run(mode, who), scene.rig.head
    own, codes = scene.lent(mode, who)
    check_codes(made.face.target, codes)
    vertices = original_inference.placed(scene.held, own.codes, codes)
    assert far(made.face.vertices, vertices) < 1e-5
    transform = scene.faces[0, who[0]].transform
    points = transform_ndc(project(made.face.vertices[None], made.face.target.camera), transform)  # of ours, from here
    assert far(points[0], original_inference.project(vertices, codes["cam"], own.tform, SIDE)) < 1e-4

    face = rasterize(ndc_to_pixels(points, SIDE), head.faces, SIDE, SIDE, rule="pytorch3d").face[0].numpy()
    mine = [x.double().numpy() for x in (made.face.vertices, points[0])]
    wanted = original_inference.paint(scene.held.flame, *mine, codes, SIDE)
    count, same = (wanted.face >= 0).sum(), wanted.face == face
    assert count > 0.3 * SIDE**2 and (~same).sum() < 0.005 * count
    assert far(made.given[3:][:, same], wanted.conditions[:, same]) < 2e-4  # the texture is noise: steep
    assert not made.given[3:, face < 0].any()
    assert torch.equal(made.given[:3], NOISE[0])
    assert far(made.calls[0][1], scene.look(mode)) < 1e-4


# what it draws


def test_the_sampler(scene: Scene) -> None:
    """The same noise, conditions and code."""
    made = scene.run("exp", WHO["exp"])
    told = made.given[None, 3:], made.calls[0][1]
    wanted = original_inference.sample(scene.held, NOISE, *told, STEPS["exp"])[0]
    found = (made.sample.clamp(-1, 1) + 1) / 2
    assert ((wanted > 0.01) & (wanted < 0.99)).float().mean() > 0.2  # clipping has not made all black and white
    assert far(found, wanted) < 1e-3


def test_the_picture_from_the_files(scene: Scene) -> None:
    """From photos to pictures, each side by itself, in every mode."""
    drawn = [scene.drawn(mode, WHO[mode]) for mode in MODES]
    wanted = [
        original_inference.sample(
            scene.held, NOISE, torch.from_numpy(one.conditions).float()[None], scene.look(mode), STEPS[mode]
        )[0]
        for mode, one in zip(MODES, drawn, strict=True)
    ]
    for mode, one, picture in zip(MODES, drawn, wanted, strict=True):
        made = scene.run(mode, WHO[mode])
        check_conditions(made, one)
        levels = np.floor(picture.numpy() * 255 + 0.5) - np.asarray(made.face.drawn).transpose(2, 0, 1)
        assert np.abs(levels).mean() < 0.1 and (np.abs(levels) > 2).mean() < 0.01
    pairs = [(wanted[i] - wanted[j]).abs().mean() for i in range(len(MODES)) for j in range(i)]
    assert min(pairs) > 0.05  # of modes


def test_the_albums_shape(scene: Scene, tmp_path: Path) -> None:
    """It is drawn in place of the photo's own, which still says where the face is."""
    mean = torch.randn(1, 100, generator=torch.Generator().manual_seed(8))
    file = tmp_path / "mean_shape.pkl"
    file.write_bytes(pickle.dumps(mean))
    album, who = EmoRigPipeline(**scene.rig.components, **SETTINGS, shape=read_mean_shape(file)), WHO["pose"]
    album.set_progress_bar_config(disable=True)
    made = scene.edit(album, "pose", who)
    own, codes = scene.lent("pose", who)
    codes = codes | {"shape": mean[0].double().numpy()}
    assert far(made.face.vertices, original_inference.placed(scene.held, own.codes, codes)) < 1e-5
    wanted = original_inference.draw(scene.held, own, codes)
    check_conditions(made, wanted)
    plain = scene.run("pose", who).given[3:]
    assert ((made.given[3:] - plain).abs().amax(0) > 0.1).sum() > 0.3 * (wanted.face >= 0).sum()


# more than the original


def test_wrinkles(scene: Scene) -> None:
    who = WHO["exp"]
    smooth, made = scene.run("exp", who), scene.edit(scene.rig, "exp", who, detail=True)
    (rendered, normal, albedo), plain = made.given[3:].unflatten(0, (3, 3)), smooth.given[6:9]
    head = plain.any(0)
    assert torch.equal(albedo, smooth.given[9:]) and not made.given[3:, ~head].any()
    assert (normal - plain).norm(dim=0)[head].mean() > 0.1
    assert (normal * plain).sum(0)[head].mean() > 0.5  # a face still
    light = made.face.target.light[0].double().numpy()
    shaded = original_inference.shading(normal.permute(1, 2, 0).double().numpy(), light).transpose(2, 0, 1)
    assert far(rendered, albedo * shaded) < 1e-5


def test_the_photos_own_noise_and_anothers_look(scene: Scene) -> None:
    """Inversion is told of the photo itself, or the look that is lent would make no difference."""
    made = scene.edit(scene.rig, "latent", WHO["latent"], steps=2, latents="photo")
    told = torch.cat([code for _, code in made.calls])
    own, lent = scene.look("exp"), scene.look("latent")
    torch.testing.assert_close(told, torch.cat([own, own, lent, lent]), atol=1e-4, rtol=0)


def test_an_emotion_by_name(scene: Scene, astronaut: np.ndarray) -> None:
    """The converted folder does what the open default does: no reference, an emotion's name and a whole photo."""
    rig = scene.rig
    assert rig.emotion_names == EMOTIONS and rig.config.crop == "ffhq" and "whole_crop" in rig.capabilities
    output = rig(astronaut, "happy", num_inference_steps=2, output_type="np")
    face = output.faces[0][0]
    shown = torch.cat([face.target.expression, face.target.pose[:, 3:]], 1)[0]
    torch.testing.assert_close(shown, torch.tensor(rig.config.emotion_codes["happy"]))
    assert torch.equal(face.target.pose[:, :3], face.source.pose[:, :3])

    still = face.target.pose * torch.tensor([0, 0, 0, 1.0, 1, 1])
    points = lambda expression, pose: rig.head.landmarks68(rig.head(face.target.shape, expression, pose))[0]
    smile, rest = points(face.target.expression, still), points(0 * face.target.expression, 0 * still)
    moved = (smile - rest)[[48, 54]]
    assert moved[0, 0] < -0.002 and moved[1, 0] > 0.002 and (moved[:, 1] > 0.002).all()  # apart and up

    change = (output.images[0] != astronaut).any(-1)
    x0, y0, x1, y1 = (round(v) for v in face.box)
    assert change[y0:y1, x0:x1].mean() > 0.9 and 0.02 < change.mean() < 0.5
    assert face.drawn.size == (SIDE, SIDE)
