"""The nodes. Only ComfyUI imports this module: it brings `comfy_api`. Names, ranges and tooltips of inputs are those of
`EditRequest`'s fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import ComfyExtension, io  # pyright: ignore[reportMissingImports]

from ..cli.amounts import by_name, parse_amounts
from ..face.emotions import ACTION_UNITS, EMOTIONS, MAX_AMOUNT
from ..pipelines.marking import marked
from ..pipelines.request import ARGUMENTS, MODES
from .pictures import edited_regions, to_images, to_photos

if TYPE_CHECKING:
    import numpy as np

    from ..pipelines.base import FacePipeline

PIPELINE = io.Custom("EMORIG_PIPELINE")
CATEGORY = "image/emorig"
ANGLES = [name.lower() for name in ARGUMENTS["rotate"].metadata["metavar"]]
ANGLE_LIMITS = (-90.0, 90.0)  # degrees; most painters show less, and say so
FACES = ["largest", "all", *map(str, range(1, 21))]
"""What can be chosen of a photo; more faces than any group portrait is worth editing one by one."""
LENT: Any = ARGUMENTS["modes"].default
MARK = "An invisible mark in edited faces, by which emorig verify tells that they were edited."
MAX_SEED = 2**64 - 1
STEP = 0.05  # of a slider, in an emotion's or a unit's own measure


def about(name: str) -> str:
    """What a field of `EditRequest` means, as a tooltip."""
    return ARGUMENTS[name].metadata["about"].replace("`", "")


def slider(name: str, default: float, limits: Sequence[float], tooltip: str, step: float = STEP) -> Any:
    """An input between two limits."""
    look = {"display_mode": io.NumberDisplay.slider, "tooltip": tooltip}
    return io.Float.Input(name, default=default, min=limits[0], max=limits[1], step=step, **look)


def common_inputs() -> list[Any]:
    """Inputs of every edit but for what it is to show: `options` reads them."""
    face, seed, steps, much = "face", "seed", "num_inference_steps", ARGUMENTS["intensity"]
    usual: Any = much.default
    return [
        slider(much.name, usual, much.metadata["limits"], about(much.name)),
        io.Combo.Input(face, options=FACES, default=ARGUMENTS[face].default, tooltip=about(face)),
        *(slider(name, 0.0, ANGLE_LIMITS, about("rotate"), 1.0) for name in ANGLES),
        io.Int.Input(seed, default=0, min=0, max=MAX_SEED, tooltip=about("generator")),
        io.Int.Input(steps, default=0, min=0, max=1000, optional=True, tooltip=f"{about(steps)} 0 is None."),
    ]


def options(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a pipeline's call from the values of `common_inputs`."""
    angles, face = [given[name] for name in ANGLES], given["face"]
    return {
        "intensity": given["intensity"],
        "face": int(face) if face.isdecimal() else face,
        "rotate": angles if any(angles) else None,
        "num_inference_steps": given.get("num_inference_steps") or None,
        "callback_on_step_end": stop_if_asked,
        "output_type": "np",
    }


def stop_if_asked(*_: Any) -> dict[str, Any]:
    """ComfyUI's Cancel, between two steps of the network."""
    from comfy.model_management import throw_exception_if_processing_interrupted  # pyright: ignore[reportMissingImports]

    throw_exception_if_processing_interrupted()
    return {}


def seeded(seed: int) -> torch.Generator:
    """The noise of one picture; each of a batch has it alike, so that its result is that of a call alone."""
    return torch.Generator().manual_seed(seed)


@torch.inference_mode(False)  # ComfyUI's own mode would forbid to write into a model's tensors later
def edit(pipe: FacePipeline, image: torch.Tensor, given: dict[str, Any], **asked: Any) -> Any:
    """The output of a node: every picture edited, and the masks of what changed.

    Args:
        pipe: A pipeline.
        image: Pictures [B, H, W, C] in [0, 1].
        given: Values of `common_inputs`.
        asked: What faces are to show, as a call takes it.
    """
    photos = to_photos(image)
    with torch.no_grad():
        result = pipe(photos, generator=[seeded(given["seed"]) for _ in photos], **options(given), **asked)
    return output(pipe, image, photos, result.images, result.faces)


def output(
    pipe: FacePipeline, image: torch.Tensor, photos: Sequence[np.ndarray], results: Sequence[np.ndarray],
    faces: Sequence[Any],
) -> Any:  # fmt: skip
    """Pictures, with the invisible mark, and masks of results with their faces."""
    widths = [max((face.box[2] - face.box[0] for face in some), default=0.0) for some in faces]
    boxes = [[face.box for face in some] for some in faces]
    told = [marked(pipe, *one) for one in zip(photos, results, boxes)]
    return io.NodeOutput(to_images(image, photos, told), edited_regions(photos, results, widths))


def edit_schema(name: str, shown: str, description: str, inputs: Sequence[Any]) -> Any:
    """The schema of a node that edits, with inputs of its own."""
    return io.Schema(
        node_id=f"Emorig{name}",
        display_name=shown,
        category=CATEGORY,
        description=description,
        inputs=[PIPELINE.Input("pipeline"), io.Image.Input("image"), *inputs],
        outputs=[
            io.Image.Output("images", "images"),
            io.Mask.Output("edited", "edited", tooltip="1 where the pictures were edited."),
        ],
    )


class LoadPipeline(io.ComfyNode):
    """A pipeline by name."""

    @classmethod
    def define_schema(cls) -> Any:
        """As ComfyUI asks it."""
        name = "emorig-open, which needs no download; the folder of a converted or exported pipeline; or a Hub id."
        return io.Schema(
            node_id="EmorigLoadPipeline",
            display_name="emorig: load pipeline",
            category=CATEGORY,
            description="Opens what edits faces.",
            inputs=[
                io.String.Input("model", default="emorig-open", tooltip=name),
                io.Boolean.Input("mark", default=True, optional=True, tooltip=MARK),
            ],
            outputs=[PIPELINE.Output("pipeline_out", display_name="pipeline")],
        )

    @classmethod
    @torch.inference_mode(False)
    def execute(cls, model: str, mark: bool = True) -> Any:
        """The pipeline, on the device that ComfyUI works on."""
        from comfy.model_management import get_torch_device  # pyright: ignore[reportMissingImports]

        from ..cli.models import open_model

        pipe = open_model(model.strip()).to(get_torch_device())
        pipe.watermark = mark
        return io.NodeOutput(pipe)


class EditEmotion(io.ComfyNode):
    """An emotion or a blend."""

    @classmethod
    def define_schema(cls) -> Any:
        """As ComfyUI asks it."""
        blend = "Instead of one emotion, e.g. happy=.6, surprise=.4; also emotions of its own that a pipeline has."
        inputs = [
            io.Combo.Input("emotion", options=list(EMOTIONS), default="happy", tooltip=about("emotion")),
            *common_inputs(),
            io.String.Input("blend", default="", optional=True, tooltip=blend),
        ]
        description = "Changes the emotion of faces and keeps the person."
        return edit_schema("EditEmotion", "emorig: edit by emotion", description, inputs)

    @classmethod
    def execute(cls, pipeline: Any, image: torch.Tensor, emotion: str, blend: str = "", **given: Any) -> Any:
        """Pictures and masks."""
        return edit(pipeline, image, given, emotion=by_name(parse_amounts(blend)) if blend.strip() else emotion)


class EditUnits(io.ComfyNode):
    """Single muscles."""

    @classmethod
    def define_schema(cls) -> Any:
        """As ComfyUI asks it."""
        span = (-MAX_AMOUNT, MAX_AMOUNT)
        inputs = [
            *(slider(unit, 0.0, span, ", ".join(parts)) for unit, parts in ACTION_UNITS.items()),
            *common_inputs()[1:],
            io.String.Input("action_units", default="", optional=True, tooltip=f"{about('action_units')} Here: L12=.5"),
        ]
        description = "Moves single muscles of faces, by FACS action unit."
        return edit_schema("EditUnits", "emorig: edit by action units", description, inputs)

    @classmethod
    def execute(cls, pipeline: Any, image: torch.Tensor, action_units: str = "", **given: Any) -> Any:
        """Pictures and masks."""
        units = [(unit, given.pop(unit)) for unit in ACTION_UNITS]
        units += parse_amounts(action_units) if action_units.strip() else []
        amounts = by_name((unit, amount) for unit, amount in units if amount)
        return edit(pipeline, image, given | {"intensity": 1.0}, action_units=amounts)


class EditWords(io.ComfyNode):
    """What a sentence says."""

    @classmethod
    def define_schema(cls) -> Any:
        """As ComfyUI asks it."""
        example = "a slight smile with wide eyes, lit from the left"
        inputs = [io.String.Input("prompt", default=example, multiline=True, tooltip=about("prompt")), *common_inputs()]
        description = "Edits faces as a sentence says, English or Japanese, read word by word without a network."
        return edit_schema("EditWords", "emorig: edit in words", description, inputs)

    @classmethod
    def execute(cls, pipeline: Any, image: torch.Tensor, prompt: str, **given: Any) -> Any:
        """Pictures and masks."""
        return edit(pipeline, image, given, prompt=prompt)


class EditReference(io.ComfyNode):
    """Another photo's expression."""

    @classmethod
    def define_schema(cls) -> Any:
        """As ComfyUI asks it."""
        said = about("modes")
        inputs = [
            io.Image.Input("reference", tooltip=f"{about('reference')} One for all pictures, or one for each."),
            *common_inputs(),
            *(io.Boolean.Input(mode, default=mode in LENT, optional=True, tooltip=said) for mode in MODES),
        ]
        description = "Puts the expression of another photo on faces and keeps the person."
        return edit_schema("EditReference", "emorig: edit by reference", description, inputs)

    @classmethod
    def execute(cls, pipeline: Any, image: torch.Tensor, reference: torch.Tensor, **given: Any) -> Any:
        """Pictures and masks."""
        modes = [mode for mode in MODES if given.pop(mode, mode in LENT)]
        if len(reference) == 1:
            return edit(pipeline, image, given, reference=to_photos(reference)[0], modes=modes)
        if len(reference) != len(image):
            raise ValueError(f"There are {len(image)} pictures and {len(reference)} references: give one each, or one.")
        edits = [
            edit(pipeline, image[i : i + 1], given, reference=lender, modes=modes)
            for i, lender in enumerate(to_photos(reference))
        ]
        return io.NodeOutput(*(torch.cat(parts) for parts in zip(*(one.args for one in edits))))


class AllEmotions(io.ComfyNode):
    """Every emotion of a face."""

    @classmethod
    def define_schema(cls) -> Any:
        """As ComfyUI asks it."""
        sheet = io.Image.Output("sheet", "sheet", tooltip="The face with every emotion, as `emorig grid` draws it.")
        description = "Draws a face with every emotion that the pipeline knows: a batch of whole pictures, and a sheet."
        inputs = [one for one in common_inputs() if one.id not in ANGLES]
        schema = edit_schema("AllEmotions", "emorig: all emotions", description, inputs)
        schema.outputs.append(sheet)
        return schema

    @classmethod
    @torch.inference_mode(False)
    def execute(cls, pipeline: Any, image: torch.Tensor, **given: Any) -> Any:
        """Pictures, masks and the sheet."""
        from ..cli.grid import check_emotions, draw_sheet, every_emotion

        if given["face"] == "all":
            raise ValueError("A sheet shows one face: choose largest or a number.")
        check_emotions(pipeline, pipeline.name_or_path)
        [photo, *others] = to_photos(image)
        if others:
            raise ValueError(f"There are {len(image)} pictures: give one, of which every emotion is made.")
        call = options(given | dict.fromkeys(ANGLES, 0.0))
        with torch.no_grad():
            faces = pipeline.encode(photo, call["face"])
            groups = list(every_emotion(pipeline, photo, faces, lambda: call | {"generator": seeded(given["seed"])}))
        pictures = [picture for _, result in groups for picture in result.images]
        edited = [some for _, result in groups for some in result.faces]
        names = [name for group, _ in groups for name in group]
        many = image.expand(len(pictures), *image.shape[1:])
        made = output(pipeline, many, [photo] * len(pictures), pictures, edited)
        sheet = draw_sheet(pipeline, photo, list(zip(names, pictures)), edited[0][0].box)
        return io.NodeOutput(*made.args, to_sheet(sheet))


def to_sheet(sheet: Any) -> torch.Tensor:
    """A PIL image as ComfyUI's picture [1, H, W, 3]."""
    import numpy as np

    return torch.from_numpy(np.array(sheet)).float()[None] / 255


class EmorigExtension(ComfyExtension):
    """The nodes."""

    async def get_node_list(self) -> list[type]:
        """As ComfyUI asks it."""
        return [LoadPipeline, EditEmotion, EditUnits, EditWords, EditReference, AllEmotions]


async def comfy_entrypoint() -> ComfyExtension:
    """What ComfyUI calls."""
    return EmorigExtension()
