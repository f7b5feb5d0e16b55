"""Train the networks of EmoRigPipeline on shards that train/prepare.py wrote, or on photos, which are prepared first.

    accelerate launch train/train_rig.py --config train/presets/open-256.yaml --train_data_dir shards --output_dir run
    accelerate launch train/train_rig.py --stage album --pretrained_model_name_or_path run/pipeline
        --train_data_dir ALBUM --output_dir run-album

A preset sets any of the arguments; the command line wins. A run can be killed at any moment and continued with
`--resume_from_checkpoint latest`; the result is `output_dir/pipeline`.
"""

from __future__ import annotations

from emorig_diffusers.training.rig.trainer import RigRun, parse_args
from emorig_diffusers.training.trainer import start


def main() -> None:
    """Command line."""
    start(RigRun, parse_args(), "train_rig")


if __name__ == "__main__":
    main()
