"""What tests of the stages share: grids, plain skin, and faces whose units move."""

from __future__ import annotations

import numpy as np

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.painting.stages.flow import Warp

GRID, SIZE = 512, 256  # of motion, and of the network's crop, pixels
IDENTITY = np.eye(2, 3)  # a photo that is the grid
SKIN, HAIR = (205, 160, 135), (45, 32, 25)


def make_warp(pipe: EmoRigPipeline, face: EncodedFace, **units: float) -> Warp:
    target = pipe.edit_codes(face, action_units=units)
    return pipe.texture.warp(*(pipe.grid_vertices(face, c, GRID) for c in (face.codes, target)), GRID)
