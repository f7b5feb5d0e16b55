"""Parts of EmoRigPipeline with a network of conditioning 1: encoders, files, casts, offloading."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import assert_close
from PIL import Image

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.cli import main
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.hub.index import needs_no_trust
from emorig_diffusers.hub.repository import export_hub
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.models.landmark_fit import FitResult, LandmarkEncoder
from emorig_diffusers.models.mesh_fields import residual_offsets
from emorig_diffusers.photo.resample import warp_crop

SIDE = 64


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


class LitEncoder(LandmarkEncoder):
    """A fit that knows the light and looks at the picture."""

    def fit(
        self,
        head: HeadModel,
        points: np.ndarray,
        scores: dict,
        crop: Callable[[int], torch.Tensor],
        branch: str | None = None,
    ) -> FitResult:
        self.seen = crop(50)
        result = self(head, points, scores)
        result.codes = result.codes.with_(light=torch.full((1, 9, 3), 0.25))
        return result


def test_encoders_see_the_crop_and_may_give_light(
    pipe: EmoRigPipeline, astronaut: np.ndarray, astronaut_face: EncodedFace
) -> None:
    encoder = LitEncoder(pipe.head.config.num_expression)
    encoder.load_state_dict(pipe.encoder.state_dict())
    face = EmoRigPipeline(pipe.head, encoder).encode(astronaut)[0]
    assert torch.equal(face.codes.light, torch.full((1, 9, 3), 0.25))
    assert torch.equal(face.codes.expression, astronaut_face.codes.expression)
    crop = warp_crop(astronaut, astronaut_face.grid_matrix(50), 50)
    assert encoder.seen.shape == (1, 3, 50, 50)
    assert np.array_equal((encoder.seen[0].permute(1, 2, 0) * 255).round().byte().numpy(), crop)
    assert astronaut_face.codes.light.any()  # fitted where the encoder gives none


def test_residual_is_what_the_fit_leaves(pipe: EmoRigPipeline, astronaut_face: EncodedFace) -> None:
    assert astronaut_face.residual.shape == (478, 2)
    offsets = torch.from_numpy(residual_offsets(pipe.head, astronaut_face.residual)).float()
    assert torch.equal(offsets, astronaut_face.offsets)
    assert astronaut_face.error == pytest.approx(np.linalg.norm(astronaut_face.residual[:468], axis=1).mean())


def test_export_and_load(
    published: EmoRigPipeline, hopper: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = export_hub(published, tmp_path / "rig")
    assert needs_no_trust(folder)
    index = json.loads((folder / "model_index.json").read_text())
    assert index["appearance_encoder"] == ["appearance_encoder_emorig", "AppearanceEncoder"]
    assert index["code_parts"] == "appearance"
    again = EmoRigPipeline.from_pretrained(folder)
    again.set_progress_bar_config(disable=True)
    assert "whole_crop" in again.capabilities and again.code_parts == ("appearance",)
    results = [p(hopper, "fear", generator=seed(0), output_type="np").images[0] for p in (published, again)]
    assert_close(*results)

    photo, out = tmp_path / "photo.png", tmp_path / "out.png"
    Image.fromarray(hopper).save(photo)
    edit = ["edit", photo, "--emotion", "fear", "--seed", "0", "--model", folder, "--no-mark", "-o", out]
    assert main.main([str(a) for a in edit]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert_close(Image.open(out), results[0])


def test_plain_save_and_load(published: EmoRigPipeline, hopper: np.ndarray, tmp_path: Path) -> None:
    published.save_pretrained(tmp_path)
    again = EmoRigPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    paint = lambda p: p(hopper, "fear", generator=seed(0), output_type="np").images[0]
    assert_close(paint(again), paint(published))
    incomplete = EmoRigPipeline.from_pretrained(tmp_path, appearance_encoder=None)
    with pytest.raises(ValueError, match="there is no appearance_encoder"):
        incomplete(hopper, "fear")


def test_checkpoints_from_before_code_parts(tiny_pipe: EmoRigPipeline, tmp_path: Path) -> None:
    tiny_pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    del index["code_parts"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert EmoRigPipeline.from_pretrained(tmp_path).code_parts == ("expression", "pose")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_may_be_cast(
    published: EmoRigPipeline, hopper: np.ndarray, tmp_path: Path, dtype: torch.dtype
) -> None:
    published.save_pretrained(tmp_path)
    cast = EmoRigPipeline.from_pretrained(tmp_path).to(dtype)
    cast.set_progress_bar_config(disable=True)
    assert cast.unet.dtype == cast.appearance_encoder.dtype == dtype
    assert cast.head.template.dtype == torch.float32
    noise = torch.randn(1, 3, SIDE, SIDE, generator=seed(0))
    results = [p(hopper, "sad", latents=noise, output_type="np").images[0].astype(int) for p in (cast, published)]
    assert np.abs(results[0] - results[1]).mean() < (0.01 if dtype == torch.float64 else 3)


def test_offloaded_networks(published: EmoRigPipeline, hopper: np.ndarray, tmp_path: Path) -> None:
    published.save_pretrained(tmp_path)
    offloaded = EmoRigPipeline.from_pretrained(tmp_path)
    offloaded.set_progress_bar_config(disable=True)
    offloaded.enable_model_cpu_offload(device="cpu")  # diffusers numbers devices, hence cpu:0 below
    paint = lambda p: p(hopper, "sad", generator=seed(0), output_type="np").images[0]
    for _ in range(2):
        assert offloaded._execution_device == torch.device("cpu:0") == offloaded.unet._hf_hook.execution_device
        assert_close(paint(offloaded), paint(published))
