"""Train the autoencoder of an emotion latent-diffusion model (VQGAN, Esser et al. 2021) on photos of faces.

    accelerate launch train/train_vq.py --config train/presets/ldm-tiny-vq.yaml --train_data_dir SHARDS
        --output_dir run-vq

SHARDS are what train/prepare.py wrote with `--crop landmarks`; bare photos are prepared first. The autoencoder learns
to draw its pictures again by their mean difference, by LPIPS, and against a network that tells its pictures from
photos. A run can be killed at any moment and continued with `--resume_from_checkpoint latest`; the result,
`output_dir/vqvae`, is what train/train_emotion_ldm.py takes as `--vqvae`.
"""

from __future__ import annotations

from emorig_diffusers.training.emotion_ldm.vq_trainer import VQRun, parse_args
from emorig_diffusers.training.trainer import start


def main() -> None:
    """Command line."""
    start(VQRun, parse_args(), "train_vq")


if __name__ == "__main__":
    main()
