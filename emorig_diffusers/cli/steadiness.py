"""`emorig evaluate --video`: how steady an edited clip is."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..video.steadiness import Steadiness


def run_steadiness(args: argparse.Namespace) -> int:
    """Print the figures of a clip and its edit; with -o, write them as JSON into that folder, too."""
    from ..evaluation.metrics.emotion import emotion_judge
    from ..evaluation.metrics.identity import identity_judge
    from ..face.emotions import check_emotion
    from ..video.reading import open_clip
    from ..video.steadiness import measure

    source, edited = map(open_clip, args.video)
    emotions = args.emotions or []
    if len(emotions) > 1:
        raise ValueError("A clip shows one emotion: give --emotion.")
    for name in emotions:
        check_emotion(name)
    judge = emotion_judge(args.judge) if emotions else None
    identity = identity_judge(args.identity)
    emotion = emotions[0] if emotions else ""
    rows = figures(measure(source, edited, identity, judge, emotion), identity, judge, emotion)
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:{width}s}  {value if isinstance(value, int) else format(value, '.3f')}")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "steadiness.json").write_text(json.dumps(rows, indent=2) + "\n", "utf-8")
        print(args.out / "steadiness.json")
    return 0


def figures(found: Steadiness, identity: Any, judge: Any, emotion: str) -> dict[str, float]:
    """What was measured, by names as they are printed; what nothing is known of is left out."""
    from ..video.steadiness import median_and_low

    rows: dict[str, float] = {"frames": found.frames, "frames with a face": found.faces}
    if found.flicker is not None:
        rows["flicker, of the source's own"], rows["the same without the mouth"] = found.flicker
    if found.background:
        rows["background change, mean (coding counts)"] = sum(found.background) / len(found.background)
    judged = f"{emotion}, {judge.name}" if judge is not None else ""
    for name, values in ((f"identity, {identity.name}", found.likeness), (judged, found.emotion)):
        if (both := median_and_low(values)) is not None:
            rows[f"{name}, median"], rows[f"{name}, 5th percentile"] = both
    return rows


def check_options(args: argparse.Namespace) -> None:
    """Raise ValueError where what photos need is missing, as they are scored without --video."""
    missing = [name for name, value in (("--source", args.source), ("-o", args.out)) if value is None]
    if args.video is None and missing:
        raise ValueError(f"the following arguments are required: {', '.join(missing)} (see `emorig evaluate --help`).")
