"""Train a Diffusion Autoencoder (Preechakul et al. 2022) on shards that train/prepare.py wrote.

    accelerate launch train/train_diffae.py --config train/presets/diffae-tiny.yaml --train_data_dir SHARDS
        --output_dir run
    accelerate launch train/train_diffae.py --stage shape --config train/presets/diffae-shape.yaml
        --pretrained_model_name_or_path run-emotions/pipeline --train_data_dir SHARDS --output_dir run-shape

Stage `autoencoder` trains semantic encoder and UNet together. Stage `shape` goes on with the UNet of a pipeline that
has an emotion classifier, so that an edit of the emotion leaves the face's shape code β where it is. A run can be
killed at any moment and continued with `--resume_from_checkpoint latest`; the result is `output_dir/pipeline`.
"""

from __future__ import annotations

from emorig_diffusers.training.diffae.trainer import DiffAERun, parse_args
from emorig_diffusers.training.trainer import start


def main() -> None:
    """Command line."""
    start(DiffAERun, parse_args(), "diffae")


if __name__ == "__main__":
    main()
