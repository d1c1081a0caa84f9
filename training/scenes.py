"""Scenes composed on the fly: cut-outs pasted on a background, with a caption and the exact alpha of every object."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from captions import Mention, caption, one_colour
from config import Config, SceneConfig
from vocabulary import Concept

MIP_SIDES = (128, 64, 32)


@dataclass(frozen=True)
class Sprite:
    """A cut-out: premultiplied RGBA uint8 at three sizes, the file it comes from, and its colour's name if it has one."""

    key: str
    photo: bool
    colour: str | None
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
    """The data pack of step 1, decoded: concepts, their cut-outs, and backgrounds.

    Args:
        path: the pack.
        split: "train", or "test" for the files that no training step ever sees.
        styles: of the test icons, only those of the sets that training knows ("known"), only those of the set it does
            not know ("unseen"), or both ("all").
    """

    def __init__(self, path: str | Path, split: str = "train", styles: str = "all") -> None:
        data = np.load(path)
        records = json.loads(bytes(data["records"]))
        ends, blob = data["ends"], data["blob"]
        starts = np.concatenate([[0], ends[:-1]])
        unseen = Config().data.unseen_style + "/"
        sprites: dict[str, Sprite] = {}
        self.backgrounds: list[np.ndarray] = []
        wanted = []
        for record, start, end in zip(records, starts, ends, strict=True):
            key, kind = record["key"], record["kind"]
            if record["split"] != split or (
                kind != "background" and styles != "all" and key.startswith(unseen) != (styles == "unseen")
            ):
                continue
            wanted.append((key, kind, blob[start:end].tobytes()))
        with ThreadPoolExecutor() as pool:
            for (key, kind, _), found in zip(wanted, pool.map(lambda w: decode(*w), wanted), strict=True):
                if kind == "background":
                    self.backgrounds.append(found)
                else:
                    sprites[key] = found
        self.related: dict[str, str] = json.loads(bytes(data["related"]))
        self.every_concept = [Concept(**record) for record in json.loads(bytes(data["concepts"]))]
        self.concepts = {c.name: c for c in self.every_concept if any(key in sprites for key in c.keys)}
        self.sprites = {name: [sprites[k] for k in c.keys if k in sprites] for name, c in self.concepts.items()}
        self.names = sorted(self.concepts)
        self.core = [name for name in self.names if self.concepts[name].core]
        self._shares: dict[SceneConfig, np.ndarray] = {}

    def few(self, count: int) -> list[str]:
        """`count` of the core names, spread over the alphabet; all where there are no more."""
        return self.core[:: max(1, len(self.core) // count)][:count] if count else []

    def draw(self, rng: np.random.Generator, name: str, photo_share: float) -> Sprite:
        """One cut-out of a concept; a photograph with the given probability where there is one."""
        photos = [s for s in self.sprites[name] if s.photo]
        icons = [s for s in self.sprites[name] if not s.photo]
        pool = photos if photos and (not icons or rng.random() < photo_share) else icons
        return pool[rng.integers(len(pool))]

    def shares(self, cfg: SceneConfig) -> np.ndarray:
        """How often each of `names` is drawn: see SceneConfig.core and .people."""
        if cfg not in self._shares:
            groups = [
                "core" if c.core else "people" if c.category in {"People & Body", "Smileys & Emotion"} else "rest"
                for c in (self.concepts[name] for name in self.names)
            ]
            share = {"core": cfg.core, "people": cfg.people, "rest": 1 - cfg.core - cfg.people}
            weights = np.array([share[group] / groups.count(group) for group in groups])
            self._shares[cfg] = weights / weights.sum()
        return self._shares[cfg]


def decode(key: str, kind: str, file: bytes) -> np.ndarray | Sprite:
    """A file of the pack: a background (H, W, 3) uint8, or a cut-out."""
    picture = Image.open(io.BytesIO(file))
    if kind == "background":
        return np.asarray(picture.convert("RGB"))
    mips = mipmap(picture.convert("RGBA"))
    colour = one_colour(mips[-1].astype(np.float32) / 255, share=0.6)
    return Sprite(key, kind == "stamp" and "/cartoon/" not in key, colour, mips)


def mipmap(picture: Image.Image) -> tuple[np.ndarray, ...]:
    rgba = np.asarray(picture, np.float32) / 255
    rgba = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], axis=-1)
    height, width = rgba.shape[:2]
    mips = []
    for side in MIP_SIDES:
        ratio = side / max(height, width)
        size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        mip = rgba if ratio >= 1 else cv2.resize(rgba, size, interpolation=cv2.INTER_AREA)
        mips.append(np.round(mip * 255).astype(np.uint8))
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
    rng: np.random.Generator,
    sprite: Sprite,
    side: float,
    centre: tuple[float, float],
    shape: tuple[int, int],
    stretch: float = 1.0,
) -> np.ndarray:
    """The cut-out, flipped, turned, seen a little from the side, scaled to `side` pixels and its width by `stretch`:
    (H, W, 4) float32 on nothing."""
    rgba = sprite.at_least(side)
    height, width = rgba.shape[:2]
    scale = side / max(height, width)
    flip = -1 if rng.random() < 0.5 else 1
    angle = np.deg2rad(rng.normal(0, 7))
    shear = rng.normal(0, 0.06)
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    turn = np.array([[cos * flip * stretch, -sin + shear * scale], [sin * flip * stretch, cos]])
    matrix = np.eye(3)
    matrix[:2, :2] = turn
    to_origin = np.array([[1, 0, -(width - 1) / 2], [0, 1, -(height - 1) / 2], [0, 0, 1]])
    to_centre = np.array([[1, 0, centre[1]], [0, 1, centre[0]], [0, 0, 1]])
    tilt = np.eye(3)
    tilt[2, :2] = rng.normal(0, 0.12, 2) / side  # perspective: the far edge an eighth smaller or so
    matrix = to_centre @ tilt @ matrix @ to_origin
    canvas = cv2.warpPerspective(rgba, matrix, (shape[1], shape[0]), flags=cv2.INTER_LINEAR)
    return canvas.astype(np.float32) / 255


def restyle(rng: np.random.Generator, rgba: np.ndarray, side: float) -> np.ndarray:
    """The premultiplied cut-out in another hand: another gamma, few tones, little colour, a dark outline, or out of focus."""
    alpha = rgba[..., 3:]
    kind = rng.integers(5)
    if kind == 4:
        return cv2.GaussianBlur(rgba, (0, 0), rng.uniform(0.01, 0.03) * side + 0.2)
    if kind == 3:
        inner = cv2.erode(alpha, np.ones((3, 3), np.float32))[..., None]
        line = (alpha - inner) * np.float32(rng.uniform(0.5, 1))
        return np.concatenate([rgba[..., :3] * (1 - line), alpha], axis=-1)
    rgb = np.clip(rgba[..., :3] / np.maximum(alpha, 1e-3), 0, 1)
    if kind == 0:
        rgb = rgb ** np.float32(np.exp(rng.normal(0, 0.45)))
    elif kind == 1:
        tones = np.float32(rng.integers(2, 6))
        rgb = np.round(rgb * tones) / tones
    else:
        tint = (0.5 + 0.5 * random_colour(rng)) if rng.random() < 0.5 else np.ones(3, np.float32)
        grey = rgb.mean(axis=-1, keepdims=True) * tint.astype(np.float32)
        rgb = rgb + (grey - rgb) * np.float32(rng.uniform(0.5, 1))
    return np.concatenate([rgb * alpha, alpha], axis=-1)


def turn_hue(rng: np.random.Generator, rgba: np.ndarray) -> np.ndarray:
    """The premultiplied cut-out with its colours turned around the grey axis by 40 to 320 degrees."""
    angle = np.deg2rad(rng.uniform(40, 320))
    third, root = (1 - np.cos(angle)) / 3, np.sqrt(1 / 3) * np.sin(angle)
    matrix = np.cos(angle) * np.eye(3) + third + root * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    rgb = rgba[..., :3] @ matrix.T.astype(np.float32)
    return np.concatenate([np.clip(rgb, 0, rgba[..., 3:]), rgba[..., 3:]], axis=-1)


def add_shadow(rng: np.random.Generator, image: np.ndarray, alpha: np.ndarray, side: float) -> np.ndarray:
    """A soft shadow of `alpha` (H, W, 1) on the picture."""
    shape = alpha.shape[1], alpha.shape[0]
    offset = np.float32([[1, 0, rng.uniform(-0.06, 0.06) * side], [0, 1, rng.uniform(0, 0.08) * side]])
    shadow = cv2.GaussianBlur(cv2.warpAffine(alpha, offset, shape), (0, 0), 0.03 * side + 0.5)[..., None]
    return image * (1 - rng.uniform(0.2, 0.5) * shadow)


def add_patches(rng: np.random.Generator, image: np.ndarray, photos: list[np.ndarray]) -> np.ndarray:
    """One to three plain shapes or scraps of photographs on the background: things that no caption names."""
    height, width = image.shape[:2]
    for _ in range(rng.integers(1, 4)):
        mask = np.zeros((height, width), np.float32)
        x, y = int(rng.integers(width)), int(rng.integers(height))
        radii = [int(n) for n in rng.integers(min(height, width) // 12, min(height, width) // 3, 2)]
        kind = rng.integers(3)
        if kind == 0:
            cv2.ellipse(mask, (x, y), radii, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
        elif kind == 1:
            cv2.rectangle(mask, (x - radii[0], y - radii[1]), (x + radii[0], y + radii[1]), 1.0, -1)
        else:
            cv2.fillPoly(mask, [rng.integers(0, (width, height), (3, 2)).astype(np.int32)], 1.0)
        if rng.random() < 0.5:
            mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.5, 4))
        scrap = background(rng, "photo" if rng.random() < 0.5 else "solid", (height, width), photos)
        image = image + mask[..., None] * (scrap - image)
    return image


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


def degrade(rng: np.random.Generator, cfg: SceneConfig, image: np.ndarray) -> np.ndarray:
    """What light, cameras and files do: a lit side, exposure, softness, grain, JPEG blocks."""
    height, width = image.shape[:2]
    if rng.random() < cfg.light:
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
        angle = rng.random() * 2 * np.pi
        ramp = (x * np.cos(angle) + y * np.sin(angle))[..., None].astype(np.float32)
        image = image * (1 + rng.uniform(0.1, 0.35) * (ramp - 0.4))
    if rng.random() < 0.3:
        image = (image - 0.5) * rng.uniform(0.8, 1.1) + 0.5 + rng.uniform(-0.06, 0.06)
    if rng.random() < 0.15:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.7) * min(height, width) / 64)
    if rng.random() < 0.2:
        image = image + rng.normal(0, rng.uniform(0.005, 0.03), image.shape).astype(np.float32)
    image = np.clip(image, 0, 1)
    if rng.random() < cfg.jpeg:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 90))]
        blocks = cv2.imencode(".jpg", np.round(image * 255).astype(np.uint8), quality)[1]
        image = cv2.imdecode(blocks, cv2.IMREAD_COLOR).astype(np.float32) / 255
    return image


# ---------------------------------------------------------------- scenes


def choose(
    rng: np.random.Generator, names: list[str], shares: np.ndarray | None, count: int, of_a_kind: float
) -> list[str]:
    """Different names; one of them twice with probability `of_a_kind`."""
    chosen = [names[i] for i in rng.choice(len(names), count, replace=False, p=shares)]
    if count > 1 and rng.random() < of_a_kind:
        chosen[1] = chosen[0]
    return chosen


def mentions(rng: np.random.Generator, cfg: SceneConfig, things: list[Mention]) -> list[Mention]:
    """What the caption speaks of: all things but some, two of a kind mostly as one mention."""
    told = [i for i in range(len(things)) if len(things) == 1 or rng.random() >= cfg.drop_name]
    told = told or [int(rng.integers(len(things)))]
    rng.shuffle(told)
    result: list[Mention] = []
    for thing in (things[i] for i in told):
        twin = next((i for i, other in enumerate(result) if other.concept is thing.concept), None)
        if twin is not None and rng.random() < 0.6:
            result[twin] = Mention(thing.concept, thing.photo and result[twin].photo, count=result[twin].count + 1)
        else:
            result.append(thing)
    return result


def compose(
    rng: np.random.Generator,
    pack: Pack,
    cfg: Config,
    shape: tuple[int, int],
    count: int | None = None,
    kind: str | None = None,
    clean: bool = False,
    names: list[str] | None = None,
    alike: bool = False,
) -> Scene:
    """Draw one scene of (H, W) = `shape`.

    `count` objects and the `kind` of background are drawn too unless given. With `names`, the objects are drawn from
    those, each alike often and never two of a kind, unless `alike`: then the first two are; else from all, core names more often.
    `clean` leaves out what makes a training scene hard: patches, turned hues, light, grain, blocks.
    """
    c = cfg.scenes
    close_up = shape == cfg.close_up
    count = count or (1 if close_up else 1 + int(rng.choice(len(c.objects), p=c.objects)))
    kind = kind or str(rng.choice(["solid", "gradient", "photo"], p=[c.solid, c.gradient, c.photo]))
    image = background(rng, kind, shape, pack.backgrounds)
    if not clean and rng.random() < c.patches:
        image = add_patches(rng, image, pack.backgrounds)
    chosen = (
        choose(rng, names, None, count, float(alike))
        if names
        else choose(rng, pack.names, pack.shares(c), count, c.of_a_kind)
    )
    sprites, alphas, things = [], [], []
    scale = c.close_up if close_up else c.scale
    for name, (side, centre) in zip(chosen, scatter(rng, count, shape, scale), strict=True):
        sprite = pack.draw(rng, name, c.photo_stamp)
        rgba = place(rng, sprite, side, centre, shape, 1.0 if clean else rng.uniform(0.88, 1.12))
        colour, recoloured = sprite.colour, False
        if not clean and rng.random() < c.recoloured:
            rgba = turn_hue(rng, rgba)
            colour, recoloured = one_colour(rgba, share=0.5), True
        if not clean and rng.random() < c.restyled:
            rgba, colour = restyle(rng, rgba, side), None
        rgba = jitter(rng, rgba)
        alpha = rgba[..., 3:]
        if rng.random() < c.shadow:
            image = add_shadow(rng, image, alpha, side)
        image = image * (1 - alpha) + rgba[..., :3]
        sprites.append(sprite)
        alphas = [a * (1 - alpha[..., 0]) for a in alphas] + [alpha[..., 0]]
        middle = (centre[1] / shape[1], centre[0] / shape[0])
        things.append(Mention(pack.concepts[name], sprite.photo, colour, recoloured, middle))
    if not clean:
        image = degrade(rng, c, image)
    text = caption(rng, cfg.captions, mentions(rng, c, things))
    pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return Scene(pixels, np.stack(alphas), chosen, [s.key for s in sprites], text)
