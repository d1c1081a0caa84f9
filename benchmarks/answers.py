"""Is it there, and which one is it? `make bench-answers`. Writes benchmarks/answers.md.

    python benchmarks/answers.py [--samples 60] [--twins 30] [--calibrate 60]

1. Presence: held-out scenes, each asked for a thing that it shows and for one that it does not (drawn among the core names that share
   no word, synonym or kind with anything shown; and, a harder question, among those that share a kind: a cat where there is a dog). AUROC of
   `score`; the share of absent things that pass at 95 % recall; what the preset's own threshold does; and whether the score is calibrated:
   the share of present things by score.
   The score is calibrated on held-out things, too, but on other ones: on the half of the names whose checksum is even (--calibrate prints
   what `presence.py` needs); the odd half is measured.
2. Which one: held-out scenes with two of a kind side by side, asked for "the left …" or "the right …". Right is a mask whose IoU with the
   named one is greater than with the other, and not empty.
"""

from __future__ import annotations

import argparse
import datetime
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from held_out import Sample, half_of, open_pack, samples, twins
from peekaboo import Peekaboo, presence
from peekaboo.evaluation import auroc, false_alarms, iou

TABLE = Path(__file__).parent / "answers.md"
CALIBRATED, MEASURED = 0, 1
"""Halves of the names (`held_out.half_of`)."""
BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def called(name: str) -> set[str]:
    """Every word of a concept's name and synonyms."""
    concept = open_pack("known").concepts[name]
    return {word for text in (concept.name, *concept.synonyms) for word in text.split()}


def kinds(name: str) -> set[str]:
    """Every word of a concept's kinds."""
    return {word for text in open_pack("known").concepts[name].kinds for word in text.split()}


def absent_names(chosen: list[Sample], half: int, seed: int = 11, near: bool = False) -> list[str]:
    """For each sample a core name, of that half, of which it shows nothing. near: one that shares a kind with something shown, where
    there is such a name; else none that does."""
    rng, pool = np.random.default_rng(seed), half_of(open_pack("known").core, half)
    result = []
    for sample in chosen:
        names = {word for name in sample.scene.names for word in called(name)}
        shown = {word for name in sample.scene.names for word in kinds(name)}
        others = [name for name in pool if not called(name) & (names | shown) and not kinds(name) & names]
        related = [name for name in others if kinds(name) & shown]
        among = related if near and related else [name for name in others if name not in related]
        result.append(among[rng.integers(len(among))])
    return result


def presence_table(model: Peekaboo, chosen: list[Sample]) -> list[str]:
    present = [model.segment(s.image, s.prompt) for s in chosen]
    absent = [model.segment(s.image, name) for s, name in zip(chosen, absent_names(chosen, MEASURED), strict=True)]
    hard = absent_names(chosen, MEASURED, near=True)
    near = np.array([float(model.segment(s.image, name).score[0]) for s, name in zip(chosen, hard, strict=True)])
    there = np.array([float(r.score[0]) for r in present])
    gone = np.array([float(r.score[0]) for r in absent])
    passed, threshold = false_alarms(there, gone)
    lines = [
        f"| {len(chosen)} scenes, one present and one absent prompt each | |",
        "|---|---|",
        f"| AUROC of the score | {auroc(there, gone):.3f} |",
        f"| absent things that pass at 95 % recall | {100 * passed:.0f} % (score ≥ {threshold:.2f}) |",
        f"| the same of absent names that share a kind with something shown: AUROC | {auroc(there, near):.3f} |",
        f"| of those, pass at 95 % recall | {100 * false_alarms(there, near)[0]:.0f} % |",
        f"| found, of what is there, at the preset's threshold | {100 * np.mean([r.found[0] for r in present]):.0f} % |",
        f"| found, of what is not there (hallucinated) | {100 * np.mean([r.found[0] for r in absent]):.0f} % |",
        "",
        "| score | prompts | of them present |",
        "|---|---|---|",
    ]
    scores, truth = np.concatenate([there, gone]), np.repeat([1, 0], len(chosen))
    for low, high in pairwise(BINS):
        inside = (scores >= low) & ((scores < high) | (high == 1.0))
        share = f"{100 * truth[inside].mean():.0f} %" if inside.any() else "-"
        lines.append(f"| {low:.1f} to {high:.1f} | {inside.sum()} | {share} |")
    return lines


def calibration(model: Peekaboo, chosen: list[Sample]) -> tuple[float, float]:
    """(MIDDLE, SLOPE) of `presence.py`: a logistic regression of `presence.explained`, one present and one absent prompt a scene."""

    def explained(sample: Sample, prompt: str) -> float:
        run = model.start(sample.image, prompt)
        for _ in run:
            pass
        return float(presence.explained(run.scene, run.alphas(), run.settings)[0])

    asked = [(s, s.prompt) for s in chosen] + list(zip(chosen, absent_names(chosen, CALIBRATED, 12), strict=True))
    x, sign = np.array([explained(*one) for one in asked]), np.repeat([1, -1], len(chosen))
    fit = minimize(lambda curve: np.logaddexp(0, -sign * curve[1] * (x - curve[0])).sum(), (1.0, 1.0))
    return float(fit.x[0]), float(fit.x[1])


def twins_table(model: Peekaboo, count: int) -> list[str]:
    chosen = twins(count)
    lines = ["| two of a kind, “the left …” or “the right …” | right one | mIoU |", "|---|---|---|"]
    for title, settings in (
        ("places read off the prompt (default)", {}),
        ("left to the model's captions", {"places": False}),
    ):
        masks = [model.segment(s.image, s.prompt, presence=0.0, **settings).mask[0] for s in chosen]
        own = [iou(mask, s.masks[0]) for mask, s in zip(masks, chosen, strict=True)]
        other = [iou(mask, s.masks[1]) for mask, s in zip(masks, chosen, strict=True)]
        right = np.mean([a > b for a, b in zip(own, other, strict=True)])
        lines.append(f"| {title}, {count} scenes | {100 * right:.0f} % | {np.mean(own):.3f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=60, help="scenes asked for presence; 0 leaves it out")
    parser.add_argument("--twins", type=int, default=30, help="scenes with two of a kind; 0 leaves it out")
    parser.add_argument(
        "--calibrate", type=int, metavar="SCENES", help="fit the score on so many scenes, print, and leave"
    )
    options = parser.parse_args()
    model = Peekaboo.from_pretrained()
    if options.calibrate:
        middle, slope = calibration(model, samples(options.calibrate, seed=2028, half=CALIBRATED))
        print(f"MIDDLE, SLOPE = {middle:.2f}, {slope:.2f}")
        return
    lines: list[str] = []
    if options.samples:
        lines += [*presence_table(model, samples(options.samples, seed=2026, half=MEASURED)), ""]
        print("\n".join(lines), flush=True)
    if options.twins:
        lines += [*twins_table(model, options.twins), ""]
    lines.append(
        f"Bundled model, {os.cpu_count()} cores, {datetime.date.today()}. Scenes of two and three held-out objects, 256 px. "
        "The score was calibrated on the half of the names whose checksum is even, and is measured on the other."
    )
    print("\n".join(lines))
    TABLE.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
