"""What several test files share: the bundled pipeline, two public-domain portraits and a tiny network."""

from __future__ import annotations

import os

# before torch is imported: workers share the cores, and sums are in one order in all processes
os.environ["OMP_NUM_THREADS"] = "1"

import random
import runpy
import shutil
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import matplotlib.cbook
import numpy as np
import pytest
import skimage.data
import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler
from PIL import Image
from processes import TRAIN
from torch import nn
from tqdm import tqdm

from emorig_diffusers import EmoRigOutput, EmoRigPipeline
from emorig_diffusers.data.shards import CodeShards, write_manifest, write_shard
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.models.emoca import EmocaEncoder
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.models.landmark_fit import LandmarkEncoder
from emorig_diffusers.models.unet import RigUNet

if TYPE_CHECKING:
    from emorig_diffusers.training.rig.windows import WindowData

HERE = Path(__file__).parent
# the tests are no package, but share stand-ins
FOLDERS = [f for f in sorted(HERE.iterdir()) if f.is_dir() and f.name != "benchmarks"]
sys.path[:0] = map(str, FOLDERS)
os.environ["ACCELERATE_USE_CPU"] = "true"  # the same numbers on all machines
tqdm.set_lock(threading.RLock())  # the usual one is shared with forks: one that dies with it stops all bars
tqdm.monitor_interval = 0  # nor does a thread take it at any moment, such as that of a fork

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

PUBLISHED = """
resolution: 64
train_batch_size: 3
max_train_steps: 4
learning_rate: 1.0e-3
p2_gamma: 1.0
ema_decay: 0.9
checkpointing_steps: 2
checkpoints_total_limit: 1
logging_steps: 1
num_inference_steps: 3
num_validation_images: 0
code_parts: [appearance, shape]
unet:
  sample_size: 64
  block_out_channels: [16, 32]
  layers_per_block: 1
  attention_levels: []
  mid_attention: false
  norm_num_groups: 8
  dropout: 0.1
  condition_channels: [rendered, normal, albedo]
"""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test draws the same random numbers whichever ran before it."""
    number = zlib.crc32(item.nodeid.encode())
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


@pytest.fixture(scope="session", autouse=True)
def visitors_files(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Demos that are not told where their visitors' files go would share a folder with others on this machine."""
    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("visitors"))


@pytest.fixture(scope="session")
def pipe() -> EmoRigPipeline:
    """The bundled default, with or without a network."""
    pipeline = EmoRigPipeline.from_pretrained("emorig-open")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def head(pipe: EmoRigPipeline) -> HeadModel:
    return pipe.head


@pytest.fixture(scope="session")
def encoder(pipe: EmoRigPipeline) -> LandmarkEncoder:
    return pipe.encoder


@pytest.fixture(scope="session")
def names(head: HeadModel) -> tuple[str, ...]:
    return tuple(head.config.expression_names)


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """A smile with teeth; uint8 [512, 512, 3], read-only."""
    photo = skimage.data.astronaut()
    photo.flags.writeable = False
    return photo


@pytest.fixture(scope="session")
def hopper() -> np.ndarray:
    """A closed, calm mouth; uint8 [600, 512, 3], read-only."""
    with Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg")) as image:
        photo = np.array(image.convert("RGB"))
    photo.flags.writeable = False
    return photo


@pytest.fixture(scope="session")
def astronaut_face(pipe: EmoRigPipeline, astronaut: np.ndarray) -> EncodedFace:
    return pipe.encode(astronaut)[0]


@pytest.fixture(scope="session")
def hopper_face(pipe: EmoRigPipeline, hopper: np.ndarray) -> EncodedFace:
    return pipe.encode(hopper)[0]


@pytest.fixture(scope="session")
def edit(pipe: EmoRigPipeline, astronaut: np.ndarray) -> Callable[[str], EmoRigOutput]:
    """Emotion -> the bundled default's edit of the astronaut as an array, made once."""
    made: dict[str, EmoRigOutput] = {}

    def make(emotion: str) -> EmoRigOutput:
        if emotion not in made:
            generator = torch.Generator().manual_seed(0)
            made[emotion] = pipe(astronaut, emotion, output_type="np", generator=generator)
        return made[emotion]

    return make


@pytest.fixture(scope="session")
def tiny_unet() -> RigUNet:
    """A network with random weights, its last layer too: what it paints depends on all its inputs."""
    torch.manual_seed(0)
    unet = RigUNet(
        in_channels=14,
        out_channels=3,
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_levels=(),
        mid_attention=False,
        norm_num_groups=8,
        cond_dim=58,
        unshuffle=2,
        downsample_type="conv",
        upsample_type="conv",
    )
    nn.init.normal_(unet.conv_out.weight, std=0.1)
    return unet.requires_grad_(False).eval()


@pytest.fixture(scope="session")
def scheduler() -> DDIMScheduler:
    """The open default's: cosine down to pure noise, v-prediction."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", rescale_betas_zero_snr=True,
        timestep_spacing="trailing", clip_sample=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_pipe(pipe: EmoRigPipeline, tiny_unet: RigUNet, scheduler: DDIMScheduler) -> EmoRigPipeline:
    """The bundled head and encoder with the tiny network, 3 steps by default."""
    pipeline = EmoRigPipeline(pipe.head, pipe.encoder, tiny_unet, scheduler, default_num_inference_steps=3)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def run_script() -> Callable[..., None]:
    """Runs a script of train/ by its name, or `main` of a module, with the other arguments on its command line."""

    def run(script: str | ModuleType, *arguments: object) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [str(script), *map(str, arguments)])
            if isinstance(script, str):
                runpy.run_path(str(TRAIN / f"{script}.py"), run_name="__main__")
            else:
                script.main()

    return run


@pytest.fixture(scope="session")
def photos(astronaut: np.ndarray, hopper: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two photos, one file that only looks like a photo, and one that does not."""
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(astronaut).save(folder / "astronaut.png")
    Image.fromarray(hopper).save(folder / "hopper.PNG")
    (folder / "notes.jpg").write_text("no photo")
    (folder / "readme.txt").write_text("is left alone")
    return folder


@pytest.fixture(scope="session")
def prepared(run_script: Callable[..., None], photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What train/prepare.py makes of `photos`: shards of the astronaut and of Hopper, aligned crops of 256 pixels."""
    folder = tmp_path_factory.mktemp("prepared")
    run_script("prepare", photos, folder)
    return folder


@pytest.fixture(scope="session")
def prepared64(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with pictures of 64 pixels, for networks that draw the whole crop, and with labels."""
    folder, shards = tmp_path_factory.mktemp("prepared64"), CodeShards(prepared)
    shrink = lambda picture: np.asarray(Image.fromarray(picture).reduce(4))
    label = {"astronaut": "happy", "hopper": "neutral"}
    samples = [replace(s, picture=shrink(s.picture), info=s.info | {"label": label[s.key]}) for s in shards]
    write_shard(folder, 0, samples, {}, shards.manifest["settings"] | {"resolution": 64})
    write_manifest(folder)
    return folder


@pytest.fixture(scope="session")
def window_cache(pipe: EmoRigPipeline, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The windows of `prepared`, drawn once."""
    from emorig_diffusers.training.rig.windows import fill_cache

    folder = tmp_path_factory.mktemp("windows")
    fill_cache(pipe, CodeShards(prepared), folder, Accelerator())
    return folder


@pytest.fixture(scope="session")
def data(pipe: EmoRigPipeline, prepared: Path, window_cache: Path) -> WindowData:
    """Training windows of 64 pixels."""
    from emorig_diffusers.training.rig.windows import WindowData

    return WindowData(pipe, CodeShards(prepared), 64, window_cache)


@pytest.fixture(scope="session")
def published_preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains a small network of DiffusionRig's kind."""
    file = tmp_path_factory.mktemp("preset") / "published.yaml"
    file.write_text(PUBLISHED)
    return file


@pytest.fixture(scope="session")
def emoca(pipe: EmoRigPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline without networks whose encoder is a small EMOCA with random weights."""
    torch.manual_seed(0)
    encoder = EmocaEncoder(
        "small", hidden=32, num_shape=80, num_texture=50, num_expression=52, image_size=32, shared_trunk=True,
        crop="aligned",
    )  # fmt: skip
    for _ in range(20):  # BatchNorm learns what is usual, or all pictures look the same
        encoder.train()(torch.rand(8, 3, 1, 1) * torch.rand(8, 3, 32, 32))
    folder = tmp_path_factory.mktemp("emoca")
    EmoRigPipeline(pipe.head, encoder.eval()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def refusal(run_script: Callable[..., None]) -> Callable[..., str]:
    """Calls a training script as `run_script` does, and gives the one sentence with which it ends."""

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as stop:
            run_script(*arguments)
        assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
        return stop.value.code

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium of this machine."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium or Chrome on the path")
    with api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """Under it no file can grow above that many bytes."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            tqdm.set_lock(threading.RLock())  # a bar that could not be written has kept it

    return limit
