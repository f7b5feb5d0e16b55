"""`emorig comfyui`: one file in, and out again; nothing of others' is touched."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from command import emorig, refused

from emorig_diffusers.cli.comfyui import FILE, SHIM


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    folder = tmp_path / "ComfyUI"
    for name in ("custom_nodes", "comfy_api/latest", "models"):
        (folder / name).mkdir(parents=True)
    (folder / "folder_paths.py").touch()
    return folder


def test_in_and_out(comfyui: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shim = comfyui / "custom_nodes" / FILE
    assert emorig("comfyui", comfyui) == 0
    assert shim.read_text() == SHIM and SHIM.count("\n") == 3
    written = shim.stat().st_mtime_ns
    assert emorig("comfyui", comfyui) == 0 and shim.stat().st_mtime_ns == written
    assert emorig("comfyui", "--remove", comfyui) == 0 and not shim.exists()
    assert emorig("comfyui", "--remove", comfyui) == 0
    said = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == ["written", "there already", "removed", "not there"]


def test_an_older_file_is_replaced(comfyui: Path) -> None:
    shim = comfyui / "custom_nodes" / FILE
    shim.write_text(SHIM + "old = True\n")
    assert emorig("comfyui", comfyui) == 0 and shim.read_text() == SHIM


def test_windows_package_with_its_own_python(comfyui: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (comfyui.parent / "python_embeded").mkdir()
    assert emorig("comfyui", comfyui.parent) == 0
    assert (comfyui / "custom_nodes" / FILE).is_file()
    assert f"'{comfyui.parent / 'python_embeded'}': install emorig-diffusers there too." in capsys.readouterr().out


def test_this_python_is_comfyuis(
    comfyui: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (comfyui / ".venv").mkdir()
    monkeypatch.setattr(sys, "prefix", str(comfyui / ".venv"))
    assert emorig("comfyui", comfyui) == 0
    assert "install" not in capsys.readouterr().out


def test_the_desktop_applications_folder_has_no_code(comfyui: Path) -> None:
    (comfyui / "folder_paths.py").unlink()
    (comfyui / "comfy_api/latest").rmdir()
    assert emorig("comfyui", comfyui) == 0 and (comfyui / "custom_nodes" / FILE).is_file()


def test_no_comfyui(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "custom_nodes").mkdir()
    for path in (tmp_path, tmp_path / "missing"):
        assert f"'{path}' is no ComfyUI" in refused(capsys, "comfyui", path)
    assert not any((tmp_path / "custom_nodes").iterdir())


def test_an_old_comfyui(comfyui: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (comfyui / "comfy_api/latest").rmdir()
    assert "older than V3 nodes: update it" in refused(capsys, "comfyui", comfyui)


@pytest.mark.parametrize("option", [[], ["--remove"]])
def test_others_files_stay(comfyui: Path, option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    shim = comfyui / "custom_nodes" / FILE
    shim.write_text("mine = 1\n")
    assert "holds something else" in refused(capsys, "comfyui", comfyui, *option)
    assert shim.read_text() == "mine = 1\n"
