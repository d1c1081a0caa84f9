"""Edges and halos on held-out scenes with exact alphas: `make bench-edges`. Writes benchmarks/edges.md.

    python benchmarks/edges.py [--samples 24] [--side 256 768] [--no-model]

Three questions: how well an exact alpha, averaged down to the α grid, comes back to the picture's size (upsampling alone); how
well the model's own alpha does, where it found the right thing (IoU of bilinear upsampling ≥ .4); and how far a cut-out with the
exact alpha is from the true thing on other backgrounds, with and without decontamination. Rows of pymatting are added where that
library is installed; the package does not need it.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import os
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from kornia.filters import guided_blur

from held_out import TIERS, Sample, open_pack, samples  # and training/ on the path
from peekaboo import Peekaboo, Settings
from peekaboo.evaluation import iou
from peekaboo.evaluation.metrics import boundary_f, mse, sad
from peekaboo.foreground import foreground
from peekaboo.refine import clean, upsample
from peekaboo.scene import ALPHA_PER_LATENT

TABLE = Path(__file__).parent / "edges.md"
GRID = 64
GOOD = 0.4
Upsampler = Callable[[torch.Tensor, np.ndarray], np.ndarray]
"""An alpha (1, h, w) and a picture (H, W, 3) uint8 to an alpha (H, W)."""


def bilinear(alpha: torch.Tensor, rgb: np.ndarray) -> np.ndarray:
    return F.interpolate(alpha[None], size=rgb.shape[:2], mode="bilinear", align_corners=False)[0, 0].numpy()


def one_pass(alpha: torch.Tensor, rgb: np.ndarray) -> np.ndarray:
    """One guided filter at full size over two α pixels' radius, as Peekaboo did it first."""
    radius = round(ALPHA_PER_LATENT * rgb.shape[0] / GRID / 2)
    guide = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
    smooth = torch.from_numpy(bilinear(alpha, rgb))[None, None]
    step = max(1, radius // 4)
    blurred = guided_blur(guide, smooth, 2 * radius + 1, 2e-4, border_type="replicate", subsample=step)
    return blurred[0, 0].clamp(0, 1).numpy()


def refined(alpha: torch.Tensor, rgb: np.ndarray) -> np.ndarray:
    return upsample(alpha, rgb, cell=ALPHA_PER_LATENT)[0]


def cleaned(alpha: torch.Tensor, rgb: np.ndarray) -> np.ndarray:
    """What `default` does last."""
    return clean(refined(alpha, rgb)[None], Settings().levels)[0]


def closed_form(alpha: torch.Tensor, rgb: np.ndarray) -> np.ndarray:
    """Levin et al.'s matting between what is surely inside (above .9) and surely outside (below .1)."""
    from pymatting import estimate_alpha_cf

    smooth = bilinear(alpha, rgb).astype(np.float64)
    trimap = np.select([smooth < 0.1, smooth > 0.9], [0.0, 1.0], 0.5)
    if set(np.unique(trimap)) >= {0.0, 1.0}:
        return estimate_alpha_cf(rgb / 255, trimap)
    return smooth


METHODS: dict[str, Upsampler] = {"bilinear": bilinear, "guided, one pass": one_pass, "Peekaboo's": refined}
if importlib.util.find_spec("pymatting"):
    METHODS["closed-form matting"] = closed_form


def reduced(sample: Sample) -> torch.Tensor:
    """The exact alpha of the named thing on the α grid."""
    exact = torch.from_numpy(sample.scene.alphas[:1].astype(np.float32))
    return F.interpolate(exact[None], size=(GRID, GRID), mode="area")[0]


def found(model: Peekaboo, sample: Sample) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The model's alpha on the α grid, and as GrabCut extends it; None where it found something else."""
    run = model.start(sample.image, sample.prompt)
    for step in run:
        alpha = step.alpha.float()
    return (alpha, run.alphas()) if iou(bilinear(alpha, sample.image) > 0.5, sample.truth) >= GOOD else None


def rows(title: str, pairs: list[tuple[Sample, torch.Tensor]], methods: dict[str, Upsampler]) -> list[str]:
    """One line a method: means over the samples."""
    lines = []
    for name, method in methods.items():
        values = []
        for sample, alpha in pairs:
            ours, exact = method(alpha, sample.image), sample.scene.alphas[0]
            mask = ours > 0.5
            errors = sad(ours, exact), 1000 * mse(ours, exact)
            values.append(
                [boundary_f(mask, sample.truth, t) for t in (0.008, 0.002)]
                + [iou(mask, sample.truth), *errors, haze(ours, exact)]
            )
        cells = " | ".join(f"{value:.3f}" for value in np.mean(values, axis=0))
        lines.append(f"| {title} | {len(pairs)} | {name} | {cells} |")
        print(lines[-1], flush=True)
    return lines


def haze(alpha: np.ndarray, exact: np.ndarray) -> float:
    """The mean alpha where there is nothing of the thing."""
    return float(alpha[exact < 0.02].mean())


def halos(count: int, side: int) -> list[str]:
    """Cut-outs with the exact alpha laid on black, white and green: the mean error of the pixels that are half transparent."""
    from config import Config
    from scenes import background, place

    pack, rng = open_pack("known"), np.random.default_rng(2024)
    methods = {"the picture's colours": lambda rgb, alpha: rgb, "decontaminated": foreground}
    if importlib.util.find_spec("pymatting"):
        methods["multi-level (pymatting)"] = multi_level
    errors: dict[str, list[float]] = {name: [] for name in methods}
    for index in range(count):
        sprite = pack.draw(rng, pack.core[rng.integers(len(pack.core))], Config().scenes.photo_stamp)
        rgba = place(rng, sprite, 0.6 * side, (side / 2, side / 2), (side, side))
        behind = background(rng, list(TIERS.values())[index % len(TIERS)], (side, side), pack.backgrounds)
        picture = np.round(255 * (rgba[..., :3] + (1 - rgba[..., 3:]) * behind)).clip(0, 255).astype(np.uint8)
        alpha = np.round(255 * rgba[..., 3]).astype(np.uint8)
        soft, share = (alpha > 0) & (alpha < 255), alpha[..., None] / 255
        for name, method in methods.items():  # the background adds the same to both, so that any gives the same error
            errors[name].append(np.abs(method(picture, alpha) * share - 255 * rgba[..., :3])[soft].mean())
    return [f"| {name} | {np.mean(values):.2f} |" for name, values in errors.items()]


def multi_level(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Germer et al.'s multi-level foreground estimation."""
    from pymatting import estimate_foreground_ml

    return 255 * estimate_foreground_ml(rgb / 255, alpha / 255)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=24, help="scenes a side")
    parser.add_argument("--side", type=int, nargs="+", default=[256, 768], help="of the pictures, pixels")
    parser.add_argument("--no-model", action="store_true", help="leave out the model's own alphas")
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args()
    lines = [
        "| alpha | samples | upsampling | F .008 | F .002 | IoU | SAD | MSE·10³ | haze |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    model = None if options.no_model else Peekaboo.from_pretrained()
    for side in options.side:
        chosen = samples(options.samples, seed=2026, side=side)
        methods = {name: method for name, method in METHODS.items() if side <= 512 or method is not closed_form}
        lines += rows(f"exact, {side} px", [(sample, reduced(sample)) for sample in chosen], methods)
        if model is not None:
            pairs = [(sample, both) for sample in chosen if (both := found(model, sample)) is not None]
            lines += rows(f"model's, {side} px", [(sample, both[0]) for sample, both in pairs], methods)
            last = {"GrabCut, then Peekaboo's": refined, "and levels (`default`)": cleaned}
            lines += rows(f"model's, {side} px", [(sample, both[1]) for sample, both in pairs], last)
    lines += ["", "| cut-out | mean error of half-transparent pixels, of 255 |", "|---|---|"]
    lines += halos(2 * options.samples, 256)
    note = (
        f"Held-out scenes, α grid {GRID} × {GRID}. F: contour measure of the mask at .5, within that share of the diagonal; SAD in "
        f"thousands of pixels; haze: the mean alpha where the exact one is 0. The model's alphas are those whose bilinear mask has an IoU of at least {GOOD}. "
        f"Cut-outs: {2 * options.samples} held-out things on backgrounds of all kinds, 256 px, cut out with their exact "
        f"alpha, on any other background. {platform.machine()} with {os.cpu_count()} cores, {datetime.date.today()}."
    )
    options.out.write_text("\n".join([*lines, "", note, ""]))
    print(*lines[-4:], note, options.out, sep="\n")


if __name__ == "__main__":
    main()
