"""How far real photographs are: `make bench-photographs`. Writes benchmarks/photographs.md.

    python benchmarks/photographs.py --root FOLDER [--model NAME]

FOLDER holds COCO photographs: `images/` and an `instances.json` with polygons. Counted are the instances that are alone in
their class in their picture and cover more than a twentieth of it; the prompt is the class name. Nothing was trained on them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from peekaboo import Peekaboo
from peekaboo.evaluation import iou, precisions
from peekaboo.pipeline import vocabulary_of

TABLE = Path(__file__).parent / "photographs.md"
LEAST_AREA = 0.05


@dataclass(frozen=True)
class Instance:
    """One object of a photograph: the file, its class name and its mask (H, W) bool."""

    path: Path
    name: str
    mask: np.ndarray


def instances(root: Path) -> list[Instance]:
    """The instances that count, in the order of the file. Crowds and run-length masks are left out."""
    data = json.loads((root / "instances.json").read_text())
    images = {image["id"]: image for image in data["images"]}
    classes = {category["id"]: category["name"] for category in data["categories"]}
    alike = Counter((a["image_id"], a["category_id"]) for a in data["annotations"])
    found = []
    for a in data["annotations"]:
        image = images[a["image_id"]]
        if alike[a["image_id"], a["category_id"]] > 1 or a.get("iscrowd") or not isinstance(a["segmentation"], list):
            continue
        canvas = Image.new("1", (image["width"], image["height"]))
        for polygon in a["segmentation"]:
            ImageDraw.Draw(canvas).polygon(polygon, fill=1)
        mask = np.asarray(canvas)
        if mask.mean() > LEAST_AREA:
            found.append(Instance(root / "images" / image["file_name"], classes[a["category_id"]], mask))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args()
    if not (options.root / "instances.json").is_file():
        raise SystemExit(f"There is no instances.json in {options.root}; name a folder with COCO photographs.")
    model, found = Peekaboo.from_pretrained(options.model), instances(options.root)
    vocabulary = vocabulary_of(model.denoiser.name)
    known = np.array([not (vocabulary and vocabulary.unknown(item.name)) for item in found])
    masks = [model.segment(item.path, item.name, presence=0.0).mask[0] for item in found]
    scores = np.array([iou(mask, item.mask) for mask, item in zip(masks, found, strict=True)])
    whole = np.array([item.mask.mean() for item in found])
    lines = ["| instances | method | P@.2 | P@.4 | P@.6 | P@.8 | mIoU |", "|---|---|---|---|---|---|---|"]
    for title, chosen in ((f"all {len(found)}", known | True), (f"{known.sum()} of known names", known)):
        for method, values in (("whole image", whole[chosen]), ("default", scores[chosen])):
            cells = " | ".join(f"{value:.3f}" for value in [*precisions(values).values(), values.mean()])
            lines.append(f"| {title} | {method} | {cells} |")
    lines += [
        "",
        f"COCO photographs of {options.root.name}: instances alone in their class and over {100 * LEAST_AREA:.0f} % of the "
        f"picture. {options.model} model, preset `default`, {platform.machine()} with {os.cpu_count()} cores, "
        f"{datetime.date.today()}.",
        "",
    ]
    options.out.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
