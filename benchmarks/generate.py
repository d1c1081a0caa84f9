"""Pictures with transparency: `make bench-generate`. Writes benchmarks/generate.md and docs/generate.jpg, anew after every row.

    python benchmarks/generate.py [--prompts 40] [--seeds 2] [--only consensus …] [--paper-prompts 5]

Recognised: the bundled dual encoder finds the right name first among all names, on the picture blended with black, white,
grey and checks (mean over the four). Clean alpha: the share of pixels with alpha < .05 or > .95. Beside the ways of
`peekaboo generate`: a plain sample keyed by the colour of its border.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from peekaboo import Peekaboo
from peekaboo.denoisers import bundled_folder
from peekaboo.rgba import checkerboard, on
from peekaboo.vocabulary import Vocabulary
from samples import Judge

ROOT = Path(__file__).parent.parent
TABLE = Path(__file__).parent / "generate.md"
SIDE = 64
KEY = (0.08, 0.25)
"""Distances of RGB in [0, 1] from the border's colour that count as background, and as thing."""

Method = Callable[[Peekaboo, str, int], Image.Image]


def plain_sample(model: Peekaboo, prompt: str, seed: int) -> Image.Image:
    """The plain diffusers pipeline's picture, RGB."""
    generator = torch.Generator().manual_seed(seed)
    pipe = model.denoiser.pipe  # type: ignore[attr-defined]
    return pipe(prompt, num_inference_steps=30, guidance_scale=5.0, generator=generator).images[0]


def keyed(model: Peekaboo, prompt: str, seed: int) -> Image.Image:
    rgb = np.asarray(plain_sample(model, prompt, seed), np.float32) / 255
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
    distance = np.linalg.norm(rgb - np.median(border, axis=0), axis=-1)
    alpha = np.clip((distance - KEY[0]) / (KEY[1] - KEY[0]), 0, 1)
    return Image.fromarray(np.round(np.dstack([rgb, alpha]) * 255).astype(np.uint8))


def made(**settings: object) -> Method:
    return lambda model, prompt, seed: model.generate(prompt, seed=seed, **settings).image


METHODS: dict[str, Method] = {
    "default": made(),
    "consensus": made(start="consensus", start_steps=20),
    "sample, then key its border's colour": keyed,
    "paper": made(preset="paper"),
    "default + 30 steps of SDS": made(steps=30, guidance_scale=15.0, learning_rate=0.05),
    "default + 30 steps of CSD": made(steps=30, estimator="csd", learning_rate=0.05),
}


def blends(image: Image.Image) -> list[np.ndarray]:
    """On black, white, grey and checks, uint8 (H, W, 3)."""
    size = image.size
    plain = [Image.new("RGB", size, (level,) * 3) for level in (0, 255, 128)]
    return [np.asarray(on(background, image)) for background in (*plain, checkerboard(size[::-1], 8))]


def clean(image: Image.Image) -> float:
    alpha = np.asarray(image.getchannel("A")) / 255
    return float(((alpha < 0.05) | (alpha > 0.95)).mean())


def sheet(rows: dict[str, list[Image.Image]], names: list[str], side: int = 88) -> Image.Image:
    """A contact sheet on checks: a row a method, a column a prompt."""
    label = 150
    page = Image.new("RGB", (label + side * len(names), (side + 2) * len(rows) + 14), "white")
    draw = ImageDraw.Draw(page)
    for x, name in enumerate(names):
        draw.text((label + x * side + 2, 1), name[:14], fill="black")
    for y, (method, images) in enumerate(rows.items()):
        draw.multiline_text((2, 20 + y * (side + 2)), method.replace(", ", ",\n").replace(" + ", "\n+ "), fill="black")
        for x, image in enumerate(images):
            large = image.resize((side - 2, side - 2), Image.Resampling.BICUBIC)
            page.paste(on(checkerboard((side - 2, side - 2), 6), large), (label + x * side, 14 + y * (side + 2)))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--paper-prompts", type=int, default=4, help="the paper's way is slow: fewer, one seed")
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--sheet", type=Path, default=ROOT / "docs" / "generate.jpg")
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args()
    model = Peekaboo.from_pretrained()
    vocabulary = Vocabulary.read(bundled_folder())
    core = [name.name for name in vocabulary.names if name.core]
    names = [core[i] for i in np.random.default_rng(0).permutation(len(core))][: options.prompts]
    judge = Judge([name.name for name in vocabulary.names], bundled_folder().with_name("bundled-clip"))
    lines = [
        "| method | pictures | recognised | among the first five | clean alpha | s/picture |",
        "|---|---|---|---|---|---|",
    ]
    print(*lines, sep="\n", flush=True)
    shown: dict[str, list[Image.Image]] = {}
    for method in options.only:
        slow = method == "paper"
        asked = [(n, s) for s in range(1 if slow else options.seeds) for n in names]
        asked = asked[: options.paper_prompts] if slow else asked
        start = time.perf_counter()
        images = [METHODS[method](model, f"a {name}", seed) for name, seed in asked]
        seconds = (time.perf_counter() - start) / len(asked)
        pictures = np.stack([blend for image in images for blend in blends(image)])
        ranks = judge.ranks(pictures, [name for name, _ in asked for _ in range(4)])
        share = np.mean([clean(image) for image in images])
        lines.append(
            f"| {method} | {len(asked)} | {100 * (ranks == 0).mean():.0f} % | {100 * (ranks < 5).mean():.0f} % | "
            f"{100 * share:.0f} % | {seconds:.1f} |"
        )
        print(lines[-1], flush=True)
        shown[method] = images[:10]
        sheet(shown, names[:10]).save(options.sheet, quality=88)
        note = f"{platform.machine()} with {os.cpu_count()} cores, {datetime.date.today()}; {SIDE} px, bundled model."
        options.out.write_text("\n".join([*lines, "", note, ""]))


if __name__ == "__main__":
    main()
