"""RefCOCO, RefCOCO+ and RefCOCOg: what people say to point at one thing in a photograph of COCO.

--root holds refcoco/ (refcoco+/, refcocog/) with instances.json and refs(unc).p …, or data/ that does, or is that folder. The
pictures of train2014 are looked for around it: train2014/, images/train2014/, images/mscoco/images/train2014/ …, or --images.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

from peekaboo.errors import DatasetError
from peekaboo.evaluation.coco import Instances, Outlines
from peekaboo.evaluation.datasets import Dataset, Sample, first_folder, gather, words
from peekaboo.evaluation.unpickle import load_plain

SPLIT_BY = {"refcoco": ("unc", "google"), "refcoco+": ("unc",), "refcocog": ("umd", "google")}
"""The partitions that were published; the first is what papers use."""
PROTOCOL = (
    "One sample for each reference and sentence; the prompt is the sentence. mIoU = mean of the samples' IoU, oIoU = sum of "
    "intersections over sum of unions over the split; an empty union counts as 0. Partition: {}."
)


def read(
    name: str, root: Path, split: str | None = None, split_by: str | None = None, images: Path | None = None
) -> Dataset:
    """Read a set of references.

    split: "val" unless given; testA, testB, test and train where the partition has them. split_by: "unc", "google" or "umd".
    images: the folder of the pictures, if it is unusual. Raises DatasetError, also for a pickle that is not plain data.
    """
    split, split_by = split or "val", split_by or SPLIT_BY[name][0]
    home = find(root, name)
    path = home / f"refs({split_by}).p"
    if not path.is_file():
        there = ", ".join(sorted(p.name[5:-3] for p in home.glob("refs(*).p"))) or "none"
        raise DatasetError(f"There is no {path}; the partitions there are: {there} (--split-by).")
    refs = load_plain(path)
    if not isinstance(refs, list):
        raise DatasetError(f"{path} holds no list of references, but a {type(refs).__name__}.")
    instances = Instances(home / "instances.json")
    records = [(f"{path}, reference {index}", ref) for index, ref in enumerate(refs) if split_of(ref) in (split, None)]
    splits = sorted({found for ref in refs if (found := split_of(ref)) is not None})
    if split not in splits:
        raise DatasetError(f"{path} has no split {split!r}; it has {', '.join(splits) or 'none'}.")
    records.sort(key=lambda pair: str(pair[1].get("image_id") if isinstance(pair[1], dict) else "").zfill(20))  # stable
    folder = images or find_images(home, instances.some_file())
    samples, problems = gather(records, lambda ref: samples_of(instances, folder, ref))
    return Dataset(name, split, samples, problems, PROTOCOL.format(split_by), {"split_by": split_by})


def split_of(ref: Any) -> str | None:
    """The split of a reference, or None where it does not say: a malformed one, to be told of in any split."""
    split = ref.get("split") if isinstance(ref, dict) else None
    return split if isinstance(split, str) else None


def samples_of(instances: Instances, folder: Path, ref: Any) -> Iterable[Sample]:
    """The samples of a reference, one a sentence: all of them, or it raises DatasetError (or what wrong types raise)."""
    number, annotation_id, sentences = ref["ref_id"], ref["ann_id"], ref["sentences"]
    if split_of(ref) is None:
        raise DatasetError("it belongs to no split")
    annotation = instances.annotations.get(annotation_id)
    if annotation is None:
        raise DatasetError(f"there is no annotation {annotation_id!r} in {instances.path}")
    if ref["image_id"] != annotation["image_id"]:
        raise DatasetError(f"it is of the picture {ref['image_id']!r}, its annotation {annotation_id} of another")
    file, size = instances.picture(annotation["image_id"])
    truth = Outlines((annotation["segmentation"],), size).checked()
    if not isinstance(sentences, list) or not sentences:
        raise DatasetError("it has no sentences")
    return [
        Sample(f"{number} {sentence['sent_id']}", folder / file, (words(sentence["sent"]),), truth)
        for sentence in sentences
    ]


def find(root: Path, name: str) -> Path:
    """The folder of the references. Raises DatasetError."""
    home = first_folder((root / name, root / "data" / name, root), "instances.json")
    if home is None or not any(home.glob("refs(*).p")):
        raise DatasetError(
            f"{root} holds no {name}; expected {name}/ with instances.json and refs({SPLIT_BY[name][0]}).p."
        )
    return home


def find_images(home: Path, file: str) -> Path:
    """The folder of COCO's train2014, looked for by one of its pictures. Raises DatasetError."""
    inner = [*("train2014", "images/train2014", "images/mscoco/images/train2014", "mscoco/images/train2014")]
    inner += ["coco/train2014", "coco/images/train2014", "coco2014/train2014", "images", ""]
    around = (home, home.parent, home.parent.parent)
    folder = first_folder((above / name for above, name in product(around, inner)), file)
    if folder is None:
        raise DatasetError(
            f"The picture {file} is in none of the usual folders around {home}; say where train2014 is with --images."
        )
    return folder
