"""Which face is whose from frame to frame: by overlap, and by what a face looks like where one comes back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import cv2
import numpy as np

from ..photo.detectors import Box
from ..photo.faces import Face, find_faces, follow_face, glance, others_seen, still_seen
from ..photo.landmarks import lip_distance
from ..timing import timed
from .clips import Frame
from .steady import OneEuro, SteadyPoints

T = TypeVar("T")
Embed = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A photo uint8 [H, W, 3] and landmarks [478, 3] to a unit vector: SFace's, as `IdentityJudge.embed`."""
SAME_PERSON = 0.363  # cosine of SFace's vectors from which two faces are one person's: OpenCV's
SAME_PLACE = 0.5  # overlap of boxes, as a share of the smaller, from which a face is the one that was followed
LOOK_EVERY = 4  # frames from one look for other faces, and for what has come before followed ones, to the next
SEARCH_EVERY = 1.0  # seconds from one thorough search to the next while no face is seen
CUT_SIDE = 32  # pixels of the pictures by which cuts are told
CUT_CHANGE = 20.0  # mean change of saturation and value, of 255, from one frame to the next that a cut makes at least
CUT_COLOURS = 0.25  # share of those pictures' colours that are others after a cut: motion moves them about
CUT_BINS = 8, 4, 4  # of hue, saturation and value, in which colours are counted
MOST_MISSED = 3  # frames in a row in which a face may be missed, blurred or flashed over, and still be there
SCORE_FILTER = (1.5, 2.0, 2.0)  # of blendshape scores, as `steady.PLACE`, for each unit a second


@dataclass(frozen=True)
class Followed:
    """A face in a frame, as it was followed.

    Attributes:
        face: Its landmarks and scores, filtered over time.
        raw: As the networks see them in this frame.
        person: Whose it is, from 0.
        start: Time from which it has been seen without a break, seconds.
        whole: Whether it was there when the shot began.
    """

    face: Face
    raw: Face
    person: int
    start: float
    whole: bool

    @cached_property
    def lips(self) -> float:
        """How far they are apart: many frames ask each for it."""
        return lip_distance(self.face.landmarks)


@dataclass(frozen=True)
class Watched:
    """A frame, and the faces in it.

    Attributes:
        frame: The frame.
        shot: From 0; one more after every cut.
        faces: Person -> face.
    """

    frame: Frame
    shot: int
    faces: Mapping[int, Followed] = field(default_factory=dict)

    @cached_property
    def seconds(self) -> float:
        """Its time: fractions are exact, and slow where many frames are compared."""
        return float(self.frame.time)


class People:
    """Those who were seen so far, told apart by SFace.

    Args:
        embed: What tells.
    """

    def __init__(self, embed: Embed) -> None:
        self.embed = embed
        self._seen: list[list[np.ndarray]] = []

    def __len__(self) -> int:
        return len(self._seen)

    def recognise(self, rgb: np.ndarray, face: Face, there: Sequence[int] = ()) -> int:
        """The person with a face, none of those that are in the frame already; a new one where nobody is like."""
        vector = self.embed(rgb, face.landmarks)
        likeness = [-1.0 if i in there else float(np.mean(seen, 0) @ vector) for i, seen in enumerate(self._seen)]
        best = int(np.argmax(likeness)) if likeness else -1
        if best < 0 or likeness[best] < SAME_PERSON:
            self._seen.append([vector])
            return len(self._seen) - 1
        self._seen[best].append(vector)
        return best


def follow(frames: Iterable[Frame], people: People) -> Iterator[Watched]:
    """Frames with the faces in them, one by one, MOST_MISSED frames after they are taken."""
    return _bridged(_followed(frames, people))


def _bridged(watched: Iterable[Watched]) -> Iterator[Watched]:
    """Frames whose missed faces lie between those before and after."""
    waiting: list[Watched] = []
    for now in watched:
        for person, face in now.faces.items():
            _fill(waiting, person, face)
        waiting.append(now)
        if len(waiting) > MOST_MISSED + 1:
            yield waiting.pop(0)
    yield from waiting


def _fill(waiting: list[Watched], person: int, found: Followed) -> None:
    """Give the last frames the face that was missed in them, where it was found before and again now."""
    missed = 0
    while missed < len(waiting) and person not in waiting[-1 - missed].faces:
        missed += 1
    if not missed or missed == len(waiting) or waiting[-1 - missed].faces[person].start != found.start:
        return
    last = waiting[-1 - missed].faces[person]
    for i in range(missed):
        share, place = (i + 1) / (missed + 1), len(waiting) - missed + i
        mixed = replace(last, face=_mix(last.face, found.face, share), raw=_mix(last.raw, found.raw, share))
        waiting[place] = replace(waiting[place], faces={**waiting[place].faces, person: mixed})


def _mix(a: Face, b: Face, share: float) -> Face:
    """A face on the way from one to another."""
    mix = lambda x, y: (1 - share) * np.asarray(x, np.float32) + share * np.asarray(y, np.float32)
    x0, y0, x1, y1 = mix(a.box, b.box).tolist()
    landmarks, scores = mix(a.landmarks, b.landmarks), mix(a.blendshapes, b.blendshapes)
    return replace(a, box=(x0, y0, x1, y1), landmarks=landmarks, blendshapes=scores)


def _followed(frames: Iterable[Frame], people: People) -> Iterator[Watched]:
    shots, tracks = _Shots(), _Tracks(people)
    for frame in frames:
        if shots.cut(frame.rgb):
            tracks = _Tracks(people)
        with timed("follow faces"):
            faces = tracks.step(frame)
        yield Watched(frame, shots.number, faces)


class _Shots:
    """Tells cuts, by how much small pictures of frames differ."""

    def __init__(self) -> None:
        self.number = 0
        self._last: np.ndarray | None = None

    def cut(self, rgb: np.ndarray) -> bool:
        """Whether a frame begins a new shot."""
        small = cv2.resize(rgb, (CUT_SIDE, CUT_SIDE), interpolation=cv2.INTER_AREA)
        now, last = cv2.cvtColor(small, cv2.COLOR_RGB2HSV_FULL), self._last
        self._last = now
        if last is None:
            return False
        if cv2.absdiff(now, last)[..., 1:].mean() < CUT_CHANGE:
            return False
        count = lambda hsv: cv2.calcHist([hsv], [0, 1, 2], None, list(CUT_BINS), [0, 256] * 3) / hsv[..., 0].size
        new = bool(np.abs(count(now) - count(last)).sum() / 2 >= CUT_COLOURS)
        self.number += new
        return new


@dataclass
class _Track:
    """One face while it is followed."""

    face: Face
    start: float
    whole: bool
    landmarks: SteadyPoints = field(default_factory=SteadyPoints)
    scores: OneEuro = field(default_factory=lambda: OneEuro(*SCORE_FILTER))

    def filtered(self, time: float) -> Face:
        """Its face, steadied."""
        raw = self.face
        landmarks = self.landmarks(raw.landmarks, time).astype(np.float32)
        scores = self.scores(raw.blendshapes[:, None], time)[:, 0].astype(np.float32)
        return replace(raw, landmarks=landmarks, blendshapes=scores)


class _Tracks:
    """The faces of one shot."""

    def __init__(self, people: People) -> None:
        self.people = people
        self.tracks: dict[int, _Track] = {}
        self.lost: dict[int, tuple[_Track, int]] = {}  # with the number of the first frame without them
        self.count = 0
        self.searched = -np.inf

    def step(self, frame: Frame) -> dict[int, Followed]:
        """The faces of the next frame, by person."""
        rgb, time, look = frame.rgb, float(frame.time), self.count % LOOK_EVERY == 0
        boxes = glance(rgb) if look and self.tracks else None
        for person, track in list(self.tracks.items()):
            face = follow_face(rgb, track.face)
            if face is None or (look and not still_seen(rgb, face, boxes or ())) or self._taken(person, face):
                self.lost[person] = self.tracks.pop(person), self.count
                look = True
            else:
                track.face = face
        missed = any(self.count - since <= MOST_MISSED for _, since in self.lost.values())
        if (look or missed) and self._worth_a_search(rgb, time, boxes):
            self._search(rgb, time)
        self.count += 1
        return {
            person: Followed(track.filtered(time), track.face, person, track.start, track.whole)
            for person, track in self.tracks.items()
        }

    def _taken(self, person: int, face: Face) -> bool:
        """Whether another's track is on a face already: two that cross must not become one."""
        return any(_overlap(face, t.face) > SAME_PLACE for p, t in self.tracks.items() if p < person)

    def _worth_a_search(self, rgb: np.ndarray, time: float, boxes: Sequence[Box] | None) -> bool:
        """Whether there may be more faces than those that are followed; `boxes` of a glance where it was taken."""
        if not self.tracks and time - self.searched >= SEARCH_EVERY:
            return True
        boxes = glance(rgb) if boxes is None else boxes
        return others_seen(boxes, [track.face for track in self.tracks.values()])

    def _search(self, rgb: np.ndarray, time: float) -> None:
        """Look for all faces, and take up those that are not followed."""
        self.searched = time
        for face in find_faces(rgb):
            if all(_overlap(face, track.face) <= SAME_PLACE for track in self.tracks.values()):
                person = self.people.recognise(rgb, face, list(self.tracks))
                track, since = self.lost.pop(person, (None, 0))
                if track is None or self.count - since > MOST_MISSED:
                    track = _Track(face, time, self.count == 0)
                track.face = face
                self.tracks[person] = track


def _overlap(a: Face, b: Face) -> float:
    """Intersection of two boxes over the smaller."""
    (left, top), (right, bottom) = np.maximum(a.box[:2], b.box[:2]), np.minimum(a.box[2:], b.box[2:])
    area = lambda face: max((face.box[2] - face.box[0]) * (face.box[3] - face.box[1]), 1e-9)
    return float(max(right - left, 0) * max(bottom - top, 0) / min(area(a), area(b)))


def ahead(
    items: Iterable[T], count: int, past: int | None = None, done: Callable[[T], T] = lambda item: item
) -> Iterator[tuple[T, Sequence[T]]]:
    """Items, each with up to `past` of those before it, itself, and up to `count` after it.

    Args:
        items: In order.
        count: How far ahead they are taken.
        past: `None` for as many as `count`.
        done: What is kept of an item for those after it.
    """
    past = count if past is None else past
    window: deque[T] = deque()
    before = 0  # of the window, that come before the next one to give
    for item in items:
        window.append(item)
        if len(window) > before + count:
            yield window[before], tuple(window)
            before = _moved_on(window, before, past, done)
    while before < len(window):
        yield window[before], tuple(window)
        before = _moved_on(window, before, past, done)


def _moved_on(window: deque[T], before: int, past: int, done: Callable[[T], T]) -> int:
    """Where the next item to give is, once those that lie too far back are gone."""
    window[before] = done(window[before])
    if before == past:
        window.popleft()
        return before
    return before + 1


def without_pixels(watched: Watched) -> Watched:
    """What is kept of a frame that is drawn: pictures of large clips take most of the memory."""
    return replace(watched, frame=replace(watched.frame, rgb=np.empty((0, 0, 3), np.uint8)))
