"""What every data set is read into: samples, which name their pictures and masks without holding them, and what was skipped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from peekaboo.errors import DatasetError, first_line
from peekaboo.files import sha256
from peekaboo.images import MAX_PIXELS, read_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels; right and bottom are the first column and row outside."""


class Truth(Protocol):
    """Where the true masks of a sample come from. Small and picklable: pixels are read by `load` only."""

    def load(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """masks (N, H, W) bool, one a prompt; valid (H, W) bool, False where nothing is said. Raises DatasetError."""
        ...

    def content(self) -> str:
        """The annotation as text, with no folder in it, so that a data set that has moved is still the same one."""
        ...


@dataclass(frozen=True)
class Loaded:
    """A sample's pixels. rgb: HWC uint8 in [0, 255], not to be written to. masks: (N, H, W) bool. valid: (H, W) bool."""

    rgb: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    valid: NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """One thing to score: a picture, its prompts, which are asked together, and the true mask of each.

    key: unique in its data set. crop: the part of picture and masks that counts. per_class: the prompts are class names, and the
    counts of each class and of the background are kept, for dataset-level figures.
    """

    key: str
    image: Path
    prompts: tuple[str, ...]
    truth: Truth
    crop: Box | None = None
    per_class: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", one_line(self.key))

    def load(self) -> Loaded:
        """The picture and the true masks. The pictures of the last samples are kept: those of one picture stand together.

        Raises ImageError for the picture and DatasetError for the masks, naming the file.
        """
        rgb = picture(self.image)
        masks, valid = self.truth.load()
        if masks.shape[1:] != rgb.shape[:2]:
            raise DatasetError(
                f"{self.key}: {self.image} has {rgb.shape[1]}×{rgb.shape[0]} pixels, its annotation "
                f"{masks.shape[2]}×{masks.shape[1]}; they must be of one picture."
            )
        if self.crop is None:
            return Loaded(rgb, masks, valid)
        left, top, right, bottom = self.crop
        rows, columns = slice(top, bottom), slice(left, right)
        return Loaded(np.ascontiguousarray(rgb[rows, columns]), masks[:, rows, columns], valid[rows, columns])

    def content(self) -> str:
        """All that says what this sample is, as text, without pixels and folders."""
        return json.dumps([self.key, self.image.name, self.prompts, self.truth.content(), self.crop, self.per_class])


@lru_cache(maxsize=2)
def picture(path: Path) -> NDArray[np.uint8]:
    """A picture, HWC uint8 in [0, 255]. Raises ImageError."""
    return read_image(path).rgb


@dataclass(frozen=True)
class Dataset:
    """Samples in a fixed order, those of one picture together.

    split: which part, or "". problems: one sentence for each record that was skipped. protocol: what a sample is and how it is
    scored, in words for a reader. choices: what was chosen where there is a choice. classes: all class names, in order, of a
    data set with dataset-level figures of each; empty for others.
    """

    name: str
    split: str
    samples: list[Sample]
    problems: list[str]
    protocol: str
    choices: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """SHA-256 of all samples: another annotation, order or prompt is another data set."""
        digest = hashlib.sha256()
        for sample in self.samples:
            digest.update(sample.content().encode("utf-8", "backslashreplace"))
        return digest.hexdigest()

    @property
    def title(self) -> str:
        """For headings: "refcoco val"."""
        return f"{self.name} {self.split}".strip()


@dataclass(frozen=True)
class MaskFile:
    """One mask in an image file: what is above half of its greatest value, or its alpha where it has transparency."""

    path: Path

    def load(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """See `Truth`."""
        image = open_mask(self.path)
        try:
            band = image
            if image.has_transparency_data:
                alpha = image.convert("RGBA").getchannel("A")
                band = (
                    alpha if np.asarray(alpha).min() < 255 else image
                )  # many editors write an alpha that is full everywhere
            if band.mode not in ("1", "L", "I", "I;16", "F"):
                band = band.convert("L")
        except ValueError as error:
            raise DatasetError(
                f"The mask {self.path} is in the mode {image.mode}; save it in black and white."
            ) from error
        values = np.asarray(band).astype(np.float32)
        mask = values > values.max() / 2
        return mask[None], np.ones_like(mask)

    def content(self) -> str:
        """See `Truth`."""
        return f"{self.path.name} {sha256(self.path)}"


def open_mask(path: Path) -> Image.Image:
    """A mask's file, decoded. Raises DatasetError."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DatasetError(f"The mask {path} has more than {MAX_PIXELS // 10**6} megapixels.")
            image.load()
            return image.copy()
    except FileNotFoundError:
        raise DatasetError(f"There is no mask {path}; check the name.") from None
    except DatasetError:
        raise
    except Exception as error:  # Pillow's plugins raise many kinds for a broken file
        raise DatasetError(f"The mask {path} cannot be read ({first_line(error)}); get a complete copy.") from error


MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError)


def gather(
    records: Iterable[tuple[str, Any]], read: Callable[[Any], Iterable[Sample]]
) -> tuple[list[Sample], list[str]]:
    """The samples of records, and a sentence for each record that is malformed: it is skipped, the others are not.

    records: what to call each, "FILE, record 7" for one, with the record itself. read: its samples; may raise anything that
    wrong data can raise. Samples whose key came before are malformed too.
    """
    samples: dict[str, Sample] = {}
    problems: list[str] = []
    for where, record in records:
        try:
            for sample in read(record):
                if sample.key in samples:
                    raise DatasetError(f"its key {sample.key!r} came before")
                samples[sample.key] = sample
        except DatasetError as error:
            problems.append(f"{where} was skipped: {str(error).rstrip('.')}.")
        except MALFORMED as error:
            missing = "lacks" if isinstance(error, KeyError) else "is malformed:"
            problems.append(f"{where} was skipped: it {missing} {first_line(error)}.")
    return list(samples.values()), problems


def one_line(text: str) -> str:
    """The text without line breaks, so that it is one cell of one line of a table; what UTF-8 cannot hold is escaped."""
    return " ".join(text.split()).encode("utf-8", "backslashreplace").decode()


def words(text: Any) -> str:
    """A prompt on one line. Raises DatasetError where it is no text or says nothing."""
    if not isinstance(text, str) or not text.strip():
        raise DatasetError(f"its prompt is {text!r}, no words")
    return " ".join(text.split())


def read_json(path: Path) -> Any:
    """The data of a JSON file. Raises DatasetError."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is no whole JSON file ({first_line(error)}); get a complete copy.") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that hold something. Raises DatasetError."""
    try:
        return [
            line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
        ]
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror or error}).") from error


def first_folder(candidates: Iterable[Path], holds: str) -> Path | None:
    """The first of the folders in which `holds` exists."""
    return next((folder for folder in candidates if os.path.exists(folder / holds)), None)  # any name: Path's raises


BENCHMARKS: Mapping[str, tuple[str, frozenset[str]]] = {
    "voc-c": ("voc", frozenset({"split"})),
    "voc": ("voc", frozenset({"split", "prompts"})),
    "refcoco": ("refcoco", frozenset({"split", "split_by", "images"})),
    "refcoco+": ("refcoco", frozenset({"split", "split_by", "images"})),
    "refcocog": ("refcoco", frozenset({"split", "split_by", "images"})),
    "coco": ("coco", frozenset({"split", "images", "alone", "least_area"})),
    "folder": ("folder", frozenset()),
}
"""By name: the module that reads it, and which choices it has."""


def read_dataset(name: str, root: Path, **choices: Any) -> Dataset:
    """Read a data set.

    name: one of `BENCHMARKS`. root: its folder, in any of the layouts that people have (each reader's docstring lists them).
    choices: "split", "split_by", "images", "prompts", "alone", "least_area"; None where nothing is chosen.
    Raises DatasetError for an unknown name, a choice it does not have, a layout that is not found, or no sample at all.
    """
    import importlib

    if name not in BENCHMARKS:
        raise DatasetError(f"There is no benchmark {name!r}; the benchmarks are {', '.join(BENCHMARKS)}.")
    home, known = BENCHMARKS[name]
    chosen = {key: value for key, value in choices.items() if value is not None}
    for key in chosen:
        if key not in known:
            raise DatasetError(f"--{key.replace('_', '-')} has no meaning for {name}; leave it out.")
    root = root.expanduser()
    if not root.exists():
        raise DatasetError(f"There is no {root}; --root names where the data of {name} lies.")
    if "images" in chosen and not chosen["images"].is_dir():
        raise DatasetError(f"There is no folder {chosen['images']}; --images names where the pictures lie.")
    dataset: Dataset = importlib.import_module(f"peekaboo.evaluation.{home}").read(name, root, **chosen)
    if not dataset.samples:
        why = (
            f"; {len(dataset.problems)} records were skipped, the first: {dataset.problems[0]}"
            if dataset.problems
            else "."
        )
        raise DatasetError(f"{root} holds no sample of {dataset.title}{why}")
    return dataset
