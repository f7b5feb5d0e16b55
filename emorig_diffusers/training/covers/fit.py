"""The small network that tells whether something is before a mouth: trained, and measured on people it never saw.

Covers are drawn onto portraits (`draw.py`); both kinds are then turned grey, dim, tinted, blurred, noisy or small. A
quarter of the people is kept back for the measurement, an eighth for the choice of the threshold.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import save
from torch.nn.functional import binary_cross_entropy_with_logits, pad
from tqdm.auto import tqdm

from ...files.atomic import write_file
from ...models.occlusion import PATCH, SURE, LipsNet, mouth_patch
from ...photo.detectors import SIDE, detect_landmarks
from ...photo.faces import choose_faces, find_faces
from ...photo.io import read_photo
from ...photo.landmarks import INNER_LIPS, OUTER_LIPS
from ...photo.masks import fill_polygon
from ...photo.resample import align, transform_points, warp_crop
from ..manifest import MANIFEST, read_rows
from .draw import KINDS, SHAPES, Portrait, cover_mouth, covered_share

SIZE = 192  # side of the portraits that covers are drawn on, pixels
COVERED, BESIDE = 0.25, 0.05  # shares of the lips from which they count as covered, and up to which as seen
DOUBT = 0.01  # label smoothing
OPEN = 0.06  # heights of the face from which a mouth is open wide: rare in photos, shown to the network more often
PARTS = {"train": 0.625, "choose": 0.125, "measure": 0.25}  # shares of the people


def read_portraits(folder: Path, people: dict[str, str]) -> list[tuple[str, Portrait]]:
    """(person, portrait) of every photo of a folder in which a face is found."""
    found = []
    for path in tqdm(sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".png")), desc=folder.name):
        rgb = read_photo(path).rgb
        faces = find_faces(rgb)
        if faces:
            face = choose_faces(faces)[0]
            matrix = align(face.landmarks, SIZE)
            crop = warp_crop(rgb, matrix, SIZE).astype(np.float32) / 255
            portrait = Portrait(crop, transform_points(matrix, face.landmarks[:, :2]))
            found.append((people.get(path.name) or path.stem, portrait))
    return found


def part_of(person: str) -> str:
    """Which of PARTS a person belongs to, always the same."""
    place = zlib.crc32(person.encode()) / 2**32
    for part, share in PARTS.items():
        if place < share:
            return part
        place -= share
    return part


def paint_lips(face: Portrait, rng: np.random.Generator) -> Portrait:
    """Lipstick of any colour."""
    outer, inner = (fill_polygon(face.picture.shape, face.points[list(line)]) for line in (OUTER_LIPS, INNER_LIPS))
    lips = cv2.GaussianBlur((outer & ~inner).astype(np.float32), (0, 0), 0.8) * rng.uniform(0.3, 0.9)
    hue = np.array([0.6, 0.1, 0.15]) if rng.random() < 0.6 else rng.random(3)
    light = face.picture.mean(2, keepdims=True) / max(float(face.picture.mean()), 0.05)
    colour = np.clip(hue * rng.uniform(0.3, 1.2) * light, 0, 1)
    return Portrait((face.picture + lips[..., None] * (colour - face.picture)).astype(np.float32), face.points)


def openness(face: Portrait) -> float:
    """Height of the mouth's opening, heights of the face."""
    return float(np.linalg.norm(face.points[13] - face.points[14])) / face.unit


def gape(face: Portrait, rng: np.random.Generator) -> Portrait:
    """A mouth that is narrower and higher: photos hardly show round ones."""
    size, middle = len(face.picture), face.mouth
    grow, reach = np.array([rng.uniform(0.6, 1), rng.uniform(1, 1.5)]), 0.22 * face.unit

    def source(places: np.ndarray) -> np.ndarray:
        away = places - middle
        near = np.exp(-np.square(away).sum(-1, keepdims=True) / (2 * reach**2))
        return middle + away * (1 + near * (1 / grow - 1))

    grid = np.stack(np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5), -1)
    x, y = (source(grid) - 0.5).astype(np.float32).transpose(2, 0, 1)
    picture = cv2.remap(face.picture, x, y, cv2.INTER_LINEAR)
    points = face.points.copy()
    for _ in range(20):  # where each point has gone to
        points += 0.7 * (face.points - source(points))
    return Portrait(picture, points)


def worsen(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A portrait as bad photos show it; uint8 [S, S, 3]."""
    size = len(picture)
    if rng.random() < 0.15:
        grey = picture @ np.array([0.3, 0.6, 0.1], np.float32)
        picture = grey[..., None] * (np.array([1.05, 1, 0.85]) if rng.random() < 0.3 else np.ones(3))
    if rng.random() < 0.5:
        picture = picture * np.exp(rng.normal(0, 0.12, 3))
    if rng.random() < 0.4:
        picture = picture * np.exp(rng.uniform(-2, 0.4))
    if rng.random() < 0.3:  # light from one side
        slope = np.exp(np.linspace(-1, 1, size) * rng.normal(0, 0.5))
        picture = picture * (slope[:, None, None] if rng.random() < 0.3 else slope[None, :, None])
    if rng.random() < 0.3:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 3.5))
    if rng.random() < 0.4:
        side = int(rng.uniform(0.25, 0.9) * size)
        small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        picture = cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.4:
        picture = picture + rng.normal(0, rng.uniform(0.005, 0.06), picture.shape)
    picture = (np.clip(picture, 0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.4:
        quality = int(rng.integers(25, 90))
        jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        picture = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR))
    return picture


def seen_sample(face: Portrait, others: list[Portrait], rng: np.random.Generator, plain: bool = False) -> np.ndarray:
    """Patch of a mouth that is seen: as it is, with lipstick, or with something near it."""
    if openness(face) > OPEN and rng.random() < 0.5 and not plain:
        face = gape(face, rng)
    if rng.random() < 0.25 and not plain:
        face = paint_lips(face, rng)
    if rng.random() < 0.3 and not plain:
        kind = KINDS[rng.integers(len(KINDS))]
        shift = rng.uniform(0.15, 0.4) * face.unit * np.array([rng.normal(0, 0.6), 1.0])
        moved = Portrait(face.picture, face.points + shift)  # the cover is drawn where the mouth is not
        picture, alpha = cover_mouth(kind, moved, others, rng)
        if covered_share(alpha, face) < BESIDE:
            face = Portrait(picture, face.points)
    picture = (face.picture * 255).astype(np.uint8) if plain else worsen(face.picture, rng)
    return mouth_patch(picture, face.points if plain else jitter(face, rng))


def jitter(face: Portrait, rng: np.random.Generator, amount: float = 0.012) -> np.ndarray:
    """Landmarks that are a little off, as a whole."""
    middle = face.points.mean(0)
    angle, zoom = rng.normal(0, 0.05), np.exp(rng.normal(0, 0.04))
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (face.points - middle) @ turn.T + middle + rng.normal(0, amount, 2) * face.unit


def covered_sample(
    face: Portrait, others: list[Portrait], kind: str, rng: np.random.Generator, plain: bool = False
) -> np.ndarray | None:
    """Patch of a covered mouth, with the landmarks that the detector guesses; `None` where a cover missed the lips."""
    for _ in range(5):
        picture, alpha = cover_mouth(kind, face, others, rng)
        if covered_share(alpha, face) >= COVERED:
            break
    else:
        return None
    picture = (picture * 255).astype(np.uint8) if plain else worsen(picture, rng)
    seen = detect_landmarks(cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC))
    if seen is None:
        return None if plain else mouth_patch(picture, jitter(face, rng))
    guessed = Portrait(face.picture, seen[0][:, :2] * SIZE)
    return mouth_patch(picture, guessed.points if plain else jitter(guessed, rng, 0.005))


def make_set(faces: list[Portrait], count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Patches [N, 4, P, P] float16 and whether each is covered [N]: about `count` of either."""
    patches, covered = [], []
    wide = np.array([max(openness(face) - OPEN, 0) for face in faces])
    for i in tqdm(range(count), desc="samples"):
        one = (
            rng.choice(len(faces), p=wide / wide.sum())
            if wide.any() and rng.random() < 0.3
            else rng.integers(len(faces))
        )
        patches.append(seen_sample(faces[one], faces, rng))
        covered.append(False)
        patch = covered_sample(faces[rng.integers(len(faces))], faces, KINDS[i % len(KINDS)], rng)
        if patch is not None:
            patches.append(patch)
            covered.append(True)
    return np.array(patches, np.float16), np.array(covered)


def fit(patches: np.ndarray, covered: np.ndarray, epochs: int = 11, batch: int = 128) -> LipsNet:
    """Train a network; seen mouths weigh more, as calling one covered is the worse mistake."""
    torch.manual_seed(0)
    net = LipsNet()
    x, y = torch.from_numpy(patches), torch.from_numpy(covered).float()
    batch = min(batch, len(x))
    steps = epochs * (len(x) // batch)
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, steps)
    for _ in tqdm(range(steps), desc="fit"):
        pick = torch.randint(len(x), (batch,))
        inputs = x[pick].float()
        inputs = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, inputs, inputs.flip(-1))
        left, top = torch.randint(5, (2,)).tolist()
        inputs = pad(inputs, (2, 2, 2, 2), "replicate")[..., top : top + PATCH, left : left + PATCH]
        inputs[:, :3] += 0.08 * torch.randn(batch, 3, 1, 1)  # the skin's colour is measured roughly
        weight = torch.where(y[pick] > 0, 1.0, 3.0)
        loss = binary_cross_entropy_with_logits(net(inputs), y[pick].clamp(DOUBT, 1 - DOUBT), weight)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def logits(net: LipsNet, patches: np.ndarray) -> np.ndarray:
    """As `occlusion.cover_logit`, of many patches."""
    x = torch.from_numpy(np.asarray(patches, np.float32))
    return torch.cat([(net(part) + net(part.flip(-1))) / 2 for part in x.split(512)]).numpy()


def report(net: LipsNet, faces: list[Portrait], others: list[Portrait], sure: float, rng: np.random.Generator) -> None:
    """Print how many mouths that are seen are called covered, and how many covers of every kind are found."""
    line = lambda what, patches: print(f"{what:28s} {(logits(net, patches) > sure).sum():5d} of {len(patches)}")  # noqa: E731
    line("seen, as they are", [seen_sample(face, others, rng, plain=True) for face in faces])
    line("seen, made worse, 5 times", [seen_sample(face, others, rng) for _ in range(5) for face in faces])
    for kind in SHAPES:
        for plain in (True, False):
            made = [covered_sample(face, others, kind, rng, plain) for face in faces]
            line(f"{kind}{'' if plain else ', made worse'}", [patch for patch in made if patch is not None])


def fit_cover(photos: Path, out: Path, also: Sequence[Path] = (), count: int = 14000, sure: float = SURE) -> None:
    """Train the network on portraits, write it and print how often it is right on people it never saw.

    Args:
        photos: Portraits whose lips are seen; a manifest tells people apart who have several.
        out: Folder that model.safetensors is written to.
        also: Folders of edits of these photos, under the same names.
        count: Samples of either kind.
        sure: Logit from which a mouth counts as covered.

    Raises:
        DataError: The manifest cannot be used.
    """
    rows = read_rows(photos, ("file", "person")) if (photos / MANIFEST).is_file() else []
    people = {row["file"]: row["person"] for row in rows}
    portraits = read_portraits(photos, people)
    faces = {part: [face for person, face in portraits if part_of(person) == part] for part in PARTS}
    edits = [found for folder in also for found in read_portraits(folder, people)]
    edits = [face for person, face in edits if part_of(person) == "train"]
    print({part: len(some) for part, some in faces.items()}, f"and {len(edits)} edits")
    rng = np.random.default_rng(0)
    net = fit(*make_set(faces["train"] + 2 * edits, count, rng)).half().float()
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "model.safetensors", save({name: values.half() for name, values in net.state_dict().items()}))
    for part in ("choose", "measure"):
        print(f"{part}: {len(faces[part])} portraits, logit above {sure:g}")
        report(net, faces[part], faces["train"], sure, rng)
