"""Which of the original models' files a folder holds, whether they are whole, and what to do next; all in one go.

Nothing is downloaded: the originals are for registered users, who get them from their makers.
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..files.folders import write_folder
from .albums import MODEL_NAME, model_number, shape_for
from .files import ConvertError, read_checkpoint

FLAME_SITE, DECA_SITE, EMOCA_SITE = (f"https://{name}.is.tue.mpg.de" for name in ("flame", "deca", "emoca"))
DECA_DATA = "https://github.com/yfeng95/DECA (folder data)"
DECA_SITES = f"{DECA_SITE} (download: https://github.com/yfeng95/DECA)"
RIG_SITE = "https://github.com/adobe-research/diffusion-rig (the link to Google Drive in its README)"
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
        licence: In a few words.
    """

    key: str
    names: tuple[str, ...]
    purpose: str
    source: str
    required: str = "no"
    licence: str = "under its makers' terms"

    def licence_of(self, path: Path) -> str:
        """Of one of its files."""
        return LICENCES.get(path.name, self.licence)


_FLAME, _DECA = "FLAME's licence, as agreed to when registering", "DECA's licence, non-commercial research"
LICENCES = {
    "flame2023_Open.pkl": "CC-BY-4.0",
    "FLAME_texture.npz": "CC-BY-NC-SA-4.0",
    "FLAME_albedo_from_BFM.npz": "the Basel Face Model's licence, non-commercial research",
}
"""File name -> licence, where it is not that of the others of its kind."""


ORIGINALS = (
    Original(
        "model", ("generic_model.pkl", "flame2023.pkl", "flame2023_Open.pkl"), "FLAME 2020 or 2023, the head",
        FLAME_SITE, "yes", _FLAME,
    ),
    Original("landmarks", ("landmark_embedding.npy",), "FLAME's 68 landmarks, for fitting", DECA_DATA, "yes", _DECA),
    Original("template", ("head_template.obj",), "FLAME's texture coordinates", DECA_DATA, "yes", _DECA),
    Original(
        "texture", ("FLAME_texture.npz", "FLAME_albedo_from_BFM.npz"), "the skin's colours, as DiffusionRig sees them",
        f"{FLAME_SITE} (texture space; the other one: https://github.com/TimoBolkart/BFM_to_FLAME)",
    ),
    Original(
        "mediapipe", ("mediapipe_landmark_embedding.npz",), "MediaPipe's landmarks on FLAME", FLAME_SITE,
        licence=_FLAME,
    ),
    Original("deca", ("deca_model.tar",), "DECA, from a photo to codes", DECA_SITES, "one of", _DECA),
    Original(
        "emoca", ("EMOCA_v2_lr_mse_20/cfg.yaml",), "EMOCA, with better expressions", EMOCA_SITE, "one of",
        "EMOCA's licence, non-commercial research",
    ),
    Original("mask", ("uv_face_eye_mask.png",), "where wrinkles lie", DECA_DATA, licence=_DECA),
    Original(
        "displacement", ("fixed_displacement_256.npy",), "the relief below the wrinkles", DECA_DATA, licence=_DECA
    ),
    Original(
        "rig", ("modelNNNNNN.pt",), "DiffusionRig, the network that draws", RIG_SITE,
        licence="the Adobe Research licence, non-commercial research",
    ),
    Original(
        "mean_shape", ("mean_shape.pkl",), "the one person of a stage 2, beside its model or in its LMDB",
        "its training", licence="that of its training",
    ),
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
        others: Whole files of the same kind that were not chosen.
    """

    original: Original
    path: Path | None = None
    problem: str | None = None
    others: tuple[Path, ...] = ()

    @property
    def status(self) -> str:
        """"found", "missing" or "unreadable"."""
        return "missing" if self.path is None else "unreadable" if self.problem else "found"


# looking


def examine(folder: Path) -> list[Finding]:
    """Look through a folder and all below it; one finding for each of ORIGINALS, in their order.

    Of several files of one name a whole one counts, then the one nearest to the folder; of DiffusionRig's models that
    of stage 2, then the one with the largest number; of EMOCA's the first of EMOCA_NAMES; of mean shapes that of the
    model's album. Hidden folders are left out, links to folders are followed.

    Raises:
        ConvertError: There is no such folder.
    """
    if not folder.is_dir():
        raise ConvertError(f"There is no folder '{folder}': give the one that holds the originals' files.")
    files = files_below(folder)
    findings = {original.key: _find(original, files) for original in ORIGINALS}
    shapes = [path for path in files if path.name == "mean_shape.pkl"]
    rig = findings["rig"]
    if rig.path and not rig.problem and (album := shape_for(rig.path, shapes)):
        own = Finding(findings["mean_shape"].original, album, _problem(album))
        findings["mean_shape"] = replace(own, others=tuple(path for path in shapes if path != album))
    return list(findings.values())


def files_below(folder: Path) -> list[Path]:
    """All files in a folder and below it, the nearest first; hidden folders are left out."""
    return sorted(_files(folder), key=lambda path: (len(path.parts), path))


def _files(folder: Path) -> Iterator[Path]:
    """Links to folders are followed, each folder once however many ways lead to it."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in names)


def _find(original: Original, files: list[Path]) -> Finding:
    match original.key:
        case "emoca":
            candidates = _emoca_models(files)
        case "rig":
            numbered = [(model_number(path), path) for path in files]
            numbered = sorted(((n, path) for n, path in numbered if n is not None), key=lambda pair: pair[0])
            candidates = [path for _, path in reversed(numbered)]
        case _:
            candidates = [path for name in original.names for path in files if path.name == name]
    findings = [Finding(original, path, _problem(path)) for path in candidates]
    whole = [finding for finding in findings if not finding.problem]
    if whole:
        return replace(whole[0], others=tuple(finding.path for finding in whole[1:] if finding.path is not None))
    return next(iter(findings), None) or _packed(original, files)


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
    inside = {"emoca": r"(.*/)?checkpoints/[^/]*\.ckpt", "rig": rf"(.*/)?{MODEL_NAME}"}
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
            lines.append(f"{'':<10}  licence: {original.licence_of(path)}")
            if finding.others and original.key in ("rig", "mean_shape", "emoca"):
                lines.append(f"{'':<10}  chosen before {_names(finding.others)}")
        elif original.source.startswith("http"):
            need = {"yes": "required", "one of": "DECA or EMOCA is required", "no": "optional"}[original.required]
            lines.append(f"{'':<10}  {need}, {original.licence}: {original.source}")
    return [*lines, "", next_step(folder, findings)]


def _names(paths: tuple[Path, ...]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"{', '.join(map(str, paths[:3]))}{more}"


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
    options: dict[str, Any] = {key: paths.get(key) for key in ("texture", "landmarks", "template", "mediapipe")}
    head = convert_flame(paths["model"], folder / "head", **options)
    source = paths.get("emoca") or paths["deca"]
    mode = emoca_mode(source) if source.is_dir() else None
    say(f"{source} -> encoder")
    maps: dict[str, Any] = {key: paths[key] for key in ("mask", "displacement") if key in paths}
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
    if shape is not None and (rig is None or shape_for(rig, [shape]) != shape):
        say(f"{shape} is left out, as nothing says that it is of this model: see `emorig convert diffusion-rig --help`")
        shape = None
    say(f"{rig or 'head and encoder'}{f' with the shape in {shape}' if shape else ''} -> pipeline")
    if rig is None:
        assemble(out, head, encoder)
        return
    convert_rig(rig, out, head, encoder, mean_shape=shape, say=say)
