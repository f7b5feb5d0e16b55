"""Normals of a neural head in the published conditioning, in place of the linear head's that it is fitted to.

A neural head has codes of its own, and its meshes differ from person to person, so that what stands for a face is
looked for as it is for a scan: by a fit to what cameras see of the linear head above its throat. Who somebody is
depends on the linear head's shape alone: of its relaxed face identity and place are found once, and kept for all that
the person does. What the face does, jaw included, are expression codes under that identity and in that place, found
anew for every edit, before as after. (Moving the neural surface by the linear head's motion would need no second fit,
but lips that are shut would be drawn out into a skin when they part: only the expression codes have an inside of the
mouth.) Turns of the whole head are rigid: the neural head follows the linear one's, exactly.

Light falls on the normals that the network sees, as on DECA's wrinkles. Where the neural head shows nothing, such as a
neck, the linear head's stay; beyond the linear head's outline, where it has no albedo, nothing is drawn.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor

from ..face.codes import FaceCodes
from ..models.geometry import Surface
from ..models.head import HeadModel
from ..models.mesh_fields import similarity
from ..models.nphm import NeuralHeadModel
from ..models.nphm_fit import HeadFit, HeadFitter, fit_scan
from ..models.scan_alignment import largest_part
from ..render.buffers import Buffers
from ..render.camera import ndc_to_pixels, project, transform_ndc
from ..render.rasterize import interpolate, rasterize
from ..render.spherical_harmonics import sh_shading
from ..render.visible import around, mesh_normals, visible_points

LANDMARKS = {
    "nose_tip": 30, "chin": 8, "mouth_right": 48, "mouth_left": 54, "eye_outer_right": 36, "eye_inner_right": 39,
    "eye_inner_left": 42, "eye_outer_left": 45, "nose_wing_right": 31, "nose_wing_left": 35,
}  # fmt: skip
"""iBUG's points by the names of scans' landmarks, to place a linear head on a neural one by."""
THROAT = 0.02  # metres below the chin where a linear head is no longer fitted, and the neural one cut: they end there
PICTURE_SCALE = 0.2  # of the protocol's pictures that the linear head is seen in, as made scans are
PERSON_STEPS, EXPRESSION_STEPS = 240, 120  # of a fit; an expression alone has less to find
RESOLUTION = 128  # cells a side of the neural surface: 2 mm, about a pixel of the published pictures
KEPT = 16  # fitted surfaces that are kept, as one face is drawn before and after, and by many samples


class NeuralNormals:
    """What a neural head shows of the faces of a linear one.

    Args:
        linear: The head that codes are for, with iBUG's landmarks.
        neural: In its place, with expressions.

    Raises:
        ValueError: The neural head has no expressions, so that edits would change nothing.
    """

    def __init__(self, linear: HeadModel, neural: NeuralHeadModel) -> None:
        if not neural.num_expression:
            raise ValueError("This neural head has no expressions: convert it with them, or draw linear normals.")
        self.linear, self.neural = linear, neural.eval().requires_grad_(False)
        self._people: OrderedDict[bytes, HeadFit] = OrderedDict()
        self._surfaces: OrderedDict[bytes, Surface] = OrderedDict()

    def replace(self, drawn: Buffers, codes: FaceCodes, vertices: Tensor, transform: Tensor | None = None) -> Buffers:
        """Buffers [B, ...] of the linear head with the neural head's normals, and light on these.

        Args:
            drawn: Of the linear head.
            codes: Of B faces; their light, camera, shape, expression and jaw count.
            vertices: The linear head [B, V, 3] in metres, as it was drawn: turned and moved.
            transform: As it was drawn by, see `draw_buffers`.
        """
        normals = []
        for place in range(len(codes)):
            one, own = codes[place], None if transform is None else transform[place : place + 1]
            normals.append(self._draw(drawn[place], one, vertices[place], own))
        normal = torch.cat(normals)
        shading = sh_shading(normal.permute(0, 2, 3, 1), codes.light).permute(0, 3, 1, 2)
        return Buffers(drawn.albedo * shading, normal, drawn.albedo, drawn.mask)

    def surface(self, codes: FaceCodes) -> Surface:
        """The neural head of a face [1, ...] as the linear head stands at rest, metres; only the jaw is turned."""
        key = _key(codes.shape, codes.expression, codes.pose[:, 3:])
        return _recall(self._surfaces, key, lambda: self._make_surface(codes))

    def _draw(self, drawn: Buffers, codes: FaceCodes, vertices: Tensor, transform: Tensor | None) -> Tensor:
        """Normals [1, 3, H, W] of one face."""
        rest = self._rest_vertices(codes).double().numpy()
        matrix, shift = (torch.from_numpy(part).float() for part in similarity(rest, vertices.double().numpy()))
        surface = self.surface(codes)
        posed = (surface.vertices @ matrix.T + shift)[None]
        points = project(posed, codes.camera)
        points = points if transform is None else transform_ndc(points, transform)
        height, width = drawn.normal.shape[2:]
        fragments = rasterize(ndc_to_pixels(points, (height, width)), surface.faces, height, width)
        normal = interpolate(fragments, surface.faces, mesh_normals(posed[0], surface.faces)[None])
        normal = torch.nn.functional.normalize(normal, dim=-1).permute(0, 3, 1, 2)
        # what looks away is the skull's inside, seen through the cut throat of a head that is turned up
        shown = (drawn.mask > 0) & (normal[:, 2:] > 0)
        return torch.where(shown, normal, drawn.normal)

    def _rest_vertices(self, codes: FaceCodes) -> Tensor:
        pose = torch.cat([torch.zeros_like(codes.pose[:, :3]), codes.pose[:, 3:]], 1)
        return self.linear(codes.shape, codes.expression, pose)[0]

    def _person(self, shape: Tensor) -> HeadFit:
        """Identity and place of the person with a shape code [1, S], by the relaxed face."""
        return _recall(self._people, _key(shape), lambda: self._fit_person(shape))

    def _fit_person(self, shape: Tensor) -> HeadFit:
        vertices = self.linear(shape, shape.new_zeros(1, self.linear.num_expression))
        ibug = self.linear.landmarks68(vertices)[0].double().numpy()
        found = {name: ibug[number] for name, number in LANDMARKS.items()}
        points, normals = self._seen(vertices[0])
        return _finished(fit_scan(self.neural, points, normals, 1.0, True, found, PERSON_STEPS))

    def _make_surface(self, codes: FaceCodes) -> Surface:
        person = self._person(codes.shape)
        fitter = HeadFitter(self.neural, EXPRESSION_STEPS, free_placement=False, shape=person.shape)
        rest = self._rest_vertices(codes)
        found = _finished(fitter.fit(*self._seen(rest), person.placement))
        surface = largest_part(self.neural.surface(found.shape, found.expression, resolution=RESOLUTION))
        vertices = torch.from_numpy(person.placement.invert(surface.vertices.double().numpy())).float()
        fitted = vertices[surface.faces, 1].amin(1) > self._throat(rest)
        return Surface(vertices, surface.faces[fitted])

    def _throat(self, vertices: Tensor) -> Tensor:
        """Height of the throat of a linear head [V, 3] at rest, metres."""
        return self.linear.landmarks68(vertices[None])[0, LANDMARKS["chin"], 1] - THROAT

    def _seen(self, vertices: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Points and normals [N, 3] that cameras see of the linear head [V, 3], above its throat."""
        middle = (vertices.amin(0) + vertices.amax(0)) / 2
        seen = visible_points(vertices - middle, self.linear.faces, around(), PICTURE_SCALE)
        points = seen.points + middle
        kept = points[:, 1] > self._throat(vertices)
        return points[kept].double().numpy(), seen.normals[kept].double().numpy()


def _finished(found: HeadFit) -> HeadFit:
    """A fit that nobody stopped: half a fit is no face to draw, so that Ctrl-C stops what it was made for."""
    if found.interrupted:
        raise KeyboardInterrupt
    return found


def _key(*codes: Tensor) -> bytes:
    return torch.cat([code.flatten() for code in codes]).numpy().tobytes()


def _recall(known: OrderedDict, key: bytes, make):  # noqa: ANN001
    """What is kept under a key, or made and kept; the longest unused one goes."""
    if key not in known:
        known[key] = make()
        while len(known) > KEPT:
            known.popitem(last=False)
    known.move_to_end(key)
    return known[key]
