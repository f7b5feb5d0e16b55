"""Emotions on heads without named units: likeness, asymmetry, indifference to the target's frame, refusals."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from emorig_diffusers.face.emotions import EMOTIONS, RECIPES, emotion_offset
from emorig_diffusers.face.retarget import Retargeting, landmark_weights, retarget_emotions
from emorig_diffusers.models.head import HeadModel, rotation_matrix

CODES = 50
UNIT_SPREAD = 0.3  # of the open head's units, so that the mixed ones vary as FLAME's do
JAW_UNITS = ("jaw", "mouthClose", "tongue")  # FLAME's expressions do not open the mouth: its jaw does
FEELINGS = EMOTIONS[1:]


def changed(head: HeadModel, config: Mapping[str, object] | None = None, **tensors: Tensor) -> HeadModel:
    """A copy of a head with other tensors."""
    settings = {k: v for k, v in head.config.items() if not k.startswith("_")} | (config or {})
    copy = HeadModel(**settings)
    copy.load_state_dict({k: v.clone() for k, v in head.state_dict().items()} | tensors)
    return copy


@pytest.fixture(scope="module")
def nameless(head: HeadModel) -> HeadModel:
    """The open head as FLAME is: 50 components mixed at random, and only the jaw to open the mouth."""
    units = [i for i, n in enumerate(head.config.expression_names) if not n.startswith(JAW_UNITS)]
    generator = torch.Generator().manual_seed(0)
    mix = torch.linalg.qr(torch.randn(CODES, CODES, generator=generator))[0][:, : len(units)]
    basis = UNIT_SPREAD * torch.einsum("ku,uvc->kvc", mix, head.expression_basis[units])
    return changed(head, {"num_expression": CODES, "expression_names": ()}, expression_basis=basis)


@pytest.fixture(scope="module")
def codes(head: HeadModel, nameless: HeadModel) -> dict[str, list[float]]:
    return retarget_emotions(head, nameless)


def posed(head: HeadModel, code: list[float]) -> Tensor:
    """Displacements [V, 3] of a head under expression and jaw."""
    code = torch.tensor([code])
    size = head.config.num_expression
    pose = torch.cat([torch.zeros(1, 3), code[:, size:]], 1)
    shape = torch.zeros(1, head.config.num_shape)
    return (head(shape, code[:, :size], pose) - head(shape, 0 * code[:, :size]))[0]


def shown_by_source(head: HeadModel, emotion: str) -> Tensor:
    offset = emotion_offset(emotion, head.config.expression_names)
    return posed(head, [*offset.tolist(), 0.0, 0.0, 0.0])


def test_every_emotion_has_a_code(codes: dict[str, list[float]]) -> None:
    assert set(codes) == set(EMOTIONS)
    assert all(len(code) == CODES + 3 for code in codes.values())
    assert not any(codes["neutral"])
    for name in FEELINGS:
        code = torch.tensor(codes[name])
        assert code[:CODES].abs().max() <= 3 and 1 < code[:CODES].norm() < 6, name
        assert 0 <= code[CODES] < 0.4 and code[CODES + 1 :].abs().max() < 0.03, name
    assert codes["surprise"][CODES] > 0.1  # a dropped jaw


@pytest.mark.parametrize("emotion", FEELINGS)
def test_vertices_look_like_the_source(
    emotion: str, head: HeadModel, nameless: HeadModel, codes: dict[str, list[float]]
) -> None:
    skin = head.faces[head.face_part == 0].unique()  # the fit saw landmarks only
    wanted, found = shown_by_source(head, emotion)[skin], posed(nameless, codes[emotion])[skin]
    assert (found - wanted).norm() < 0.35 * wanted.norm()


def test_landmark_error_is_below_three_tenths(
    head: HeadModel, nameless: HeadModel, codes: dict[str, list[float]]
) -> None:
    fit = Retargeting(head, nameless)
    for name in FEELINGS:
        wanted = fit.wanted(emotion_offset(name, head.config.expression_names))
        error = wanted - fit.shown(torch.tensor(codes[name], dtype=torch.float64))
        rms = lambda x: float((fit.weight @ x.square().sum(1)).sqrt())
        assert rms(wanted) > 0.0015 and rms(error) < 0.3 * rms(wanted), name


def test_contempt_stays_on_its_side(head: HeadModel, nameless: HeadModel, codes: dict[str, list[float]]) -> None:
    corners = lambda motion: head.landmarks(motion[None])[0, [78, 308], 1]  # right, left
    wanted, found = corners(shown_by_source(head, "contempt")), corners(posed(nameless, codes["contempt"]))
    assert found[0] - found[1] > 0.005
    assert torch.allclose(found, wanted, atol=0.0005)


def test_frame_of_the_target_does_not_matter(
    head: HeadModel, nameless: HeadModel, codes: dict[str, list[float]]
) -> None:
    turn = 1.4 * rotation_matrix(torch.tensor([0.5, 0.0, 0.0])).T  # about x: the jaw's axes stay the head's
    moved = changed(
        nameless,
        template=nameless.template @ turn + torch.tensor([0.3, -0.2, 1.0]),
        expression_basis=nameless.expression_basis @ turn,
        shape_basis=nameless.shape_basis @ turn,
    )
    other = retarget_emotions(head, moved, {name: RECIPES[name] for name in ("surprise", "contempt")})
    for name in other:
        difference = torch.tensor(other[name]) - torch.tensor(codes[name])
        assert difference[: CODES + 1].abs().max() < 0.02, name


def test_ibug_points_alone_give_moderate_codes(head: HeadModel, nameless: HeadModel) -> None:
    inner = nameless.landmark68_bary.clone()
    inner[:17] = 0
    sparse = changed(nameless, landmark_weight=torch.zeros(478), landmark68_bary=inner)
    assert (landmark_weights(head, sparse) > 0).sum() == 51
    code = retarget_emotions(head, sparse, {name: RECIPES[name] for name in ("disgust", "fear", "surprise")})
    for name in ("disgust", "fear", "surprise"):
        wanted, found = shown_by_source(head, name), posed(nameless, code[name])
        assert torch.tensor(code[name][:CODES]).norm() < 6 and (found - wanted).norm() < 0.55 * wanted.norm(), name


def test_tolerance_and_intensity(head: HeadModel, nameless: HeadModel, codes: dict[str, list[float]]) -> None:
    size = lambda code: float(torch.tensor(code[:CODES]).norm())
    some = {"neutral": {}, "sad": {"AU15": 1.0, "AU1": 1.0}}
    loose, tight = (retarget_emotions(head, nameless, some, tolerance=t)["sad"] for t in (1e-3, 1e-4))
    assert 1.5 * size(loose) < size(tight)
    half = retarget_emotions(head, nameless, {"contempt": RECIPES["contempt"]}, intensity=0.5)
    assert list(half) == ["neutral", "contempt"]
    assert 0.4 < size(half["contempt"]) / size(codes["contempt"]) < 0.6
    assert not any(retarget_emotions(head, nameless, some, intensity=0)["sad"])


def test_irises_and_unplaced_points_do_not_count(head: HeadModel, nameless: HeadModel) -> None:
    placed = torch.ones(478)
    placed[[1, 4]] = 0
    weight = landmark_weights(head, changed(nameless, landmark_weight=placed))
    assert not weight[68 + 468 :].any() and not weight[[68 + 1, 68 + 4]].any() and weight[68 + 5] > 0
    assert weight[:17].max() < 0.1 < weight[17:68].min()


def test_refusals(head: HeadModel, nameless: HeadModel) -> None:
    bare = changed(nameless, landmark_weight=torch.zeros(478), landmark68_bary=torch.zeros(68, 3))
    with pytest.raises(ValueError, match="share 0 landmarks"):
        retarget_emotions(head, bare)
    with pytest.raises(ValueError, match="no named units"):
        retarget_emotions(nameless, head)
    with pytest.raises(ValueError, match="intensity must be"):
        retarget_emotions(head, nameless, intensity=2.0)
    with pytest.raises(ValueError, match="Unknown action unit 'AU99'"):
        retarget_emotions(head, nameless, {"odd": {"AU99": 1.0}})
