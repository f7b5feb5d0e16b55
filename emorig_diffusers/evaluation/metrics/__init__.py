"""Metrics, one a file: how a result is judged."""

from .checks import MetricError
from .emotion import Judge, emotion_judge
from .face_api import FaceApiJudge
from .fer import FerJudge
from .hsemotion import HSEmotionJudge
from .identity import CosFaceJudge, IdentityJudge, identity_judge
from .perceptual import LPIPS
from .pixels import psnr, ssim

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
