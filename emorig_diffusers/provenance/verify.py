"""Whether a picture or a clip was edited, as far as its file, its signature and its pixels tell."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..photo.faces import Face, find_faces, same_place
from ..photo.io import PhotoError, read_photo
from .containers import is_video, read_box, read_gif
from .credentials import Credentials, read_credentials
from .edits import SAYING, SOFTWARE
from .watermark import Found, Search, settled
from .xmp import EDITED, SOURCE_TYPES, Statement, read_packet

MADE_BY_NETWORKS = ("compositeWithTrainedAlgorithmicMedia", "trainedAlgorithmicMedia")
"""IPTC's words that count as edited, whoever says them."""
STATED = 0.99  # confidence in what metadata says: anybody can write them, but nobody does by chance


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        path: The file.
        edited: Whether something tells an edit; if nothing does, the file may be edited all the same.
        confidence: How sure that is, in [0, 1]: 1 by a signature that holds, STATED by metadata, by the mark one less
            the likelihood that faces without one score as high; 0 where nothing tells an edit.
        by_us: Whether this software made the edit.
        metadata: What the file says.
        credentials: What is signed; `None` without a signature.
        mark: What the best face's pixels say; `None` for clips that were not looked at.
        faces: How many faces were looked at.
    """

    path: Path
    edited: bool
    confidence: float
    by_us: bool
    metadata: Statement
    credentials: Credentials | None
    mark: Found | None
    faces: int

    @property
    def sentence(self) -> str:
        """All in one line."""
        verdict = f"edited ({100 * self.confidence:.2f} %)" if self.edited else "unknown"
        evidence = _of_metadata(self.metadata), _of_credentials(self.credentials), self._of_mark()
        return f"{self.path}: {verdict}: {'; '.join(evidence)}"

    def _of_mark(self) -> str:
        if self.mark is None:
            return "no mark was looked for"
        if not self.faces:
            return "no face that could have a mark"
        return f"{'a mark' if self.mark.marked else 'no mark'} (score {self.mark.score:.1f})"

    def as_json(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        mark = self.mark and {"found": self.mark.marked, "score": self.mark.score, "chance": self._chance}
        verdict = "edited" if self.edited else "unknown"
        about = {"path": str(self.path), "verdict": verdict, "confidence": self.confidence, "by_us": self.by_us}
        signed = self.credentials and asdict(self.credentials)
        return about | {"metadata": asdict(self.metadata), "credentials": signed, "mark": mark, "faces": self.faces}

    @property
    def _chance(self) -> float:
        return 1.0 if self.mark is None else min(self.mark.chance * self.faces, 1.0)


def verify(path: Path, frames: Callable[[Path], Iterable[np.ndarray]] | None = None) -> Report:
    """Look at a picture or at a clip.

    Args:
        path: The file.
        frames: Gives some frames uint8 [H, W, 3] of a clip, all of one size, nothing of a photo; `None` leaves the mark
            in clips out.

    Raises:
        PhotoError: It cannot be read.
    """
    path = Path(path)
    pictures: Iterable[np.ndarray] = [] if frames is None else frames(path)
    try:
        photo = read_photo(path)
    except PhotoError:
        statement = _of_clip(path)
        if statement is None:
            raise
    else:
        packet = photo.original.info.get("xmp") or (read_gif(path.read_bytes()) if _is_gif(path) else None)
        statement = read_packet(packet)
        pictures = itertools.chain([photo.rgb], pictures)
    mark, faces = look(pictures)
    signed = read_credentials(path)
    holds = signed is not None and signed.valid and any(kind in MADE_BY_NETWORKS for kind in signed.source_types)
    stated = statement.edit is not None or statement.source_type in MADE_BY_NETWORKS
    seen = mark is not None and mark.marked
    sure = 1 - min(mark.chance * faces, 1.0) if mark is not None and seen else 0.0
    confidence = max(float(holds), STATED * stated, sure)
    ours = seen or statement.edit is not None or (holds and signed is not None and SOFTWARE in signed.tools)
    return Report(path, confidence > 0, confidence, ours, statement, signed, mark, faces)


def look(pictures: Iterable[np.ndarray]) -> tuple[Found | None, int]:
    """The best mark in a picture, or in frames of a clip together, uint8 [H, W, 3] each, and how many faces there are;
    `None` without a picture."""
    mark: Found | None = None
    known: list[tuple[Face, Search]] = []
    for rgb in pictures:
        mark = Found()
        for face in find_faces(rgb):
            search = next((one for was, one in known if same_place(was.box, face.box)), Search())
            search.add(rgb, settled(rgb, face))
            known = [(face, search), *((was, one) for was, one in known if one is not search)]
    found = (search.best() for _, search in known)
    return max(found, key=lambda one: one.score, default=mark), len(known)


def _is_gif(path: Path) -> bool:
    with Image.open(path) as image:
        return image.format == "GIF"


def _of_clip(path: Path) -> Statement | None:
    """What a video's file says; `None` where it is none that can be read."""
    if not is_video(path):
        return None
    if (packet := read_box(path)) is not None:
        return read_packet(packet)
    try:
        import av

        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                return None
            comments = [text for name, text in container.metadata.items() if name.lower() == "comment"]
    except (ImportError, OSError, ValueError):
        return None
    return _of_tags(" ".join(comments))


def _of_tags(comment: str) -> Statement:
    if SAYING not in comment:
        return Statement()
    tool, _, rest = comment.partition(SAYING)[2].partition(": ")
    return Statement(EDITED.removeprefix(SOURCE_TYPES), f"{SOFTWARE} {tool}", {"Edit": rest.partition(". Digital")[0]})


def _of_metadata(said: Statement) -> str:
    if not said.source_type and not said.edit:
        return "its metadata say nothing"
    edit = [f"{name.lower()} {text}" for name, text in (said.edit or {}).items() if name not in ("Model", "Version")]
    made = f"{said.source_type or 'edited'} by {said.tool or 'an unnamed tool'}"
    return f"its metadata say {', '.join([made, *edit])}"


def _of_credentials(signed: Credentials | None) -> str:
    if signed is None:
        return "no Content Credentials"
    if not signed.valid:
        return "Content Credentials that do not hold"
    doubt = "" if signed.trusted else ", whom no list vouches for"
    return f"Content Credentials of {signed.issuer or 'an unnamed signer'}{doubt}"
