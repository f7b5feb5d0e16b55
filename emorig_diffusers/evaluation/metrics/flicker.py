"""How much an edited face flickers: what changes from frame to frame when the source's own motion is taken out."""

from __future__ import annotations

import cv2
import numpy as np

from ...photo.landmarks import MESH
from ...photo.masks import fill_polygon
from .checks import check_landmarks, check_pair


class FlickerMeter:
    """Mean change of a face from one frame to the next, of a source and its edit, along the source's optical flow
    (DIS; Kroeger, Timofte, Dai, Van Gool 2016). Give it frames in order."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._last: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(
        self, source: np.ndarray, edited: np.ndarray, landmarks: np.ndarray | None
    ) -> tuple[float, float] | None:
        """Changes of source and edit since the frame before.

        Args:
            source, edited: uint8 RGB [H, W, 3], of one size.
            landmarks: The source's face, MediaPipe's [468 or more, 2 or 3], pixels; `None` where there is none, or
                where a new shot begins.

        Returns:
            Mean absolute differences in grey levels, over the face; `None` where there is no face now or was none.

        Raises:
            ValueError: A picture is of another kind, sizes differ, or the landmarks are not MediaPipe's.
        """
        check_pair(source, edited, "Flicker")
        last, self._last = self._last, (source, edited)
        if landmarks is None:
            self._last = None
            return None
        check_landmarks(landmarks, "Flicker")
        if last is None or last[0].shape != source.shape:
            return None
        now, before = (cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) for rgb in (source, last[0]))
        flow = self._flow.calc(now, before, None)  # pyright: ignore[reportArgumentType, reportCallIssue]
        hull = cv2.convexHull(landmarks[:MESH, :2].astype(np.float32))[:, 0]
        face = fill_polygon(now.shape, hull)
        if not face.any():
            return None
        was, edit_was = (_moved(rgb, flow) for rgb in last)
        change = lambda a, b: float(cv2.absdiff(a, b)[face].mean())
        return change(source, was), change(edited, edit_was)


def _moved(rgb: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """A picture where a flow [H, W, 2] from the next one says that its pixels have gone."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(rgb, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
