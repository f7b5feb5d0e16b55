"""What every pipeline does with faces before it paints: find them, fit their codes, edit the codes, pose the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .codes import FaceCodes
from .emotions import EMOTIONS, RECIPES, action_unit_offset, blend_expression, emotion_offset
from .faces import BLENDSHAPES, Face, align, choose_faces, find_faces, transform_points, warp_crop
from .models.head import PARTS, HeadModel, rotation_matrix
from .models.landmarks import LandmarkEncoder, axis_angle
from .phototexture import PhotoTexture
from .render import fit_light, interpolate, ndc_to_pixels, project, rasterize, vertex_normals

LIGHT_GRID = 96  # side of the crop on which the light is fitted


@dataclass
class EncodedFace:
    """A face of a photo with its codes.

    Attributes:
        face: What the detector found.
        codes: Fitted codes [1, ...].
        offsets: What the codes leave over, as vertex offsets [V, 2] in normalised device coordinates of the crop.
        error: Mean landmark error of the fit, same unit.
    """

    face: Face
    codes: FaceCodes
    offsets: Tensor
    error: float

    def grid_matrix(self, size: int) -> np.ndarray:
        """Similarity [2, 3] from photo pixels to a crop of `size` pixels."""
        return align(self.face.landmarks, size)


class RigMixin:
    """Methods of a pipeline that has a `head`, an `encoder` and a `texture`."""

    head: HeadModel
    encoder: LandmarkEncoder
    texture: PhotoTexture

    @property
    def recipes(self) -> Mapping[str, Mapping[str, float]]:
        """Emotion recipes: the checkpoint's own or the package's."""
        own = self.config.emotions or RECIPES
        return {name: own[name] for name in (*EMOTIONS, *own) if name in own}  # a saved config is sorted by letters

    @torch.no_grad()
    def encode_face(self, photo: np.ndarray, face: Face) -> EncodedFace:
        """Fit the codes of a detected face in a photo uint8 [H, W, 3]."""
        points = transform_points(align(face.landmarks, 2), face.landmarks[:, :2]) - 1
        fit = self.encoder(self.head, points, dict(zip(BLENDSHAPES, face.blendshapes.tolist())))
        offsets = torch.from_numpy(self.texture.residual_offsets(fit.residual)).float()
        encoded = EncodedFace(face, fit.codes, offsets, float(fit.error[:468].mean()))
        encoded.codes = fit.codes.with_(light=self._fit_light(photo, encoded))
        return encoded

    def _fit_light(self, photo: np.ndarray, face: EncodedFace) -> Tensor:
        """Light [1, 9, 3] that explains the skin's colours, seen on a small crop."""
        vertices = self.pose_head(face.codes)
        pixels = ndc_to_pixels(project(vertices, face.codes.camera), LIGHT_GRID)
        fragments = rasterize(pixels, self.head.faces, LIGHT_GRID, LIGHT_GRID)
        crop = torch.from_numpy(warp_crop(photo, face.grid_matrix(LIGHT_GRID), LIGHT_GRID)).float() / 255
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

    def grid_vertices(self, face: EncodedFace, codes: FaceCodes, size: int) -> Tensor:
        """Vertices [V, 3] in pixels of a crop of `size`, with what the fit left over."""
        vertices = self.pose_head(codes)
        if not torch.equal(codes.pose[:, :3], face.codes.pose[:, :3]):
            vertices = vertices + self._face_centre(self.pose_head(face.codes)) - self._face_centre(vertices)
        points = project(vertices, codes.camera)
        points = torch.cat([points[..., :2] + face.offsets, points[..., 2:]], -1)
        return ndc_to_pixels(points, size)[0]

    def _face_centre(self, vertices: Tensor) -> Tensor:
        """Middle of eyes and mouth [B, 1, 3]: stays where it is when the head turns (DiffusionRig's re-centring)."""
        return self.head.landmarks(vertices)[:, [33, 133, 362, 263, 61, 291]].mean(1, keepdim=True)

    def condition_code(self, codes: FaceCodes) -> Tensor:
        """What the open default's network is told of a face [B, E + 6]: expression and pose."""
        return torch.cat([codes.expression, codes.pose], 1)


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
