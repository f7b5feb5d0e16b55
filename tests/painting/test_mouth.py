"""mouth.py: teeth of the right number and place, dark behind them, whatever the head's position."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d, label
from scipy.signal import find_peaks
from torch import Tensor

from emorig_diffusers import EmoRigPipeline, FaceCodes
from emorig_diffusers.face.emotions import action_unit_offset
from emorig_diffusers.painting.stages.mouth import DARK, LOWER, NARROW, UPPER, Mouth
from emorig_diffusers.render.camera import ndc_to_pixels, project

SIZE = 768


@pytest.fixture(scope="module")
def mouth(pipe: EmoRigPipeline) -> Mouth:
    return Mouth(pipe.head)


def posed(pipe: EmoRigPipeline, jaw: float = 0.0, turn: float = 0.0) -> Tensor:
    """Vertices [V, 3] of the mean head in pixels, about six a millimetre."""
    head = pipe.head
    expression = action_unit_offset({"jawOpen": jaw}, head.config.expression_names)[None]
    pose = torch.tensor([[0.0, turn, 0, 0, 0, 0]])
    camera = torch.tensor([[16.0, 0, 0.045]])
    codes = FaceCodes(torch.zeros(1, head.config.num_shape), expression, pose, camera, torch.zeros(1, 9, 3),
                      torch.zeros(1, 0))  # fmt: skip
    return ndc_to_pixels(project(pipe.pose_head(codes), codes.camera), SIZE)[0]


def scale(pixels: Tensor, pipe: EmoRigPipeline) -> float:
    """Pixels a millimetre."""
    span = lambda v: (v[:, 1].max() - v[:, 1].min()).item()
    return span(pixels) / span(pipe.head.template) / 1000


EVERYWHERE = np.ones((SIZE, SIZE), bool)


def lightness(albedo: np.ndarray) -> np.ndarray:
    return albedo @ np.float32([0.2, 0.5, 0.3])


def test_crowns_are_as_wide_as_the_tables_say(pipe: EmoRigPipeline, mouth: Mouth) -> None:
    pixels = posed(pipe)
    albedo, _ = mouth.draw(pixels, EVERYWHERE)
    unit = scale(pixels, pipe)
    tips = pipe.head.landmarks(pixels[None])[0, 13, :2]
    row = lightness(albedo)[int(tips[1] + (5.3 - 4.5) * unit)]  # half way up the incisors
    seams, _ = find_peaks(-gaussian_filter1d(row, 0.15 * unit), prominence=0.03)
    middle = np.argmin(np.abs(seams - SIZE / 2))
    assert abs(seams[middle] - SIZE / 2) < 0.3 * unit
    widths = np.diff(seams[middle - 2 : middle + 3]) / unit
    assert widths[1:3] == pytest.approx([NARROW * UPPER.widths[0]] * 2, rel=0.05)
    aslant = widths[[0, 3]] / UPPER.widths[1] / NARROW
    assert (aslant < 1).all() and (aslant > 0.8).all()


def test_the_lower_row_goes_with_the_jaw(pipe: EmoRigPipeline, mouth: Mouth) -> None:
    shut, opened = posed(pipe), posed(pipe, jaw=0.6)
    before, after = (lightness(mouth.draw(p, EVERYWHERE)[0])[:, SIZE // 2 + 12] for p in (shut, opened))
    runs = lambda column: label(column > 0.4)[1]
    assert runs(before) == 1  # the upper teeth cover the lower's edges
    assert runs(after) == 2
    gap = np.flatnonzero(after > 0.4)
    assert np.diff(gap).max() > 5 * scale(opened, pipe)  # millimetres between the rows


def test_between_the_rows_lies_the_dark(pipe: EmoRigPipeline, mouth: Mouth) -> None:
    albedo, depth = mouth.draw(posed(pipe, jaw=0.8), EVERYWHERE)
    light = lightness(albedo)
    assert light.min() > 0.5 * lightness(DARK) and light.max() < 1
    teeth, tongue = light > 0.45, (albedo[..., 0] > 2 * albedo[..., 1]) & (light < 0.3) & (light > 0.08)
    assert teeth.any() and tongue.any()
    assert np.isfinite(depth).all()


def test_a_turned_head_turns_its_teeth(pipe: EmoRigPipeline, mouth: Mouth) -> None:
    front, side = (mouth.draw(posed(pipe, turn=turn), EVERYWHERE)[0] for turn in (0.0, 0.6))
    x = np.arange(SIZE) - SIZE / 2
    centre = lambda albedo: (x * (lightness(albedo) > 0.45).sum(0)).sum() / (lightness(albedo) > 0.45).sum()
    assert abs(centre(front)) < 2
    assert abs(centre(side)) > 10


def test_only_the_mouth_is_drawn(pipe: EmoRigPipeline, mouth: Mouth) -> None:
    pixels, place = posed(pipe, jaw=0.3), np.zeros((SIZE, SIZE), bool)
    lips = pipe.head.landmarks(pixels[None])[0, [13, 14], :2].mean(0).int().tolist()
    place[lips[1] - 20 : lips[1] + 20, lips[0] - 50 : lips[0] + 50] = True
    albedo, depth = mouth.draw(pixels, place)
    whole, far = mouth.draw(pixels, EVERYWHERE)
    assert not albedo[~place].any() and not depth[~place].any()
    assert np.abs(albedo - whole)[place].max() < 1e-4 and np.abs(depth - far)[place].mean() < 0.1
    blank, none = mouth.draw(pixels, np.zeros_like(place))
    assert not blank.any() and not none.any()


def test_arches_are_the_head_s_own_size(mouth: Mouth) -> None:
    for arch, strip in ((LOWER, mouth.strips[1]), (UPPER, mouth.strips[2])):
        assert len(arch.widths) == len(arch.heights) == len(arch.rise)
        assert np.ptp(strip.points[:, 0]) == pytest.approx(0.054)
        length = np.ptp(strip.chart[:, 0])  # along the arch, millimetres
        assert 54 < length < 2.2 * sum(arch.widths)


def test_no_dark_is_seen_below_the_tip_of_the_tongue(mouth: Mouth) -> None:
    tongue, lower, _ = mouth.strips
    tip = tongue.points[tongue.chart[:, 1] == 0]
    edge = mouth._edge(LOWER)[1]
    assert len(tip) and tip[:, 1].max() < edge - 0.001 and lower.points[:, 1].max() > edge
