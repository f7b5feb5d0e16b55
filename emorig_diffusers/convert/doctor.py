"""Which of the original models' files a folder holds, whether they are whole, and what to do next; all in one go.

Nothing is downloaded: the originals are for registered users, who get them from their makers.
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..folders import write_folder
from .files import ConvertError, read_checkpoint

FLAME_SITE, DECA_SITE, EMOCA_SITE = (f"https://{name}.is.tue.mpg.de" for name in ("flame", "deca", "emoca"))
DECA_DATA = "https://github.com/yfeng95/DECA (folder data)"
DECA_SITES = f"{DECA_SITE} (download: https://github.com/yfeng95/DECA)"
RIG_SITE = "https://github.com/adobe-research/diffusion-rig (the link to Google Drive in its README)"
DIFFAE_SITE = "https://github.com/phizaz/diffae (MIT; the links in its README)"
EMOCA_NAMES = ("EMOCA_v2_lr_mse_20", "EMOCA_v2_mp", "EMOCA_v2_lr_cos_1.5", "EMOCA")  # the first is EMOCA's default
EMOCA_MODES = ("detail", "coarse")


@dataclass(frozen=True)
class Original:
    """A file of the originals.

    Attributes:
        key: Short name in this module.
        names: File names as they are shipped, the preferred one first; of a checkpoint its pattern.
        purpose: What it is for.
        source: Where to register, or to get it.
        required: "yes", "one of" (DECA or EMOCA) or "no".
        licence: In a word.
    """

    key: str
    names: tuple[str, ...]
    purpose: str
    source: str
    required: str = "no"
    licence: str = "under its makers' terms"


ORIGINALS = (
    Original("model", ("generic_model.pkl", "flame2023.pkl"), "FLAME 2020 or 2023, the head", FLAME_SITE, "yes"),
    Original("landmarks", ("landmark_embedding.npy",), "FLAME's 68 landmarks, for fitting", DECA_DATA, "yes"),
    Original("template", ("head_template.obj",), "FLAME's texture coordinates", DECA_DATA, "yes"),
    Original(
        "texture", ("FLAME_texture.npz", "FLAME_albedo_from_BFM.npz"), "the skin's colours, as DiffusionRig sees them",
        f"{FLAME_SITE} (texture space; the other one: https://github.com/TimoBolkart/BFM_to_FLAME)",
    ),
    Original("mediapipe", ("mediapipe_landmark_embedding.npz",), "MediaPipe's landmarks on FLAME", FLAME_SITE),
    Original("deca", ("deca_model.tar",), "DECA, from a photo to codes", DECA_SITES, "one of"),
    Original("emoca", ("EMOCA_v2_lr_mse_20/cfg.yaml",), "EMOCA, with better expressions", EMOCA_SITE, "one of"),
    Original("mask", ("uv_face_eye_mask.png",), "where wrinkles lie", DECA_DATA),
    Original("displacement", ("fixed_displacement_256.npy",), "the relief below the wrinkles", DECA_DATA),
    Original("rig", ("modelNNNNNN.pt",), "DiffusionRig, the network that draws", RIG_SITE),
    Original("mean_shape", ("mean_shape.pkl",), "the one person of a stage 2, beside its model", "its training"),
)  # fmt: skip
"""What `emorig doctor` looks for, in the order of its report."""


@dataclass(frozen=True)
class Finding:
    """What became of one original.

    Attributes:
        original: What was looked for.
        path: The file, or EMOCA's folder; `None` where it is missing.
        problem: Why it cannot be used, as the end of "the file …"; `None` where it is whole, as far as can be seen
            without reading it all.
    """

    original: Original
    path: Path | None = None
    problem: str | None = None

    @property
    def status(self) -> str:
        """"found", "missing" or "unreadable"."""
        return "missing" if self.path is None else "unreadable" if self.problem else "found"


# looking


def examine(folder: Path) -> list[Finding]:
    """Look through a folder and all below it; one finding for each of ORIGINALS, in their order.

    Of several files of one name a whole one counts, then the one nearest to the folder; of DiffusionRig's models the
    one with the largest number; of EMOCA's the first of EMOCA_NAMES. Hidden folders are left out.

    Raises:
        ConvertError: There is no such folder.
    """
    if not folder.is_dir():
        raise ConvertError(f"There is no folder '{folder}': give the one that holds the originals' files.")
    files = sorted(_files(folder), key=lambda path: (len(path.parts), path))
    return [_find(original, files) for original in ORIGINALS]


def _files(folder: Path) -> Iterable[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in names)


def _find(original: Original, files: list[Path]) -> Finding:
    match original.key:
        case "emoca":
            candidates = _emoca_models(files)
        case "rig":
            numbered = [(int(m[1]), path) for path in files if (m := re.fullmatch(r"model(\d+)\.pt", path.name))]
            candidates = [path for _, path in sorted(numbered, key=lambda pair: -pair[0])]
        case _:
            candidates = [path for name in original.names for path in files if path.name == name]
    findings = [Finding(original, path, _problem(path)) for path in candidates]
    whole = [finding for finding in findings if not finding.problem]
    return next(iter(whole + findings), None) or _packed(original, files)


def _emoca_models(files: list[Path]) -> list[Path]:
    """Folders <name> with <name>/cfg.yaml and <name>/<mode>/checkpoints/*.ckpt, the preferred first."""
    folders = [path.parent for path in files if path.name == "cfg.yaml" and emoca_mode(path.parent)]
    rank = {name: i for i, name in enumerate(EMOCA_NAMES)}
    usable = [path for path in folders if path.name != "DECA"]  # EMOCA's makers ship DECA in the same layout
    return sorted(usable, key=lambda path: rank.get(path.name, len(rank)))


def emoca_mode(folder: Path) -> str | None:
    """The mode of an EMOCA model's folder that has checkpoints, "detail" before "coarse"; `None` without any."""
    return next((mode for mode in EMOCA_MODES if any((folder / mode / "checkpoints").rglob("*.ckpt"))), None)


def _problem(path: Path) -> str | None:
    """As `check`; for EMOCA's folder of its checkpoints."""
    if not path.is_dir():
        return check(path)
    checkpoints = sorted((path / str(emoca_mode(path)) / "checkpoints").rglob("*.ckpt"))
    problem, file = next(((check(file), file) for file in checkpoints if check(file)), (None, path))
    return problem and f"has {file.name}, which {problem}"


def _packed(original: Original, files: list[Path]) -> Finding:
    """The original inside a zip archive that was not unpacked, or nowhere."""
    inside = {"emoca": r"(.*/)?checkpoints/[^/]*\.ckpt", "rig": r"(.*/)?model\d+\.pt"}
    names = "|".join(map(re.escape, original.names))
    wanted = re.compile(inside.get(original.key, rf"(.*/)?({names})"))
    for path in files:
        if path.suffix == ".zip" and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(wanted.fullmatch(name) for name in archive.namelist()):
                    return Finding(original, path, "is not unpacked yet: unpack it where it is")
    return Finding(original)


def check(path: Path) -> str | None:
    """What is wrong with a file, as the end of "the file …: what to do", from its first and last bytes; else `None`.

    Told are files that cannot be read, empty ones, web pages (Google Drive's warnings, pages that ask to log in),
    pointers of Git LFS, archives that end early, and what begins as no file of that suffix does.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
            end = start if len(start) < 512 else file.seek(-64, os.SEEK_END) and file.read()
    except OSError as error:
        return f"cannot be opened ({error.strerror}): look at its permissions"
    if not start:
        return "is empty: download it again"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not the file: log in and download it again in a browser"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file: run `git lfs pull` there, or download it again"
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):
        return "ends too early: download it again"
    return _other(path.suffix, start, bytes(end))


_STARTS = {
    ".pkl": (b"\x80", b"(", b"c"), ".npy": (b"\x93NUMPY", b"\x80"), ".npz": (b"PK", b"\x93NUMPY", b"\x80"),
    ".tar": (b"PK", b"\x80"), ".pt": (b"PK", b"\x80"), ".ckpt": (b"PK", b"\x80"), ".png": (b"\x89PNG",),
}  # fmt: skip
_ENDS = {".pkl": b".", ".png": b"IEND\xaeB`\x82"}


def _other(suffix: str, start: bytes, end: bytes) -> str | None:
    if not start.startswith(_STARTS.get(suffix, (b"",))) or (suffix == ".obj" and b"\0" in start):
        return f"is no {suffix} file: download it again"
    if not end.endswith(_ENDS.get(suffix, b"")):
        return "ends too early: download it again"
    return None


# telling


def report(folder: Path, findings: list[Finding]) -> list[str]:
    """The findings as lines of text, and the next step as the last one."""
    lines = []
    for finding in findings:
        original, path = finding.original, finding.path
        name = " or ".join(original.names)
        lines.append(f"{finding.status:<10}  {name}: {original.purpose}")
        if path is not None:
            lines.append(f"{'':<10}  {path}{f' {finding.problem}' if finding.problem else ''}")
        elif original.source.startswith("http"):
            need = {"yes": "required", "one of": "DECA or EMOCA is required", "no": "optional"}[original.required]
            lines.append(f"{'':<10}  {need}, {original.licence}: {original.source}")
    return [*lines, "", next_step(folder, findings)]


def next_step(folder: Path, findings: list[Finding]) -> str:
    """One sentence: what to get, or the command that converts all."""
    again = f"then run `emorig doctor {shlex.quote(str(folder))}` again."
    broken = next((f for f in findings if f.problem), None)
    if broken is not None:
        return f"Next: '{broken.path}' {broken.problem}, {again}"
    lacking = _lacking(findings)
    if lacking:
        wanted = "; ".join(f"{' or '.join(o.names)} from {o.source}" for o in lacking)
        return f"Next: get {wanted}; put all of it anywhere in '{folder}', {again}"
    return f"Next: `emorig convert all {shlex.quote(str(folder))} OUT`, where OUT is a new folder."


def _lacking(findings: list[Finding]) -> list[Original]:
    """What has to be there and is not; EMOCA stands for DECA where both are missing."""
    found = {finding.original.key for finding in findings if finding.status == "found"}
    originals = [finding.original for finding in findings]
    lacking = [o for o in originals if o.required == "yes" and o.key not in found]
    encoders = [o for o in originals if o.required == "one of"]
    return lacking + ([] if any(o.key in found for o in encoders) else encoders[-1:])


# Diffusion Autoencoders, which need none of the above

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
    files = sorted(_files(folder), key=lambda path: (len(path.parts), path))
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


# converting


def convert_all(folder: Path, out: Path, say: Callable[[str], None] = print) -> Path:
    """Convert everything in a folder into one pipeline: head, encoder (EMOCA, which contains DECA, before DECA), its
    wrinkles and, where there is a model, DiffusionRig.

    Args:
        folder: As for `examine`.
        out: New or empty folder that `EmoRigPipeline.from_pretrained(out)` opens.
        say: Gets a line of text before each part.

    Returns:
        The folder `out`.

    Raises:
        ConvertError: Something required is missing, something found cannot be read; nothing is left behind.
    """
    findings = examine(folder)
    if _lacking(findings) or any(finding.problem for finding in findings):
        raise ConvertError(next_step(folder, findings).removeprefix("Next: "))
    paths = {finding.original.key: finding.path for finding in findings if finding.path is not None}

    def write(part: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=".parts-", dir=part.parent) as scratch:
            head, encoder = _convert_parts(paths, Path(scratch), say)
            _join(paths, part, head, encoder, say)

    return write_folder(out, write)


def _convert_parts(paths: dict[str, Path], folder: Path, say: Callable[[str], None]) -> tuple[Path, Path]:
    """Folders of head and encoder, made within `folder`."""
    from .deca import best_checkpoint, convert_deca, convert_emoca, sort_tensors
    from .flame import convert_flame

    say(f"{paths['model']} -> head")
    options = {key: paths.get(key) for key in ("texture", "landmarks", "template", "mediapipe")}
    head = convert_flame(paths["model"], folder / "head", **options)
    source = paths.get("emoca") or paths["deca"]
    mode = emoca_mode(source) if source.is_dir() else None
    say(f"{source} -> encoder")
    maps = {key: paths[key] for key in ("mask", "displacement") if key in paths}
    networks = sort_tensors(best_checkpoint(source, mode))[0] if mode else read_checkpoint(source)
    if maps and "D_detail" not in networks:
        say(f"{' and '.join(map(str, maps.values()))} left out, as this encoder has no wrinkles")
        maps = {}
    if mode:
        return head, convert_emoca(source, folder / "encoder", mode=mode, **maps)
    return head, convert_deca(source, folder / "encoder", **maps)


def _join(paths: dict[str, Path], out: Path, head: Path, encoder: Path, say: Callable[[str], None]) -> None:
    """One pipeline of head, encoder and, where there is a model, DiffusionRig."""
    from .rig import assemble, convert_rig

    rig, shape = paths.get("rig"), paths.get("mean_shape")
    say(f"{rig or 'head and encoder'} -> pipeline")
    if rig is None:
        assemble(out, head, encoder)
        return
    if shape is not None and shape.parent != rig.parent:
        say(f"{shape} is left out, as it does not lie beside the model: see `emorig convert diffusion-rig --help`")
        shape = None
    convert_rig(rig, out, head, encoder, mean_shape=shape)
