"""The paper's table, with the bundled model: `make bench-paper`. Writes benchmarks/paper.md, anew after every row.

    python benchmarks/paper.py [--samples 30] [--only "rgb bilateral" default …]

The pictures are held-out scenes cut as VOC-C cuts photographs (`held_out.crops`). Beside each row that the paper has stand its
figures on VOC-C: other pictures, another model, and so another difficulty; what can be compared is the order of the rows.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np

from held_out import Sample, crops, layers
from peekaboo import Peekaboo, preset
from peekaboo.evaluation import baselines, iou, precisions
from peekaboo.evaluation.published import VOC_C

TABLE = Path(__file__).parent / "paper.md"
COLUMNS = ("P@.2", "P@.4", "P@.6", "P@.8", "mIoU")
PUBLISHED = {row.method.lower(): row.values for row in VOC_C}

Method = Callable[[Sample], np.ndarray]
"""A sample's mask (H, W) bool."""


def peekaboo(model: Peekaboo, name: str, variant: str | None, given: bool, sample: Sample) -> np.ndarray:
    """Peekaboo under a preset, as a variant; `given`: with the scene's layer order as the depth map."""
    guide = layers(sample) if given else None
    settings = preset(name, variant)
    return model.segment(sample.image, sample.prompt, preset=settings, guide=guide, presence=0.0).mask[0]


@cache
def loaded(name: str) -> baselines.Segmenter:
    """A baseline, loaded when first asked."""
    return baselines.make(name, None if name == "whole-image" else "bundled")


def baseline(name: str, sample: Sample) -> np.ndarray:
    return loaded(name)(sample.image, [sample.prompt])[0] > 0.5


def methods(model: Peekaboo) -> dict[str, tuple[str, Method]]:
    """The rows by title: what the paper's table calls it, or "", and what does it."""
    own = partial(partial, peekaboo, model)
    return {
        "whole image": ("random (whole image)", partial(baseline, "whole-image")),
        "cross-attention": ("", partial(baseline, "cross-attention")),
        "diffedit": ("", partial(baseline, "diffedit")),
        "raster": ("raster", own("paper", "raster", False)),
        "clip": ("clip", own("paper", "clip", False)),
        "fourier": ("fourier", own("paper", "fourier", False)),
        "bilateral fourier": ("bilateral fourier", own("paper", "bilateral-fourier", False)),
        "depth bilateral (layer order, given)": ("depth bilateral", own("paper", "depth-bilateral", True)),
        "rgb bilateral": ("rgb bilateral", own("paper", "rgb-bilateral", False)),
        "draft": ("", own("draft", None, False)),
        "default": ("", own("default", None, False)),
    }


def row(title: str, published: str, method: Method, chosen: list[Sample]) -> str:
    """One line of the table."""
    start = time.perf_counter()
    scores = np.array([iou(method(sample), sample.truth) for sample in chosen])
    seconds = (time.perf_counter() - start) / len(chosen)
    ours = " | ".join(f"{value:.3f}" for value in [*precisions(scores).values(), scores.mean()])
    values = PUBLISHED.get(published, {})
    theirs = " | ".join(f"{values[column]:.3f}" if column in values else "–" for column in COLUMNS)
    return f"| {title} | {ours} | {seconds:.2f} | {theirs} |"


def note(samples: int, device: str) -> str:
    """What the table is of."""
    return (
        f"{samples} held-out scenes of one object with a core name, on plain, textured and cluttered backgrounds in turn, 256 px, "
        "cut as VOC-C is, at half its scale: the object's box is more than 64 px wide or high, and the picture is cropped to it and "
        "5 px around. The prompt is the object's name; mask = alpha > .5; IoU per sample, mIoU their mean, P@k the share with "
        "IoU ≥ k. `raster` to `rgb bilateral` are the paper's variants under the preset `paper`, seed 0, with one gravity for "
        "all; `clip` asks the bundled dual encoder. The depth map of `depth bilateral` is the scene's true layer order, whose one "
        "edge is the object's own outline: no depth network is so right, and the row is what the variant could do with one that "
        "was. Figures of VOC-C are those of arXiv 2211.13224, with Stable Diffusion, on photographs: compare the order of the "
        f"rows, not their heights. Bundled model on {device}, {platform.machine()} with {os.cpu_count()} cores, "
        f"{datetime.date.today()}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=30)
    parser.add_argument("--only", nargs="+", metavar="ROW", help="some rows, by title")
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args()
    model = Peekaboo.from_pretrained()
    rows = methods(model)
    if unknown := set(options.only or ()) - set(rows):
        parser.error(f"there is no row {min(unknown)!r}; the rows are {', '.join(rows)}")
    chosen = crops(options.samples)
    model.segment(chosen[0].image, chosen[0].prompt, preset="draft")  # warm the caches up
    lines = [
        f"| {options.samples} scenes | {' | '.join(COLUMNS)} | s/image | {' | '.join(f'VOC-C {c}' for c in COLUMNS)} |",
        "|---" * (2 + 2 * len(COLUMNS)) + "|",
    ]
    print(*lines, sep="\n", flush=True)
    for title in options.only or rows:
        lines.append(row(title, *rows[title], chosen))
        print(lines[-1], flush=True)
        options.out.write_text("\n".join([*lines, "", note(options.samples, str(model.denoiser.device)), ""]))
    print(f"\n{options.out}")


if __name__ == "__main__":
    main()
