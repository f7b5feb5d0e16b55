"""Stand-ins of DECA's and EMOCA's files with random weights, and their equations in plain functions.

`deca_codes` and `displacement` read the original names and share nothing with the package.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Tensors = dict[str, Tensor]

DEPTHS, WIDTHS = (3, 4, 6, 3), (64, 128, 256, 512)
FLAME_CODES = {"shape": 100, "tex": 50, "exp": 50, "pose": 6, "cam": 3, "light": 27}
GENERATOR_CONVS = {2: (128, 128), 6: (128, 64), 10: (64, 64), 14: (64, 32), 18: (32, 16)}  # index -> channels
CFG = """
inout:
  checkpoint_dir: /ps/scratch/${{name}}/checkpoints
coarse:
  model: {{exp_deca_jaw_pose: {coarse_jaw}, exp_deca_global_pose: false, face_mask_path: '${{assets}}/m.png'}}
detail:
  model:
    deca_class: ExpDECA
    exp_deca_jaw_pose: {jaw}
    exp_deca_global_pose: {turn}
    lambda: 1e-4
"""


# random weights


class _Random:
    """Tensors of an original network; `flat` ones are one number each, however large, so that their file is small."""

    def __init__(self, seed: int, flat: bool) -> None:
        self.generator, self.flat, self.tensors = torch.Generator().manual_seed(seed), flat, {}

    def conv(self, name: str, outputs: int, inputs: int, side: int, bias: bool = False) -> None:
        size, fan_in = (outputs, inputs, side, side), inputs * side * side
        zero = torch.zeros(()).expand(size)
        values = zero if self.flat else torch.randn(size, generator=self.generator) * (2 / fan_in) ** 0.5
        self.tensors[f"{name}.weight"] = values
        if bias:
            self.tensors[f"{name}.bias"] = self.between(-0.1, 0.1, outputs)

    def norm(self, name: str, channels: int, gain: float = 1.0) -> None:
        self.tensors[f"{name}.weight"] = gain * self.between(0.8, 1.2, channels)
        self.tensors[f"{name}.bias"] = self.between(-0.1, 0.3, channels)
        self.tensors[f"{name}.running_mean"] = self.between(-0.2, 0.2, channels)
        self.tensors[f"{name}.running_var"] = self.between(0.5, 1.5, channels)
        self.tensors[f"{name}.num_batches_tracked"] = torch.tensor(1000)

    def linear(self, name: str, outputs: int, inputs: int) -> None:
        values = torch.randn(outputs, inputs, generator=self.generator)
        self.tensors[f"{name}.weight"] = values * (1 / inputs) ** 0.5
        self.tensors[f"{name}.bias"] = self.between(-0.5, 0.5, outputs)

    def between(self, low: float, high: float, count: int) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=self.generator)


def encoder_tensors(outputs: int, seed: int = 0, flat: bool = False) -> Tensors:
    """ResnetEncoder's 318 + 4 tensors."""
    random = _Random(seed, flat)
    random.conv("encoder.conv1", 64, 3, 7)
    random.norm("encoder.bn1", 64)
    inputs = 64
    for stage, (depth, width) in enumerate(zip(DEPTHS, WIDTHS), 1):
        for block in range(depth):
            name = f"encoder.layer{stage}.{block}"
            convs = ((width, inputs, 1), (width, width, 3), (4 * width, width, 1))
            for i, (after, before, side) in enumerate(convs, 1):
                random.conv(f"{name}.conv{i}", after, before, side)
                random.norm(f"{name}.bn{i}", after, 0.3 if i == 3 else 1.0)
            if block == 0:
                random.conv(f"{name}.downsample.0", 4 * width, inputs, 1)
                random.norm(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
    random.linear("layers.0", 1024, 2048)
    random.linear("layers.2", outputs, 1024)
    return random.tensors


def generator_tensors(seed: int = 0) -> Tensors:
    """Generator's 50 tensors."""
    random = _Random(seed, flat=False)
    random.linear("l1.0", 128 * 8 * 8, 181)
    random.norm("conv_blocks.0", 128)
    for index, (inputs, outputs) in GENERATOR_CONVS.items():
        random.conv(f"conv_blocks.{index}", outputs, inputs, 3, bias=True)
        random.norm(f"conv_blocks.{index + 1}", outputs)
    random.conv("conv_blocks.21", 1, 16, 3, bias=True)
    return random.tensors


# files


def write_deca(folder: Path, seed: int = 0, detail: bool = False, flat: bool = False) -> Path:
    """deca_model.tar as DECA's trainer saves it; with E_detail and D_detail if wanted."""
    networks: dict[str, Any] = {"E_flame": encoder_tensors(236, seed, flat)}
    if detail:
        networks |= {"E_detail": encoder_tensors(128, seed + 1, flat), "D_detail": generator_tensors(seed + 2)}
    others = {"opt": {"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]},
              "global_step": 50000, "batch_size": 32}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(networks | others, folder / "deca_model.tar", _use_new_zipfile_serialization=seed % 2 == 0)
    return folder / "deca_model.tar"


def emoca_state(
    rows: int | None = 50, seed: int = 0, flat: bool = False, detail: bool = False, junk: bool = True
) -> Tensors:
    """`state_dict` of a Lightning checkpoint of EMOCA; rows `None` is DECA as EMOCA's makers packed it."""
    networks = {"E_flame": encoder_tensors(236, seed, flat)}
    if rows is not None:
        networks["E_expression"] = encoder_tensors(rows, seed + 10, flat)
    if detail:
        networks |= {"E_detail": encoder_tensors(128, seed + 1, flat), "D_detail": generator_tensors(seed + 2)}
    state = {f"deca.{name}.{key}": value for name, tensors in networks.items() for key, value in tensors.items()}
    if junk:
        random = torch.Generator().manual_seed(seed)
        state |= {
            "deca.uv_face_eye_mask": torch.rand(1, 1, 256, 256, generator=random),
            "deca.fixed_uv_dis": 0.001 * torch.randn(256, 256, generator=random),
            "deca.flame.faces_tensor": torch.zeros(7, 3, dtype=torch.int64),
            "deca.flametex.texture_mean": torch.ones(1, 1, 12),
            "deca.render.dense_faces": torch.zeros(1, 5, 3, dtype=torch.int64),
            "deca.perceptual_loss.vgg.slice1.0.weight": torch.ones(2),
            "deca.id_loss.reg_model.conv1.weight": torch.ones(2),
            "emonet_loss.backbone.conv1.weight": torch.ones(2),
            "lipread_loss.model.weight": torch.ones(2),
        }
    return state


def write_emoca(
    folder: Path,
    rows: int | None = 50,
    jaw: bool = False,
    turn: bool = False,
    seed: int = 0,
    flat: bool = False,
    detail: bool = False,
    mode: str = "detail",
    name: str = "deca-epoch=02-val_loss/dataloader_idx_0=3.25",
    state: Tensors | None = None,
) -> Path:
    """cfg.yaml and a Lightning checkpoint as EMOCA's makers pack them, with everything their training left in it.

    The `state` is that of `emoca_state` unless it is given.
    """
    file = folder / mode / "checkpoints" / f"{name}.ckpt"
    file.parent.mkdir(parents=True, exist_ok=True)
    flags = {"jaw": str(jaw).lower(), "turn": str(turn).lower(), "coarse_jaw": str(not jaw).lower()}
    (folder / "cfg.yaml").write_text(CFG.format(**flags))
    checkpoint = {
        "epoch": 2, "global_step": 1000, "pytorch-lightning_version": "1.4.9",
        "state_dict": emoca_state(rows, seed, flat, detail) if state is None else state, "lr_schedulers": [],
        "optimizer_states": [{"state": {0: {"step": 9, "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 5e-5}]}],
    }  # fmt: skip
    with _foreign() as kinds:
        config = kinds["DictConfig"]()
        config.__dict__ = {"_content": {"n_exp": 50, "path": kinds["AnyNode"]()}, "_parent": None, "_flags": {}}
        checkpoint["hyper_parameters"] = kinds["AttributeDict"](model_params=config)
        checkpoint["callbacks"] = {kinds["ModelCheckpoint"]: {"best_model_score": torch.tensor(3.25)}}
        torch.save(checkpoint, file)
    return folder


@contextmanager
def _foreign() -> Any:
    """Classes that pickle as those of packages that are not installed."""
    places = {
        "DictConfig": ("omegaconf.dictconfig", object),
        "AnyNode": ("omegaconf.nodes", object),
        "AttributeDict": ("pytorch_lightning.utilities.parsing", dict),
        "ModelCheckpoint": ("pytorch_lightning.callbacks.model_checkpoint", object),
    }
    kinds, before = {}, dict(sys.modules)
    try:
        for name, (module, base) in places.items():
            kinds[name] = type(name, (base,), {"__module__": module})
            parts = module.split(".")
            for i in range(1, len(parts) + 1):
                sys.modules.setdefault(".".join(parts[:i]), ModuleType(".".join(parts[:i])))
            setattr(sys.modules[module], name, kinds[name])
        yield kinds
    finally:
        for name in set(sys.modules) - set(before):
            del sys.modules[name]


# the equations


def _norm(x: Tensor, tensors: Mapping[str, Tensor], name: str, eps: float = 1e-5) -> Tensor:
    mean, var, gain, shift = (
        tensors[f"{name}.{kind}"].view(1, -1, 1, 1) for kind in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + eps).sqrt() * gain + shift


def encode(tensors: Mapping[str, Tensor], image: Tensor) -> Tensor:
    """ResnetEncoder: ResNet-50 with the stride on the 3x3 convolutions, mean over 7 x 7, linear, ReLU, linear."""
    x = F.conv2d(image, tensors["encoder.conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(_norm(x, tensors, "encoder.bn1").relu(), 3, 2, 1)
    for stage, depth in enumerate(DEPTHS, 1):
        for block in range(depth):
            name, stride = f"encoder.layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            inner = _norm(F.conv2d(x, tensors[f"{name}.conv1.weight"]), tensors, f"{name}.bn1").relu()
            inner = F.conv2d(inner, tensors[f"{name}.conv2.weight"], stride=stride, padding=1)
            inner = _norm(inner, tensors, f"{name}.bn2").relu()
            inner = _norm(F.conv2d(inner, tensors[f"{name}.conv3.weight"]), tensors, f"{name}.bn3")
            if block == 0:
                x = F.conv2d(x, tensors[f"{name}.downsample.0.weight"], stride=stride)
                x = _norm(x, tensors, f"{name}.downsample.1")
            x = (x + inner).relu()
    features = F.avg_pool2d(x, 7, 1).flatten(1)
    hidden = (features @ tensors["layers.0.weight"].T + tensors["layers.0.bias"]).relu()
    return hidden @ tensors["layers.2.weight"].T + tensors["layers.2.bias"]


def deca_codes(tensors: Mapping[str, Tensor], image: Tensor) -> Tensors:
    """E_flame's codes by DECA's names."""
    parts = encode(tensors, image).split(tuple(FLAME_CODES.values()), 1)
    codes = dict(zip(FLAME_CODES, parts))
    return codes | {"light": codes["light"].reshape(-1, 9, 3)}


def emoca_codes(
    flame: Mapping[str, Tensor], expression: Mapping[str, Tensor], jaw: bool, turn: bool, image: Tensor
) -> Tensors:
    """EMOCA's codes: E_expression's 50 numbers, then the global pose if `turn`, then the jaw's if `jaw`."""
    codes, own = deca_codes(flame, image), encode(expression, image)
    codes["exp"], rest = own[:, :50], own[:, 50:]
    if turn:
        codes["pose"] = torch.cat([rest[:, :3], codes["pose"][:, 3:]], 1)
    if jaw:
        codes["pose"] = torch.cat([codes["pose"][:, :3], rest[:, 3 * turn :]], 1)
    return codes


def displacement(tensors: Mapping[str, Tensor], jaw: Tensor, expression: Tensor, detail: Tensor) -> Tensor:
    """Generator: 8 x 8 to 256 x 256, metres."""
    x = torch.cat([jaw, expression, detail], 1) @ tensors["l1.0.weight"].T + tensors["l1.0.bias"]
    x = _norm(x.reshape(-1, 128, 8, 8), tensors, "conv_blocks.0")
    for index in GENERATOR_CONVS:
        x = _convolve(_doubled(_doubled(x, 2), 3), tensors, index)
        x = _norm(x, tensors, f"conv_blocks.{index + 1}", eps=0.8)
        x = torch.where(x > 0, x, 0.2 * x)
    return 0.01 * torch.tanh(_convolve(x, tensors, 21))


def _convolve(x: Tensor, tensors: Mapping[str, Tensor], index: int) -> Tensor:
    return F.conv2d(x, tensors[f"conv_blocks.{index}.weight"], tensors[f"conv_blocks.{index}.bias"], padding=1)


def _doubled(x: Tensor, dim: int) -> Tensor:
    """Twice as many samples along a dimension: three quarters of the nearest and one of the next, ends repeated."""
    count = x.shape[dim]
    before = x.index_select(dim, (torch.arange(count) - 1).clamp(min=0))
    after = x.index_select(dim, (torch.arange(count) + 1).clamp(max=count - 1))
    return torch.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], dim + 1).flatten(dim, dim + 1)
