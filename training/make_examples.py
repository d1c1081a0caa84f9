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
from step1_data import split

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
VOLNA = "plasma-workspace-wallpapers/usr/share/wallpapers/Volna/contents/images/5120x2880.jpg"
LADYBUG = ("animals/insects/cartoon/ladybug-2.png", "a ladybug")
SHIRT = ("clothes/t_shirt.png", "a t-shirt")
STRAWBERRY = ("food/fruit/Strawberry2.png", "a strawberry")


def arrange(name: str, background: str, *things: tuple[str, str]) -> Recipe:
    """One thing in the middle, or two side by side, each (file, prompt)."""
    if len(things) == 1:
        return Recipe(name, background, (480, 360), (Object(things[0][0], 0.68, (0.5, 0.52), things[0][1]),))
    places = ((0.27, 0.5), (0.73, 0.52))
    objects = (Object(file, 0.68, place, prompt) for (file, prompt), place in zip(things, places, strict=True))
    return Recipe(name, background, (560, 360), tuple(objects))


RECIPES: tuple[Recipe, ...] = (
    arrange("meadow", f"{MATE}/GreenMeadow.jpg", LADYBUG, SHIRT),
    arrange("beach", VOLNA, STRAWBERRY, SHIRT),
    arrange("boards", f"{MATE}/Wood.jpg", LADYBUG),
    arrange("road", f"{MATE}/Storm.jpg", STRAWBERRY),
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
        seen = [item.file for item in recipe.objects if split(Config().data, "stamp", item.file) != "test"]
        print(recipe.name, "— seen in training:", seen or "none")
    (folder / "prompts.json").write_text(json.dumps(prompts, indent=2) + "\n")


def fixture_scenes(folder: Path, count: int = 24, side: int = 192) -> None:
    """Held-out icons, one or two a scene, on solid colours and gradients: `NN.png`, `NN-mask.png`, and scenes.json."""
    pack, cfg = Pack(cache_folder() / "data.npz", "test", "known"), Config()
    pack.sprites = {
        n: [s for s in found if "/" in s.key and s.key.split("/")[0] in cfg.data.icons]
        for n, found in pack.sprites.items()
    }
    names = [name for name in pack.core if pack.sprites[name]]
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    while len(rows) < count:
        kind = ("solid", "gradient")[len(rows) % 2]
        scene = compose(rng, pack, cfg, (side, side), 2, kind, clean=True, names=names)
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
