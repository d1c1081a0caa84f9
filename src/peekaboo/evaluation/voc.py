"""Pascal VOC 2012: `voc-c`, its crops of single objects as in arXiv 2211.13224, and `voc`, semantic segmentation.

--root may be VOC2012 itself, VOCdevkit, or a folder that holds VOCdevkit, as it is or in VOCtrainval_11-May-2012 or TrainVal.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from peekaboo.errors import DatasetError, first_line
from peekaboo.evaluation.datasets import Box, Dataset, Sample, first_folder, gather, open_mask, read_lines
from peekaboo.files import sha256

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""In VOC's order: the n-th has the value n + 1 in SegmentationClass; 0 is the background."""
IGNORED = 255
LONGEST_SIDE, MARGIN = 128, 10
SPLITS = ("train", "val", "trainval")

PROTOCOL_C = (
    "VOC-C (arXiv 2211.13224): pictures with exactly one object, whose box is more than 128 px wide or high, listed in "
    "ImageSets/Segmentation, cropped to the box and 10 px around. One sample a picture; the prompt is the class name as VOC "
    "spells it; IoU per sample, pixels labelled 255 not counted; mIoU is the mean over samples. The paper counts 342 pictures."
)
PROTOCOL = (
    "Dataset-level IoU of each class, sum of intersections over sum of unions over all pictures, pixels labelled 255 not counted. "
    "Each pixel goes to the prompt with the greatest alpha, or to the background where none is above the threshold. "
    "The mean is given over 20 classes and over 21 with the background. Prec@k, and mIoU over samples, take each picture's mean "
    "over the classes in it. Prompts: {}."
)
PROMPTS = {
    "all": "all 20 class names, for every picture",
    "present": "the classes in the picture, which are given away",
}


def read(name: str, root: Path, split: str | None = None, prompts: str = "all") -> Dataset:
    """Read `voc-c` or `voc`.

    split: "train", "val" or "trainval"; for voc-c, unless given, trainval, that is whatever is listed; for voc, val.
    prompts, for voc: "all", the 20 class names compete in every picture, or "present", only those that are there.
    Raises DatasetError.
    """
    split = split or ("trainval" if name == "voc-c" else "val")
    if prompts not in PROMPTS:
        raise DatasetError(f"--prompts {prompts} is unknown; say {' or '.join(PROMPTS)}.")
    home = find(root)
    ids = read_lines(list_file(home, split))
    records = [
        (f"{home / 'Annotations' / (i + '.xml')}" if name == "voc-c" else f"{label_path(home, i)}", i) for i in ids
    ]
    if name == "voc-c":
        samples, problems = gather(records, lambda i: crops(home, i))
        return Dataset(name, split, samples, problems, PROTOCOL_C)
    samples, problems = gather(records, lambda i: [labelled(home, i, prompts)])
    protocol = PROTOCOL.format(PROMPTS[prompts])
    return Dataset(name, split, samples, problems, protocol, {"prompts": prompts}, ("background", *CLASSES))


def find(root: Path) -> Path:
    """VOC2012 in or under root. Raises DatasetError."""
    nested = ("", "VOC2012", "VOCdevkit/VOC2012")
    parents = ("", "VOCtrainval_11-May-2012", "TrainVal")
    home = first_folder([root / parent / inner for parent in parents for inner in nested], "ImageSets/Segmentation")
    if home is None:
        raise DatasetError(
            f"{root} holds no Pascal VOC 2012; expected VOCdevkit/VOC2012 with JPEGImages, Annotations, "
            "ImageSets/Segmentation, SegmentationClass."
        )
    return home


def list_file(home: Path, split: str) -> Path:
    """The list of a split's pictures. Raises DatasetError."""
    path = home / "ImageSets" / "Segmentation" / f"{split}.txt"
    if split not in SPLITS or not path.is_file():
        there = [s for s in SPLITS if path.with_name(f"{s}.txt").is_file()]
        raise DatasetError(f"VOC has no split {split!r} in {path.parent}; there are {', '.join(there) or 'none'}.")
    return path


def image_path(home: Path, key: str) -> Path:
    """The picture of an id."""
    return home / "JPEGImages" / f"{key}.jpg"


def label_path(home: Path, key: str) -> Path:
    """The class labels of an id's pixels."""
    return home / "SegmentationClass" / f"{key}.png"


@dataclass(frozen=True)
class LabelMap:
    """The pixels of some classes in a file of labels, one value a class, 255 for "not said". values: of each prompt's class."""

    path: Path
    values: tuple[int, ...]

    def load(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """See `Truth`."""
        labels = read_labels(self.path)
        return labels[None] == np.array(self.values, np.uint8)[:, None, None], labels != IGNORED

    def content(self) -> str:
        """See `Truth`."""
        return f"{self.path.name} {self.values} {sha256(self.path)}"


def read_labels(path: Path) -> NDArray[np.uint8]:
    """Labels (H, W) uint8: 0 to 20, or 255. Raises DatasetError."""
    image = open_mask(path)
    if image.mode not in ("P", "L"):
        raise DatasetError(
            f"{path} is in the mode {image.mode}; labels are palette or grey values (not their colours)."
        )
    labels = np.asarray(image)
    strange = np.setdiff1d(np.unique(labels), [*range(len(CLASSES) + 1), IGNORED])
    if strange.size:
        raise DatasetError(f"{path} holds the label {strange[0]}; labels are 0 to {len(CLASSES)}, and {IGNORED}.")
    return labels


def labelled(home: Path, key: str, prompts: str) -> Sample:
    """The sample of a picture whose every pixel is labelled. Raises DatasetError."""
    names: tuple[str, ...] = CLASSES
    if prompts == "present":
        present = set(np.unique(read_labels(label_path(home, key))).tolist())
        names = tuple(name for value, name in enumerate(CLASSES, 1) if value in present)
        if not names:
            raise DatasetError("it has no pixel of any class")
    values = tuple(CLASSES.index(name) + 1 for name in names)
    return Sample(key, image_path(home, key), names, LabelMap(label_path(home, key), values), per_class=True)


def crops(home: Path, key: str) -> Iterable[Sample]:
    """The sample of a picture if it has exactly one object and that is large. Raises DatasetError."""
    path = home / "Annotations" / f"{key}.xml"
    try:
        annotation = ET.parse(path).getroot()
    except (OSError, ET.ParseError) as error:
        raise DatasetError(f"it cannot be read ({first_line(error)})") from error
    objects = annotation.findall("object")
    if len(objects) != 1:
        return
    name = text(objects[0], "name")
    if name not in CLASSES:
        raise DatasetError(f"its object is a {name!r}, none of the 20 classes")
    left, top, right, bottom = (
        round(float(text(objects[0], f"bndbox/{side}"))) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    if not (0 < left <= right and 0 < top <= bottom):
        raise DatasetError(f"its box is {left}, {top}, {right}, {bottom}, not xmin, ymin, xmax, ymax from 1 on")
    if max(right - left, bottom - top) <= LONGEST_SIDE:
        return
    size = (int(text(annotation, "size/width")), int(text(annotation, "size/height")))
    if left > size[0] or top > size[1]:
        raise DatasetError(f"its box lies outside the picture of {size[0]}×{size[1]} pixels")
    truth = LabelMap(label_path(home, key), (CLASSES.index(name) + 1,))
    yield Sample(key, image_path(home, key), (name,), truth, padded((left, top, right, bottom), size))


def text(element: ET.Element, path: str) -> str:
    """What an element of the annotation says. Raises DatasetError where it is not there."""
    found = element.findtext(path)
    if found is None or not found.strip():
        raise DatasetError(f"it lacks <{path}>")
    return found.strip()


def padded(box: Box, size: tuple[int, int]) -> Box:
    """VOC's box, xmin, ymin, xmax, ymax counted from 1 and inclusive, with the margin, inside the picture of (width, height)."""
    left, top, right, bottom = box
    return (
        max(0, left - 1 - MARGIN),
        max(0, top - 1 - MARGIN),
        min(size[0], right + MARGIN),
        min(size[1], bottom + MARGIN),
    )
