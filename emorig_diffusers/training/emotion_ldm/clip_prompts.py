"""What CLIP is told about the faces before and after: an emotion's words, in many sentences.

One sentence alone also says how a picture was made. A direction from one text to another is therefore averaged over
many (Radford et al. 2021 use 80 for ImageNet, Gal et al. 2022 take the difference): these are ours, of that kind.
"""

from __future__ import annotations

import re

FACE = "face"
ADJECTIVES = {
    "neutral": "neutral", "happy": "happy", "sad": "sad", "surprise": "surprised", "fear": "scared",
    "disgust": "disgusted", "anger": "angry",
}  # fmt: skip
"""Emotion -> how the text calls a face that shows it."""
UNSAID = ("neutral", "contempt")  # source emotions that no word is spent on

TEMPLATES = (
    "a photo of a {}.", "a photo of the {}.", "a photo of one {}.", "a photo of my {}.", "a photo showing a {}.",
    "a photograph of a {}.", "a picture of a {}.", "a picture of the {}.", "an image of a {}.", "an image of one {}.",
    "a portrait of a {}.", "a portrait showing the {}.", "a close photo of a {}.", "a close view of the {}.",
    "a face portrait: a {}.", "a headshot of a {}.", "a passport picture of a {}.", "a selfie with a {}.",
    "a snapshot of a {}.", "a snapshot of the {}.", "a candid photo of a {}.", "a studio photo of a {}.",
    "a photo from the street of a {}.", "a press photo of a {}.", "a film still: a {}.", "a video frame of a {}.",
    "a web camera's picture of a {}.", "a phone's picture of a {}.", "an old photo of a {}.", "a recent photo of a {}.",
    "a good photo of a {}.", "a good photo of the {}.", "a poor photo of a {}.", "a poor photo of the {}.",
    "a sharp photo of a {}.", "a sharp picture of the {}.", "a blurred photo of a {}.", "a blurred picture of the {}.",
    "a grainy photo of a {}.", "a coarse picture of a {}.", "a small picture of a {}.", "a large picture of a {}.",
    "a picture with few pixels of a {}.", "a compressed picture of a {}.", "a noisy picture of the {}.",
    "a bright photo of a {}.", "a bright picture of the {}.", "a dark photo of a {}.", "a dark picture of the {}.",
    "a photo in daylight of a {}.", "a photo by lamplight of a {}.", "a flash photo of a {}.",
    "a colour photo of a {}.", "a photo without colour of a {}.", "a black and white picture of the {}.",
    "a cropped photo of a {}.", "a cropped picture of the {}.", "a tilted photo of a {}.", "a centred photo of a {}.",
    "a photo from the front of a {}.", "a photo from near by of a {}.", "a photo in which you see a {}.",
    "a photo of somebody with a {}.", "a photo of a person with a {}.", "a picture of someone who has a {}.",
    "a clear view of a {}.", "a clean picture of a {}.", "a plain picture of a {}.", "an unusual picture of a {}.",
    "a nice picture of a {}.", "a strange picture of a {}.", "a painting of a {}.", "a painting of the {}.",
    "a drawing of a {}.", "a sketch of the {}.", "a rendering of a {}.", "a rendered picture of the {}.",
    "an artist's picture of a {}.", "a reproduction of a {}.",
)  # fmt: skip


def target_text(emotion: str) -> str:
    """What a face is to become: "happy face"."""
    return f"{ADJECTIVES.get(emotion, emotion)} {FACE}"


def source_text(emotion: str | None, target: str) -> str:
    """What a face shows: nothing in particular if that is unknown, neutral, contempt or the target already."""
    return FACE if emotion is None or emotion in (*UNSAID, target) else target_text(emotion)


def sentences(text: str) -> list[str]:
    """The text in every template, "an" before a vowel."""
    return [_spelled(template.format(text)) for template in TEMPLATES]


def with_article(text: str) -> str:
    """The text as one thing: "a happy face"."""
    return _spelled(f"a {text}")


def _spelled(sentence: str) -> str:
    return re.sub(r"\ba(?= [aeiou])", "an", sentence)
