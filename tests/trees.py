"""Miniature VOC, RefCOCO, COCO and own data sets, in the layouts of the real ones, and a segmenter that can do them."""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from peekaboo.evaluation.voc import CLASSES

COLOURS = {name: (12 * n, 250 - 12 * n, 40 + (80 * n) % 200) for n, name in enumerate(CLASSES, 1)}
COLOURS |= {"red": (230, 10, 10), "green": (10, 230, 10), "blue": (10, 10, 230)}
GREY = (128, 128, 128)
SECOND = (40, 20, 48, 30)
"""Where `coco` has another red thing."""


class Painter:
    """A segmenter for pictures of flat colours: a prompt's last word names its colour. Counts its calls."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, image: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        self.asked.append(tuple(prompts))
        colours = np.array([COLOURS[prompt.split()[-1]] for prompt in prompts], np.float32)
        distance = np.abs(image[None].astype(np.float32) - colours[:, None, None]).max(axis=3)
        return (1 - distance / 40).clip(0, 1).astype(np.float32)


def paint(path: Path, size: tuple[int, int], boxes: dict[str, tuple[int, int, int, int]]) -> Path:
    """A grey picture (height, width) with a box (left, top, right, bottom) in the colour of each name."""
    canvas = np.full((*size, 3), GREY, np.uint8)
    for name, (left, top, right, bottom) in boxes.items():
        canvas[top:bottom, left:right] = COLOURS[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(canvas).save(path, quality=100, subsampling=0)
    return path


def annotation(size: tuple[int, int], objects: Sequence[tuple[str, tuple[int, int, int, int]]]) -> str:
    """VOC's XML; boxes as numpy slices them, written as VOC does: from 1, inclusive."""
    parts = [
        f"<object><name>{name}</name><bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for name, (left, top, right, bottom) in objects
    ]
    whole = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>{''.join(parts)}"
    return f"<annotation>{whole}</annotation>"


class Voc:
    """VOCdevkit/VOC2012 in a folder. `home` is VOC2012."""

    def __init__(self, root: Path) -> None:
        self.home = root / "VOCdevkit" / "VOC2012"
        for part in ("JPEGImages", "Annotations", "ImageSets/Segmentation", "SegmentationClass", "SegmentationObject"):
            (self.home / part).mkdir(parents=True)
        self.ids: dict[str, list[str]] = {"train": [], "val": []}

    def add(
        self,
        key: str,
        boxes: dict[str, tuple[int, int, int, int]],
        size: tuple[int, int] = (200, 180),
        split: str = "val",
        border: int = 0,
        paint_only: dict[str, tuple[int, int, int, int]] | None = None,
    ) -> None:
        """A picture with boxes; border: how many pixels inside each box are labelled 255. paint_only: what it really shows."""
        paint(self.home / "JPEGImages" / f"{key}.jpg", size, boxes if paint_only is None else paint_only)
        labels = np.zeros(size, np.uint8)
        for name, (left, top, right, bottom) in boxes.items():
            labels[top:bottom, left:right] = 255
            labels[top + border : bottom - border, left + border : right - border] = CLASSES.index(name) + 1
        image = Image.fromarray(labels)
        image.putpalette([v for i in range(256) for v in (i, i, i)])
        image.save(self.home / "SegmentationClass" / f"{key}.png")
        (self.home / "Annotations" / f"{key}.xml").write_text(annotation(size, list(boxes.items())))
        self.ids[split].append(key)
        self.write_lists()

    def write_lists(self) -> None:
        folder = self.home / "ImageSets" / "Segmentation"
        for split in ("train", "val"):
            (folder / f"{split}.txt").write_text("".join(f"{key}\n" for key in self.ids[split]))
        (folder / "trainval.txt").write_text("".join(f"{key}\n" for keys in self.ids.values() for key in keys))


def rectangle(left: int, top: int, right: int, bottom: int) -> list[list[float]]:
    """A polygon whose pixels are [top:bottom, left:right]."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def coco(folder: Path, images: Path, prefix: str = "") -> dict[str, Any]:
    """Three pictures with red, green and blue things; the third has two red ones, one of them as run lengths, and a crowd."""
    scenes = {
        5: {"red": (4, 4, 20, 20)},
        11: {"green": (10, 6, 40, 30), "blue": (0, 0, 8, 8)},
        2: {"red": (2, 2, 12, 12), "green": (30, 30, 40, 36)},
    }
    names = {"red": 1, "green": 2, "blue": 7}
    data: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    data["categories"] = [{"id": number, "name": name} for name, number in names.items()]
    for image_id, boxes in scenes.items():
        file = f"{prefix}{image_id:012d}.png"
        paint(images / file, (40, 50), boxes)
        if image_id == 2:
            with Image.open(images / file) as image:
                image.paste(COLOURS["red"], SECOND)
                image.save(images / file)
        data["images"].append({"id": image_id, "file_name": file, "height": 40, "width": 50})
        for name, box in boxes.items():
            data["annotations"].append(thing(data, image_id, names[name], rectangle(*box)))
    more = np.zeros((40, 50), bool)
    more[SECOND[1] : SECOND[3], SECOND[0] : SECOND[2]] = True
    from peekaboo.result import run_lengths

    data["annotations"].append(thing(data, 2, 1, run_lengths(more)))
    crowd = np.zeros((40, 50), bool)
    crowd[0:4, 30:50] = True
    data["annotations"].append(thing(data, 2, 2, run_lengths(crowd)) | {"iscrowd": 1})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "instances.json").write_text(json.dumps(data))
    return data


def thing(data: dict[str, Any], image_id: int, category_id: int, segmentation: Any) -> dict[str, Any]:
    number = 100 + len(data["annotations"])
    return {"id": number, "image_id": image_id, "category_id": category_id, "segmentation": segmentation, "iscrowd": 0}


def python2(value: Any) -> bytes:
    """What Python 2's cPickle writes, protocol 2, for plain data: str as bytes strings, which Python 3 no longer writes."""
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode("latin1")
        return b"T" + struct.pack("<i", len(data)) + data
    if isinstance(value, list):
        return b"](" + b"".join(map(python2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(python2(key) + python2(inner) for key, inner in value.items()) + b"u"
    assert value is None
    return b"N"


def references() -> list[dict[str, Any]]:
    """Three references to what `coco` paints, in Python 2's manner, four sentences in all; two are in val."""

    def ref(number: int, annotation_id: int, image_id: int, split: str, *sentences: str) -> dict[str, Any]:
        said = [{"sent_id": 10 * number + i, "sent": s, "raw": s, "tokens": s.split()} for i, s in enumerate(sentences)]
        return {
            **{"ref_id": number, "ann_id": annotation_id, "image_id": image_id, "category_id": 1, "split": split},
            **{"sentences": said, "file_name": "x.jpg", "sent_ids": [s["sent_id"] for s in said]},
        }

    return [
        ref(1, 101, 11, "val", "caf\xe9 green", "the one that is green"),
        ref(2, 100, 5, "val", "left red"),
        ref(3, 102, 11, "testA", "blue"),
    ]


def refcoco(root: Path, name: str = "refcoco", by: str = "unc", images: str = "images/train2014") -> Path:
    """A tree as people have it. Returns the folder of the references."""
    home = root / name
    coco(home, root / images, "COCO_train2014_")
    (home / f"refs({by}).p").write_bytes(b"\x80\x02" + python2(references()) + b".")
    return home


def own(root: Path, rows: Sequence[tuple[str, str, str]] | None = None) -> Path:
    """A folder of one's own, masks in three encodings. Returns the table."""
    boxes = {"red": (4, 4, 20, 20), "green": (24, 4, 40, 30)}
    paint(root / "images" / "one.png", (32, 44), boxes)
    (root / "masks").mkdir(parents=True, exist_ok=True)
    for name, scale, kind in (("red", 255, np.uint8), ("green", 1, np.uint8), ("blue", 40000, np.uint16)):
        mask = np.zeros((32, 44), kind)
        if name in boxes:
            left, top, right, bottom = boxes[name]
            mask[top:bottom, left:right] = scale
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    if rows is None:
        rows = [("one.png", "red.png", "something red"), ("images/one.png", "masks/green.png", "green")]
    with (root / "prompts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("prompt", "mask", "note", "image"), *((p, m, "-", i) for i, m, p in rows)])
    return root / "prompts.csv"
