"""How tests compare pictures that were computed twice."""

from __future__ import annotations

from typing import Any

import numpy as np


def assert_close(made: Any, wanted: Any, levels: int = 1) -> None:
    """Pictures uint8, as arrays or PIL images, that differ by a grey level at most.

    What was computed on another way, in another batch or in another process need not be the same to the bit: matrix
    products sum in another order.
    """
    made, wanted = (np.asarray(picture).astype(int) for picture in (made, wanted))
    assert made.shape == wanted.shape
    assert np.abs(made - wanted).max() <= levels
