"""What each lever is worth: `make bench-levers`. Writes benchmarks/levers.md.

    python benchmarks/levers.py [--samples 36] [--only "default" "draft" …] [--batches]

--batches measures one lever that `default` does without: several pictures of a folder in one batch. It can at most bring every pass to
the cost that a pass has in the largest batch.

Each row changes one thing of `default`, or of how the networks compute. Scenes are new compositions of *training* cut-outs: settings are chosen here, so that the
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
import torch

from held_out import Sample, samples
from peekaboo import Peekaboo
from peekaboo.evaluation import iou

TABLE = Path(__file__).parent / "levers.md"


def in_float32() -> Peekaboo:
    return Peekaboo.from_pretrained(dtype="float32")


def channels_last() -> Peekaboo:
    model = Peekaboo.from_pretrained()
    for network in (model.denoiser.pipe.unet, model.denoiser.pipe.vae):
        network.to(memory_format=torch.channels_last)
    return model


def compiled() -> Peekaboo:
    """The UNet by torch.compile, for batches of any size."""
    model = Peekaboo.from_pretrained()
    model.denoiser.pipe.unet.compile(dynamic=True)
    return model


LEVERS: dict[str, dict[str, Any]] = {
    "default": {},
    "no GrabCut": {"grabcut": False},
    "no GrabCut, no descent": {"grabcut": False, "steps": 0},
    "first map: 12 draws": {"warm_start": 12},
    "first map: 48 draws": {"warm_start": 48},
    "float32, also where bfloat16 is native": {"model": in_float32},
    "networks in channels-last": {"model": channels_last},
    "UNet by torch.compile": {"model": compiled},
    "first map: against nothing, not rival names": {"rivals": False},
    "first map: not pooled over attention": {"pooling": 0.0},
    "no first map: 40 steps from an undecided mask": {"warm_start": 0, "steps": 40},
    "no descent (`draft`)": {"steps": 0},
    "twice the steps at half the rate": {"steps": 8, "learning_rate": 0.125},
    "three times the steps": {"steps": 12},
    "one draw a step": {"draws": 1},
    "four draws a step": {"draws": 4},
    "steps: early, noisy timesteps only (.6 to .98)": {"t_min": 0.6, "t_max": 0.98},
    "steps: late, clean timesteps only (.02 to .4)": {"t_min": 0.02, "t_max": 0.4},
    "steps: all timesteps (.02 to .98)": {"t_min": 0.02, "t_max": 0.98},
    "the paper's score instead of the classifier's": {"estimator": "sds"},
    "the complement scored too": {"complement": 0.5},
    "gradient not balanced": {"balance": False},
    "gravity .05 instead of the balance": {"balance": False, "gravity": 0.05},
    "no bilateral blur": {"blur": "none"},
    "plain SGD": {"optimizer": "sgd", "learning_rate": 1e-5},
}


def measure(model: Peekaboo, chosen: list[Sample], changes: dict[str, Any]) -> tuple[np.ndarray, float, float]:
    """Changes of the settings, or the maker of another model: IoU of each sample, the share of masks on the wrong object, and seconds an
    image. Presence is not asked: everything is found."""
    if "model" in changes:
        model, changes = changes["model"](), {}
        clock = time.perf_counter()
        model.segment(chosen[0].image, chosen[0].prompt)
        print(f"(its first picture: {time.perf_counter() - clock:.1f} s)", flush=True)
    clock = time.perf_counter()
    masks = [model.segment(s.image, s.prompt, presence=0.0, **changes).mask[0] for s in chosen]
    seconds = (time.perf_counter() - clock) / len(chosen)
    scores = np.array([iou(mask, s.truth) for mask, s in zip(masks, chosen, strict=True)])
    return scores, float(np.mean([s.is_wrong(mask) for mask, s in zip(masks, chosen, strict=True)])), seconds


BATCHES = (1, 2, 4, 6, 8, 12, 16, 24, 48, 96)


@torch.no_grad()
def batches_table(model: Peekaboo, rounds: int = 5) -> list[str]:
    """Milliseconds a latent and a picture, by batch: the least of some rounds, in turn, so that a busy moment hits all alike."""
    denoiser = model.denoiser
    side = round(denoiser.native_area**0.5)
    null = denoiser.encode_prompt([""])
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(denoiser.device)
    latents = denoiser.encode(image)
    least: dict[tuple[str, int], float] = {}
    for _ in range(rounds):
        for size in BATCHES:
            t = torch.full((size,), denoiser.timesteps // 2, device=latents.device)
            texts = null.expand(size, -1, -1)
            for part, work in {
                "UNet": lambda n=size, t=t, texts=texts: denoiser.predict(latents.repeat(n, 1, 1, 1), t, texts),
                "VAE": lambda n=size: denoiser.encode(image.repeat(n, 1, 1, 1)),
            }.items():
                start = time.perf_counter()
                for _ in range(max(1, 24 // size)):
                    work()
                seconds = (time.perf_counter() - start) / (size * max(1, 24 // size))
                least[part, size] = min(seconds, least.get((part, size), seconds))
    lines = ["| in one batch | UNet, ms a latent | VAE encoder, ms a picture |", "|---|---|---|"]
    rows = (f"| {n} | {1000 * least['UNet', n]:.1f} | {1000 * least['VAE', n]:.1f} |" for n in BATCHES)
    return [*lines, *rows]


def ablation(model: Peekaboo, count: int, rows: list[str]) -> list[str]:
    """The table of the levers."""
    chosen = samples(count, seed=4242, split="train")
    model.segment(chosen[0].image, chosen[0].prompt)  # warm the caches up
    lines = [
        f"| {count} scenes | mIoU | against `default` | wrong object | s/image |",
        "|---|---|---|---|---|",
    ]
    print(*lines, sep="\n", flush=True)
    base: np.ndarray | None = None
    for name in rows:
        scores, wrong, seconds = measure(model, chosen, LEVERS[name])
        base = scores if base is None else base
        change = scores - base
        error = change.std(ddof=1) / len(change) ** 0.5
        against = "" if scores is base else f"{change.mean():+.3f} ± {error:.3f}"
        lines.append(f"| {name} | {scores.mean():.3f} | {against} | {100 * wrong:.0f} % | {seconds:.2f} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=36, help="scenes of the ablation; 0 leaves it out")
    parser.add_argument("--batches", action="store_true", help="also time the networks by batch size")
    parser.add_argument("--only", nargs="+", choices=LEVERS, default=list(LEVERS))
    options = parser.parse_args()
    model = Peekaboo.from_pretrained()
    lines = ablation(model, options.samples, options.only) if options.samples else []
    if options.batches:
        table = batches_table(model)
        print(*table, sep="\n", flush=True)
        lines += ["", *table]
    note = f"New compositions of training cut-outs, bundled model, {os.cpu_count()} cores, {datetime.date.today()}."
    TABLE.write_text("\n".join([*lines, "", note, ""]))


if __name__ == "__main__":
    main()
