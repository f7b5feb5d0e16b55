"""`emorig codes`: how a pipeline reads the faces of a photo, as JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..models.semantic_classifier import LatentClassifier
    from ..pipelines.diffae import DiffAEEmotionPipeline
    from ..pipelines.diffae_faces import CodedFace
    from ..pipelines.emorig import EmoRigPipeline, EncodedFace


def run_codes(args: argparse.Namespace) -> int:
    """`emorig codes`: number, box [x0, y0, x1, y1] in px and codes of each face."""
    from . import main

    main.check_photo(args.photo)
    if args.out is not None:
        main.refuse_same(args.photo, args.out)
    pipe = main.load_pipeline(args.model)
    from ..pipelines.diffae import DiffAEEmotionPipeline

    faces = main.find_faces_in(pipe, args.photo, args.face)
    describe = semantic_codes if isinstance(pipe, DiffAEEmotionPipeline) else head_codes
    write(json.dumps(describe(pipe, faces), indent=1), args.out)
    return 0


def head_codes(pipe: EmoRigPipeline, faces: list[EncodedFace]) -> list[dict[str, Any]]:
    """Codes of the head, and the expression's by the names of its units where they have any."""
    names = pipe.head.config.expression_names
    return [
        {
            "number": f.face.index + 1,
            "box": list(f.face.box),
            "expression": {name: f.codes.expression[0, i].item() for i, name in enumerate(names)},
            "codes": f.codes.to_dict(),
        }
        for f in faces
    ]


def semantic_codes(pipe: DiffAEEmotionPipeline, faces: list[CodedFace]) -> list[dict[str, Any]]:
    """z_sem, and how probable emotions and attributes are by the classifiers that there are."""
    described = []
    for face in faces:
        z = pipe.encode(face.picture[None])
        known = {"emotions": pipe.emotion_classifier, "attributes": pipe.attribute_classifier}
        told = {kind: probable(classifier, z) for kind, classifier in known.items() if classifier is not None}
        described.append({"number": face.number, "box": list(face.box), **told, "z_sem": z[0].tolist()})
    return described


def probable(classifier: LatentClassifier, z: Any) -> dict[str, float]:
    """Class -> probability in [0, 1] of one code [1, C]."""
    return dict(zip(classifier.names, classifier.probabilities(z)[0].tolist()))


def write(text: str, out: Path | None) -> None:
    """Print a text, or write it to a file."""
    from ..files.atomic import write_file

    if out is None:
        print(text)
    else:
        write_file(out, text.encode() + b"\n")
