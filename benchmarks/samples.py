"""Whether the bundled model draws what it is asked for: `make bench-samples`.

    python benchmarks/samples.py [--samples 500] [--steps 30] [--sheet FILE.jpg]

Samples of the plain diffusers pipeline, a name each (the names in a fixed random order); `bundled-clip` says which of all
names is nearest to each. Beside it the same on held-out pictures: no sample can be recognised better than the judge sees.
Writes benchmarks/samples.md and a contact sheet for the model card.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from held_out import ROOT, cache_folder  # and training/ on the path
from peekaboo.denoisers import load_pipeline
from peekaboo.vocabulary import Vocabulary

TABLE = Path(__file__).parent / "samples.md"
BUNDLED = ROOT / "src" / "peekaboo" / "bundled"


def generate(pipe, prompts: list[str], steps: int, guidance: float, batch: int = 25) -> np.ndarray:
    """One sample a prompt: uint8 (N, H, W, 3)."""
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        out = pipe(part, num_inference_steps=steps, guidance_scale=guidance, generator=generator, output_type="np")
        pictures.append(np.round(out.images * 255).astype(np.uint8))
    return np.concatenate(pictures)


class Judge:
    """`bundled-clip`, asked which of all names is nearest to a picture."""

    def __init__(self, names: list[str], folder: Path) -> None:
        from transformers import CLIPModel, CLIPProcessor

        self.names = names
        self.model = CLIPModel.from_pretrained(folder).float().eval()
        self.processor = CLIPProcessor.from_pretrained(folder)
        self.table = sum(self.texts([f.format(name) for name in names]) for f in ("{}", "a {}", "a drawing of a {}"))

    @torch.no_grad()
    def texts(self, texts: list[str]) -> torch.Tensor:
        rows = self.model.get_text_features(**self.processor(text=texts, padding=True, return_tensors="pt"))
        return torch.nn.functional.normalize(getattr(rows, "pooler_output", rows), dim=-1)

    @torch.no_grad()
    def ranks(self, pictures: np.ndarray, right: list[str]) -> np.ndarray:
        """The place of the right name for each picture, 0 the nearest."""
        inputs = self.processor(images=[Image.fromarray(p) for p in pictures], return_tensors="pt")
        rows = self.model.get_image_features(**inputs)
        scores = getattr(rows, "pooler_output", rows) @ self.table.T
        index = torch.tensor([self.names.index(name) for name in right])
        return (scores > scores.gather(1, index[:, None])).sum(dim=1).numpy()


def sheet(pictures: np.ndarray, names: list[str], columns: int = 12, side: int = 96) -> Image.Image:
    """A contact sheet, the prompt under each sample."""
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * side, rows * (side + 12)), "white")
    draw = ImageDraw.Draw(page)
    for i, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        x, y = i % columns * side, i // columns * (side + 12)
        page.paste(Image.fromarray(picture).resize((side - 2, side - 2), Image.Resampling.BICUBIC), (x, y))
        draw.text((x + 2, y + side - 2), name[:16], fill="black")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--sheet", type=Path, default=ROOT / "docs" / "samples.jpg")
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args()
    vocabulary = Vocabulary.read(BUNDLED)
    names = [name.name for name in vocabulary.names]
    core = [name.name for name in vocabulary.names if name.core]
    rng = np.random.default_rng(0)
    pipe = load_pipeline()
    start = time.perf_counter()
    pipe("an apple", num_inference_steps=options.steps, guidance_scale=options.guidance)
    seconds = time.perf_counter() - start
    rows = []
    judge = Judge(names, BUNDLED.with_name("bundled-clip")) if BUNDLED.with_name("bundled-clip").exists() else None
    for title, pool in (("core names", core), ("all names", names)):
        asked = [pool[i] for i in rng.permutation(len(pool))]
        asked = (asked * (1 + options.samples // len(asked)))[: options.samples]
        pictures = generate(pipe, [f"a {name}" for name in asked], options.steps, options.guidance)
        if pool is core:
            sheet(pictures[:72], asked[:72]).save(options.sheet, quality=88)
        if judge:
            rows.append((f"samples, {title}", judge.ranks(pictures, asked)))
    if judge and (cache_folder() / "data.npz").exists():
        from config import Config
        from step4_clip import held_out_pictures

        for title, is_core in (("core names", True), ("all names", False)):
            pictures, right, _ = held_out_pictures(Config(), options.samples, core=is_core)
            rows.append((f"held-out pictures, {title}", judge.ranks(pictures.numpy(), right)))
    lines = [
        f"| {options.samples} pictures a row | right name first of {len(names)} | among the first five |",
        "|---|---|---|",
    ]
    lines += [f"| {title} | {100 * (r == 0).mean():.0f} % | {100 * (r < 5).mean():.0f} % |" for title, r in rows]
    lines += [
        "",
        f"{options.steps} steps, guidance scale {options.guidance}; one sample takes {seconds:.1f} s alone; "
        f"{platform.machine()} with {os.cpu_count()} cores, {datetime.date.today()}.",
        "",
    ]
    options.out.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
