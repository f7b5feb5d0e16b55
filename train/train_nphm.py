"""Train a neural parametric head (NPHM, Giebenhain et al. 2023) on scans, in two stages.

    accelerate launch train/train_nphm.py --config train/presets/nphm-tiny.yaml --train_data_dir SCANS/train
        --output_dir run
    accelerate launch train/train_nphm.py --config train/presets/nphm-tiny-expression.yaml --train_data_dir SCANS/train
        --pretrained_model_name_or_path run/head --output_dir run-expression

Stage `identity` learns people's canonical heads and a code for each, stage `expression` how expressions deform them.
SCANS is NPHM's data set, any folder of scans in its space, or what train/make_scans.py makes. The result is
`output_dir/head`; the codes of the people of training lie beside it in codes.safetensors and tell who they are. A run
can be killed at any moment and continued with `--resume_from_checkpoint latest`.
"""

from __future__ import annotations

from emorig_diffusers.training.nphm.trainer import NphmRun, parse_args
from emorig_diffusers.training.trainer import start


def main() -> None:
    """Command line."""
    start(NphmRun, parse_args(), "nphm")


if __name__ == "__main__":
    main()
