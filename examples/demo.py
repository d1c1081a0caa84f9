"""The main job on real pictures with the bundled model: `make demo`, or `python examples/demo.py`.

Segments every picture of this folder with the prompts in `prompts.json`, all prompts of a picture in one joint run.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from peekaboo import Peekaboo

HERE = Path(__file__).parent
OUT = HERE / "out"


def main() -> None:
    start = time.perf_counter()
    model = Peekaboo.from_pretrained()
    device = model.denoiser.device
    print(f"device: {device} ({model.denoiser.name} model, loaded in {time.perf_counter() - start:.1f} s)")
    for name, prompts in json.loads((HERE / "prompts.json").read_text()).items():
        result = model.segment(HERE / name, prompts)
        folder = OUT / Path(name).stem
        record = result.save(folder)
        print(f"\n{name}: {record['seconds']:.1f} s on {device}")
        for row in record["results"]:
            verdict = f"{100 * row['area']:.0f} % of the picture" if row["found"] else "not found"
            print(f"  {row['prompt']}: {verdict} (score {row['score']:.2f})")
            for kind in ("mask", "cutout", "overlay"):
                print(f"    {kind:8} {folder / row['files'][kind]}")


if __name__ == "__main__":
    main()
