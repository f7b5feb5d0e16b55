"""LoRAs (Hu et al. 2021) of a pipeline's UNet, each tuned for one emotion and named after it.

They go with edits by themselves: the way back towards an emotion uses its LoRA, as far as the edit goes towards it, and
the way up, under what the face shows, uses none. So was each of them trained.
"""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LoraBaseMixin
from diffusers.utils import is_peft_available
from safetensors.torch import save
from torch import Tensor

from ..files.atomic import write_file
from ..hub.repository import HubMixin, fetch
from ..models.emotion_ldm import EmotionEmbedding

FOLDER = "lora"  # of a pipeline's folder: <emotion>.safetensors
ENDING = ".safetensors"
LEAST_SHARE = 1e-4  # of an emotion in an edit: less is rounding


class EmotionLoraMixin(LoraBaseMixin, HubMixin):
    """diffusers' calls for LoRAs: `load_lora_weights`, `set_adapters`, `disable_lora`, `unload_lora_weights` and so on.

    `set_adapters` says how strongly those it names are used, and leaves out the others.
    """

    emotion_embedding: EmotionEmbedding
    emotion_names: tuple[str, ...]
    unet: Any

    _lora_loadable_modules = ["unet"]
    _lora_strengths: Mapping[str, float] | None = None  # of those set_adapters named; None: all are used as trained
    _lora_on = True
    _lora_lock = threading.RLock()  # a UNet has one state for all threads

    # files

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """As `HubMixin.from_pretrained`; also loads the LoRAs in the folder's `lora/`."""
        folder = fetch(pretrained_model_name_or_path, **kwargs)
        pipe = super().from_pretrained(folder, **kwargs)
        pipe.register_to_config(_name_or_path=os.fspath(pretrained_model_name_or_path))
        if (Path(folder) / FOLDER).is_dir():
            pipe.load_lora_weights(Path(folder) / FOLDER)
        return pipe

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As `DiffusionPipeline.save_pretrained`; LoRAs go to `lora/`, the UNet stays as it is without them."""
        with self._lora_lock:
            names, lora = self.lora_names, Path(save_directory) / FOLDER
            if names:
                self.save_lora_weights(lora)
                self.unet.unload_lora()
            try:
                super().save_pretrained(save_directory, *args, **kwargs)
            finally:
                for name in names:
                    self._load(lora / f"{name}{ENDING}", name)

    def load_lora_weights(
        self, pretrained_model_name_or_path: str | os.PathLike, weight_name: str | None = None,
        adapter_name: str | None = None, **options: Any,
    ) -> None:  # fmt: skip
        """Load the LoRAs `<emotion>.safetensors` of a folder or a Hub repository, or a single file.

        Args:
            pretrained_model_name_or_path: Folder, file or Hub id.
            weight_name: The one file of the folder to load; `None` for all.
            adapter_name: The emotion of a single file that is called otherwise.
            options: For the Hub, as for `from_pretrained`.

        Raises:
            ValueError: There is no such file, it is of no emotion of this model, its emotion has a LoRA already, or
                peft is not installed.
        """
        place = Path(pretrained_model_name_or_path)
        if not place.is_file():
            place = Path(fetch(pretrained_model_name_or_path, **options))
            files = [place / weight_name] if weight_name else sorted(place.glob(f"*{ENDING}"))
        else:
            files = [place]
        if not files or not files[0].is_file():
            none = files[0] if files else place
            raise ValueError(f"{none} holds no LoRA: give <emotion>{ENDING}, or a folder of them.")
        if adapter_name and len(files) > 1:
            raise ValueError(f"{place} holds {len(files)} LoRAs: say which is {adapter_name}'s by weight_name.")
        _need_peft()
        names = [adapter_name or file.stem for file in files]
        for name, file in zip(names, files):
            if name not in self.emotion_names:
                raise ValueError(f"{file} is no LoRA of an emotion that this model knows: call it after one of "
                                 f"{', '.join(self.emotion_names)}, or give adapter_name.")  # fmt: skip
            if name in self.lora_names:
                raise ValueError(f"There is a LoRA for {name} already: delete_adapters({name!r}) first.")
        with self._lora_lock:
            for name, file in zip(names, files):
                self._load(file, name)
            strengths = self._lora_strengths
            self._lora_strengths = None if strengths is None else {**strengths, **dict.fromkeys(names, 1.0)}

    def save_lora_weights(self, save_directory: str | os.PathLike) -> None:  # type: ignore[override]
        """Write every LoRA into a folder, as `load_lora_weights` takes it."""
        from peft.utils import get_peft_model_state_dict

        Path(save_directory).mkdir(parents=True, exist_ok=True)
        for name in self.lora_names:
            state = {key: tensor.detach().cpu().contiguous()
                     for key, tensor in get_peft_model_state_dict(self.unet, adapter_name=name).items()}  # fmt: skip
            config = json.dumps(self.unet.peft_config[name].to_dict(), default=sorted, sort_keys=True)
            data = save(state, {"format": "pt", LORA_ADAPTER_METADATA_KEY: config})
            write_file(Path(save_directory) / f"{name}{ENDING}", data)

    def add_lora(self, emotion: str, rank: int, layers: Sequence[str]) -> None:
        """A new LoRA that changes nothing yet, active and with gradients, as training wants it.

        Args:
            emotion: Its name.
            rank: Of the changes of weight matrices.
            layers: Ends of the names of the UNet's layers that it changes.

        Raises:
            ValueError: peft is not installed.
        """
        _need_peft()
        from peft import LoraConfig

        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers))
        self.unet.add_adapter(config, emotion)

    def _load(self, file: Path, name: str) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several LoRAs are what is wanted
            self.unet.load_lora_adapter(str(file.parent), prefix=None, weight_name=file.name, adapter_name=name)
        self.unet.disable_lora()

    # use

    @property
    def lora_names(self) -> tuple[str, ...]:
        """Emotions that have a LoRA."""
        return tuple(getattr(self.unet, "peft_config", None) or ())

    def set_adapters(self, adapter_names: str | Sequence[str], adapter_weights: Any = None) -> None:  # type: ignore[override]
        """How strongly LoRAs are used, 1 as they were trained; those that are not named are not used.

        Raises:
            ValueError: There is no such LoRA, or another number of weights.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        weights = adapter_weights if isinstance(adapter_weights, (list, tuple)) else [adapter_weights] * len(names)
        if unknown := set(names) - set(self.lora_names):
            raise ValueError(f"There is no LoRA for {', '.join(sorted(unknown))}: load it first.")
        if len(weights) != len(names):
            raise ValueError(f"{len(names)} LoRAs have {len(weights)} weights: give one for each.")
        self._lora_strengths = {name: 1.0 if weight is None else float(weight) for name, weight in zip(names, weights)}

    def disable_lora(self) -> None:
        """Edit without LoRAs."""
        self._lora_on = False

    def enable_lora(self) -> None:
        """Edit with them again."""
        self._lora_on = True

    def unload_lora_weights(self) -> None:
        """Forget all LoRAs."""
        if self.lora_names:
            self.unet.unload_lora()
        self._lora_strengths = None

    def lora_weights(self, source: Tensor, token: Tensor) -> tuple[tuple[str, float], ...]:
        """(emotion, weight) of the LoRAs that go with an edit.

        Args:
            source: Token [1, D] of what a face shows.
            token: The one it is drawn under [1, D].
        """
        if not self._lora_on or not self.lora_names:
            return ()
        shares, strengths = self.emotion_embedding.shares(source, token), self._lora_strengths
        weights = {name: shares[name] * (1.0 if strengths is None else strengths.get(name, 0.0))
                   for name in self.lora_names}  # fmt: skip
        return tuple((name, round(weight, 4)) for name, weight in weights.items() if abs(weight) > LEAST_SHARE)

    @contextmanager
    def with_loras(self, weights: Sequence[tuple[str, float]] = ()) -> Iterator[None]:
        """The UNet with some of the LoRAs, or without any."""
        if not self.lora_names:
            yield
            return
        with self._lora_lock:
            if weights:
                self.unet.enable_lora()
                self.unet.set_adapters([name for name, _ in weights], [weight for _, weight in weights])
            try:
                yield
            finally:
                self.unet.disable_lora()


def _need_peft() -> None:
    if not is_peft_available():
        raise ValueError("LoRAs need the package peft: pip install 'emorig-diffusers[train]'.")
