"""models/latents.py: probabilities, moves along directions and means, what another code lends, and files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from emorig_diffusers.models.semantic_classifier import DIRECTION, LatentClassifier, orthonormal_rows

NAMES = ("neutral", "happy", "anger")
WIDTH = 16


def classifier(loss: str = "bce", move: str = "direction") -> LatentClassifier:
    """Its classes are far apart and its codes not normalised."""
    made, generator = LatentClassifier(NAMES, WIDTH, loss, move), torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator)
    made.requires_grad_(False)
    made.mean.copy_(draw(WIDTH) * 3)
    made.std.copy_(draw(WIDTH).abs() + 0.5)
    made.means.copy_(draw(3, WIDTH) * 2)
    made.weight.copy_(made.means)
    made.bias.copy_(-made.means.square().sum(1) / 2)
    return made


def codes(count: int = 5) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(1)) * 2 + 3


def test_logits_are_of_normalised_codes() -> None:
    made, z = classifier(), codes()
    torch.testing.assert_close(made(z), ((z - made.mean) / made.std) @ made.weight.T + made.bias)
    torch.testing.assert_close(made.denormalise(made.normalise(z)), z)
    torch.testing.assert_close(made.probabilities(z), made(z).sigmoid())
    torch.testing.assert_close(classifier("softmax").probabilities(z).sum(1), torch.ones(5))


@pytest.mark.parametrize("move", ["direction", "means"])
def test_no_intensity_changes_nothing(move: str) -> None:
    z = codes()
    assert classifier(move=move).moved(z, {"happy": 1.0}, 0) is z
    assert classifier(move=move).moved(z, {"happy": 0.0}) is z


def test_along_a_direction_as_published() -> None:
    made, z = classifier(), codes()
    change = made.normalise(made.moved(z, {"happy": 1.0}, 0.5)) - made.normalise(z)
    length = 0.5 * DIRECTION * math.sqrt(WIDTH)
    way = length * F.normalize(made.weight[1], dim=0)
    torch.testing.assert_close(change, way.expand(5, -1), atol=1e-5, rtol=1e-4)
    made.strength[2] = 0.7
    both = made.normalise(made.moved(z, {"happy": 0.6, "anger": -0.4})) - made.normalise(z)
    way = math.sqrt(WIDTH) * (0.6 * DIRECTION * made.directions()[1] - 0.4 * 0.7 * made.directions()[2])
    torch.testing.assert_close(both[0], way, atol=1e-5, rtol=1e-4)


def test_from_mean_to_mean() -> None:
    """A code at a class's mean goes to the other's; one that is there already stays."""
    made = classifier("softmax", "means")
    at = made.denormalise(made.means)
    assert (made.probabilities(at).diagonal() > 0.99).all()
    moved = made.moved(at, {"anger": 1.0})
    torch.testing.assert_close(made.normalise(moved), made.means[[2, 2, 2]], atol=0.05, rtol=0)
    half = made.normalise(made.moved(at[:1], {"anger": 1.0}, 0.5))[0]
    torch.testing.assert_close(half, (made.means[0] + made.means[2]) / 2, atol=0.05, rtol=0)


def test_amounts_count_in_both_moves() -> None:
    """Half an emotion is half the way."""
    z = codes()
    for move in ("direction", "means"):
        made = classifier("softmax", move)
        half, whole = (made.moved(z, {"happy": share}) - z for share in (0.5, 1.0))
        torch.testing.assert_close(half, whole / 2, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(made.moved(z, {"happy": 1.0}, 0.5) - z, half, atol=1e-5, rtol=1e-4)
        blend = made.moved(z, {"happy": 0.6, "anger": 0.4}) - z
        parts = [share * (made.moved(z, {name: 1.0}) - z) for name, share in (("happy", 0.6), ("anger", 0.4))]
        torch.testing.assert_close(blend, sum(parts), atol=1e-5, rtol=1e-4)


def test_means_fall_back_to_directions() -> None:
    by_means, along, z = classifier(move="means"), classifier(), codes()
    away = {"happy": -1.0}
    torch.testing.assert_close(by_means.moved(z, away), along.moved(z, away))
    by_means.means.zero_()  # not known
    torch.testing.assert_close(by_means.moved(z, {"happy": 1.0}), along.moved(z, {"happy": 1.0}))
    torch.testing.assert_close(by_means.borrowed(z[:2], z[2:3]), along.borrowed(z[:2], z[2:3]))


def test_a_code_no_class_claims() -> None:
    made = classifier("bce", "means")
    made.bias.fill_(-1e4)
    assert made.moved(codes(), {"happy": 1.0}).isfinite().all()


@pytest.mark.parametrize("move", ["direction", "means"])
def test_what_another_code_lends(move: str) -> None:
    """After borrowing, the classes see the lender; what they do not see stays."""
    made, z = classifier("softmax", move), codes()
    lender = codes(6)[5:]
    borrowed = made.borrowed(z, lender)
    change = made.normalise(borrowed) - made.normalise(z)
    if move == "direction":
        torch.testing.assert_close(made(borrowed), made(lender).expand(5, -1), atol=1e-3, rtol=1e-4)
        basis = made.weight
    else:
        basis = made.means - made.means.mean(0)
    inside = torch.linalg.lstsq(basis.T, change.T, driver="gelsd").solution  # rank 2 for means
    torch.testing.assert_close(basis.T @ inside, change.T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made.borrowed(z, lender, 0.5) - z, (borrowed - z) / 2, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made.borrowed(z, lender, 0.0), z)


def test_orthonormal_rows() -> None:
    vectors = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    span = orthonormal_rows(torch.cat([vectors, vectors[:1] + vectors[1:2]]))  # the fourth is of the others
    torch.testing.assert_close(span @ span.T, torch.eye(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(vectors @ span.T @ span, vectors, atol=1e-5, rtol=1e-4)
    assert orthonormal_rows(torch.zeros(2, WIDTH)).shape == (0, WIDTH)


def test_wrong_names() -> None:
    with pytest.raises(ValueError, match="Unknown class 'joy': choose from neutral, happy, anger"):
        classifier().moved(codes(), {"joy": 1.0})
    with pytest.raises(ValueError, match="loss is 'mse': choose one of bce, softmax"):
        LatentClassifier(NAMES, WIDTH, "mse")
    with pytest.raises(ValueError, match="move is 'jump'"):
        LatentClassifier(NAMES, WIDTH, "bce", "jump")


def test_files_keep_all_and_half_precision_casts_all(tmp_path: Path) -> None:
    made, z = classifier("softmax", "means"), codes()
    made.strength.copy_(torch.tensor([0.1, 0.2, 0.3]))
    made.save_pretrained(tmp_path)
    opened = LatentClassifier.from_pretrained(tmp_path)
    assert opened.names == NAMES and opened.config.move == "means"
    assert all(torch.equal(a, b) for a, b in zip(opened.parameters(), made.parameters(), strict=True))
    torch.testing.assert_close(opened.moved(z, {"happy": 1.0}), made.moved(z, {"happy": 1.0}))
    half = LatentClassifier.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert half.moved(z.bfloat16(), {"happy": 1.0}).dtype == half.borrowed(z.bfloat16(), z[:1].bfloat16()).dtype
    assert half.moved(z.bfloat16(), {"happy": 1.0}).dtype == torch.bfloat16
