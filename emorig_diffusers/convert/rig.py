"""DiffusionRig's checkpoints (modelNNNNNN.pt: Ding et al., CVPR 2023) become RigUNet and AppearanceEncoder.

The file is a raw state dict: `denoisingUNet.*`, the UNet of guided-diffusion (Dhariwal and Nichol 2021) with a second
modulation in every residual block, and `encoder.*`, torchvision's ResNet. All settings are read from shapes, but for
the attention heads, of which the file tells nothing, and how the network is sampled.
"""

from __future__ import annotations

import pickle
import shutil
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline
from torch import Tensor

from ..diffusion.schedulers import RespacedDDIMScheduler, RespacedDDPMScheduler
from ..face.encode import CODE_PARTS, code_width, part_names
from ..files.folders import write_folder
from ..files.pickles import load_tensor
from ..files.texts import parse_json
from ..hub.index import INDEX
from ..hub.repository import resolve, rewrite_json
from ..models.appearance import AppearanceEncoder
from ..models.emoca import EmocaEncoder
from ..models.head import HeadModel
from ..models.unet import RigUNet
from ..painting.diffusion_rig import CONDITIONS, published_scheduler
from ..pipelines.emorig import EmoRigPipeline
from .adm import Heads, filled, read_layout, rename, settings_of, size_of
from .files import ConvertError, read_checkpoint

SYSTEM = "DiffusionRig"
UNET, ENCODER = "denoisingUNet.", "encoder."
CONVENTIONS = {"crop": "ffhq", "resampling": "skimage", "rasterizer": "pytorch3d"}
"""The pictures that DiffusionRig was trained on: their square of the photo, how it is resized, how heads are drawn."""
SETTINGS = (*CONVENTIONS, "crop_size", "default_num_inference_steps", "best_of", "code_parts", "shape")
"""Of a converted rig."""
STEPS = {"ddim": 20, "ddpm": None}
"""Sampler -> steps, `None` for all: as the original's README samples."""
LAB_CODE = ("appearance", "shape", "shape", "texture")  # 64 + 100 + 100 + 50 = 314; the shape does come twice
LAB_CODES = (LAB_CODE, ("appearance", "shape", "own_shape", "texture"))
"""Codes of DiffusionRig-EMO's second version; in the latter of its scripts `…_DECA`, which with an album's mean shape
keep the photo's own in the second place."""
LAB_STEPS = {"ddim": 50, "ddpm": None}
LAB_DIFFUSION_STEPS = 500  # it is trained with 1,000 all the same
SCHEDULERS = {kind.__name__: kind for kind in (
    RespacedDDIMScheduler, RespacedDDPMScheduler, DDIMScheduler, DDPMScheduler
)}  # fmt: skip
RESOLUTIONS = {
    (1, 2, 3, 4): 64, (1, 1, 2, 3, 4): 128, (1, 1, 2, 2, 4, 4): 256, (0.5, 1, 1, 2, 2, 4, 4): 512,
}  # fmt: skip
"""Widths of the levels, in units of the first time layer's -> side of the pictures, pixels (guided-diffusion's)."""


def convert_rig(
    checkpoint: Path,
    out: Path,
    head: Path | None = None,
    encoder: Path | None = None,
    detail: Path | None = None,
    mean_shape: Path | None = None,
    code_parts: str | tuple[str, ...] | None = None,
    heads: Heads | None = None,
    diffusion_steps: int | None = None,
    sampler: str | None = None,
    best_of: int = 1,
    say: Callable[[str], None] = warnings.warn,
) -> Path:
    """Convert DiffusionRig's checkpoint, of stage 1 or 2; with head and encoder into a complete pipeline.

    Args:
        checkpoint: modelNNNNNN.pt.
        out: New or empty folder. `RigUNet.from_pretrained(out, subfolder="unet")` opens the network, and
            `EmoRigPipeline.from_pretrained(out)` the pipeline; without head and encoder these two go in as arguments.
        head, encoder: Folders that `convert_flame` and `convert_deca` or `convert_emoca` wrote.
        detail: Folder of a detail model; `None` for the encoder's own, if it has one.
        mean_shape: mean_shape.pkl of a stage 2 trained with it.
        code_parts: What the network is told of a face besides pictures, names of `encode.CODE_PARTS`; `None` for what
            follows from the widths of the code: "appearance" alone, or the 314 of LAB_CODE.
        heads: Attention heads that it was trained with; `None` for one, which the trainer has unless told otherwise.
        diffusion_steps: T of the schedule it is sampled with; `None` for its makers': LAB_DIFFUSION_STEPS for
            LAB_CODES, else 1,000.
        sampler: "ddim" or "ddpm"; `None` for its makers': "ddpm" for LAB_CODES, else "ddim".
        best_of: Samples of which the one with the least residual noise is kept; DiffusionRig-EMO's first version: 4.
        say: Gets a sentence about what had to be assumed.

    Returns:
        The folder.

    Raises:
        ConvertError: With one sentence; nothing is left behind.
    """
    if (head is None) != (encoder is None):
        raise ConvertError("A pipeline needs a head and an encoder: give both folders, or neither.")
    sampling_of((), diffusion_steps, sampler)  # refuses what cannot be before anything is read
    assumed: list[str] = []

    def write(folder: Path) -> None:
        unet, appearance = read_networks(checkpoint, heads or Heads())
        names = _code_parts(unet, appearance, code_parts, checkpoint)
        scheduler, steps = sampling_of(names, diffusion_steps, sampler)
        settings = CONVENTIONS | {
            "crop_size": unet.config.sample_size, "default_num_inference_steps": steps,
            "best_of": best_of, "code_parts": names, "shape": mean_shape and read_mean_shape(mean_shape),
        }  # fmt: skip
        networks = {"unet": unet, "scheduler": scheduler, "appearance_encoder": appearance}
        if head is None or encoder is None:
            _save_networks(folder, networks, settings)
        else:
            parts = open_parts(head, encoder, detail)
            _check_code(parts, networks, settings)
            _save(folder, parts | networks, settings)
        assumed.extend(_assumed(checkpoint, heads, names, scheduler, diffusion_steps or sampler))

    written = write_folder(out, write)
    for sentence in assumed:
        say(sentence)
    return written


def sampling_of(
    names: tuple[str, ...], diffusion_steps: int | None = None, sampler: str | None = None
) -> tuple[RespacedDDIMScheduler | RespacedDDPMScheduler, int]:
    """Scheduler and steps of a network that is told `names`; arguments as for `convert_rig`."""
    lab = names in LAB_CODES
    total, kind = diffusion_steps or (LAB_DIFFUSION_STEPS if lab else 1000), sampler or ("ddpm" if lab else "ddim")
    try:
        scheduler = published_scheduler(total, kind)
    except ValueError as error:
        raise ConvertError(str(error)) from error
    return scheduler, min((LAB_STEPS if lab else STEPS)[kind] or total, total)


def _assumed(
    file: Path, heads: Heads | None, names: tuple[str, ...], scheduler: Any, chosen: Any
) -> Iterator[str]:
    """What the file does not tell and the caller did not say, a sentence each."""
    if heads is None:
        yield (
            f"'{file}' does not tell its attention heads: one is assumed, as in the released model; one trained with "
            "num_heads or num_head_channels comes out wrong unless you say so (`emorig convert diffusion-rig --help`)."
        )
    if names in LAB_CODES and not chosen:
        yield (
            f"'{file}' is of DiffusionRig-EMO's second version and is sampled as its scripts do it, in all "
            f"{scheduler.config.num_train_timesteps} steps of DDPM: with sampler ddim {LAB_STEPS['ddim']} of them do, "
            "and diffusion_steps 1000 is the schedule that it was trained with."
        )


def assemble(
    out: Path,
    head: Path,
    encoder: Path,
    rig: Path | None = None,
    detail: Path | None = None,
    mean_shape: Path | None = None,
) -> Path:
    """Put converted parts together: one folder that `EmoRigPipeline.from_pretrained(out)` opens.

    Args:
        out: New or empty folder.
        head, encoder, detail, mean_shape: As for `convert_rig`.
        rig: Folder that `convert_rig` wrote; without it the pipeline is what `train/prepare.py` and
            `train/train_rig.py` start from.

    Returns:
        The folder.

    Raises:
        ConvertError: With one sentence; nothing is left behind.
    """
    parts: dict[str, Any] = open_parts(head, encoder, detail)
    settings: dict[str, Any] = dict(CONVENTIONS)
    if rig is not None:
        parts |= {
            "unet": _open(RigUNet, rig, "unet"),
            "scheduler": _open(_scheduler_kind(rig), rig, "scheduler"),
            "appearance_encoder": _open(AppearanceEncoder, rig, "appearance_encoder"),
        }
        index = DiffusionPipeline.load_config(rig)
        settings |= {name: index[name] for name in SETTINGS if name in index}
        _check_code(parts, parts, settings)
    if mean_shape is not None:
        settings["shape"] = read_mean_shape(mean_shape)
    return write_folder(out, lambda folder: _save(folder, parts, settings))


def _scheduler_kind(folder: Path) -> Any:
    """The class of a rig's scheduler."""
    file = folder / "scheduler" / "scheduler_config.json"
    name = parse_json(file.read_bytes()).get("_class_name") if file.is_file() else ""
    return SCHEDULERS.get(name, RespacedDDIMScheduler)


# the networks


def read_networks(checkpoint: Path, heads: Heads = Heads()) -> tuple[RigUNet, AppearanceEncoder]:  # noqa: B008
    """The two networks of a checkpoint, in float32 and ready for inference.

    Args:
        checkpoint: modelNNNNNN.pt.
        heads: Attention heads that it was trained with.

    Raises:
        ConvertError: The file is damaged or holds another network, or a tensor is missing, left over or mis-shaped.
    """
    tensors = read_checkpoint(checkpoint)
    strange = [k for k, v in tensors.items() if not isinstance(v, Tensor) or not str(k).startswith((UNET, ENCODER))]
    if strange or not tensors:
        found = f"'{strange[0]}'" if strange else "nothing"
        raise ConvertError(
            f"'{checkpoint}' is no model of DiffusionRig, whose tensors are {UNET}* and {ENCODER}* (found {found}): "
            "give its modelNNNNNN.pt."
        )
    unet, encoder = (
        {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        for prefix in (UNET, ENCODER)
    )
    return _unet(unet, heads, checkpoint), _appearance(encoder, checkpoint)


def _unet(tensors: Mapping[str, Tensor], heads: Heads, file: Path) -> RigUNet:
    layout = read_layout(tensors, file)
    inputs = size_of(tensors, "input_blocks.0.0.weight", 4, file)[1]
    outputs = size_of(tensors, "out.2.weight", 4, file)[0]
    if (inputs, outputs) != (3 + 3 * len(CONDITIONS), 3):
        raise ConvertError(
            f"The network in '{file}' has {inputs} input and {outputs} output channels, DiffusionRig's 12 and 3: other "
            "inputs or a learnt variance are not supported."
        )
    base = size_of(tensors, "time_embed.0.weight", 2, file)[1]
    size = RESOLUTIONS.get(tuple(width / base for width in layout.widths), 256)
    config = settings_of(tensors, layout, heads, file) | {"sample_size": size}
    return filled(RigUNet, config, rename(tensors, layout, heads), file, SYSTEM)


def _appearance(tensors: Mapping[str, Tensor], file: Path) -> AppearanceEncoder:
    architecture = "resnet50" if "layer1.0.conv3.weight" in tensors else "resnet18"
    config = {"architecture": architecture, "cond_dim": size_of(tensors, "fc.weight", 2, file)[0]}
    return filled(AppearanceEncoder, config, tensors, file, SYSTEM)


def read_mean_shape(file: Path) -> list[float]:
    """The shape code [S] in a mean_shape.pkl, a pickled tensor [1, S] of DiffusionRig's stage 2.

    Raises:
        ConvertError: The file is damaged or something else.
    """
    try:
        tensor = load_tensor(file.read_bytes())
    except pickle.UnpicklingError as error:
        raise ConvertError(f"'{file}' is no mean shape ({error}): give DiffusionRig's mean_shape.pkl.") from error
    if tensor.ndim != 2 or len(tensor) != 1 or not tensor.is_floating_point() or not tensor.isfinite().all():
        raise ConvertError(f"'{file}' holds no single row of numbers: give DiffusionRig's mean_shape.pkl.")
    return tensor[0].float().tolist()


# the pipeline


def _code_parts(unet: RigUNet, appearance: AppearanceEncoder, chosen: Any, file: Path) -> tuple[str, ...]:
    """What the network is told, as far as the widths tell or the caller says."""
    width, own = unet.config.cond_dim, appearance.config.cond_dim
    if chosen is not None:
        try:
            return part_names(chosen)
        except ValueError as error:
            raise ConvertError(str(error)) from error
    if width == own:
        return ("appearance",)
    if (width, own) == (314, 64):
        return LAB_CODE
    raise ConvertError(
        f"The network in '{file}' takes a code of {width} numbers, of which its encoder gives {own}: say in "
        f"code_parts which of {', '.join(CODE_PARTS)} make it up, in order."
    )


def open_parts(head: Path, encoder: Path, detail: Path | None) -> dict[str, Any]:
    """Components of a pipeline without networks, from their folders; ConvertError where one cannot be opened."""
    own = encoder / "detail"
    folder = own if detail is None and own.is_dir() else detail
    parts: dict[str, Any] = {"head": _open(HeadModel, head), "encoder": _open(EmocaEncoder, encoder)}
    if folder is not None:
        from ..models.detail import DetailModel

        parts["detail"] = _open(DetailModel, folder)
    return parts


def _open(kind: Any, folder: Path, subfolder: str | None = None) -> Any:
    place = folder / subfolder if subfolder else folder
    if not place.is_dir():  # diffusers would look for it on the Hub
        raise ConvertError(f"There is no folder '{place}' to read a {kind.__name__} from: convert that part first.")
    try:
        return kind.from_pretrained(place)
    except Exception as error:  # diffusers and safetensors raise a dozen kinds
        reason = textwrap.shorten(str(error), 200, placeholder=" …")
        raise ConvertError(f"'{place}' is no folder of a {kind.__name__} ({reason}): convert it again.") from error


def _check_code(parts: Mapping[str, Any], networks: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """ConvertError unless the named code parts of head, encoder and photo are as long as the network's code."""
    names = part_names(settings["code_parts"])
    texture = parts["encoder"].config.num_texture
    width = code_width(parts["head"], names, networks["appearance_encoder"].config.cond_dim, texture)
    wanted = networks["unet"].config.cond_dim
    if width != wanted:
        raise ConvertError(
            f"The network takes a code of {wanted} numbers, but {' '.join(names)} of these parts have {width}: "
            "give the code_parts it was trained with, and the head and encoder of that training."
        )


def _save(folder: Path, parts: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Write a complete pipeline; emotions are carried over from the open head where the head's units have no names."""
    codes, shape, length = None, settings.get("shape"), parts["head"].config.num_shape
    if shape is not None and len(shape) != length:
        raise ConvertError(f"The mean shape has {len(shape)} numbers, the head's shapes {length}: they do not match.")
    if not parts["head"].config.expression_names:
        from ..face.retarget import retarget_emotions

        codes = retarget_emotions(HeadModel.from_pretrained(resolve("emorig-open"), subfolder="head"), parts["head"])
    write_pipeline(EmoRigPipeline(**parts, **settings, emotion_codes=codes), folder)


def _save_networks(folder: Path, networks: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Write a pipeline that asks for head and encoder when it is opened."""
    others = EmoRigPipeline.from_pretrained("emorig-open", unet=None, scheduler=None)
    parts: dict[str, Any] = {"head": others.head, "encoder": others.encoder, **networks, **settings}
    write_pipeline(EmoRigPipeline(**parts), folder)
    for name in ("head", "encoder"):
        shutil.rmtree(folder / name)
    rewrite_json(folder / INDEX, dict.fromkeys(("head", "encoder"), [None, None]))


def write_pipeline(pipe: DiffusionPipeline, folder: Path) -> None:
    """Save a pipeline without the paths that its parts came from."""
    pipe.save_pretrained(folder)
    for file in (folder / INDEX, *folder.glob("*/*config.json")):
        rewrite_json(file, {})
