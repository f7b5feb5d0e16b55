"""emorig doctor: what is there, what is missing, what is broken, and what to do next."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emorig_diffusers.convert.albums import shape_for
from emorig_diffusers.convert.doctor import ORIGINALS, Finding, check, convert_all, examine, next_step, report
from emorig_diffusers.convert.files import ConvertError
from emorig_diffusers.files.folders import FolderError

NAMES = {
    "model": "generic_model.pkl", "landmarks": "landmark_embedding.npy", "template": "head_template.obj",
    "texture": "FLAME_texture.npz", "mediapipe": "mediapipe_landmark_embedding.npz", "deca": "deca_model.tar",
    "mask": "uv_face_eye_mask.png", "displacement": "fixed_displacement_256.npy", "rig": "model050000.pt",
    "mean_shape": "mean_shape.pkl",
}  # fmt: skip
REQUIRED = ("model", "landmarks", "template", "deca")


def content(name: str) -> bytes:
    """A whole file of a kind, small."""
    buffer = io.BytesIO()
    match Path(name).suffix:
        case ".pkl":
            return pickle.dumps({"v_template": np.zeros((300, 3))}, 2)
        case ".npy":
            np.save(buffer, np.zeros(300))
        case ".npz":
            np.savez(buffer, mean=np.zeros(300))
        case ".png":
            Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)).save(buffer, "png")
        case ".obj":
            return b"# a head\n" + b"v 0.1 0.2 0.3\n" * 99
        case _:
            torch.save({"weight": torch.zeros(300)}, buffer, _use_new_zipfile_serialization="tar" not in name)
    return buffer.getvalue()


def put(folder: Path, name: str, data: bytes | None = None) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content(name) if data is None else data)
    return path


def found(folder: Path) -> dict[str, Finding]:
    findings = examine(folder)
    assert [f.original for f in findings] == list(ORIGINALS)
    return {f.original.key: f for f in findings}


def test_empty_folder(tmp_path: Path) -> None:
    findings = found(tmp_path)
    assert {f.status for f in findings.values()} == {"missing"}
    lines = "\n".join(report(tmp_path, list(findings.values())))
    for site in ("flame.is.tue.mpg.de", "deca.is.tue.mpg.de", "emoca.is.tue.mpg.de", "adobe-research/diffusion-rig",
                 "yfeng95/DECA", "TimoBolkart/BFM_to_FLAME"):  # fmt: skip
        assert f"https://{site}" in lines or f"https://github.com/{site}" in lines
    step = next_step(tmp_path, list(findings.values()))
    assert step == lines.splitlines()[-1]
    assert "get generic_model.pkl or flame2023.pkl or flame2023_Open.pkl from https://flame.is.tue.mpg.de" in step
    assert f"emorig doctor {tmp_path}" in step
    with pytest.raises(ConvertError, match="^get generic_model.pkl"):
        convert_all(tmp_path, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="There is no folder"):
        examine(tmp_path / "nowhere")


def test_files_at_any_depth(tmp_path: Path) -> None:
    for i, name in enumerate(NAMES.values()):
        put(tmp_path, f"{'deep/' * i}{name}")
    findings = found(tmp_path)
    for key, name in NAMES.items():
        assert (findings[key].status, findings[key].path.name) == ("found", name), key
    assert findings["emoca"].status == "missing"
    step = next_step(tmp_path, list(findings.values()))
    assert step == f"Next: `emorig convert all {tmp_path} OUT`, where OUT is a new folder."


@pytest.mark.parametrize("left_out", REQUIRED)
def test_what_is_required(left_out: str, tmp_path: Path) -> None:
    for key in REQUIRED:
        if key != left_out:
            put(tmp_path, NAMES[key])
    original = found(tmp_path)["emoca" if left_out == "deca" else left_out].original
    with pytest.raises(ConvertError) as caught:
        convert_all(tmp_path, tmp_path / "out")
    assert original.source in str(caught.value) and original.names[0] in str(caught.value)
    put(tmp_path, NAMES[left_out])
    assert "emorig convert all" in next_step(tmp_path, examine(tmp_path))


def test_emoca_stands_for_deca(tmp_path: Path) -> None:
    for key in REQUIRED[:-1]:
        put(tmp_path, NAMES[key])
    models = tmp_path / "assets/EMOCA/models"
    for name, mode in (("DECA", "detail"), ("EMOCA", "detail"), ("Mine", "coarse"), ("EMOCA_v2_mp", "coarse")):
        put(models / name, "cfg.yaml", b"coarse: {}")
        put(models / name, f"{mode}/checkpoints/last-val_loss=1.ckpt")
    put(models / "empty", "cfg.yaml", b"coarse: {}")
    findings = found(tmp_path)
    assert findings["emoca"].path == models / "EMOCA_v2_mp"
    assert "emorig convert all" in next_step(tmp_path, list(findings.values()))
    put(models / "EMOCA_v2_lr_mse_20", "cfg.yaml", b"coarse: {}")
    assert found(tmp_path)["emoca"].path == models / "EMOCA_v2_mp"
    put(models / "EMOCA_v2_lr_mse_20", "detail/checkpoints/a=2.ckpt", b"<!DOCTYPE html>")
    assert found(tmp_path)["emoca"].path == models / "EMOCA_v2_mp"
    (models / "EMOCA_v2_lr_mse_20/detail/checkpoints/a=2.ckpt").write_bytes(content("a.ckpt"))
    assert found(tmp_path)["emoca"].path == models / "EMOCA_v2_lr_mse_20"


def test_of_several_files_one_is_chosen(tmp_path: Path) -> None:
    put(tmp_path, "a/b/generic_model.pkl")
    near = put(tmp_path, "z/generic_model.pkl")
    put(tmp_path, "generic_model.pkl", b"<html>")  # nearer, but broken
    put(tmp_path, ".hidden/head_template.obj")
    bfm = put(tmp_path, "FLAME_albedo_from_BFM.npz")
    for number in ("000000", "050000", "010000", "1000000"):
        put(tmp_path, f"log/model{number}.pt")
    put(tmp_path, "log/opt2000000.pt"), put(tmp_path, "log/mymodel3000000.pt")
    findings = found(tmp_path)
    assert findings["model"].path == near and findings["template"].path is None
    assert findings["texture"].path == bfm and findings["rig"].path.name == "model1000000.pt"
    own = put(tmp_path, "deep/er/FLAME_texture.npz")
    assert found(tmp_path)["texture"].path == own


def test_licences(tmp_path: Path) -> None:
    for name in (*NAMES.values(), "EMOCA_v2_mp/cfg.yaml", "EMOCA_v2_mp/detail/checkpoints/a=1.5e-05.ckpt"):
        put(tmp_path, name)
    told = lambda: report(tmp_path, examine(tmp_path))
    lines = told()
    assert sum("licence: " in line for line in lines) == len(ORIGINALS)
    after = lambda name: next(lines[i + 1].strip() for i, line in enumerate(lines) if line.endswith(name))
    assert after("FLAME_texture.npz") == "licence: CC-BY-NC-SA-4.0" and "Adobe" in after("model050000.pt")
    assert "FLAME's licence" in after("generic_model.pkl") and "non-commercial" in after("deca_model.tar")
    (tmp_path / "generic_model.pkl").rename(tmp_path / "flame2023_Open.pkl")
    lines = told()
    assert after("flame2023_Open.pkl") == "licence: CC-BY-4.0"
    put(tmp_path, "deep/flame2023.pkl")
    assert found(tmp_path)["model"].path.name == "flame2023.pkl"  # DECA's own generation before another


def test_links_to_folders(tmp_path: Path) -> None:
    store, folder = tmp_path / "store", tmp_path / "here"
    put(store, "a/b/deca_model.tar"), put(store, "generic_model.pkl")
    put(folder, "c/head_template.obj")
    (folder / "linked").symlink_to(store)
    (folder / "c" / "around").symlink_to(folder)
    (store / "a" / "back").symlink_to(store)
    findings = found(folder)
    assert findings["deca"].path == folder / "linked/a/b/deca_model.tar"
    assert findings["model"].path == folder / "linked/generic_model.pkl" and not findings["model"].others
    assert findings["template"].path == folder / "c/head_template.obj" and not findings["template"].others


def test_the_labs_models(tmp_path: Path) -> None:
    """stage2_model005000_X.pt, or folders that name stage and person, before a first stage of more steps."""
    put(tmp_path, "log/stage1/model100000.pt")
    put(tmp_path, "log/stage2/opt005000_guro.pt"), put(tmp_path, "log/stage3_model.pt")
    assert found(tmp_path)["rig"].path.name == "model100000.pt"
    person = put(tmp_path, "log/stage2/guro/deca_resnet18/model010000.pt")
    assert found(tmp_path)["rig"].path == person
    named = put(tmp_path, "log/stage2/stage2_model015000_Hitoshi.pt")
    finding = found(tmp_path)["rig"]
    assert finding.path == named and set(finding.others) == {person, tmp_path / "log/stage1/model100000.pt"}
    lines = report(tmp_path, examine(tmp_path))
    assert any("chosen before " in line and str(person) in line for line in lines)


def test_whose_mean_shape(tmp_path: Path) -> None:
    """Beside the model, or in the LMDB that names the model's person; of somebody else's nothing is taken."""
    rig = put(tmp_path, "log/stage2/stage2_model005000_Hitoshi.pt")
    other = put(tmp_path, "personalLMDB/personal_deca_obama.lmdb/mean_shape.pkl")
    assert shape_for(rig, [other]) is None
    own = put(tmp_path, "personalLMDB/personal_deca_hitoshi.lmdb/mean_shape.pkl")
    assert found(tmp_path)["mean_shape"].path == own and shape_for(rig, [other, own]) == own
    twice = put(tmp_path, "personalLMDB/emoca_hitoshi_V2.lmdb/mean_shape.pkl")
    assert shape_for(rig, [other, own, twice]) is None
    by_folder = put(tmp_path, "log/stage2/hitoshi/emoca_resnet18/model010000.pt")
    assert shape_for(by_folder, [other, own, twice]) == twice
    assert shape_for(tmp_path / "model000500.pt", [other]) == other  # the only one, and nothing speaks against it
    assert shape_for(tmp_path / "stage1/model000500.pt", [other]) is None
    assert shape_for(tmp_path / "model000500.pt", [put(tmp_path, "elsewhere/mean_shape.pkl")]) is None
    put(tmp_path, "plain/data.mdb", b"some")
    assert shape_for(tmp_path / "model000500.pt", [tmp_path / "plain/mean_shape.pkl"]) is not None
    beside = put(by_folder.parent, "mean_shape.pkl")
    assert found(tmp_path)["rig"].path == by_folder and found(tmp_path)["mean_shape"].path == beside


@pytest.mark.parametrize("name", NAMES.values())
def test_broken_files(name: str, tmp_path: Path) -> None:
    whole = content(name)
    path = put(tmp_path, name)
    assert check(path) is None
    wrong = {
        b"": "is empty",
        b"\n <!DOCTYPE html><html>Google Drive": "is a web page",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n": "Git LFS",
    }
    if path.suffix != ".obj":
        wrong[bytes(1000)] = f"is no {path.suffix} file"
    if path.suffix in (".npz", ".pt", ".png", ".pkl"):
        wrong[whole[: len(whole) * 2 // 3]] = "ends too early"
    for data, expected in wrong.items():
        path.write_bytes(data)
        assert expected in check(path)
        [finding] = [f for f in examine(tmp_path) if f.path]
        assert finding.status == "unreadable" and expected in next_step(tmp_path, examine(tmp_path))


def test_a_broken_file_stops_the_conversion(tmp_path: Path) -> None:
    for key in REQUIRED:
        put(tmp_path, NAMES[key])
    put(tmp_path, "model000001.pt", b"<html>")
    with pytest.raises(ConvertError, match=r"model000001.pt' is a web page, not the file: log in"):
        convert_all(tmp_path, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_archives_that_are_not_unpacked(tmp_path: Path) -> None:
    for archive, member in (("FLAME2020.zip", "FLAME2020/generic_model.pkl"), ("rig.zip", "model050000.pt"),
                            ("EMOCA.zip", "EMOCA/detail/checkpoints/a.ckpt")):  # fmt: skip
        with zipfile.ZipFile(tmp_path / archive, "w") as file:
            file.writestr(member, b"some")
    findings = found(tmp_path)
    for key, name in (("model", "FLAME2020.zip"), ("rig", "rig.zip"), ("emoca", "EMOCA.zip")):
        assert findings[key].path.name == name and "unpack" in findings[key].problem
    assert findings["deca"].status == "missing"
    assert "FLAME2020.zip' is not unpacked yet" in next_step(tmp_path, list(findings.values()))
    put(tmp_path, "FLAME2020/generic_model.pkl")
    assert found(tmp_path)["model"].status == "found"


def test_taken_folders_are_refused_before_any_work(tmp_path: Path) -> None:
    for key in REQUIRED:
        put(tmp_path / "in", NAMES[key])
    put(tmp_path / "out", "mine.txt", b"mine")
    said: list[str] = []
    with pytest.raises(FolderError, match="is there already and not empty"):
        convert_all(tmp_path / "in", tmp_path / "out", said.append)
    assert not said and [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]
    with pytest.raises(ConvertError, match=r"generic_model.pkl"):  # whole as a file, but no model
        convert_all(tmp_path / "in", tmp_path / "new" / "out", said.append)
    assert len(said) == 1 and sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]
