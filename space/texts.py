"""Every sentence and label of the demo, by key: a language is one table. What a program calls (endpoints, their
parameters) is not translated, and what the package says in a sentence of its own comes as it is."""

from __future__ import annotations

from gradio.context import LocalContext

ENGLISH = {
    "name": "EmoRig",
    "title": "# EmoRig\nChange the emotion of a face, keep the person.",
    "note": "For photos and clips of yourself or of people who agreed; never to deceive. They are processed on this "
    "machine only.",
    "duplicate": "Duplicate this Space",
    "drop": "# {what}\nDrop it here or click",
    "reset": "Reset to the photo",
    "undo": "Undo",
    "redo": "Redo",
    "go_on": "Go on from this",
    "stop": "Stop",
    "stopped": "Stopped.",
    "no_photo": "Upload a photo first.",
    "no_clip": "Upload or record a clip first.",
    "no_scan": "Upload a scan first.",
    "not_uploaded": "This is no photo that you uploaded: upload one first.",
    "not_fetched": "The file at this address could not be fetched: give a public http or https address of a photo or "
    "clip, or upload it.",
    # faces
    "faces": "Faces",
    "faces.which": "Which face? Or click it",
    "faces.largest": "Largest",
    "faces.all": "All",
    "faces.one": "Face {number}: {what}",
    # emotions
    "emotion": "Emotion",
    "emotion.neutral": "Neutral",
    "emotion.happy": "Happy",
    "emotion.sad": "Sad",
    "emotion.surprise": "Surprise",
    "emotion.fear": "Fear",
    "emotion.disgust": "Disgust",
    "emotion.anger": "Anger",
    "emotion.contempt": "Contempt",
    "strength": "Strength",
    # the tab of photos
    "photo.tab": "Photo",
    "photo": "Photo",
    "photo.examples": "Or try one of these",
    "shape": "Keep the face's shape",
    "run": "Change the expression",
    "all": "All eight at once",
    "all.about": "Click the one to go with",
    "reference": "Reference",
    "reference.part": "Take the expression of another photo instead",
    "attributes": "Attributes",
    "attributes.which": "Which",
    "attributes.amount": "Amount (below 0: less of it)",
    "units": "Single movements (action units)",
    "units.about": "The sliders start at what the photo shows.",
    "units.one": "{movement} ({unit})",
    "units.AU1": "Inner brows up",
    "units.AU2": "Outer brows up",
    "units.AU4": "Brows down",
    "units.AU5": "Eyes wide",
    "units.AU6": "Cheeks up",
    "units.AU7": "Lids tight",
    "units.AU9": "Nose wrinkled",
    "units.AU10": "Upper lip up",
    "units.AU12": "Lip corners up",
    "units.AU15": "Lip corners down",
    "units.AU17": "Chin up",
    "units.AU20": "Lips stretched",
    "units.AU26": "Jaw open",
    "pose": "Head pose",
    "pose.yaw": "Yaw ° (to the person's left)",
    "pose.pitch": "Pitch ° (up)",
    "pose.roll": "Roll ° (to the right shoulder)",
    "sampling": "Sampling",
    "sampling.seed": "Seed",
    "sampling.steps": "Steps",
    "result": "Result",
    "result.empty": "Give a photo and choose an emotion: the result appears here.",
    "result.download": "Download PNG",
    "looks": "What you made so far",
    "look.photo": "The photo",
    "look.then": ", then ",
    "look.reference": "Expression of {name}",
    "look.yaw": "Yaw",
    "look.pitch": "Pitch",
    "look.roll": "Roll",
    "nothing_yet": "Choose an emotion or move a slider first.",
    "presets": "Presets",
    "presets.chosen": "Saved in this browser",
    "presets.name": "Name",
    "presets.save": "Save",
    "presets.link": "Link that opens the page with these settings",
    "presets.file": "Download as a file",
    "presets.load": "Load a file",
    "presets.loaded": "Preset “{name}”: give a photo, and it is applied.",
    "buffers": "Buffers",
    "buffers.result": "result",
    "buffers.normal": "normal",
    "buffers.albedo": "albedo",
    "buffers.rendered": "rendered",
    "buffers.repainted": "repainted",
    "buffers.photo": "photo",
    "buffers.reconstructed": "reconstructed",
    "buffers.edited": "edited",
    "buffers.replaced": "replaced",
    "head": "3-D head",
    "animation": "Animation",
    "animation.run": "Animate",
    "animation.seconds": "Seconds",
    "animation.loop": "And back again",
    "animation.download": "Download {kind}",
    # the tab of clips
    "clip.tab": "Video",
    "clip": "Clip",
    "clip.photo": "Let a photo do what the clip does instead",
    "clip.run": "Change the clip",
    "clip.before": "Before",
    "clip.after": "After",
    "clip.empty": "Give a clip and choose an emotion: the result appears here.",
    "clip.play": "Play both",
    "clip.download": "Download MP4",
    # the tab of scans
    "scan.tab": "3-D scan",
    "scan": "Scan (PLY, OBJ, GLB, NPZ)",
    "scan.about": "A mesh, or points with or without normals, in any unit and however it is turned; it takes half "
    "a minute, on busy machines some.",
    "scan.none": "No neural head is loaded: start the demo with `--head FOLDER`, where the folder is what `emorig "
    "convert nphm` or `train/train_nphm.py` wrote. Then a head is fitted here to a scan that you upload.",
    "scan.run": "Fit a head",
    "scan.looking": "Looking how the scan lies …",
    "scan.step": "Step {done} of {total} · {seconds:.0f} s left",
    "scan.drawing": "Looking for the head's surface …",
    "scan.done": "Fitted in {seconds:.0f} s: half of the scan lies within {misfit:.1f} mm of the head.",
    "scan.poor": "The scan lies far from its fit: what is no head fits badly, and what is part of one may be turned "
    "wrongly; `emorig head fit --landmarks` places it.",
    "scan.download": "Download GLB (on the scan)",
    "scan.codes": "Download codes",
    # the tab of many photos
    "batch.tab": "Many photos",
    "batch.photos": "Photos",
    "batch.face": "Which face of each photo?",
    "batch.run": "Change all photos",
    "batch.empty": "Give photos and choose an emotion: what becomes of each appears here.",
    "batch.none": "Upload photos first.",
    "batch.many": "These are {count} photos, and {most} are the most here: give fewer, or use `emorig edit FOLDER`.",
    "batch.large": "The photos have more than {most} MB in all, which are the most here: give fewer, or use `emorig "
    "edit FOLDER`.",
    "batch.kind": "This is no photo by its name ({kinds}).",
    "batch.pixels": "The photo has {count:.0f} megapixels, and {most} are the most here: make it smaller, or edit it "
    "by itself.",
    "batch.odd": "Something went wrong that nobody foresaw: try this photo by itself.",
    "batch.frames": "The file holds {count} pictures, of which the first was edited.",
    "batch.called": "Called {name} in the zip.",
    "batch.failed": "Not edited:",
    "batch.photo": "Photo {number} of {total}",
    "batch.done": "{edited} of {total} photos edited, {failed} failed.",
    "batch.stopped": "Stopped: {edited} of {total} photos edited, {failed} failed.",
    "batch.before": "Before",
    "batch.after": "After",
    "batch.outcome": "Photo",
    "batch.download": "Download all (ZIP)",
    # the tab that compares pipelines
    "compare.tab": "Compare",
    "compare.source": "Source: whose face it is",
    "compare.target": "Target: whose expression it gets",
    "compare.modes": "What the target lends",
    "compare.exp": "Expression",
    "compare.pose": "Head pose",
    "compare.light": "Light",
    "compare.latent": "Code of the photo",
    "compare.run": "Compare",
    "compare.none": "Give a source and a target photo first.",
    "compare.loaded": "Loaded: {names}.",
    "compare.more": "Others come beside them with `python space/app.py --with FOLDER`, which may be given again; a rig "
    "with DECA and EMOCA shows each as source and as target.",
    "compare.download": "Download PNG",
    "compare.times": "How long it took",
    # how far a job is
    "job.waiting": "Waiting for those who came before …",
    "job.looking": "Looking at the faces …",
    "job.frame": "Frame {done} of {total}",
    "job.frames": "{done} frames",
    "job.rate": " · {rate:.1f} frames a second",
    "job.left": " · {seconds:.0f} s left",
}
LANGUAGES = {"en": ENGLISH}
"""Language, as browsers name it -> its table; English has every key."""


def language() -> str:
    """Of the visitor whose event is handled, as the browser asks for it; English where nobody asks, as while the page
    is built."""
    request = LocalContext.request.get(None)
    wanted = request.headers.get("accept-language", "") if request else ""
    tags = (part.split(";")[0].strip().lower().split("-")[0] for part in wanted.split(","))
    return next((tag for tag in tags if tag in LANGUAGES), "en")


def say(key: str, **values: object) -> str:
    """The text of a key in the visitor's language, with values in its places."""
    table = LANGUAGES[language()]
    return table.get(key, ENGLISH[key]).format(**values) if values else table.get(key, ENGLISH[key])


def say_emotion(name: str) -> str:
    """An emotion's name for the eye; of a checkpoint's own emotions, its own."""
    key = f"emotion.{name}"
    return say(key) if key in ENGLISH else name.capitalize()
