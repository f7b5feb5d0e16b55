"""The open default's painter: the photo is its own texture, moved under the edited head and mended where that is not
enough. STAGES is the whole recipe, in order; what each stage does, its module under `stages/` says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import cv2
import numpy as np
import torch
from torch import Tensor

from ..diffusion.sampling import Sampling
from ..face.codes import FaceCodes
from ..face.edit import MAX_ANGLE, UNDRAWN_UNITS, check_turn
from ..face.encode import EncodedFace, unchanged
from ..face.gaze import (
    ASIDE_UNITS,
    EYES_KEPT,
    carried_look,
    eye_turns,
    look_direction,
    turned_look,
    with_looks_of,
)
from ..face.light import possible_light
from ..photo.landmarks import IRISES, lips_apart
from ..photo.masks import ramp
from ..photo.resample import invert, transform_points, warp_crop
from ..photo.sharpness import photo_blur
from ..timing import timed
from .base import PaintedFace, PaintedPhoto, Painter, PhotoEdits
from .stages import composite, creases, flow, frown_lines, gaze, inpaint, lids, lips, shading
from .stages.face_light import eyes_hidden
from .stages.mouth_light import TeethLight
from .stages.relight import relight_photo

if TYPE_CHECKING:
    from ..pipelines.emorig import EmoRigPipeline

FLOW_SIZE = 512  # side of the grid on which motion is computed, pixels; training has a coarser one
MOVING_FINE, MOVING_LEAST, MOVING_STEP = 0.8, 256, 64  # pixels of that grid for each of the picture's, for a face that
# moves; its side at least; and steps in which that grows
SHOWS_TEETH = 0.0015, 0.006  # metres between lips from which teeth begin to show, and from which they are well lit
_FOUND: WeakKeyDictionary[EncodedFace, dict[tuple, tuple[ref[np.ndarray], Any]]] = WeakKeyDictionary()
"""Face -> what its photo alone tells of it, and in which photo that was found."""
LATER: Any = None  # what a stage has yet to fill in


@dataclass(frozen=True, eq=False)
class EditState:
    """One face on its way through STAGES; each stage fills in or replaces what its name says.

    Attributes:
        painter: Gives networks and settings.
        photo: uint8 [H, W, 3].
        face: The face as it is.
        target: The codes to show [1, ...].
        sampling: How the network is sampled.
        grid: Side of the flow's grid, pixels.
        moving: Whether it is a picture of a face that moves: then a mouth that is drawn anew comes little by little.
        light: What gives the light on its teeth; `None` where the photo does.
        moves_eyes: Whether eyes open and close, which takes the face's detection; of prepared photos only codes are
            kept.
        source_vertices, target_vertices: Heads [V, 3] in pixels of the flow's grid.
        flow: How the face moves.
        moved: The photo after motion, uint8 [H, W, 3].
        plan: What is inpainted.
        inpainted: The crop with it [1, 3, S, S] in [-1, 1].
        result: The photo after the latest stage, uint8 [H, W, 3].
    """

    painter: PhotoTexturePainter
    photo: np.ndarray
    face: EncodedFace
    target: FaceCodes
    sampling: Sampling
    grid: int = FLOW_SIZE
    moving: bool = False
    light: Callable[[], TeethLight] | None = None
    moves_eyes: bool = True
    source_vertices: Tensor = LATER
    target_vertices: Tensor = LATER
    flow: flow.Warp = LATER
    moved: np.ndarray = LATER
    plan: composite.Plan = LATER
    inpainted: Tensor = LATER
    result: np.ndarray = LATER

    @property
    def mouth_share(self) -> float:
        """How much of a mouth that is drawn anew is taken, in [0, 1]."""
        return composite.mouth_share(self.flow) if self.moving else 1.0

    @cached_property
    def photo_to_flow(self) -> np.ndarray:
        """Similarity [2, 3] from photo pixels to the flow's grid."""
        return self.face.grid_matrix(self.grid)

    @cached_property
    def photo_to_crop(self) -> np.ndarray:
        """Similarity [2, 3] from photo pixels to the network's crop."""
        return self.face.grid_matrix(self.painter.config.crop_size)

    def of_photo(self, name: str, find: Callable[[], Any]) -> Any:
        """What is found of the face in the photo alone, once however often the face is drawn under other codes."""
        asked, known = (name, self.grid, self.painter.config.crop_size), _FOUND.setdefault(self.face, {})
        if asked not in known or known[asked][0]() is not self.photo:
            known[asked] = ref(self.photo), find()
        return known[asked][1]

    @cached_property
    def eyes_hidden(self) -> bool:
        """Whether dark lenses hide the eyes, or nothing is known of them."""
        if not self.moves_eyes:
            return True
        if self.face.eyes_hidden is not None:
            return self.face.eyes_hidden
        size, landmarks = self.painter.config.crop_size, self.face.face.landmarks[:, :2]
        points = transform_points(self.photo_to_crop, landmarks)
        look = lambda: eyes_hidden(warp_crop(self.photo, self.photo_to_crop, size), points)
        return self.of_photo("eyes_hidden", look)

    @cached_property
    def eye_turns(self) -> list[tuple[float, float]]:
        """(yaw, pitch) in degrees by which the person's right and left eye turn; eyes that are not seen do not."""
        seen = [not (self.eyes_hidden or shut) for shut in self.face.shut_eyes] if self.moves_eyes else (False, False)
        return [turn if shown else (0.0, 0.0) for turn, shown in zip(eye_turns(self.unit_changes), seen)]

    def looking_as_before(self, units: Sequence[str] = ()) -> FaceCodes:
        """The target with eyes, or only those units of theirs, turned as the source's are."""
        names, own = self.painter.pipe.head.config.expression_names, self.face.codes.expression
        if not names:
            return self.target
        return self.target.with_(expression=with_looks_of(self.target.expression, own, names, units))

    @cached_property
    def unit_changes(self) -> dict[str, float]:
        """By how much each named unit of expression changes; none for heads without names."""
        change = (self.target.expression - self.face.codes.expression)[0].tolist()
        return dict(zip(self.painter.pipe.head.config.expression_names, change))


def place_heads(state: EditState) -> EditState:
    """The heads before and after; of a face with a covered mouth, only what lies above the cover follows."""
    place = lambda codes: state.painter.pipe.grid_vertices(state.face, codes, state.grid)
    codes = state.face.codes
    source, target = place(codes), place(state.looking_as_before(() if state.eyes_hidden else ASIDE_UNITS))
    if any(map(any, state.eye_turns)):  # eyeballs turn in `turn_eyes`
        eyes = state.painter.texture.eye_vertices
        target[eyes] = place(state.looking_as_before())[eyes]
    if state.face.covered:
        pose = torch.cat([state.target.pose[:, :3], codes.pose[:, 3:]], 1)
        still = place(state.target.with_(expression=codes.expression, pose=pose))
        target = still + state.painter.texture.above_mask[:, None] * (target - still)
    return replace(state, source_vertices=source, target_vertices=target)


def limit_lip_thickness(state: EditState) -> EditState:
    """The lower lip gets no thicker than the photo's."""
    if state.face.covered:
        return state
    target = lips.limit_lip_thickness(state.painter.pipe.head, state.source_vertices, state.target_vertices)
    return replace(state, target_vertices=target)


def facial_flow(state: EditState) -> EditState:
    """Where every pixel of the edited face comes from, lips and lids included, and what the photo does not show."""
    face, irises, shut = state.face, None, (False, False)
    if state.moves_eyes:
        landmarks, shut = transform_points(state.photo_to_crop, face.face.landmarks[:, :2]), face.shut_eyes
        irises = landmarks[list(IRISES)] * (state.grid / state.painter.config.crop_size)
    turning = not torch.equal(face.codes.pose[:, :3], state.target.pose[:, :3])
    heads = state.source_vertices, state.target_vertices
    irises = None if state.eyes_hidden else irises
    warp = state.painter.texture.warp(*heads, state.grid, turning, irises, shut, face.covered, face.speaks)
    if face.blur is None:
        blur = state.of_photo("blur", lambda: photo_blur(state.photo, state.photo_to_flow, warp.source_points))
    else:
        blur = face.blur * float(np.linalg.norm(state.photo_to_flow[:, 0]))
    return replace(state, flow=replace(warp, blur=blur))


def move_pixels(state: EditState) -> EditState:
    """The photo's own pixels, moved, and eyeballs behind lids that open."""
    moved = flow.move_pixels(state.photo, state.photo_to_flow, state.flow)
    return replace(state, moved=moved, result=moved)


def paint_lids(state: EditState) -> EditState:
    """Skin and lashes on lids that come down."""
    if state.eyes_hidden:
        return state
    moved = lids.paint_lids(state.moved, state.photo, state.photo_to_flow, state.flow)
    return replace(state, moved=moved, result=moved)


def plan_inpainting(state: EditState) -> EditState:
    """Masks of what motion cannot give, and plain teeth and skin that stand there."""
    grid, texture, size = state.photo_to_flow, state.painter.texture, state.painter.config.crop_size
    near = composite.close_up(texture, state.flow, state.target_vertices, state.moved, grid, state.moving)
    change = {} if state.face.covered else state.unit_changes
    release = creases.fold_release(change), creases.corner_release(change)
    fine = warp_crop(state.moved, grid, state.grid)
    plan = composite.plan(state.flow, fine, size, release, near, state.mouth_share, state.light)
    return replace(state, plan=plan, inpainted=plan.base)


def network(state: EditState) -> EditState:
    """What the diffusion network adds to it."""
    pipe, plan = state.painter.pipe, state.plan
    if pipe.unet is None or pipe.interrupt or not plan.network_mask.any():
        return state
    return replace(state, inpainted=state.painter.inpaint(plan, state.looking_as_before(), state.sampling))


def composite_photo(state: EditState) -> EditState:
    """The inpainted crop under the photo's own detail, at the photo's size."""
    blur = state.painter.config.light_blur
    result = composite.finish(state.moved, state.plan, state.inpainted, state.photo_to_crop, blur)
    return replace(state, result=result)


def draw_lip_line(state: EditState) -> EditState:
    """A sharp line where painted lips touch."""
    if not composite.mouth_changes(state.flow):
        return state
    result, share = lips.draw_lip_line(state.result, state.photo_to_flow, state.flow), state.mouth_share
    return replace(state, result=cv2.addWeighted(result, share, state.result, 1 - share, 0) if share < 1 else result)


def shade_expression(state: EditState) -> EditState:
    """The shade that an expression was measured to bring."""
    strength, change = state.painter.config.shading, state.unit_changes
    if not change or not strength:
        return state
    head, grid = state.painter.pipe.head, state.photo_to_flow
    result = shading.shade_expression(state.result, state.moved, grid, state.flow, head, change, strength)
    return replace(state, result=result)


def soften_frown(state: EditState) -> EditState:
    """Lines between brows that part give way."""
    if not state.unit_changes or not state.painter.config.shading:
        return state
    result = frown_lines.soften_frown(state.result, state.moved, state.photo_to_flow, state.flow, state.unit_changes)
    return replace(state, result=result)


def draw_frown(state: EditState) -> EditState:
    """Lines between brows that are drawn down."""
    depth, change, grid = state.painter.config.wrinkles, state.unit_changes, state.photo_to_flow
    return replace(state, result=frown_lines.draw_frown(state.result, state.moved, grid, state.flow, change, depth))


def turn_eyes(state: EditState) -> EditState:
    """Eyes that look elsewhere."""
    if not any(map(any, state.eye_turns)):
        return state
    result, to_photo, pose = state.result, invert(state.photo_to_flow), state.target.pose
    before, after = (transform_points(to_photo, p) for p in (state.flow.source_points, state.flow.points))
    own, carried = look_direction(state.face), carried_look(state.face, pose)
    for side, turn in enumerate(state.eye_turns):
        if any(turn):
            looks = [own, carried, turned_look(carried, turn, pose)]
            eye = gaze.turning_eye(side, state.face.face.landmarks, before, after, looks)
            result = gaze.paint_turned_eye(result, state.photo, eye)
    return replace(state, result=result)


def relight(state: EditState) -> EditState:
    """Another light on all of it."""
    source, target = state.face.codes.light, state.target.light
    if torch.equal(source, target):
        return state
    before = state.of_photo("light", lambda: possible_light(source))
    head = state.target_vertices, state.painter.texture
    return replace(state, result=relight_photo(state.result, state.photo_to_flow, state.grid, *head, before, target))


STAGES: tuple[Callable[[EditState], EditState], ...] = (
    place_heads,
    limit_lip_thickness,
    facial_flow,
    move_pixels,
    paint_lids,
    plan_inpainting,
    network,
    composite_photo,
    draw_lip_line,
    shade_expression,
    soften_frown,
    draw_frown,
    turn_eyes,
    relight,
)
OPTIONAL = ("limit_lip_thickness", "paint_lids", "network", "draw_lip_line", "shade_expression", "soften_frown",
            "draw_frown", "turn_eyes", "relight")  # fmt: skip
"""Stages that may be left out: the others make what later ones need."""


def moving_grid(face: EncodedFace) -> int:
    """Side of the grid on which a face that moves is drawn: with a finer one than the picture's own pixels, a small
    face's motion would take the time of a large one's, and show in none of them."""
    shown = 1 / float(np.linalg.norm(face.grid_matrix(1)[:, 0]))  # pixels of the picture along the crop's side
    return int(np.clip(np.ceil(MOVING_FINE * shown / MOVING_STEP) * MOVING_STEP, MOVING_LEAST, FLOW_SIZE))


def run_stages(
    state: EditState, skip: Collection[str] = (), until: Callable[[EditState], EditState] | None = None
) -> EditState:
    """Take a face through STAGES.

    Args:
        state: Of the face, with nothing done.
        skip: Names of OPTIONAL stages to leave out.
        until: The stage before which to stop.

    Raises:
        ValueError: If `skip` has another name.
    """
    if unknown := [name for name in skip if name not in OPTIONAL]:
        raise ValueError(f"The stage {unknown[0]!r} cannot be left out: choose from {', '.join(OPTIONAL)}.")
    for stage in STAGES:
        if stage is until:
            break
        if stage.__name__ not in skip:
            with timed(stage.__name__):
                state = stage(state)
    return state


class PhotoTexturePainter(Painter):
    """Moves the photo's pixels and inpaints the rest, as `base.Painter`.

    Args:
        pipe: Gives head, network and settings.
        skip: Names of OPTIONAL stages to leave out.
    """

    max_angle = MAX_ANGLE
    undrawn_units = UNDRAWN_UNITS
    keeps_fit_residual = keeps_covered_mouths = True

    def __init__(self, pipe: EmoRigPipeline, skip: Collection[str] = ()) -> None:
        self.pipe, self.skip, self.config = pipe, skip, pipe.config

    @property
    def texture(self) -> flow.PhotoTexture:
        """What moving pixels knows of the head's mesh."""
        return self.pipe.texture

    @property
    def latents_side(self) -> int:
        """As `base.Painter`."""
        return self.config.repaint_window[2]

    def check_target(self, source: FaceCodes, target: FaceCodes) -> None:
        """As `base.Painter`."""
        check_turn(source, target)

    def place_head(self, source: FaceCodes, target: FaceCodes) -> Tensor:
        """As `base.Painter`."""
        return self.pipe.placed_head(source, target)

    def paint(self, photos: Sequence[PhotoEdits], sampling: Sampling) -> list[PaintedPhoto]:
        """As `base.Painter`."""
        results = [(edits, list(zip(edits.faces, targets))) for edits in photos for targets in edits.targets]
        return [self._paint_photo(edits, faces, sampling.of([i])) for i, (edits, faces) in enumerate(results)]

    def _paint_photo(
        self, edits: PhotoEdits, faces: Collection[tuple[EncodedFace, FaceCodes]], sampling: Sampling
    ) -> PaintedPhoto:
        rgb = edits.rgb
        painted: list[PaintedFace | None] = []
        for (face, target), light in zip_longest(faces, edits.lights):
            if unchanged(face.codes, target):
                painted.append(None)
                continue
            grid = face.grid if edits.moving and face.grid else FLOW_SIZE
            state = run_stages(EditState(self, rgb, face, target, sampling, grid, edits.moving, light), self.skip)
            rgb = state.result
            kept = state.eyes_hidden and any(map(any, eye_turns(state.unit_changes)))
            painted.append(PaintedFace(state.plan.picture(), notes=(EYES_KEPT,) * kept))
        return PaintedPhoto(rgb, painted)

    def teeth_light(self, crop: np.ndarray, face: EncodedFace) -> tuple[TeethLight, float]:
        """The light on a face's teeth as a photo shows it, and how surely it shows teeth, in [0, 1].

        Args:
            crop: The network's, uint8 [S, S, 3].
            face: The face, whose blur is known.
        """
        size = self.config.crop_size
        still = EditState(self, crop, replace(face, speaks=0.0), face.codes, Sampling(1), size, moves_eyes=False)
        warp = facial_flow(place_heads(still)).flow
        open_by = lips_apart(warp.source_points) / warp.scale
        return inpaint.Seen.of(warp, crop, size).light, float(ramp(open_by, *SHOWS_TEETH))

    @torch.no_grad()
    def light_of_edit(self, photo: np.ndarray, face: EncodedFace, target: FaceCodes) -> TeethLight:
        """The light on a face's teeth as an edit finds it that shows codes in a photo uint8 [H, W, 3]."""
        state = run_stages(EditState(self, photo, face, target, Sampling(1)), self.skip, until=plan_inpainting)
        fine = warp_crop(state.moved, state.photo_to_flow, state.grid)
        return inpaint.Seen.of(state.flow, fine, self.config.crop_size).light

    def inpaint(self, plan: composite.Plan, target: FaceCodes, sampling: Sampling) -> Tensor:
        """Base plus the network's correction [1, 3, S, S] within the network's mask."""
        pipe, window = self.pipe, (..., *self.pipe.repaint_window)
        device, dtype = pipe._execution_device, pipe.unet.dtype
        conditions = inpaint.stack_conditions(plan.base, plan.normal, plan.albedo, plan.network_mask, plan.mouth)
        given: Any = sampling.latents  # never "photo", which needs a capability that this painter lacks
        latents = pipe.prepare_latents(1, sampling.generator, given)
        code = pipe.condition_code(target).to(device, dtype)
        sample, mean = self.denoise(latents, conditions[window].to(device, dtype), code, sampling)
        correction = torch.where(plan.mouth[window] > 0, sample.float().cpu(), mean.float().cpu())
        painted = plan.base.clone()
        painted[window] += correction * plan.network_mask[window]
        return painted.clamp(-1, 1)

    def denoise(self, latents: Tensor, conditions: Tensor, code: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
        """Corrections of the base [B, 3, side, side]: a sample, and the mean that the first step predicts.

        The mean is smooth, as skin is; the sample has detail. Arguments as for `SamplingMixin.sample`.
        """
        sample, mean = self.pipe.sample(latents, conditions, code, sampling)
        return sample / self.config.residual_scale, mean / self.config.residual_scale
