"""Train an emotion latent-diffusion model (Pikoulis et al. 2023) on labelled photos of faces.

    accelerate launch train/train_emotion_ldm.py --config train/presets/ldm-tiny.yaml --vqvae run-vq/vqvae
        --train_data_dir SHARDS --output_dir run

SHARDS are labelled photos that train/prepare.py wrote with `--crop landmarks` (AffectNet's, or what
train/paint_emotions.py makes); bare photos are prepared first, and photos without a label teach the null class alone.
Latents are computed once. A run can be killed at any moment and continued with `--resume_from_checkpoint latest`; the
result is `output_dir/pipeline`.
"""

from __future__ import annotations

from emorig_diffusers.training.emotion_ldm.trainer import LDMRun, parse_args
from emorig_diffusers.training.trainer import start


def main() -> None:
    """Command line."""
    start(LDMRun, parse_args(), "train_emotion_ldm")


if __name__ == "__main__":
    main()
