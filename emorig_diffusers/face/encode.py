"""What every pipeline does with faces: find them, read their codes, pose and draw the head."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ..models.head import PARTS, HeadModel
from ..models.landmark_fit import FitResult
from ..models.mesh_fields import residual_offsets
from ..models.occlusion import mouth_covered
from ..photo.colour import GAMMA
from ..photo.crops import IBUG68, deca_box, deca_crop, deca_transform, fan_points, ndc_transform, picture_matrix
from ..photo.faces import BLENDSHAPES, Face, choose_faces, find_faces
from ..photo.landmarks import MESH, shut_eyes
from ..photo.pictures import Picture, take_picture
from ..photo.resample import align, transform_points, warp_crop
from ..render.buffers import Buffers, draw_buffers, vertex_normals
from ..render.camera import ndc_to_pixels, project, transform_ndc
from ..render.rasterize import interpolate, rasterize
from ..render.spherical_harmonics import fit_light
from ..timing import timed
from .codes import FaceCodes

LIGHT_GRID = 96  # side of the crop on which the light is fitted
OPEN_CODE = ("expression", "pose")
"""What the network of the open default is told of a face."""
CODE_PARTS = ("appearance", "shape", "texture", "expression", "pose", "light", "camera", "own_shape")
"""What a network can be told of a face: codes of the head; `appearance`, the code of the photo; and `own_shape`, the
shape that was read from the photo, for networks whose head is drawn with an album's mean shape."""


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
    widths: dict[str, int] = dict(zip(CODE_PARTS, (appearance_dim, shape, texture_dim, expression, 6, 27, 3, shape)))
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

    config: Any

    @property
    def crop(self) -> str:
        """The frame it reads codes in: "aligned" or "deca"."""
        ...

    @property
    def branches(self) -> tuple[str, ...]:
        """Which of "deca" and "emoca" it can be asked for."""
        ...

    def fit(
        self,
        head: HeadModel,
        points: np.ndarray,
        scores: dict[str, float],
        crop: Callable[[int], Tensor],
        branch: str | None = None,
        shape: Tensor | None = None,
    ) -> FitResult:
        """Codes of a face, from landmarks [N, 2] in normalised device coordinates of the encoder's crop, blendshape
        scores by name, the encoder's crop of a side in pixels as [1, 3, S, S] in [0, 1], and the person's shape [1, S]
        where it is known."""
        ...

    @property
    def relaxed_range(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest value of every component of expressions on relaxed faces [E]."""
        ...


@dataclass(frozen=True, eq=False)
class EncodedFace:
    """A face of a photo with its codes.

    Attributes:
        face: What the detector found.
        codes: Codes [1, ...] in the encoder's crop.
        offsets: What the codes leave over, as vertex offsets [V, 2] in normalised device coordinates (NDC) of that
            crop.
        error: Mean landmark error of the fit, same unit.
        residual: Detected minus fitted landmarks [N, 2], same unit.
        frame: Which square of the photo is the picture (`crops.PICTURE_FRAMES`).
        photo_size: (height, width) of the photo.
        transform: From NDC of the encoder's crop to those of the picture, float32 [1, 3, 3].
        seen: The crop [1, 3, S, S] in [0, 1] that an encoder of DECA's kind looked at.
        picture: The picture as the networks' authors resample photos; `None` where it is resampled by area.
        covered: Whether something is before the mouth; not asked where a network draws the whole crop.
        speaks: How surely the lips speak, in a clip, in [0, 1]: as far the mouth shows what the photo does.
        blur: As `photo_blur` finds it, in photo pixels, where that is known of more pictures than this one.
        eyes_hidden: Whether dark lenses hide the eyes, likewise.
        grid: Side of the grid on which its motion is computed, pixels, likewise; `None` for a photo's.
    """

    face: Face
    codes: FaceCodes
    offsets: Tensor
    error: float
    residual: np.ndarray
    frame: str = "aligned"
    photo_size: tuple[int, ...] = (0, 0)
    transform: Tensor = field(default_factory=lambda: torch.eye(3)[None])
    seen: Tensor | None = None
    picture: Picture | None = None
    covered: bool = False
    speaks: float = 0.0
    blur: float | None = None
    eyes_hidden: bool | None = None
    grid: int | None = None

    @property
    def shut_eyes(self) -> tuple[bool, bool]:
        """Whether the photo shows the person's right and left eye shut."""
        return shut_eyes(self.face.landmarks[:, :2], dict(zip(BLENDSHAPES, self.face.blendshapes.tolist())))

    def grid_matrix(self, size: int) -> np.ndarray:
        """Similarity [2, 3] from photo pixels to the picture in `size` pixels."""
        if self.picture is not None:
            return self.picture.matrix * (size / len(self.picture.pixels))
        return picture_matrix(self.frame, self.face.landmarks, self.photo_size, size)


@dataclass
class _EncoderView:
    """How an encoder sees a face: landmarks in NDC of its crop, the crop of a side, NDC -> the picture's, and the
    picture where `EncodedFace` keeps it."""

    points: np.ndarray
    crop: Callable[[int], Tensor]
    transform: np.ndarray
    picture: Picture | None = None


class RigMixin:
    """Methods of a pipeline that has a `head` and an `encoder`."""

    head: HeadModel
    encoder: FaceEncoder
    config: Any
    painter: Any  # a `painting.base.Painter`
    published: bool

    @property
    def code_parts(self) -> tuple[str, ...]:
        """Names of CODE_PARTS that the network is told, in order."""
        return part_names(self.config.code_parts)

    @torch.no_grad()
    def encode_face(
        self,
        photo: np.ndarray,
        face: Face,
        frame: str | None = None,
        branch: str | None = None,
        shape: Tensor | None = None,
        light: Tensor | None = None,
        covered: bool | None = None,
    ) -> EncodedFace:
        """Codes of a detected face; light is fitted where the encoder gives none.

        Args:
            photo: uint8 [H, W, 3].
            face: One of its faces.
            frame: Which square of the photo is the picture; `None` for the checkpoint's.
            branch: "deca" or "emoca" for encoders that can be both; `None` for the checkpoint's.
            shape, light: The person's shape [1, S] and the light [1, 9, 3] on the face where they are known.
            covered: Whether something is before the mouth, where that is known.
        """
        frame = str(frame or self.config.crop)
        view = self._view(photo, face, frame)
        scores = dict(zip(BLENDSHAPES, face.blendshapes.tolist()))
        known = {} if shape is None else {"shape": shape}  # only clips know it beforehand
        fit = self.encoder.fit(self.head, view.points, scores, view.crop, branch, **known)
        offsets = torch.from_numpy(residual_offsets(self.head, fit.residual)).float()
        known = self.head.landmark_weight[:MESH].numpy() > 0
        error = float(fit.error[:MESH][known].mean()) if known.any() else 0.0
        transform = torch.from_numpy(view.transform).float()[None]
        if covered is None:
            covered = bool(self.painter.keeps_covered_mouths and mouth_covered(photo, face.landmarks))
        encoded = EncodedFace(
            face, fit.codes, offsets, error, fit.residual, frame, photo.shape[:2], transform,
            seen=view.crop(self.encoder.config.image_size) if self.encoder.crop == "deca" else None,
            picture=view.picture,
            covered=covered,
        )  # fmt: skip
        if light is not None:
            return replace(encoded, codes=fit.codes.with_(light=light))
        if fit.codes.light.any():
            return encoded
        return replace(encoded, codes=fit.codes.with_(light=self._fit_light(photo, encoded)))

    def _view(self, photo: np.ndarray, face: Face, frame: str) -> _EncoderView:
        landmarks, size = face.landmarks[:, :2], self.config.crop_size
        deca, as_published = self.encoder.crop == "deca", self.config.resampling != "area"
        picture = None
        if deca or as_published:
            picture = take_picture(photo, frame, face.landmarks, size, self.config.resampling)
        kept = picture if as_published else None
        if deca and picture is not None:
            return self._view_of_deca(picture, transform_points(picture.matrix, landmarks), kept)
        aligned = lambda side: align(face.landmarks, side)
        ndc = transform_points(aligned(2), landmarks) - 1
        crop = lambda side: crop_tensor(photo, aligned(side), side)
        if frame == "aligned":
            return _EncoderView(ndc, crop, np.eye(3), kept)
        matrix = picture_matrix(frame, face.landmarks, photo.shape, size) if picture is None else picture.matrix
        return _EncoderView(ndc, crop, ndc_transform(aligned(size), matrix, size), kept)

    def _view_of_deca(self, picture: Picture, points: np.ndarray, kept: Picture | None) -> _EncoderView:
        """DECA's crop of a picture, in which the face's landmarks are `points` [N, 2]."""
        size, fan = len(picture.pixels), self.config.crop_landmarks == "fan"
        box = deca_box(fan_points(picture.pixels) if fan else points[list(IBUG68)])
        transform = deca_transform(box, size)
        ndc = np.column_stack([points * 2 / size - 1, np.ones(len(points))]) @ np.linalg.inv(transform).T
        crop = functools.cache(lambda side: deca_crop(picture.pixels, box, side))
        return _EncoderView(ndc[:, :2], crop, transform, kept)

    def _fit_light(self, photo: np.ndarray, face: EncodedFace) -> Tensor:
        """Light [1, 9, 3] that explains the skin's colours, seen on a small picture."""
        vertices = self.pose_head(face.codes)
        points = transform_ndc(project(vertices, face.codes.camera), face.transform)
        fragments = rasterize(ndc_to_pixels(points, LIGHT_GRID), self.head.faces, LIGHT_GRID, LIGHT_GRID)
        crop = crop_tensor(photo, face.grid_matrix(LIGHT_GRID), LIGHT_GRID)[0].permute(1, 2, 0)
        shown = fragments.face[0]
        skin = (shown >= 0) & (self.head.face_part[shown.clamp(min=0)] == PARTS.index("skin"))
        normal = interpolate(fragments, self.head.faces, vertex_normals(vertices, self.head.faces))[0]
        albedo = interpolate(fragments, self.head.faces, self.head.albedo)[0]
        return fit_light(crop[skin] ** GAMMA, normal[skin], albedo[skin])[None]

    def encode(
        self,
        photo: np.ndarray,
        faces: int | Literal["largest", "all"] | Sequence[Face | EncodedFace] = "largest",
        crop: str | None = None,
        encoder: str | None = None,
    ) -> list[EncodedFace]:
        """As `FacePipeline.encode`: chosen faces are found, found ones are encoded, encoded ones are taken."""
        if isinstance(faces, (str, int)):
            with timed("find faces"):
                faces = choose_faces(find_faces(photo), faces)
        with timed("fit codes"):
            encode = lambda face: self.encode_face(photo, face, crop, encoder)
            return [face if isinstance(face, EncodedFace) else encode(face) for face in faces]

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
        """Vertices [V, 3] in pixels of a picture of `size`, with what the fit left over."""
        return self.place_vertices(face.codes, face.offsets, codes, size, face.transform)

    def place_vertices(
        self, source: FaceCodes, offsets: Tensor, target: FaceCodes, size: int, transform: Tensor | None = None
    ) -> Tensor:
        """As `grid_vertices`, from the photo's codes, the vertex offsets [V, 2] of their fit, and the codes to show."""
        points = project(self.placed_head(source, target), target.camera)
        points = torch.cat([points[..., :2] + offsets, points[..., 2:]], -1)
        return ndc_to_pixels(points if transform is None else transform_ndc(points, transform), size)[0]

    def _face_centre(self, vertices: Tensor) -> Tensor:
        """Middle of eyes and mouth [B, 1, 3]: stays where it is when the head turns."""
        points = self.head.landmarks68(vertices)
        return points[:, [36, 39, 42, 45, 48, 54]].mean(1, keepdim=True)

    def draw_head(
        self,
        codes: FaceCodes,
        size: int,
        transform: Tensor | None = None,
        vertices: Tensor | None = None,
        normal_map: Tensor | None = None,
    ) -> Buffers:
        """As the function `draw_head`, by this pipeline's rule."""
        return draw_head(self.head, codes, size, transform, vertices, normal_map, self.config.rasterizer)

    def condition_code(
        self, codes: FaceCodes, appearance: Tensor | None = None, own_shape: Tensor | None = None
    ) -> Tensor:
        """What the network is told of faces [B, C]: the parts that `code_parts` names, in that order.

        Args:
            codes: Codes of B faces; light counts as 27 numbers.
            appearance: Code of the photo [B, Z], for networks that take one.
            own_shape: Shape code of the photos [B, S] where `codes` have an album's; `None` for theirs.

        Raises:
            ValueError: If the network takes an appearance code and none is given.
        """
        return code_vector(codes, self.code_parts, appearance, own_shape)


def draw_head(
    head: HeadModel,
    codes: FaceCodes,
    size: int,
    transform: Tensor | None = None,
    vertices: Tensor | None = None,
    normal_map: Tensor | None = None,
    rasterizer: str = "exact",
) -> Buffers:
    """Buffers of heads, drawn on the device that head and codes are on.

    Args:
        head: The head model.
        codes: Codes of B faces.
        size: Side S of the pictures, pixels.
        transform: [B, 3, 3] from normalised device coordinates (x, y, 1) of the encoder's crop to the picture's; `None`
            where the picture is the encoder's crop.
        vertices: [B, V, 3] in metres where they are not the head's under these codes.
        normal_map: [B, 3, h, w] as for `render.draw_buffers`.
        rasterizer: One of `render.RULES`.
    """
    placed = head(codes.shape, codes.expression, codes.pose) if vertices is None else vertices
    options = {"transform": transform, "normal_map": normal_map, "rule": rasterizer}
    if head.config.num_texture or normal_map is not None:
        options |= {"uv": head.uv, "faces_uv": head.faces_uv}
    albedo = texture_albedo(head, codes) if head.config.num_texture else head.albedo
    return draw_buffers(placed, head.faces, codes.camera, codes.light, albedo, size, **options)


def texture_albedo(head: HeadModel, codes: FaceCodes) -> Tensor:
    """Texture [B, 3, h, w] in [0, 1] of a head with a texture space; the mean one where codes hold none."""
    texture = codes.texture
    blank = texture.new_zeros(len(codes), head.config.num_texture)
    return head.texture(texture if texture.shape[1] else blank)


def code_vector(
    codes: FaceCodes, parts: str | Sequence[str], appearance: Tensor | None = None, own_shape: Tensor | None = None
) -> Tensor:
    """Parts of codes side by side [B, C], as `RigMixin.condition_code`."""
    names = part_names(parts)
    if appearance is None and "appearance" in names:
        raise ValueError("This pipeline's network takes a code of the photo: give that of its appearance_encoder.")
    own_shape = codes.shape if own_shape is None else own_shape
    known = vars(codes) | {"appearance": appearance, "own_shape": own_shape}
    return torch.cat([known[name].to(codes.shape).flatten(1) for name in names], 1)


def crop_tensor(photo: np.ndarray, matrix: np.ndarray, size: int) -> Tensor:
    """Square crop of a photo uint8 [H, W, 3] as [1, 3, size, size] in [0, 1]."""
    return picture_tensor(warp_crop(photo, matrix, size))


def picture_tensor(pixels: np.ndarray) -> Tensor:
    """A picture uint8 [H, W, 3] as [1, 3, H, W] in [0, 1]."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def unchanged(source: FaceCodes, target: FaceCodes) -> bool:
    """Whether expression, pose and light are the same to the bit."""
    return all(torch.equal(getattr(source, name), getattr(target, name)) for name in ("expression", "pose", "light"))
