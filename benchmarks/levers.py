"""What each lever is worth: `make bench-levers`. Writes benchmarks/levers.md.

    python benchmarks/levers.py [--samples 36] [--only "default" "no pooling"]

Each row changes one thing of `default`. Scenes are new compositions of *training* cut-outs: settings are chosen here, so that the
held-out scenes stay for measuring. IoU of the mask at the picture's own size; seconds of the whole run. The same scenes in every
row: ± is the standard error of the difference to `default`, sample by sample.
"""

from __future__ import annotations

import argparse
import datetime
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from held_out import Sample, samples
from peekaboo import Peekaboo
from peekaboo.evaluation import iou

TABLE = Path(__file__).parent / "levers.md"
LEVERS: dict[str, dict[str, Any]] = {
    "default": {},
    "first map: 8 draws": {"warm_start": 8},
    "first map: 24 draws": {"warm_start": 24},
    "first map: against nothing, not rival names": {"rivals": False},
    "first map: not pooled over attention": {"pooling": 0.0},
    "no first map: 40 steps from an undecided mask": {"warm_start": 0, "steps": 40},
    "no descent (`draft`)": {"steps": 0},
    "twice the steps at half the rate": {"steps": 8, "learning_rate": 0.125},
    "three times the steps": {"steps": 12},
    "one draw a step": {"draws": 1},
    "four draws a step": {"draws": 4},
    "early, noisy timesteps only (.6 to .98)": {"t_min": 0.6, "t_max": 0.98},
    "late, clean timesteps only (.02 to .4)": {"t_min": 0.02, "t_max": 0.4},
    "all timesteps (.02 to .98)": {"t_min": 0.02, "t_max": 0.98},
    "the paper's score instead of the classifier's": {"estimator": "sds"},
    "the complement scored too": {"complement": 0.5},
    "gradient not balanced": {"balance": False},
    "gravity .05 instead of the balance": {"balance": False, "gravity": 0.05},
    "no bilateral blur": {"blur": "none"},
    "plain SGD": {"optimizer": "sgd", "learning_rate": 1e-5},
}


def measure(model: Peekaboo, chosen: list[Sample], changes: dict[str, Any]) -> tuple[np.ndarray, float, float]:
    """IoU of each sample, the share of masks on the wrong object, and seconds an image. Presence is not asked: everything is found."""
    clock = time.perf_counter()
    masks = [model.segment(s.image, s.prompt, presence=0.0, **changes).mask[0] for s in chosen]
    seconds = (time.perf_counter() - clock) / len(chosen)
    scores = np.array([iou(mask, s.truth) for mask, s in zip(masks, chosen, strict=True)])
    return scores, float(np.mean([s.is_wrong(mask) for mask, s in zip(masks, chosen, strict=True)])), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=36)
    parser.add_argument("--only", nargs="+", choices=LEVERS, default=list(LEVERS))
    options = parser.parse_args()
    model = Peekaboo.from_pretrained()
    chosen = samples(options.samples, seed=4242, split="train")
    model.segment(chosen[0].image, chosen[0].prompt)  # warm the caches up
    lines = [
        f"| {options.samples} scenes | mIoU | against `default` | wrong object | s/image |",
        "|---|---|---|---|---|",
    ]
    print(*lines, sep="\n", flush=True)
    base: np.ndarray | None = None
    for name in options.only:
        scores, wrong, seconds = measure(model, chosen, LEVERS[name])
        base = scores if base is None else base
        change = scores - base
        error = change.std(ddof=1) / len(change) ** 0.5
        against = "" if scores is base else f"{change.mean():+.3f} ± {error:.3f}"
        lines.append(f"| {name} | {scores.mean():.3f} | {against} | {100 * wrong:.0f} % | {seconds:.2f} |")
        print(lines[-1], flush=True)
    note = f"New compositions of training cut-outs, bundled model, {os.cpu_count()} cores, {datetime.date.today()}."
    TABLE.write_text("\n".join([*lines, "", note, ""]))


if __name__ == "__main__":
    main()
