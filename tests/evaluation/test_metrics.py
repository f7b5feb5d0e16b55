"""The judges on real photos: two public-domain portraits that scikit-image and matplotlib carry."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from emorig_diffusers.evaluation.metrics import LPIPS, FerJudge, IdentityJudge
from emorig_diffusers.evaluation.metrics.identity import align_five_points
from emorig_diffusers.evaluation.metrics.perceptual import ArrayUnpickler
from emorig_diffusers.files.assets import ASSETS, AssetError, fetch
from emorig_diffusers.photo.faces import Face, find_faces

Portrait = tuple[np.ndarray, Face]


def _portrait(rgb: np.ndarray) -> Portrait:
    rgb = np.ascontiguousarray(rgb)
    return rgb, max(find_faces(rgb), key=lambda face: np.ptp(face.landmarks[:, 0]))


@pytest.fixture(scope="module")
def astronaut() -> Portrait:
    return _portrait(data.astronaut())


@pytest.fixture(scope="module")
def hopper() -> Portrait:
    path = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    return _portrait(np.asarray(Image.open(path).convert("RGB")))


@pytest.fixture(scope="module")
def emotion() -> FerJudge:
    return FerJudge()


@pytest.fixture(scope="module")
def identity() -> IdentityJudge:
    return IdentityJudge()


@pytest.fixture(scope="module", params=["alex", "vgg"])
def lpips(request: pytest.FixtureRequest) -> LPIPS:
    return LPIPS(request.param)


def _tensor(rgb: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None] / 127.5 - 1


FACE = _tensor(data.astronaut()[60:188, 160:288])  # [1, 3, 128, 128]


def test_a_smile_is_happy_and_a_calm_face_is_not(
    emotion: FerJudge, astronaut: Portrait, hopper: Portrait
) -> None:
    smile, calm = (emotion(rgb, face.box) for rgb, face in (astronaut, hopper))
    assert set(smile) == {"neutral", "happy", "sad", "surprise", "fear", "disgust", "anger"}
    for scores in (smile, calm):
        assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
    assert smile["happy"] > 0.9
    assert max(calm, key=calm.__getitem__) == "neutral"


def test_emotion_network_is_the_keras_network(emotion: FerJudge) -> None:
    # Probabilities of the stored Keras layer list, run layer by layer; wrong padding shifts them threefold.
    expected = [1.4722e-03, 2.1852e-13, 8.2553e-07, 2.4318e-04, 1.3046e-04, 9.9815e-01, 4.5928e-06]
    wave = torch.sin(torch.arange(4096.0) / 7).view(1, 1, 64, 64)
    assert emotion.network(wave).softmax(-1)[0].tolist() == pytest.approx(expected, rel=0.01)


def test_emotion_does_not_depend_on_the_photo_around_the_face(
    emotion: FerJudge, astronaut: Portrait
) -> None:
    rgb, face = astronaut
    wide = np.pad(rgb, ((40, 40), (70, 70), (0, 0)), mode="edge")
    moved = tuple(np.asarray(face.box) + (70, 40, 70, 40))
    assert emotion(wide, moved) == pytest.approx(emotion(rgb, face.box))


def test_a_face_cut_by_the_border_is_still_judged(emotion: FerJudge, astronaut: Portrait) -> None:
    rgb, face = astronaut
    x0, y0, x1, y1 = (round(float(v)) for v in face.box)
    tight = np.ascontiguousarray(rgb[y0:y1, x0:x1])
    assert emotion(tight, (0, 0, x1 - x0, y1 - y0))["happy"] > 0.5


@pytest.mark.parametrize(
    "box", [(50, 50, 50, 90), (-90, 0, -10, 80), (600, 0, 700, 90), (float("nan"), 0, 9, 9)]
)
def test_emotion_refuses_a_box_beside_the_photo(emotion: FerJudge, box: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="inside the picture"):
        emotion(data.astronaut(), box)


def test_judges_refuse_what_is_no_uint8_photo(
    emotion: FerJudge, identity: IdentityJudge, astronaut: Portrait
) -> None:
    rgb, face = astronaut
    with pytest.raises(ValueError, match="uint8"):
        emotion(rgb / 255, face.box)
    with pytest.raises(ValueError, match="uint8"):
        identity.embed(rgb[..., 0], face.landmarks)
    with pytest.raises(ValueError, match="landmarks"):
        identity.embed(rgb, face.landmarks[:68])


def test_identity_knows_the_person_again(
    identity: IdentityJudge, astronaut: Portrait, hopper: Portrait
) -> None:
    rgb, _ = astronaut
    brighter = np.clip(rgb * 1.25 + 15, 0, 255).astype(np.uint8)
    same = [identity.embed(p, f.landmarks) for p, f in map(_portrait, (rgb, rgb[:, ::-1], brighter))]
    other = identity.embed(hopper[0], hopper[1].landmarks)
    assert same[0].shape == (128,) and same[0].dtype == np.float32
    assert np.linalg.norm(same[0]) == pytest.approx(1, abs=1e-5)
    assert all(identity.similarity(same[0], e) > 0.6 for e in same[1:])
    assert all(identity.similarity(other, e) < 0.3 for e in same)


def test_identity_does_not_depend_on_the_photos_size(identity: IdentityJudge, astronaut: Portrait) -> None:
    rgb, face = astronaut
    big = np.asarray(Image.fromarray(rgb).resize((2048, 2048), Image.Resampling.BICUBIC))
    small, large = identity.embed(rgb, face.landmarks), identity.embed(big, face.landmarks * 4)
    assert identity.similarity(small, large) > 0.97


def test_alignment_puts_the_eyes_where_the_template_has_them() -> None:
    landmarks = np.zeros((478, 3))
    places = {33: (38.2946, 51.6963), 133: (38.2946, 51.6963), 362: (73.5318, 51.5014), 263: (73.5318, 51.5014),
              4: (56.0252, 71.7366), 61: (41.5493, 92.3655), 291: (70.7299, 92.2041)}  # fmt: skip
    for index, place in places.items():
        landmarks[index, :2] = np.array(place) + 0.5
    rgb = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    assert np.array_equal(align_five_points(rgb, landmarks), rgb)
    # A quarter turn of photo and landmarks is undone.
    turned = landmarks.copy()
    turned[:, 0], turned[:, 1] = landmarks[:, 1], 112 - landmarks[:, 0]
    assert np.array_equal(align_five_points(np.ascontiguousarray(np.rot90(rgb)), turned), rgb)


@pytest.mark.parametrize(("net", "expected"), [("alex", 0.2136), ("vgg", 0.3514)])
def test_lpips_values_are_those_of_the_original(net: str, expected: float) -> None:
    # Computed once with code and weights that give the published distances of LPIPS' own example pictures.
    assert LPIPS(net)(FACE, FACE.flip(-1)).item() == pytest.approx(expected, abs=1e-3)


def test_lpips_is_zero_on_equal_symmetric_and_grows_with_noise(lpips: LPIPS) -> None:
    noise = torch.randn(FACE.shape, generator=torch.Generator().manual_seed(0))
    noisy = torch.cat([(FACE + level * noise).clamp(-1, 1) for level in (0.0, 0.05, 0.15, 0.4)])
    clean = FACE.expand_as(noisy)
    there, back = lpips.distance(clean, noisy), lpips.distance(noisy, clean)
    assert there.shape == (4,) and there[0] == 0
    assert (there.diff() > 0.01).all()
    torch.testing.assert_close(there, back)


def test_lpips_gradient_leads_to_the_target() -> None:
    lpips = LPIPS("alex")
    guess = FACE.flip(-1).requires_grad_(True)
    before = lpips(guess, FACE).sum()
    (gradient,) = torch.autograd.grad(before, guess)
    with torch.no_grad():
        after = lpips(guess - 0.02 * gradient / gradient.abs().max(), FACE).sum()
    assert after < before
    assert not any(p.requires_grad for p in lpips.parameters())


def test_lpips_gradient_is_finite_on_a_flat_picture() -> None:
    flat = torch.full((1, 3, 64, 64), -1.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(LPIPS("alex")(flat, FACE[..., :64, :64]).sum(), flat)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_lpips_refuses_wrong_shapes_and_names() -> None:
    with pytest.raises(ValueError, match="alex"):
        LPIPS("squeeze")
    lpips = LPIPS("alex")
    for a, b in (
        (FACE, FACE[..., 1:]),
        (FACE[0], FACE[0]),
        (FACE[:, :1], FACE[:, :1]),
        (FACE[..., :16],) * 2,
    ):
        with pytest.raises(ValueError, match="B, 3, H, W"):
            lpips(a, b)


def test_lpips_converts_once_and_then_needs_no_pickle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = fetch("lpips_alex")
    expected = LPIPS("alex")(FACE, FACE.flip(-1))
    monkeypatch.setenv("EMORIG_CACHE", str(tmp_path))
    monkeypatch.setenv("EMORIG_OFFLINE", "1")
    place = ASSETS["lpips_alex"].cached
    place.parent.mkdir(parents=True)
    place.symlink_to(original)
    torch.testing.assert_close(LPIPS("alex")(FACE, FACE.flip(-1)), expected)
    place.unlink()
    assert [p.suffix for p in place.parent.iterdir()] == [".safetensors"]
    torch.testing.assert_close(LPIPS("alex")(FACE, FACE.flip(-1)), expected)


@pytest.mark.parametrize("judge", [FerJudge, IdentityJudge, LPIPS])
def test_missing_weights_are_said_in_one_sentence(
    judge: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMORIG_CACHE", str(tmp_path))
    monkeypatch.setenv("EMORIG_OFFLINE", "1")
    monkeypatch.setattr("sys.path", [])  # a package that happens to be installed would serve the file
    with pytest.raises(AssetError, match="emorig fetch"):
        judge()


class _Shell:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch emorig-was-here",)


def _as_numpy_1(value: object, protocol: int) -> io.BytesIO:
    """A pickle as numpy 1 wrote it (the weights' files are such); numpy 2 calls the module numpy._core."""
    return io.BytesIO(
        pickle.dumps(value, protocol).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    )


@pytest.mark.parametrize("protocol", [0, 2, 3])
def test_unpickler_runs_nothing(protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    evils = [_Shell(), {"a": [_Shell()]}]
    if protocol == 3:  # older protocols write an array's bytes as a call of _codecs.encode, refused before
        evils.append(np.array([_Shell()], object))
    for evil in evils:
        with pytest.raises(pickle.UnpicklingError, match="refused to load (posix|nt).system"):
            ArrayUnpickler(_as_numpy_1(evil, protocol)).load()
    with pytest.raises(pickle.UnpicklingError, match="refused"):
        ArrayUnpickler(_as_numpy_1(torch.zeros(1), protocol)).load()
    assert not list(tmp_path.iterdir())


def test_unpickler_reads_arrays() -> None:
    tree = {"layer": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}
    read = ArrayUnpickler(_as_numpy_1(tree, 3)).load()
    assert np.array_equal(read["layer"]["kernel"], tree["layer"]["kernel"])
