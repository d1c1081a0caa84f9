"""The figures that others published, to stand beside ours. They are of other scripts, models and machines: see `CAVEAT`."""

from __future__ import annotations

from dataclasses import dataclass

CAVEAT = (
    "Figures by different scripts are not comparable to the last digit: protocols, models and pictures differ. Those of others "
    "are quoted from the sources named, not measured here."
)
COLUMNS = ("P@.2", "P@.4", "P@.6", "P@.8", "mIoU", "oIoU")


@dataclass(frozen=True)
class Published:
    """A row of someone's table. values: the figures in [0, 1] by column; what was not published is missing."""

    method: str
    source: str
    values: dict[str, float]


def _paper(method: str, *values: float) -> Published:
    return Published(method, "arXiv 2211.13224", dict(zip(COLUMNS, values, strict=False)))


VOC_C = (
    _paper("Random (whole image)", 0.670, 0.198, 0.052, 0.012, 0.281),
    Published(
        "Clippy",
        "arXiv 2211.13224, whose text says .539 for mIoU",
        {"P@.2": 0.787, "P@.4": 0.459, "P@.6": 0.263, "P@.8": 0.049, "mIoU": 0.339},
    ),
    _paper("GroupViT", 0.862, 0.778, 0.602, 0.205, 0.578),
    _paper("LSeg", 0.952, 0.897, 0.758, 0.311, 0.678),
    _paper("Raster", 0.756, 0.523, 0.103, 0.012, 0.340),
    _paper("CLIP", 0.918, 0.488, 0.093, 0.023, 0.430),
    _paper("Fourier", 0.862, 0.598, 0.231, 0.084, 0.454),
    _paper("Bilateral Fourier", 0.845, 0.608, 0.281, 0.123, 0.470),
    _paper("Depth Bilateral", 0.929, 0.707, 0.455, 0.187, 0.551),
    _paper("RGB Bilateral", 0.892, 0.709, 0.331, 0.130, 0.520),
)
REFCOCO = (
    _paper("Random (whole image)", 0.141, 0.022, 0.003, 0.000, 0.102),
    _paper("GroupViT", 0.212, 0.075, 0.020, 0.002, 0.124),
    _paper("LSeg", 0.312, 0.213, 0.051, 0.008, 0.235),
    _paper("Depth Bilateral", 0.359, 0.135, 0.037, 0.003, 0.210),
    _paper("RGB Bilateral", 0.318, 0.099, 0.018, 0.002, 0.163),
    Published("Ref-Diff", "val, zero-shot", {"mIoU": 0.372, "oIoU": 0.352}),
    Published("HybridGL", "val, zero-shot, unverified", {"mIoU": 0.495, "oIoU": 0.418}),
    Published("Attention of image editing", "arXiv 2605.13122, val, zero-shot", {"mIoU": 0.576}),
)


def _voc(method: str, value: float, note: str = "") -> Published:
    return Published(method, f"val, training-free, 21 classes{note}", {"mIoU 21": value})


VOC = (
    _voc("OVDiff", 0.674),
    _voc("DiffSegmenter", 0.601),
    _voc("FreeSeg-Diff", 0.533),
    _voc("NERVE", 0.697),
    _voc("T2S, with SAM", 0.742),
    _voc("DiffCut", 0.630),
    _voc("iSeg", 0.682, ", unverified"),
)
TABLES: dict[str, tuple[Published, ...]] = {"voc-c": VOC_C, "refcoco": REFCOCO, "voc": VOC}
"""By benchmark; there is nothing to quote for the others."""
