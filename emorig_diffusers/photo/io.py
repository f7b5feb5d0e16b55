"""Read any photo, write it back unchanged where nothing was edited.

Inside the package a photo is upright uint8 RGB [H, W, 3]. `Photo` remembers what came in, so that grey stays
grey, alpha and 16 bits stay, and every pixel nobody changed returns bit for bit.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import pi_heif
from PIL import Image, UnidentifiedImageError

from ..files.atomic import write_file
from .colour import LUMA
from .masks import any_channel
from .metadata import fits_place, read_metadata, save_options, turn_upright
from .profiles import cmyk_to_rgb, fits, to_srgb

if TYPE_CHECKING:
    import torch

pi_heif.register_heif_opener()  # from here on Pillow opens HEIC too

MAX_PIXELS = 100_000_000
"""Photos with more pixels are refused from their header, before anything is decoded."""
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF", "TIFF", "BMP", "GIF")
"""Pillow's names of what is read, whatever a file is called: of its others EPS would run Ghostscript, for one."""
MIN_SIDE = 20
"""Shortest side, in pixels, that is worth looking for a face in."""

PhotoSource: TypeAlias = "str | Path | Image.Image | np.ndarray | torch.Tensor | Photo"

_EDITABLE = ("RGB", "RGBA", "L", "LA", "I;16")
_JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0, "comment": None}  # else Pillow takes any from `.info`
_TIFF = {"format": "TIFF", "compression": "tiff_adobe_deflate"}
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {  # of photo_files.WRITABLE
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".jpe": _JPEG,
    ".jfif": _JPEG,
    ".png": {"format": "PNG", "compress_level": 4},  # a third of the default's time for 3 % more bytes
    ".webp": {"format": "WEBP", "lossless": True, "exact": True},
    ".avif": {"format": "AVIF", "quality": 95, "subsampling": "4:4:4"},
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".bmp": {"format": "BMP"},
}
_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF", "TIFF")  # a JPEG's further pictures are its camera's affair


class PhotoError(ValueError):
    """A photo cannot be read or written; the message says why in one sentence."""


@dataclass(frozen=True)
class Photo:
    """An upright photo.

    Attributes:
        rgb: uint8 [H, W, 3], what the package works on (16 bits rounded to 8). As far as pixels are see-through they
            have the colours around them, not those hidden below.
        original: the same pixels in the mode they came in (RGB, RGBA, L, LA or I;16), with what `read_metadata` found
            and a fitting ICC profile in `.info`.
    """

    rgb: np.ndarray
    original: Image.Image

    def restore(self, edited: np.ndarray) -> Image.Image:
        """Return `edited` (uint8 [H, W, 3]) in the original's mode, with its alpha, ICC profile and metadata.

        Every pixel equal to `rgb` keeps the original's value exactly, 16-bit values too. Edited grey pixels
        get the luma (ITU-R BT.601) of the edit.

        Raises:
            ValueError: `edited` has another shape or type than `rgb`.
        """
        if edited.shape != self.rgb.shape or edited.dtype != np.uint8:
            wanted, got = list(self.rgb.shape), list(edited.shape)
            raise ValueError(f"An edited photo must be uint8 {wanted}, got {edited.dtype} {got}.")
        pixels = np.array(self.original)
        rows = np.flatnonzero((edited != self.rgb).reshape(len(edited), -1).any(axis=1))
        if len(rows):  # only they are looked at closer: faces are a small part of large photos
            rows = slice(rows[0], rows[-1] + 1)
            self._restore(pixels[rows], self.rgb[rows], edited[rows])
        result = Image.fromarray(pixels)
        result.info = dict(self.original.info)
        return result

    def _restore(self, pixels: np.ndarray, rgb: np.ndarray, edited: np.ndarray) -> None:
        """Write edited pixels that differ from `rgb` into `pixels` of the original's mode."""
        changed = any_channel(edited != rgb)
        if self.original.mode.endswith("A"):
            changed &= pixels[:, :, -1] > 0
        if self.original.mode == "I;16":
            step = _luma(edited[changed]).astype(np.int32) - rgb[changed][:, 0]
            pixels[changed] = np.clip(pixels[changed].astype(np.int32) + 257 * step, 0, 65535)
        elif self.original.mode == "L":
            pixels[changed] = _luma(edited[changed])
        else:
            colours = len(self.original.getbands()) - self.original.mode.endswith("A")
            values = edited[changed] if colours == 3 else _luma(edited[changed])[:, None]
            pixels[changed, :colours] = values


def read_photo(source: PhotoSource) -> Photo:
    """Read a photo from a path, a PIL image, an array or a tensor; one that was read already is taken as it is.

    Args:
        source: a file of one of FORMATS (EXIF orientation is applied; of an animation the first frame is used),
            a PIL image, a numpy array [H, W], [H, W, 3] or [H, W, 4] (uint8, uint16 or float in [0, 1]), or a
            torch tensor [1|3|4, H, W] (uint8 or float in [0, 1]), or what this function returned.

    Palette, CMYK (through its profile) and other colour modes become RGB; 16-bit colour becomes 8 bits a channel.

    Raises:
        PhotoError: missing, empty, damaged, not a picture, too large (MAX_PIXELS), too small (MIN_SIDE), or
            an array of another shape, type or range.
    """
    if isinstance(source, Photo):
        return source
    if "torch" in sys.modules and isinstance(source, sys.modules["torch"].Tensor):
        image = _array_to_image(_tensor_to_array(cast("torch.Tensor", source)))
    elif isinstance(source, np.ndarray):
        image = _array_to_image(source)
    elif isinstance(source, Image.Image):
        with _saying("The picture"):
            image = _decode(source, "The picture")
    elif isinstance(source, str | Path):
        image = _open(Path(source))
    else:
        kind = type(source).__name__
        raise PhotoError(f"A photo must be a path, a PIL image, an array or a tensor, got {kind}.")
    return Photo(_rgb(image), image)


def count_frames(path: str | Path) -> int:
    """How many pictures an animation or a file of several pages holds; 1 for all else, and for what cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return getattr(image, "n_frames", 1) if image.format in _ANIMATED else 1
    except Exception:  # see `_saying`
        return 1


@contextmanager
def open_picture(file: Path | IO[bytes], what: str) -> Iterator[Image.Image]:
    """A picture of one of FORMATS as Pillow opens it, not yet decoded.

    Args:
        file: Its path, or its bytes.
        what: What it is, to begin a sentence with.

    Raises:
        PhotoError: It is none, it is damaged or too large; also for whatever Pillow raises while it is used.
    """
    with _saying(what), Image.open(file, formats=FORMATS) as image:
        yield image


def to_8_bits(image: Image.Image) -> Image.Image:
    """A grey picture of 16 bits rounded to 8, with its metadata; any other as it is."""
    if image.mode != "I;16":
        return image
    rounded = Image.fromarray(_to_8_bits(np.asarray(image)))
    rounded.info = image.info
    return rounded


def save_photo(
    image: Image.Image,
    path: str | Path,
    mark: bool = True,
    keep_metadata: bool = True,
    sign: Callable[[bytes, str, Any], bytes] | None = None,
) -> Path:
    """Write `image` to `path`, atomically; the suffix chooses the format, one of `photo_files.WRITABLE`.

    JPEG and AVIF are written at quality 95 without chroma subsampling, all others without loss; in JPEG and BMP alpha
    is laid over white.
    What `image.info` says (see `read_metadata`) is kept as far as the format has a place for it; so is a profile, where
    it fits the pixels; where it does not, they are converted to sRGB.

    A pipeline's result, whose `info["edit"]` is a `provenance.edits.Edit`, says in its XMP that it was edited, beside
    what the photo's own says, and its edited faces are marked in a way that is not seen.

    Args:
        image: The picture.
        path: The file.
        mark: Whether edited faces are marked.
        keep_metadata: Whether what the photo's file said is kept, besides its resolution and profile.
        sign: What puts a signature into a result: of the file's bytes, its suffix and the edit (`credentials.Signer`).

    Raises:
        PhotoError: unknown suffix, missing folder, or the file cannot be written; then a file that was there is as it
            was.
    """
    path = Path(path)
    options = _SAVE_OPTIONS.get(path.suffix.lower())
    if options is None:
        raise PhotoError(f"Cannot tell the format of '{path.name}': use {', '.join(_SAVE_OPTIONS)}.")
    if not path.parent.is_dir():
        raise PhotoError(f"The folder '{path.parent}' does not exist: create it first.")
    edit = image.info.get("edit")
    if not keep_metadata:
        image = _with_info(image, {key: image.info[key] for key in ("icc_profile", "dpi") if key in image.info})
    own = {}
    if edit is not None:
        own = {"xmp": edit.packet()}
        image = edit.marked(image) if mark else image
        both = {"xmp": edit.packet(image.info.get("xmp"))}
        image = _with_info(image, image.info | (both if fits_place(both["xmp"], options["format"]) else own))
    try:
        data = _encode(image, options, own)
    except (OSError, ValueError, SystemError, MemoryError) as error:  # such as a side that is too long for the format
        raise PhotoError(f"Cannot write '{path}': {' '.join(str(error).split())}.") from error
    if sign is not None and edit is not None:
        data = sign(data, path.suffix.lower(), edit)
    try:
        write_file(path, data)
    except OSError as error:
        raise PhotoError(f"Cannot write '{path}': {error.strerror or error}.") from error
    return path


def _with_info(image: Image.Image, info: dict[Any, Any]) -> Image.Image:
    """The same pixels with other metadata."""
    image = image.copy()
    image.info = info
    return image


def _encode(image: Image.Image, options: dict[str, Any], own: dict[str, bytes]) -> bytes:
    """A file's bytes; `own` is metadata that stays where the rest cannot be written."""
    fitted = _fit_format(image, options["format"])
    profile = fitted.info.get("icc_profile")
    profile = profile if fits(profile, fitted.mode) else None
    try:
        return _bytes(fitted, **options | save_options(image.info, options["format"]), icc_profile=profile)
    except Exception:  # what others wrote into a file's tags must not cost the picture
        return _bytes(fitted, **options | save_options(own, options["format"]), icc_profile=profile)


def _bytes(image: Image.Image, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, **options)
    return data.getvalue()


def _open(path: Path) -> Image.Image:
    if not path.is_file():
        raise PhotoError(f"There is no file '{path}'.")
    if path.stat().st_size == 0:
        raise PhotoError(f"The file '{path}' is empty.")
    with open_picture(path, f"The photo '{path}'") as image:
        return _decode(image, f"The photo '{path}'")


@contextmanager
def _saying(what: str) -> Iterator[None]:
    """PhotoError for whatever Pillow raises: damaged files make it stumble in two dozen ways."""
    try:
        yield
    except PhotoError:
        raise
    except UnidentifiedImageError as error:
        raise PhotoError(f"{what} is not a readable picture: use JPEG, PNG, WebP or HEIC.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoError(_too_large(what)) from error
    except MemoryError as error:
        raise PhotoError(f"{what} needs more memory than there is: make it smaller first.") from error
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise PhotoError(f"{what} cannot be opened: {error.strerror}.") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PhotoError(f"{what} is damaged ({reason}): the file may be cut off.") from error


def _decode(image: Image.Image, what: str) -> Image.Image:
    _check_size(image.width, image.height, what)
    image.load()
    turned = turn_upright(image)
    turned.format = image.format
    upright = _to_editable(turned)
    upright.info = {**read_metadata(image)}
    profile = image.info.get("icc_profile")
    if image.mode not in ("CMYK", "LAB") and fits(profile, upright.mode):  # those have become sRGB
        upright.info["icc_profile"] = profile
    return upright


def _check_size(width: int, height: int, what: str) -> None:
    if width * height > MAX_PIXELS:
        raise PhotoError(_too_large(what))
    if min(width, height) < MIN_SIDE:
        raise PhotoError(f"{what} is {width} x {height} pixels: at least {MIN_SIDE} a side are needed.")


def _too_large(what: str) -> str:
    return f"{what} has more than {MAX_PIXELS // 1_000_000} megapixels: make it smaller first."


def _to_editable(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise PhotoError("A grey picture with 32 bits a pixel cannot be read: save it with 8 or 16 bits.")
        return Image.fromarray(values.astype(np.uint16))
    if image.mode == "F":
        return _array_to_image(np.asarray(image))
    if image.mode == "CMYK":
        return cmyk_to_rgb(image)
    if "transparency" in image.info:
        return image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    if image.mode in _EDITABLE:
        return image.copy()
    return image.convert({"1": "L", "La": "LA", "PA": "RGBA", "RGBa": "RGBA"}.get(image.mode, "RGB"))


def _tensor_to_array(tensor: torch.Tensor) -> np.ndarray:
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        raise PhotoError(f"A photo tensor must be [3, H, W], got {list(tensor.shape)}.")
    tensor = tensor.detach().cpu()
    array = (tensor.float() if tensor.is_floating_point() else tensor).permute(1, 2, 0).numpy()
    return array[:, :, 0] if array.shape[2] == 1 else array


def _array_to_image(array: np.ndarray) -> Image.Image:
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise PhotoError(f"A photo array must be [H, W], [H, W, 3] or [H, W, 4], got {list(array.shape)}.")
    _check_size(array.shape[1], array.shape[0], "The picture")
    if np.issubdtype(array.dtype, np.floating):
        array = _float_to_uint8(array)
    elif array.dtype == np.uint16 and array.ndim == 3:
        array = _to_8_bits(array)
    elif array.dtype not in (np.uint8, np.uint16):
        raise PhotoError(f"A photo array must be uint8, uint16 or float in [0, 1], got {array.dtype}.")
    return Image.fromarray(np.ascontiguousarray(array))


def _float_to_uint8(array: np.ndarray) -> np.ndarray:
    if not np.isfinite(array).all():
        raise PhotoError("A photo array holds NaN or infinite values.")
    if array.min() < -1e-3 or array.max() > 1 + 1e-3:
        low, high = array.min(), array.max()
        raise PhotoError(f"A float photo array must lie in [0, 1], got [{low:.3g}, {high:.3g}]: rescale it.")
    return (np.clip(array, 0, 1) * 255 + 0.5).astype(np.uint8)


def _to_8_bits(array: np.ndarray) -> np.ndarray:
    return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "I;16":
        return np.repeat(_to_8_bits(np.asarray(image))[:, :, None], 3, axis=2)
    if image.mode.endswith("A"):
        image = _fill_hidden(image.convert("RGBA"))
    pixels = np.array(image)
    return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else np.ascontiguousarray(pixels[:, :, :3])


def _fill_hidden(image: Image.Image) -> Image.Image:
    """An RGBA picture whose see-through pixels take the colours around them, from ever coarser pictures."""
    alpha = image.getchannel("A")
    if alpha.getextrema() in ((255, 255), (0, 0)):
        return image
    half = image.resize([-(-side // 2) for side in image.size], Image.Resampling.BOX)  # weighed by alpha
    half.putalpha(half.getchannel("A").point([min(4 * share, 255) for share in range(256)]))
    filled = _fill_hidden(half).resize(image.size, Image.Resampling.BILINEAR)
    filled.alpha_composite(image)
    return filled


def _luma(rgb: np.ndarray) -> np.ndarray:
    return (rgb @ np.array(LUMA) + 0.5).astype(np.uint8)


def _fit_format(image: Image.Image, file_format: str) -> Image.Image:
    """The picture in a mode that a format has; in sRGB where its profile could not be written beside it."""
    info = image.info
    if file_format not in ("PNG", "TIFF"):
        image = to_8_bits(image)
    if file_format in ("JPEG", "BMP") and image.mode in ("LA", "RGBA"):
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        image = page.convert(image.mode[:-1])
    image.info = info
    if file_format == "BMP" or (file_format in ("WEBP", "AVIF") and image.mode in ("L", "LA")):
        return to_srgb(image)  # a BMP has no place for a profile, the others none for grey
    return image
