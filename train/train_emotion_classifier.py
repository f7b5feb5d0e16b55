"""Train the linear classifier of a Diffusion Autoencoder's codes, whose weights are the ways to the emotions.

    accelerate launch train/train_emotion_classifier.py --pretrained_model_name_or_path run/pipeline
        --train_data_dir SHARDS --output_dir run-emotions

SHARDS are labelled photos prepared by train/prepare.py: AffectNet's, or what train/paint_emotions.py makes. Two losses
are trained side by side on the same batches: 'bce' as published, every class for itself and unweighted, and 'softmax',
one of all, weighted by the classes' rarity. `output_dir/pipeline` is the given pipeline with the classifier of
`--loss`, the softmax's where both are trained. With `--attributes` the shards' ±1 attributes, such as CelebA's forty,
take the emotions' place, under 'bce' alone.
"""

from __future__ import annotations

from emorig_diffusers.training.diffae.classifier import ClassifierRun, parse_args
from emorig_diffusers.training.trainer import start


def main() -> None:
    """Command line."""
    start(ClassifierRun, parse_args(), "train_emotion_classifier")


if __name__ == "__main__":
    main()
