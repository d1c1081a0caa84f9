"""COCO's instances: `coco`, any instances.json with polygons or run lengths, and what RefCOCO takes from there.

--root holds instances.json, annotations/instances_<split>2017.json (or 2014), or is such a file; the pictures are in images/,
<split>2017/, images/<split>2017/ …, or where --images says.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peekaboo.errors import DatasetError
from peekaboo.evaluation.datasets import Dataset, Sample, first_folder, gather, read_json, words
from peekaboo.evaluation.outlines import check_segmentation, segmentation_mask
from peekaboo.images import MAX_PIXELS

PROTOCOL = (
    "One sample for each picture and category in it: the prompt is the category's name, the truth the union of its instances, "
    "pixels of its crowds not counted; IoU per sample, mIoU the mean over samples."
)
PROTOCOL_ALONE = (
    "One sample for each instance that is alone in its category in its picture, no crowd: the prompt is the category's name; "
    "IoU per sample, mIoU the mean over samples."
)


@dataclass(frozen=True)
class Outlines:
    """Masks as COCO writes them. shapes: segmentations, whose union is the truth. ignored: others, whose pixels do not count."""

    shapes: tuple[Any, ...]
    size: tuple[int, int]
    ignored: tuple[Any, ...] = ()

    def load(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """See `Truth`."""
        mask = self.union(self.shapes)
        return mask[None], ~self.union(self.ignored) | mask

    def checked(self) -> Outlines:
        """Itself, if it can be loaded: so that what is malformed is told before any work. Raises DatasetError."""
        for shape in (*self.shapes, *self.ignored):
            check_segmentation(shape, *self.size)
        return self

    def union(self, shapes: Sequence[Any]) -> NDArray[np.bool_]:
        """(H, W) bool. Raises DatasetError."""
        mask = np.zeros(self.size, np.bool_)
        for shape in shapes:
            mask |= segmentation_mask(shape, *self.size)
        return mask

    def content(self) -> str:
        """See `Truth`."""
        return json.dumps([self.shapes, self.size, self.ignored])


class Instances:
    """An instances.json by its numbers: pictures, categories and annotations. Raises DatasetError where it is none."""

    def __init__(self, path: Path) -> None:
        self.path, data = path, read_json(path)
        parts = ("images", "categories", "annotations")
        if not isinstance(data, dict) or not all(isinstance(data.get(part), list) for part in parts):
            raise DatasetError(f"{path} is no file of COCO instances: it has no lists of {', '.join(parts)}.")
        self.images, self.categories, self.annotations = (numbered(data[part]) for part in parts)
        self.unnumbered = [
            (f"{path}, {part}[{index}]", record)
            for part in parts
            for index, record in enumerate(data[part])
            if not (isinstance(record, dict) and type(record.get("id")) is int)
        ]

    def picture(self, image_id: Any) -> tuple[str, tuple[int, int]]:
        """The file name and (height, width) of a picture. Raises DatasetError."""
        image = self.images.get(image_id)
        if image is None:
            raise DatasetError(f"there is no picture with the id {image_id!r}")
        name, height, width = image["file_name"], image["height"], image["width"]
        if not isinstance(name, str) or not name:
            raise DatasetError(f"the picture {image_id} has no file name")
        if type(height) is not int or type(width) is not int or not 0 < height * width <= MAX_PIXELS or height < 1:
            raise DatasetError(f"the picture {image_id} is said to be {width!r}×{height!r} pixels")
        return name, (height, width)

    def category(self, category_id: Any) -> str:
        """A category's name. Raises DatasetError."""
        if category_id not in self.categories:
            raise DatasetError(f"there is no category with the id {category_id!r}")
        return words(self.categories[category_id]["name"])

    def some_file(self) -> str:
        """A picture's file name, to look for the folder by. Raises DatasetError."""
        for image in self.images.values():
            if isinstance(image.get("file_name"), str):
                return str(image["file_name"])
        raise DatasetError(f"{self.path} names no picture.")


def numbered(records: list[Any]) -> dict[int, dict[str, Any]]:
    """Records by id, without those that have none."""
    return {r["id"]: r for r in records if isinstance(r, dict) and type(r.get("id")) is int}


def read(
    name: str,
    root: Path,
    split: str | None = None,
    images: Path | None = None,
    alone: bool = False,
    least_area: float = 0.0,
) -> Dataset:
    """Read any instances.json.

    split: "val" unless given; where there is one file only, it is that. images: the folder of the pictures, if it is unusual.
    alone: one sample for each instance alone in its category, instead of each category's union. least_area: the share of the
    picture, in [0, 1), that the truth must cover more than. Raises DatasetError.
    """
    if not 0 <= least_area < 1:
        raise DatasetError(f"--least-area is {least_area}; expected a share of the picture, at least 0 and below 1.")
    path, split = find(root, split)
    instances = Instances(path)
    folder = images or find_images(path.parent, instances.some_file(), split)
    groups: dict[tuple[Any, Any], list[tuple[int, Any]]] = defaultdict(list)
    for number, a in instances.annotations.items():
        groups[repr(a.get("image_id")), repr(a.get("category_id"))].append((number, a))
    by_picture = sorted(groups.values(), key=lambda group: str(group[0][1].get("image_id")).zfill(20))  # stable
    records = [
        (f"{path}, annotation {', '.join(str(n) for n, _ in group[:5])}", [a for _, a in group]) for group in by_picture
    ]

    def samples_of(group: list[Any]) -> Iterable[Sample]:
        return sample_of(instances, folder, group, alone, least_area)

    samples, problems = gather(records, samples_of)
    problems += [f"{where} was skipped: it has no number as its id." for where, _ in instances.unnumbered]
    protocol = PROTOCOL_ALONE if alone else PROTOCOL
    if least_area:
        protocol += f" Counted is what covers more than {100 * least_area:g} % of its picture."
    return Dataset(name, split, samples, problems, protocol, {"alone": alone, "least_area": least_area})


def sample_of(instances: Instances, folder: Path, group: list[Any], alone: bool, least_area: float) -> Iterable[Sample]:
    """The sample of one picture's annotations of one category, if it has one. Raises DatasetError."""
    image_id, category_id = group[0]["image_id"], group[0]["category_id"]
    file, size = instances.picture(image_id)
    prompt = instances.category(category_id)
    things = [a for a in group if not a.get("iscrowd")]
    if not things or (alone and len(group) > 1):
        return
    crowds = tuple(a["segmentation"] for a in group if a.get("iscrowd"))
    truth = Outlines(tuple(a["segmentation"] for a in things), size, crowds).checked()
    if not least_area or truth.load()[0].mean() > least_area:
        yield Sample(f"{image_id} {prompt}", folder / file, (prompt,), truth)


def find(root: Path, split: str | None) -> tuple[Path, str]:
    """The file of instances, and the split it is: "" where it does not say. Raises DatasetError."""
    if root.is_file():
        told = re.fullmatch(r"instances_(\w+?)(?:2014|2017)?\.json", root.name)
        return root, split or (told[1] if told else "")
    named = [
        root / inner / f"instances_{split or 'val'}{year}.json"
        for inner in ("annotations", "")
        for year in (2017, 2014, "")
    ]
    for path in named:
        if path.is_file():
            return path, split or "val"
    for path in (root / "instances.json", root / "annotations" / "instances.json"):
        if path.is_file() and split is None:
            return path, ""
    raise DatasetError(
        f"{root} holds no {'instances.json nor ' if split is None else ''}annotations/instances_{split or 'val'}2017.json; "
        "name a folder that does, or the file."
    )


def find_images(root: Path, file: str, split: str) -> Path:
    """The folder of the pictures, looked for by one of them, from the folder of the annotations. Raises DatasetError."""
    years = [f"{split}{year}" for year in (2017, 2014, "")] if split else []
    inner = ["images", *years, *(f"images/{year}" for year in years), ""]
    folder = first_folder([above / name for above in (root, root.parent) for name in inner], file)
    if folder is None:
        raise DatasetError(
            f"The picture {file} is in none of the usual folders around {root}; say where with --images."
        )
    return folder
