"""The whole picture as the mask: what any segmenter must beat. The paper's tables call it "Random" (arXiv
2211.13224)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peekaboo.evaluation.baselines._shared import Baseline


class WholeImage(Baseline):
    """Alpha 1 everywhere, for every prompt."""

    def alpha(self, rgb: NDArray[np.uint8], prompts: list[str]) -> Tensor:
        """See `Baseline`."""
        return torch.ones(len(prompts), *rgb.shape[:2])


def load(model: str | Path | None, device: str | None, dtype: str | None) -> WholeImage:
    """There is nothing to load."""
    return WholeImage()
