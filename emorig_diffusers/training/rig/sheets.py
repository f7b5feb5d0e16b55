"""Pictures by which people judge a training run: always the same faces and seeds."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import default_collate

from ...diffusion.sampling import Sampling
from ...face.emotions import EMOTIONS
from ...painting.photo_texture import PhotoTexturePainter
from ...photo.faces import NoFaceError
from ...pipelines.emorig import EmoRigPipeline
from .objectives import repaint_inputs
from .windows import WindowData

SIDE = 192  # pixels of a cell
ROWS = 12  # in two stacks side by side


def emotion_grid(pipe: EmoRigPipeline, photos: list[np.ndarray]) -> Image.Image:
    """A row for each photo uint8 [H, W, 3]: the photo itself and the aligned crops of its eight emotions."""
    rows = []
    for photo in photos:
        try:
            edits = [pipe(photo, name, generator=torch.Generator().manual_seed(0)) for name in EMOTIONS]
        except NoFaceError:
            continue  # a training picture is tighter than a photo: now and then no face is found again
        source = pipe(photo, EMOTIONS[0], intensity=0.0).faces[0][0].crop
        cells = [source, *(e.faces[0][0].crop for e in edits)]
        rows.append(np.concatenate([np.asarray(c.resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for c in cells], 1))
    return Image.fromarray(np.concatenate(rows)) if rows else Image.new("RGB", (SIDE * 9, SIDE))


@torch.no_grad()
def repaint_sheet(pipe: EmoRigPipeline, data: WindowData) -> Image.Image:
    """Windows of real photo, base, painted in 1, 2 and 4 steps; the widest mouths first, at most ROWS photos."""
    order = np.argsort(-data.weights(), kind="stable")
    index = order[np.linspace(0, len(order) - 1, min(ROWS, len(order))).astype(int)]
    side = pipe.config.repaint_window[2]
    batch = default_collate([data.sample(int(i), int(i), augment=False, side=side) for i in index])
    base, conditions = repaint_inputs(batch)
    device, columns, painter = pipe.unet.device, [batch["photo"], base], PhotoTexturePainter(pipe)
    for steps in (1, 2, 4):
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(base.shape, generator=generator).to(device)
        sampling = Sampling(steps, generator)
        correction = painter.denoise(latents, conditions.to(device), batch["code"].to(device), sampling)[0]
        columns.append((base + correction.cpu() * batch["mask"]).clamp(-1, 1))
    stacks = [torch.cat(list(rows), 1) for rows in torch.cat(columns, 3).split(ROWS // 2)]
    stacks = [F.pad(stack, (0, 0, 0, stacks[0].shape[1] - stack.shape[1]), value=-1) for stack in stacks]
    return Image.fromarray(((torch.cat(stacks, 2) + 1) * 127.5).byte().permute(1, 2, 0).numpy())
