"""Scenes composed on the fly: cut-outs pasted on a background, with a caption and the exact alpha of every object."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from concepts import read_table
from config import SceneConfig

MIP_SIDES = (128, 64, 32)


@dataclass(frozen=True)
class Sprite:
    """A cut-out: premultiplied RGBA float32 in [0, 1] at three sizes, and where it comes from."""

    key: str
    photo: bool
    held_out: bool
    mips: tuple[np.ndarray, ...]

    def at_least(self, side: float) -> np.ndarray:
        """The smallest stored size that is not smaller than `side` pixels."""
        fitting = [mip for mip in self.mips if max(mip.shape[:2]) >= side]
        return fitting[-1] if fitting else self.mips[0]


@dataclass(frozen=True)
class Scene:
    """A picture (H, W, 3) uint8, its objects' visible alphas (N, H, W) float32, their names and files, and a caption."""

    image: np.ndarray
    alphas: np.ndarray
    names: list[str]
    keys: list[str]
    caption: str


class Pack:
    """The data pack of step 1, decoded: sprites by concept, and backgrounds; held-out files apart."""

    def __init__(self, path: str | Path, held_out: bool = False) -> None:
        data = np.load(path)
        records = json.loads(bytes(data["records"]))
        ends, blob = data["ends"], data["blob"]
        starts = np.concatenate([[0], ends[:-1]])
        concepts = read_table()
        self.concepts: dict[str, list[Sprite]] = {}
        self.backgrounds: list[np.ndarray] = []
        for record, start, end in zip(records, starts, ends, strict=True):
            if record["held_out"] is not held_out:
                continue
            names = [c.name for c in concepts if c.shown_by(record["kind"], record["key"])]
            if record["kind"] != "background" and not names:
                continue
            picture = Image.open(io.BytesIO(blob[start:end].tobytes()))
            if record["kind"] == "background":
                self.backgrounds.append(np.asarray(picture.convert("RGB")))
                continue
            sprite = Sprite(record["key"], record["kind"] == "stamp", held_out, mipmap(picture.convert("RGBA")))
            for name in names:
                self.concepts.setdefault(name, []).append(sprite)
        self.names = sorted(self.concepts)

    def draw(self, rng: np.random.Generator, name: str, photo_share: float) -> Sprite:
        """One cut-out of a concept; a photograph with the given probability where there is one."""
        photos = [s for s in self.concepts[name] if s.photo]
        icons = [s for s in self.concepts[name] if not s.photo]
        pool = photos if photos and (not icons or rng.random() < photo_share) else icons
        return pool[rng.integers(len(pool))]


def mipmap(picture: Image.Image) -> tuple[np.ndarray, ...]:
    rgba = np.asarray(picture, np.float32) / 255
    rgba = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], axis=-1)
    height, width = rgba.shape[:2]
    mips = []
    for side in MIP_SIDES:
        ratio = side / max(height, width)
        size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        mips.append(rgba if ratio >= 1 else cv2.resize(rgba, size, interpolation=cv2.INTER_AREA))
    return tuple(mips)


# ---------------------------------------------------------------- backgrounds


def random_colour(rng: np.random.Generator) -> np.ndarray:
    return rng.random(3).astype(np.float32)


def background(rng: np.random.Generator, kind: str, shape: tuple[int, int], photos: list[np.ndarray]) -> np.ndarray:
    """A background (H, W, 3) float32 in [0, 1]; `kind`: solid, gradient (with a soft pattern half of the time), photo."""
    height, width = shape
    colour = random_colour(rng)
    if kind == "solid":
        return np.broadcast_to(colour, (height, width, 3)).copy()
    if kind == "gradient":
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
        angle = rng.random() * 2 * np.pi
        ramp = 0.5 + 0.35 * (x * np.cos(angle) + y * np.sin(angle))
        if rng.random() < 0.5:
            cells = rng.integers(3, 12)
            noise = rng.random((cells, cells)).astype(np.float32)
            ramp = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        ramp = np.clip(ramp, 0, 1)[..., None].astype(np.float32)
        return colour * ramp + random_colour(rng) * (1 - ramp)
    photo = photos[rng.integers(len(photos))]
    ratio = rng.uniform(0.2, 1.0)  # of the largest crop with the picture's aspect
    full = min(photo.shape[0] / height, photo.shape[1] / width)
    crop_h, crop_w = max(2, int(height * full * ratio)), max(2, int(width * full * ratio))
    top = rng.integers(photo.shape[0] - crop_h + 1)
    left = rng.integers(photo.shape[1] - crop_w + 1)
    crop = photo[top : top + crop_h, left : left + crop_w]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    crop = cv2.resize(np.ascontiguousarray(crop), (width, height), interpolation=cv2.INTER_AREA)
    return crop.astype(np.float32) / 255


# ---------------------------------------------------------------- objects


def jitter(rng: np.random.Generator, rgba: np.ndarray) -> np.ndarray:
    """Brightness, contrast and saturation of one premultiplied cut-out, changed a little."""
    rgb, alpha = rgba[..., :3], rgba[..., 3:]
    grey = rgb.mean(axis=-1, keepdims=True)
    rgb = grey + (rgb - grey) * rng.uniform(0.7, 1.2)
    rgb = (rgb - 0.5 * alpha) * rng.uniform(0.8, 1.15) + 0.5 * alpha + alpha * rng.uniform(-0.08, 0.08)
    return np.concatenate([np.clip(rgb, 0, alpha), alpha], axis=-1)


def place(
    rng: np.random.Generator, sprite: Sprite, side: float, centre: tuple[float, float], shape: tuple[int, int]
) -> np.ndarray:
    """The cut-out, flipped, turned and scaled to `side` pixels, on a transparent canvas (H, W, 4)."""
    rgba = sprite.at_least(side)
    height, width = rgba.shape[:2]
    scale = side / max(height, width)
    flip = -1 if rng.random() < 0.5 else 1
    angle = np.deg2rad(rng.normal(0, 7))
    shear = rng.normal(0, 0.06)
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    turn = np.array([[cos * flip, -sin + shear * scale], [sin * flip, cos]])
    shift = np.array([centre[1], centre[0]]) - turn @ [(width - 1) / 2, (height - 1) / 2]
    matrix = np.column_stack([turn, shift])
    canvas = cv2.warpAffine(rgba, matrix, (shape[1], shape[0]), flags=cv2.INTER_LINEAR)
    return jitter(rng, np.clip(canvas, 0, 1))


def scatter(rng: np.random.Generator, count: int, shape: tuple[int, int], scale: tuple[float, float]) -> list:
    """Sides and centres for `count` objects that mostly lie in the picture and do not hide one another."""
    short = min(shape)
    low, high = scale[0], scale[1]
    chosen: list[tuple[float, tuple[float, float]]] = []
    high = {1: high, 2: min(high, 0.68), 3: min(high, 0.52)}.get(count, 0.45)
    for _ in range(count):
        side, centre = short * low, (shape[0] / 2, shape[1] / 2)
        for _ in range(20):
            side = short * rng.uniform(low, high)
            margin = 0.42 * side
            centre = tuple(rng.uniform(min(margin, n / 2), max(n - margin, n / 2)) for n in shape)
            gaps = [np.hypot(centre[0] - c[0], centre[1] - c[1]) / (side + s) for s, c in chosen]
            if all(gap > 0.38 for gap in gaps):
                break
        chosen.append((side, centre))
    return chosen


def degrade(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """What cameras and files do: exposure, softness, grain."""
    if rng.random() < 0.3:
        image = (image - 0.5) * rng.uniform(0.8, 1.1) + 0.5 + rng.uniform(-0.06, 0.06)
    if rng.random() < 0.15:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.7) * min(image.shape[:2]) / 64)
    if rng.random() < 0.2:
        image = image + rng.normal(0, rng.uniform(0.005, 0.03), image.shape).astype(np.float32)
    return np.clip(image, 0, 1)


# ---------------------------------------------------------------- captions


def article(rng: np.random.Generator, name: str) -> str:
    indefinite = "an" if name[0] in "aeiou" and name != "unicorn" else "a"
    if name in {"grapes", "cherries", "scissors", "socks", "broccoli", "corn", "garlic", "bread"}:
        indefinite = ""
    word = rng.choice(["", indefinite, "the"], p=[0.2, 0.65, 0.15])
    return f"{word} {name}".strip()


def caption(rng: np.random.Generator, names: list[str], photos: list[bool]) -> str:
    parts = [article(rng, name) for name in names]
    text = parts[0]
    if len(parts) > 1:
        comma = rng.random() < 0.15
        text = ", ".join(parts) if comma else ", ".join(parts[:-1]) + " and " + parts[-1]
    if rng.random() < 0.15 and len(set(photos)) == 1:
        text = ("a photo of " if photos[0] else "a drawing of ") + text
    return text


# ---------------------------------------------------------------- scenes


def compose(
    rng: np.random.Generator,
    pack: Pack,
    cfg: SceneConfig,
    shape: tuple[int, int],
    count: int | None = None,
    kind: str | None = None,
    photos: list[np.ndarray] | None = None,
    clean: bool = False,
) -> Scene:
    """Draw one scene of (H, W) = `shape`. `count` and `kind` of background are drawn too unless given."""
    count = count or 1 + int(rng.choice(len(cfg.objects), p=cfg.objects))
    kind = kind or str(rng.choice(["solid", "gradient", "photo"], p=[cfg.solid, cfg.gradient, cfg.photo]))
    image = background(rng, kind, shape, pack.backgrounds if photos is None else photos)
    names = [pack.names[i] for i in rng.choice(len(pack.names), count, replace=False)]
    sprites = [pack.draw(rng, name, cfg.photo_stamp) for name in names]
    alphas: list[np.ndarray] = []
    for sprite, (side, centre) in zip(sprites, scatter(rng, count, shape, cfg.scale), strict=True):
        rgba = place(rng, sprite, side, centre, shape)
        alpha = rgba[..., 3:]
        if rng.random() < 0.25:  # a soft shadow
            offset = np.float32([[1, 0, rng.uniform(-0.06, 0.06) * side], [0, 1, rng.uniform(0, 0.08) * side]])
            shadow = cv2.warpAffine(alpha, offset, (shape[1], shape[0]))
            shadow = cv2.GaussianBlur(shadow, (0, 0), 0.03 * side + 0.5)[..., None]
            image = image * (1 - rng.uniform(0.2, 0.5) * shadow)
        image = image * (1 - alpha) + rgba[..., :3]
        alphas = [a * (1 - alpha[..., 0]) for a in alphas] + [alpha[..., 0]]
    if not clean:
        image = degrade(rng, image)
    told = [i for i in range(count) if count == 1 or rng.random() >= cfg.drop_name] or [int(rng.integers(count))]
    rng.shuffle(told)
    text = caption(rng, [names[i] for i in told], [sprites[i].photo for i in told])
    pixels = np.round(image * 255).astype(np.uint8)
    return Scene(pixels, np.stack(alphas), names, [s.key for s in sprites], text)
