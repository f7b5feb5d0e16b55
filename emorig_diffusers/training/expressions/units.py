"""Expression units of a head that have the motion and shade of people's acted expressions.

Units made by artists move brows, noses and cheeks as no face does: anger by them was farther from people's anger than
their neutral faces are. Here the recipe of every emotion, drawn with the units, has to give the median motion of the
people who act it. Of all corrections of units that do so the smallest is taken, vertex by vertex, each unit within its
own region; so a unit changes by as much as emotions use it, and names, blends, single sides and the zero edit stay what
they are. The same is done with shade: what an emotion darkens or lightens is shared out among its units.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu

from ...evaluation.metrics import FaceApiJudge
from ...evaluation.metrics.emotion import named
from ...face.emotions import RECIPES, action_unit_offset, mirrored_units
from ...files.folders import update_folder
from ...models.head import PARTS, SHADING_STEP, HeadModel
from ...models.landmark_fit import UNSEEN_UNITS
from ...models.mesh_fields import graph_laplacian, landmark_embedding, smoothness
from ...photo.faces import choose_faces, find_faces
from ...photo.io import read_photo
from ...photo.landmarks import BROWS, EYES, INNER_LIPS, OUTER_LIPS
from ...photo.masks import smooth
from ...pipelines.emorig import EmoRigPipeline
from ...render.buffers import vertex_normals
from ..manifest import NEUTRAL, read_manifest
from .fields import Atlas, Motion, average, make_atlas, measure, mirrored_vertices

FITTED = ("happy", "sad", "surprise", "surprise_wide", "fear", "disgust", "anger")
MORE = {
    "surprise_wide": {"AU1": 0.7, "AU2": 0.95, "AU5": 0.95, "AU27": 0.85, "mouthPucker": 0.2},
    "fear": {"AU1": 0.7, "AU4": 0.45, "AU5": 0.8, "AU20": 0.9, "AU16": 0.6, "AU10": 0.25, "AU26": 0.06},
    "disgust": {"AU9": 0.85, "AU10": 0.8, "AU4": 0.4, "AU7": 0.5, "AU17": 0.5, "AU15": 0.4, "AU6": 0.4, "AU16": 0.3,
                "AU26": 0.14},
    "sad": {"AU1": 0.8, "AU4": 0.5, "AU15": 0.8, "AU17": 0.5, "AU43": 0.12, "AU7": 0.1},
    "anger": {"AU4": 0.9, "AU9": 0.3, "AU7": 0.5, "AU5": 0.1, "AU23": 0.4, "AU24": 0.3, "AU15": 0.3, "AU17": 0.4},
}  # fmt: skip
"""Recipes of the median person, of expressions that are no emotion of their own or whose recipe is another."""
STEADY = 0.01  # ridge of the corrections, of the mean square of what units can do at a vertex
FLOW_WEIGHT, BROW_WEIGHT, LOOSE_WEIGHT = 0.5, 0.5, 0.25  # of flow and landmarks; those of eyes and lips weigh 1
BENDING, STRETCHING, HOLD = 0.05, 0.003, 1e-4  # of the smooth field that carries them
DEEPEST = 0.004  # metres that a correction may follow the surface in or out
OUTLINE = 0.02  # metres within the face's outline over which shade begins
FAINT = 0.01  # natural logarithms; a unit whose map is nowhere stronger comes without one
EDGE = 0.003  # metres around eyes and inner lips in which shade is taken from the skin about


def read_motions(
    pipe: EmoRigPipeline, atlas: Atlas, folder: Path, without: Iterable[str] = ()
) -> dict[tuple[str, str], Motion]:
    """(person, expression) -> motion from the person's neutral photo, of those whose expression a judge names as it
    is meant, as far as there are any; `without` leaves people out.

    Raises:
        DataError: The folder's manifest cannot be used, see `read_manifest`.
    """
    photos = {key: read_photo(file).rgb for key, file in read_manifest(folder, FITTED, without).items()}
    judge = FaceApiJudge()
    used = []
    for label in FITTED:
        acted = [key for key in photos if key[1] == label]
        used += [key for key in acted if seen_in(judge, photos[key]) == label.split("_")[0]] or acted
    return {key: measure(pipe, atlas, photos[key[0], NEUTRAL], photos[key]) for key in used}


def seen_in(judge: FaceApiJudge, rgb: np.ndarray) -> str | None:
    """The emotion that a judge sees in the largest face of a photo uint8 [H, W, 3]."""
    return named(judge(rgb, choose_faces(find_faces(rgb))[0].box))


class UnitFit:
    """Corrections of a head's expression units from the motion and shade that recipes made of them have to give.

    Args:
        head: The head whose units are corrected.
        recipes: Label -> amounts of action units or expression units.
    """

    def __init__(self, head: HeadModel, recipes: Mapping[str, Mapping[str, float]]) -> None:
        self.head, self.atlas = head, make_atlas(head)
        self.names = tuple(head.config.expression_names)
        self.amounts = {k: action_unit_offset(v, self.names).numpy() for k, v in recipes.items()}
        self.template, self.faces = head.template.numpy(), head.faces.numpy()
        self.points = head.landmarks(head.template[None])[0, :468].numpy()
        self.normal = vertex_normals(head.template[None], head.faces)[0].numpy()
        self.skin = np.zeros(len(self.template), bool)
        self.skin[np.unique(self.faces[head.face_part.numpy() == PARTS.index("skin")])] = True
        self._solve_system()

    def _solve_system(self) -> None:
        """Smooth vertex fields from landmarks and flow: weights, and the factors of the normal equations."""
        self.embed = landmark_embedding(self.head)[:468]
        self.landmark_weight = np.full(468, LOOSE_WEIGHT)
        for points, value in ((sum(BROWS, ()), BROW_WEIGHT), ((*EYES, *OUTER_LIPS, *INNER_LIPS), 1.0)):
            self.landmark_weight[list(points)] = value
        self.landmark_weight *= self.head.landmark_weight.numpy()[:468] > 0
        inside = self.within(self.template, range(468))
        eyes = np.maximum(*(self.within(self.template, half) for half in (EYES[:16], EYES[16:])))
        lips = self.within(self.template, OUTER_LIPS)
        frontal = self.skin & (self.normal[:, 2] > 0.25) & (self.template[:, 2] > self.points[:, 2].min())
        fade = lambda distance, start, width: np.clip((distance - start) / width, 0, 1)
        self.flow_weight = frontal * fade(inside, -0.004, 0.01) * fade(-eyes, 0.001, 0.003) * fade(-lips, 0.002, 0.006)
        self.bending = smoothness(graph_laplacian(self.head), BENDING, STRETCHING, HOLD)

    def within(self, place: np.ndarray, outline: Iterable[int]) -> np.ndarray:
        """How far places [N, 2+] on the template lie within the hull of landmarks, metres; negative outside."""
        micro = lambda points: (points[..., :2] * 1e3).astype(np.float32)
        hull = cv2.convexHull(micro(self.points[list(outline)]))
        return np.array([cv2.pointPolygonTest(hull, tuple(map(float, p)), True) for p in micro(place)]) / 1e3

    def region(self, unit: str, place: np.ndarray) -> np.ndarray:
        """Where on the template a unit may move and shade skin: weights in [0, 1] of places [N, 2+] in metres."""
        height = lambda *points: self.points[list(points), 1].mean()
        rise = lambda low, high: smooth(np.clip((place[:, 1] - low) / (high - low), 0, 1))
        bridge, eyes, brows = height(6), height(159, 145), height(105)
        if unit.startswith("brow"):
            mask = rise(height(6, 197) - 0.01, bridge)
        elif unit.startswith("eye"):
            mask = rise(height(5), height(197)) * (1 - rise(eyes, brows + 0.005))
        elif unit.startswith("noseSneer"):
            mask = rise(height(0) - 0.004, height(2)) * (1 - rise(height(8), height(9) + 0.01))
        elif unit.startswith("cheekSquint"):
            mask = 0.7 * rise(height(0) - 0.004, height(2)) * (1 - rise(eyes, brows + 0.005))
        else:
            mask = 1 - rise(height(4), height(195))
        left = smooth(np.clip(place[:, 0] / 0.02 + 0.5, 0, 1))  # a centimetre to each side belongs to both
        if unit.startswith(UNSEEN_UNITS):
            return 0 * mask
        return mask * (left if unit.endswith("Left") else 1 - left if unit.endswith("Right") else 1)

    def motion_off(self, label: str, motion: Motion) -> np.ndarray:
        """What a recipe's motion lacks of people's: vertices' metres [V, 2], on the skin."""
        own = np.tensordot(self.amounts[label], self.head.expression_basis.numpy(), 1)[:, :2]
        weight = FLOW_WEIGHT * self.flow_weight * np.isfinite(motion.flow).all(1)
        landmark = sparse.diags(self.landmark_weight**2)
        system = self.embed.T @ landmark @ self.embed + sparse.diags(weight) + self.bending
        right = self.embed.T @ landmark @ (motion.landmarks - self.embed @ own)
        right = right + weight[:, None] * (np.nan_to_num(motion.flow) - own)
        return splu(system.tocsc()).solve(np.asarray(right)) * self.skin[:, None]

    def spread(self, place: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Share out what recipes have to give [L, N, C] at places [N, 2+] among units: [E, N, C], the least that does.

        At every place the least-squares-smallest x with Σ amounts · x = wanted, every unit within its region.
        """
        amounts = np.stack(list(self.amounts.values()))
        region = np.stack([self.region(unit, place) for unit in self.names]) ** 2
        gram = np.einsum("lu,un,mu->nlm", amounts, region, amounts)
        mean = np.trace(gram, axis1=1, axis2=2) / len(amounts)
        gram += (STEADY * mean + 1e-6)[:, None, None] * np.eye(len(amounts))
        weights = np.linalg.solve(gram, wanted.transpose(1, 0, 2))
        return np.einsum("un,lu,nlc->unc", region, amounts, weights)

    def corrections(self, motions: Mapping[str, Motion]) -> np.ndarray:
        """What to add to the units [E, V, 3], metres; they slide along the template's surface."""
        flat = self.spread(self.template, np.stack([self.motion_off(label, motions[label]) for label in self.amounts]))
        slope = self.normal[:, :2] / self.normal[:, 2:].clip(0.35)
        depth = np.clip(-(flat * slope).sum(-1, keepdims=True), -DEEPEST, DEEPEST)
        return both_sides(self.head, np.concatenate([flat, depth], -1))

    def shading(self, motions: Mapping[str, Motion]) -> np.ndarray:
        """Shading maps of the units [E, A, A], natural logarithms."""
        place = self.atlas.position.reshape(-1, 2)
        size = self.atlas.on.shape
        to_pixels = lambda distance: distance.reshape(size)
        fade = np.clip(to_pixels(self.within(place, range(468))) / OUTLINE, 0, 1) * self.atlas.on
        holes = [self.within(place, outline) for outline in (EYES[:16], EYES[16:], INNER_LIPS)]
        known = np.clip(to_pixels(-np.max(holes, 0)) / EDGE, 0, 1)
        blur = lambda x: cv2.GaussianBlur(x.astype(np.float32), (0, 0), 2.0)
        around = lambda shade: np.where(known < 1, blur(shade * known) / (blur(known) + 1e-3), shade)
        wanted = np.stack([fade * around(motions[label].shade) for label in self.amounts])
        return self.spread(place, wanted.reshape(len(wanted), -1, 1)).reshape(-1, *size)


def both_sides(head: HeadModel, corrections: np.ndarray) -> np.ndarray:
    """Corrections [E, V, 3] of which each unit's is the mean of its own and its twin's mirror image."""
    twins, mirror = mirrored_units(head.config.expression_names), mirrored_vertices(head)
    return (corrections + corrections[twins][:, mirror] * [-1, 1, 1]) / 2


def apply_to(head: HeadModel, corrections: np.ndarray, shading: np.ndarray, atlas: Atlas) -> HeadModel:
    """A copy of the head with corrected units and shading maps; both sides of a face get the mean of both."""
    names = tuple(head.config.expression_names)
    even = (shading + shading[mirrored_units(names), :, ::-1]) / 2
    shade = {name: field for name, field in zip(names, even) if not name.endswith("Right")}
    shade = {name: field for name, field in shade.items() if np.abs(field).max() > FAINT}
    config = {k: v for k, v in head.config.items() if not k.startswith("_")}
    new = HeadModel(**config | {"shading_units": tuple(shade), "shading_size": len(atlas.on)})
    kept = {k: v for k, v in head.state_dict().items() if not k.startswith("shading")}
    new.load_state_dict(kept, strict=False)
    new.expression_basis += torch.from_numpy(corrections).float()
    new.shading_place.copy_(torch.from_numpy(atlas.place))
    new.shading_maps.copy_(torch.from_numpy(np.round(np.stack(list(shade.values())) / SHADING_STEP)))
    return new


def fit(pipe: EmoRigPipeline, motions: Mapping[tuple[str, str], Motion]) -> HeadModel:
    """The pipeline's head with units that act as the people of `motions` do."""
    chosen = {label: (RECIPES | MORE)[label] for label in FITTED}
    units, mirror = UnitFit(pipe.head, chosen), mirrored_vertices(pipe.head)
    middle = {label: average([m for (_, what), m in motions.items() if what == label], mirror) for label in FITTED}
    return apply_to(pipe.head, units.corrections(middle), units.shading(middle), units.atlas)


def fit_expressions(expressions: Path, pipeline: Path, without: Iterable[str] = ()) -> None:
    """Write the `head/` of a pipeline's folder anew, its units fitted to a folder of acted expressions.

    Raises:
        DataError: The expressions cannot be used, see `read_manifest`.
        OSError: The head cannot be written; the old one stays.
    """
    pipe = EmoRigPipeline.from_pretrained(pipeline)
    motions = read_motions(pipe, make_atlas(pipe.head), expressions, without)
    update_folder(pipeline / "head", fit(pipe, motions).half().save_pretrained)
