"""The light on a face, turned and strengthened.

A face shows half of the sphere of directions at most: what a fit says of the rest may be anything, below darkness too,
and turning the light would bring it into view. So a light is first explained by what can be: lamps all around and an
even share, none of them below 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from ..models.head import rotation_matrix
from ..photo.colour import LUMINANCE
from ..render.spherical_harmonics import SH_CONSTANTS, rotate_light, sh_basis
from .codes import FaceCodes

MAX_LIGHT_TURN = 90.0, 60.0  # degrees of yaw and pitch, either way; this and the next by eye, on twelve people
MAX_LIGHT_STRENGTH = 2.0  # of the photo's
LAMPS, BESIDE = 96, -0.2  # directions all around, and the least cosine to the camera of those from which a lamp is seen
FACING = 0.3  # least cosine between the camera and the normals on which a fit is believed
EVEN = 0.25  # least share of what is seen that comes from everywhere: rooms reflect
SHY = 0.05  # by which many faint lamps count against a few, of what is seen
DIMMEST = 0.2  # of the photo's light that the camera still sees of a turned one at least; the rest is exposure


def possible_light(light: Tensor) -> Tensor:
    """The light [B, 9, 3] nearest to one on what faces the camera that lamps and an even share can make."""
    lamps, normals, weights = _lamps()
    shown = sh_basis(normals)
    result = torch.zeros_like(light, dtype=torch.float64)
    matrix = torch.cat([shown @ lamps.T * weights[:, None], torch.full((1, len(lamps)), SHY, dtype=torch.float64)])
    for one, made in zip(light.double(), result):
        wanted = shown @ one
        seen = ((wanted * weights[:, None]).sum(0) / weights.sum()).clamp(min=1e-6)
        for channel in range(3):
            even = EVEN * seen[channel]
            rest = (wanted[:, channel] - even) / seen[channel]
            amounts, _ = nnls(matrix.numpy(), np.append((rest * weights).numpy(), 0.0))
            made[:, channel] = seen[channel] * (torch.from_numpy(amounts) @ lamps)
            made[0, channel] += even / SH_CONSTANTS[0]
    return result.to(light)


@lru_cache(maxsize=1)
def _lamps() -> tuple[Tensor, Tensor, Tensor]:
    """Lights [L, 9] of single lamps for a matt white surface; normals [N, 3] that face the camera, and the root of how
    much each counts [N]."""
    places = torch.arange(LAMPS, dtype=torch.float64) + 0.5
    height, angle = 1 - 2 * places / LAMPS, places * np.pi * (1 + 5**0.5)  # a Fibonacci lattice
    around = (1 - height**2).sqrt()
    directions = torch.stack([around * angle.cos(), around * angle.sin(), height], 1)
    # the clamped cosine in bands: 1/4, 1/2 cos, 5/32 (3 cos^2 - 1) (Ramamoorthi and Hanrahan 2001)
    first = torch.zeros(9, dtype=torch.float64)
    first[[0, 3, 8]] = torch.tensor([1 / 4, 1 / 2, 5 / 32], dtype=torch.float64)
    first /= torch.tensor(SH_CONSTANTS, dtype=torch.float64)
    lamp = first[None, :, None].expand(1, 9, 3)
    lamps = [rotate_light(lamp, _towards(one))[0, :, 0] for one in directions if one[2] > BESIDE]
    normals = directions[directions[:, 2] > FACING]
    return torch.stack(lamps), normals, normals[:, 2].sqrt()


def _towards(direction: Tensor) -> Tensor:
    """A rotation [3, 3] of the camera's direction to another one."""
    axis = torch.linalg.cross(torch.tensor([0, 0, 1], dtype=torch.float64), direction)
    length = axis.norm()
    angle = torch.atan2(length, direction[2])
    return rotation_matrix(axis / length * angle)


def relit(
    target: FaceCodes, source: FaceCodes, turn: Sequence[float] | None = None, strength: float | None = None
) -> FaceCodes:
    """Codes [B, ...] in another light, as for `edited_light`; light that is still the source's is made possible."""
    turn, strength = (0, 0) if turn is None else turn, 1.0 if strength is None else strength
    if not any(turn) and strength == 1:
        return target
    light = possible_light(target.light) if torch.equal(target.light, source.light) else target.light
    return target.with_(light=edited_light(light, turn, strength))


def edited_light(light: Tensor, turn: Sequence[float] = (0, 0), strength: float = 1.0) -> Tensor:
    """Light [B, 9, 3] that comes from elsewhere or more from one side, as bright on what faces the camera as before.

    Args:
        light: A `possible_light`, in the camera's axes.
        turn: (yaw, pitch) in degrees: light from the camera then comes from so far to the subject's left and above.
        strength: Factor on the directional bands against the ambient one.
    """
    yaw, pitch = np.radians(np.asarray(turn, np.float64))
    sideways, upwards = (rotation_matrix(torch.tensor(a, dtype=torch.float64)) for a in ((0, yaw, 0), (-pitch, 0, 0)))
    edited = rotate_light(light, sideways @ upwards)
    edited = torch.cat([edited[:, :1], strength * edited[:, 1:]], 1)
    before, after = _seen(light), _seen(edited)
    return edited * (before / torch.maximum(after, DIMMEST * before).clamp(min=1e-6))[:, None, None]


def _seen(light: Tensor) -> Tensor:
    """Mean luminance [B] of a white sphere as the camera sees it."""
    means = light.new_tensor([1, 0, 0, 2 / 3, 0, 0, 0, 0, 1 / 2])  # of the basis's functions over the sphere's disc
    shares = means * light.new_tensor(SH_CONSTANTS)
    return torch.einsum("bkc,k,c->b", light, shares, light.new_tensor(LUMINANCE))
