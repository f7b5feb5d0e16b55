"""Checkpoints of every original through its converter, folders of pipelines through `from_pretrained`, and single files
through what reads them; and their mutants."""

from __future__ import annotations

import io
import os
import pickle
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import original_deca
import original_diffae
import original_flame
import original_ldm
import original_nphm
import original_rig
import torch
from mutators import mutate
from original_flame import small_flame
from small_diffae import small_diffae
from small_ldm import small_ldm
from worker import Suite

from emorig_diffusers.cli.models import open_model
from emorig_diffusers.convert.autoencoders import find_autoencoders
from emorig_diffusers.convert.deca import convert_deca, convert_emoca, read_displacement, read_mask
from emorig_diffusers.convert.diffae import convert_diffae
from emorig_diffusers.convert.diffae_files import read_spread
from emorig_diffusers.convert.doctor import convert_all, examine, report
from emorig_diffusers.convert.emotion_ldm import convert_emotion_ldm
from emorig_diffusers.convert.emotion_ldm_files import find_emotion_ldms
from emorig_diffusers.convert.files import ConvertError, read_arrays
from emorig_diffusers.convert.flame import convert_flame, read_obj
from emorig_diffusers.convert.neural_heads import find_neural_heads
from emorig_diffusers.convert.nphm import convert_nphm
from emorig_diffusers.convert.rig import convert_rig, read_mean_shape
from emorig_diffusers.data.dataset import DataError
from emorig_diffusers.data.gnm import read_gnm
from emorig_diffusers.data.scans import read_scan
from emorig_diffusers.evaluation.metrics.checks import MetricError
from emorig_diffusers.evaluation.metrics.modules import read_module
from emorig_diffusers.files.folders import FolderError
from emorig_diffusers.files.pickles import load_tensor
from emorig_diffusers.hub.repository import WEIGHTS
from emorig_diffusers.pipelines.base import open_pipeline

_LARGEST = 2**25  # bytes of a file that is mutated
REFUSALS = (ConvertError, FolderError, DataError, MetricError, pickle.UnpicklingError)


@dataclass(frozen=True)
class Kind:
    """Files that go together, by their names, and what reads the folder that holds them."""

    files: Mapping[str, bytes]
    read: Callable[[Path], object]
    refusals: tuple[type[Exception], ...] = REFUSALS
    weight: int = 1


class _Refused(Exception):
    """An error of a kind's own."""


def suite(seed: int) -> Suite:
    """Files of every kind of checkpoint, one or two of them changed."""
    with tempfile.TemporaryDirectory() as folder:
        return folder_suite("checkpoints", seed, dict(make_kinds(Path(folder))))


def folder_suite(name: str, seed: int, kinds: Mapping[str, Kind]) -> Suite:
    """Folders of kinds, of which one or two files are changed, dropped or exchanged."""
    chosen = [kind for kind in sorted(kinds) for _ in range(kinds[kind].weight)]

    def make(case: int, folder: Path) -> str:
        rng = random.Random(f"{name} {seed} {case}")
        kind = chosen[rng.randrange(len(chosen))]
        files = dict(kinds[kind].files)
        for _ in range(rng.choice((1, 1, 2))):
            which = rng.choice([n for n, d in files.items() if len(d) < _LARGEST])
            if len(files) > 1 and rng.random() < 0.08:
                files[which] = files[rng.choice(sorted(files))] if rng.random() < 0.5 else b""
            else:
                files[which] = mutate(files[which], rng)
        write(files, folder)
        return kind

    def read(case: int, folder: Path) -> None:
        rng = random.Random(f"{name} {seed} {case}")
        kind = kinds[chosen[rng.randrange(len(chosen))]]
        try:
            kind.read(folder)
        except kind.refusals as error:
            raise _Refused(f"{type(error).__name__}: {error}") from error
        finally:
            shutil.rmtree(folder / "out", ignore_errors=True) if kind.read.__name__ == "written" else None

    return Suite(make, read, (_Refused,))


def write(files: Mapping[str, bytes], folder: Path) -> None:
    """Files below a folder."""
    for file, data in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)


def read_files(folder: Path) -> dict[str, bytes]:
    """The same, back."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def make_kinds(scratch: Path) -> Iterator[tuple[str, Kind]]:
    """Name -> files and reader. Where it makes no difference, tensors are one number over and over: small files."""
    quiet: Any = {"say": lambda line: None}
    yield "flame", Kind({"model.pkl": pickle.dumps(small_flame(), 2)}, _written(lambda f, out: convert_flame(
        f / "model.pkl", out)), weight=3)  # fmt: skip
    chumpy = {"model.pkl": original_flame._pickled_2020(small_flame())}
    yield "flame-2020", Kind(chumpy, _written(lambda f, out: convert_flame(f / "model.pkl", out)), weight=3)
    yield "flame-npz", Kind({"model.npz": _npz(**small_flame())}, _written(lambda f, out: convert_flame(
        f / "model.npz", out)), weight=2)  # fmt: skip
    for number, name in enumerate(("deca", "deca-legacy")):
        original_deca.write_deca(scratch / name, seed=number, flat=True)
        yield name, Kind(read_files(scratch / name), _written(lambda f, out: convert_deca(f / "deca_model.tar", out)),
                         weight=2)  # fmt: skip
    original_deca.write_emoca(scratch / "emoca", flat=True)
    yield "emoca", Kind(read_files(scratch / "emoca"), _written(lambda f, out: convert_emoca(f, out)), weight=3)
    torch.save(original_rig.random_state(original_rig.TINY, flat=True), scratch / "model.pt")
    yield "rig", Kind({"model.pt": (scratch / "model.pt").read_bytes()}, _written(lambda f, out: convert_rig(
        f / "model.pt", out, **quiet)), weight=3)  # fmt: skip
    files = original_diffae.save_all(scratch / "diffae", flat=True)
    place = {n: f.relative_to(scratch / "diffae") for n, f in files.items()}
    yield "diffae", Kind(read_files(scratch / "diffae"), _written(lambda f, out: convert_diffae(
        f / place["autoenc"], out, latent=f / place["latent.pkl"], emotions=f / place["emotions"],
        attributes=f / place["autoenc_cls"], latent_net=f / place["autoenc_latent"], **quiet)), weight=4)  # fmt: skip
    one_number = lambda t: t[(0,) * t.ndim].clone().expand(t.shape) if t.ndim > 1 else t
    flat = {n: one_number(t) for n, t in original_ldm.random_state().items()}
    original_ldm.save(flat, scratch / "ldm.ckpt")
    yield "ldm", Kind({"ldm.ckpt": (scratch / "ldm.ckpt").read_bytes()}, _written(lambda f, out: convert_emotion_ldm(
        f / "ldm.ckpt", out, **quiet)), weight=3)  # fmt: skip
    yield "nphm", Kind(_nphm(scratch / "nphm"), _written(lambda f, out: convert_nphm(
        f / "identity.tar", out, f / "expression.tar", f / "anchors.npy", f / "mean.npy", f / "std.npy", **quiet)),
        weight=3)  # fmt: skip
    yield "doctor", Kind(_originals(), _examined, weight=4)
    yield from _single_files()
    yield from _pipelines(scratch)


def _written(convert: Callable[[Path, Path], object]) -> Callable[[Path], object]:
    def written(folder: Path) -> None:
        convert(folder, folder / "out")

    return written


def _npz(**arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def _npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def _nphm(folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    shapes = {
        "identity": (original_nphm.identity_shapes(128), original_nphm.PEOPLE, original_nphm.CODE),
        "expression": (original_nphm.expression_shapes(), original_nphm.SCANS, original_nphm.EXPRESSION),
    }
    for name, (sizes, rows, width) in shapes.items():
        state = {n: torch.full((), 0.01).expand(size) for n, size in sizes.items()}
        original_nphm.save(state, rows, width, folder / f"{name}.tar")
    files = read_files(folder)
    code = np.full(original_nphm.CODE, 0.01)
    return files | {"anchors.npy": _npy(original_nphm.random_anchors()), "mean.npy": _npy(code), "std.npy": _npy(code)}


def _originals() -> dict[str, bytes]:
    """As users collect them, each small."""
    weights, picture = io.BytesIO(), io.BytesIO()
    torch.save({"weight": torch.zeros(300)}, weights)
    from PIL import Image

    Image.new("L", (40, 40), 9).save(picture, "png")
    return {
        "generic_model.pkl": pickle.dumps(small_flame(), 2),
        "landmark_embedding.npy": _npy({"full_lmk_faces_idx": [1]}),
        "head_template.obj": b"# a head\n" + b"v 0.1 0.2 0.3\n" * 99 + b"vt 0.1 0.2\n" * 9 + b"f 1/1 2/2 3/3\n" * 9,
        "FLAME_texture.npz": _npz(mean=np.zeros(300)), "deca_model.tar": weights.getvalue(),
        "model050000.pt": weights.getvalue(), "uv_face_eye_mask.png": picture.getvalue(),
        "fixed_displacement_256.npy": _npy(np.zeros((256, 256), np.float32)),
        "mean_shape.pkl": pickle.dumps([0.1] * 100), "sub/last.ckpt": weights.getvalue(),
    }  # fmt: skip


def _examined(folder: Path) -> None:
    findings = examine(folder)
    report(folder, findings)
    find_autoencoders(folder), find_neural_heads(folder), find_emotion_ldms(folder)
    convert_all(folder, folder.parent / "tmp" / "out", say=lambda line: None)


def _single_files() -> Iterator[tuple[str, Kind]]:
    one = lambda name, data, read: Kind({name: data}, lambda folder: read(folder / name))
    tensor = pickle.dumps(torch.linspace(0, 1, 48).reshape(3, 4, 4))
    yield "tensor", one("x.pkl", tensor, lambda file: load_tensor(file.read_bytes()))
    module = io.BytesIO()
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)), module)
    yield "module", one("x.pt", module.getvalue(), read_module)
    arrays = {"a": np.arange(9.0), "b": np.array(["x"])}
    yield "arrays", one("x.npz", _npz(**arrays), read_arrays)
    yield "object", one("x.npy", _npy(arrays), read_arrays)
    spread = io.BytesIO()
    torch.save({"conds_mean": torch.zeros(1, 8), "conds_std": torch.ones(1, 8)}, spread)
    yield "spread", one("x.pkl", spread.getvalue(), read_spread)
    yield "mean-shape", one("x.pkl", pickle.dumps(torch.zeros(1, 100)), read_mean_shape)
    yield "displacement", one("x.npy", _npy(np.zeros((256, 256), np.float32)), read_displacement)
    yield "mask", one("x.png", _originals()["uv_face_eye_mask.png"], read_mask)
    yield "obj", one("x.obj", _originals()["head_template.obj"], read_obj)
    cloud = np.random.default_rng(0).normal(size=(900, 6))
    yield "scan-npz", one("x.npz", _npz(points=cloud[:, :3], normals=cloud[:, 3:]), read_scan)
    yield "scan-npy", one("x.npy", _npy(cloud), read_scan)
    rows = "".join(" ".join(f"{x:.3f}" for x in row) + "\n" for row in cloud[:, :3])
    head = "ply\nformat ascii 1.0\nelement vertex 900\n" + "".join(f"property float {a}\n" for a in "xyz")
    yield "scan-ply", one("x.ply", f"{head}end_header\n{rows}".encode(), read_scan)
    depth = io.BytesIO()
    from PIL import Image

    Image.fromarray((1000 + np.add.outer(np.arange(64), np.arange(64))).astype(np.uint16)).save(depth, "PNG")
    yield "scan-depth", one("x.png", depth.getvalue(), lambda file: read_scan(file, 60.0))
    groups = ["skin_exterior", "hockey_mask", "eyes", "upper_lip", "lower_lip"]
    gnm = {
        "template_vertex_positions": np.zeros((9, 3)), "vertex_identity_basis": np.zeros((2, 9, 3)),
        "expression_basis": np.zeros((2, 9, 3)), "triangles": np.zeros((4, 3), int),
        "expression_names": np.array(["lower_face_0", "left_eye_0"]), "vertex_groups": np.ones((5, 9)),
        "vertex_group_names": np.array(groups), "template_joint_positions": np.zeros((2, 3)),
        "joint_names": np.array(["left_eye", "right_eye"]),
    }  # fmt: skip
    yield "gnm", one("gnm_head.npz", _npz(**gnm), read_gnm)


def _pipelines(scratch: Path) -> Iterator[tuple[str, Kind]]:
    """Opened as the command does, and as code does: diffusers' own errors of what a folder lacks are OSErrors."""
    opened = (ValueError, OSError)
    for name, pipe in (("diffae", small_diffae()), ("ldm", small_ldm())):
        pipe.save_pretrained(scratch / f"pipeline-{name}")
        files = read_files(scratch / f"pipeline-{name}")
        yield f"open-{name}", Kind(files, open_pipeline, opened, weight=5)
    files = read_files(WEIGHTS / "emorig-open")
    yield "open-emorig", Kind(files, open_pipeline, opened, weight=5)
    yield "model-emorig", Kind(files, lambda folder: open_model(os.fspath(folder)), (ValueError,), weight=2)
