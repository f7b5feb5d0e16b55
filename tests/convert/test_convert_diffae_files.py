"""Files of Diffusion Autoencoders that cannot be converted are refused in one sentence; emorig doctor tells others."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import original_diffae as original
import pytest
import torch
from original_diffae import SMALL, State, classifier_state, random_state, save_latent, save_lightning

from emorig_diffusers.cli import main
from emorig_diffusers.convert.autoencoders import find_autoencoders, report_autoencoders
from emorig_diffusers.convert.diffae import convert_diffae, read_classifier, read_latent_net
from emorig_diffusers.convert.files import ConvertError
from emorig_diffusers.files.folders import FolderError

E = "ema_model."


@pytest.fixture(scope="module")
def state() -> State:
    return random_state(SMALL, latent=True, flat=True)


@pytest.fixture(scope="module")
def light() -> State:
    return random_state(SMALL, flat=True)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return original.save_all(tmp_path_factory.mktemp("checkpoints"), flat=True)


class Malice:
    """Runs a command when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.victim}",)


def without(name: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if k != E + name}


def changed(name: str, *size: int) -> Callable[[State], State]:
    return lambda state: {**state, E + name: torch.zeros(size)}


def other(**settings: object) -> Callable[[State], State]:
    return lambda _: random_state(replace(SMALL, **settings), flat=True)


def starting(*starts: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if k.startswith(starts)}


WRONG: dict[str, tuple[Callable[[State], object], str]] = {
    "a missing bias": (without("middle_block.1.proj_out.bias"), "lacks mid_block.attentions.0.to_out.0.bias"),
    "a missing time layer": (without("time_embed.time_embed.2.bias"), "lacks time_embedding.linear_2.bias"),
    "a missing block": (without("out.2.weight"), "no usable tensor out.2.weight"),
    "no bias of the code": (without("encoder.out.3.bias"), "lacks proj_out.bias"),
    "no weight of the code": (without("encoder.out.3.weight"), "no usable tensor out.3.weight"),
    "an entry missing in the encoder": (
        lambda s: {k: v for k, v in s.items() if ".encoder.input_blocks.8." not in k}, "no complete encoder .8 input"
    ),
    "no encoder": (lambda s: {k: v for k, v in s.items() if ".encoder." not in k}, "no complete encoder .0 input"),
    "no size": (starting("ema_model.", "model."), "no usable tensor x_T"),
    "a surplus tensor": (changed("label_emb.weight", 8, 128), "beyond the model label_emb.weight"),
    "a surplus layer": (changed("encoder.input_blocks.1.0.emb_layers.1.weight", 1), "emb_layers|time_emb_proj"),
    "a wrong shape": (changed("input_blocks.2.0.in_layers.2.weight", 32, 32, 1, 1), "another shape .*conv1.weight"),
    "a larger convolution": (changed("encoder.out.3.weight", 48, 64, 3, 3), "another shape proj_out.weight"),
    "scale and shift": (changed("middle_block.0.cond_emb_layers.1.weight", 128, 48), "cond_emb_proj.weight .*128, 48"),
    "learnt variance": (other(outputs=6), "3 input and 6 output channels"),
    "other inputs": (other(inputs=6), "6 input and 3 output channels"),
    "narrow levels": (other(base=16), "no layout of Diffusion Autoencoders: norm_num_groups"),
    "no levels": (lambda s: {k: v for k, v in s.items() if "output_blocks" not in k}, "no complete UNet"),
    "a classifier": (lambda _: classifier_state(8, 48), "no autoencoder of.*'classifier.weight'.*classifiers"),
    "last weights alone": (starting("model.", "x_T"), "no autoencoder.*none of these"),
    "another network": (lambda _: {"deca.E_flame.layers.0.weight": torch.zeros(2)}, "no autoencoder.*'deca.E_flame"),
    "nothing": (lambda _: {}, "no autoencoder.*none of these"),
    "a list": (lambda _: [torch.zeros(2)], "has no state_dict of tensors"),
    "numbers by names": (lambda _: {E + "out.0.weight": 3}, "has no state_dict of tensors"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_checkpoints(name: str, light: State, tmp_path: Path) -> None:
    make, expected = WRONG[name]
    message = refused(save_lightning(make(light), tmp_path / "last.ckpt"), expected)
    assert "download" not in message  # the file is whole: it would come out the same


def refused(file: Path, expected: str) -> str:
    """One sentence that names the file, and nothing left behind."""
    before = sorted(file.parent.rglob("*"))
    with pytest.raises(ConvertError, match=expected) as caught:
        convert_diffae(file, file.parent / "new" / "pipe")
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and file.name in message
    assert sorted(file.parent.rglob("*")) == before
    return message


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"beta_scheduler": "cosine"}, "beta_scheduler 'cosine': only 'linear'"),
        ({"T": 4000}, "T 4000: only 1000"),
        ({"net_latent_condition_bias": 0}, "net_latent_condition_bias 0: only 1"),
        ({"latent_beta_scheduler": "cosine"}, "betas 'cosine': only 'linear' and 'const0"),
        ({"net_enc_num_res_blocks": 3}, "no complete encoder .9 input_blocks for levels of 3"),
    ],
)
def test_settings_that_are_not_supported(told: dict[str, object], expected: str, state: State, tmp_path: Path) -> None:
    """Or the file would be converted into networks that mean something else."""
    file = save_lightning(state, tmp_path / "last.ckpt", **told)
    with pytest.raises(ConvertError, match=expected):
        convert_diffae(file, tmp_path / "new" / "pipe")
    assert not (tmp_path / "new").exists()


def test_numbers_that_are_none(light: State, tmp_path: Path) -> None:
    light = light | {f"{E}out.0.bias": torch.full((32,), torch.nan)}
    refused(save_lightning(light, tmp_path / "last.ckpt"), "not finite in conv_norm_out.bias")


def test_wrong_latent_runs_and_classifiers(state: State, tmp_path: Path) -> None:
    emotions = classifier_state(8, SMALL.code)
    net = {k: v for k, v in state.items() if ".latent_net." in k or k.startswith("conds_")}
    start, file = f"{E}latent_net.", tmp_path / "last.ckpt"
    for change, expected in (
        ({f"{start}layers.0.cond_layers.1.bias": torch.zeros(40)}, "without an equal layers.0.linear_emb.bias"),
        ({f"{start}layers.1.norm.bias": torch.zeros(41)}, r"another shape layers.1.norm.bias .\[41\] for \[40\]"),
        ({f"{start}layers.1.extra.bias": torch.zeros(40)}, "beyond the model layers.1.extra.bias"),
        ({"conds_std": torch.zeros(1, 48)}, "conds_std that normalise nothing"),
        ({"conds_mean": torch.zeros(2, 48)}, "no usable conds_mean"),
    ):
        save_lightning(net | change, file)
        with pytest.raises(ConvertError, match=expected):
            read_latent_net(file)
    save_lightning({k: v for k, v in net.items() if "layers.1.norm.weight" not in k}, file)
    with pytest.raises(ConvertError, match="lacks layers.1.norm.weight"):
        read_latent_net(file)
    for change, expected in (
        ({"classifier.bias": torch.zeros(7)}, r"another shape bias .\[7\] for \[8\]"),
        ({"classifier.more": torch.zeros(7)}, "beyond the model more"),
        ({"fc.weight": torch.zeros(8, 48)}, "no classifier .*'fc.weight'"),
        ({"classifier.weight": torch.zeros(8, 48, 1)}, "no usable tensor weight"),
    ):
        save_lightning(emotions | change, file)
        with pytest.raises(ConvertError, match=expected):
            read_classifier(file)


def test_damaged_and_malicious_files(originals: dict[str, Path], light: State, tmp_path: Path) -> None:
    victim, file = tmp_path.parent / f"{tmp_path.name}-victim", tmp_path / "last.ckpt"
    whole = originals["autoenc"].read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole[:100], b"<!DOCTYPE html><html>Sign in", b"no file" * 99):
        file.write_bytes(content)
        refused(file, "last.ckpt")
    for legacy in (True, False):
        torch.save({"state_dict": light, "evil": Malice(victim)}, file, _use_new_zipfile_serialization=not legacy)
        refused(file, "system")
        for option in ("latent", "emotions", "attributes", "latent_net"):
            with pytest.raises(ConvertError, match="system"):
                convert_diffae(originals["autoenc"], tmp_path / "pipe", **{option: file})
    file.unlink()
    with pytest.raises(ConvertError, match="cannot be read"):
        convert_diffae(file, tmp_path / "pipe")
    assert not victim.exists() and not list(tmp_path.iterdir())
    with pytest.raises(FolderError, match="is there already and not empty"):
        convert_diffae(originals["autoenc"], originals["autoenc"].parent)



def test_files_of_different_models(originals: dict[str, Path], state: State, tmp_path: Path) -> None:
    other = {k: v for k, v in random_state(SMALL, True, 5, flat=True).items() if k.startswith((E, "conds_"))}
    strange = save_lightning(other, tmp_path / "strange.ckpt")
    long = save_lightning(classifier_state(8, 512), tmp_path / "long.ckpt")
    latent = save_latent(replace(SMALL, code=40), tmp_path / "latent.pkl")
    bare = save_lightning({k: v for k, v in state.items() if "conds" not in k}, tmp_path / "bare.ckpt")
    for expected, options in (
        ("strange.ckpt' was trained on another encoder than that of", {"latent_net": strange}),
        ("for codes of 48 and 512 numbers", {"emotions": long}),
        ("bare.ckpt' is for codes of 48 numbers, but normalised are 40", {"latent_net": bare, "latent": latent}),
        ("bare.ckpt' does not tell how its codes are normalised", {"latent_net": bare}),
        ("has no ema_model.latent_net", {"latent_net": originals["autoenc"]}),
        ("is no classifier of Diffusion Autoencoders.*'x_T'", {"attributes": originals["autoenc"]}),
        ("has no conds_mean and conds_std", {"latent": originals["autoenc"]}),
    ):
        with pytest.raises(ConvertError, match=expected) as caught:
            convert_diffae(originals["autoenc"], tmp_path / "new" / "pipe", **options)
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


# emorig doctor


def test_doctor_tells_the_files_apart(
    originals: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = originals["autoenc"].parents[1]
    kinds = {path: kind for kind, path in find_autoencoders(folder)}
    assert kinds == {
        originals["autoenc"]: "autoencoder", originals["autoenc_latent"]: "latent-net",
        originals["emotions"]: "emotions", originals["autoenc_cls"]: "attributes", originals["latent.pkl"]: "latent",
    }  # fmt: skip
    assert main.main(["doctor", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.count("found  ") == 5 and "generic_model.pkl" not in out
    command = out.splitlines()[-1].split("`")[1].split()
    assert command[:3] == ["emorig", "convert", "diffae"] and command[-1] == "OUT"
    assert main.main([*command[1:-1], str(tmp_path / "pipe")]) == 0
    parts = {p.name for p in (tmp_path / "pipe").iterdir() if p.is_dir()}
    assert parts >= {"unet", "emotion_classifier", "attribute_classifier", "latent_net"}


def test_doctor_says_what_is_next(originals: dict[str, Path], light: State, tmp_path: Path) -> None:
    told = lambda: report_autoencoders(tmp_path, find_autoencoders(tmp_path))
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    save_lightning(classifier_state(3, 48), tmp_path / "a" / "last.ckpt")
    (tmp_path / "other.ckpt").write_bytes(b"<html>"), torch.save({"a": 1}, tmp_path / "latent.pkl")
    assert len(told()) == 5 and "licence: " in told()[2]
    assert "get the last.ckpt of an autoencoder from https://github.com/phizaz" in told()[-1]
    main = save_lightning(light, tmp_path / "last.ckpt")
    assert told()[-1] == (
        f"Next: `emorig convert diffae {main} --emotions {tmp_path / 'a' / 'last.ckpt'} --names NAMES OUT`, where OUT "
        "is a new folder."
    )
    save_lightning(light, tmp_path / "b" / "last.ckpt")
    assert "on a folder with the files of one model, as here are 2 of the kind" in told()[-1]
    (tmp_path / "b" / "last.ckpt").write_bytes(main.read_bytes()[:5000])
    assert "unreadable" in "".join(told()) and "b/last.ckpt' ends too early: download it again, then" in told()[-1]
    (tmp_path / "b" / "cfg.yaml").write_text("coarse: {}")  # now it is EMOCA's
    assert "`emorig convert diffae" in told()[-1]
