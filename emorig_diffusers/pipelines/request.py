"""What a caller asks of a pipeline: every argument of a call, once. Signatures, docstrings, the options of the command
line and the demo's endpoint are made from its fields. Nothing here takes long to import."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from ..face.codes import FaceCodes
    from ..face.sentence import Reading
    from ..photo.faces import Face

OUTPUT_TYPES = ("pil", "np", "pt")
MODES = ("exp", "pose", "light", "latent")
"""What a reference photo can lend (DiffusionRig's names): expression and jaw, head pose, light, the photo's code."""
PASTES = ("change", "crop")
Emotion = str | Mapping[str, float]


def argument(
    default: Any, about: str, *, needs: str = "", asks: str = "", limits: tuple[float, float] | None = None, **flag: Any
) -> Any:
    """A field of `EditRequest`.

    Args:
        default: Its default; a pipeline may have another (`FacePipeline.defaults`).
        about: What it means.
        needs: Capability that a pipeline must have for another value than the default.
        asks: The thing to do that it names, with an article, where it is one.
        limits: Least and greatest value.
        flag: Its option of the command line: `option` (its name), and arguments of argparse.
    """
    return field(default=default, metadata={"about": about, "needs": needs, "asks": asks, "limits": limits} | flag)


def names(text: str) -> list[str]:
    """Names of a text in which commas are between them."""
    return [name.strip() for name in text.split(",")]


class Understood(str):
    """A prompt that a request's other fields have heard already; `reading` is what it sets."""

    reading: Reading

    @classmethod
    def of(cls, text: str, reading: Reading) -> Understood:
        """With what was read."""
        self = cls(text)
        self.reading = reading
        return self


@dataclass(frozen=True, kw_only=True, eq=False)
class EditRequest:
    """Arguments of `FacePipeline.__call__` besides the photo; `about` in a field's metadata says what it means."""

    emotion: Emotion | Sequence[Emotion] | None = argument(
        None,
        "One of the pipeline's `emotion_names`, or a blend such as `{'happy': .6, 'surprise': .4}`; a list gives each "
        "photo its own, and one photo every one of them.",
        asks="an emotion", option="--emotion", metavar="NAME",
        help="neutral, happy, sad, surprise, fear, disgust, anger, contempt",
    )  # fmt: skip
    intensity: float = argument(
        1.0,
        "0 returns the photo itself, 1 is a clear emotion, 1.5 the most; faint smiles have closed lips.",
        limits=(0, 1.5), option="--intensity", metavar="I", type=float,
        help="0 (none) to 1.5 (default: 1)",
    )  # fmt: skip
    reference: Any | None = argument(
        None,
        "A photo whose (largest) face lends what `modes` says; in a Diffusion Autoencoder its code within the classes' "
        "span, in an emotion latent-diffusion model the blend of emotions that the judge sees in it.",
        asks="a reference photo", option="--reference", metavar="PHOTO", help="take over this photo's expression",
    )  # fmt: skip
    action_units: Mapping[str, float] | None = argument(
        None,
        "Amounts of action units (`AU12`, `L12`, `R12`) or expression units to add, e.g. `{'AU1': .5}`.",
        needs="head", asks="action units", option="--au", metavar="UNIT=AMOUNT",
        help="add an action unit, e.g. AU12=.5 (repeatable)",
    )  # fmt: skip
    attributes: Mapping[str, float] | None = argument(
        None,
        "Amounts by name, of the attribute classifier; below 0 goes the other way.",
        needs="attributes", asks="attributes", option="--attribute", metavar="NAME=AMOUNT",
        help="add an attribute, of Diffusion Autoencoders that know some, e.g. Young=-1 (repeatable)",
    )  # fmt: skip
    codes: FaceCodes | None = argument(
        None, "Codes whose expression and pose are used as they are.", needs="head", asks="codes"
    )
    rotate: Sequence[float] | None = argument(
        None,
        "(yaw, pitch, roll) in degrees to turn the head by; the subject's left, up and right shoulder. Moved pixels "
        "can show 30 degrees a way, and 45 past the camera in all.",
        needs="head", asks="a rotation", option="--rotate", metavar=("YAW", "PITCH", "ROLL"), type=float, nargs=3,
        help="turn the head, in degrees (30 at most), to the subject's left, up and to the right shoulder",
    )  # fmt: skip
    gaze: Sequence[float] | Literal["camera"] | None = argument(
        None,
        "(yaw, pitch) in degrees to turn the eyes by, 30 and 25 at most, to the subject's left and up, from where they "
        "look in the photo; lids follow. 'camera' turns them sideways to the camera, as far as they look past it: how "
        "far up or down they look, landmarks do not tell.",
        needs="gaze", asks="a gaze", option="--gaze", metavar=("YAW", "PITCH"), nargs="+",
        help="turn the eyes, in degrees (30 and 25 at most), to the subject's left and up; or `camera`",
    )  # fmt: skip
    light_turn: Sequence[float] | None = argument(
        None,
        "(yaw, pitch) in degrees to turn the light by, 90 and 60 at most: light from the camera then comes from so "
        "far to the subject's left and above. What the camera sees stays as bright on the whole.",
        needs="head", asks="a turn of the light", option="--light-turn", metavar=("YAW", "PITCH"), type=float, nargs=2,
        help="turn the light, in degrees (90 and 60 at most), to the subject's left and up",
    )  # fmt: skip
    light_strength: float | None = argument(
        None,
        "How much of the light comes from one side, against what comes from everywhere: 0 is even light, 1 the "
        "photo's, 2 the hardest.",
        needs="head", asks="a strength of the light", limits=(0, 2), option="--light-strength", metavar="S", type=float,
        help="make the light even (0) or harder (up to 2) than the photo's (1)",
    )  # fmt: skip
    prompt: str | None = argument(
        None,
        "A sentence in words that `face.sentence` knows, English or Japanese, such as 'a slight, crooked smile with "
        "wide eyes, lit from the left': it sets emotion, intensity, action units, gaze, rotation and light. What is "
        "given besides it counts more: an emotion, reference or codes instead of its emotions, an intensity other than "
        "1 instead of its own.",
        asks="a prompt", option="--prompt", metavar="SENTENCE",
        help="what to show, in words, e.g. 'a slight smile with wide eyes' or '少し笑って、目を大きく'",
    )  # fmt: skip
    edits: Sequence[Mapping[str, Any]] | Mapping[int, Sequence[Mapping[str, Any]]] | None = argument(
        None,
        "Edits that come first, one after the other, each from the codes that the one before made, e.g. "
        "`[{'emotion': 'happy', 'intensity': .5}, {'action_units': {'AU1': .3}}]`; the codes are painted once. By "
        "number, `{1: [...], 2: [...]}`, each face has its own, and these are the faces that are edited.",
        needs="head", asks="edits", option="--edits", metavar="JSON",
        help="edits one after the other, or each face's own by its number, as in code: JSON or a file with it",
    )  # fmt: skip
    face: int | Literal["largest", "all"] = argument(
        "largest",
        "'largest', 'all', or a number from 1 counted from the left.",
        option="--face", metavar="FACE",
        help="largest, all, or a number from 1 at the left (default: %(default)s)",
    )  # fmt: skip
    faces: Sequence[Face] | Sequence[Any] | Sequence[Sequence[Any]] | None = argument(
        None,
        "The faces to edit, where they are known: as `photo.faces.find_faces` or `encode` returns them; of several "
        "photos, a list for each. None is looked for then.",
    )
    num_inference_steps: int | None = argument(
        None,
        "Steps of the network; `None` for the checkpoint's.",
        option="--steps", metavar="N", type=int, help="steps of the network (default: the checkpoint's)",
    )  # fmt: skip
    inversion_steps: int | None = argument(
        None,
        "Steps T_inv in which the noise x_T is found that a photo came from; `None` for the checkpoint's.",
        needs="semantic_code",
    )
    generator: torch.Generator | Sequence[torch.Generator] | None = argument(
        None,
        "For repeatable results: one, or a list with one for each photo (or each emotion of one photo, where pictures "
        "do not share their noise), whose result is then that of a call with this photo and generator alone.",
    )
    output_type: Literal["pil", "np", "pt"] = argument("pil", "'pil', 'np' or 'pt'.")
    return_dict: bool = argument(True, "Return an `EmoRigOutput`, else a tuple (images, faces).")
    callback_on_step_end: Callable | None = argument(
        None,
        "Called as `f(pipe, step, timestep, {'latents': …})`, as in diffusers; a true `pipe._interrupt` ends the "
        "sampling, and faces that it has not begun stay as they are.",
    )
    callback_on_step_end_tensor_inputs: Sequence[str] = argument(
        ("latents",), "What it is given, and may give back: of 'latents', 'conditions', 'code'."
    )
    latents: torch.Tensor | Literal["photo"] | None = argument(
        None,
        "Noise [1, 3, S, S] to start every face from, S being the side of what the network sees; `None` for fresh "
        "noise for each; 'photo' for the noise that DDIM inversion finds for each photo.",
    )
    modes: Sequence[str] = argument(
        ("exp",),
        "What the reference lends: 'exp' (expression and jaw), 'pose', 'light', 'latent' (the code of the photo), the "
        "last two for networks that draw the whole crop. Without 'exp' an emotion may be given beside it.",
        needs="head", option="--modes", metavar="MODES", type=names,
        help="what --reference lends: exp, pose, light, latent, with commas between them (default: exp)",
    )  # fmt: skip
    source_encoder: str | None = argument(
        None,
        "'deca' or 'emoca', for encoders that can be both: who reads the codes of the photo; `None` for the "
        "checkpoint's.",
        needs="head",
    )
    target_encoder: str | None = argument(None, "Who reads those of the reference.", needs="head")
    crop: str | None = argument(
        None,
        "Which square of the photo is the network's picture; 'whole' for pictures that are aligned already, in which a "
        "Diffusion Autoencoder looks for no face; `None` for the checkpoint's.",
    )
    detail: bool = argument(False, "Draw DECA's wrinkles into the normals.", needs="detail")
    shape_guidance: float = argument(
        0.0,
        "How much the shape code β is held while decoding (`guidance.ShapeGuide`); 0 is off.",
        needs="semantic_code", limits=(0, 10), option="--keep-shape", metavar="W", type=float,
        help="hold the face's shape, e.g. .1, in Diffusion Autoencoders with a shape encoder",
    )  # fmt: skip
    batch_size: int = argument(8, "Faces that a network which draws the whole crop draws at a time.", limits=(1, 1024))
    eta: float = argument(
        0.0,
        "Share η of DDPM's noise that DDIM draws at every step: 0 is none, and the only way back from a photo's own "
        "noise (`latents='photo'`).",
        limits=(0, 1),
    )
    best_of: int | None = argument(
        None,
        "Samples that it draws of each face, from other noise each; the least grainy is kept. `None` for the "
        "checkpoint's, 1 where `latents` are given.",
        needs="whole_crop", limits=(1, 64), option="--best-of", metavar="N", type=int,
        help="draw N samples and keep the least grainy, with models that draw the whole crop",
    )  # fmt: skip
    paste: Literal["change", "crop"] = argument(
        "change",
        "'change' brings the network's change into the photo and keeps the photo's detail where little changed; 'crop' "
        "pastes the network's picture as it is.",
        needs="picture",
    )
    source_emotion: Emotion | Sequence[Emotion | Sequence[Emotion | None] | None] | None = argument(
        None,
        "What the photo's faces show, for an emotion latent-diffusion model: a name or a blend, or 'unknown' for its "
        "null class; a list gives each photo its own, and each face of a photo where there are lists in it or one "
        "photo only; `None` for what the pipeline's `judge` sees.",
        needs="emotion_guidance", option="--source-emotion", metavar="NAME",
        help="what the faces show, for emotion latent-diffusion models (default: what a small network sees)",
    )  # fmt: skip
    strength: float | None = argument(
        None,
        "Share t0 of the diffusion that the photo goes through before the emotion brings it back; `None` for the "
        "checkpoint's.",
        needs="emotion_guidance", limits=(0.01, 0.999), option="--strength", metavar="T0", type=float,
        help="share of the noise to go through, for emotion latent-diffusion models (default: the checkpoint's)",
    )  # fmt: skip
    guidance_scale: float | None = argument(
        None,
        "How far beyond the null class the target emotion is followed (γ); 1 is no guidance, `None` the checkpoint's.",
        needs="emotion_guidance", limits=(1, 20), option="--guidance", metavar="G", type=float,
        help="how far the emotion is followed, for emotion latent-diffusion models (default: the checkpoint's)",
    )  # fmt: skip
    inversion_guidance_scale: float | None = argument(
        None,
        "The same for the source emotion while the photo is inverted; `None` for the checkpoint's, which may be γ.",
        needs="emotion_guidance",
        limits=(1, 20),
    )

    def __post_init__(self) -> None:
        """Read the prompt, once: fields that are replaced later are not set by it again."""
        if self.prompt is None or isinstance(self.prompt, Understood):
            return
        from ..face.sentence import LOOKS, read

        reading = read(self.prompt)
        changes: dict[str, Any] = {"prompt": Understood.of(self.prompt, reading)}
        if reading.emotion and self.emotion is None and not self.lends_expression and self.codes is None:
            own = self.intensity == ARGUMENTS["intensity"].default
            changes |= {"emotion": reading.emotion} | ({"intensity": reading.intensity} if own else {})
        changes["action_units"] = {**reading.action_units, **(self.action_units or {})} or None
        changes |= {name: getattr(reading, name) for name in LOOKS if getattr(self, name) is None}
        for name, value in changes.items():
            object.__setattr__(self, name, value)

    @property
    def lends_expression(self) -> bool:
        """Whether there is a reference whose expression is taken over."""
        plain = isinstance(self.modes, Sequence) and "exp" not in self.modes
        return self.reference is not None and not plain


ARGUMENTS: dict[str, Field] = {one.name: one for one in fields(EditRequest)}
POSITIONAL = ("emotion", "intensity")
"""What may be given without its name, after the photo."""


def signature(defaults: Mapping[str, Any]) -> inspect.Signature:
    """Of `FacePipeline.__call__`, for a pipeline with defaults of its own."""
    kinds = inspect.Parameter
    given = [kinds("self", kinds.POSITIONAL_OR_KEYWORD), kinds("image", kinds.POSITIONAL_OR_KEYWORD)]
    for name, one in ARGUMENTS.items():
        kind = kinds.POSITIONAL_OR_KEYWORD if name in POSITIONAL else kinds.KEYWORD_ONLY
        given.append(kinds(name, kind, default=defaults.get(name, one.default), annotation=one.type))
    return inspect.Signature(given)


def describe_arguments() -> str:
    """The arguments as the docstring of a method lists them."""
    wrap = lambda text: textwrap.fill(text, 112, initial_indent=" " * 12, subsequent_indent=" " * 16)
    return "\n".join(wrap(f"{name}: {one.metadata['about']}") for name, one in ARGUMENTS.items())


def options() -> dict[str, dict[str, Any]]:
    """Options of the command line by their names, as arguments of argparse's `add_argument`. What only some pipelines
    can do is `None` where it is not given."""
    known = ("metavar", "type", "nargs", "help")
    return {
        one.metadata["option"]: {"dest": name, "default": None if one.metadata["needs"] else one.default}
        | {key: one.metadata[key] for key in known if key in one.metadata}
        for name, one in ARGUMENTS.items()
        if "option" in one.metadata
    }
