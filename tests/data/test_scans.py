"""Scans in all formats, their units, depth maps, and what is no scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from emorig_diffusers.data.dataset import DataError
from emorig_diffusers.data.nphm_layout import (
    ANCHOR_VERTICES,
    REGISTERED,
    above_throat,
    is_nphm_layout,
    list_neutrals,
    read_nphm_scan,
)  # fmt: skip
from emorig_diffusers.data.scans import (
    Scan,
    as_points,
    estimate_normals,
    list_scans,
    read_scan,
    unit_of,
    unproject,
    write_scan,
)  # fmt: skip
from emorig_diffusers.evaluation.heads.measure import list_sets


@pytest.fixture(scope="module")
def ball() -> trimesh.Trimesh:
    return trimesh.creation.icosphere(3, 0.11)


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".glb", ".stl", ".npz", ".npy"])
def test_formats(ball: trimesh.Trimesh, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"scan{suffix}"
    if suffix == ".npz":
        write_scan(Scan(ball.vertices.astype(np.float32), ball.vertex_normals.astype(np.float32)), file)
    elif suffix == ".npy":
        np.save(file, np.concatenate([ball.vertices, ball.vertex_normals], 1))
    else:
        ball.export(file)
    scan = as_points(read_scan(file), np.random.default_rng(0), 500)
    assert len(scan.points) == 500
    assert np.linalg.norm(scan.points, axis=1) == pytest.approx(0.11, abs=2e-3)
    assert (scan.normals * scan.points).sum(1) == pytest.approx(0.11, abs=2e-3)


def test_a_ply_of_points(ball: trimesh.Trimesh, tmp_path: Path) -> None:
    """Normals are read where the file has them, and estimated where not: planes, turned away from the middle."""
    trimesh.PointCloud(ball.vertices).export(tmp_path / "bare.ply")
    assert read_scan(tmp_path / "bare.ply").normals is None
    rows = "\n".join(" ".join(f"{v:.6f}" for v in row) for row in np.hstack([ball.vertices, ball.vertex_normals]))
    names = "".join(f"property float {n}\n" for n in ("x", "y", "z", "nx", "ny", "nz"))
    text = f"ply\nformat ascii 1.0\nelement vertex {len(ball.vertices)}\n{names}end_header\n{rows}\n"
    (tmp_path / "points.ply").write_text(text)
    read = read_scan(tmp_path / "points.ply")
    assert read.normals == pytest.approx(ball.vertex_normals, abs=1e-5)
    estimated = estimate_normals(read.points)
    assert (estimated * ball.vertex_normals).sum(1).min() > 0.98


@pytest.mark.parametrize(("factor", "name"), [(1, "m"), (100, "cm"), (1000, "mm"), (4, "NPHM units"), (9, "")])
def test_units(ball: trimesh.Trimesh, factor: float, name: str) -> None:
    """Strays do not count; a head in no known unit is made as large as a typical one."""
    points = np.vstack([ball.vertices * factor, [[50.0 * factor, 0, 0]]])
    found, metres = unit_of(points)
    assert found == name
    assert (
        metres * factor == pytest.approx(1, rel=1e-6)
        if name
        else metres * 0.22 * factor == pytest.approx(0.28, rel=0.05)
    )


def test_depth_maps(tmp_path: Path) -> None:
    """A sphere before a wall: points lie on it, normals look at the viewer, the jump between them is left out."""
    row, column = np.mgrid[:64, :64] + 0.5 - 32
    ray = np.stack([column / 80, row / 80, np.ones_like(row)], -1)
    unit = ray / np.linalg.norm(ray, axis=-1, keepdims=True)
    along = unit[..., 2] * 0.5
    inside = along**2 - 0.25 + 0.1**2
    depth = np.where(inside > 0, (along - np.sqrt(inside.clip(0))) * unit[..., 2], 0.0)
    scan = unproject(depth, 80)
    assert np.linalg.norm(scan.points - [0, 0, -0.5], axis=1) == pytest.approx(0.1, abs=1e-5)
    assert ((scan.points - [0, 0, -0.5]) / 0.1 * scan.normals).sum(1).min() > 0.9
    Image.fromarray((depth * 1000).round().astype(np.uint16)).save(tmp_path / "depth.png")
    read = read_scan(tmp_path / "depth.png", 80)
    assert np.linalg.norm(read.points - [0, 0, -0.5], axis=1) == pytest.approx(0.1, abs=1e-3)
    with pytest.raises(DataError, match="--focal"):
        read_scan(tmp_path / "depth.png")


def not_there(folder: Path) -> Path:
    return folder / "no.ply"


def damaged(folder: Path) -> Path:
    (folder / "half.npz").write_bytes(b"PK\x03\x04 and no more")
    return folder / "half.npz"


def no_mesh(folder: Path) -> Path:
    (folder / "text.ply").write_text("this is no mesh")
    return folder / "text.ply"


def unknown(folder: Path) -> Path:
    (folder / "scan.docx").write_text("")
    return folder / "scan.docx"


def other_arrays(folder: Path) -> Path:
    np.savez(folder / "other.npz", vertices=np.zeros((200, 3)))
    return folder / "other.npz"


def few(folder: Path) -> Path:
    np.save(folder / "few.npy", np.eye(3))
    return folder / "few.npy"


def one_place(folder: Path) -> Path:
    np.save(folder / "one.npy", np.ones((300, 3)))
    return folder / "one.npy"


def no_numbers(folder: Path) -> Path:
    np.save(folder / "nan.npy", np.full((300, 3), np.nan))
    return folder / "nan.npy"


def photo(folder: Path) -> Path:
    Image.new("RGB", (20, 20)).save(folder / "photo.png")
    return folder / "photo.png"


BAD = {not_there: "no file", damaged: "damaged", no_mesh: "cannot be read", unknown: "format", other_arrays: "points",
       few: "only 3", one_place: "one place", no_numbers: "only 0", photo: "photo"}  # fmt: skip


@pytest.mark.parametrize("make", BAD)
def test_what_is_no_scan(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    with pytest.raises(DataError, match=BAD[make]) as error:
        read_scan(make(tmp_path), 100)
    assert "\n" not in str(error.value)


def test_folders(tmp_path: Path) -> None:
    for name in ("anna/neutral.ply", "anna/smile.npz", "ben.obj", "017/001/scan.ply", "017/001/flame.ply", ".x/a.ply"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert [row[:2] for row in list_scans(tmp_path)] == [
        ("017", "001"), ("anna", "neutral"), ("anna", "smile"), ("ben", "neutral"),
    ]  # fmt: skip
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no scans"):
        list_scans(tmp_path / "empty")


def test_nphm_layout(ball: trimesh.Trimesh, tmp_path: Path) -> None:
    """People of the test and evaluation splits, and those without an open-mouthed scan, are left out."""
    rng = np.random.default_rng(0)
    registered = trimesh.Trimesh(rng.normal(size=(REGISTERED, 3)) * 0.3, [[0, 1, 2]], process=False)
    for person, expression in (
        ("017", "001"),
        ("017", "005"),
        ("018", "010"),
        ("019", "002"),
        ("020", "001"),
        ("199", "001"),
    ):
        folder = tmp_path / person / expression
        folder.mkdir(parents=True)
        ball.export(folder / "scan.ply")
    registered.export(tmp_path / "017/001/registration.ply")
    (tmp_path / "neutrals.json").write_text('{"18": 10}')
    assert is_nphm_layout(tmp_path)
    rows = list_neutrals(tmp_path)
    assert [row[:2] for row in rows] == [("017", "neutral"), ("017", "005"), ("018", "neutral")]
    assert [row[0] for row in list_neutrals(tmp_path, held_out=True)] == ["020"]
    assert [row[:2] for row in list_sets(tmp_path)] == [("identities", "020/neutral")]
    scan = read_nphm_scan(rows[0][2])
    assert scan.anchors == pytest.approx(registered.vertices[list(ANCHOR_VERTICES)], abs=1e-6)
    assert scan.vertices is not None and len(scan.vertices) == REGISTERED and scan.face is not None
    assert read_nphm_scan(rows[1][2]).vertices is None


def test_throats_are_cut() -> None:
    flame = np.zeros((5023, 3))
    flame[[3276, 3207, 3310]] = [[0, -1, 0], [0, -1, 1], [1, -1, 0]]
    assert above_throat(np.array([[0, -0.9, 0], [0, -1.1, 0.0]]), flame).tolist() == [True, False]
    with pytest.raises(DataError, match="5,023"):
        above_throat(np.zeros((1, 3)), flame[:10])


def test_scaled(ball: trimesh.Trimesh) -> None:
    scan = Scan(ball.vertices.astype(np.float32), ball.vertex_normals.astype(np.float32), anchors=np.ones((2, 3)))
    large = scan.scaled(4)
    assert large.points == pytest.approx(4 * scan.points) and large.anchors == pytest.approx(4 * np.ones((2, 3)))
    assert large.normals is scan.normals and replace(large, points=scan.points, anchors=scan.anchors) == scan
