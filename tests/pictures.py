"""How tests compare pictures that were computed twice."""

from __future__ import annotations

from typing import Any

import numpy as np


def assert_close(made: Any, wanted: Any, levels: int = 1, share: float = 1e-4) -> None:
    """Pictures uint8, as arrays or PIL images, that differ by a grey level at most.

    What was computed in another way, in another batch or in another process need not be the same to the bit: matrix
    products sum in another order, and where a mask ends a pixel may fall to the other side.

    Args:
        levels: Grey levels.
        share: Of the pixels, may differ by more.
    """
    made, wanted = (np.asarray(picture).astype(int) for picture in (made, wanted))
    assert made.shape == wanted.shape
    assert (np.abs(made - wanted).reshape(*made.shape[:2], -1).max(-1) > levels).mean() <= share
