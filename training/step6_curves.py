"""Step 6: losses and conditioning gap against scenes seen, as a picture for the model card.

python step6_curves.py [--out ../docs/training-curves.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

from common import Run, read_log

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PANELS = (  # step, figure, title
    ("vae", "l1", "VAE: L1 (pictures in [-1, 1])"),
    ("denoiser", "loss", "denoiser: loss"),
    ("denoiser", "loss_600", "denoiser: ε loss, t = 600"),
    ("denoiser", "gap", "conditioning gap, ε, t = 600"),
    ("clip", "loss", "dual encoder: loss"),
)


def curve(name: str, key: str) -> tuple[list[float], list[float]]:
    """Thousands of scenes and a figure of the log's last run; where it was resumed from an earlier checkpoint, the later rows count."""
    log = read_log(Run(name, 0).log_file)
    begun = max((i for i, row in enumerate(log) if row["step"] <= log[0]["step"]), default=0)
    rows = {row["scenes"]: row[key] for row in log[begun:]}
    scenes = sorted(rows)
    return [n / 1000 for n in scenes], [rows[n] for n in scenes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "training-curves.png")
    out = parser.parse_args().out
    curves = [(title, *curve(name, key)) for name, key, title in PANELS]
    curves = [(title, x, y) for title, x, y in curves if x]  # steps that ran on this machine
    figure, axes = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3.2), constrained_layout=True, squeeze=False)
    for axis, (title, x, y) in zip(axes[0], curves, strict=True):
        axis.plot(x, y, linewidth=1)
        axis.set(title=title, xlabel="thousand scenes")
        axis.grid(alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    print(out)


if __name__ == "__main__":
    main()
