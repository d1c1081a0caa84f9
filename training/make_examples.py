"""Compose the pictures of examples/ and tests/data/ from the sources of step 1, at full size, the same at every call.

    python make_examples.py

examples/: cut-outs that no training step saw (held out), on photographs, each attributed in examples/README.md.
tests/data/: held-out icons alone (their licences are free ones), with their exact masks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from config import Config, cache_folder
from scenes import Pack, compose
from step1_data import held_out

ROOT = Path(__file__).parent.parent
STAMPS = "debian/tuxpaint-stamps-default/usr/share/tuxpaint/stamps"


@dataclass(frozen=True)
class Object:
    """A cut-out of the sources, its size and centre as shares of the picture, and the prompt that names it."""

    file: str
    side: float  # of the picture's shorter side
    centre: tuple[float, float]  # (x, y)
    prompt: str


@dataclass(frozen=True)
class Recipe:
    """One example: a background photograph, cropped to `size` (width, height), and what stands on it."""

    name: str
    background: str
    size: tuple[int, int]
    objects: tuple[Object, ...]


MATE = "mate-backgrounds/usr/share/backgrounds/mate/nature"


def pair(name: str, background: str, left: tuple[str, str], right: tuple[str, str]) -> Recipe:
    """Two things side by side, each (file, prompt)."""
    things = (Object(left[0], 0.62, (0.28, 0.5), left[1]), Object(right[0], 0.62, (0.72, 0.52), right[1]))
    return Recipe(name, f"{MATE}/{background}", (480, 360), things)


SHIRT = ("clothes/t_shirt.png", "a t-shirt")
RECIPES: tuple[Recipe, ...] = (
    pair("leaf", "RainDrops.jpg", SHIRT, ("food/fruit/Strawberry2.png", "a strawberry")),
    pair("meadow", "GreenMeadow.jpg", SHIRT, ("animals/birds/turkey.png", "a turkey")),
    pair("boards", "Wood.jpg", ("food/fruit/cartoon/cherries.png", "cherries"), SHIRT),
    pair(
        "grass",
        "GreenMeadow.jpg",
        ("food/fruit/cartoon/cherries.png", "cherries"),
        ("animals/insects/cartoon/ladybug-2.png", "a ladybug"),
    ),
)


def cut_out(path: Path, side: float) -> Image.Image:
    """A stamp trimmed to what is visible and scaled to `side` pixels."""
    image = Image.open(path).convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox())
    ratio = side / max(image.size)
    return image.resize([round(n * ratio) for n in image.size], Image.Resampling.LANCZOS)


def cover(path: Path, size: tuple[int, int]) -> Image.Image:
    """A background scaled and cropped to fill `size`."""
    image = Image.open(path).convert("RGB")
    ratio = max(size[0] / image.width, size[1] / image.height)
    image = image.resize([round(n * ratio) for n in image.size], Image.Resampling.LANCZOS)
    left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
    return image.crop((left, top, left + size[0], top + size[1]))


def render(recipe: Recipe) -> Image.Image:
    """The example, with a soft shadow under each object."""
    cache = cache_folder()
    picture = cover(cache / "debian" / recipe.background, recipe.size)
    short = min(recipe.size)
    for item in recipe.objects:
        image = cut_out(cache / STAMPS / item.file, item.side * short)
        left = round(item.centre[0] * recipe.size[0] - image.width / 2)
        top = round(item.centre[1] * recipe.size[1] - image.height / 2)
        shadow = Image.new("L", recipe.size)
        shadow.paste(image.getchannel("A").point(lambda a: a * 0.4), (left + short // 80, top + short // 60))
        shadow = shadow.filter(ImageFilter.GaussianBlur(short / 60))
        picture.paste(Image.new("RGB", recipe.size), mask=shadow)
        picture.paste(image, (left, top), image)
    return picture


def examples(folder: Path) -> None:
    prompts = {}
    for recipe in RECIPES:
        render(recipe).save(folder / f"{recipe.name}.jpg", quality=90)
        prompts[f"{recipe.name}.jpg"] = [item.prompt for item in recipe.objects]
        seen = [item.file for item in recipe.objects if not held_out(item.file)]
        print(recipe.name, "— seen in training:", seen or "none")
    (folder / "prompts.json").write_text(json.dumps(prompts, indent=2) + "\n")


def fixture_scenes(folder: Path, count: int = 24, side: int = 192) -> None:
    """Held-out icons, one or two a scene, on solid colours and gradients: `NN.png`, `NN-mask.png`, and scenes.json."""
    pack, cfg = Pack(cache_folder() / "data.npz", held_out=True), Config()
    pack.concepts = {n: [s for s in sprites if not s.photo] for n, sprites in pack.concepts.items()}
    pack.names = sorted(n for n, sprites in pack.concepts.items() if sprites)
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    while len(rows) < count:
        kind = ("solid", "gradient")[len(rows) % 2]
        scene = compose(rng, pack, cfg.scenes, (side, side), 2, kind, clean=True)
        truth = scene.alphas[0] > 0.5
        if (scene.alphas > 0.5).mean(axis=(1, 2)).min() < 0.03:
            continue
        name = f"{len(rows):02}"
        Image.fromarray(scene.image).save(folder / f"{name}.png", optimize=True)
        Image.fromarray(truth).save(folder / f"{name}-mask.png", optimize=True)
        rows.append({"image": name, "prompt": scene.names[0], "also": scene.names[1], "files": scene.keys})
    (folder / "scenes.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(f"{count} test scenes in {folder}")


if __name__ == "__main__":
    examples(ROOT / "examples")
    fixture_scenes(ROOT / "tests" / "data" / "scenes")
