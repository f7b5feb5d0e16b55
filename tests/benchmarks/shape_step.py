"""What keeping the shape brings a Diffusion Autoencoder: drift of β, strength of the edit and identity, side by side.

    python tests/benchmarks/shape_step.py PIPELINE PHOTOS [--step2 PIPELINE2] [--guidance 0.05 0.2] [--photos 12]
        [--person 'london_(?:neutral|smiling)-(\\d+)'] [--emotions happy anger] [--intensities 0.5 1 1.5] [--steps 20]

Rows: the pipeline as it is ("step 1"), the same under `ShapeGuide`, and the pipeline of the second step, each at every
intensity; 0 is the reconstruction.

- drift: |β(edit) - β(photo)| in units of the spread of β over the photos. β is not constant in one person: with
  --person the floor is printed, the median distance of two photos of one person.
- judge: how much likelier the emotion judge takes the edit for the emotion than the reconstruction.
- expression: the change of the expression code from the reconstruction, along the mean change that step 1 makes at
  intensity 1, in units of it.
- CSIM: cosine of the faces' embeddings, edit and photo.

Stronger edits drift more, so the last table compares at equal strength: drift and CSIM interpolated to the strength
that step 1 has at intensity 1.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emorig_diffusers.data.sources import open_dataset
from emorig_diffusers.diffusion.guidance import CodeReader, ShapeGuide
from emorig_diffusers.diffusion.sampling import Sampling
from emorig_diffusers.face.codes import FaceCodes
from emorig_diffusers.hub.repository import resolve
from emorig_diffusers.models.emoca import EmocaEncoder
from emorig_diffusers.photo.crops import encoder_transform
from emorig_diffusers.photo.faces import NoFaceError
from emorig_diffusers.pipelines.diffae import DiffAEEmotionPipeline
from emorig_diffusers.training.diffae.classifier_quality import FaceJudge

Row = tuple[str, str, float]  # method, emotion, intensity


@dataclass
class Photos:
    """Faces as the autoencoder sees them.

    Attributes:
        pictures: [N, 3, S, S] in [-1, 1].
        transform: [N, 3, 3], NDC of the reader's crop to the pictures'.
        people: Who each shows, "" where nobody says.
    """

    pictures: Tensor
    transform: Tensor
    people: list[str]


@dataclass
class Reading:
    """What networks read from pictures of the same faces.

    Attributes:
        codes: Of the reader [N, ...].
        chances: Probabilities of the emotions; empty where no face is found.
        identities: Embeddings, `None` where no face is found.
    """

    codes: FaceCodes
    chances: list[dict[str, float]]
    identities: list[np.ndarray | None]


@dataclass
class Figures:
    """Means over the photos; `judge` is NaN for emotions that the judge does not know."""

    drift: float
    judge: float
    expression: float
    similarity: float


def load_photos(pipe: DiffAEEmotionPipeline, encoder: EmocaEncoder, args: argparse.Namespace) -> Photos:
    """Some photos of a data set; those that show no face are left out."""
    data, pictures, views, people = open_dataset(args.photos_from), [], [], []
    sources = [data.sources[int(i)] for i in np.linspace(0, len(data) - 1, min(args.photos, len(data)))]
    if args.person:
        known = {s: m.group(1) for s in data.sources if (m := re.search(args.person, s.file))}
        sources = sorted(known, key=lambda source: (known[source], source.file))[: args.photos]
    for source in sources:
        try:
            face = pipe.encode(data.read(source), crop="ffhq" if pipe.config.crop == "whole" else None)[0]
        except NoFaceError:
            continue
        pictures.append(face.picture)
        views.append(encoder_transform(encoder.crop, face.landmarks, face.matrix, pipe.latents_side))
        people.append(known[source] if args.person else "")
    if len(pictures) < 2:
        raise SystemExit(f"{args.photos_from} shows fewer than two faces: give more photos.")
    return Photos(torch.stack(pictures), torch.from_numpy(np.stack(views)).float(), people)


class Bench:
    """Decodes edits of photos and reads them.

    Args:
        photos: Whose emotions are changed.
        reader: Of the codes.
        judge: Of emotion and identity.
        steps: Of inversion and decoding.
    """

    def __init__(self, photos: Photos, reader: CodeReader, judge: FaceJudge, steps: int) -> None:
        self.photos, self.reader, self.judge, self.steps = photos, reader, judge, steps
        self.source = self.read(photos.pictures)
        self.spread = float(self.source.codes.shape.std(0).norm())
        self.goal = reader(photos.pictures, photos.transform)

    @torch.no_grad()
    def read(self, pictures: Tensor) -> Reading:
        """Codes, emotions and identities of pictures [N, 3, S, S] of the photos' faces."""
        codes = self.reader.codes(pictures.clamp(-1, 1), self.photos.transform)
        chances, identities = zip(*(self.judge(picture) for picture in pictures))
        return Reading(codes, list(chances), list(identities))

    def edits(
        self, pipe: DiffAEEmotionPipeline, emotions: Sequence[str], intensities: Sequence[float], guidance: float = 0.0
    ) -> dict[tuple[str, float], Reading]:
        """Readings by emotion and intensity, and of the reconstruction under ("", 0)."""
        pictures, plain = self.photos.pictures, Sampling(self.steps, batch=len(self.photos.pictures))
        z = pipe.semantic_code(pictures)
        noise, classifier = pipe.stochastic_code(pictures, z, self.steps), pipe.emotion_classifier
        found = {("", 0.0): self.read(pipe.decode(noise, z, plain))}
        for emotion in emotions:
            for intensity in intensities:
                moved, sampling = classifier.moved(z, {emotion: 1.0}, intensity), plain
                if guidance:
                    guide = ShapeGuide(self.reader, self.goal, self.photos.transform, guidance, classifier, moved - z)
                    sampling = Sampling(self.steps, batch=plain.batch, guide=guide)
                found[emotion, intensity] = self.read(pipe.decode(noise, moved, sampling))
        return found

    def drift(self, reading: Reading) -> float:
        """Mean distance of β to the photos', in spreads."""
        return float((reading.codes.shape - self.source.codes.shape).norm(dim=1).mean()) / self.spread

    def similarity(self, reading: Reading) -> float:
        """Mean CSIM with the photos; 0 where no face is found."""
        pairs = zip(self.source.identities, reading.identities)
        return float(np.mean([0.0 if a is None or b is None else a @ b for a, b in pairs]))

    def floor(self) -> float | None:
        """Median distance of β of two photos of one person, in spreads."""
        people, shapes = self.photos.people, self.source.codes.shape
        pairs = [(i, j) for i, j in combinations(range(len(people)), 2) if people[i] and people[i] == people[j]]
        distances = [float((shapes[i] - shapes[j]).norm()) for i, j in pairs]
        return float(np.median(distances)) / self.spread if pairs else None

    def figures(self, after: Reading, before: Reading, emotion: str, way: Tensor) -> Figures:
        """Of an edit beside its reconstruction; `way` [E] is a change of expression of strength 1."""
        known = emotion in self.judge.emotion.emotions
        gains = [a.get(emotion, 0.0) - b.get(emotion, 0.0) for a, b in zip(after.chances, before.chances)]
        change = (after.codes.expression - before.codes.expression).mean(0)
        strength = float(change @ way / way.square().sum())
        return Figures(self.drift(after), float(np.mean(gains)) if known else np.nan, strength, self.similarity(after))


def at_strength(points: Sequence[Figures], name: str, strength: float) -> float:
    """A figure interpolated to a strength of expression; NaN where no point is as strong."""
    ordered = sorted(points, key=lambda point: point.expression)
    strengths = [point.expression for point in ordered]
    return float(np.interp(strength, strengths, [getattr(point, name) for point in ordered], np.nan, np.nan))


def measure(
    bench: Bench, methods: dict[str, tuple[DiffAEEmotionPipeline, float]], args: argparse.Namespace
) -> dict[Row, Figures]:
    """Figures of all rows; the first method makes the unit of strength."""
    figures, ways = {}, {}
    for method, (pipe, guidance) in methods.items():
        found = bench.edits(pipe, args.emotions, sorted({1.0, *args.intensities}), guidance)
        before = found.pop(("", 0.0))
        for emotion in args.emotions:
            if emotion not in ways:
                ways[emotion] = (found[emotion, 1.0].codes.expression - before.codes.expression).mean(0)
            figures[method, emotion, 0.0] = bench.figures(before, before, emotion, ways[emotion])
        for (emotion, intensity), after in found.items():
            figures[method, emotion, intensity] = bench.figures(after, before, emotion, ways[emotion])
    return figures


def report(figures: dict[Row, Figures], methods: Sequence[str], emotions: Sequence[str]) -> None:
    """Print means over the emotions by intensity, then every method at step 1's strength."""
    print(f"{'':>16} intensity  drift   judge  expression   CSIM")
    for method in methods:
        for intensity in sorted({row[2] for row in figures}):
            rows = [figures[method, emotion, intensity] for emotion in emotions]
            drift, judge, expression, similarity = np.nanmean([astuple(row) for row in rows], 0)
            print(f"{method:>16} {intensity:9.2f} {drift:6.3f} {judge:7.3f} {expression:11.2f} {similarity:6.3f}")
    print("At the strength that step 1 has at intensity 1 (- where a method does not come so far):")
    print(f"{'':>16} {'emotion':>10}  drift   CSIM")
    for method in methods:
        for emotion in emotions:
            points = [f for (m, e, _), f in figures.items() if (m, e) == (method, emotion)]
            drift, similarity = (at_strength(points, name, 1.0) for name in ("drift", "similarity"))
            print(f"{method:>16} {emotion:>10} " + (" -" if np.isnan(drift) else f"{drift:6.3f} {similarity:6.3f}"))


def parse_args() -> argparse.Namespace:
    """Arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("pipeline", help="a DiffAEEmotionPipeline with an emotion classifier")
    add("photos_from", type=Path, help="data set of photos")
    add("--step2", help="the pipeline that train_diffae.py --stage shape made of it")
    add("--guidance", type=float, nargs="*", default=[0.05], help="weights of ShapeGuide")
    add("--encoder", default="encoder-open", help="folder of the EmocaEncoder that reads the codes")
    add("--photos", type=int, default=12)
    add("--person", help="regular expression; its first group in the file name says who it is")
    add("--emotions", nargs="+", default=["happy", "surprise", "anger"])
    add("--intensities", type=float, nargs="+", default=[0.5, 1.0, 1.5])
    add("--steps", type=int, default=20, help="of inversion and decoding")
    return parser.parse_args()


def load(name: str) -> DiffAEEmotionPipeline:
    """A pipeline without progress bars."""
    pipe = DiffAEEmotionPipeline.from_pretrained(name)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main() -> None:
    """Command line."""
    args = parse_args()
    torch.set_num_threads(1)
    first, encoder = load(args.pipeline), EmocaEncoder.from_pretrained(resolve(args.encoder))
    bench = Bench(load_photos(first, encoder, args), CodeReader(encoder), FaceJudge(), args.steps)
    methods = {"step 1": (first, 0.0)} | {f"guidance {w:g}": (first, w) for w in args.guidance}
    if args.step2:
        second = load(args.step2)
        second.register_modules(emotion_classifier=second.emotion_classifier or first.emotion_classifier)
        methods["step 2"] = second, 0.0
    floor = bench.floor()
    floor = "" if floor is None else f"; two photos of one person: {floor:.3f}"
    count, judge = len(bench.photos.people), bench.judge.emotion.name
    print(f"{count} photos, judged by {judge}; spread of β {bench.spread:.3f}{floor}")
    report(measure(bench, methods, args), list(methods), args.emotions)


if __name__ == "__main__":
    main()
