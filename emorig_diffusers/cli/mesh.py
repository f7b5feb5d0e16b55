"""`emorig mesh`: the face of a photo, or of its edit, as a textured 3-D head."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import models
from .options import SAMPLING, add_options, asked, check_edit, new_command, path, sampling
from .photos import check_photo, check_reference, naming, say_notes

if TYPE_CHECKING:
    from ..mesh.export import TexturedMesh
    from ..pipelines.base import FacePipeline

_ABOUT = "Write the head of a photo's face, textured with the photo, as a GLB or OBJ file"
_NOTES = (
    "With an emotion, a blend or a reference, the edited head is written, and the photo's own beside it: "
    "face.glb and face_before.glb. An OBJ's material and texture lie beside it."
)
READER = "emorig-open"  # fits heads to photos of pipelines that have none


def add_command(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    parser = new_command(commands, run_mesh, _ABOUT, "PHOTO", notes=_NOTES)
    add_options(parser.add_mutually_exclusive_group(), "--emotion", "--blend", "--reference")
    add_options(parser, *SAMPLING)
    parser.add_argument("--size", metavar="PIXELS", type=int, default=1024,
                        help="side of the texture (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--morphs",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="ARKit's morph targets in a .glb, which then holds the head at rest",
    )
    parser.add_argument("-o", metavar="OUT", dest="out", type=path, required=True,
                        help="the result (.glb .obj); existing files are replaced")  # fmt: skip


def run_mesh(args: argparse.Namespace) -> int:
    """`emorig mesh`: print the files written, the edited head's first."""

    edited = args.emotion is not None or args.reference is not None
    check(args, edited)
    pipe = models.load_pipeline(args.model)
    if edited:
        check_edit(pipe, args)
    from ..files.atomic import write_files
    from ..mesh.export import mesh_files

    meshes = make_meshes(pipe, args, edited)
    places = [args.out, before(args.out)] if edited else [args.out]
    write_files({file: data for place, mesh in zip(places, meshes) for file, data in mesh_files(mesh, place).items()})
    print(*places, sep="\n")
    return 0


def before(out: Path) -> Path:
    """Where the photo's own head goes beside an edited one."""
    return out.with_stem(f"{out.stem}_before")


def check(args: argparse.Namespace, edited: bool) -> None:
    """Refuse what can be told before anything is loaded."""
    from ..mesh.export import check_mesh_path

    if args.face == "all":
        raise ValueError("A mesh holds one head: give --face largest or a number from 1.")
    check_photo(args.photo)
    check_mesh_path(args.out)
    check_reference(args.reference)


def make_meshes(pipe: FacePipeline, args: argparse.Namespace, edited: bool) -> list[TexturedMesh]:
    """The edited head and the photo's own, or the latter alone; READER's where the pipeline has no head."""
    from ..mesh.export import mesh_of_edit, mesh_of_photo
    from ..photo.io import read_photo

    reader: Any = pipe if "mesh" in pipe.capabilities else models.load_pipeline(READER)
    rgb = read_photo(args.photo).rgb
    with naming(args.photo):
        [face] = reader.encode(rgb, args.face)
    options = {"size": args.size, "morphs": args.morphs and args.out.suffix.lower() == ".glb"}
    meshes = [mesh_of_photo(reader, face, rgb, **options)]
    if edited:
        number = face.face.index + 1
        known = {"face": number, "faces": [face if reader is pipe else face.face]}
        result = pipe(rgb, **asked(args), output_type="np", **sampling(args) | known)
        say_notes(args.photo, result)
        picture, [after] = result.images[0], result.faces[0]
        if reader is pipe:
            return [mesh_of_edit(reader, face, after, picture, **options), *meshes]
        [seen] = reader.encode(picture, number)
        return [mesh_of_photo(reader, seen, picture, **options), *meshes]
    return meshes
