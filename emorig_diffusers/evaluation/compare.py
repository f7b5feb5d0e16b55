"""`emorig compare`: one photo's expression on another's face, read by every encoder that a pipeline has, on a sheet.

DECA's codes against EMOCA's is what DiffusionRig-EMO set out to show: with both in a pipeline there are four results
(S: DECA T: DECA to S: EMOCA T: EMOCA) from the same noise. What further pipelines make of the same two photos, such as
a Diffusion Autoencoder, stands beside them, read by the same encoders.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..timing import recorded, timed

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

    from ..diffusion.sampling import Sampling
    from ..face.codes import FaceCodes
    from ..face.encode import EncodedFace
    from ..photo.faces import Face
    from ..pipelines.base import FacePipeline
    from ..pipelines.emorig import EmoRigPipeline
    from ..pipelines.outputs import EditedFace
    from ..pipelines.request import EditRequest
    from ..provenance.edits import Edit

BUFFERS = ("rendered", "normal", "albedo")  # shown below each result
CODE_BUFFERS = ("reconstructed", "edited", "replaced")  # below a Diffusion Autoencoder's
_TABLE = "{:24}{:>8}{:>8}{:>8}  {:>8}{:>8}{:>8}"


@dataclass
class ComparedFace:
    """The source's face under one pair of encoders.

    Attributes:
        encoders: Who read the source and who the target, as in captions ("DECA").
        before: Codes of the source [1, ...].
        after: Codes that were drawn.
        wanted: Codes of the target.
        seen: What the target's encoder reads from the result; `None` where no face is found in it.
        result: The whole photo, uint8 [H, W, 3].
        crop: The result around the face.
        buffers: What was drawn of the head under `after`: BUFFERS.
    """

    encoders: tuple[str, str]
    before: FaceCodes
    after: FaceCodes
    wanted: FaceCodes
    seen: FaceCodes | None
    result: np.ndarray
    crop: Image.Image
    buffers: dict[str, Image.Image]


@dataclass
class OtherPipeline:
    """A further pipeline beside the one whose encoders are compared.

    Attributes:
        pipe: Knows emotions of a reference.
        steps: Of its network; `None` for the checkpoint's.
    """

    pipe: FacePipeline
    steps: int | None = None


@dataclass
class OtherResult:
    """What a further pipeline made of the source with the target as its reference.

    Attributes:
        label: Its name in captions.
        result: The whole photo, uint8 [H, W, 3].
        crop: The result around the face, as of a `ComparedFace`.
        buffers: What belongs below it: BUFFERS or CODE_BUFFERS.
        read: Encoder, as in captions -> codes of the source, of the target, and of the result, `None` without a face.
    """

    label: str
    result: np.ndarray
    crop: Image.Image
    buffers: dict[str, Image.Image]
    read: dict[str, tuple[FaceCodes, FaceCodes, FaceCodes | None]]


@dataclass
class Comparison:
    """What `compare` found.

    Attributes:
        source, target: The photos around the faces, squares of one size.
        pairs: A face for every pair of encoders, the source's in the outer loop.
        redrawn: The source under its own codes, for each encoder, where the network draws the whole crop: what
            differs from the photo there is the network's doing, not the expression's.
        milliseconds: Time of each stage, of all faces. An encoder's first pass is not timed; finding faces includes
            opening the detector.
        others: What further pipelines made.
        edit: What the sheet's file says.
    """

    source: Image.Image
    target: Image.Image
    pairs: list[ComparedFace]
    redrawn: list[ComparedFace]
    milliseconds: dict[str, float]
    others: list[OtherResult] = field(default_factory=list)
    edit: Edit | None = None


@dataclass
class _Read:
    """A photo, and its face as each encoder reads it."""

    rgb: np.ndarray
    faces: dict[str | None, EncodedFace]


@dataclass
class _Plan:
    """One face to draw: its encoders, codes to draw, the face they come from, and photo and face of the reference."""

    source: str | None
    target: str | None
    after: FaceCodes
    wanted: EncodedFace
    reference: tuple[np.ndarray, EncodedFace] | None = None


def compare(
    pipe: EmoRigPipeline,
    source: Any,
    target: Any,
    modes: Sequence[str] = ("exp",),
    num_inference_steps: int | None = None,
    generator: torch.Generator | None = None,
    latents: torch.Tensor | Literal["photo"] | None = None,
    crop: str | None = None,
    detail: bool = False,
    others: Mapping[str, OtherPipeline] | None = None,
) -> Comparison:
    """Put the target's expression on the source's (largest) face, once for every pair of encoders.

    Args:
        pipe: Any pipeline; `pipe.encoder.branches` are its encoders, none means that there is only one.
        source, target: Photos, as `io.read_photo` takes them.
        modes, num_inference_steps, crop, detail: As for `EmoRigPipeline.__call__`.
        generator: Draws the noise that all results start from.
        latents: That noise [1, 3, S, S] instead; "photo" takes what DDIM inversion finds for the source, under the
            codes of each of its encoders.
        others: Further pipelines by their names in captions, each with its own noise as by itself, and with the
            generator's seed. Their expression is the target's, whatever `modes` say.

    Raises:
        PhotoError, NoFaceError, ValueError: With one sentence that says what to do.
    """
    import torch

    from ..diffusion.sampling import Sampling
    from ..pipelines.marking import edit_of
    from ..pipelines.request import EditRequest

    asked = {"num_inference_steps": num_inference_steps, "latents": latents, "crop": crop, "detail": detail}
    request = EditRequest(reference=target, modes=modes, **asked)
    pipe.check(request)
    for other in (others or {}).values():
        other.pipe.check_inputs(reference=target, num_inference_steps=other.steps)
    seed = None if generator is None else generator.initial_seed()
    with torch.no_grad(), recorded() as seconds:
        found = {role: _find(photo, role) for role, photo in (("source", source), ("target", target))}
        pipe.encode_face(*found["source"], crop)  # untimed: the first pass sets up what all use
        here, there = (_read(pipe, *face, role, crop) for role, face in found.items())
        plans = _plan(pipe, here, there, request)
        if latents is None and pipe.unet is not None:
            latents = pipe.prepare_latents(1, generator)
        steps = num_inference_steps or pipe.config.default_num_inference_steps
        sampling = Sampling(steps, generator, latents, batch=len(plans))
        drawn = _paint(pipe, here, plans, request, sampling)
        faces = [_finish(pipe, plan, here, face) for plan, face in zip(plans, drawn)]
        beside = [_beside(pipe, label, one, (here, there), seed) for label, one in (others or {}).items()]
    pipe.maybe_free_model_hooks()
    times = {stage: 1000 * sum(runs) for stage, runs in seconds.items()}
    count = len(here.faces) * len(there.faces)
    source_crop, target_crop = (_crop(pipe, read.rgb, next(iter(read.faces.values()))) for read in (here, there))
    return Comparison(source_crop, target_crop, faces[:count], faces[count:], times, beside, edit_of(pipe, request))


def _find(photo: Any, role: str) -> tuple[np.ndarray, Face]:
    """A photo and its largest face."""
    from ..photo.faces import NoFaceError, choose_faces, find_faces
    from ..photo.io import read_photo

    rgb = read_photo(photo).rgb
    try:
        with timed("find faces"):
            return rgb, choose_faces(find_faces(rgb))[0]
    except NoFaceError as error:
        name = f"'{photo}'" if isinstance(photo, (str, Path)) else f"The {role}"
        raise NoFaceError(f"{name}: {error}") from error


def _read(
    pipe: EmoRigPipeline, rgb: np.ndarray, face: Face, role: str, crop: str | None
) -> _Read:
    """A face as every encoder reads it."""
    faces: dict[str | None, EncodedFace] = {}
    for branch in pipe.encoder.branches or (None,):
        with timed(f"encode {role}, {_kind(pipe, branch)}"):
            faces[branch] = pipe.encode_face(rgb, face, crop, branch)
    return _Read(rgb, faces)


def _kind(pipe: EmoRigPipeline, branch: str | None) -> str:
    """An encoder's name in captions."""
    return branch.upper() if branch else type(pipe.encoder).__name__.removesuffix("Encoder").lower()


def _plan(pipe: EmoRigPipeline, here: _Read, there: _Read, request: EditRequest) -> list[_Plan]:
    """Every pair, then the source under its own codes where the network draws all of it."""
    plans = []
    for source, face in here.faces.items():
        for target, lender in there.faces.items():
            after = pipe.edit(face, request, lender)
            plans.append(_Plan(source, target, after, lender, (there.rgb, lender)))
    own = [_Plan(branch, branch, face.codes, face) for branch, face in here.faces.items()]
    return plans + own if "whole_crop" in pipe.capabilities else plans


Drawn = tuple["np.ndarray", dict[str, "Image.Image"]]  # the whole photo, and buffers


def _paint(
    pipe: EmoRigPipeline, here: _Read, plans: list[_Plan], request: EditRequest, sampling: Sampling,
) -> list[Drawn]:  # fmt: skip
    """All faces in one batch, where the network draws the whole crop."""
    from ..painting.base import PhotoEdits

    edits = [PhotoEdits(here.rgb, [here.faces[p.source]], [[p.after]], request, p.reference, True) for p in plans]
    results = pipe.paint(edits, sampling)
    return [(rgb, {name: face.buffers[name] for name in BUFFERS}) for rgb, [face] in results]


def _finish(pipe: EmoRigPipeline, plan: _Plan, here: _Read, drawn: Drawn) -> ComparedFace:
    """A drawn face with what the target's encoder reads from it."""
    face, (result, buffers) = here.faces[plan.source], drawn
    [seen] = _read_result(pipe, result, face.frame, [plan.target])
    return ComparedFace(
        (_kind(pipe, plan.source), _kind(pipe, plan.target)), face.codes, plan.after, plan.wanted.codes, seen,
        result, _crop(pipe, result, face), buffers,
    )  # fmt: skip


def _read_result(
    pipe: EmoRigPipeline, result: np.ndarray, frame: str, branches: Sequence[str | None]
) -> list[FaceCodes | None]:
    """What encoders read from a result uint8 [H, W, 3]; `None` where no face is found in it."""
    from ..photo.faces import choose_faces, find_faces

    with timed("read results"):
        found = find_faces(result)
        if not found:
            return [None for _ in branches]
        face = choose_faces(found)[0]
        return [pipe.encode_face(result, face, frame, branch).codes for branch in branches]


def _beside(
    pipe: EmoRigPipeline, label: str, other: OtherPipeline, photos: tuple[_Read, _Read], seed: int | None,
) -> OtherResult:  # fmt: skip
    """What a further pipeline makes of source and target, as the first one's encoders read it."""
    import torch

    (here, there), generator = photos, None if seed is None else torch.Generator().manual_seed(seed)
    asked = {"reference": there.rgb, "num_inference_steps": other.steps, "generator": generator}
    with timed(f"edit, {label}"), recorded():  # its own stages are not told apart
        output = other.pipe(here.rgb, **asked, output_type="np")
    result, branches = output.images[0], list(here.faces)
    face = here.faces[branches[0]]
    seen = _read_result(pipe, result, face.frame, branches)
    read = {_kind(pipe, b): (here.faces[b].codes, there.faces[b].codes, codes) for b, codes in zip(branches, seen)}
    return OtherResult(label, result, _crop(pipe, result, face), _below(output.faces[0][0]), read)


def _below(face: EditedFace) -> dict[str, Image.Image]:
    """The buffers of an edited face that the sheet shows."""
    return {name: face.buffers[name] for name in (*BUFFERS, *CODE_BUFFERS) if name in face.buffers}


def _crop(pipe: EmoRigPipeline, rgb: np.ndarray, face: EncodedFace) -> Image.Image:
    """The picture around a face, as large as on the sheet."""
    from PIL import Image

    from ..photo.resample import warp_crop
    from .sheets import TILES

    side = min(max(pipe.config.crop_size, TILES[0]), TILES[1])
    return Image.fromarray(warp_crop(rgb, face.grid_matrix(side), side))


def draw_comparison(comparison: Comparison) -> Image.Image:
    """The sheet: the photos and the redrawn source, below them a column for every pair and further pipeline, result
    above buffers. Its file will say what it shows."""
    from .sheets import draw_rows

    photos = [("source", comparison.source), ("target", comparison.target)]
    redrawn = [(f"source redrawn, {face.encoders[0]}", face.crop) for face in comparison.redrawn]
    results = [("S: {}  T: {}".format(*face.encoders), face.crop) for face in comparison.pairs]
    results += [(other.label, other.crop) for other in comparison.others]
    below = [[(name, face.buffers[name]) for name in BUFFERS] for face in comparison.pairs]
    below += [list(other.buffers.items()) for other in comparison.others]
    sheet = draw_rows([photos + redrawn, results, *map(list, zip(*below))])
    sheet.info["edit"] = comparison.edit
    return sheet


def code_distance(codes: FaceCodes, wanted: FaceCodes) -> tuple[float, float]:
    """How far expression (Euclidean, in the code's unit) and jaw (of the axis-angles, degrees) are from others'."""
    expression = (codes.expression - wanted.expression).norm().item()
    return expression, math.degrees((codes.pose[:, 3:] - wanted.pose[:, 3:]).norm().item())


def describe_comparison(comparison: Comparison) -> str:
    """A table of distances from the target's codes, and the time of each stage."""
    lines = [
        "Distance from the target's codes: of the source, of what was drawn, of the result as the target's encoder",
        "reads it; of the redrawn source from its own; of further pipelines' results as each encoder reads them.",
        _TABLE.format("", "express.", "drawn", "result", "jaw, deg", "drawn", "result"),
    ]
    for name, wanted, stages in _table_rows(comparison):
        distances = [None if codes is None else code_distance(codes, wanted) for codes in stages]
        words = list(zip(distances, ("", "-", "no face")))
        numbers = [f"{distance[part]:.2f}" if distance else word for part in (0, 1) for distance, word in words]
        lines.append(_TABLE.format(name, *numbers))
    return "\n".join([*lines, "", *(f"{stage:24}{time:8.0f} ms" for stage, time in comparison.milliseconds.items())])


def _table_rows(comparison: Comparison) -> list[tuple[str, FaceCodes, tuple[FaceCodes | None, ...]]]:
    """Name, wanted codes, and those of the source, of what was drawn, and of the result."""
    faces = [("S: {}  T: {}".format(*face.encoders), face) for face in comparison.pairs]
    faces += [(f"{face.encoders[0]} redrawn", face) for face in comparison.redrawn]
    rows = [(name, face.wanted, (face.before, face.after, face.seen)) for name, face in faces]
    read = [(f"{other.label}, {kind}", *codes) for other in comparison.others for kind, codes in other.read.items()]
    rows += [(name, there, (here, None, seen)) for name, here, there, seen in read]
    return rows
