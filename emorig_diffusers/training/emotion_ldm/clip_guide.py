"""CLIP (Radford et al. 2021) as a guide: pictures and texts as vectors of one space, gradients to the pictures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ...data.dataset import DataError
from .clip_prompts import sentences, source_text, target_text


class ClipGuide(nn.Module):
    """A frozen CLIP with its tokenizer.

    Args:
        model: Of transformers.
        tokenizer: Its texts' own.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: CLIPModel, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        vision: Any = model.config.vision_config
        self.side = int(vision.image_size)
        self.register_buffer("mean", torch.tensor(OPENAI_CLIP_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(OPENAI_CLIP_STD).view(3, 1, 1))
        self.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(cls, name: str) -> ClipGuide:
        """A folder's, or the Hub's.

        Raises:
            DataError: Neither has a CLIP of that name.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)  # else it would ask at a terminal
            return cls(CLIPModel.from_pretrained(name), tokenizer)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            advice = "give a folder, or a name on the Hub."
            raise DataError(f"CLIP '{name}' cannot be opened ({reason}): {advice}") from error

    def pictures(self, pictures: Tensor) -> Tensor:
        """Unit vectors [B, D] of square pictures [B, 3, S, S] in [-1, 1]."""
        resized = F.interpolate((pictures + 1) / 2, (self.side, self.side), mode="bicubic", antialias=True)
        seen = self.model.vision_model(pixel_values=(resized - self.mean) / self.std).pooler_output
        return F.normalize(self.model.visual_projection(seen).float())

    @torch.no_grad()
    def texts(self, texts: Iterable[str]) -> Tensor:
        """Unit vectors [N, D] of texts."""
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(self.mean.device)
        read = self.model.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
        return F.normalize(self.model.text_projection(read).float())

    def direction(self, source: str | None, target: str) -> Tensor:
        """Unit vector [D] from what a face of the emotion `source` is called to the target's name: the mean over all
        sentences of their differences."""
        before, after = (self.texts(sentences(text)) for text in (source_text(source, target), target_text(target)))
        return F.normalize((after - before).mean(0), dim=0)


def picture_directions(after: Tensor, before: Tensor) -> Tensor:
    """How pictures changed [B, D], from their unit vectors; of length 1 if they did."""
    change = after - before
    return change / (change.norm(dim=1, keepdim=True) + LEAST_CHANGE)


LEAST_CHANGE = 1e-7  # of a picture's unit vector, so that no change has no direction
