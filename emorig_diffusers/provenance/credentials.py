"""Content Credentials (C2PA): a signed account of an edit in a picture's file, with the user's own certificate.

Needs c2pa-python, the extra `sign`. The photo that was edited is named as the ingredient, with its own credentials
where it has some; no thumbnail of it is kept.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from ..version import __version__
from .edits import SOFTWARE, Edit
from .xmp import EDITED, SOURCE_TYPES

_TYPES = {
    ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".jpe": "image/jpeg", ".jfif": "image/jpeg", ".png": "image/png",
    ".apng": "image/png", ".webp": "image/webp", ".avif": "image/avif", ".tif": "image/tiff", ".tiff": "image/tiff",
    ".gif": "image/gif", ".heic": "image/heic", ".heif": "image/heif", ".mp4": "video/mp4", ".m4v": "video/mp4",
    ".mov": "video/quicktime",
}  # fmt: skip
_SETTINGS = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"ocsp_fetch": False, "remote_manifest_fetch": False},
}
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


class SigningError(ValueError):
    """A result cannot be signed; the message says why in one sentence."""


def load_c2pa() -> ModuleType:
    """c2pa-python; SigningError where it is not installed."""
    try:
        import c2pa
    except ImportError as error:
        raise SigningError("Signing needs c2pa-python: run `pip install 'emorig-diffusers[sign]'`.") from error
    return c2pa


def check_signable(path: Path) -> None:
    """Raise SigningError where a file's format has no place for a signature."""
    if path.suffix.lower() not in _TYPES:
        raise SigningError(f"'{path}' has no place for Content Credentials: write {', '.join(_TYPES)}.")


@dataclass(frozen=True)
class Signer:
    """Signs results of edits.

    Attributes:
        certificate: PEM file: the signer's certificate, then those that vouch for it.
        key: PEM file: its private key, without a password.
        parent: The photo or clip that was edited.

    Raises:
        SigningError: c2pa-python is missing; a file cannot be read; certificate and key do not belong together; the
            certificate is out of date.
    """

    certificate: Path
    key: Path
    parent: Path | None = None

    def __post_init__(self) -> None:
        load_c2pa()
        self._algorithm()

    def of(self, parent: Path) -> Signer:
        """The same for another photo."""
        return replace(self, parent=parent)

    def __call__(self, data: bytes, suffix: str, edit: Edit) -> bytes:
        """A result's file with its credentials.

        Raises:
            SigningError: The format has no place for them, or c2pa refuses the certificate.
        """
        signed = io.BytesIO()
        self._sign(io.BytesIO(data), signed, suffix, edit)
        return signed.getvalue()

    def sign_file(self, file: Path, path: Path, edit: Edit) -> None:
        """Put credentials into a file that is to become `path`. Raises as a call."""
        signed = file.with_name(f"{file.name}.signed")
        try:
            with open(file, "rb") as source, open(signed, "wb+") as target:
                self._sign(source, target, path.suffix.lower(), edit)
            signed.replace(file)
        finally:
            signed.unlink(missing_ok=True)

    def _sign(self, source: IO[bytes], target: IO[bytes], suffix: str, edit: Edit) -> None:
        check_signable(Path(f"result{suffix}"))
        c2pa = load_c2pa()
        chain, key = self.certificate.read_bytes(), self.key.read_bytes()
        try:
            context = c2pa.Context.from_dict(_SETTINGS)
            signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(self._algorithm(), chain, key, None))
            builder = c2pa.Builder(_manifest(edit, created=not self._has_parent()), context)
            if self._has_parent():
                builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
                self._add_parent(builder)
            builder.sign(signer, _TYPES[suffix], source, target)
        except c2pa.C2paError as error:
            reason = " ".join(str(error).split())
            raise SigningError(f"The certificate '{self.certificate}' cannot sign ({reason}).") from error

    def _has_parent(self) -> bool:
        return self.parent is not None and self.parent.suffix.lower() in _TYPES

    def _add_parent(self, builder: Any) -> None:
        assert self.parent is not None
        about = {"title": self.parent.name, "relationship": "parentOf"}
        with open(self.parent, "rb") as stream:
            builder.add_ingredient(about, _TYPES[self.parent.suffix.lower()], stream)

    def _algorithm(self) -> str:
        """C2PA's name of the key's algorithm."""
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        certificate, secret = _read(self.certificate, "certificate"), _read(self.key, "key")
        try:
            chain = x509.load_pem_x509_certificates(certificate)
        except ValueError as error:
            raise SigningError(f"'{self.certificate}' holds no certificate in PEM.") from error
        try:
            key = load_pem_private_key(secret, None)
        except TypeError as error:
            raise SigningError(f"The key '{self.key}' has a password: give one without.") from error
        except ValueError as error:
            raise SigningError(f"'{self.key}' holds no private key in PEM.") from error
        if chain[0].public_key() != key.public_key():
            raise SigningError(f"The key '{self.key}' is not that of the first certificate in '{self.certificate}'.")
        if not chain[0].not_valid_before_utc <= datetime.now(UTC) <= chain[0].not_valid_after_utc:
            raise SigningError(f"The certificate '{self.certificate}' is not valid today.")
        if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
            return _CURVES[key.curve.name]
        if isinstance(key, rsa.RSAPrivateKey):
            return "ps256"
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return "ed25519"
        raise SigningError(f"The key '{self.key}' is of a kind that C2PA does not know: use EC P-256, RSA or Ed25519.")


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SigningError(f"The {what} '{path}' cannot be read: {error.strerror or error}.") from error


def _manifest(edit: Edit, created: bool) -> dict[str, Any]:
    software = {"name": SOFTWARE, "version": __version__}
    about = {"model": edit.model, "emotion": edit.emotion, "intensity": edit.intensity}
    action = {"softwareAgent": software, "digitalSourceType": EDITED, "parameters": about}
    action["action"] = "c2pa.created" if created else "c2pa.edited"
    return {
        "claim_generator_info": [software],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
    }


@dataclass(frozen=True)
class Credentials:
    """What a file's Content Credentials say.

    Attributes:
        valid: Whether they are whole and fit the file.
        trusted: Whether the signer is on a list of trust as well.
        issuer: Who vouches for the signer.
        source_types: IPTC's words for how the picture came to be, in any of its stages.
        tools: Programs of those stages.
    """

    valid: bool
    trusted: bool
    issuer: str
    source_types: tuple[str, ...]
    tools: tuple[str, ...]


def read_credentials(path: Path) -> Credentials | None:
    """The credentials of a file; `None` where it has none, or c2pa-python is not installed."""
    try:
        c2pa = load_c2pa()
    except SigningError:
        return None
    kind = _TYPES.get(path.suffix.lower())
    if kind is None:
        return None
    try:
        with open(path, "rb") as stream:
            reader = c2pa.Reader(kind, stream, context=c2pa.Context.from_dict(_SETTINGS))
            store, state = json.loads(reader.json()), reader.get_validation_state()
    except c2pa.C2paError:
        return None
    manifests = store.get("manifests", {})
    active = manifests.get(store.get("active_manifest"), {})
    listed = [a for one in manifests.values() for a in one.get("assertions", ())]
    actions = [b for a in listed if a["label"].startswith("c2pa.actions") for b in a["data"].get("actions", ())]
    kinds = [b["digitalSourceType"].removeprefix(SOURCE_TYPES) for b in actions if b.get("digitalSourceType")]
    tools = [i.get("name", "") for one in manifests.values() for i in one.get("claim_generator_info") or ()]
    issuer = (active.get("signature_info") or {}).get("issuer") or ""
    return Credentials(state in ("Valid", "Trusted"), state == "Trusted", issuer, tuple(kinds), tuple(tools))
