"""Quality on held-out scenes: `make bench-quality`. Writes benchmarks/quality.md, the table that the README quotes.

    python benchmarks/quality.py [--samples 36] [--only default draft] [--default-samples 120]

The presets and the paper's variants are compared on scenes of core names; then `default` alone is measured on more scenes
of three kinds: core names, all names, and drawings in a style that training never saw. Each sample is one picture and one prompt. IoU per sample; mIoU is the mean over samples; P@k the share with IoU ≥ k.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from pathlib import Path

import numpy as np

from held_out import TIERS, Sample, samples
from peekaboo import Peekaboo, Settings, preset
from peekaboo.evaluation import iou, precisions

TABLE = Path(__file__).parent / "quality.md"
ROWS: dict[str, Settings | None] = {
    "whole image": None,
    "raster": preset("paper", blur="none"),
    "fourier": preset("paper", blur="none", alpha="fourier"),
    "bilateral fourier": preset("paper", alpha="fourier"),
    "rgb bilateral": preset("paper"),
    "rgb bilateral, then GrabCut": preset("paper", grabcut=True),
    "draft": preset("draft"),
    "default without GrabCut": preset("default", grabcut=False),
    "default": preset("default"),
}


def segment(model: Peekaboo, settings: Settings | None, sample: Sample) -> np.ndarray:
    if settings is None:
        return np.ones_like(sample.truth)
    return model.segment(sample.image, sample.prompt, preset=settings, presence=0.0).mask[0]


HEAD = [
    "| {} | P@.2 | P@.4 | P@.6 | P@.8 | mIoU | plain | textured | cluttered | wrong object | s/image |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
]
SETS = {
    "core names": {"names": "core"},
    "all names": {"names": "all"},
    "unseen style, all names": {"names": "all", "styles": "unseen"},
}


def row(title: str, model: Peekaboo, settings: Settings | None, chosen: list[Sample]) -> str:
    """One line of a table: a method on some samples."""
    start = time.perf_counter()
    masks = [segment(model, settings, sample) for sample in chosen]
    seconds = (time.perf_counter() - start) / len(chosen)
    scores = np.array([iou(mask, s.truth) for mask, s in zip(masks, chosen, strict=True)])
    wrong = np.mean([s.is_wrong(mask) for mask, s in zip(masks, chosen, strict=True)])
    tiers = [scores[[s.tier == tier for s in chosen]].mean() for tier in TIERS]
    numbers = " | ".join(f"{value:.3f}" for value in [*precisions(scores).values(), scores.mean(), *tiers])
    return f"| {title} | {numbers} | {100 * wrong:.0f} % | {seconds:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=36, help="scenes of the comparison; 0 leaves it out")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--default-samples", type=int, default=120, help="scenes a kind for `default`; 0 leaves it out")
    parser.add_argument("--model", help="a pipeline folder instead of the bundled model")
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args()
    model = Peekaboo.from_pretrained(options.model) if options.model else Peekaboo.from_pretrained()
    warm = samples(3)[0]
    model.segment(warm.image, warm.prompt, preset="draft")  # warm the caches up
    lines: list[str] = []

    def tell(*more: str) -> None:
        lines.extend(more)
        print(*more, sep="\n", flush=True)

    if options.samples:
        chosen = samples(options.samples)
        tell(HEAD[0].format(f"{options.samples} scenes, core names"), HEAD[1])
        for name in options.only:
            tell(row(name, model, ROWS[name], chosen))
    if options.default_samples:
        tell("", HEAD[0].format(f"`default`, {options.default_samples} scenes a row"), HEAD[1])
        for name, kind in SETS.items():
            tell(row(name, model, preset("default"), samples(options.default_samples, seed=2025, **kind)))
    note = (
        "Held-out scenes of two and three objects, 256 px, one prompt each; "
        f"{options.model or 'bundled model'} on {model.denoiser.device}, {platform.machine()} with {os.cpu_count()} cores, "
        f"{datetime.date.today()}. `raster` to `rgb bilateral, then GrabCut` run under the preset `paper`. Wrong object: the mask covers "
        "another object of the scene more than the named one. Every prompt names something that is there, so `presence` is 0."
    )
    options.out.write_text("\n".join([*lines, "", note, ""]))
    print(f"\n{note}\n{options.out}")


if __name__ == "__main__":
    main()
