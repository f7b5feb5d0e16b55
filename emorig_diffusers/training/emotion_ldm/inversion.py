"""Latents of photos at noise level t0, inverted once under the emotions that the photos show, and kept in files.

They depend on the model and the photos, not on the emotion that a model is tuned for: all emotions share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from ...data.shards import CodeShards
from ...pipelines.emotion_ldm import EmotionLDMPipeline
from ..pictures import Pictures
from ..rows import Rows, fingerprint, keep_rows
from ..samplers import Item
from .latents import source_rows

BATCH = 16  # photos that the networks see at a time
FILE = 64  # photos a file: what an interrupted run does again at most


@dataclass(frozen=True)
class Inversion:
    """How photos are inverted.

    Attributes:
        steps: S.
        strength: t0.
        scale: γ.
    """

    steps: int
    strength: float
    scale: float


def invert_photos(
    pipe: EmotionLDMPipeline, shards: CodeShards, chosen: Sequence[int], how: Inversion, folder: Path,
    accelerator: Accelerator,
) -> Rows:  # fmt: skip
    """Invert some of the photos, or find them inverted; processes share the work.

    Args:
        pipe: On the accelerator's device.
        shards: Prepared photos, with emotions where they are known.
        chosen: Numbers of photos.
        how: Steps, noise level and guidance.
        folder: For a folder of what these latents depend on.

    Returns:
        Of each photo `noisy` [C, S', S'], and `clean` [3, S, S], what the autoencoder alone makes of it, float16 in
        about [-1, 1].

    Raises:
        DataError: The shards' pictures are too small, or the files cannot be written.
    """
    pictures = Pictures([shards], pipe.latents_side)
    sources = source_rows(pipe.emotion_names, shards.labels)
    networks = nn.ModuleList([pipe.vqvae, pipe.unet, pipe.emotion_embedding])
    chosen = [int(number) for number in chosen]
    schedule = [pipe.scheduler.config[key] for key in ("num_train_timesteps", "beta_start", "beta_end")]
    mark = fingerprint(networks, [shards], astuple(how), schedule, chosen)

    def invert(numbers: range) -> dict[str, Tensor]:
        parts = [[chosen[i] for i in some.tolist()] for some in torch.tensor(numbers).split(BATCH)]
        made = [_invert(pipe, torch.stack([pictures[i] for i in part]), sources[part], how) for part in parts]
        noisy, clean = (torch.cat(column) for column in zip(*made))
        return {"noisy": noisy, "clean": clean.half()}

    return keep_rows(folder / mark[:16], mark, len(chosen), invert, accelerator, "inversion", FILE)


@torch.no_grad()
def _invert(pipe: EmotionLDMPipeline, pictures: Tensor, sources: Tensor, how: Inversion) -> tuple[Tensor, Tensor]:
    """Latents at noise level t0 [B, C, S', S'] and reconstructions [B, 3, S, S], on the CPU."""
    network = pipe.vqvae
    latents = network.encode(pictures.to(network.device, network.dtype)).latents
    tokens = pipe.emotion_embedding.weight.detach()[sources.to(network.device)]
    return pipe.add_noise(latents, tokens, how.steps, how.strength, how.scale), pipe.decode(latents)


class InvertedPhotos(Dataset):
    """Some of the inverted photos.

    Args:
        rows: Of `invert_photos`.
        sources: Row of the table of emotions of each [N].
        places: Which of them.
    """

    def __init__(self, rows: Rows, sources: Tensor, places: range) -> None:
        self.rows, self.sources, self.places = rows, sources, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, item: Item) -> dict[str, Tensor]:
        """`noisy` [C, S', S'], `clean` [3, S, S] in float32 and the row `source` of the photo at (index, seed)."""
        place = self.places[item[0]]
        row = self.rows[place]
        return {"noisy": row["noisy"], "clean": row["clean"].float(), "source": self.sources[place]}
