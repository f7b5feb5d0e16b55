"""Scans of heads: what a scan is, how files of them are read and written, and what unit they are in."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from scipy.spatial import KDTree

from ..files.atomic import write_file
from ..photo.io import PhotoError, open_picture
from .dataset import DataError

SUFFIXES = (".ply", ".obj", ".glb", ".gltf", ".stl", ".off", ".npz", ".npy")
DEPTH_SUFFIXES = (".png", ".tif", ".tiff", ".exr")
UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "NPHM units": 0.25, "inches": 0.0254}
"""Metres of the units that scans come in; the first that makes a head of a scan is taken."""
HEAD = (0.15, 0.38)  # metres; largest side of what is scanned with a head: a face alone, and with the neck
TYPICAL = 0.28  # metres; largest side of a head with its neck, for scans in no unit at all
MOST = 300_000  # points that are kept of a scan; more tell nothing more about a head
FEWEST = 100
NEIGHBOURS = 12  # points that a normal is estimated from
JUMP = 0.02  # share of the depth by which neighbouring pixels of a depth map may differ and still be one surface
DEPTH_UNITS = 1000.0  # of a depth map of whole numbers, per metre: millimetres, as depth cameras have it


@dataclass(frozen=True)
class Scan:
    """Points on the surface of a head, and what else is known of them.

    Attributes:
        points: float32 [N, 3].
        normals: [N, 3] of unit length, outwards; `None` where unknown.
        face: bool [N], what lies on the face; `None` where unknown.
        anchors: [A, 3], of the canonical head; `None` where unknown.
        vertices: [V, 3], a registered template's; `None` where there is none.
        faces: int64 [F, 3] of `vertices`, or of `points` where these are a mesh's; `None` for a point cloud.
        exact, exact_normals: [M, 3], what is really there, to measure by; `None` where `points` are all that is known.
    """

    points: np.ndarray
    normals: np.ndarray | None = None
    face: np.ndarray | None = None
    anchors: np.ndarray | None = None
    vertices: np.ndarray | None = None
    faces: np.ndarray | None = None
    exact: np.ndarray | None = None
    exact_normals: np.ndarray | None = None

    def scaled(self, factor: float) -> Scan:
        """All places times a factor."""
        places = ("points", "anchors", "vertices", "exact")
        return replace(self, **{
            name: (getattr(self, name) * np.float32(factor)) for name in places if getattr(self, name) is not None
        })  # fmt: skip

    @property
    def is_mesh(self) -> bool:
        """Whether `faces` joins the points themselves."""
        return self.faces is not None and self.vertices is None


def write_scan(scan: Scan, file: Path) -> None:
    """Write a scan as NPZ, whole or not at all."""
    import io

    known = {f.name: getattr(scan, f.name) for f in fields(Scan) if getattr(scan, f.name) is not None}
    buffer = io.BytesIO()
    np.savez(buffer, **known)
    write_file(file, buffer.getvalue())


def read_scan(file: Path, depth_focal: float | None = None) -> Scan:
    """A scan from a mesh, a point cloud or a depth map, in the file's own unit.

    Args:
        file: Mesh or points (.ply .obj .glb .gltf .stl .off), arrays (.npz with `points`, and `normals` if there are
            any; .npy [N, 3 or 6]), or a depth map (.png .tif) with `depth_focal`.
        depth_focal: Focal length of a depth map in pixels; its middle is the picture's.

    Raises:
        DataError: There is no such file, or nothing in it is a scan; one sentence.
    """
    file, suffix = Path(file), Path(file).suffix.lower()
    if not file.is_file():
        raise DataError(f"There is no file '{file}'.")
    if suffix in DEPTH_SUFFIXES:
        return _checked(_depth_map(file, depth_focal), file)
    if suffix not in SUFFIXES:
        known = ", ".join((*SUFFIXES, *DEPTH_SUFFIXES))
        raise DataError(f"Cannot tell the format of '{file}': give a scan as {known}.")
    return _checked(_arrays(file) if suffix in (".npz", ".npy") else _mesh(file), file)


def _arrays(file: Path) -> Scan:
    try:
        loaded: Any = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if loaded.ndim != 2 or loaded.shape[1] not in (3, 6):
                raise DataError(
                    f"'{file}' holds an array {list(loaded.shape)}: points are [N, 3], with normals [N, 6]."
                )
            parts = {"points": loaded[:, :3]} | ({"normals": loaded[:, 3:]} if loaded.shape[1] == 6 else {})
        else:
            with loaded:
                parts = {name: loaded[name] for name in loaded.files}
        if "points" not in parts:
            raise DataError(f"'{file}' has no array called points, only {', '.join(sorted(parts)) or 'nothing'}.")
        known = {f.name for f in fields(Scan)}
        kinds = {"face": bool, "faces": np.int64}
        return Scan(**{k: np.asarray(v, kinds.get(k, np.float32)) for k, v in parts.items() if k in known})
    except DataError:
        raise
    except Exception:  # damaged arrays make NumPy stumble in a dozen ways
        raise DataError(f"'{file}' is damaged or holds no plain arrays: save it anew with numpy.savez.") from None


def _mesh(file: Path) -> Scan:
    try:
        loaded: Any = trimesh.load(file, process=False)
    except Exception as error:  # trimesh stumbles over damaged files in a dozen ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"'{file}' cannot be read as a mesh or points ({reason}): export it anew.") from None
    if isinstance(loaded, trimesh.Scene):
        parts = [g for g in loaded.dump() if isinstance(g, (trimesh.Trimesh, trimesh.PointCloud))]
        meshes = [g for g in parts if isinstance(g, trimesh.Trimesh)]
        if not parts:
            raise DataError(f"'{file}' holds neither a mesh nor points.")
        loaded = trimesh.util.concatenate(meshes) if meshes else parts[0]
    points = np.asarray(loaded.vertices, np.float32)
    if isinstance(loaded, trimesh.Trimesh) and len(loaded.faces):
        return Scan(points, np.asarray(loaded.vertex_normals, np.float32), faces=np.asarray(loaded.faces, np.int64))
    return Scan(points, _cloud_normals(loaded))


def _cloud_normals(cloud: Any) -> np.ndarray | None:
    """Normals of a point cloud, where its PLY has them."""
    try:
        data = cloud.metadata["_ply_raw"]["vertex"]["data"]
        normals = np.stack([data[name] for name in ("nx", "ny", "nz")], 1).astype(np.float32).reshape(-1, 3)
    except (KeyError, TypeError, IndexError, ValueError):
        return None
    return normals if len(normals) == len(cloud.vertices) else None


def _depth_map(file: Path, focal: float | None) -> Scan:
    if focal is None:
        raise DataError(f"'{file}' is a depth map: give its focal length in pixels, with --focal.")
    try:
        with open_picture(file, f"The depth map '{file}'") as picture:
            depth = np.asarray(picture)
    except PhotoError as error:
        raise DataError(str(error)) from error
    if depth.ndim != 2 or depth.dtype == np.uint8:
        raise DataError(
            f"'{file}' is a photo, not a depth map: one channel of 16-bit millimetres or of floating metres is needed."
        )
    metres = depth.astype(np.float32) / (DEPTH_UNITS if np.issubdtype(depth.dtype, np.integer) else 1.0)
    return unproject(metres, focal)


def unproject(depth: np.ndarray, focal: float) -> Scan:
    """Points and normals of a depth map [H, W] in metres, 0 or not finite where nothing is seen; y up, z to the viewer.

    Pixels at whose sides the depth jumps are left out.
    """
    height, width = depth.shape
    column, row = np.meshgrid(np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2)
    seen = np.isfinite(depth) & (depth > 0)
    z = np.where(seen, depth, np.nan)
    points = np.stack([column / focal * z, -row / focal * z, -z], -1)
    across, down = np.full_like(points, np.nan), np.full_like(points, np.nan)
    across[:, 1:-1], down[1:-1] = points[:, 2:] - points[:, :-2], points[2:] - points[:-2]
    normals = np.cross(down, across)  # rows go down, so this points to the viewer
    normals *= np.sign(-(normals * points).sum(-1, keepdims=True))
    smooth = (np.abs(across[..., 2]) < 2 * JUMP * z) & (np.abs(down[..., 2]) < 2 * JUMP * z)
    length = np.linalg.norm(normals, axis=-1)
    with np.errstate(invalid="ignore"):
        kept = np.asarray(smooth & (length > 0))
        return Scan(points[kept].astype(np.float32), (normals[kept] / length[kept][:, None]).astype(np.float32))


def _checked(scan: Scan, file: Path) -> Scan:
    """The scan without points that are no numbers; DataError where too little is left."""
    if scan.points.ndim != 2 or scan.points.shape[1] != 3:
        raise DataError(f"'{file}' has points {list(scan.points.shape)}: they must be [N, 3].")
    for name in ("normals", "face"):
        value = getattr(scan, name)
        if value is not None and len(value) != len(scan.points):
            raise DataError(f"'{file}' has {len(scan.points):,} points but {len(value):,} {name}.")
    finite = np.asarray(np.isfinite(scan.points).all(1))
    if scan.normals is not None and not scan.is_mesh:
        finite = finite & np.isfinite(scan.normals).all(1)
    if finite.sum() < FEWEST:
        raise DataError(f"'{file}' has only {finite.sum()} points: a scan of a head has at least {FEWEST}.")
    if np.ptp(scan.points[finite], axis=0).max() <= 0:
        raise DataError(f"All points of '{file}' lie in one place: that is no scan of a head.")
    if finite.all():
        return scan
    if scan.is_mesh:
        assert scan.faces is not None
        new = np.cumsum(finite) - 1
        kept = finite[scan.faces].all(1)
        return replace(rows(replace(scan, faces=None), finite), faces=new[scan.faces[kept]])
    return rows(scan, finite)


def rows(scan: Scan, chosen: np.ndarray) -> Scan:
    """Some of a scan's points, by their numbers or a mask; a mesh becomes a point cloud."""
    part = lambda value: None if value is None else value[chosen]
    return replace(
        scan, points=scan.points[chosen], normals=part(scan.normals), face=part(scan.face),
        faces=scan.faces if scan.vertices is not None else None,
    )  # fmt: skip


def as_points(scan: Scan, rng: np.random.Generator, count: int = MOST) -> Scan:
    """A mesh as points spread evenly over its surface; of a point cloud at most `count` points."""
    if scan.is_mesh:
        mesh = trimesh.Trimesh(scan.points, scan.faces, process=False)
        if mesh.area > 0:
            points, face = trimesh.sample.sample_surface(mesh, min(count, MOST), seed=rng)[:2]
            return Scan(np.asarray(points, np.float32), np.asarray(mesh.face_normals[face], np.float32))
    if len(scan.points) <= count:
        return replace(scan, faces=None) if scan.is_mesh else scan
    return rows(scan, np.sort(rng.choice(len(scan.points), count, replace=False)))


def unit_of(points: np.ndarray) -> tuple[str, float]:
    """Name and size in metres of the unit [N, 3] that points of a head are in; "" where no known unit makes a head.

    A few stray points do not count.
    """
    low, high = np.percentile(points, [1, 99], axis=0)
    size = float((high - low).max())
    for name, metres in UNITS.items():
        if HEAD[0] <= size * metres <= HEAD[1]:
            return name, metres
    return "", TYPICAL / size


def estimate_normals(points: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Normals [N, 3] of a cloud by the plane through each point's neighbours, turned away from the cloud's middle."""
    near = points[KDTree(points).query(points, min(neighbours, len(points)))[1]]
    near = near - near.mean(1, keepdims=True)
    _, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", near, near))
    normals = vectors[:, :, 0]
    outwards = np.sign((normals * (points - np.median(points, axis=0))).sum(1, keepdims=True))
    return (normals * np.where(outwards == 0, 1, outwards)).astype(np.float32)


def list_scans(folder: Path) -> list[tuple[str, str, Path]]:
    """(person, expression, file) of a folder of scans, sorted.

    A folder is a person with a file or a folder for each expression (`<person>/<expression>.ply`, or NPHM's
    `<person>/<expression>/scan.ply`); files that lie in the folder itself are people with one scan each.

    Raises:
        DataError: It is no folder, or holds no scans.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder '{folder}'.")
    found = []
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        if file.suffix.lower() not in SUFFIXES or not file.is_file() or any(part.startswith(".") for part in parts):
            continue
        if len(parts) == 1:
            found.append((file.stem, "neutral", file))
        elif len(parts) == 2:
            found.append((parts[0], file.stem, file))
        elif len(parts) == 3 and file.name == "scan.ply":
            found.append((parts[0], parts[1], file))
    if not found:
        raise DataError(f"'{folder}' holds no scans: give files such as PERSON/EXPRESSION.ply, or one file a person.")
    return found
