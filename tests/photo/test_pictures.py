"""Photos become pictures as the networks' authors made theirs, against skimage, Pillow and FFHQ's recipe by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter1d
from skimage.transform import resize

from emorig_diffusers import DiffAEEmotionPipeline, EmoRigPipeline
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.painting.diffusion_rig import DiffusionRigPainter
from emorig_diffusers.photo.crops import IBUG68, ffhq_matrix, square_matrix
from emorig_diffusers.photo.faces import Face
from emorig_diffusers.photo.pictures import ALIGNED_SIDE, ffhq_picture, resize_pil, resize_skimage, take_picture
from emorig_diffusers.photo.resample import invert, transform_points, warp_crop

SIDE = 64


def decibels(picture: np.ndarray, wanted: np.ndarray) -> float:
    """Peak signal-to-noise ratio; equal pictures have 99."""
    error = np.square(picture.astype(float) - wanted).mean()
    return 10 * np.log10(255**2 / error) if error else 99.0


def assert_same(picture: np.ndarray, wanted: np.ndarray) -> None:
    """To a grey level, which few pixels are off."""
    assert picture.dtype == np.uint8 and picture.shape == wanted.shape
    assert np.abs(picture.astype(int) - wanted).max() <= 1
    assert decibels(picture, wanted) > 60


@pytest.fixture(scope="module")
def face(astronaut_face: EncodedFace) -> Face:
    return astronaut_face.face


@pytest.fixture(scope="module")
def points(face: Face) -> np.ndarray:
    """iBUG's 68 points of the astronaut [68, 2]."""
    return face.landmarks[list(IBUG68), :2].astype(np.float64)


# resizing


@pytest.mark.parametrize("side", [512, 200, 64, 50])
def test_skimages_resize_and_cut(astronaut: np.ndarray, side: int) -> None:
    """Smaller and larger than the photo, and as large, where the cut alone takes a level off some values."""
    photo = astronaut[:side, 100 : 100 + side]
    wanted = (resize(photo, (SIDE, SIDE), anti_aliasing=True) * 255.0).astype(np.uint8)
    assert_same(resize_skimage(photo, SIDE), wanted)
    rounded = np.rint(resize(photo, (SIDE, SIDE), anti_aliasing=True) * 255)
    assert -0.6 < (wanted - rounded).mean() < -0.01  # it is no rounding
    levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, 2)
    assert_same(resize_skimage(levels, 16), (resize(levels, (16, 16), anti_aliasing=True) * 255.0).astype(np.uint8))


def test_pillows_resize_and_the_middle(hopper: np.ndarray) -> None:
    """600 rows and 512 columns become 75 and 64; of the 11 rows too many 6 are above, or 6 of the columns left."""
    tall, wide = Image.fromarray(hopper), Image.fromarray(hopper.swapaxes(0, 1).copy())
    bilinear = Image.Resampling.BILINEAR
    assert_same(resize_pil(hopper, SIDE), np.asarray(tall.resize((64, 75), bilinear).crop((0, 6, 64, 70))))
    assert_same(resize_pil(np.asarray(wide), SIDE), np.asarray(wide.resize((75, 64), bilinear).crop((6, 0, 70, 64))))
    assert np.array_equal(resize_pil(hopper[:64, :64], SIDE), hopper[:64, :64])


# FFHQ's squares


def by_hand(photo: np.ndarray, points: np.ndarray, side: int) -> np.ndarray:
    """FFHQ's picture, stage by stage with plain arrays, from points that count from pixel centres."""
    eyes, mouth = points[36:48].reshape(2, 6, 2).mean(1), points[[48, 54]].mean(0)
    middle, across = eyes.mean(0), eyes[1] - eyes[0]
    down = mouth - middle
    x = across + np.array([down[1], -down[0]])
    x *= max(2 * np.linalg.norm(across), 1.8 * np.linalg.norm(down)) / np.linalg.norm(x)
    y = np.array([-x[1], x[0]])
    start, extent = middle + 0.1 * down - x - y, 2 * np.linalg.norm(x)
    times = int(extent // (2 * side))
    if times > 1:
        small = [round(length / times) for length in photo.shape[1::-1]]
        photo = np.asarray(Image.fromarray(photo).resize(small, Image.Resampling.LANCZOS))
        start, x, y, extent = start / times, x / times, y / times, extent / times
    corners = np.stack([start, start + 2 * x, start + 2 * y, start + 2 * x + 2 * y])
    margin = max(round(0.1 * extent), 3)
    first, last = np.floor(corners.min(0)).astype(int) - margin, np.ceil(corners.max(0)).astype(int) + margin
    size = np.array(photo.shape[1::-1])
    beyond = np.concatenate([np.maximum(-first, 0), np.maximum(last - size, 0)])
    left, top, right, bottom = np.maximum(beyond, round(0.3 * extent)) if beyond.max() > margin - 4 else 4 * [0]
    (x0, y0), (x1, y1) = np.maximum(first, 0), np.minimum(last, size)
    part = photo[y0:y1, x0:x1].astype(np.float64)
    for axis, (before, after) in enumerate(((top, bottom), (left, right))):
        length = part.shape[axis]
        there = np.abs((np.arange(-before, length + after) + length - 1) % (2 * length - 2) - (length - 1))
        part = part.take(there, axis)
    if left:
        columns, rows = (
            1 - np.minimum(np.arange(n) / before, np.arange(n)[::-1] / after)
            for n, before, after in ((part.shape[1], left, right), (part.shape[0], top, bottom))
        )
        beyond = np.maximum(columns[None], rows[:, None])[..., None]
        blurred = gaussian_filter1d(gaussian_filter1d(part, 0.02 * extent, 0), 0.02 * extent, 1)
        part = part + (blurred - part) * (3 * beyond + 1).clip(0, 1)
        part = part + (np.median(part, (0, 1)) - part) * beyond.clip(0, 1)
    image = Image.fromarray(np.rint(part).clip(0, 255).astype(np.uint8))
    origin = start + 0.5 - (x0, y0) + (left, top)
    affine = np.stack([2 * x / 4096, 2 * y / 4096, origin], 1).ravel().tolist()
    large = image.transform((4096, 4096), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    return np.asarray(large.resize((side, side), Image.Resampling.LANCZOS))


def test_a_face_inside_the_photo(astronaut: np.ndarray, points: np.ndarray) -> None:
    made = ffhq_picture(astronaut, points, 256)
    assert_same(made.pixels, by_hand(astronaut, points - 0.5, 256))
    np.testing.assert_allclose(made.matrix, ffhq_matrix(points, 256), atol=1e-9)
    assert made.own is None
    assert decibels(warp_crop(astronaut, made.matrix, 256), made.pixels) < 45  # by area: what this is for


def test_a_face_beyond_the_border(astronaut: np.ndarray, face: Face, points: np.ndarray) -> None:
    """The photo ends at brows and chin: it is continued by reflection, blurred."""
    low, high = points.min(0).astype(int), points.max(0).astype(int) + 1
    photo = astronaut[low[1] : high[1], low[0] : high[0]]
    made = ffhq_picture(photo, points - low, 256)
    assert_same(made.pixels, by_hand(photo, points - low - 0.5, 256))
    top = made.pixels[:40].astype(float)
    assert top.std(axis=(0, 1)).max() > 2 and np.abs(np.diff(top, axis=0)).max() < 20  # neither one colour nor edges
    places = transform_points(invert(made.matrix), np.stack(np.mgrid[:256, :256][::-1], -1) + 0.5)
    beyond = ((places < 0) | (places > photo.shape[1::-1])).any(-1)
    assert made.own.max() == 1 and made.own[beyond].max() < 0.05
    difference = np.abs(made.pixels - warp_crop(photo, made.matrix, 256).astype(float)).mean(-1)
    assert difference[made.own > 0.999].mean() < 3 and difference[~beyond & (made.own < 0.2)].mean() > 6
    assert take_picture(photo, "ffhq", face.landmarks - (*low, 0), SIDE, "pil").own.shape == (SIDE, SIDE)


def test_a_large_photo(astronaut: np.ndarray, points: np.ndarray) -> None:
    """It is shrunk three times first, by which the picture moves a little: its matrix says so."""
    photo = cv2.resize(astronaut[:256], None, fx=7, fy=7, interpolation=cv2.INTER_CUBIC)
    made = ffhq_picture(photo, 7 * points, 256)
    assert_same(made.pixels, by_hand(photo, 7 * points - 0.5, 256))
    assert np.abs(made.matrix - ffhq_matrix(7 * points, 256))[:, 2].max() > 0.05


@pytest.mark.parametrize("resampling", ["skimage", "pil"])
@pytest.mark.parametrize("frame", ["ffhq", "whole"])
def test_matrices_tell_where_the_pixels_are(frame: str, resampling: str) -> None:
    """A dot in a large photo that is not square."""
    photo, place = np.full((1500, 1301, 3), 40, np.uint8), np.array([700.0, 640.0])
    rows, columns = np.mgrid[:1500, :1301] + 0.5
    dot = np.exp(-((columns - place[0]) ** 2 + (rows - place[1]) ** 2) / (2 * 30**2))
    photo[..., 1] += np.rint(200 * dot).astype(np.uint8)
    landmarks = np.zeros((478, 3))
    landmarks[list(IBUG68), :2] = np.random.default_rng(0).normal(place, 180, (68, 2))
    landmarks[list(IBUG68[36:42]), :2], landmarks[list(IBUG68[42:48]), :2] = place - (140, 20), place + (150, 0)
    landmarks[list(IBUG68[48:55]), :2] = place + (-30, 330)
    made = take_picture(photo, frame, landmarks, 100, resampling)
    bright = (made.pixels[..., 1] - 39.0).clip(2) - 2  # nothing of the ground
    y, x = np.mgrid[:100, :100] + 0.5
    found = [(bright * at).sum() / bright.sum() for at in (x, y)]
    np.testing.assert_allclose(found, transform_points(made.matrix, place), atol=0.03)


# what pipelines do


def test_networks_squares(astronaut: np.ndarray, hopper: np.ndarray, face: Face, points: np.ndarray) -> None:
    """FFHQ's picture is of 256 pixels before it gets the network's size; others than FFHQ's have no other original."""
    aligned = ffhq_picture(astronaut, points, ALIGNED_SIDE).pixels
    resized = {"skimage": resize_skimage, "pil": resize_pil}
    for resampling, function in resized.items():
        made = take_picture(astronaut, "ffhq", face.landmarks, SIDE, resampling)
        assert np.array_equal(made.pixels, function(aligned, SIDE))
        np.testing.assert_allclose(made.matrix, ffhq_matrix(points, SIDE), atol=1e-9)
        own = take_picture(astronaut, "aligned", face.landmarks, SIDE, resampling)
        assert np.array_equal(own.pixels, take_picture(astronaut, "aligned", face.landmarks, SIDE).pixels)
    middle = take_picture(hopper, "whole", None, SIDE, "skimage")
    assert np.array_equal(middle.pixels, resize_skimage(hopper[44:556], SIDE))
    assert np.array_equal(middle.matrix, square_matrix(hopper.shape, SIDE))
    area = take_picture(astronaut, "ffhq", face.landmarks, SIDE)
    assert np.array_equal(area.pixels, warp_crop(astronaut, ffhq_matrix(points, SIDE), SIDE))


def test_a_pipeline_resamples_as_its_checkpoint_says(pipe: EmoRigPipeline, astronaut: np.ndarray, face: Face) -> None:
    published = EmoRigPipeline(pipe.head, pipe.encoder, crop="ffhq", crop_size=SIDE, resampling="skimage")
    found = published.encode_face(astronaut, face)
    wanted = take_picture(astronaut, "ffhq", face.landmarks, SIDE, "skimage")
    assert np.array_equal(found.picture.pixels, wanted.pixels)
    shown = DiffusionRigPainter(published).crop(astronaut, found)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(np.rint((shown + 1) * 127.5), wanted.pixels)
    np.testing.assert_allclose(found.grid_matrix(2 * SIDE), 2 * wanted.matrix)
    ours = EmoRigPipeline(pipe.head, pipe.encoder, crop="ffhq", crop_size=SIDE).encode_face(astronaut, face)
    assert ours.picture is None
    np.testing.assert_allclose(found.transform, ours.transform, atol=1e-5)
    assert EmoRigPipeline(pipe.head, pipe.encoder).config.resampling == "area"


def test_another_resampling_is_refused(pipe: EmoRigPipeline) -> None:
    with pytest.raises(ValueError, match="resampling is 'nearest': choose one of area, skimage, pil."):
        EmoRigPipeline(pipe.head, pipe.encoder, resampling="nearest")
    with pytest.raises(ValueError, match="rasterizer is 'opengl': choose one of exact, pytorch3d."):
        EmoRigPipeline(pipe.head, pipe.encoder, rasterizer="opengl")
    with pytest.raises(ValueError, match="resampling is 'nearest'"):
        DiffAEEmotionPipeline(None, None, None, resampling="nearest")
