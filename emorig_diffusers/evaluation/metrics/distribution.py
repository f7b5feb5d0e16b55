"""How far two sets of pictures are apart as sets: FID and KID, by torch-fidelity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...photo.io import read_photo
from .checks import MetricError

MINIMUM = {"fid": 2048, "kid": 100}
"""Pictures each set needs: FID's covariance of 2,048 features has full rank only then; KID is unbiased but noisy."""

_SUBSET = 1000  # pictures of one of KID's estimates
_NAMES = {"fid": "frechet_inception_distance", "kid": "kernel_inception_distance_mean"}


def fid(a: Sequence[str | Path], b: Sequence[str | Path]) -> float:
    """Fréchet inception distance (Heusel et al. 2017, arXiv:1706.08500, equation 6) of two sets of pictures.

    Args:
        a, b: files of pictures, at least 2,048 each.

    Returns:
        0 for equal sets, else more; comparable only between sets of about one number of pictures.

    Raises:
        MetricError: too few pictures, or torch-fidelity or its network is missing.
        ValueError: a file cannot be read as a picture.
    """
    return _figure("fid", a, b, {})


def kid(a: Sequence[str | Path], b: Sequence[str | Path]) -> float:
    """Kernel inception distance (Bińkowski et al. 2018, arXiv:1801.01401, section 4), the unbiased estimate.

    Args:
        a, b: files of pictures, at least 100 each; above 1,000 it is the mean of 100 subsets of 1,000.

    Returns:
        About 0 for sets of one kind, and a little below by chance.

    Raises:
        MetricError: too few pictures, or torch-fidelity or its network is missing.
        ValueError: a file cannot be read as a picture.
    """
    smaller = min(len(a), len(b))
    subsets = 1 if len(a) == len(b) and smaller <= _SUBSET else 100
    return _figure("kid", a, b, {"kid_subset_size": min(_SUBSET, smaller), "kid_subsets": subsets})


class Pictures(Dataset):
    """Files as uint8 [3, H, W], as torch-fidelity wants them."""

    def __init__(self, files: Sequence[str | Path]) -> None:
        self.files = [Path(file) for file in files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(read_photo(self.files[index]).rgb.copy()).permute(2, 0, 1)


def _figure(name: str, a: Sequence[str | Path], b: Sequence[str | Path], options: dict[str, Any]) -> float:
    least, fewest = MINIMUM[name], min(len(a), len(b))
    if fewest < least:
        raise MetricError(f"{name.upper()} needs at least {least:,} pictures in each set, not {fewest}.")
    calculate, sets = _torch_fidelity().calculate_metrics, [Pictures(files) for files in (a, b)]
    options |= {name: True, "cuda": torch.cuda.is_available(), "verbose": False}
    options["batch_size"] = 1  # pictures may differ in size; the network brings each to 299 pixels
    try:
        # save_cpu_ram: pictures are read here and not by processes forked beside the other networks' threads.
        return float(calculate(input1=sets[0], input2=sets[1], save_cpu_ram=True, **options)[_NAMES[name]])
    except OSError as error:  # URLError is one
        raise MetricError(
            f"torch-fidelity could not fetch its Inception network ({error}): run once while online."
        ) from error


def _torch_fidelity() -> ModuleType:
    try:
        import torch_fidelity  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
        raise MetricError(
            "FID and KID need torch-fidelity and a torchvision that fits the installed torch "
            f"({error}): pip install torch-fidelity."
        ) from error
    return torch_fidelity
