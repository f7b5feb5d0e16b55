"""What every pipeline does with faces before it paints: find them, fit their codes, edit the codes, pose the head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from .codes import FaceCodes
from .emotions import EMOTIONS, RECIPES, action_unit_offset, blend_expression, emotion_offset
from .faces import BLENDSHAPES, Face, align, choose_faces, find_faces, transform_points, warp_crop
from .models.head import PARTS, HeadModel, rotation_matrix
from .models.landmarks import FitResult, axis_angle
from .phototexture import PhotoTexture
from .render import Buffers, draw_buffers, fit_light, interpolate, ndc_to_pixels, project, rasterize, vertex_normals

LIGHT_GRID = 96  # side of the crop on which the light is fitted
OPEN_CODE = ("expression", "pose")
"""What the network of the open default is told of a face."""
CODE_PARTS = ("appearance", "shape", "texture", "expression", "pose", "light", "camera")
"""What a network can be told of a face: codes of the head, and `appearance`, the code of the photo."""


def code_width(head: HeadModel, parts: str | Sequence[str], appearance_dim: int = 0, texture_dim: int = 0) -> int:
    """Length C of `RigMixin.condition_code`: the `cond_dim` of a network that is told `parts`.

    ("appearance",) is DiffusionRig's (64); ("appearance", "shape", "shape", "texture") the 314 of EMOCA's codes.

    Args:
        head: Head that the codes are for.
        parts: Names of CODE_PARTS, in order, as for `part_names`; one may come twice.
        appearance_dim: Length of the appearance encoder's code.
        texture_dim: Length of the texture code.

    Raises:
        ValueError: If a part is unknown.
    """
    shape, expression = head.config.num_shape, head.config.num_expression
    widths = dict(zip(CODE_PARTS, (appearance_dim, shape, texture_dim, expression, 6, 27, 3)))
    return sum(widths[part] for part in part_names(parts))


def part_names(parts: str | Sequence[str]) -> tuple[str, ...]:
    """Names of CODE_PARTS from a sequence, or from one text with spaces between them; ValueError for another name."""
    names = tuple(parts.split() if isinstance(parts, str) else parts)
    unknown = [name for name in names if name not in CODE_PARTS]
    if unknown:
        raise ValueError(f"Unknown code part {unknown[0]!r} in code_parts: choose from {', '.join(CODE_PARTS)}.")
    return names


@runtime_checkable  # diffusers looks whether a passed component is one
class FaceEncoder(Protocol):
    """What a pipeline wants of an encoder."""

    def fit(
        self, head: HeadModel, points: np.ndarray, scores: dict[str, float], crop: Callable[[int], Tensor]
    ) -> FitResult:
        """Codes of a face, from landmarks [N, 2] in normalised device coordinates of the aligned crop, blendshape
        scores by name, and the aligned crop of a side in pixels as [1, 3, S, S] in [0, 1]."""

    def neutral(self, head: HeadModel, codes: FaceCodes, offsets: Tensor | None = None) -> Tensor:
        """The person's own relaxed expression [1, E]."""


@dataclass
class EncodedFace:
    """A face of a photo with its codes.

    Attributes:
        face: What the detector found.
        codes: Fitted codes [1, ...].
        offsets: What the codes leave over, as vertex offsets [V, 2] in normalised device coordinates of the crop.
        error: Mean landmark error of the fit, same unit.
        residual: Detected minus fitted landmarks [N, 2], same unit.
    """

    face: Face
    codes: FaceCodes
    offsets: Tensor
    error: float
    residual: np.ndarray

    def grid_matrix(self, size: int) -> np.ndarray:
        """Similarity [2, 3] from photo pixels to a crop of `size` pixels."""
        return align(self.face.landmarks, size)


class RigMixin:
    """Methods of a pipeline that has a `head`, an `encoder` and a `texture`."""

    head: HeadModel
    encoder: FaceEncoder
    texture: PhotoTexture

    @property
    def recipes(self) -> Mapping[str, Mapping[str, float]]:
        """Emotion recipes: the checkpoint's own or the package's."""
        own = self.config.emotions or RECIPES
        return {name: own[name] for name in (*EMOTIONS, *own) if name in own}  # a saved config is sorted by letters

    @property
    def code_parts(self) -> tuple[str, ...]:
        """Names of CODE_PARTS that the network is told, in order."""
        return part_names(self.config.code_parts)

    @torch.no_grad()
    def encode_face(self, photo: np.ndarray, face: Face) -> EncodedFace:
        """Codes of a detected face in a photo uint8 [H, W, 3]; light is fitted where the encoder gives none."""
        points = transform_points(align(face.landmarks, 2), face.landmarks[:, :2]) - 1
        scores = dict(zip(BLENDSHAPES, face.blendshapes.tolist()))
        crop = lambda size: crop_tensor(photo, align(face.landmarks, size), size)
        fit = self.encoder.fit(self.head, points, scores, crop)
        offsets = torch.from_numpy(self.texture.residual_offsets(fit.residual)).float()
        encoded = EncodedFace(face, fit.codes, offsets, float(fit.error[:468].mean()), fit.residual)
        if not fit.codes.light.any():
            encoded.codes = fit.codes.with_(light=self._fit_light(photo, encoded))
        return encoded

    def _fit_light(self, photo: np.ndarray, face: EncodedFace) -> Tensor:
        """Light [1, 9, 3] that explains the skin's colours, seen on a small crop."""
        vertices = self.pose_head(face.codes)
        pixels = ndc_to_pixels(project(vertices, face.codes.camera), LIGHT_GRID)
        fragments = rasterize(pixels, self.head.faces, LIGHT_GRID, LIGHT_GRID)
        crop = crop_tensor(photo, face.grid_matrix(LIGHT_GRID), LIGHT_GRID)[0].permute(1, 2, 0)
        shown = fragments.face[0]
        skin = (shown >= 0) & (self.head.face_part[shown.clamp(min=0)] == PARTS.index("skin"))
        normal = interpolate(fragments, self.head.faces, vertex_normals(vertices, self.head.faces))[0]
        albedo = interpolate(fragments, self.head.faces, self.head.albedo)[0]
        return fit_light(crop[skin] ** 2.2, normal[skin], albedo[skin])[None]

    def encode_photo(self, photo: np.ndarray, face: int | Literal["largest", "all"] = "largest") -> list[EncodedFace]:
        """Find and encode the chosen faces of a photo uint8 [H, W, 3].

        Raises:
            NoFaceError: If there is no such face.
        """
        return [self.encode_face(photo, f) for f in choose_faces(find_faces(photo), face)]

    def edit_codes(
        self,
        face: EncodedFace,
        emotion: str | Mapping[str, float] | None = None,
        intensity: float = 1.0,
        reference: EncodedFace | None = None,
        action_units: Mapping[str, float] | None = None,
        rotate: Sequence[float] | None = None,
    ) -> FaceCodes:
        """Target codes of one face; the arguments mean what they mean in `__call__`."""
        source = face.codes
        expression, pose, relaxed = source.expression, source.pose, self._relaxed(face)
        names = self.head.config.expression_names
        if emotion is not None:
            offset = emotion_offset(emotion, names, self.recipes)
            expression = blend_expression(expression, relaxed, offset, intensity)
        if reference is not None:
            offset = reference.codes.expression - self._relaxed(reference)
            expression = blend_expression(expression, relaxed, offset, intensity)
            jaw = torch.lerp(pose[:, 3:], reference.codes.pose[:, 3:], min(intensity, 1.0))
            pose = torch.cat([pose[:, :3], jaw], 1)
        if action_units:
            expression = expression + action_unit_offset(action_units, names)
        if rotate is not None and any(rotate):
            pose = torch.cat([turned(pose[:, :3], rotate), pose[:, 3:]], 1)
        return source.with_(expression=expression, pose=pose)

    def _relaxed(self, face: EncodedFace) -> Tensor:
        return self.encoder.neutral(self.head, face.codes, face.offsets)

    def pose_head(self, codes: FaceCodes) -> Tensor:
        """Vertices [B, V, 3] in metres."""
        return self.head(codes.shape, codes.expression, codes.pose)

    def placed_head(self, source: FaceCodes, target: FaceCodes) -> Tensor:
        """Vertices [B, V, 3] in metres of the target's head; a turned or another head's face stays where the source's
        is."""
        vertices = self.pose_head(target)
        if torch.equal(target.pose[:, :3], source.pose[:, :3]) and torch.equal(target.shape, source.shape):
            return vertices
        return vertices + self._face_centre(self.pose_head(source)) - self._face_centre(vertices)

    def grid_vertices(self, face: EncodedFace, codes: FaceCodes, size: int) -> Tensor:
        """Vertices [V, 3] in pixels of a crop of `size`, with what the fit left over."""
        return self.place_vertices(face.codes, face.offsets, codes, size)

    def place_vertices(self, source: FaceCodes, offsets: Tensor, target: FaceCodes, size: int) -> Tensor:
        """As `grid_vertices`, from the photo's codes, the vertex offsets [V, 2] of their fit, and the codes to show."""
        points = project(self.placed_head(source, target), target.camera)
        points = torch.cat([points[..., :2] + offsets, points[..., 2:]], -1)
        return ndc_to_pixels(points, size)[0]

    def _face_centre(self, vertices: Tensor) -> Tensor:
        """Middle of eyes and mouth [B, 1, 3]: stays where it is when the head turns (DiffusionRig's re-centring)."""
        return self.head.landmarks(vertices)[:, [33, 133, 362, 263, 61, 291]].mean(1, keepdim=True)

    def draw_head(
        self, codes: FaceCodes, size: int, transform: Tensor | None = None, vertices: Tensor | None = None
    ) -> Buffers:
        """Buffers of the heads, drawn on the device that head and codes are on.

        Args:
            codes: Codes of B faces.
            size: Side S of the pictures, pixels.
            transform: [B, 3, 3] from normalised device coordinates (x, y, 1) of the encoder's crop to the picture's;
                `None` where the picture is the encoder's crop.
            vertices: [B, V, 3] in metres where they are not `pose_head(codes)`.
        """
        vertices = self.pose_head(codes) if vertices is None else vertices
        head = self.head
        return draw_buffers(vertices, head.faces, codes.camera, codes.light, head.albedo, size, transform=transform)

    def condition_code(self, codes: FaceCodes, appearance: Tensor | None = None) -> Tensor:
        """What the network is told of faces [B, C]: the parts that `code_parts` names, in that order.

        Args:
            codes: Codes of B faces; light counts as 27 numbers.
            appearance: Code of the photo [B, Z], for networks that take one.

        Raises:
            ValueError: If the network takes an appearance code and none is given.
        """
        return code_vector(codes, self.code_parts, appearance)


def code_vector(codes: FaceCodes, parts: str | Sequence[str], appearance: Tensor | None = None) -> Tensor:
    """Parts of codes side by side [B, C], as `RigMixin.condition_code`."""
    names = part_names(parts)
    if appearance is None and "appearance" in names:
        raise ValueError("This pipeline's network takes a code of the photo: give that of its appearance_encoder.")
    chosen = (appearance.to(codes.shape) if name == "appearance" else getattr(codes, name) for name in names)
    return torch.cat([code.flatten(1) for code in chosen], 1)


def crop_tensor(photo: np.ndarray, matrix: np.ndarray, size: int) -> Tensor:
    """Square crop of a photo uint8 [H, W, 3] as [1, 3, size, size] in [0, 1]."""
    return torch.from_numpy(warp_crop(photo, matrix, size)).permute(2, 0, 1)[None].float() / 255


def unchanged(source: FaceCodes, target: FaceCodes) -> bool:
    """Whether expression and pose are the same to the bit."""
    return torch.equal(source.expression, target.expression) and torch.equal(source.pose, target.pose)


def turned(rotation: Tensor, degrees: Sequence[float]) -> Tensor:
    """Axis-angle [1, 3] of a head turned further by (yaw, pitch, roll) degrees, in camera axes."""
    yaw, pitch, roll = np.radians(degrees)
    turn = torch.eye(3, dtype=torch.float64)
    for angle in ((0, 0, roll), (-pitch, 0, 0), (0, yaw, 0)):
        turn = turn @ rotation_matrix(torch.tensor(angle, dtype=torch.float64))
    matrix = turn @ rotation_matrix(rotation[0].double())
    return torch.from_numpy(axis_angle(matrix.numpy())).to(rotation)[None]
