"""Settings with a name: as a small JSON file, as the query of a link, and in the visitor's browser.

A preset is `{"name": ..., "edits": [...]}`; the edits are those that `EmoRigPipeline` takes in code.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from looks import Edits, Settings

from emorig_diffusers.pipelines.base import FacePipeline

KEYS = (
    "emotion",
    "intensity",
    "action_units",
    "rotate",
    "gaze",
    "light_turn",
    "light_strength",
    "attributes",
    "shape_guidance",
)
"""What of a step can be kept: all but photos."""
MOST_BYTES = 20_000  # of a preset
MOST_NAME = 60  # characters
MOST_STEPS = 20
BROKEN = 'This is no preset: it needs {"name": "...", "edits": [{"emotion": "happy", "intensity": 0.8}]}.'


def make(name: str, edits: Edits) -> dict[str, Any]:
    """A preset of a face's edits; what photos lend is left out."""
    steps = [{key: step[key] for key in KEYS if key in step} for step in edits.steps]
    asked = [step for step in steps if any(key != "intensity" for key in step)]
    return {"name": name.strip()[:MOST_NAME] or "EmoRig", "edits": asked}


def parse(text: str, broken: str = BROKEN) -> Any:
    """What JSON says; ValueError with one sentence where it is none or too long."""
    try:
        return json.loads(text[: MOST_BYTES + 1])
    except (ValueError, RecursionError):
        raise ValueError(broken) from None


def read(pipe: FacePipeline, preset: Any, broken: str = BROKEN) -> dict[str, Any]:
    """A preset as JSON holds it, checked; ValueError with one sentence where it is none, or not one for a pipeline."""
    edits = preset.get("edits") if isinstance(preset, Mapping) else None
    plain = lambda step: isinstance(step, Mapping) and all(key in KEYS for key in step)
    if not isinstance(preset, Mapping) or not isinstance(edits, list) or not all(map(plain, edits)):
        raise ValueError(broken)
    if not 0 < len(edits) <= MOST_STEPS:
        raise ValueError(f"A preset has from 1 to {MOST_STEPS} edits, and this one has {len(edits)}.")
    if "head" in pipe.capabilities:
        pipe.check_inputs(edits=edits)
    elif len(edits) == 1:
        pipe.check_inputs(**edits[0])
    else:
        raise ValueError("This pipeline has no head, so no edits one after the other: give one.")
    return {"name": str(preset.get("name", ""))[:MOST_NAME], "edits": edits}


def query(preset: Mapping[str, Any]) -> str:
    """The part of a link that opens the page with a preset."""
    edits = json.dumps(preset["edits"], separators=(",", ":"))
    return "?" + urllib.parse.urlencode({"name": preset["name"], "edits": edits})


def of_query(pipe: FacePipeline, given: Mapping[str, str]) -> dict[str, Any] | None:
    """The preset of a link's query, `None` where it has none; ValueError as for `read`."""
    if "edits" not in given:
        return None
    return read(pipe, {"name": given.get("name", ""), "edits": parse(given["edits"])})


def write(preset: Mapping[str, Any], folder: Path) -> str:
    """The preset as a file of its name in a folder."""
    plain = "".join(c if c.isalnum() or c in " -_" else "_" for c in preset["name"]).strip() or "preset"
    path = folder / f"{plain}.json"
    path.write_text(json.dumps(preset, indent=1, ensure_ascii=False), "utf-8")
    return str(path)


def edits_of(steps: Sequence[Mapping[str, Any]], most_angle: float) -> Edits:
    """Steps as a face's edits: the last one goes to the controls, if those can show it."""
    *done, last = steps
    shown = (
        isinstance(last.get("emotion"), (str, type(None)))
        and all(abs(angle) <= most_angle for angle in last.get("rotate") or ())
        and len(set((last.get("attributes") or {}).values())) < 2
    )
    given = {key: value for key, value in last.items() if value is not None}
    return Edits(tuple(done), Settings(**given)) if shown else Edits((*done, last))
