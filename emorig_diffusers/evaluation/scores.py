"""The figures of one pair of pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ..face.encode import EncodedFace
from ..photo.faces import Face, choose_faces, find_faces
from ..photo.io import read_photo
from ..photo.landmarks import EYE_CORNERS
from ..photo.resample import align, transform_points, warp_crop
from ..pipelines.emorig import EmoRigPipeline
from ..timing import recorded, timed
from .figures import harmonic_score, linearity, pair_confusion
from .metrics.background import background_change
from .metrics.codes import LANDMARK_SIDE, CodeJudge
from .metrics.emotion import Judge, emotion_judge, named, second_judge
from .metrics.identity import identity_judge
from .metrics.perceptual import LPIPS
from .metrics.pixels import psnr, ssim
from .pairs import REAL, UNEDITED, Pair

LONGEST = 512
"""Longer side, pixels, that whole pictures are shrunk to for PSNR, SSIM and LPIPS."""
CROP = 256
"""Side of the aligned crop of a face, pixels."""
CODES = "emorig-open"
"""The pipeline whose encoder reads the codes of every method's pictures."""

_SAME_SHAPE = 0.01  # of a side, what rounding may change of a picture's shape
_MOVED = 0.25  # of the distance of the eyes, from where pictures are not of one framing
_STILL = [33, 133, 362, 263, 168, 6, 197, 4, 1, 98, 327]  # landmarks that expressions leave alone: eyes' corners, nose


@dataclass
class Judges:
    """Whoever says something about a picture.

    Attributes:
        emotion: Whose word on emotions counts.
        second: Another judge of them, to know how far that word can be trusted.
        identity: An `IdentityJudge` or `CosFaceJudge`.
        codes, lpips: Who reads codes, and a distance of pictures.
        device: Where LPIPS computes.
    """

    emotion: Judge
    second: Judge
    identity: Any
    codes: CodeJudge
    lpips: LPIPS
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def names(self) -> dict[str, str]:
        """What every table has to say."""
        return {
            "emotion": self.emotion.name,
            "second": self.second.name,
            "identity": self.identity.name,
            "codes": CODES,
            "lpips": "LPIPS alex 0.1",
        }


def load_judges(
    pipe: EmoRigPipeline, emotion: str = "auto", identity: str = "auto", device: torch.device | None = None
) -> Judges:
    """Open the networks.

    Args:
        pipe: CODES, which reads codes.
        emotion, identity: Kinds, as for `emotion_judge` and `identity_judge`; the second judge is `second_judge`'s.
        device: Where LPIPS computes.
    """
    device = device or torch.device("cpu")
    lpips = LPIPS("alex").to(device)
    first = emotion_judge(emotion)
    return Judges(first, second_judge(first), identity_judge(identity), CodeJudge(pipe), lpips, device)


@dataclass
class Reading:
    """A picture uint8 [H, W, 3], and all faces in it."""

    rgb: np.ndarray
    others: list[Face]


@dataclass
class FaceReading(Reading):
    """What the judges say about one of the faces."""

    face: Face
    probabilities: dict[str, float]
    second: dict[str, float]
    valence_arousal: tuple[float, float] | None
    embedding: np.ndarray
    encoded: EncodedFace


class Scorer:
    """Scores pairs; pairs of one source in a row read that source once."""

    def __init__(self, judges: Judges) -> None:
        self.judges = judges
        self._source: Path | None = None
        self._kept: dict[tuple[Path, tuple[int, int]], Reading] = {}

    def score(self, pair: Pair) -> dict[str, Any]:
        """All figures of a pair, ready for JSON; a figure that cannot be had is `None`.

        Raises:
            PhotoError: A picture cannot be read.
            ValueError: The pictures have different shapes, or the source shows no face.
        """
        if pair.source != self._source:
            self._source, self._kept = pair.source, {}
        with recorded() as seconds:
            figures = self._figures(pair)
        return _tidy(figures) | {"seconds": {stage: round(sum(times), 4) for stage, times in seconds.items()}}

    def _figures(self, pair: Pair) -> dict[str, Any]:
        before, after, note = self._read_pair(pair)
        record: dict[str, Any] = {"size": list(after.rgb.shape[1::-1]), "box": _rounded(before.face.box), "note": note}
        record |= self._emotion(pair.emotion, before, after) | self._codes(pair, before, after)
        record["hes"] = harmonic_score(record["target_probability"], record["csim"])
        if pair.strengths and record["target_probability"] is not None:
            record |= self._linearity(pair, before, record)
        if pair.method not in (UNEDITED, REAL):
            record |= self._pixels(before, after)
        if pair.own and all(file.is_file() for file in pair.own):
            record |= self._own(*pair.own)
        if pair.reference and pair.method != REAL:
            record |= self._reference(pair.reference, before, after)
        return record

    def _read_pair(self, pair: Pair) -> tuple[FaceReading, Reading, str | None]:
        """Source and edited picture at one size, and what is to be said about that."""
        source = _pixels_of(pair.source)
        if pair.method == UNEDITED:
            before = self._source_reading(pair.source, source)
            return before, before, None
        edited = _pixels_of(pair.edited)
        if pair.method == REAL:  # of another size and framing
            after = self._kept_reading(pair.edited, edited)
            return self._source_reading(pair.source, source), after, None
        size = common_size(source.shape[:2], edited.shape[:2])
        notes = [f"scored at {size[1]} x {size[0]}"] if source.shape != edited.shape else []
        before = self._source_reading(pair.source, resize(source, size))
        after = self._judge(resize(edited, size), before)
        if not isinstance(after, FaceReading):
            notes.append("no face in the edited picture")
        elif displacement(before.face, after.face) > _MOVED:
            notes.append("the face has moved: figures of pixels tell little")
        return before, after, "; ".join(notes) or None

    def _source_reading(self, path: Path, rgb: np.ndarray) -> FaceReading:
        reading = self._kept_reading(path, rgb)
        if not isinstance(reading, FaceReading):
            raise ValueError("The source shows no face.")
        return reading

    def _kept_reading(self, path: Path, rgb: np.ndarray) -> Reading:
        """A reading that other pairs of the source need too."""
        key = path, rgb.shape[:2]
        if key not in self._kept:
            self._kept[key] = self._judge(rgb)
        return self._kept[key]

    def _judge(self, rgb: np.ndarray, source: FaceReading | None = None) -> Reading:
        """Ask every judge about the largest face, or about the one that was the source's."""
        faces, judges = _find_faces(rgb), self.judges
        face = _same_face(faces, source) if source else choose_faces(faces)[0] if faces else None
        if face is None:
            return Reading(rgb, faces)
        with timed("emotion"), torch.no_grad():
            probabilities = judges.emotion(rgb, face.box)
            valence_arousal = judges.emotion.valence_arousal(rgb, face.box)
            second = judges.second(rgb, face.box)
        with timed("identity"):
            embedding = judges.identity.embed(rgb, face.landmarks)
        with timed("codes"):
            encoded = judges.codes.read(rgb, face)
        return FaceReading(rgb, faces, face, probabilities, second, valence_arousal, embedding, encoded)

    def _emotion(self, emotion: str, before: FaceReading, after: Reading) -> dict[str, Any]:
        """What the judges saw; a face that is not found shows nothing, and is a miss."""
        found, known = after if isinstance(after, FaceReading) else None, emotion in self.judges.emotion.emotions
        seen = found.probabilities if found else {}
        target = seen.get(emotion, 0.0) if known else None
        top, second = named(seen), named(found.second if found else {})
        return {
            "top": top,
            "second_top": second,
            "accuracy": float(top == emotion) if known else None,
            "accuracy_changed": float(top == emotion) if known and named(before.probabilities) != emotion else None,
            "second_accuracy": float(second == emotion) if emotion in self.judges.second.emotions else None,
            "agreement": float(top == second) if top else None,
            "target_probability": target,
            "gain": None if target is None else target - before.probabilities[emotion],
            "probabilities_before": before.probabilities,
            "probabilities_after": seen or None,
            "mscr": pair_confusion(emotion, top),
            "valence_arousal_before": before.valence_arousal,
            "valence_arousal_after": found and found.valence_arousal,
        }

    def _linearity(self, pair: Pair, before: FaceReading, record: dict[str, Any]) -> dict[str, Any]:
        """How the target probability follows strength; a strength that cannot be read is left out, with a note."""
        probabilities, notes = {pair.intensity: record["target_probability"]}, [record["note"]]
        for intensity, path in pair.strengths:
            try:
                probabilities[intensity] = self._probability_at(pair, path, before)
            except (OSError, ValueError) as error:
                notes.append(f"strength {intensity:g} left out: {error}")
        told = {f"{intensity:g}": probabilities[intensity] for intensity in sorted(probabilities)}
        return {"strengths": told, "cls": linearity(probabilities), "note": "; ".join(filter(None, notes)) or None}

    def _probability_at(self, pair: Pair, path: Path, before: FaceReading) -> float:
        """Target probability of a picture of another strength; 0 where its face is not found."""
        edited = _pixels_of(path)
        size = common_size(before.rgb.shape[:2], edited.shape[:2])
        if size != before.rgb.shape[:2]:
            before = self._source_reading(pair.source, resize(before.rgb, size))
        rgb = resize(edited, size)
        face = _same_face(_find_faces(rgb), before)
        with timed("emotion"):
            return self.judges.emotion(rgb, face.box)[pair.emotion] if face else 0.0

    def _codes(self, pair: Pair, before: FaceReading, after: Reading) -> dict[str, Any]:
        """Identity and codes; a face that is not found is nobody's."""
        figures: dict[str, Any] = {"csim": 0.0}
        if pair.method == UNEDITED:
            figures |= {"csim": None, "shape": _rounded(before.encoded.codes.shape[0].tolist(), 5)}
        elif isinstance(after, FaceReading):
            judge, pair_read = self.judges.codes, (before.encoded, after.encoded)
            figures["csim"] = self.judges.identity.similarity(before.embedding, after.embedding)
            figures["expression_change"] = _distance(*pair_read)
            figures["expression_gain"] = judge.gain(*pair_read, judge.target(before.encoded, pair.emotion))
            figures["shape_change"] = judge.shape_drift(*pair_read, spread=1.0)
            figures["landmark_error"] = after.encoded.error * LANDMARK_SIDE / 2
        return figures

    def _pixels(self, before: FaceReading, after: Reading) -> dict[str, Any]:
        """Differences of whole pictures, of the faces' crops and of all that is not the face."""
        size = _shrunk(after.rgb.shape[:2])
        matrix = align(before.face.landmarks, CROP)
        whole = tuple(resize(reading.rgb, size) for reading in (before, after))
        faces = tuple(warp_crop(reading.rgb, matrix, CROP) for reading in (before, after))
        figures: dict[str, Any] = {}
        for prefix, pictures in (("", whole), ("face_", faces)):
            with timed("PSNR and SSIM"):
                figures |= {f"{prefix}psnr": psnr(*pictures), f"{prefix}ssim": ssim(*pictures)}
            figures[f"{prefix}lpips"] = self._lpips(*pictures)
        with timed("background"):
            figures["background"] = background_change(before.rgb, after.rgb, before.face.landmarks)
        return figures

    def _own(self, drawn: Path, reconstruction: Path) -> dict[str, float]:
        """Differences of the network's own pictures, of the edit and of the face as it is, at their own size."""
        pictures = _pixels_of(drawn), _pixels_of(reconstruction)
        with timed("PSNR and SSIM"):
            figures = {"own_psnr": psnr(*pictures), "own_ssim": ssim(*pictures)}
        return figures | {"own_lpips": self._lpips(*pictures)}

    def _reference(self, path: Path, before: FaceReading, after: Reading) -> dict[str, Any]:
        """Distance from the real photo: of the face's crop, to which it is moved by points that stay, and of codes."""
        real = self._kept_reading(path, _pixels_of(path))
        if not (isinstance(real, FaceReading) and isinstance(after, FaceReading)):
            return {}
        crop = align(before.face.landmarks, CROP)
        there = crop_like(before.face, real.face, crop)
        pictures = warp_crop(after.rgb, crop, CROP), warp_crop(real.rgb, there, CROP)
        return {
            "reference_lpips": self._lpips(*pictures),
            "reference_expression": _distance(real.encoded, after.encoded),
            "reference_csim": self.judges.identity.similarity(real.embedding, after.embedding),
        }

    @torch.no_grad()
    def _lpips(self, a: np.ndarray, b: np.ndarray) -> float:
        with timed("LPIPS"):
            tensors = (torch.from_numpy(x).to(self.judges.device).permute(2, 0, 1)[None] / 127.5 - 1 for x in (a, b))
            return float(self.judges.lpips.distance(*tensors))


def _find_faces(rgb: np.ndarray) -> list[Face]:
    with timed("find faces"):
        return find_faces(rgb)


def _pixels_of(path: Path) -> np.ndarray:
    with timed("read"):
        return read_photo(path).rgb


def common_size(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """The smaller of two sizes (height, width) of one shape.

    Raises:
        ValueError: One picture shows more than the other: the shapes differ by more than rounding.
    """
    if abs(a[0] / a[1] / (b[0] / b[1]) - 1) > _SAME_SHAPE:
        raise ValueError(
            f"The source is {a[1]} x {a[0]} and the edited picture {b[1]} x {b[0]} pixels: they need one shape."
        )
    return min(a, b, key=lambda size: size[0] * size[1])


def resize(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture uint8 [H, W, 3] at a smaller (height, width), area-averaged."""
    if rgb.shape[:2] == tuple(size):
        return rgb
    return cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_AREA)


def displacement(a: Face, b: Face) -> float:
    """How far the points of a face that stay in place are from another's, in distances of the eyes."""
    eyes = np.linalg.norm(np.subtract(*(a.landmarks[list(eye), :2].mean(0) for eye in EYE_CORNERS)))
    return float(np.linalg.norm(a.landmarks[_STILL, :2] - b.landmarks[_STILL, :2], axis=1).mean() / eyes)


def crop_like(face: Face, other: Face, matrix: np.ndarray) -> np.ndarray:
    """The similarity [2, 3] that shows another photo's face where `matrix` shows `face`."""
    target = transform_points(matrix, face.landmarks[_STILL, :2])
    onto, _ = cv2.estimateAffinePartial2D(other.landmarks[_STILL, :2], target, method=cv2.LMEDS)
    if onto is None:
        raise ValueError("The real photo's face cannot be moved onto the source's: its landmarks fall together.")
    return onto


def _shrunk(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, LONGEST / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _same_face(faces: list[Face], source: FaceReading) -> Face | None:
    """The face where the source's was: not the neighbour's, when the edit has lost the face."""
    if not faces:
        return None
    centre = lambda face: face.landmarks[:, :2].mean(0)
    distance = lambda face, other: float(np.linalg.norm(centre(face) - centre(other)))
    nearest = min(faces, key=lambda face: distance(face, source.face))
    if min(source.others, key=lambda other: distance(nearest, other)) is not source.face:
        return None
    return nearest


def _distance(a: EncodedFace, b: EncodedFace) -> float:
    """Of two expression codes."""
    return float((a.codes.expression - b.codes.expression).norm())


def _tidy(value: Any) -> Any:
    """Six decimals are more than any figure is worth."""
    if isinstance(value, dict):
        return {key: _tidy(item) for key, item in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def _rounded(values: Any, digits: int = 2) -> list[float]:
    return [round(float(value), digits) for value in values]
