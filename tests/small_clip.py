"""A CLIP for tests: a few thousand random weights, and a tokenizer that knows letters."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

WIDTH = 24  # of CLIP's space


def small_clip(folder: Path, side: int = 32) -> Path:
    """Save one that sees pictures of `side` pixels; the same numbers on every call."""
    folder.mkdir(parents=True)
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=shape | ends | {"vocab_size": len(words)}, projection_dim=WIDTH,
        vision_config=shape | {"image_size": side, "patch_size": 8},
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    return folder
