"""Metrics, one a file: how a result is judged."""

from emorig_diffusers.metrics.emotion import EmotionJudge
from emorig_diffusers.metrics.identity import IdentityJudge
from emorig_diffusers.metrics.perceptual import LPIPS

__all__ = ["LPIPS", "EmotionJudge", "IdentityJudge"]
