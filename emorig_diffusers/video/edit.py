"""Change the emotion of faces in a clip, frame by frame: nothing holds more of its pictures than those of AHEAD
frames, and what was found in BEHIND."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..diffusion.sampling import Sampling
from ..evaluation.metrics.identity import IdentityJudge
from ..face.encode import EncodedFace
from ..models.occlusion import mouth_covered
from ..painting.base import PhotoEdits
from ..painting.photo_texture import PhotoTexturePainter
from ..painting.stages.face_light import lenses_worn
from ..photo.io import read_photo
from ..photo.masks import ramp
from ..pipelines.base import FacePipeline
from ..pipelines.checks import need
from ..pipelines.emorig import EmoRigPipeline
from ..pipelines.marking import edit_of
from ..pipelines.naming import naming_reference
from ..pipelines.request import EditRequest
from ..pipelines.steps import encode_references
from ..timing import timed
from .change import SPEECH_GOES, SYLLABLE, Change, speaking
from .clips import Frame
from .follow import Followed, People, Watched, ahead, follow, without_pixels
from .reading import Clip
from .survey import SAMPLE, Sighting, choose_people, find_rest, people_in_order, survey
from .teeth import TeethLights
from .workers import in_order

AHEAD, BEHIND = 12, 36  # frames after and before one that tell what to do in it: of those before, faces alone are kept
FADE = 0.25  # seconds in which an edit comes and goes with a face
SURE = 0.99  # likelihood from which a mouth is covered for what is drawn there, and shows nothing but its speech
LOOK_EVERY = 0.1  # seconds, less than passes from one look at what covers mouth or eyes to the next
SAME = 1e-6  # seconds by which times that are the same may differ when they are computed
COVERED = 0.2, 0.6  # share of the frames within FADE in which a mouth is covered, from which it is left alone little by
# little, and from which it is left alone: a frame or two may be mistaken
_LEFT_OUT = {"codes": "codes", "latents": "latents", "faces": "faces", "callback_on_step_end": "a callback"}
_BY_FRAME = ("rotate", "light_turn", "light_strength")  # what is added to each frame, and not to a person at rest


def edit_clip(pipe: FacePipeline, clip: Clip, seed: int = 0, **given: Any) -> Iterator[Frame]:
    """The frames of a clip with the edit that is asked for, one by one; those without a face are passed on as they are.

    Args:
        pipe: Any pipeline. Those with a head add to every frame what the edit changes of the person's rest, and keep
            speech and blinks; others edit frame by frame.
        clip: From `reading.open_clip`.
        seed: Of the noise, which is the same in all frames.
        given: Arguments of `FacePipeline.__call__`, of one photo and emotion.

    Raises:
        NoFaceError: There is no face in any frame, or not the one asked for.
        ValueError: As for a photo, or where something is asked that only a photo can have.
    """
    request = check_clip_request(pipe, given)
    people = People(IdentityJudge().embed)
    with timed("survey the clip"):
        found = survey(clip.sample(SAMPLE), people)
    numbers = {person: number for number, person in enumerate(people_in_order(found), 1)}
    if isinstance(request.edits, Mapping):
        chosen = [person for number in request.edits for person in choose_people(found, number) or ()]
    else:
        chosen = choose_people(found, request.face)
    found = {person: seen for person, seen in found.items() if chosen is None or person in chosen}
    headed = isinstance(pipe, EmoRigPipeline)
    editor = _Editor(pipe, request, seed, numbers) if headed else _ByFrame(pipe, request, seed)
    edit = edit_of(pipe, request)
    return (replace(frame, edit=edit) for frame in editor.frames(follow(clip.frames(), people), chosen, found))


def check_clip_request(pipe: FacePipeline, given: dict[str, Any]) -> EditRequest:
    """What is asked; ValueError for what cannot be done to a clip."""
    request = EditRequest(**pipe.defaults | given)
    pipe.check(request)
    for name, what in _LEFT_OUT.items():
        if given.get(name) is not None:
            raise ValueError(f"A clip cannot be given {what}: leave {name} out.")
    if isinstance(request.emotion, (list, tuple)):
        raise ValueError("A clip is given one emotion, or a blend of some.")
    if request.edits is not None:
        need(pipe, "head", "clip with several edits")
        lists = request.edits.values() if isinstance(request.edits, Mapping) else [request.edits]
        steps = [EditRequest(**step) for steps in lists for step in steps]
        if any(getattr(step, name) is not None for step in steps for name in _BY_FRAME):
            raise ValueError("Several edits of a clip change expressions: turn heads and light beside them.")
    if request.reference is not None and tuple(request.modes) != ("exp",):
        raise ValueError("A reference lends a clip its expression alone: leave modes out.")
    return request


class _Frames:
    """What all ways to edit frames share."""

    def __init__(self, pipe: Any, request: EditRequest, seed: int) -> None:
        self.pipe, self.request, self.seed = pipe, request, seed

    def frames(
        self, watched: Iterable[Watched], chosen: Sequence[int] | None, found: dict[int, list[Sighting]]
    ) -> Iterator[Frame]:
        """Edited frames, of the people chosen, or of all."""
        self.found = found
        taken: deque[Frame] = deque()

        def jobs() -> Iterator[Callable[[], np.ndarray]]:
            for now, around in ahead(watched, AHEAD, BEHIND, without_pixels):
                faces = [one for person, one in sorted(now.faces.items()) if chosen is None or person in chosen]
                shares = [presence(one, now, around) for one in faces]
                job: Callable[[], np.ndarray] = lambda rgb=now.frame.rgb: rgb
                if any(shares):
                    with torch.no_grad():
                        job = self.prepare(now, around, [(f, s) for f, s in zip(faces, shares) if s > 0])
                changed = [one.raw.landmarks for one, share in zip(faces, shares) if share > 0]
                taken.append(replace(now.frame, faces=changed))
                yield job

        for rgb in in_order(jobs(), self.pipe.device):
            yield replace(taken.popleft(), rgb=rgb)

    def prepare(
        self, now: Watched, around: Sequence[Watched], faces: Sequence[tuple[Followed, float]]
    ) -> Callable[[], np.ndarray]:
        """What draws a frame with faces edited, each to a share, whatever the others' state."""
        raise NotImplementedError

    def generator(self) -> torch.Generator:
        """The noise of every frame."""
        return torch.Generator().manual_seed(self.seed)


def presence(one: Followed, now: Watched, around: Sequence[Watched]) -> float:
    """Share of an edit, in [0, 1], of a face that may have come in the middle of a shot, or may soon go."""
    share = 1.0 if one.whole else float(ramp(now.seconds - one.start, 0, FADE))
    for later in around:
        if later.seconds > now.seconds and later.shot == now.shot:
            found = later.faces.get(one.person)
            if found is None or found.start != one.start:
                return min(share, float(ramp(later.seconds - now.seconds, 0, FADE)))
    return share


class _ByFrame(_Frames):
    """Pipelines without a head: every frame is a photo."""

    def prepare(
        self, now: Watched, around: Sequence[Watched], faces: Sequence[tuple[Followed, float]]
    ) -> Callable[[], np.ndarray]:
        rgb = now.frame.rgb
        for one, share in faces:
            changed = {"intensity": self.request.intensity * share, "faces": [one.face]}
            fixed = {"generator": self.generator(), "output_type": "np", "return_dict": True}
            rgb = self.pipe(rgb, **vars(self.request) | changed | fixed).images[0]
        return lambda: rgb  # frame by frame: a pipeline is called by one thread at a time


@dataclass
class _Person:
    """What is known of a person while a clip lasts, and of the light in a shot."""

    shape: Tensor
    blur: float
    grid: int
    change: Change
    shot: int = -1
    light: Tensor | None = None
    teeth: TeethLights = field(default_factory=TeethLights)


class _Editor(_Frames):
    """Pipelines with a head."""

    def __init__(self, pipe: EmoRigPipeline, request: EditRequest, seed: int, numbers: Mapping[int, int]) -> None:
        super().__init__(pipe, encode_references(pipe, request), seed)
        self.numbers = numbers
        self.people: dict[int, _Person] = {}
        self.covers, self.lenses = _Looks(mouth_covered), _Looks(lenses_worn)
        self.reference: tuple[np.ndarray, EncodedFace] | None = None
        if request.reference is not None:
            with naming_reference():
                rgb = read_photo(request.reference).rgb
                self.reference = rgb, pipe.encode(rgb, "largest", request.crop, request.target_encoder)[0]

    def prepare(
        self, now: Watched, around: Sequence[Watched], faces: Sequence[tuple[Followed, float]]
    ) -> Callable[[], np.ndarray]:
        encoded, targets, lights = [], [], []
        for one, share in faces:
            person = self._person(one, around)
            with timed("fit codes"):
                hidden, speech = self._hidden(one, now, around), self._speaking(one, now, around)
                face = self._encode(now, one, person)
            speaks, blind = speech if speech < SURE else 1.0, self._blind(one, now, around)
            shown = {"covered": hidden >= SURE, "speaks": speaks, "eyes_hidden": blind}
            encoded.append(replace(face, blur=person.blur, grid=person.grid, **shown))
            if isinstance(self.pipe.painter, PhotoTexturePainter):
                lights.append(person.teeth.at(self.pipe.painter, now.frame.rgb, encoded[-1], now.seconds))
            with timed("edit codes"):
                targets.append(person.change.codes(face, share, speech, hidden))
        edits = PhotoEdits(now.frame.rgb, encoded, [targets], self.request, self.reference, moving=True, lights=lights)
        return partial(self._draw, edits, self.pipe.sampling_of(replace(self.request, generator=self.generator())))

    @torch.no_grad()
    def _draw(self, edits: PhotoEdits, sampling: Sampling) -> np.ndarray:
        [painted] = self.pipe.painter.paint([edits], sampling)
        return painted.rgb

    def _person(self, one: Followed, around: Sequence[Watched]) -> _Person:
        """Whoever is seen first now is known by the frames that are at hand."""
        if one.person not in self.people:
            sightings = self.found.get(one.person) or [
                Sighting(item.frame.rgb, item.faces[one.person].raw) for item in around
                if one.person in item.faces and item.frame.rgb.size
            ]
            rest = find_rest(self.pipe, sightings)
            lent = self.reference and self.reference[1]
            number = self.numbers.get(one.person, 0)  # which edits are whose; none of whoever was not seen before
            face = replace(rest.face, face=replace(rest.face.face, index=number - 1))
            change = Change(self.pipe, face, self.request, lent)
            self.people[one.person] = _Person(rest.shape, rest.blur, rest.grid, change)
            self.found.pop(one.person, None)  # its pictures are needed no more
        return self.people[one.person]

    def _encode(self, now: Watched, one: Followed, person: _Person) -> EncodedFace:
        """The face of a frame; its light is that of the shot's first."""
        light = person.light if person.shot == now.shot else None
        if light is None:
            person.teeth = TeethLights()
        crop, encoder = self.request.crop, self.request.source_encoder
        face = self.pipe.encode_face(now.frame.rgb, one.face, crop, encoder, person.shape, light, covered=False)
        person.shot, person.light = now.shot, face.codes.light
        return face

    def _hidden(self, one: Followed, now: Watched, around: Sequence[Watched]) -> float:
        """How surely something is before the mouth, in [0, 1], changing over FADE."""
        if not self.pipe.painter.keeps_covered_mouths:
            return 0.0
        return float(ramp(self.covers.share(one, now, around), *COVERED))

    def _blind(self, one: Followed, now: Watched, around: Sequence[Watched]) -> bool:
        """Whether dark lenses hide the eyes, in most of the frames near by."""
        return self.lenses.share(one, now, around) > 0.5

    def _speaking(self, one: Followed, now: Watched, around: Sequence[Watched]) -> float:
        near = _near(one, now, around, SPEECH_GOES[1] + SYLLABLE)
        return speaking([(item.seconds - now.seconds, item.faces[one.person].lips) for item in near])


class _Looks:
    """What is asked of a face now and then, and may be mistaken in a frame or two.

    Args:
        ask: Of a frame uint8 [H, W, 3] and landmarks [478, 3]: whether something is so.
    """

    def __init__(self, ask: Callable[[np.ndarray, np.ndarray], bool]) -> None:
        self.ask = ask
        self.known: dict[int, dict[float, bool]] = {}

    def share(self, one: Followed, now: Watched, around: Sequence[Watched]) -> float:
        """Of the frames within FADE that were looked at, in how many it is so."""
        known = {t: found for t, found in self.known.get(one.person, {}).items() if t >= around[0].seconds}
        near = _near(one, now, around, FADE)
        for item in near:
            if item.frame.rgb.size and all(abs(item.seconds - time) > LOOK_EVERY + SAME for time in known):
                known[item.seconds] = self.ask(item.frame.rgb, item.faces[one.person].raw.landmarks)
        self.known[one.person] = known
        shown = [known[item.seconds] for item in near if item.seconds in known]
        return float(np.mean(shown)) if shown else 0.0


def _near(one: Followed, now: Watched, around: Sequence[Watched], seconds: float) -> list[Watched]:
    """Frames of one shot with a face, up to so many seconds before and after one."""
    return [
        item for item in around
        if item.shot == now.shot and one.person in item.faces and abs(item.seconds - now.seconds) <= seconds + SAME
    ]  # fmt: skip
