"""A linear head with skinned joints: FLAME and the open head are this class with different files.

vertices = LBS(template + shape basis + expression basis + pose correctives)      (Li et al. 2017, eq. 2-5)
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .aligned import AlignedMixin
from .geometry import Surface

PARTS = (
    "skin", "left_eye", "right_eye", "upper_teeth", "lower_teeth", "tongue", "mouth_cavity", "neck",
)  # fmt: skip
"""Meaning of `HeadModel.face_part`."""
CONTOUR = 17  # of iBUG's 68 points, the first ones
MAX_CONTOUR_YAW = 39  # degrees to either side for which FLAME's embedding has contours

SHADING_STEP = 1 / 4096
"""Natural logarithms that one step of `HeadModel.shading_maps` stands for."""


def rotation_matrix(axis_angle: Tensor) -> Tensor:
    """Rodrigues' formula: axis-angle [..., 3] in radians -> rotation matrices [..., 3, 3]."""
    angle = (axis_angle + 1e-8).norm(dim=-1, keepdim=True)  # FLAME's offset keeps zero rotations differentiable
    x, y, z = (axis_angle / angle).unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    sin, cos = angle.sin()[..., None], angle.cos()[..., None]
    return torch.eye(3, dtype=x.dtype, device=x.device) + sin * skew + (1 - cos) * (skew @ skew)


class HeadModel(AlignedMixin, ModelMixin, ConfigMixin):
    """Shape, expression and joint rotations -> vertices and landmarks of a head.

    Axes: x to the subject's left, y up, z to the viewer, in metres. Joints are
    (root, neck, jaw, left eye, right eye), the last four children as in FLAME.

    Args:
        num_vertices, num_faces, num_uv: Size of the mesh (V, F, T).
        num_shape, num_expression: Length of the shape code β and the expression code ψ.
        num_pose_correctives: 36 for FLAME (4 joints x 9), 0 for a head without them.
        num_landmarks: Points of the dense landmark set (478 for MediaPipe's).
        expression_names: Name of every expression component; empty where components have no meaning.
        parents: Parent of every joint, -1 for the root.
        num_texture: Length of the texture code; 0 for a head without a texture space.
        texture_size: Side of the texture, pixels.
        texture_source: Which published texture space it is ("flame", "bfm"); empty for none.
        shading_units: Expression components that come with a map of how they darken or lighten skin; "browDownLeft"
            stands for its mirrored twin "browDownRight" too.
        shading_size: Side of these maps, pixels; 0 for a head without them.
        num_contours: Rows of the table that says where the contour lies on a turned head (79 for FLAME); 0 for none.
    """

    _keep_in_fp32_modules = [
        "template", "shape_basis", "expression_basis", "pose_basis", "joint_regressor", "skinning", "albedo", "uv",
        "landmark_bary", "landmark_weight", "landmark68_bary", "texture_mean", "texture_basis", "shading_place",
        "contour_bary",
    ]  # fmt: skip

    @register_to_config
    def __init__(
        self,
        num_vertices: int,
        num_faces: int,
        num_uv: int,
        num_shape: int,
        num_expression: int,
        num_pose_correctives: int = 0,
        num_landmarks: int = 478,
        expression_names: tuple[str, ...] = (),
        parents: tuple[int, ...] = (-1, 0, 1, 1, 1),
        num_texture: int = 0,
        texture_size: int = 256,
        texture_source: str = "",
        shading_units: tuple[str, ...] = (),
        shading_size: int = 0,
        num_contours: int = 0,
    ) -> None:
        super().__init__()
        joints = len(parents)
        self._real("template", num_vertices, 3)
        self._real("shape_basis", num_shape, num_vertices, 3)
        self._real("expression_basis", num_expression, num_vertices, 3)
        self._real("pose_basis", num_pose_correctives, num_vertices, 3)
        self._real("joint_regressor", joints, num_vertices)
        self._real("skinning", num_vertices, joints)
        self._real("albedo", num_vertices, 3)  # mean colour, linear [0, 1]; used where no photo gives one
        self._real("uv", num_uv, 2)
        self._whole("faces", num_faces, 3)
        self._whole("faces_uv", num_faces, 3)
        self._whole("face_part", num_faces)
        self._whole("landmark_faces", num_landmarks)
        self._real("landmark_bary", num_landmarks, 3)
        self._real("landmark_weight", num_landmarks)  # 0 = the point has no place on the mesh
        self._whole("landmark68_faces", 68)
        self._real("landmark68_bary", 68, 3)
        if num_texture:
            self._real("texture_mean", 3, texture_size, texture_size)
            self._real("texture_basis", num_texture, 3, texture_size, texture_size)
        if shading_size:
            maps = torch.zeros(len(shading_units), shading_size, shading_size, dtype=torch.int16)
            self.register_parameter("shading_maps", nn.Parameter(maps, requires_grad=False))
            self._real("shading_place", num_vertices, 2)  # (column, row) of every vertex in the maps, in [0, 1]
        if num_contours:
            self._whole("contour_faces", num_contours, CONTOUR)
            self._real("contour_bary", num_contours, CONTOUR, 3)

    def _real(self, name: str, *size: int) -> None:
        self.register_parameter(name, nn.Parameter(torch.zeros(size), requires_grad=False))

    def _whole(self, name: str, *size: int) -> None:
        self.register_parameter(name, nn.Parameter(torch.zeros(size, dtype=torch.int64), requires_grad=False))

    def forward(
        self,
        shape: Tensor,
        expression: Tensor,
        pose: Tensor | None = None,
        neck: Tensor | None = None,
        eyes: Tensor | None = None,
    ) -> Tensor:
        """Vertices [B, V, 3] in metres, globally rotated.

        Args:
            shape: β [B, S], unit variance.
            expression: ψ [B, E]; for the open head, action units in about [0, 1].
            pose: Global and jaw axis-angle [B, 6] in radians; `None` for zero.
            neck: Neck axis-angle [B, 3] in radians.
            eyes: Left and right eye axis-angle [B, 6] in radians.
        """
        rest = self.rest_vertices(shape, expression)
        batch = rest.shape[0]
        pose = rest.new_zeros(batch, 6) if pose is None else pose
        neck = rest.new_zeros(batch, 3) if neck is None else neck
        eyes = rest.new_zeros(batch, 6) if eyes is None else eyes
        joints = torch.einsum("jv,bvc->bjc", self.joint_regressor, rest)
        angles = torch.cat([pose[:, :3], neck, pose[:, 3:], eyes], 1).unflatten(1, (-1, 3))
        return self._skin(rest, joints, rotation_matrix(angles))

    @property
    def num_shape(self) -> int:
        """Length of the shape code."""
        return self.config.num_shape

    @property
    def num_expression(self) -> int:
        """Length of the expression code."""
        return self.config.num_expression

    def surface(self, shape: Tensor, expression: Tensor | None = None) -> Surface:
        """The mesh of one head with all its joints at rest.

        Args:
            shape: β [1, S].
            expression: ψ [1, E]; `None` for zeros.
        """
        expression = shape.new_zeros(len(shape), self.num_expression) if expression is None else expression
        return Surface(self(shape, expression)[0], self.faces)

    def shaped_vertices(self, shape: Tensor) -> Tensor:
        """Template plus identity [B, V, 3]."""
        return self.template + torch.einsum("bs,svc->bvc", shape, self.shape_basis)

    def rest_vertices(self, shape: Tensor, expression: Tensor) -> Tensor:
        """Template plus identity plus expression, before any joint turns [B, V, 3]."""
        if shape.shape[-1] != self.config.num_shape or expression.shape[-1] != self.config.num_expression:
            raise ValueError(
                f"This head takes {self.config.num_shape} shape and {self.config.num_expression} expression "
                f"coefficients, got {shape.shape[-1]} and {expression.shape[-1]}: use codes made for this head."
            )
        return self.shaped_vertices(shape) + torch.einsum("be,evc->bvc", expression, self.expression_basis)

    def _skin(self, rest: Tensor, joints: Tensor, rotations: Tensor) -> Tensor:
        """Linear blend skinning with pose correctives."""
        if self.config.num_pose_correctives:
            feature = (rotations[:, 1:] - torch.eye(3, device=rest.device, dtype=rest.dtype)).flatten(1)
            rest = rest + torch.einsum("bp,pvc->bvc", feature, self.pose_basis)
        turn, shift = [rotations[:, 0]], [joints[:, 0] - (rotations[:, 0] @ joints[:, 0, :, None])[..., 0]]
        for joint, parent in list(enumerate(self.config.parents))[1:]:
            # world transform of a joint: rotate about its rest position, then follow its parent
            about = joints[:, joint] - (rotations[:, joint] @ joints[:, joint, :, None])[..., 0]
            turn.append(turn[parent] @ rotations[:, joint])
            shift.append((turn[parent] @ about[..., None])[..., 0] + shift[parent])
        turn = torch.einsum("vj,bjmn->bvmn", self.skinning, torch.stack(turn, 1))
        shift = torch.einsum("vj,bjm->bvm", self.skinning, torch.stack(shift, 1))
        return (turn @ rest[..., None])[..., 0] + shift

    def texture(self, codes: Tensor) -> Tensor:
        """Albedo as a texture [B, 3, h, w], RGB, about [0, 1] and not clamped, for `buffers.draw_buffers` with `uv`.

        Args:
            codes: Texture codes [B, T], unit variance; zeros for the mean.

        Raises:
            ValueError: Codes of another length, or a head without a texture space.
        """
        if not self.config.num_texture:
            raise ValueError("This head has no texture space: use its albedo, or convert it with a texture file.")
        if codes.shape[-1] != self.config.num_texture:
            raise ValueError(
                f"This head takes {self.config.num_texture} texture coefficients, got {codes.shape[-1]}: "
                "use codes made for this head."
            )
        return self.texture_mean + torch.einsum("bt,tchw->bchw", codes, self.texture_basis)

    def shading(self, expression: Tensor) -> Tensor:
        """How much lighter or darker skin becomes by expression units [E]: natural logarithms [A, A], columns from the
        person's right to left, rows from the forehead down, as `shading_place` has them."""
        amounts = dict(zip(self.config.expression_names, expression.tolist()))
        total = self.template.new_zeros(self.shading_maps.shape[1:])
        for unit, steps in zip(self.config.shading_units, self.shading_maps):
            other = amounts[unit.removesuffix("Left") + "Right"] if unit.endswith("Left") else 0.0
            if not amounts[unit] and not other:
                continue
            field = steps * SHADING_STEP
            total += amounts[unit] * field
            if other:
                total += other * field.flip(-1)
        return total

    def landmarks(self, vertices: Tensor) -> Tensor:
        """Dense landmarks [B, N, 3] of posed vertices [B, V, 3]; points with weight 0 are meaningless."""
        return surface_points(vertices, self.faces, self.landmark_faces, self.landmark_bary)

    def landmarks68(self, vertices: Tensor, pose: Tensor | None = None, neck: Tensor | None = None) -> Tensor:
        """The 68 iBUG points [B, 68, 3] of posed vertices [B, V, 3].

        The contour, the first 17, slides over the skin as the head turns. With a pose it lies where a camera in front
        sees it, as DECA's landmarks2d; without, or on a head without `num_contours`, where the frontal head has it.

        Args:
            vertices: What `forward` gave.
            pose, neck: As for `forward`.
        """
        points = surface_points(vertices, self.faces, self.landmark68_faces, self.landmark68_bary)
        if pose is None or not self.config.num_contours:
            return points
        row = self._contour_row(pose, pose.new_zeros(len(pose), 3) if neck is None else neck)
        contour = [surface_points(v[None], self.faces, self.contour_faces[i], self.contour_bary[i])
                   for v, i in zip(vertices, row.tolist())]  # fmt: skip
        return torch.cat([torch.cat(contour), points[:, CONTOUR:]], 1)

    def _contour_row(self, pose: Tensor, neck: Tensor) -> Tensor:
        """Row [B] of the contour's table: the head's turn about y in whole degrees, 0 to 39, then -1 to -39."""
        turn = rotation_matrix(pose[:, :3]) @ rotation_matrix(neck)
        yaw = torch.atan2(-turn[:, 2, 0], turn[:, :2, 0].norm(dim=1)).rad2deg()
        yaw = yaw.clamp(-MAX_CONTOUR_YAW, MAX_CONTOUR_YAW).round().long()
        return torch.where(yaw < 0, MAX_CONTOUR_YAW - yaw, yaw)


def surface_points(vertices: Tensor, faces: Tensor, face: Tensor, bary: Tensor) -> Tensor:
    """Points [B, N, C] at barycentric places `bary` [N, 3] of faces `face` [N], from [B, V, C]."""
    corners = faces[face]
    return (vertices[:, corners] * bary[..., None]).sum(2)
