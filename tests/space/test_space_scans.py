"""Scans in the demo: a neural head is fitted to what a visitor uploads."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from quick_alignment import align_quickly
from scipy.spatial import KDTree
from test_space import REPOSITORY, WAITING, demo_of, opened

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.cli.neural_heads import read_codes
from emorig_diffusers.models.nphm import NeuralHeadModel

pytest.importorskip("gradio")
STEPS = 12


@pytest.fixture(scope="module")
def neural() -> NeuralHeadModel:
    """A small head that starts as an ellipsoid, and that its codes bend."""
    torch.manual_seed(0)
    head = NeuralHeadModel(16, 7, 4, 3, 24, 2, 8, 6, 32, 4, 5, deformation="backward").eval().requires_grad_(False)
    for name in ("shape_std", "expression_std"):
        getattr(head, name).fill_(0.05)
    head.expression.linears[-1].weight.normal_(0, 0.05)
    return head


@pytest.fixture(scope="module")
def mesh(neural: NeuralHeadModel) -> trimesh.Trimesh:
    """The average head as a scanner may have it: in millimetres, moved."""
    surface = neural.surface(neural.shape_mean[None], None, resolution=64)
    return trimesh.Trimesh(surface.vertices.numpy() * 1000 + [5, 0, 90], surface.faces.numpy(), process=False)


@pytest.fixture(scope="module")
def app() -> Iterator[ModuleType]:
    """The demo's modules, whose fits take few steps and do not look far."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY / "space"))
        import app
        import scans

        patch.setattr(scans, "STEPS", STEPS)
        patch.setattr(scans, "RESOLUTION", 64)
        align_quickly(patch)
        yield app


@pytest.fixture(scope="module")
def url(
    app: ModuleType, pipe: EmoRigPipeline, neural: NeuralHeadModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with demo_of(pipe, tmp_path_factory.mktemp("scans"), head=neural) as url:
        yield url


def test_a_scan_is_fitted(browser: Any, url: str, mesh: trimesh.Trimesh, neural: NeuralHeadModel,
                          tmp_path: Path) -> None:  # fmt: skip
    """It is shown, and its files lie on the scan and open again; what is no scan is said in a sentence."""
    mesh.export(tmp_path / "me.ply")
    (tmp_path / "letter.ply").write_text("Dear all, this is not a scan.")
    with opened(browser, url) as visit:
        page = visit.page
        give = lambda name: page.set_input_files("#scan input[type=file]", str(tmp_path / name))
        page.get_by_role("tab", name="3-D scan").click()
        page.locator("#run-scan").click()
        visit.says("Upload a scan first.")
        give("letter.ply")
        page.locator("#scan").get_by_text("letter").first.wait_for()
        page.locator("#run-scan").click()
        visit.says("'letter.ply' cannot be read as a mesh or points")
        page.locator("#scan").get_by_role("button", name="Clear").first.click()
        give("me.ply")
        page.locator("#scan").get_by_text("me").first.wait_for()
        page.locator("#run-scan").click()
        visit.says("of the head.")
        page.locator("#fit canvas").wait_for(timeout=WAITING)
        for button, name in (("GLB (on the scan)", "me_head.glb"), ("codes", "me_codes.json")):
            with page.expect_download(timeout=WAITING) as download:
                visit.click(f"Download {button}")
            assert download.value.suggested_filename == name
            download.value.save_as(tmp_path / name)
        shown = trimesh.load(_bytes(visit, page.locator("#fit a").first.get_attribute("href")), file_type="glb")
    assert sorted(shown.geometry) == ["head", "scan"] and 0.15 < np.ptp(shown.geometry["head"].vertices[:, 1]) < 0.5
    fitted = trimesh.load(tmp_path / "me_head.glb").to_geometry()
    assert KDTree(mesh.vertices).query(fitted.vertices)[0].mean() < 8  # mm, after a few steps
    assert json.loads((tmp_path / "me_codes.json").read_text())["scan"]["scale"] == pytest.approx(0.001, rel=0.1)
    assert read_codes(tmp_path / "me_codes.json", neural)[0].any()


def test_programs_fit_scans(url: str, mesh: trimesh.Trimesh, neural: NeuralHeadModel, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    mesh.export(tmp_path / "me.ply")
    (tmp_path / "letter.ply").write_text("Dear all, this is not a scan.")
    client = Client(url, verbose=False)
    head, codes = client.predict(scan=handle_file(tmp_path / "me.ply"), api_name="/fit_scan")
    assert KDTree(mesh.vertices).query(trimesh.load(head).to_geometry().vertices)[0].mean() < 8  # mm
    assert read_codes(Path(codes), neural)[0].any()
    with pytest.raises(Exception, match="'letter.ply' cannot be read as a mesh or points"):
        client.predict(scan=handle_file(tmp_path / "letter.ply"), api_name="/fit_scan")


def _bytes(visit: Any, address: str) -> Any:
    import io

    return io.BytesIO(visit.fetch(address))


def test_steps_are_told_and_stopped(
    app: ModuleType, neural: NeuralHeadModel, mesh: trimesh.Trimesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step is said; a visitor who stops it waits for none, and leaves no files, and soon no thread at work."""
    import scans

    fit, going_on = scans.fit_scan, threading.Event()

    def held(*given: Any, progress: Any, **named: Any) -> Any:
        """A fit whose fourth step takes as long as the test wants."""

        def count(step: int, loss: float) -> None:
            assert step < 3 or going_on.wait(60)
            progress(step, loss)

        return fit(*given, **named, progress=count)

    monkeypatch.setattr(scans, "fit_scan", held)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files"))
    mesh.export(tmp_path / "me.ply")
    others, job = _fits(), scans.fit_steps(neural, str(tmp_path / "me.ply"))
    said = [next(job)]
    while said[-1].done < 3:
        said.append(next(job))
    assert "Looking how" in said[0].html and "Step 3 of 12" in said[-1].html and 'value="3"' in said[-1].html
    job.close()
    assert not (tmp_path / "files").exists()
    [mine] = _fits() - others  # which is at its step yet
    going_on.set()
    mine.join(60)
    assert not mine.is_alive()


def _fits() -> set[threading.Thread]:
    """The threads that fit scans; others (the demo's server, clients) come and go as they like."""
    from scans import THREAD

    return {thread for thread in threading.enumerate() if thread.name.startswith(THREAD)}


def test_no_head_is_said(app: ModuleType, pipe: EmoRigPipeline) -> None:
    config = json.dumps(app.build_demo(pipe).get_config_file(), default=str)
    assert "say:scan.none" in config and "run-scan" not in config


def test_a_head_that_is_none(app: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["app.py", "--head", str(tmp_path)])
    with pytest.raises(SystemExit, match="cannot be loaded"):
        app.main()
