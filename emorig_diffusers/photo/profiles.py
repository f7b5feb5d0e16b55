"""Colour profiles (ICC): kept where they describe the pixels, applied where pixels become of another kind."""

from __future__ import annotations

import io
from functools import cache

from PIL import Image, ImageChops, ImageCms

_SPACES = {"RGB": b"RGB ", "RGBA": b"RGB ", "CMYK": b"CMYK", "L": b"GRAY", "LA": b"GRAY", "I;16": b"GRAY"}
_SPACE = slice(16, 20)  # of a profile's header: the kind of colours that it describes
_MARK = slice(36, 40)  # always b"acsp"


def fits(profile: bytes | None, mode: str) -> bool:
    """Whether a profile describes pixels of a Pillow mode, as far as its header tells."""
    return bool(profile) and profile[_MARK] == b"acsp" and profile[_SPACE] == _SPACES.get(mode)


def cmyk_to_rgb(image: Image.Image) -> Image.Image:
    """A CMYK picture as sRGB, through its profile where it has one that works."""
    inks = image
    if image.format == "JPEG" and "adobe" not in image.info:
        inks = ImageChops.invert(image)  # Pillow takes every JPEG for Adobe's, which store inks inverted
    return _convert(inks, image.info.get("icc_profile")) or inks.convert("RGB")


def to_srgb(image: Image.Image) -> Image.Image:
    """A picture (L, LA, RGB or RGBA) in sRGB's colours without a profile; itself where it has none that works."""
    alpha = image.getchannel("A") if image.mode.endswith("A") else None
    colours = _convert(image.convert(image.mode.removesuffix("A")), image.info.get("icc_profile"))
    if colours is None:
        return image
    if alpha is not None:
        colours.putalpha(alpha)
    colours.info = {key: value for key, value in image.info.items() if key != "icc_profile"}
    return colours


def _convert(image: Image.Image, profile: bytes | None) -> Image.Image | None:
    if profile is None or not fits(profile, image.mode):
        return None
    try:
        return ImageCms.profileToProfile(image, io.BytesIO(profile), _srgb(), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):  # damaged, or of a kind that littleCMS does not know
        return None


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
