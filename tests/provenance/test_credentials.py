"""credentials.py: signed results hold before c2pa's own reader, and what cannot sign says why."""

from __future__ import annotations

import io
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emorig_diffusers.cli.main import main
from emorig_diffusers.photo.io import save_photo
from emorig_diffusers.provenance.credentials import Signer, SigningError
from emorig_diffusers.provenance.edits import Edit
from emorig_diffusers.provenance.verify import verify
from emorig_diffusers.video.clips import Frame
from emorig_diffusers.video.writing import write_clip

c2pa = pytest.importorskip("c2pa")
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: E402

EDIT = Edit("emorig-open", "happy", 1.0)
USES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip


def certificate(name: str, key: Any, issuer: str, issuer_key: Any, days: int = 1000) -> bytes:
    """In PEM; one that is its own issuer may sign others."""
    start, own = datetime(2024, 1, 1) if days < 0 else datetime.now() - timedelta(1), name == issuer
    names = [x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, one)]) for one in (name, issuer)]
    use = x509.KeyUsage(**{one: one == ("key_cert_sign" if own else "digital_signature") for one in USES})
    made = x509.CertificateBuilder().subject_name(names[0]).issuer_name(names[1]).public_key(key.public_key())
    made = made.serial_number(7).not_valid_before(start).not_valid_after(start + timedelta(abs(days)))
    made = made.add_extension(x509.BasicConstraints(own, None), True).add_extension(use, True)
    made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False)
    if not own:
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
    return made.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def pem(key: Any, password: bytes | None = None) -> bytes:
    way = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, way)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("keys")
    root, mine, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    files = {
        "chain": certificate("Me", mine, "Root", root) + certificate("Root", root, "Root", root),
        "old": certificate("Me", mine, "Root", root, days=-30),
        "root": certificate("Root", mine, "Root", mine),
        "key": pem(mine),
        "other": pem(other),
        "locked": pem(mine, b"secret"),
        "none": b"hello",
    }
    for name, data in files.items():
        (place / f"{name}.pem").write_bytes(data)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(place / "photo.jpg")
    return place


@pytest.fixture
def edited(folder: Path) -> Image.Image:
    with Image.open(folder / "photo.jpg") as image:
        picture = image.convert("RGB").rotate(5)
    picture.info = {"edit": EDIT}
    return picture


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_signed_pictures_hold(suffix: str, folder: Path, edited: Image.Image, tmp_path: Path) -> None:
    signer = Signer(folder / "chain.pem", folder / "key.pem")
    for sign in (signer, signer.of(folder / "photo.jpg"), signer.of(folder / "photo.bmp")):
        path = save_photo(edited, tmp_path / f"a{suffix}", sign=sign)
        report = verify(path)
        assert report.confidence == 1 and report.by_us and report.credentials and report.credentials.valid
        assert report.credentials.issuer == "Root" or report.credentials.issuer == "Me"
        assert report.metadata.edit, "XMP is there as well"
    with open(path, "rb") as stream:
        text = c2pa.Reader(f"image/{suffix[1:].replace('jpg', 'jpeg').replace('tif', 'tiff')}"[:10], stream).json()
    assert "compositeWithTrainedAlgorithmicMedia" in text and '"emotion": "happy"' in text


def test_a_changed_picture_does_not_hold(folder: Path, edited: Image.Image, tmp_path: Path) -> None:
    path = save_photo(edited, tmp_path / "a.jpg", sign=Signer(folder / "chain.pem", folder / "key.pem"))
    data = bytearray(path.read_bytes())
    data[-300] ^= 1
    path.write_bytes(data)
    report = verify(path)
    assert report.credentials and not report.credentials.valid and report.confidence < 1
    assert "do not hold" in report.sentence


def test_signed_clips_hold(folder: Path, tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (3, 48, 64, 3), np.uint8)
    frames = [Frame(picture, Fraction(i, 10), EDIT) for i, picture in enumerate(pictures)]
    signer = Signer(folder / "chain.pem", folder / "key.pem", folder / "photo.jpg")
    for suffix in (".mp4", ".gif"):
        write_clip(frames, tmp_path / f"a{suffix}", sign=signer.sign_file)
        report = verify(tmp_path / f"a{suffix}")
        assert report.credentials and report.credentials.valid and report.metadata.edit
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gif", "a.mp4"]


@pytest.mark.parametrize(
    ("chain", "key", "words"),
    [
        ("gone", "key", "cannot be read"),
        ("chain", "gone", "cannot be read"),
        ("none", "key", "no certificate"),
        ("chain", "none", "no private key"),
        ("chain", "other", "is not that of"),
        ("chain", "locked", "has a password"),
        ("old", "key", "not valid today"),
    ],
)
def test_what_cannot_sign_says_why(chain: str, key: str, words: str, folder: Path) -> None:
    with pytest.raises(SigningError, match=words):
        Signer(folder / f"{chain}.pem", folder / f"{key}.pem")


def test_no_file_where_c2pa_refuses(folder: Path, edited: Image.Image, tmp_path: Path) -> None:
    with pytest.raises(SigningError, match="cannot sign"):
        save_photo(edited, tmp_path / "a.jpg", sign=Signer(folder / "root.pem", folder / "key.pem"))
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_before_it_edits(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    keys = ["--sign", str(folder / "chain.pem"), str(folder / "key.pem")]
    assert main(["edit", str(folder / "photo.jpg"), "--emotion", "sad", "-o", str(tmp_path / "a.bmp"), *keys]) == 2
    assert "no place for Content Credentials" in capsys.readouterr().err
    keys[-1] = str(folder / "other.pem")
    assert main(["edit", str(folder / "photo.jpg"), "--emotion", "sad", "-o", str(tmp_path / "a.jpg"), *keys]) == 2
    assert "is not that of the first certificate" in capsys.readouterr().err


def test_a_data_stream_in_memory(folder: Path, edited: Image.Image) -> None:
    """What servers do, which write no file."""
    data = io.BytesIO()
    edited.save(data, "PNG")
    signed = Signer(folder / "chain.pem", folder / "key.pem")(data.getvalue(), ".png", EDIT)
    assert (np.asarray(Image.open(io.BytesIO(signed))) == np.asarray(edited)).all()
