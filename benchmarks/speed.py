"""Speed at equal quality: `make bench-speed`. Writes benchmarks/speed.md and docs/speed.png.

    python benchmarks/speed.py [--samples 12] [--seeds 5] [--seed-samples 36]

1. On held-out scenes, the bundled model, one run: mIoU, seconds and network passes of each preset; `paper` also with the best of the
   published gravities picked per image by looking at the answer; how long `default` takes to reach `paper`'s final mIoU; and how much
   a sample's IoU differs between seeds, on more scenes: most differ little, and a few, whose mask jumps to another thing, a lot.
2. At Stable Diffusion's size (the architecture of SD 1.5): the exact FLOPs an image, counted. The seconds: sd_size.py.

mIoU is that of the masks that a run ends with. The curves, and the time to a quality, are of alpha > ½ after each step, bilinearly
enlarged, so that every step can be scored alike; their seconds are from the call to that step, without what a run ends with: GrabCut,
score and upsampling (the column "whole run" has them).
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from counting import Counting
from held_out import ROOT, Sample, samples
from peekaboo import Peekaboo, Settings, preset
from peekaboo.evaluation import iou
from sd_size import flops_table

TABLE = Path(__file__).parent / "speed.md"
PLOT = ROOT / "docs" / "speed.png"
GRAVITIES = (0.01, 0.05, 0.1, 0.15)
"""What the paper tunes over, per prompt; .05 is the published one."""


PRESETS = ("paper", "draft", "default")
ROWS: dict[str, Settings] = {
    "paper": preset("paper"),
    "paper, then GrabCut": preset("paper", grabcut=True),
    "draft without GrabCut": preset("draft", grabcut=False),
    "default without GrabCut": preset("default", grabcut=False),
    "draft": preset("draft"),
    "default": preset("default"),
}


@dataclass
class Trace:
    """One method on all samples: IoU of the masks (samples,), of alpha after each step (samples, steps), seconds to it (samples, steps),
    those of the whole run, and mean passes."""

    masks: np.ndarray
    iou: np.ndarray
    seconds: np.ndarray
    whole: float
    passes: dict[str, float] = field(default_factory=dict)

    def reaches(self, quality: float) -> float | None:
        """Mean seconds to the first step whose mIoU is `quality`; None if there is none."""
        there = np.flatnonzero(self.iou.mean(axis=0) >= quality)
        return float(self.seconds[:, there[0]].mean()) if len(there) else None


def trace(pipe: Any, settings: Settings, chosen: list[Sample]) -> Trace:
    """Run them all. Every prompt names something that is there, so presence is not asked."""
    settings = settings.with_changes(presence=0.0)
    counter = Counting(Peekaboo(pipe).denoiser)
    model = Peekaboo(counter)
    masks, scores, seconds, whole = [], [], [], 0.0
    for sample in chosen:
        clock = time.perf_counter()
        run = model.start(sample.image, sample.prompt, preset=settings)
        alphas, times = [], []
        for step in run:
            alphas.append(step.alpha)
            times.append(time.perf_counter() - clock)
        mask = run.result().mask[0]
        whole += time.perf_counter() - clock
        masks.append(iou(mask, sample.truth))
        scores.append([grid_iou(alpha, sample.truth) for alpha in alphas])
        seconds.append(times)
    n = len(chosen)
    passes = {part: count / n for part, count in counter.passes.items()}
    return Trace(np.array(masks), np.array(scores), np.array(seconds), whole / n, passes)


def grid_iou(alpha: torch.Tensor, truth: np.ndarray) -> float:
    large = F.interpolate(alpha[None].float(), size=truth.shape, mode="bilinear", align_corners=False)[0, 0]
    return iou(large.numpy() > 0.5, truth)


def spread_of_seeds(pipe: Any, settings: Settings, chosen: list[Sample], seeds: int) -> np.ndarray:
    """Over `seeds` seeds: the standard deviation of every sample's IoU, (samples,)."""
    runs = [trace(pipe, settings.with_changes(seed=seed), chosen).masks for seed in range(seeds)]
    return np.std(runs, axis=0, ddof=1)


def compare(pipe: Any, chosen: list[Sample]) -> tuple[list[str], dict[str, Trace]]:
    """The table of the presets, and their traces."""
    traces = {title: trace(pipe, settings, chosen) for title, settings in ROWS.items()}
    others = [trace(pipe, preset("paper", gravity=g), chosen) for g in GRAVITIES if g != 0.05]
    best = np.max([t.masks for t in (traces["paper"], *others)], axis=0).mean()
    target = float(traces["paper"].iou[:, -1].mean())
    paper = traces["paper"].whole
    lines = [
        f"| {len(chosen)} scenes | mIoU | whole run, s | times faster | s to `paper`'s mIoU | times faster | UNet passes | VAE passes | of them backward |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, t in traces.items():
        reached = t.reaches(target)
        passes = " | ".join(f"{value:.0f}" for value in t.passes.values())
        there = f"{reached:.2f} | {traces['paper'].seconds[:, -1].mean() / reached:.1f}" if reached else "never | "
        lines.append(
            f"| `{name}` | {t.masks.mean():.3f} | {t.whole:.2f} | {paper / t.whole:.1f} | {there} | {passes} |"
        )
    lines.insert(
        3, f"| `paper`, best gravity an image | {best:.3f} | {paper * len(GRAVITIES):.2f} (all of them) | | | | | | |"
    )
    return lines, traces


def draw(traces: dict[str, Trace]) -> None:
    """mIoU against seconds, a curve a preset."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name in PRESETS:
        t = traces[name]
        axes.plot(t.seconds.mean(axis=0), t.iou.mean(axis=0), marker="o" if t.iou.shape[1] < 30 else None, label=name)
    axes.set(xscale="log", xlabel="seconds", ylabel="mIoU", title="Held-out scenes, bundled model")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(PLOT, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=12, help="held-out scenes")
    parser.add_argument("--seeds", type=int, default=5, help="for the spread between seeds; 0 leaves it out")
    parser.add_argument("--seed-samples", type=int, default=36, help="held-out scenes for the spread between seeds")
    options = parser.parse_args()
    lines: list[str] = []
    machine = f"{platform.machine()}, {os.cpu_count()} cores, PyTorch {torch.__version__}, {datetime.date.today()}."

    def tell(*more: str) -> None:
        lines.extend(more)
        print(*more, sep="\n", flush=True)

    from peekaboo.denoisers import load_pipeline

    pipe = load_pipeline()
    chosen = samples(options.samples)
    trace(pipe, preset("draft"), chosen[:1])  # warm the caches up
    table, traces = compare(pipe, chosen)
    tell(*table)
    draw(traces)
    if options.seeds:
        others = samples(options.seed_samples)
        for name in ("default", "draft"):
            deviations = spread_of_seeds(pipe, preset(name), others, options.seeds)
            error = deviations.std(ddof=1) / len(deviations) ** 0.5
            tell(
                "",
                f"`{name}`, {options.seeds} seeds, {len(deviations)} scenes: a sample's IoU has a standard deviation of "
                f"{deviations.mean():.3f} ± {error:.3f} (mean over samples; their median: {np.median(deviations):.3f}).",
            )
    tell("", *flops_table({name: traces[name].passes for name in PRESETS}))
    tell("", machine)
    TABLE.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
