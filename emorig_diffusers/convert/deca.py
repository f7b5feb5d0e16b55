"""DECA's and EMOCA's checkpoints become EmocaEncoder and, where they have wrinkles, DetailModel.

DECA (Feng et al. 2021) is `deca_model.tar`: state dicts E_flame, E_detail, D_detail. EMOCA (Daněček et al. 2022) is a
folder with cfg.yaml and Lightning checkpoints, whose state dict has the same networks and E_expression under `deca.`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..files.folders import write_folder
from ..models.detail import EMOCA_MARGINS, UV_SIDE, DetailModel
from ..models.emoca import EXPRESSION_POSES, EmocaEncoder
from ..photo.io import PhotoError, open_picture
from .adm import filled
from .files import ConvertError, load_exactly, read_arrays, read_checkpoint

ENCODERS, DETAIL = ("E_flame", "E_expression"), ("E_detail", "D_detail")
BUFFERS = {"uv_face_eye_mask": "mask", "fixed_uv_dis": "fixed"}
"""Original buffer of the detail model -> ours."""
STAGES = ("detail", "coarse")
EMOCA_DETAIL = {"margins": EMOCA_MARGINS, "blended": False}
"""How EMOCA's makers put wrinkles on a head, also on DECA's as they packed it."""
DROPPED = (
    "flame", "flametex", "render", "uv_face_mask", "displacement_mask", "image_translator",
    "emonet_loss", "perceptual_loss", "id_loss", "vgg_loss", "au_loss", "lipread_loss", "emotion_mlp",
)  # fmt: skip
"""Parts of EMOCA's state dict that come from other files (head, renderer) or only served its training."""

_LAST_LAYER = "layers.2.weight"
_EXPRESSION = 50
_LEVELS_UP = 5  # from a checkpoint to the folder of cfg.yaml; its name can hold slashes

Networks = dict[str, dict[str, Tensor]]


def convert_deca(checkpoint: Path, out: Path, mask: Path | None = None, displacement: Path | None = None) -> Path:
    """Convert DECA's checkpoint.

    Args:
        checkpoint: deca_model.tar.
        out: New or empty folder for `EmocaEncoder.from_pretrained(out)`; the detail model, where the checkpoint has
            one, is `DetailModel.from_pretrained(out / "detail")` (not by `subfolder`: diffusers prefers out's weights).
        mask: DECA's uv_face_eye_mask.png; without it the predicted wrinkles count everywhere.
        displacement: DECA's fixed_displacement_256.npy; without it there is none.

    Returns:
        The folder.

    Raises:
        ConvertError: With one sentence; nothing is left behind.
    """
    return write_folder(Path(out), lambda part: _save(part, *read_deca(Path(checkpoint), mask, displacement)))


def read_deca(
    checkpoint: Path, mask: Path | None = None, displacement: Path | None = None
) -> tuple[EmocaEncoder, DetailModel | None]:
    """DECA's networks as this package's, in float32 and ready for inference; arguments and errors as `convert_deca`."""
    networks = {name: value for name, value in read_checkpoint(checkpoint).items() if _is_state_dict(value)}
    if "E_flame" not in networks:
        raise ConvertError(f"'{checkpoint}' has no E_flame and is no checkpoint of DECA: give its deca_model.tar.")
    known = ("E_flame", *DETAIL)
    strange = [name for name in networks if name not in known]
    if strange:
        raise ConvertError(
            f"'{checkpoint}' has a network {strange[0]}, which is none of DECA's {', '.join(known)}: give DECA's own "
            "deca_model.tar."
        )
    return _networks(checkpoint, networks, {}, "none", (mask, displacement), {})


def convert_emoca(
    folder: Path,
    out: Path,
    mode: str = "detail",
    mask: Path | None = None,
    displacement: Path | None = None,
    expression_pose: str | None = None,
) -> Path:
    """Convert a model of EMOCA, version 1 or 2, or of DECA as EMOCA's makers packed it.

    Args:
        folder: assets/EMOCA/models/NAME, which has cfg.yaml and `mode`/checkpoints/*.ckpt, of which the best is
            taken; or one .ckpt file.
        out: As for `convert_deca`.
        mode: Stage of the training, 'detail' or 'coarse'; a single file's folder says its own.
        mask, displacement: As for `convert_deca`, in place of the checkpoint's own.
        expression_pose: What of the pose the 53 outputs of such a checkpoint's E_expression hold, 'jaw' or 'global';
            `None` to read it from cfg.yaml.

    Returns:
        The folder.

    Raises:
        ConvertError: With one sentence; nothing is left behind.
        ImportError: If cfg.yaml is needed and pyyaml is not installed.
    """
    options = (mode, mask, displacement, expression_pose)
    return write_folder(Path(out), lambda part: _save(part, *read_emoca(Path(folder), *options)))


def read_emoca(
    folder: Path,
    mode: str = "detail",
    mask: Path | None = None,
    displacement: Path | None = None,
    expression_pose: str | None = None,
) -> tuple[EmocaEncoder, DetailModel | None]:
    """EMOCA's networks as this package's; arguments and errors as `convert_emoca`."""
    if mode not in STAGES:
        raise ConvertError(f"mode is {mode!r}: choose 'detail' or 'coarse'.")
    checkpoint = folder if folder.is_file() else best_checkpoint(folder, mode)
    networks, buffers = sort_tensors(checkpoint)
    named = [part for part in checkpoint.parts if part in STAGES]
    pose = _expression_pose(networks, checkpoint, named[-1] if named else mode, expression_pose)
    return _networks(checkpoint, networks, buffers, pose, (mask, displacement), EMOCA_DETAIL)


def best_checkpoint(folder: Path, mode: str) -> Path:
    """The checkpoint of the smallest loss, the number after the last '=' in its name, as EMOCA's own loader picks it.

    Raises:
        ConvertError: There is none, or several without a loss in their names.
    """
    place = folder / mode / "checkpoints"
    found = sorted(place.rglob("*.ckpt"))
    if not found:
        raise ConvertError(
            f"There is no checkpoint (*.ckpt) under '{place}': give the folder of one model, such as "
            "assets/EMOCA/models/EMOCA_v2_lr_mse_20, complete, or the mode that it has."
        )
    losses = [_loss(file) for file in found]
    ranked = [(loss, -i, file) for i, (loss, file) in enumerate(zip(losses, found)) if loss is not None]
    if not ranked and len(found) > 1:
        raise ConvertError(
            f"'{place}' has {len(found)} checkpoints without a loss in their names: give the file of one instead."
        )
    return min(ranked)[-1] if ranked else found[0]


def _loss(checkpoint: Path) -> float | None:
    """The number after the last '=' of a name such as "epoch=3-val_loss=1.5e-05.ckpt"; `None` for another text."""
    try:
        loss = float(checkpoint.stem.rpartition("=")[2])
    except ValueError:
        return None
    return None if math.isnan(loss) or "=" not in checkpoint.stem else loss


def sort_tensors(checkpoint: Path) -> tuple[Networks, dict[str, Tensor]]:
    """The networks of an EMOCA checkpoint, {network: {name: tensor}}, and the detail model's buffers.

    Raises:
        ConvertError: It cannot be read, is something else, or has a part that this converter does not know.
    """
    tensors = read_checkpoint(checkpoint).get("state_dict") or {}
    if not _is_state_dict(tensors) or not any(key.startswith("deca.E_flame.") for key in tensors):
        raise ConvertError(
            f"'{checkpoint}' has no state_dict with deca.E_flame and is no checkpoint of EMOCA: give a .ckpt of its "
            "models (DECA's own deca_model.tar is converted as DECA)."
        )
    networks: Networks = {}
    buffers = {}
    for key, tensor in tensors.items():
        part, _, name = key.removeprefix("deca.").partition(".")
        if part in (*ENCODERS, *DETAIL):
            networks.setdefault(part, {})[name] = tensor
        elif part in BUFFERS:
            buffers[BUFFERS[part]] = tensor
        elif part not in DROPPED:
            raise ConvertError(
                f"'{checkpoint}' has a tensor {key}, which is no part of EMOCA 1 or 2: only their models can be "
                "converted, not others of the same makers."
            )
    return networks, buffers


def _is_state_dict(value: Any) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(name, str) and isinstance(item, Tensor) for name, item in value.items())


# what of the pose E_expression replaces


def _expression_pose(networks: Networks, checkpoint: Path, mode: str, chosen: str | None) -> str:
    """One of EXPRESSION_POSES, from the number of E_expression's outputs and, where two have as many, the settings."""
    if "E_expression" not in networks:
        return "none"
    rows = networks["E_expression"].get(_LAST_LAYER, torch.zeros(0)).shape[:1].numel()
    fitting = [name for name, more in EXPRESSION_POSES.items() if rows == _EXPRESSION + more]
    if not fitting:
        raise ConvertError(
            f"E_expression in '{checkpoint}' has {rows} outputs, EMOCA's 50, 53 or 56: others are not supported."
        )
    if chosen is None:
        chosen = fitting[0] if len(fitting) == 1 else _read_flag(checkpoint, mode)
    if chosen not in fitting:
        raise ConvertError(
            f"expression_pose is {chosen!r}, but E_expression in '{checkpoint}' has {rows} outputs: choose "
            f"{' or '.join(map(repr, fitting))}, or leave it out."
        )
    return chosen


def _read_flag(checkpoint: Path, mode: str) -> str:
    """'jaw', 'global', 'both' or 'none', as the cfg.yaml of a checkpoint says."""
    file = next((place / "cfg.yaml" for place in _above(checkpoint) if (place / "cfg.yaml").is_file()), None)
    if file is None:
        raise ConvertError(
            f"E_expression in '{checkpoint}' has 53 outputs, and there is no cfg.yaml above it to tell whether these "
            "hold the jaw or the global pose: say expression_pose 'jaw' or 'global'."
        )
    settings = _read_yaml(file)
    settings = settings.get(mode, settings)
    model = settings.get("model") if isinstance(settings, dict) else None
    jaw, whole = (model.get(f"exp_deca_{name}_pose") if isinstance(model, dict) else None for name in ("jaw", "global"))
    if not isinstance(jaw, bool) or not isinstance(whole, bool):
        raise ConvertError(
            f"'{file}' does not say exp_deca_jaw_pose and exp_deca_global_pose of the {mode} model: say "
            "expression_pose 'jaw' or 'global'."
        )
    return {(True, False): "jaw", (False, True): "global", (True, True): "both"}.get((jaw, whole), "none")


def _above(checkpoint: Path) -> list[Path]:
    return list(checkpoint.absolute().parents)[:_LEVELS_UP]


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise ImportError(
            "Reading EMOCA's cfg.yaml needs pyyaml: install it, or say expression_pose 'jaw' or 'global'."
        ) from error
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        raise ConvertError(f"'{file}' is no plain YAML ({line}): say expression_pose 'jaw' or 'global'.") from error
    return settings if isinstance(settings, dict) else {}


# the networks


def _networks(
    file: Path,
    networks: Networks,
    buffers: Mapping[str, Tensor],
    expression_pose: str,
    maps: tuple[Path | None, Path | None],
    settings: dict[str, Any],
) -> tuple[EmocaEncoder, DetailModel | None]:
    """The encoder, and the detail model, with its settings, where the file has one."""
    detail = _detail(file, networks, buffers, maps, settings)
    config = {"expression_encoder": "E_expression" in networks, "expression_pose": expression_pose, "crop": "deca"}
    return filled(EmocaEncoder, config, _joined(networks, ENCODERS), file, "DECA and EMOCA"), detail


def _save(folder: Path, encoder: EmocaEncoder, detail: DetailModel | None) -> None:
    encoder.save_pretrained(folder)
    if detail is not None:
        detail.eval().save_pretrained(folder / "detail")


def _detail(
    file: Path,
    networks: Networks,
    buffers: Mapping[str, Tensor],
    maps: tuple[Path | None, Path | None],
    settings: dict[str, Any],
) -> DetailModel | None:
    there = [name for name in DETAIL if name in networks]
    if not there:
        if any(maps):
            raise ConvertError(f"'{file}' has no E_detail and D_detail: leave mask and displacement out.")
        return None
    if len(there) == 1:
        missing = next(name for name in DETAIL if name not in there)
        raise ConvertError(f"'{file}' has {there[0]} but no {missing}: give a model with both, or with neither.")
    mask, displacement = maps
    detail = DetailModel(**settings)
    own = {
        "mask": read_mask(mask) if mask else buffers.get("mask", detail.mask),
        "fixed": read_displacement(displacement) if displacement else buffers.get("fixed", detail.fixed),
    }
    if not own["fixed"].any():  # EMOCA fills a missing map with zeros of another size
        own["fixed"] = detail.fixed
    load_exactly(detail, _joined(networks, DETAIL) | own, file)
    return detail


def _joined(networks: Networks, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Tensors of networks under full names."""
    return {f"{name}.{key}": value for name in names for key, value in networks.get(name, {}).items()}


def read_mask(file: Path) -> Tensor:
    """A mask picture of DECA as [1, 1, 256, 256] in [0, 1]: its first channel, nearest neighbour."""
    try:
        with open_picture(file, f"'{file}'") as picture:
            values = np.array(picture, np.float32).reshape(picture.height, picture.width, -1)[..., 0] / 255
    except PhotoError as error:
        raise ConvertError(f"'{file}' cannot be read as a picture: give DECA's uv_face_eye_mask.png.") from error
    return F.interpolate(torch.from_numpy(values)[None, None], [UV_SIDE, UV_SIDE])


def read_displacement(file: Path) -> Tensor:
    """The fixed displacement of DECA [256, 256], metres."""
    values = list(read_arrays(Path(file)).values())
    if len(values) != 1 or np.shape(values[0]) != (UV_SIDE, UV_SIDE):
        raise ConvertError(f"'{file}' is no map of 256 x 256 numbers: give DECA's fixed_displacement_256.npy.")
    return torch.from_numpy(np.asarray(values[0], np.float32))
