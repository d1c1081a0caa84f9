"""The field's figures. The formula stands with each, since figures by different scripts are not comparable."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def iou(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Intersection over union of two (H, W) masks, in [0, 1]; 0 where both are empty."""
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else 0.0


def precisions(scores: NDArray[Any], at: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)) -> dict[float, float]:
    """Prec@k: the share of samples with IoU ≥ k, for each k."""
    return {k: float((scores >= k).mean()) for k in at}
