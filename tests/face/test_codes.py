"""FaceCodes: batching, JSON and its errors."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields

import pytest
import torch

from emorig_diffusers import FaceCodes

SIZES = {"shape": (80,), "expression": (52,), "pose": (6,), "camera": (3,), "light": (9, 3), "texture": (0,)}


def random_codes(batch: int) -> FaceCodes:
    generator = torch.Generator().manual_seed(batch)
    return FaceCodes(**{n: torch.randn(batch, *size, generator=generator) for n, size in SIZES.items()})


def same(a: FaceCodes, b: FaceCodes) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(FaceCodes))


def test_length_index_and_cat() -> None:
    codes = random_codes(3)
    assert len(codes) == 3
    assert len(codes[1]) == 1
    assert torch.equal(codes[1].pose, codes.pose[1:2])
    assert same(codes[-1], codes[2])
    assert same(FaceCodes.cat([codes[0], codes[1], codes[2]]), codes)


def test_index_past_the_end() -> None:
    with pytest.raises(IndexError):
        random_codes(2)[2]


def test_json_brings_back_every_number() -> None:
    codes = random_codes(2)
    values = json.loads(json.dumps(codes.to_dict()))
    assert set(values) == set(SIZES)
    assert same(FaceCodes.from_dict(values), codes)


def test_from_dict_says_what_is_missing() -> None:
    values = random_codes(1).to_dict()
    del values["pose"], values["light"]
    with pytest.raises(ValueError, match="lack pose, light"):
        FaceCodes.from_dict(values)
    with pytest.raises(ValueError, match="same number of faces"):
        FaceCodes.from_dict(random_codes(2).to_dict() | {"pose": [[0.0] * 6]})


def test_with_changes_a_copy() -> None:
    codes = random_codes(1)
    pose = torch.ones(1, 6)
    changed = codes.with_(pose=pose)
    assert changed.pose is pose
    assert not torch.equal(codes.pose, pose)
    assert same(changed.with_(pose=codes.pose), codes)
    with pytest.raises(FrozenInstanceError):
        codes.pose = pose  # type: ignore[misc]
    with pytest.raises(TypeError):
        codes.with_(poses=pose)


def test_to_casts_every_code() -> None:
    codes = random_codes(2).to(torch.float64)
    assert {getattr(codes, name).dtype for name in SIZES} == {torch.float64}
