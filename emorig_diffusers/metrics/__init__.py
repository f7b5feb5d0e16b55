"""Metrics, one a file: how a result is judged."""

from emorig_diffusers.metrics.checks import MetricError
from emorig_diffusers.metrics.emotion import Judge, emotion_judge
from emorig_diffusers.metrics.face_api import FaceApiJudge
from emorig_diffusers.metrics.fer import FerJudge
from emorig_diffusers.metrics.hsemotion import HSEmotionJudge
from emorig_diffusers.metrics.identity import CosFaceJudge, IdentityJudge, identity_judge
from emorig_diffusers.metrics.perceptual import LPIPS
from emorig_diffusers.metrics.pixels import psnr, ssim

__all__ = [
    "LPIPS",
    "CosFaceJudge",
    "FaceApiJudge",
    "FerJudge",
    "HSEmotionJudge",
    "IdentityJudge",
    "Judge",
    "MetricError",
    "emotion_judge",
    "identity_judge",
    "psnr",
    "ssim",
]
