"""Contact sheets: pictures in rows, each under its caption."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TILES = (256, 512)  # smallest and largest side of a picture on a sheet, px
CAPTION = 36  # height of a caption, px
GAP = 8  # between pictures, px


def cut_face(rgb: np.ndarray, box: tuple[float, float, float, float]) -> Image.Image:
    """The square 1.6 times a face's box (pixels), moved and shrunk to lie within a photo uint8 [H, W, 3]."""
    height, width = rgb.shape[:2]
    side = min(round(1.6 * max(box[2] - box[0], box[3] - box[1])), width, height)
    left = min(max(round((box[0] + box[2] - side) / 2), 0), width - side)
    top = min(max(round((box[1] + box[3] - side) / 2), 0), height - side)
    size = min(max(side, TILES[0]), TILES[1])
    face = Image.fromarray(rgb[top : top + side, left : left + side])
    return face.resize((size, size), Image.Resampling.LANCZOS)


def draw_rows(rows: list[list[tuple[str, Image.Image]]]) -> Image.Image:
    """A sheet of (caption, picture), row by row; all pictures become as large as the first."""
    size = rows[0][0][1].size
    step, down = size[0] + GAP, size[1] + CAPTION
    sheet = Image.new("RGB", (max(map(len, rows)) * step + GAP, len(rows) * down + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(CAPTION * 0.6)
    for row, pictures in enumerate(rows):
        for column, (caption, picture) in enumerate(pictures):
            x, y = GAP + column * step, row * down
            draw.text((x + size[0] / 2, y + CAPTION / 2), caption, "black", font, anchor="mm")
            tile = picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)
            sheet.paste(tile, (x, y + CAPTION))
    return sheet
