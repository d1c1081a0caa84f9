"""The field's figures. The formula stands with each, since figures by different scripts are not comparable."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peekaboo.errors import MissingExtraError

THRESHOLDS = (0.2, 0.4, 0.6, 0.8)
"""The k of Prec@k in the paper's tables."""
TOLERANCE = 0.008
"""How far off a boundary pixel may lie, as a share of the picture's diagonal: DAVIS's."""


def overlap(mask: NDArray[np.bool_], truth: NDArray[np.bool_], valid: NDArray[np.bool_] | None = None) -> Overlap:
    """What two (H, W) masks share. valid: (H, W), False where a pixel does not count; None where all do."""
    if valid is not None:
        mask, truth = mask & valid, truth & valid
    return Overlap(int((mask & truth).sum()), int(mask.sum()), int(truth.sum()))


@dataclass(frozen=True)
class Overlap:
    """Pixel counts, 0 or more: in both masks, in the predicted one, in the true one. Overlaps of a whole set add up."""

    shared: int = 0
    predicted: int = 0
    true: int = 0

    @property
    def union(self) -> int:
        """|A ∪ B| = |A| + |B| − |A ∩ B|, summed over whatever was added."""
        return self.predicted + self.true - self.shared

    @property
    def iou(self) -> float:
        """Intersection over union, in [0, 1]; 0 where the union is empty."""
        return self.shared / self.union if self.union else 0.0

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(self.shared + other.shared, self.predicted + other.predicted, self.true + other.true)


def iou(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Intersection over union of two (H, W) masks, in [0, 1]; 0 where both are empty."""
    return overlap(mask, truth).iou


def precisions(scores: NDArray[Any], at: tuple[float, ...] = THRESHOLDS) -> dict[float, float]:
    """Prec@k: the share of samples with IoU ≥ k, for each k."""
    return {k: float((scores >= k).mean()) for k in at}


@dataclass(frozen=True)
class Figures:
    """The figures of a set of samples, each in [0, 1].

    count: how many samples. precision: Prec@k by k. mean_iou: mIoU, the mean of the samples' IoU.
    overall_iou: oIoU = Σ|A ∩ B| / Σ|A ∪ B| over the samples, in which large things weigh more.
    """

    count: int
    precision: dict[float, float]
    mean_iou: float
    overall_iou: float

    def as_dict(self) -> dict[str, float]:
        """Plain data: count, P@.2 …, mIoU, oIoU."""
        precision = {f"P@{k:g}".replace("0.", "."): value for k, value in self.precision.items()}
        return {"count": self.count, **precision, "mIoU": self.mean_iou, "oIoU": self.overall_iou}


def figures(ious: Iterable[float], intersections: Iterable[int], unions: Iterable[int]) -> Figures:
    """The figures of samples' IoU in [0, 1] and their pixel counts. No samples at all give zeros."""
    scores = np.array(list(ious), np.float64)
    if not scores.size:
        return Figures(0, dict.fromkeys(THRESHOLDS, 0.0), 0.0, 0.0)
    union = sum(unions)
    return Figures(len(scores), precisions(scores), float(scores.mean()), sum(intersections) / union if union else 0.0)


def class_ious(images: Iterable[Mapping[str, Overlap]], names: Iterable[str]) -> dict[str, float | None]:
    r"""Dataset-level IoU of each class, :math:`Σ_i|A_i ∩ B_i| / Σ_i|A_i ∪ B_i|` over the images i, in [0, 1].

    images: for each image, the overlap of each class's predicted and true pixels. None for a class with no pixel of either.
    """
    totals = {name: Overlap() for name in names}
    for image in images:
        for name, counts in image.items():
            totals[name] = totals[name] + counts
    return {name: total.iou if total.union else None for name, total in totals.items()}


def mean_class_iou(ious: Mapping[str, float | None], names: Iterable[str]) -> float:
    """The mean over the named classes, of those that occur; 0 where none does."""
    values = [value for name in names if (value := ious.get(name)) is not None]
    return sum(values) / len(values) if values else 0.0


def auroc(present: NDArray[Any], absent: NDArray[Any]) -> float:
    """The area under the ROC curve, in [0, 1]: how often the score of something present is above that of something absent, ties
    counting half (the Mann-Whitney statistic). present, absent: (N,) and (M,) scores, neither empty."""
    above = present[:, None] > absent[None]
    equal = present[:, None] == absent[None]
    return float(above.mean() + equal.mean() / 2)


def false_alarms(present: NDArray[Any], absent: NDArray[Any], recall: float = 0.95) -> tuple[float, float]:
    """The share of absent things that pass the highest threshold which at least `recall` of the present ones pass (score ≥ threshold),
    and that threshold."""
    order = np.sort(present)[::-1]
    threshold = order[int(np.ceil(recall * len(order))) - 1]
    return float((absent >= threshold).mean()), float(threshold)


def boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The boundary pixels of an (H, W) mask: those that differ from the pixel to the right, below, or to the lower right. The
    picture's own frame is no boundary."""
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def boundary_f(mask: NDArray[np.bool_], truth: NDArray[np.bool_], tolerance: float = TOLERANCE) -> float:
    r"""The contour measure F of two (H, W) masks, in [0, 1] (Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for
    Video Object Segmentation", CVPR 2016; after Martin et al., PAMI 2004).

    :math:`F = 2PR / (P + R)`, where P is the share of the mask's boundary pixels that have one of the true boundary within
    :math:`⌈t · diagonal⌉` pixels (Euclidean), and R the same the other way round; as in DAVIS's code for it, pixels are
    matched by dilation, not one to one. 1 where neither mask has a boundary, 0 where one alone has.

    tolerance: t. Raises MissingExtraError without SciPy.
    """
    try:
        from scipy.ndimage import distance_transform_edt
    except ImportError:
        raise MissingExtraError(
            "The boundary measure needs SciPy; install it with `pip install 'peekaboo-segmentation[training]'`."
        ) from None
    ours, true = boundary(mask), boundary(truth)
    if not ours.any() or not true.any():
        return float(ours.any() == true.any())
    reach = math.ceil(tolerance * math.hypot(*mask.shape))
    precision = (distance_transform_edt(~true)[ours] <= reach).mean()
    recall = (distance_transform_edt(~ours)[true] <= reach).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def sad(alpha: NDArray[Any], truth: NDArray[Any]) -> float:
    """Matting's sum of absolute differences Σ|α − α*| of two (H, W) alphas in [0, 1], in thousands of pixels, over the whole
    picture (Rhemann et al., "A Perceptually Motivated Online Benchmark for Image Matting", CVPR 2009)."""
    return float(np.abs(np.asarray(alpha, np.float64) - truth).sum() / 1000)


def mse(alpha: NDArray[Any], truth: NDArray[Any]) -> float:
    """Matting's mean squared error, the mean of (α − α*)² over the whole picture, of two (H, W) alphas in [0, 1]."""
    return float(np.square(np.asarray(alpha, np.float64) - truth).mean())
