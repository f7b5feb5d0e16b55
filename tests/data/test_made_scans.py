"""Scans that are made of the open head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from emorig_diffusers.data.made_scans import (
    METRES_PER_UNIT,
    OPEN_JAW,
    Collection,
    Expression,
    ScanMaker,
    above_cut,
    plan_scans,
)  # fmt: skip
from emorig_diffusers.models.head import PARTS, HeadModel
from emorig_diffusers.models.nphm import ANCHORS


@pytest.fixture(scope="module")
def maker(head: HeadModel) -> ScanMaker:
    return ScanMaker(head)


def test_anchors(maker: ScanMaker) -> None:
    """On the face they lie within a centimetre of NPHM's, and pairs are mirror images."""
    found = maker.head.template[maker.anchor_vertices] + maker.shift
    away = (found - torch.tensor(ANCHORS) * METRES_PER_UNIT).norm(dim=1)
    assert away[[0, 1, 10, 11, 12, 13, 14, 15, 33, 34, 35]].max() < 0.014 and away.median() < 0.008
    mirrored = found[0:32:2] * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.allclose(mirrored, found[1:32:2], atol=3e-3)


def test_kinds(maker: ScanMaker) -> None:
    """No linear combination of the head's bases makes a field or hair; hair lies on the skull, not on the face."""
    bases = torch.cat([maker.head.shape_basis, maker.head.expression_basis]).flatten(1).double()
    left: dict[str, float] = {}
    for kind in ("linear", "field", "hair"):
        person = maker.person(kind, np.random.default_rng(1))
        offsets = person.offsets.flatten().double()
        rest = offsets - bases.T @ torch.linalg.lstsq(bases.T, offsets).solution
        left[kind] = float(rest.view(-1, 3).norm(dim=1).square().mean().sqrt())
        if kind == "hair":
            field = maker.person("field", np.random.default_rng(1)).offsets
            hair = (person.offsets - field).norm(dim=1)
            crown = maker.head.template[:, 1].argmax()
            nose = maker.head.template[:, 2].argmax()
            assert hair[crown] > 0.004 and hair[nose] < 1e-4
    assert left["linear"] == 0 and left["field"] > 0.001 and left["hair"] > left["field"]


def test_mouths_open(maker: ScanMaker) -> None:
    """A jaw that opens shows the cavity, and takes the chin along."""
    person, rng = maker.person("linear", np.random.default_rng(0)), np.random.default_rng(0)
    wide = replace(maker.neutral, name="open", jaw=0.3)
    closed = Expression("closed", maker.neutral.units, 0.0)
    cavity = maker.head.faces[maker.head.face_part == PARTS.index("mouth_cavity")].unique().numpy()
    skin = maker.head.faces[maker.head.face_part == PARTS.index("skin")].unique().numpy()
    cavity = np.setdiff1d(cavity, skin)
    mouth = lambda points: points[(np.abs(points[:, 0]) < 0.03) & (points[:, 1] < -0.025) & (points[:, 2] > 0)]
    inside = lambda scan: np.isin(KDTree(scan.vertices).query(mouth(scan.points))[1], cavity).sum()
    assert inside(maker.scan(person, wide, rng)) > 3 * inside(maker.scan(person, closed, rng)) + 5
    chin = maker.anchor_vertices[38]
    assert maker.vertices(person, wide)[chin, 1] < maker.vertices(person, closed)[chin, 1] - 0.005


def test_a_scan(maker: ScanMaker) -> None:
    """Throat cut, holes, noise along the normals; what it is measured by has neither holes nor noise."""
    person = maker.person("field", np.random.default_rng(5))
    scan = maker.scan(person, maker.neutral, np.random.default_rng(3), 3000, noise=0.002, exact=True)
    clean = maker.scan(person, maker.neutral, np.random.default_rng(3), 3000, noise=0.0)
    off = ((scan.points - clean.points) * clean.normals).sum(1)
    assert off.std() == pytest.approx(0.002, rel=0.1) and clean.normals == pytest.approx(scan.normals)
    assert above_cut(clean.points).all() and above_cut(scan.exact).all()
    assert scan.vertices is not None and not above_cut(scan.vertices).all()
    assert scan.face.mean() == pytest.approx(0.35, abs=0.2) and len(scan.exact) > len(scan.points)
    assert maker.neutral.jaw == OPEN_JAW and scan.anchors == pytest.approx(scan.vertices[maker.anchor_vertices])


def test_a_collection(maker: ScanMaker) -> None:
    """New people are held out, linear ones apart from the others; the same seed makes the same scans."""
    plan = dict(plan_scans(maker, Collection(2, 1, 1, 1), seed=4))
    assert len(plan) == 3 * 3 * 2
    people = lambda folder: {place.parent.name for place in plan if place.parts[: len(folder)] == folder}
    assert people(("train",)) == {f"{kind}-{n:03d}" for kind in ("linear", "field", "hair") for n in (0, 1)}
    assert people(("held_out", "identities-nonlinear")) == {"field-002", "hair-002"}
    assert people(("held_out", "expressions-linear")) == {"linear-002"}
    place = Path("train/hair-001/neutral.npz")
    again = dict(plan_scans(maker, Collection(2, 1, 1, 1), seed=4))[place]()
    assert np.array_equal(plan[place]().points, again.points)
