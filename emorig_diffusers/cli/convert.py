"""`emorig convert` and `emorig doctor`: from the originals' files, which users bring, to this package's folders."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .models import quiet
from .options import new_command, path

if TYPE_CHECKING:
    from ..convert.adm import Heads

_FLAME = {
    "texture": "FLAME_texture.npz or FLAME_albedo_from_BFM.npz",
    "landmarks": "landmark_embedding.npy",
    "template": "head_template.obj",
    "mediapipe": "mediapipe_landmark_embedding.npz",
}
"""Options of `convert flame`, arguments of `convert_flame` -> the original they are for."""

_DIFFAE = {
    "latent": "latent.pkl, mean and standard deviation of the codes",
    "emotions": "last.ckpt of a classifier of emotions, which edits need",
    "attributes": "last.ckpt of a classifier of CelebA's attributes",
    "latent_net": "last.ckpt of a latent run, for new faces",
}
"""Options of `convert diffae`, arguments of `convert_diffae` -> the original they are for."""

_NPHM = {
    "expression": "checkpoint_epoch_N.tar of the expression network, or its folder",
    "anchors": "anchors_39.npy, the exact mean anchors",
    "mean": "nphm_lat_mean.npy, the mean of identity codes",
    "std": "nphm_lat_std.npy, their deviation",
}
"""Options of `convert nphm`, arguments of `convert_nphm` -> the original they are for."""


def add_command(commands: Any) -> None:
    """Add the two commands to the subparsers `commands`."""
    about = "Convert FLAME, DECA, EMOCA, DiffusionRig, Diffusion Autoencoders, emotion LDMs, NPHM from files you bring"
    parser = commands.add_parser("convert", help=about, description=f"{about}.", allow_abbrev=False)
    kinds = parser.add_subparsers(title="originals", metavar="ORIGINAL", required=True)

    flame = new_command(kinds, run_flame, "Convert FLAME 2020 (generic_model.pkl)", "MODEL", "OUT")
    for name, file in _FLAME.items():
        flame.add_argument(f"--{name}", metavar="FILE", type=path, help=file)
    for name, file in (("deca", "deca_model.tar"), ("emoca", "the folder of a model, with cfg.yaml")):
        new = new_command(kinds, run_deca if name == "deca" else run_emoca, f"Convert {name.upper()} ({file})",
                          "TAR" if name == "deca" else "FOLDER", "OUT")  # fmt: skip
        new.add_argument("--mask", metavar="PNG", type=path, help="uv_face_eye_mask.png, for the wrinkles")
        new.add_argument("--displacement", metavar="NPY", type=path, help="fixed_displacement_256.npy, likewise")
    new.add_argument("--expression-pose", choices=("none", "jaw", "global", "both"),
                     help="what of the pose EMOCA's second network gives (default: as its cfg.yaml says)")  # fmt: skip
    rig = new_command(kinds, run_rig, "Convert DiffusionRig (modelNNNNNN.pt)", "PT", "OUT", name="diffusion-rig")
    rig.add_argument("--head", metavar="DIR", type=path, help="what `convert flame` wrote, for a complete pipeline")
    rig.add_argument("--encoder", metavar="DIR", type=path, help="what `convert deca` or `emoca` wrote, likewise")
    rig.add_argument("--mean-shape", metavar="PKL", type=path, help="mean_shape.pkl of a stage 2")
    rig.add_argument("--code-parts", metavar="PARTS", help="what the network's code is made of, if its width does not "
                     'tell: e.g. "appearance shape expression"')  # fmt: skip
    _add_training(rig)
    diffae = new_command(kinds, run_diffae, "Convert Diffusion Autoencoders (last.ckpt)", "CKPT", "OUT")
    for name, file in _DIFFAE.items():
        diffae.add_argument(f"--{name.replace('_', '-')}", metavar="FILE", type=path, help=file)
    diffae.add_argument("--num-heads", metavar="N", type=int, help="attention heads, if the file does not tell")
    diffae.add_argument("--names", metavar="NAMES", help="of a classifier's classes, with commas between them, if they "
                        "are neither AffectNet's 8 emotions nor CelebA's 40 attributes")  # fmt: skip
    about = "Convert emotion latent diffusion (a Lightning checkpoint)"
    ldm = new_command(kinds, run_emotion_ldm, about, "CKPT", "OUT", name="emotion-ldm")
    ldm.add_argument("--vq", metavar="FILE", type=path, help="checkpoint of an autoencoder to take instead of its own")
    ldm.add_argument("--raw", action="store_true", help="take the last weights instead of the averaged ones")
    nphm = new_command(kinds, run_nphm, "Convert NPHM, the neural head (checkpoint_epoch_N.tar)", "IDENTITY", "OUT")
    for name, file in _NPHM.items():
        nphm.add_argument(f"--{name}", metavar="FILE", type=path, help=file)
    new_command(kinds, run_all, "Convert everything that `emorig doctor` finds, into one pipeline", "FOLDER", "OUT")

    doctor = new_command(commands, run_doctor, "Say which of the originals a folder holds, and what to do next")
    doctor.add_argument("folder", metavar="FOLDER", type=path, nargs="?", default=Path("."),
                        help="where the files are, at any depth (default: the current folder)")  # fmt: skip


def _add_training(rig: argparse.ArgumentParser) -> None:
    """What DiffusionRig's file does not tell of its training, by the names of its trainer's options, and sampling."""
    heads = rig.add_mutually_exclusive_group()
    heads.add_argument("--num-heads", metavar="N", type=int, help="attention heads it was trained with (default: 1)")
    heads.add_argument("--num-head-channels", metavar="N", type=int, help="or the channels of each head")
    rig.add_argument("--new-attention-order", action="store_true", help="it was trained with use_new_attention_order")
    rig.add_argument("--diffusion-steps", metavar="N", type=int, help="steps of the schedule to sample with (default: "
                     "1000; for the code of 314 of DiffusionRig-EMO's second version 500, as it does)")  # fmt: skip
    rig.add_argument("--sampler", choices=("ddim", "ddpm"), help="default: ddim in 20 steps; for that code ddpm")
    rig.add_argument("--best-of", metavar="N", type=int, default=1, help="samples to draw of each face, of which the "
                     "least grainy is kept; DiffusionRig-EMO's first version takes 4 (default: 1)")  # fmt: skip


def run_flame(args: argparse.Namespace) -> int:
    """`emorig convert flame`: a folder for `HeadModel.from_pretrained`."""
    quiet()
    from ..convert.flame import convert_flame

    print(convert_flame(args.model, args.out, **{name: getattr(args, name) for name in _FLAME}))
    return 0


def run_deca(args: argparse.Namespace) -> int:
    """`emorig convert deca`: a folder for `EmocaEncoder.from_pretrained`, with its wrinkles in `detail`."""
    quiet()
    from ..convert.deca import convert_deca

    print(convert_deca(args.tar, args.out, mask=args.mask, displacement=args.displacement))
    return 0


def run_emoca(args: argparse.Namespace) -> int:
    """`emorig convert emoca`: as `emorig convert deca`."""
    quiet()
    from ..convert.deca import convert_emoca
    from ..convert.doctor import EMOCA_MODES, emoca_mode

    mode = emoca_mode(args.folder) or EMOCA_MODES[0]
    options = {name: getattr(args, name) for name in ("mask", "displacement", "expression_pose")}
    print(convert_emoca(args.folder, args.out, mode=mode, **options))
    return 0


def run_rig(args: argparse.Namespace) -> int:
    """`emorig convert diffusion-rig`: a folder for `EmoRigPipeline.from_pretrained`."""
    quiet()
    from ..convert.rig import convert_rig

    names = ("head", "encoder", "mean_shape", "code_parts", "diffusion_steps", "sampler", "best_of")
    print(convert_rig(args.pt, args.out, heads=_heads(args), say=note, **{name: getattr(args, name) for name in names}))
    return 0


def _heads(args: argparse.Namespace) -> Heads | None:
    """The attention heads that were said, if any were."""
    from ..convert.adm import Heads

    if args.num_heads is None and args.num_head_channels is None:
        if args.new_attention_order:
            raise ValueError("--new-attention-order tells nothing without --num-heads or --num-head-channels: add one.")
        return None
    for name in ("num_heads", "num_head_channels"):
        count = getattr(args, name)
        if count is not None and count < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {count}.")
    return Heads(args.num_heads or 1, args.num_head_channels, args.new_attention_order)


def note(sentence: str) -> None:
    """Print what had to be assumed, which changes no result of the command."""
    print(f"emorig: note: {sentence}", file=sys.stderr)


def run_diffae(args: argparse.Namespace) -> int:
    """`emorig convert diffae`: a folder for `DiffAEEmotionPipeline.from_pretrained`."""
    quiet()
    from ..convert.diffae import convert_diffae

    names = args.names and [name.strip() for name in args.names.split(",")]
    if args.num_heads is not None and args.num_heads < 1:
        raise ValueError(f"--num-heads must be at least 1, got {args.num_heads}.")
    files = {name: getattr(args, name) for name in _DIFFAE}
    print(convert_diffae(args.ckpt, args.out, names=names, num_heads=args.num_heads, say=note, **files))
    return 0


def run_emotion_ldm(args: argparse.Namespace) -> int:
    """`emorig convert emotion-ldm`: a folder for `EmotionLDMPipeline.from_pretrained`."""
    quiet()
    from ..convert.emotion_ldm import BROUGHT, convert_emotion_ldm

    print(convert_emotion_ldm(args.ckpt, args.out, vq=args.vq, raw=args.raw, say=note))
    note(f"{BROUGHT}: they are for you alone.")
    return 0


def run_nphm(args: argparse.Namespace) -> int:
    """`emorig convert nphm`: a folder for `NeuralHeadModel.from_pretrained`."""
    quiet()
    from ..convert.nphm import BROUGHT, convert_nphm

    print(convert_nphm(args.identity, args.out, say=note, **{name: getattr(args, name) for name in _NPHM}))
    note(f"{BROUGHT}: they are for you alone.")
    return 0


def run_all(args: argparse.Namespace) -> int:
    """`emorig convert all`: one pipeline; what it is at goes to stderr."""
    from ..convert.doctor import convert_all

    quiet()
    print(convert_all(args.folder, args.out, say=lambda line: print(line, file=sys.stderr)))
    return 0


def run_doctor(args: argparse.Namespace) -> int:
    """`emorig doctor`: every original with what became of it, then the next command; one for each system."""
    from ..convert.autoencoders import find_autoencoders, report_autoencoders
    from ..convert.doctor import examine, report
    from ..convert.emotion_ldm_files import find_emotion_ldms, report_emotion_ldms
    from ..convert.neural_heads import find_neural_heads, report_neural_heads

    quiet()
    findings, folder = examine(args.folder), args.folder
    autoencoders, heads, models = find_autoencoders(folder), find_neural_heads(folder), find_emotion_ldms(folder)
    if any(finding.path for finding in findings) or not (autoencoders or heads or models):
        print("\n".join(report(folder, findings)))
    if autoencoders:
        print("\n".join(report_autoencoders(folder, autoencoders)))
    if heads:
        print("\n".join(report_neural_heads(folder, heads)))
    if models:
        print("\n".join(report_emotion_ldms(models)))
    return 0
