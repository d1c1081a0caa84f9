"""Held-out scenes: composed from cut-outs and backgrounds that no training step ever saw, the same at every call.

Needs the data pack of training step 1 (`make -C training data`).
"""

from __future__ import annotations

import sys
import zlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "training"))

from config import Config, cache_folder
from scenes import Pack, Scene, compose

TIERS = {"plain": "solid", "textured": "gradient", "cluttered": "photo"}


@dataclass(frozen=True)
class Sample:
    """One picture (H, W, 3) uint8, one prompt, and the exact masks (N, H, W) bool of its objects: the named one first."""

    image: np.ndarray
    prompt: str
    masks: np.ndarray
    tier: str
    scene: Scene

    @property
    def truth(self) -> np.ndarray:
        """The mask (H, W) bool of what the prompt names."""
        return self.masks[0]

    def is_wrong(self, mask: np.ndarray) -> bool:
        """Whether a mask (H, W) bool covers another object of the scene more than the named one."""
        covered = (self.masks & mask).sum(axis=(1, 2))
        return bool((covered[1:] > covered[0]).any())


@cache
def open_pack(styles: str, split: str = "test") -> Pack:
    path = cache_folder() / "data.npz"
    if not path.exists():
        raise SystemExit(f"There is no {path}; make it with `make -C training data`.")
    return Pack(path, split, styles)


def half_of(pool: list[str], half: int | None) -> list[str]:
    """The names whose checksum is even (half 0) or odd (1); all of them for None. What is calibrated on one half is told of the other."""
    return [name for name in pool if half is None or zlib.crc32(name.encode()) % 2 == half]


def samples(
    count: int,
    seed: int = 2024,
    side: int = 256,
    objects: tuple[int, ...] = (2, 3),
    names: str | list[str] = "core",
    styles: str = "known",
    split: str = "test",
    half: int | None = None,
) -> list[Sample]:
    """`count` samples, one named object each: the tiers in turn, then the numbers of objects in turn.

    Args:
        count: how many.
        seed: of the scenes.
        side: of the square pictures, pixels.
        objects: how many objects the scenes show.
        names: "core" for the names of training/concepts.py, "all" for every name, or a list of them.
        styles: "known" for held-out drawings of the icon sets that training has seen, and held-out photographs; "unseen"
            for the drawings of a set that it has never seen.
        split: "train" for new compositions of what training has seen: what settings are tuned on, never reported as quality.
        half: of the names (`half_of`), 0 or 1, or None for all.
    """
    pack, cfg = open_pack("all" if split == "train" else styles, split), Config()
    rng = np.random.default_rng(seed)
    pool = half_of({"core": pack.core, "all": pack.names}[names] if isinstance(names, str) else names, half)
    result: list[Sample] = []
    while len(result) < count:
        tier = list(TIERS)[len(result) % len(TIERS)]
        number = objects[len(result) // len(TIERS) % len(objects)]
        scene = compose(rng, pack, cfg, (side, side), number, TIERS[tier], clean=True, names=pool)
        masks = scene.alphas > 0.5
        if masks.mean(axis=(1, 2)).min() < 0.02:
            continue  # an object that another one hides asks nothing sensible
        result.append(Sample(scene.image, scene.names[0], masks, tier, scene))
    return result


def twins(count: int, seed: int = 2027, side: int = 256, split: str = "test") -> list[Sample]:
    """`count` samples of two things of a kind, well apart from left to right: the prompts say "the left …" and "the right …" in turn, and
    the first mask is that of the one that is meant. Core names, the tiers in turn."""
    pack, cfg = open_pack("all" if split == "train" else "known", split), Config()
    rng = np.random.default_rng(seed)
    result: list[Sample] = []
    while len(result) < count:
        tier = list(TIERS)[len(result) % len(TIERS)]
        scene = compose(rng, pack, cfg, (side, side), 2, TIERS[tier], clean=True, names=pack.core, alike=True)
        masks = scene.alphas > 0.5
        if masks.mean(axis=(1, 2)).min() < 0.02:
            continue
        centres = [np.flatnonzero(mask.any(axis=0)).mean() for mask in masks]
        if abs(centres[0] - centres[1]) < side / 5:
            continue
        where = ("left", "right")[len(result) % 2]
        meant = int(np.argmin(centres) if where == "left" else np.argmax(centres))
        ordered = masks[[meant, 1 - meant]]
        result.append(Sample(scene.image, f"the {where} {scene.names[0]}", ordered, tier, scene))
    return result


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The box of a mask (H, W) bool that is not empty: left, top, right, bottom; the last two are the first outside."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def cropped(sample: Sample, margin: int) -> Sample:
    """The sample's picture, masks and layers, cropped to the named object's box and `margin` pixels around."""
    left, top, right, bottom = box_of(sample.truth)
    rows, columns = slice(max(0, top - margin), bottom + margin), slice(max(0, left - margin), right + margin)
    image = np.ascontiguousarray(sample.image[rows, columns])
    scene = replace(sample.scene, image=image, alphas=sample.scene.alphas[:, rows, columns])
    return replace(sample, image=image, masks=sample.masks[:, rows, columns], scene=scene)


def crops(count: int, seed: int = 2024, least: int = 64, margin: int = 5, names: str = "core") -> list[Sample]:
    """`count` samples in the manner of VOC-C, at half its scale: scenes of 256 px with exactly one object, whose box is more than
    `least` pixels wide or high, cropped to the box and `margin` pixels around. (VOC's pictures have 500 px; there it is 128 and 10.)
    """
    drawn = count
    while True:
        large = []
        for sample in samples(drawn, seed, objects=(1,), names=names):
            left, top, right, bottom = box_of(sample.truth)
            if max(right - left, bottom - top) > least:
                large.append(cropped(sample, margin))
        if len(large) >= count:
            return large[:count]
        drawn *= 2


def layers(sample: Sample) -> np.ndarray:
    """The scene's true layer order as a depth map (H, W) float32 in [0, 1]: 0 is the background, 1 the nearest object."""
    ranks = np.arange(1, len(sample.scene.alphas) + 1, dtype=np.float32) / len(sample.scene.alphas)
    return (ranks[:, None, None] * sample.scene.alphas).sum(axis=0)
