"""HSEmotion (Savchenko 2021, arXiv:2103.17107; 2022): EfficientNets that know AffectNet's emotions, Apache-2.0."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from emorig_diffusers.convert.files import ConvertError, load_exactly

from ...face.emotions import EMOTIONS
from ...files.assets import AssetError, cache_dir, offline
from ...files.atomic import write_atomically, write_file
from .checks import check_box
from .efficientnet import EfficientNet
from .modules import read_module

_UPSTREAM = "https://github.com/HSE-asavchenko/face-emotion-recognition/raw/main/models/affectnet_emotions/"
_CLASSES = ("anger", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise")  # alphabetical
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@dataclass(frozen=True)
class Model:
    """One of the published networks: its file's name, the EfficientNet, the side of its input in pixels, what it tells
    in the order of its outputs, and whether valence and arousal follow."""

    file: str
    size: str
    side: int
    classes: tuple[str, ...] = _CLASSES
    valence_arousal: bool = False


MODELS = {
    "enet_b2_7": Model("enet_b2_7", "b2", 260, tuple(name for name in _CLASSES if name != "contempt")),
    "enet_b0_8": Model("enet_b0_8_best_vgaf", "b0", 224),
    "enet_b0_8_va_mtl": Model("enet_b0_8_va_mtl", "b0", 224, valence_arousal=True),
}
"""The networks that `HSEmotionJudge` can be."""


class HSEmotionJudge:
    """Scores emotions as the hsemotion package does, in plain torch.

    It was trained on AffectNet: a method that was trained on the same labels, or against such a network, can score
    above real photos, so its figures belong beside those of real photos.

    Args:
        kind: one of MODELS.

    Raises:
        ValueError: another `kind`.
        AssetError: the weights are neither at hand nor to be had, or the file is not the network's.
    """

    def __init__(self, kind: str = "enet_b2_7") -> None:
        if kind not in MODELS:
            raise ValueError(f"There is no HSEmotion network {kind!r}: choose from {', '.join(MODELS)}.")
        self.model = MODELS[kind]
        self.name = f"HSEmotion {kind}"
        self.emotions = tuple(name for name in EMOTIONS if name in self.model.classes)
        self.network = _network(self.model)

    def __call__(self, rgb: np.ndarray, box: tuple[float, float, float, float]) -> dict[str, float]:
        """Probabilities of the emotions of one face.

        Args:
            rgb: uint8 [H, W, 3].
            box: the face's box (x0, y0, x1, y1) [pixels], cut at the picture's border and squeezed to a square, as
                the network's training faces were.

        Returns:
            Name -> probability, AffectNet's names; they sum to 1.

        Raises:
            ValueError: `rgb` is no uint8 RGB picture, or the box is empty or beside the picture.
        """
        logits = self._outputs(rgb, box)[: len(self.model.classes)]
        return dict(zip(self.model.classes, logits.softmax(0).tolist()))

    def valence_arousal(
        self, rgb: np.ndarray, box: tuple[float, float, float, float]
    ) -> tuple[float, float] | None:
        """(valence, arousal) in about [-1, 1] of a face as for a call; `None` if the network does not tell."""
        if not self.model.valence_arousal:
            return None
        valence, arousal = self._outputs(rgb, box)[-2:].tolist()
        return valence, arousal

    @torch.no_grad()
    def _outputs(self, rgb: np.ndarray, box: tuple[float, float, float, float]) -> Tensor:
        return self.network(face_tensor(rgb, box, self.model.side))[0]


def face_tensor(rgb: np.ndarray, box: tuple[float, float, float, float], side: int) -> Tensor:
    """The box's part of a picture as the networks want it: [1, 3, side, side], normalised as ImageNet's.

    Raises:
        ValueError: `rgb` is no uint8 RGB picture, or the box is empty or beside the picture.
    """
    check_box(rgb, box, "HSEmotionJudge")
    height, width = rgb.shape[:2]
    window = (max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height))
    face = Image.fromarray(rgb).resize((side, side), Image.Resampling.BILINEAR, box=window)
    pixels = torch.from_numpy(np.array(face)).permute(2, 0, 1) / 255
    return ((pixels - MEAN) / STD)[None]


# weights


def _network(model: Model) -> EfficientNet:
    """The network with its weights: converted ones from the cache, else converted into it."""
    network = EfficientNet(model.size, len(model.classes) + 2 * model.valence_arousal)
    converted = cache_dir() / "hsemotion" / f"{model.file}.safetensors"
    try:
        if converted.is_file():
            load_exactly(network, load_file(converted), converted)
        else:
            original = _original(model)
            load_exactly(network, _named(read_module(original)), original)
            _keep(network, converted, original)
    except ConvertError as error:
        raise AssetError(str(error)) from error
    return network.requires_grad_(False).eval()


def _named(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under our names: the last layer may lie in a Sequential."""
    return {name.replace("classifier.0.", "classifier."): tensor for name, tensor in tensors.items()}


def _original(model: Model) -> Path:
    """The published file: in our cache, in that of the hsemotion package, or fetched into ours."""
    file = f"{model.file}.pt"
    place = cache_dir() / "hsemotion" / file
    for path in (place, Path.home() / ".hsemotion" / file):
        if path.is_file():
            return path
    reason = "the offline switch (EMORIG_OFFLINE or HF_HUB_OFFLINE) is set" if offline() else _download(place)
    if reason:
        advice = f"put {_UPSTREAM}{file} at {place}."
        raise AssetError(f"HSEmotion's network '{model.file}' is missing ({reason}): {advice}")
    return place


def _download(place: Path) -> str:
    """Fetch the published file of that name; the reason where it cannot be had, else empty."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(_UPSTREAM + place.name, timeout=30) as response, write_atomically(place) as file:
            size = int(response.headers["Content-Length"] or 0) or None
            with tqdm.wrapattr(response, "read", total=size, desc=place.name, leave=False) as stream:
                while block := stream.read(1 << 20):
                    file.write(block)
    except (OSError, ValueError) as error:
        return f"{_UPSTREAM}{place.name} did not answer: {error}"
    return ""


def _keep(network: EfficientNet, converted: Path, original: Path) -> None:
    """Write the weights, and beside them what they were made of.

    Upstream publishes no checksum; the recorded one tells whether two reports used the same file.
    """
    with open(original, "rb") as file:
        made_of = {"file": original.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    # A cache that cannot be written only costs the conversion every time.
    with suppress(OSError):
        converted.parent.mkdir(parents=True, exist_ok=True)
        origin = {**made_of, "upstream": _UPSTREAM + original.name}
        write_file(converted.with_suffix(".json"), json.dumps(origin, indent=1).encode())
        write_file(converted, save(network.state_dict()))
