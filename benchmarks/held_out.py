"""Held-out scenes: composed from cut-outs and backgrounds that no training step ever saw, the same at every call.

Needs the data pack of training step 1 (`make -C training data`).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "training"))

from config import Config, cache_folder
from scenes import Pack, Scene, compose

TIERS = {"plain": "solid", "textured": "gradient", "cluttered": "photo"}


@dataclass(frozen=True)
class Sample:
    """One picture (H, W, 3) uint8, one prompt, the exact mask (H, W) bool of what it names, and those of the others."""

    image: np.ndarray
    prompt: str
    truth: np.ndarray
    others: np.ndarray
    tier: str
    scene: Scene


def samples(count: int, seed: int = 2024, side: int = 256, objects: int = 2) -> list[Sample]:
    """`count` samples, the tiers in turn, one named object each of `objects` in the picture."""
    path = cache_folder() / "data.npz"
    if not path.exists():
        raise SystemExit(f"There is no {path}; make it with `make -C training data`.")
    pack, cfg = Pack(path, held_out=True), Config()
    rng = np.random.default_rng(seed)
    result = []
    while len(result) < count:
        tier = list(TIERS)[len(result) % len(TIERS)]
        scene = compose(rng, pack, cfg.scenes, (side, side), objects, TIERS[tier], clean=True)
        masks = scene.alphas > 0.5
        if masks.mean(axis=(1, 2)).min() < 0.02:
            continue  # an object that another one hides asks nothing sensible
        others = masks[1:].any(axis=0)
        result.append(Sample(scene.image, scene.names[0], masks[0], others, tier, scene))
    return result
