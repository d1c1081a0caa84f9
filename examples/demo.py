"""The main job on real pictures with the bundled model: `make demo`, or `python examples/demo.py [--sheet FILE.jpg]`.

Segments every picture of this folder with the prompts in `prompts.json`, all prompts of a picture in one joint run.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from PIL import Image

from peekaboo import Peekaboo

HERE = Path(__file__).parent
OUT = HERE / "out"


def sheet(rows: list[list[Path]], path: Path, cell: tuple[int, int] = (480, 320)) -> None:
    """All pictures on one page: a row each, the picture and then an overlay for every prompt."""
    page = Image.new("RGB", (cell[0] * max(map(len, rows)), cell[1] * len(rows)), "white")
    for y, files in enumerate(rows):
        for x, file in enumerate(files):
            image = Image.open(file)
            image.thumbnail((cell[0] - 10, cell[1] - 10))
            page.paste(image, (x * cell[0], y * cell[1]))
    page.save(path, quality=85)
    print(f"\n{path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sheet", type=Path, help="also write all pictures and overlays on one page")
    options = parser.parse_args()
    rows = []
    start = time.perf_counter()
    model = Peekaboo.from_pretrained()
    device = model.denoiser.device
    print(f"device: {device} ({model.denoiser.name} model, loaded in {time.perf_counter() - start:.1f} s)")
    for name, prompts in json.loads((HERE / "prompts.json").read_text()).items():
        result = model.segment(HERE / name, prompts)
        folder = OUT / Path(name).stem
        record = result.save(folder)
        rows.append([HERE / name, *(folder / row["files"]["overlay"] for row in record["results"])])
        print(f"\n{name}: {record['seconds']:.1f} s on {device}")
        for row in record["results"]:
            verdict = f"{100 * row['area']:.0f} % of the picture" if row["found"] else "not found"
            print(f"  {row['prompt']}: {verdict} (score {row['score']:.2f})")
            for kind in ("mask", "cutout", "overlay"):
                print(f"    {kind:8} {folder / row['files'][kind]}")
    if options.sheet:
        sheet(rows, options.sheet)


if __name__ == "__main__":
    main()
