"""Write a gallery: every emotion on each of some portraits, and a page that shows them.

    python docs/gallery.py                             # docs/gallery.md, of the open portraits
    python docs/gallery.py album/*.jpg -o my_gallery   # my_gallery.md and my_gallery/, of photos of yours

The open portraits are in the public domain, and come with packages that the demo needs: nothing is downloaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import matplotlib.cbook
import numpy as np
import skimage.data
from PIL import Image
from tqdm import tqdm

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.cli.grid import draw_sheet, every_emotion
from emorig_diffusers.photo.faces import NoFaceError
from emorig_diffusers.photo.io import PhotoError, read_photo
from emorig_diffusers.pipelines.marking import edit_of
from emorig_diffusers.pipelines.request import EditRequest

HERE = Path(__file__).parent
QUALITY = 85  # of WebP: a sheet of nine faces, 256 px each, takes 60 to 100 kB
HEADER = """# Gallery

What `emorig-open` makes of a face at intensity 1. Nobody in these pictures felt what they show: they are edits, and say
so in their metadata. `python docs/gallery.py` draws the open portraits, `python docs/gallery.py album/*.jpg
-o my_gallery` a page like this of other photos.

These two are all the portraits in the public domain that the demo's packages bring; photos of the sets that the numbers
in README.md were measured on may not be shown here.
"""
OPEN = {
    "Eileen Collins": "Portrait by NASA, public domain: `skimage.data.astronaut()`.",
    "Grace Hopper": 'Portrait by the US Navy, public domain: `matplotlib.cbook.get_sample_data("grace_hopper.jpg")`. '
    "It shows no teeth: those of the edits are drawn.",
}


def open_portraits() -> Iterator[tuple[str, str, np.ndarray]]:
    """Name, what is to say, and pixels uint8 [H, W, 3] of portraits in the public domain."""
    with Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg")) as hopper:
        pictures = skimage.data.astronaut(), np.asarray(hopper.convert("RGB"))
    for (name, about), rgb in zip(OPEN.items(), pictures):
        yield name, about, rgb


def portraits_of(photos: Sequence[Path]) -> Iterator[tuple[str, str, np.ndarray]]:
    """The same of files; one that is no photo is said and left out."""
    for path in photos:
        try:
            yield path.stem, "", read_photo(path).rgb
        except PhotoError as error:
            tqdm.write(str(error))


def draw_gallery(pipe: EmoRigPipeline, portraits: Iterator[tuple[str, str, np.ndarray]], out: Path) -> str:
    """Write a sheet of the largest face of each portrait into a folder; the page, which is to lie beside the folder."""
    edit = edit_of(pipe, EditRequest(emotion=list(pipe.emotion_names)))
    page = HEADER
    for name, about, rgb in tqdm(portraits, unit="portrait", disable=None):
        try:
            faces = pipe.encode(rgb)
        except NoFaceError as error:
            tqdm.write(f"{name}: {error}")
            continue
        results = every_emotion(pipe, rgb, faces, dict)
        edits = [one for emotions, result in results for one in zip(emotions, result.images)]
        file = out / f"{name.lower().replace(' ', '_')}.webp"
        draw_sheet(pipe, rgb, edits, faces[0].face.box).save(file, quality=QUALITY, method=6, xmp=edit.packet())
        page += f"\n## {name}\n\n![{name} with every emotion]({quote(out.name)}/{quote(file.name)})\n"
        page += f"\n{about}\n" if about else ""
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a page of portraits with every emotion.")
    parser.add_argument("photos", metavar="PHOTO", type=Path, nargs="*", help="yours, in place of the open portraits")
    about = "a folder for the pictures, and OUT.md beside it (default: docs/gallery)"
    parser.add_argument("-o", dest="out", metavar="OUT", type=Path, default=HERE / "gallery", help=about)
    args = parser.parse_args()
    pipe = EmoRigPipeline.from_pretrained("emorig-open")
    pipe.set_progress_bar_config(disable=True)
    args.out.mkdir(parents=True, exist_ok=True)
    page = draw_gallery(pipe, portraits_of(args.photos) if args.photos else open_portraits(), args.out)
    args.out.with_name(f"{args.out.name}.md").write_text(page, "utf-8")


if __name__ == "__main__":
    main()
