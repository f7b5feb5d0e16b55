"""Light as nine spherical harmonics a colour: shading of a surface, and the light that a picture was taken under."""

from __future__ import annotations

import torch
from torch import Tensor

SH_CONSTANTS = (0.2820948,) + (1.0233267,) * 3 + (0.8580855,) * 3 + (0.4290428, 0.2477080)
"""DECA's factors of the nine basis functions of `sh_basis`."""


def sh_basis(normals: Tensor) -> Tensor:
    """The nine second-order basis functions of normals [..., 3], times DECA's constants, [..., 9].

    (1, x, y, z, xy, xz, yz, x^2 - y^2, 3 z^2 - 1) times `SH_CONSTANTS`; the normals are used as they come.
    """
    x, y, z = normals.unbind(-1)
    basis = (torch.ones_like(x), x, y, z, x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1)
    return torch.stack(basis, dim=-1) * normals.new_tensor(SH_CONSTANTS)


def sh_shading(normals: Tensor, light: Tensor) -> Tensor:
    """RGB shading of a Lambertian surface, shading_c = sum_k light[k, c] const_k basis_k(n), as in DECA.

    Args:
        normals: [B, ..., 3], unit or interpolated.
        light: [B, 9, 3].

    Returns:
        [B, ..., 3], unitless and not clamped; the picture is albedo times shading.
    """
    return torch.einsum("b...k,bkc->b...c", sh_basis(normals), light)


def fit_light(
    pixels: Tensor, normals: Tensor, albedo: Tensor | None = None, ridge: float = 1e-3, steps: int = 5
) -> Tensor:
    """Light under which a surface of known normals looks like `pixels`: robust, regularised least squares.

    Solves pixels = albedo * sh_shading(normals, light) by iteratively reweighted least squares, one Cauchy
    weight a pixel (2.385 robust standard deviations), so that highlights, hair and glasses count little. A
    face shows half the sphere at most, where second-order terms can imitate the lower ones: they carry the
    whole `ridge`, the linear terms a tenth and the constant a thousandth.

    Args:
        pixels: [N, 3] linear RGB (not gamma-coded), 1 = white.
        normals: [N, 3] unit normals in the space in which the light is wanted.
        albedo: [N, 3] in [0, 1]; None takes 1, and the light then contains the mean albedo.
        ridge: relative to the mean squared albedo; 0.001 shrinks the second order by 2 %.
        steps: reweightings; 0 is plain ridge regression.

    Returns:
        [9, 3], the `light` of one picture for `sh_shading`. ValueError for no pixels or shapes that differ.
    """
    albedo = torch.ones_like(pixels) if albedo is None else albedo
    if not len(pixels) or not pixels.shape == normals.shape == albedo.shape:
        raise ValueError("fit_light wants pixels, normals and albedo of one shape [N, 3] with N > 0.")
    target, basis, albedo = pixels.double(), sh_basis(normals.double()), albedo.double()
    penalty = basis.new_tensor((1e-3,) + (0.1,) * 3 + (1.0,) * 5) * ridge
    penalty = albedo.square().mean(0).clamp(min=1e-8)[:, None] * penalty + 1e-12
    light = _solve_light(target, basis, albedo, target.new_ones(len(target)), penalty)
    for _ in range(steps):
        error = (target - albedo * (basis @ light)).norm(dim=1)
        scale = 2.385 * 1.4826 * error.median().clamp(min=1e-6)
        light = _solve_light(target, basis, albedo, 1 / (1 + (error / scale).square()), penalty)
    return light.to(pixels.dtype)


def _solve_light(target: Tensor, basis: Tensor, albedo: Tensor, weights: Tensor, penalty: Tensor) -> Tensor:
    weights = (weights / weights.sum())[:, None]
    gram = torch.einsum("nc,nk,nl->ckl", weights * albedo.square(), basis, basis)
    right = torch.einsum("nc,nk->ck", weights * albedo * target, basis)
    return torch.linalg.solve(gram + torch.diag_embed(penalty), right).T


def rotate_light(light: Tensor, rotation: Tensor) -> Tensor:
    """Light [B, 9, 3] that comes from elsewhere: what shone on a normal n now shines on `rotation @ n`.

    Exact, band by band: the first order turns as a vector, the second as the symmetric matrix Q of n' Q n.

    Args:
        light: Coefficients for `sh_shading`.
        rotation: [3, 3], proper or not.
    """
    rotation, scale = rotation.to(light), light.new_tensor(SH_CONSTANTS)[:, None]
    forms = light.new_tensor(_FORMS)
    quadratic = torch.einsum("kij,bkc->bcij", forms, light[:, 4:] * scale[4:])
    second = torch.einsum("kij,bcij->bkc", forms, rotation @ quadratic @ rotation.T)
    second = second / (forms.square().sum((1, 2))[:, None] * scale[4:])
    return torch.cat([light[:, :1], rotation @ light[:, 1:4], second], 1)


_FORMS = (
    ((0, 0.5, 0), (0.5, 0, 0), (0, 0, 0)),
    ((0, 0, 0.5), (0, 0, 0), (0.5, 0, 0)),
    ((0, 0, 0), (0, 0, 0.5), (0, 0.5, 0)),
    ((1, 0, 0), (0, -1, 0), (0, 0, 0)),
    ((-1, 0, 0), (0, -1, 0), (0, 0, 2)),
)
"""The five second-order functions of `sh_basis` as matrices Q of n' Q n: symmetric, and of trace 0."""
