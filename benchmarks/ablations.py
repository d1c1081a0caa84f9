"""What each choice of the bundled model is worth, at small scale: one change a row, from random weights, all else the same. Writes
benchmarks/ablations.md and trains into a folder of its own.

    python benchmarks/ablations.py [--device cuda] [--only TITLE …]    # rows that are done stay as they are

A small world (24 core names), a small UNet, its own short autoencoder; the figures compare the rows with each other, with nothing else.
Masks are those of `default` on new compositions of what was trained on, two or three objects each.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "training"))

from config import Config, cache_folder, changed
from held_out import open_pack, samples
from peekaboo import Peekaboo
from peekaboo.evaluation import iou

TABLE = Path(__file__).parent / "ablations.md"
FOLDER = cache_folder() / "ablations"
SMALL = (
    "scenes.only=24",
    "shapes=((64, 64),)",
    "denoiser.layers=1",
    "denoiser.channels=(64, 128)",
    "denoiser.align=0.0",
    "denoiser.batch=48",
    "denoiser.scenes=18000",
    "vae.scenes=6000",
)
EIGHTH = "vae.channels=(32, 64, 96, 96)"  # of the side
LARGE = ("size=128", "shapes=((128, 128),)")
ROWS: dict[str, tuple[str, ...]] = {
    "v-prediction, latents of 4 channels at a quarter of the side": (),
    "the same, another seed": ("seed=6",),
    "ε-prediction": ("denoiser.prediction_type=epsilon",),
    "min-SNR weights, γ = 5": ("denoiser.min_snr=5",),
    "text encoder of three layers instead of one": ("denoiser.text_layers=3",),
    "solid backgrounds .80 instead of .40": ("scenes.solid=.8", "scenes.gradient=.08", "scenes.photo=.12"),
    "solid backgrounds .10": ("scenes.solid=.1", "scenes.gradient=.35", "scenes.photo=.55"),
    "latents of 8 channels": ("vae.latent_channels=8",),
    "latents of 8 channels at an eighth of the side": (EIGHTH, "vae.latent_channels=8"),
    "aligned with names, at .005": ("denoiser.align=.005",),
    "every object named in the caption": ("scenes.drop_name=0.0",),
    "objects weigh no more than background": ("denoiser.object_weight=1.0",),
    "two layers a block instead of one": ("denoiser.layers=2",),
    "128 px, at an eighth of the side: as many latents": (*LARGE, EIGHTH),
    "128 px, at a quarter of the side: four times the latents": LARGE,
    "the caption read at the latents' own size too": ("denoiser.attention=(True, True)",),
    "the caption read at the latents' own size too, another seed": ("denoiser.attention=(True, True)", "seed=6"),
    "more things a scene: one to three in .3, .4, .3 of them": ("scenes.objects=(0.3, 0.4, 0.3)",),
    "more things a scene, another seed": ("scenes.objects=(0.3, 0.4, 0.3)", "seed=6"),
    "of a crowded scene's things .6 left out of the caption, not .3": ("scenes.drop_name=0.6",),
    "fewer things a scene: one to three in .8, .15, .05 of them": ("scenes.objects=(0.8, 0.15, 0.05)",),
}


def step(script: str, folder: Path, changes: tuple[str, ...], device: str) -> None:
    """Run one training step, from random weights, in a cache folder of its own."""
    command = [sys.executable, str(ROOT / "training" / script), "--fresh", "--device", device]
    command += ["--workers", "0"] if device == "cpu" else ["--workers", "4"]
    command += [word for change in changes for word in ("--set", change)]
    with (folder / "out.txt").open("a") as out:
        subprocess.run(
            command, check=True, stdout=out, stderr=out, env={**os.environ, "PEEKABOO_TRAINING_CACHE": str(folder)}
        )


def prepared(folder: Path) -> Path:
    """A cache folder that shares the data and the words of the real one."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    for name in ("data.npz", "runs/tokenizer"):
        if not (folder / name).exists():
            (folder / name).symlink_to(cache_folder() / name)
    return folder


def autoencoder(changes: tuple[str, ...], device: str) -> Path:
    """The checkpoint of the autoencoder that a row asks for; rows that differ in the denoiser alone share it."""
    own = tuple(c for c in changes if c.startswith(("vae.", "size=", "shapes=", "scenes.only")))
    own = tuple({c.partition("=")[0]: c for c in own}.values())  # the last of each name counts
    folder = prepared(FOLDER / ("vae " + " ".join(own)).translate({ord(c): "_" for c in " (),=."}))
    if not (folder / "done").exists():
        step("step2_vae.py", folder, own, device)
        (folder / "done").touch()
    return folder / "runs" / "vae.pt"


def masks_of(folder: Path, changes: tuple[str, ...], count: int) -> tuple[float, float]:
    """mIoU and the share of wrong objects of `default` with a row's weights, on compositions of what it was trained on."""
    from step5_export import trained_pipeline

    cfg = changed(Config(), list(changes))
    with patch.dict(os.environ, PEEKABOO_TRAINING_CACHE=str(folder)):
        pipe, _, _ = trained_pipeline(cfg)
    model = Peekaboo(pipe)
    chosen = samples(count, seed=2031, names=open_pack("all", "train").few(cfg.scenes.only), split="train")
    masks = [model.segment(s.image, s.prompt, presence=0.0).mask[0] for s in chosen]
    scores = [iou(mask, s.truth) for mask, s in zip(masks, chosen, strict=True)]
    wrong = [s.is_wrong(mask) for mask, s in zip(masks, chosen, strict=True)]
    return float(np.mean(scores)), float(np.mean(wrong))


def figures(title: str, device: str, count: int) -> dict[str, float]:
    """What a row comes to: trained now, or read from its folder."""
    changes = (*SMALL, *ROWS[title])
    folder = prepared(FOLDER / f"row {hashlib.sha256(repr((title, changes)).encode()).hexdigest()[:8]}")
    done = folder / f"figures-{count}.json"
    if not done.exists():
        vae = folder / "runs" / "vae.pt"
        if not vae.exists():
            vae.symlink_to(autoencoder(changes, device))
        step("step3_denoiser.py", folder, changes, device)
        last = json.loads((folder / "runs" / "denoiser.jsonl").read_text().splitlines()[-1])
        miou, wrong = masks_of(folder, changes, count)
        log = vae.resolve().with_suffix(".jsonl").read_text().splitlines()
        l1 = np.mean([json.loads(line)["l1"] for line in log[-len(log) // 5 :]])
        row = {"miou": miou, "wrong": wrong, "l1": float(l1), **last}
        done.write_text(json.dumps(row))
    return json.loads(done.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--samples", type=int, default=48, help="scenes that masks are measured on")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    options = parser.parse_args()
    lines = [
        "| one change each | mIoU | wrong object | gap | loss at t = 600 | reconstruction, L1 in [−1, 1] | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for title in options.only:
        f = figures(title, options.device, options.samples)
        lines.append(
            f"| {title} | {f['miou']:.3f} | {100 * f['wrong']:.0f} % | {f['gap']:.4f} | {f['loss_600']:.4f} | {f['l1']:.4f} "
            f"| {f['minutes']:.1f} |"
        )
        print(lines[-1], flush=True)
    note = (
        f"Each row: {', '.join(SMALL)}; from random weights. Losses and gaps of another autoencoder's latents cannot be compared. "
        f"{options.samples} scenes; {options.device}, {platform.machine()}, {datetime.date.today()}."
    )
    TABLE.write_text("\n".join([*lines, "", note, ""]))


if __name__ == "__main__":
    main()
