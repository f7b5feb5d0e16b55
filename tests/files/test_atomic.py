"""atomic.py and what writes through it: complete files or none, on full disks too, through links and into devices."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.cli import main, models
from emorig_diffusers.files.atomic import write_atomically, write_file, write_files
from emorig_diffusers.files.folders import FolderError, update_folder, write_folder
from emorig_diffusers.photo.files import WRITABLE
from emorig_diffusers.photo.io import PhotoError, read_photo, save_photo

Limit = Callable[[int], AbstractContextManager[None]]
FEW = Image.fromarray(np.random.default_rng(0).integers(60, 190, (3, 4, 3), np.uint8))
COLOUR = np.asarray(FEW.resize((64, 48), Image.Resampling.BICUBIC))  # smooth: lossy formats keep it


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(COLOUR)


def same(path: Path, rgb: np.ndarray) -> int:
    """The largest difference of a file's pixels from others."""
    return int(np.abs(read_photo(path).rgb.astype(int) - rgb).max())


# full disks


@pytest.mark.parametrize("suffix", WRITABLE)
def test_a_full_disk_costs_nothing(suffix: str, picture: Image.Image, full_disk: Limit, tmp_path: Path) -> None:
    path = save_photo(picture, tmp_path / f"a{suffix}")
    old, other = path.read_bytes(), Image.fromarray(COLOUR[::-1])
    whole = len(save_photo(other, tmp_path / f"whole{suffix}").read_bytes())
    (tmp_path / f"whole{suffix}").unlink()
    for size in (*range(0, whole, max(whole // 12, 1)), whole - 1):
        with full_disk(size), pytest.raises(PhotoError, match="Cannot write"):
            save_photo(other, path)
        assert path.read_bytes() == old and os.listdir(tmp_path) == [path.name], size
    with full_disk(whole):
        save_photo(other, path)
    assert same(path, COLOUR[::-1]) < 16


def test_commands_on_a_full_disk(
    pipe: EmoRigPipeline, astronaut: np.ndarray, full_disk: Limit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(models, "load_pipeline", lambda model: pipe)
    photo, photo_out = tmp_path / "astronaut.png", ("--emotion", "happy", "--intensity", "0", "-o")
    Image.fromarray(astronaut).save(photo)
    commands = {
        "a.jpg": ("edit", photo, *photo_out),
        "codes.json": ("codes", photo, "-o"),
        "head.glb": ("mesh", photo, "--size", "64", "-o"),
    }
    for name, command in commands.items():
        out = tmp_path / name
        out.write_bytes(b"old")
        with full_disk(3000):
            assert main.main([str(word) for word in (*command, out)]) == 2, name
        assert out.read_bytes() == b"old"
        printed, err = capsys.readouterr()
        assert printed == "" and err.startswith("emorig: ") and err.count("\n") == 1 and name in err
    assert sorted(os.listdir(tmp_path)) == sorted([*commands, photo.name])


def test_files_that_belong_together_are_written_together(full_disk: Limit, tmp_path: Path) -> None:
    files = {tmp_path / "a.obj": b"o" * 50, tmp_path / "a.mtl": b"m" * 200}
    for size in (49, 50, 199):
        for path in files:
            path.write_bytes(b"old")
        with full_disk(size), pytest.raises(OSError) as error:
            write_files(files)
        assert error.value.filename == str(tmp_path / ("a.obj" if size < 50 else "a.mtl"))
        assert [path.read_bytes() for path in files] == [b"old", b"old"]
    with full_disk(200):
        write_files(files)
    assert {path: path.read_bytes() for path in files} == files and len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("size", [100, 5000, 1_000_000])  # within the first JSON, within weights
def test_an_export_on_a_full_disk(
    size: int, pipe: EmoRigPipeline, full_disk: Limit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(models, "load_pipeline", lambda model: pipe)
    with full_disk(size):
        assert main.main(["export", str(tmp_path / "new" / "hub")]) == 2
    printed, err = capsys.readouterr()
    assert printed == "" and err.count("\n") == 1 and "hub cannot be written (" in err and "make room" in err
    assert os.listdir(tmp_path) == []


# links and devices


def test_what_a_link_leads_to_is_written(picture: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    place, link = tmp_path / "far" / "a.png", tmp_path / "link.png"
    for _ in range(2):  # a link to nothing, then to a file
        link.unlink(missing_ok=True)
        link.symlink_to(Path("far") / "a.png")
        save_photo(picture, link)
        assert link.is_symlink() and same(place, COLOUR) == 0
    place.chmod(0o640)
    save_photo(picture, link)
    assert place.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(tmp_path / "far")) == ["a.png"]


def test_devices_are_written_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE)
    write_file(tmp_path / "pipe", b"through")
    assert reader.communicate(timeout=60)[0] == b"through" and (tmp_path / "pipe").is_fifo()


def test_long_names(picture: Image.Image, tmp_path: Path) -> None:
    assert save_photo(picture, tmp_path / f"{'n' * 250}.png").is_file()


# folders that hold others' files too


def test_a_folder_is_updated_at_once_or_not_at_all(full_disk: Limit, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "head"

    def write(scratch: Path, data: bytes) -> None:
        (scratch / "config.json").write_bytes(b"{}")
        (scratch / "weights").write_bytes(data)

    update_folder(folder, lambda scratch: write(scratch, b"old"))
    (folder / "shim.py").write_text("stays")
    error = r"head cannot be written \(File too large\): make room there"
    with full_disk(1000), pytest.raises(FolderError, match=error):
        update_folder(folder, lambda scratch: write(scratch, b"x" * 500 * 4))
    kept = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert os.listdir(tmp_path / "new") == ["head"]
    assert kept == {"config.json": b"{}", "weights": b"old", "shim.py": b"stays"}
    update_folder(folder, lambda scratch: write(scratch, b"new"))
    assert (folder / "weights").read_bytes() == b"new" and (folder / "shim.py").read_text() == "stays"


# killed


HALF_A_FILE = """
from emorig_diffusers.files.atomic import write_atomically
with write_atomically(folder / "a") as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), 9)
"""
HALF_A_FOLDER = """
from emorig_diffusers.files.folders import write_folder
write_folder(folder / "b", lambda part: ((part / "half").touch(), os.kill(os.getpid(), 9)))
"""


def killed(folder: Path, code: str) -> None:
    """A process that is killed in the middle of writing into a folder."""
    code = f"import os\nfrom pathlib import Path\nfolder = Path({str(folder)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])})
    assert done.returncode == -9


def test_what_a_killed_process_leaves_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    killed(tmp_path, HALF_A_FILE)
    killed(tmp_path, HALF_A_FOLDER)
    assert len(os.listdir(tmp_path)) == 2 and not {"a", "b"} & {*os.listdir(tmp_path)}
    write_file(tmp_path / "a", b"whole")
    write_folder(tmp_path / "b", lambda part: (part / "whole").touch())
    assert sorted(os.listdir(tmp_path)) == ["a", "b"] and os.listdir(tmp_path / "b") == ["whole"]


def test_two_that_write_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with write_atomically(path) as first:
        first.write(b"first")
        with write_atomically(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
        with write_atomically(path) as third:  # under the name that the second has left
            third.write(b"third")
            third.flush()
            assert len(os.listdir(tmp_path)) == 3
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["a"]


def test_many_threads_write_one_file(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: write_file(tmp_path / "a", b"%d" % number * 999), range(200)))
    assert len({*(tmp_path / "a").read_bytes()}) <= 3 and os.listdir(tmp_path) == ["a"]
