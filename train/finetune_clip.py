"""Tune an emotion latent-diffusion model for one emotion, guided by CLIP (Pikoulis et al. 2023; Kim et al. 2022).

    accelerate launch train/finetune_clip.py --config train/presets/ldm-clip-lora.yaml --emotion happy
        --pretrained_model_name_or_path run-ldm/pipeline --train_data_dir SHARDS --output_dir run-happy

Photos are inverted once, under the emotions that SHARDS tell, and kept in `--latents_dir`, where the runs of all
emotions find them. A step draws the edit in few steps and follows its gradient through all of them. With
`--lora_rank 0` the whole UNet is tuned, as published, and the result is `output_dir/pipeline`; else a LoRA, and the
result is `output_dir/lora/<emotion>.safetensors`. `EmotionLDMPipeline.load_lora_weights` takes such files or folders of
them, and a pipeline's folder may have them in `lora/`: an edit towards an emotion then uses its LoRA by itself.
"""

from __future__ import annotations

from emorig_diffusers.training.emotion_ldm.clip_trainer import ClipRun, parse_args
from emorig_diffusers.training.trainer import start


def main() -> None:
    """Command line."""
    start(ClipRun, parse_args(), "finetune_clip")


if __name__ == "__main__":
    main()
