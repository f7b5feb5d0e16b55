"""Train an EmocaEncoder: face codes from the photo in one pass, for the head of any pipeline.

    accelerate launch train/train_encoder.py --config train/presets/encoder-open.yaml --train_data_dir shards
        --validation_data_dir dev_shards --output_dir run

Photos teach it what the pipeline's own encoder read from them (codes in the shards), where their landmarks lie, what
they look like and what they feel like; drawn heads, whose codes are exact, teach it the expressions that photos lack.
"""

from __future__ import annotations

from emorig_diffusers.training.encoder.trainer import EncoderRun, parse_args
from emorig_diffusers.training.trainer import start


def main() -> None:
    """Command line."""
    start(EncoderRun, parse_args(), "train_encoder")


if __name__ == "__main__":
    main()
