"""How time and memory grow: `make bench-growth`. Writes benchmarks/growth.md and docs/growth.png.

    python benchmarks/growth.py [--prompts 1 2 4 8 16] [--megapixels 0.1 1 4 12 24] [--images 1 4 16 64]

Every point is a `peekaboo segment` in a process of its own, all files written: model loading, segmentation and saving. Seconds are
those of the pictures, without the start of the process and the loading; memory is the peak of the whole process
(`getrusage`'s ru_maxrss). One series varies and the others stand still: 1 prompt, 1 picture, 1 megapixel (.1 for the pictures).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
TABLE, PLOT = Path(__file__).parent / "growth.md", ROOT / "docs" / "growth.png"
PROMPTS = (
    *("a sheep", "a red apple", "a car", "a tree", "a house", "a dog", "a boat", "a flower", "a cat", "a bird"),
    *("a fish", "a chair", "a clock", "a bottle", "a hat", "a book"),
)
CHILD = """
import json, resource, sys, time
from peekaboo import Peekaboo
from peekaboo.cli import app
clock = {}
start = Peekaboo.start
def first(*args, **options):
    clock.setdefault("start", time.perf_counter())
    return start(*args, **options)
Peekaboo.start = first
try:
    app(sys.argv[1:])
except SystemExit as leaving:
    if leaving.code:
        raise
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
print(json.dumps({"seconds": time.perf_counter() - clock["start"], "peak": peak}))
"""


@dataclass(frozen=True)
class Point:
    """One measurement: seconds of all pictures, and the process's peak memory in GiB."""

    size: float
    seconds: float
    peak: float


def make_pictures(folder: Path, count: int, megapixels: float) -> list[str]:
    """Photograph-like JPEGs, 3:2, made of an example picture enlarged and grain."""
    width = round((megapixels * 1e6 * 1.5) ** 0.5)
    with Image.open(ROOT / "examples" / "meadow.jpg") as opened:
        large = opened.convert("RGB").resize((width, round(width / 1.5)), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(0).integers(0, 8, (large.height, large.width, 1), np.uint8)
    picture = Image.fromarray(np.clip(np.asarray(large), 0, 247) + grain)
    paths = [folder / f"{index}.jpg" for index in range(count)]
    for path in paths:
        picture.save(path, quality=92)
    return [str(path) for path in paths]


def measure(size: float, prompts: int, megapixels: float, images: int, more: list[str]) -> Point:
    """One `peekaboo segment` in a fresh process."""
    with tempfile.TemporaryDirectory() as name:
        paths = make_pictures(Path(name), images, megapixels)
        asked = [part for prompt in PROMPTS[:prompts] for part in ("-p", prompt)]
        command = [sys.executable, "-c", CHILD, "segment", *paths, *asked, "-o", f"{name}/out", "--quiet", *more]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    values = json.loads(done.stdout.splitlines()[-1])
    return Point(size, values["seconds"], values["peak"])


def table(title: str, points: list[Point]) -> list[str]:
    """A series as Markdown, with ratios to its first point."""
    lines = [f"| {title} | seconds | × the first | s / {title} | peak memory, GiB |", "|---|---|---|---|---|"]
    for p in points:
        ratio = p.seconds / points[0].seconds
        lines.append(f"| {p.size:g} | {p.seconds:.2f} | {ratio:.2f} | {p.seconds / p.size:.2f} | {p.peak:.2f} |")
    return [*lines, ""]


def draw(series: dict[str, list[Point]], path: Path) -> None:
    """Time above, memory below, a column a series."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    figure, axes = plt.subplots(2, len(series), figsize=(11, 5.5), squeeze=False, layout="constrained")
    for column, (title, points) in enumerate(series.items()):
        sizes = [p.size for p in points]
        top, bottom = axes[:, column]
        top.loglog(sizes, [p.seconds for p in points], "o-", label="measured")
        top.loglog(sizes, [points[0].seconds * s / sizes[0] for s in sizes], ":", color="grey", label="linear")
        top.set_ylabel("seconds")
        top.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        top.yaxis.set_major_formatter("{x:g}")
        top.legend()
        bottom.semilogx(sizes, [p.peak for p in points], "o-")
        bottom.set_ylim(0, 1.15 * max(p.peak for p in points))
        bottom.set_ylabel("peak memory, GiB")
        for axis in (top, bottom):
            axis.set_xticks(sizes, [f"{s:g}" for s in sizes])
            axis.minorticks_off()
            axis.set_xlabel(title)
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="*", default=[1, 2, 4, 8, 16])
    parser.add_argument("--megapixels", type=float, nargs="*", default=[0.1, 1, 4, 12, 24])
    parser.add_argument("--images", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--preset", default="default")
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--plot", type=Path, default=PLOT)
    options = parser.parse_args()
    more = ["--preset", options.preset]
    asked = {
        "prompts": [(n, n, 1.0, 1) for n in options.prompts],
        "megapixels": [(n, 1, n, 1) for n in options.megapixels],
        "pictures": [(n, 1, 0.1, n) for n in options.images],
    }
    series: dict[str, list[Point]] = {}
    lines: list[str] = []
    measure(1, 1, 1.0, 1, more)  # the first process of all reads everything from the disk
    for title, points in asked.items():
        if not points:
            continue
        series[title] = []
        for point in points:
            series[title].append(measure(*point, more))
            print(title, series[title][-1], flush=True)
        lines += table(title, series[title])
    note = (
        "Each row is a `peekaboo segment` in a process of its own, files written: 1 prompt, 1 picture of 1 megapixel (.1 for the "
        f"pictures) but for what varies. Preset `{options.preset}`, bundled model; memory is that of the whole process, "
        f"PyTorch included. {platform.machine()} with {os.cpu_count()} cores, {datetime.date.today()}."
    )
    options.out.write_text("\n".join([*lines, note, ""]))
    draw(series, options.plot)
    print(note, options.out, options.plot, sep="\n")


if __name__ == "__main__":
    main()
