"""Networks that know the answer, for tests of what a prediction costs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def part(batch: Batch, *index: int) -> Batch:
    return {name: value[list(index)] for name, value in batch.items()}


class Oracle(nn.Module):
    """Knows x0 and says v or ε, plus an error; remembers what it was shown."""

    def __init__(self, clean: Tensor, alphas: Tensor, error: Tensor | float = 0.0, kind: str = "v_prediction") -> None:
        super().__init__()
        self.clean, self.alphas, self.error, self.kind = clean.double(), alphas.double(), error, kind
        self.shown: list[tuple] = []

    def forward(self, sample: Tensor, t: Tensor, code: Tensor | Batch, picture: Tensor | None) -> Tensor:
        self.shown.append((sample, t, code, picture))
        alpha, sigma = (v.sqrt()[:, None, None, None] for v in (self.alphas[t], 1 - self.alphas[t]))
        noise = (sample[:, :3].double() - alpha * self.clean) / sigma
        return ((noise if self.kind == "epsilon" else alpha * noise - sigma * self.clean) + self.error).float()
