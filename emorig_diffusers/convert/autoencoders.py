"""Which files of Diffusion Autoencoders a folder holds, told by what they hold, and the command that converts them."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path

from .doctor import check, files_below
from .files import ConvertError, read_checkpoint

DIFFAE_SITE = "https://github.com/phizaz/diffae (MIT; the links in its README)"
LICENCE = "of its training data's makers (the authors' weights: FFHQ's, non-commercial)"
AUTOENCODERS = {
    "autoencoder": "Diffusion Autoencoders, the encoder and the network that draws",
    "latent-net": "the same with the network that draws codes, from a latent run",
    "emotions": "a classifier of AffectNet's 8 emotions",
    "attributes": "a classifier of CelebA's 40 attributes",
    "classifier": "a classifier of other classes",
    "latent": "mean and standard deviation of the codes",
    "damaged": "perhaps of Diffusion Autoencoders",
}
"""Kinds of DiffAE's files -> what they are; most are options of `emorig convert diffae` too."""


def find_autoencoders(folder: Path) -> list[tuple[str, Path]]:
    """DiffAE's files in a folder and all below it, as (one of AUTOENCODERS, path), the nearest first.

    They are told by what they hold, as all of its checkpoints are called last.ckpt.
    """
    files = files_below(folder)
    kinds = [(autoencoder_kind(path), path) for path in files if path.suffix == ".ckpt" or path.name == "latent.pkl"]
    return [(kind, path) for kind, path in kinds if kind is not None]


def autoencoder_kind(path: Path) -> str | None:
    """One of AUTOENCODERS; `None` for a file of something else."""
    if path.suffix == ".ckpt" and check(path):
        of_emoca = any((place / "cfg.yaml").is_file() for place in list(path.parents)[:3])
        return "damaged" if path.name == "last.ckpt" and not of_emoca else None
    try:
        value = read_checkpoint(path)
    except ConvertError:
        return None
    state = value.get("state_dict", value)
    names = [str(name) for name in state] if isinstance(state, dict) else []
    for start, kind in (("ema_model.latent_net.", "latent-net"), ("ema_model.encoder.", "autoencoder")):
        if any(name.startswith(start) for name in names):
            return kind
    if "classifier.weight" in names:
        return {8: "emotions", 40: "attributes"}.get(len(state["classifier.weight"]), "classifier")
    return "latent" if "conds_mean" in names else None


def report_autoencoders(folder: Path, found: list[tuple[str, Path]]) -> list[str]:
    """What `find_autoencoders` found as lines of text, and the next step as the last one."""
    lines = []
    for kind, path in found:
        problem = check(path) if kind == "damaged" else None
        lines.append(f"{'unreadable' if problem else 'found':<10}  {path.name}: {AUTOENCODERS[kind]}")
        lines.append(f"{'':<10}  {path}{f' {problem}' if problem else ''}")
        lines.append(f"{'':<10}  licence: {LICENCE}")
    return [*lines, "", _next_autoencoder(folder, found)]


def _next_autoencoder(folder: Path, found: list[tuple[str, Path]]) -> str:
    again = f"then run `emorig doctor {shlex.quote(str(folder))}` again."
    paths = dict(reversed(found))  # the nearest of each kind
    if "damaged" in paths:
        return f"Next: '{paths['damaged']}' {check(paths['damaged'])}, {again}"
    kind, count = Counter(kind for kind, _ in found).most_common(1)[0]
    if count > 1:
        return (
            f"Next: run `emorig doctor` on a folder with the files of one model, as here are {count} of the kind "
            f"'{AUTOENCODERS[kind]}', which do not tell what they belong to."
        )
    files = {kind: shlex.quote(str(path)) for kind, path in paths.items()}
    main = files.pop("autoencoder", None) or files.pop("latent-net", None)
    if main is None:
        return f"Next: get the last.ckpt of an autoencoder from {DIFFAE_SITE}, put it anywhere in '{folder}', {again}"
    other = files.pop("classifier", None)
    options = "".join(f" --{kind} {file}" for kind, file in files.items())
    if other and "emotions" not in files:
        options += f" --emotions {other} --names NAMES"
    return f"Next: `emorig convert diffae {main}{options} OUT`, where OUT is a new folder."
