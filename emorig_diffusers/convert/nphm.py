"""Checkpoints of NPHM (Giebenhain et al. 2023) become a NeuralHeadModel: networks and statistics, never people's codes.

`checkpoint_epoch_N.tar` of the identity network (`ensembled_deep_sdf.*`, `mlp_pos.*`) and of the expression network
(`compressor.0.*`, `defDeepSDF.*`) are torch's files. They hold a code of every person and scan they were trained on,
which describe real faces: of these only mean and deviation are taken, and only where they are of many.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..files.folders import write_folder
from ..models.nphm import NeuralHeadModel
from .files import ConvertError, load_exactly, read_arrays, read_checkpoint

SYSTEM = "NPHM"
BROUGHT = (
    "The weights come from NPHM, trained on the NPHM data set, which is for research only; no licence is stated for "
    "the weights themselves"
)
PAIRS, MIDDLE = 16, 7  # of its anchors
BLEND_EPSILON = 1e-6  # added to the sum of weights
FEWEST = 20  # codes whose mean and deviation tell nothing of any one person

State = dict[str, Tensor]


def convert_nphm(
    identity: Path,
    out: Path,
    expression: Path | None = None,
    anchors: Path | None = None,
    mean: Path | None = None,
    std: Path | None = None,
    say: Callable[[str], None] = warnings.warn,
) -> Path:
    """Convert a model into a folder for `NeuralHeadModel.from_pretrained`.

    Args:
        identity: Checkpoint of the identity network, or the folder that holds it (then the one of the last epoch).
        out: New or empty folder.
        expression: The same of the expression network; `None` for heads without expressions.
        anchors: anchors_39.npy, the mean anchors; `None` for those known here, which are rounded to 1e-4 units.
        mean, std: nphm_lat_mean.npy and nphm_lat_std.npy, of identity codes; `None` for those of the training codes.
        say: Gets a sentence about what had to be assumed.

    Returns:
        The folder.

    Raises:
        ConvertError: With one sentence; nothing is left behind.
    """
    assumed: list[str] = []
    model = read_model(identity, expression, anchors, mean, std, assumed.append)
    written = write_folder(out, lambda folder: model.save_pretrained(folder))
    for sentence in assumed:
        say(sentence)
    return written


def read_model(
    identity: Path,
    expression: Path | None = None,
    anchors: Path | None = None,
    mean: Path | None = None,
    std: Path | None = None,
    say: Callable[[str], None] = warnings.warn,
) -> NeuralHeadModel:
    """The model in float32, ready for inference; arguments and errors as for `convert_nphm`."""
    if (mean is None) != (std is None):
        raise ConvertError("Mean and deviation of identity codes belong together: give both files or none.")
    identity = _checkpoint(identity)
    shape_file, expression_file = read_checkpoint(identity), None
    config: dict[str, Any] = _identity_config(_state(shape_file, identity), identity) | {"num_expression": 0}
    if expression is not None:
        expression = _checkpoint(expression)
        expression_file = read_checkpoint(expression)
        config |= _expression_config(_state(expression_file, expression), expression)
    try:
        model = NeuralHeadModel(**config, blend_epsilon=BLEND_EPSILON)
    except ValueError as error:
        raise ConvertError(f"The networks in '{identity}' have no layout of {SYSTEM}: {error}") from error
    load_exactly(_identity_tensors(model), _state(shape_file, identity), identity)
    if expression_file is not None and expression is not None:
        load_exactly(_expression_tensors(model), _state(expression_file, expression), expression)
        _spread(model.expression_mean, model.expression_std, expression_file, expression, "expression", say)
    if anchors is None:
        say("Mean anchors are those known here, rounded to 1e-4 units: give anchors_39.npy for the exact ones.")
    else:
        _fill(model.mean_anchors, anchors)
    if mean is None or std is None:
        _spread(model.shape_mean, model.shape_std, shape_file, identity, "identity", say)
    else:
        _fill(model.shape_mean, mean)
        _fill(model.shape_std, std)
    return model.requires_grad_(False).eval()


def epoch_of(path: Path) -> int | None:
    """N of checkpoint_epoch_N.tar; `None` for another name."""
    match = re.fullmatch(r"checkpoint_epoch_(\d+)\.tar", path.name)
    return int(match[1]) if match else None


def kind_of(path: Path) -> str | None:
    """Which network of NPHM a checkpoint holds, "identity" or "expression"; ConvertError for a damaged file."""
    state = read_checkpoint(path).get("decoder_state_dict")
    for start, kind in (("ensembled_deep_sdf.", "identity"), ("defDeepSDF.", "expression")):
        if isinstance(state, dict) and any(str(name).startswith(start) for name in state):
            return kind
    return None


def _checkpoint(path: Path) -> Path:
    """A file, or that of the last epoch in a folder and below it."""
    if not path.is_dir():
        return path
    found = [(epoch, file) for file in path.rglob("*.tar") if (epoch := epoch_of(file)) is not None]
    if not found:
        raise ConvertError(f"There is no checkpoint_epoch_N.tar in '{path}': give the file itself.")
    return max(found)[1]


def _state(file: dict[str, Any], path: Path) -> State:
    state = file.get("decoder_state_dict")
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ConvertError(f"'{path}' has no decoder_state_dict of tensors: give a checkpoint_epoch_N.tar of {SYSTEM}.")
    return state


def _identity_config(state: State, path: Path) -> dict[str, Any]:
    first, places = (_tensor(state, name, n, path) for name, n in (("ensembled_deep_sdf.lin0.weight", 3),
                                                                   ("mlp_pos.0.weight", 2)))  # fmt: skip
    if len(first) != PAIRS + MIDDLE + 1:
        raise ConvertError(f"'{path}' has {len(first)} local networks, not {SYSTEM}'s 24: MonoNPHM is not supported.")
    (anchor_width, num_global), (_, width, inputs) = places.shape, first.shape
    layers = sum(re.fullmatch(r"ensembled_deep_sdf\.lin\d+\.weight", name) is not None for name in state) - 1
    return {
        "num_pairs": PAIRS, "num_middle": MIDDLE, "num_global": num_global, "num_local": inputs - 3 - num_global,
        "width": width, "layers": layers, "anchor_width": anchor_width,
    }  # fmt: skip


def _expression_config(state: State, path: Path) -> dict[str, Any]:
    first, compressor = (_tensor(state, f"{name}.weight", 2, path) for name in ("defDeepSDF.lin0", "compressor.0"))
    layers = sum(re.fullmatch(r"defDeepSDF\.lin\d+\.weight", name) is not None for name in state) - 1
    return {
        "num_expression": first.shape[1] - 3 - len(compressor), "num_compressed": len(compressor),
        "expression_width": len(first), "expression_layers": layers,
    }  # fmt: skip


def _tensor(state: State, name: str, dimensions: int, path: Path) -> Tensor:
    found = state.get(name)
    if found is None or found.ndim != dimensions:
        raise ConvertError(
            f"'{path}' has no usable {name}: give {SYSTEM}'s checkpoint of that network (NPM and MonoNPHM are not "
            "supported)."
        )
    return found


def _identity_tensors(model: NeuralHeadModel) -> nn.Module:
    """The identity network's parameters under the original's names."""
    layers = nn.ModuleDict({f"lin{number}": layer for number, layer in enumerate(model.identity.linears)})
    return nn.ModuleDict({"ensembled_deep_sdf": layers, "mlp_pos": model.anchor_net})


def _expression_tensors(model: NeuralHeadModel) -> nn.Module:
    assert model.compressor is not None and model.expression is not None
    layers = nn.ModuleDict({f"lin{number}": layer for number, layer in enumerate(model.expression.linears)})
    return nn.ModuleDict({"compressor": nn.ModuleList([model.compressor]), "defDeepSDF": layers})


@torch.no_grad()
def _fill(parameter: nn.Parameter, path: Path) -> None:
    """Copy the one array of a file, which may have leading dimensions of 1."""
    value: Any = read_arrays(path).get("arr_0")
    fits = isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.squeeze().shape == parameter.shape
    if not fits or not np.isfinite(value).all():
        raise ConvertError(f"'{path}' is no array {list(parameter.shape)} of finite numbers: give {SYSTEM}'s own file.")
    parameter.copy_(torch.from_numpy(value).reshape(parameter.shape))


@torch.no_grad()
def _spread(
    mean: nn.Parameter, std: nn.Parameter, file: dict[str, Any], path: Path, kind: str, say: Callable[[str], None]
) -> None:
    """Mean and deviation of the training codes, where they are of many."""
    table = file.get("latent_codes_state_dict")
    codes = table.get("weight") if isinstance(table, dict) else None
    if not isinstance(codes, Tensor) or codes.ndim != 2 or codes.shape[1] != len(mean) or len(codes) < FEWEST:
        say(f"How {kind} codes spread is unknown, as '{path}' does not tell: heads cannot be drawn by chance.")
        return
    codes = codes.float()
    if not codes.isfinite().all():
        raise ConvertError(f"'{path}' has numbers that are not finite in its codes: give another checkpoint.")
    mean.copy_(codes.mean(0))
    std.copy_(codes.std(0))
