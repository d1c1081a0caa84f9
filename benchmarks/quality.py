"""Quality on held-out scenes: `make bench-quality`. Writes benchmarks/quality.md, the table that the README quotes.

    python benchmarks/quality.py [--samples 15] [--only default draft]

Each sample is one picture and one prompt. IoU per sample; mIoU is the mean over samples; P@k the share with IoU ≥ k.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from pathlib import Path

import numpy as np

from held_out import Sample, samples
from peekaboo import Peekaboo, Settings, preset
from peekaboo.evaluation import iou, precisions

TABLE = Path(__file__).parent / "quality.md"
ROWS: dict[str, Settings | None] = {
    "whole image": None,
    "raster": preset("paper", blur="none"),
    "fourier": preset("paper", blur="none", alpha="fourier"),
    "bilateral fourier": preset("paper", alpha="fourier"),
    "rgb bilateral": preset("paper"),
    "draft": preset("draft"),
    "default": preset("default"),
}


def segment(model: Peekaboo, settings: Settings | None, sample: Sample) -> np.ndarray:
    if settings is None:
        return np.ones_like(sample.truth)
    return model.segment(sample.image, sample.prompt, preset=settings).mask[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=15)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args()
    model, chosen = Peekaboo.from_pretrained(), samples(options.samples)
    model.segment(chosen[0].image, chosen[0].prompt, preset="draft")  # warm the caches up
    lines = [
        "| method | P@.2 | P@.4 | P@.6 | P@.8 | mIoU | plain | textured | cluttered | wrong object | s/image |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in options.only:
        start = time.perf_counter()
        masks = [segment(model, ROWS[name], sample) for sample in chosen]
        seconds = (time.perf_counter() - start) / len(chosen)
        scores = np.array([iou(mask, s.truth) for mask, s in zip(masks, chosen, strict=True)])
        wrong = np.mean([(m & s.others).sum() > (m & s.truth).sum() for m, s in zip(masks, chosen, strict=True)])
        tiers = [scores[[s.tier == tier for s in chosen]].mean() for tier in ("plain", "textured", "cluttered")]
        cells = [*precisions(scores).values(), scores.mean(), *tiers]
        numbers = " | ".join(f"{value:.3f}" for value in cells)
        lines.append(f"| {name} | {numbers} | {100 * wrong:.0f} % | {seconds:.2f} |")
        print(lines[-1], flush=True)
    device = model.denoiser.device
    note = (
        f"{len(chosen)} held-out scenes of two objects, 256 px, one prompt each; bundled model on {device}, "
        f"{platform.machine()} with {os.cpu_count()} cores, {datetime.date.today()}. "
        "Rows 2 to 5 run under the preset `paper`."
    )
    options.out.write_text("\n".join([*lines, "", note, ""]))
    print(f"\n{note}\n{options.out}")


if __name__ == "__main__":
    main()
