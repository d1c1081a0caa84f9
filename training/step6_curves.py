"""Step 6: loss and conditioning gap against scenes seen, as a picture for the model card.

python step6_curves.py [--out ../docs/training-curves.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

from common import Run, read_log

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "training-curves.png")
    out = parser.parse_args().out
    vae, denoiser = (read_log(Run(name, 0).log_file) for name in ("vae", "denoiser"))
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), constrained_layout=True)
    for axis, rows, key, title in (
        (axes[0], vae, "l1", "VAE: L1 (pictures in [-1, 1])"),
        (axes[1], denoiser, "loss", "denoiser: loss"),
        (axes[2], denoiser, "gap", "conditioning gap, ε, t = 600"),
    ):
        axis.plot([row["scenes"] / 1000 for row in rows], [row[key] for row in rows], linewidth=1)
        axis.set(title=title, xlabel="thousand scenes")
        axis.grid(alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    print(out)


if __name__ == "__main__":
    main()
