"""What several test files share: the bundled pipeline, two public-domain portraits and a tiny network."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import matplotlib.cbook
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch import nn

from emorig_diffusers import EmoRigOutput, EmoRigPipeline
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.models.landmarks import LandmarkEncoder
from emorig_diffusers.models.unet import RigUNet
from emorig_diffusers.rig import EncodedFace

if TYPE_CHECKING:
    from rig_data import RigData

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))  # the training scripts are no package


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
    return pipe.encode_photo(astronaut)[0]


@pytest.fixture(scope="session")
def hopper_face(pipe: EmoRigPipeline, hopper: np.ndarray) -> EncodedFace:
    return pipe.encode_photo(hopper)[0]


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
def tiny_pipe(pipe: EmoRigPipeline, tiny_unet: RigUNet) -> EmoRigPipeline:
    """The bundled head and encoder with the tiny network, 3 steps by default."""
    from train_rig import make_scheduler

    pipeline = EmoRigPipeline(
        pipe.head, pipe.encoder, tiny_unet, make_scheduler(), default_num_inference_steps=3
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def run_script() -> Callable[..., None]:
    """Calls `main` of a script's module with the other arguments on its command line."""

    def run(module: ModuleType, *arguments: object) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
            module.main()

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
def prepared(
    run_script: Callable[..., None], photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """What train/prepare.py makes of `photos`."""
    import prepare

    folder = tmp_path_factory.mktemp("prepared")
    threads = torch.get_num_threads()
    run_script(prepare, photos, folder)
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data(prepared: Path, names: tuple[str, ...]) -> RigData:
    from rig_data import RigData

    return RigData(prepared, names)
