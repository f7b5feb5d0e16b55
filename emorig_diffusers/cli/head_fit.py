"""`emorig head fit`, `transfer` and `evaluate`: neural heads of scans, and how good they are."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .neural_heads import add_action, open_head, read_codes, surface_of
from .options import new_command, path, seed

if TYPE_CHECKING:
    import numpy as np

    from ..models.geometry import Surface
    from ..models.nphm_fit import HeadFit

POOR = 0.004  # metres; median distance of a scan from its fit from which on something must be wrong
_FIT = "Fit a head to a scan: a mesh, a point cloud or a depth map, in any unit and however it is turned"
_FIT_NOTES = (
    "The head is written in the scan's coordinates, so that both lie on each other. Ctrl-C ends the fit with the "
    'best that was found so far. Landmarks are JSON, such as {"nose_tip": [x, y, z], "eye_outer_left": …}, three or '
    "more; left is the subject's."
)
_TRANSFER = "Give the head A the expression of B"
_EVALUATE = "Fit heads to held-out scans and print how close they come, with linear heads to compare with"
_EVALUATE_NOTES = (
    "FOLDER holds scans in NPHM's space, or sets of them in folders, as train/make_scans.py writes them: it is read as "
    "it lies, without a search for rotation or scale. Scans that were sampled from a linear head favour the fit of "
    "that head: the nonlinear ones tell methods apart."
)


def add_actions(actions: Any) -> None:
    """Add the actions to the subparsers of `emorig head`."""
    fit = add_action(actions, run_fit, _FIT, "SCAN", notes=_FIT_NOTES)
    fit.add_argument("--codes", metavar="JSON", type=path, help="write the codes and the scan's place to this file too")
    fit.add_argument("--landmarks", metavar="JSON", type=path, help="points of the scan by name, to place it by")
    fit.add_argument("--focal", metavar="PIXELS", type=float, help="of a depth map")
    fit.add_argument("--identity-only", action="store_true", help="fit no expression: the mouth is as in neutral scans")
    fit.add_argument("--steps", metavar="N", type=int, help="of the fit (default: 240)")
    fit.add_argument("--seed", metavar="N", type=seed, default=0, help="of the points that are looked at (default: 0)")
    add_action(actions, run_transfer, _TRANSFER, "A", "B")
    add = new_command(actions, run_evaluate, _EVALUATE, notes=_EVALUATE_NOTES).add_argument
    add("model", metavar="MODEL", help="folder or Hub id of a neural head")
    add("folder", metavar="FOLDER", type=path, help="held-out scans")
    add("--train", metavar="DIR", type=path, help="registered scans to make Global and Local PCA of, as training's")
    add("--flame", metavar="DIR", type=path, help="a converted FLAME head to compare with")
    add("--no-linear", action="store_true", help="leave the open head's own fit out")
    add("--limit", metavar="N", type=int, help="scans of each set (default: all)")
    add("--steps", metavar="N", type=int, help="of the neural fit (default: 240)")
    add("--published", action="store_true", help="print the figures of other work too, marked as such")


def run_fit(args: argparse.Namespace) -> int:
    """`emorig head fit`: print the files written."""
    from ..mesh.surfaces import check_surface_path, write_surfaces

    check_surface_path(args.out)
    if args.steps is not None and args.steps < 1:
        raise ValueError("--steps must be at least 1.")
    from ..data.scans import read_scan
    from ..models.scan_alignment import largest_part

    scan = read_scan(args.scan, args.focal)
    landmarks = None if args.landmarks is None else read_landmarks(args.landmarks)
    head = open_head(args.model)
    found = fit_file(head, scan, landmarks, args)
    surface = surface_of(head, found.shape, found.expression, args.resolution)
    print(write_surfaces(in_scan(largest_part(surface), found), args.out))
    if args.codes is not None:
        print(write_fit(args.codes, found))
    if found.misfit > POOR:
        print(
            f"emorig: the scan lies {found.misfit * 1000:.0f} mm from its fit: give --landmarks if it is turned "
            "wrongly; what is no head fits badly.",
            file=sys.stderr,
        )
    return 0


def fit_file(head: Any, scan: Any, landmarks: Any, args: argparse.Namespace) -> HeadFit:
    """The fit, with a bar on a terminal's stderr."""
    import numpy as np
    from tqdm import tqdm

    from ..data.scans import as_points, unit_of
    from ..models.nphm_fit import STEPS, fit_scan

    cloud = as_points(replace(scan, exact=None), np.random.default_rng(args.seed))
    name, unit = unit_of(cloud.points)
    steps = STEPS if args.steps is None else args.steps
    with tqdm(desc="emorig", total=steps, unit="step", disable=None, leave=False) as bar:

        def show(_: int, loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()

        found = fit_scan(
            head, cloud.points, cloud.normals, unit, bool(name), landmarks, steps, args.seed,
            not args.identity_only, show,
        )  # fmt: skip
    if found.interrupted:
        print("emorig: stopped: the best that was found so far is written.", file=sys.stderr)
    return found


def read_landmarks(path: Path) -> dict[str, np.ndarray]:
    """Points [3] by name.

    Raises:
        ValueError: The file holds something else.
        OSError: It cannot be read.
    """
    import numpy as np

    from ..files.texts import parse_json

    try:
        points = {name: np.asarray(point, np.float64) for name, point in parse_json(path.read_bytes()).items()}
        if any(point.shape != (3,) or not np.isfinite(point).all() for point in points.values()):
            raise ValueError
    except (ValueError, AttributeError, TypeError):
        raise ValueError(f"'{path}' must hold points by name, such as {{\"nose_tip\": [0.0, 1.5, 9.0]}}.") from None
    return points


def in_scan(surface: Surface, found: HeadFit) -> Surface:
    """A head's surface in the coordinates of the scan that it was fitted to."""
    import torch

    from ..models.geometry import Surface

    vertices = found.placement.invert(surface.vertices.double().cpu().numpy())
    return Surface(torch.from_numpy(vertices).float(), surface.faces)


def write_fit(path: Path, found: HeadFit) -> Path:
    """Codes and the scan's place as JSON, atomically; `emorig head morph` and `transfer` read it."""
    from ..files.atomic import write_file

    place = found.placement
    codes = {
        "shape": found.shape[0].tolist(),
        "expression": None if found.expression is None else found.expression[0].tolist(),
        "scan": {
            "rotation": place.rotation.tolist(), "scale": place.scale, "shift": place.shift.tolist(),
            "misfit_mm": round(found.misfit * 1000, 3),
        },
    }  # fmt: skip
    write_file(path, json.dumps(codes).encode())
    return path


def run_transfer(args: argparse.Namespace) -> int:
    """`emorig head transfer`: print the file written."""
    from ..mesh.surfaces import check_surface_path, write_surfaces

    check_surface_path(args.out)
    head = open_head(args.model)
    (shape, _), (_, expression) = read_codes(args.a, head), read_codes(args.b, head)
    if expression is None:
        raise ValueError(f"'{args.b}' has no expression to give: fit it without --identity-only.")
    print(write_surfaces(surface_of(head, shape, expression, args.resolution), args.out))
    return 0


def run_evaluate(args: argparse.Namespace) -> int:
    """`emorig head evaluate`: print the table."""
    from ..evaluation.heads.run import evaluate_heads

    for name in ("limit", "steps"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1.")
    head = open_head(args.model)
    print(evaluate_heads(
        head, args.folder, args.train, args.flame, not args.no_linear, args.limit, args.steps, args.published
    ))  # fmt: skip
    return 0
