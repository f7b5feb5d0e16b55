"""How much an edited face flickers: what changes from frame to frame when the source's own motion is taken out."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ...photo.landmarks import MESH, OUTER_LIPS
from ...photo.masks import fill_polygon
from .checks import check_landmarks, check_pair


class FlickerMeter:
    """Mean change of a face from one frame to the next, of a source and its edit, along the source's optical flow
    (DIS; Kroeger, Timofte, Dai, Van Gool 2016). Give it frames in order."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._last: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(
        self, source: np.ndarray, edited: np.ndarray, landmarks: Sequence[np.ndarray] | None
    ) -> np.ndarray | None:
        """Changes since the frame before.

        Args:
            source, edited: uint8 RGB [H, W, 3], of one size.
            landmarks: The face in source and edit, MediaPipe's [468 or more, 2 or 3], pixels; `None` where there is
                none, or where a new shot begins.

        Returns:
            Mean absolute differences in grey levels: of the source and of the edit over the face, and the same over the
            face without the mouths of both, where speech uncovers teeth that no motion brings [2, 2]. `None` where
            there is no face now, or was none.

        Raises:
            ValueError: A picture is of another kind, sizes differ, or the landmarks are not MediaPipe's.
        """
        check_pair(source, edited, "Flicker")
        last, self._last = self._last, (source, edited)
        if landmarks is None:
            self._last = None
            return None
        for points in landmarks:
            check_landmarks(points, "Flicker")
        if last is None or last[0].shape != source.shape:
            return None
        now, before = (cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) for rgb in (source, last[0]))
        flow = self._flow.calc(now, before, None)  # pyright: ignore[reportArgumentType, reportCallIssue]
        hull = lambda points: cv2.convexHull(points[:, :2].astype(np.float32))[:, 0]
        face = fill_polygon(now.shape, hull(landmarks[0][:MESH]))
        mouth = np.any([fill_polygon(now.shape, hull(points[list(OUTER_LIPS)])) for points in landmarks], axis=0)
        if not (face & ~mouth).any():
            return None
        changes = [cv2.absdiff(rgb, _moved(was, flow)).mean(2) for rgb, was in zip((source, edited), last)]
        return np.array([[change[area].mean() for change in changes] for area in (face, face & ~mouth)])


def _moved(rgb: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """A picture where a flow [H, W, 2] from the next one says that its pixels have gone."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(rgb, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
