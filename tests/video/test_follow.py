"""Faces are followed from frame to frame, through cuts and pauses; what trembles is steadied, without lag."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import cv2
import numpy as np
import pytest
from made_clips import RATE

from emorig_diffusers.evaluation.metrics.identity import IdentityJudge
from emorig_diffusers.photo.faces import NoFaceError, find_faces
from emorig_diffusers.video.clips import Frame
from emorig_diffusers.video.edit import FADE, presence
from emorig_diffusers.video.follow import Followed, People, Watched, ahead, follow
from emorig_diffusers.video.steady import OneEuro, SteadyPoints
from emorig_diffusers.video.survey import choose_people, survey


@pytest.fixture(scope="module")
def people(astronaut: np.ndarray, hopper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The astronaut and Hopper, in pictures of one size."""
    shrink = lambda photo: cv2.resize(photo[:460, 80:400], (240, 345), interpolation=cv2.INTER_AREA)
    return shrink(astronaut), shrink(hopper)


def clip(*pictures: np.ndarray) -> Iterator[Frame]:
    return (Frame(rgb, Fraction(i, RATE)) for i, rgb in enumerate(pictures))


def watch(*pictures: np.ndarray) -> list[Watched]:
    return list(follow(clip(*pictures), People(IdentityJudge().embed)))


def test_cut_begins_a_shot_and_people_are_known_again(people: tuple[np.ndarray, np.ndarray]) -> None:
    one, other = people
    watched = watch(one, one, other, other, one, one)
    assert [now.shot for now in watched] == [0, 0, 1, 1, 2, 2]
    assert [list(now.faces) for now in watched] == [[0], [0], [1], [1], [0], [0]]
    assert all(face.whole for now in watched for face in now.faces.values())


def test_fast_motion_is_no_cut(people: tuple[np.ndarray, np.ndarray]) -> None:
    shifted = [np.roll(people[0], 12 * i, axis=1) for i in range(5)]
    assert {now.shot for now in watch(*shifted)} == {0}


def test_face_that_is_covered_for_a_while_is_the_same_person(people: tuple[np.ndarray, np.ndarray]) -> None:
    face = people[0]
    covered = face.copy()
    covered[45:150, 60:160] = (90, 80, 120)
    watched = watch(face, face, *[covered] * 5, *[face] * 5)
    assert [list(now.faces) for now in watched[:7]] == [[0], [0], *[[]] * 5]
    assert list(watched[-1].faces) == [0] and not watched[-1].faces[0].whole
    assert watched[-1].faces[0].start > 0.25


def test_face_that_is_missed_in_a_frame_or_two_is_where_it_must_be(
    people: tuple[np.ndarray, np.ndarray],
) -> None:
    face = people[0]
    flash = face.copy()
    flash[45:150, 60:160] = 255
    watched = watch(face, face, flash, flash, face, face, face, face)
    assert [list(now.faces) for now in watched] == [[0]] * 8
    assert all(now.faces[0].whole for now in watched)
    before, missed, after = (watched[i].faces[0].raw.landmarks for i in (1, 2, 4))
    assert np.allclose(missed, before + (after - before) / 3, atol=0.01)
    assert not np.array_equal(before, after)


def test_two_people_are_told_apart_and_counted_from_the_left(people: tuple[np.ndarray, np.ndarray]) -> None:
    both = np.hstack([people[1], people[0]])
    known = People(IdentityJudge().embed)
    found = survey(clip(both, people[0], people[0]), known)
    assert sorted(len(seen) for seen in found.values()) == [1, 3]
    hopper, astronaut = sorted(found, key=lambda person: len(found[person]))
    left, right = (choose_people(found, number) for number in (1, 2))
    assert sorted([left, right]) == sorted([[hopper], [astronaut]])
    assert choose_people(found, "largest") == [hopper] and choose_people(found, "all") is None
    with pytest.raises(NoFaceError, match="shows 2 people"):
        choose_people(found, 3)


def test_items_come_with_those_around_them() -> None:
    found = [(now, list(around)) for now, around in ahead(iter(range(6)), 2)]
    assert found == [
        (0, [0, 1, 2]), (1, [0, 1, 2, 3]), (2, [0, 1, 2, 3, 4]), (3, [1, 2, 3, 4, 5]), (4, [2, 3, 4, 5]), (5, [3, 4, 5])
    ]  # fmt: skip
    assert [list(around) for _, around in ahead(iter(range(2)), 5)] == [[0, 1], [0, 1]]
    used = [list(around) for _, around in ahead(iter([1, 2, 3, 4]), 1, 2, lambda item: -item)]
    assert used == [[1, 2], [-1, 2, 3], [-1, -2, 3, 4], [-2, -3, 4]]


def test_edit_comes_and_goes_with_a_face_that_does(astronaut: np.ndarray) -> None:
    [face] = find_faces(astronaut)

    def seen(times: Sequence[int], start: int, whole: bool) -> list[float]:
        faces = {0: Followed(face, face, 0, start / RATE, whole)}
        frames = [Frame(astronaut, Fraction(i, RATE)) for i in range(30)]
        watched = [Watched(f, 0, faces if i in times else {}) for i, f in enumerate(frames)]
        return [presence(faces[0], now, around) for now, around in ahead(watched, 12) if now.faces]

    comes = seen(range(10, 30), 10, False)
    assert comes[0] == 0 and comes[-1] == 1 and comes == sorted(comes)
    assert np.abs(np.diff(comes)).max() < 1.6 / (FADE * RATE)
    goes = seen(range(20), 0, True)
    assert goes[0] == 1 and goes[-1] < 0.1 and goes == sorted(goes, reverse=True)
    assert seen(range(30), 0, True) == [1.0] * 30


def test_filter_calms_what_stands_still_and_follows_what_moves() -> None:
    noise = np.random.default_rng(0).normal(0, 0.001, (60, 1, 2))
    still, ramp = OneEuro(1.0, 80.0), OneEuro(1.0, 80.0)
    calm = np.array([still(values, i / 30) for i, values in enumerate(noise)])
    assert np.abs(np.diff(calm, axis=0)).mean() < 0.4 * np.abs(np.diff(noise, axis=0)).mean()
    path = np.linspace(0, 2, 60)[:, None, None] * [1.0, 0.0]
    behind = [np.abs(ramp(values, i / 30) - values).max() for i, values in enumerate(path)]
    assert max(behind) < 0.02  # of a step of 0.034 a frame


def test_points_of_a_moving_face_are_as_steady_as_those_of_a_still_one(astronaut: np.ndarray) -> None:
    [face] = find_faces(astronaut)
    random, steady = np.random.default_rng(0), SteadyPoints()
    errors, raw = [], []
    for i in range(40):
        true = face.landmarks + [60 * np.sin(i / 8), 0, 0]
        noisy = true + random.normal(0, 0.3, true.shape)
        errors.append(steady(noisy, i / RATE) - true)
        raw.append(noisy - true)
    jump = lambda values: np.linalg.norm(np.diff(np.array(values)[5:, :, :2], axis=0), axis=-1).mean()
    assert jump(errors) < 0.45 * jump(raw)
    assert np.abs(np.mean(np.array(errors)[5:, :, :2], axis=1)).max() < 0.3  # pixels, of 7 a frame: hardly any lag
