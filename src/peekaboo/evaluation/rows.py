"""What is on the disk while an evaluation works: a CSV row a sample, a mask a sample, and run.json, which says of what."""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import json
import os
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from peekaboo.errors import DatasetError, OutputError
from peekaboo.evaluation.datasets import one_line, open_mask
from peekaboo.evaluation.metrics import Overlap
from peekaboo.files import check_writable, image_bytes, json_bytes, slug, write_all
from peekaboo.result import COLOURS

ROWS, RUN, MASKS = "rows.csv", "run.json", "masks"
COLUMNS = ("sample", "image", "prompt", "iou", "intersection", "union", "seconds", "classes")
PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow")


@dataclass(frozen=True)
class Row:
    """A sample's score. iou: in [0, 1]. intersection, union: pixels. seconds: of the segmenter alone. classes: the overlap of each
    class, for dataset-level figures. labels: (H, W) uint8, which prompt took a pixel, 0 for none; None once it is on the disk.
    """

    sample: str
    image: str
    prompt: str
    iou: float
    intersection: int
    union: int
    seconds: float
    classes: dict[str, Overlap] = field(default_factory=dict)
    labels: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)

    def cells(self) -> list[str]:
        """As texts on one line each. The IoU in full, so that no figure moves when a run is resumed."""
        counts = {name: [c.shared, c.predicted, c.true] for name, c in self.classes.items() if c.union}
        texts = [self.sample, self.image, self.prompt, repr(self.iou), str(self.intersection), str(self.union)]
        texts += [f"{self.seconds:.3f}", json.dumps(counts) if counts else ""]
        return [one_line(text) for text in texts]

    @classmethod
    def parse(cls, cells: Sequence[str]) -> Row:
        """The row of texts. Raises ValueError."""
        if len(cells) != len(COLUMNS):
            raise ValueError(f"{len(cells)} cells instead of {len(COLUMNS)}")
        sample, image, prompt, iou, intersection, union, seconds, counts = cells
        classes = {name: Overlap(*map(int, c)) for name, c in (json.loads(counts) if counts else {}).items()}
        row = cls(sample, image, prompt, float(iou), int(intersection), int(union), float(seconds), classes)
        if not 0 <= row.iou <= 1 or not 0 <= row.intersection <= row.union:
            raise ValueError("figures out of their range")
        return row


@dataclass(frozen=True)
class Failure:
    """A sample that could not be scored, and why, in one sentence."""

    sample: str
    why: str

    def __str__(self) -> str:
        return self.why


def line(cells: Sequence[str]) -> bytes:
    """Cells as a line of CSV, UTF-8, ending in a line feed."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue().encode()


class Ledger:
    """The folder of one evaluation. Opening it repairs a torn last line and reads what is done.

    rows: what is done, by sample. Raises DatasetError where the folder holds results of something else or is in use, or its table
    is damaged; OutputError where it cannot be written.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder, self.path = folder, folder / ROWS
        self.session: dict[str, Any] = {}
        check_writable(folder)
        try:
            self.file: IO[bytes] = self.path.open("a+b")
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written ({error.strerror or error}); choose another --out."
            ) from error
        try:
            self._lock()
            self.rows = self._read()
            self.record = self._record(json.loads(json.dumps(identity)))
        except BaseException:
            self.close()
            raise

    def _record(self, identity: dict[str, Any]) -> dict[str, Any]:
        """run.json as it is, if it is of this very evaluation; a new one, if there are no rows yet. Raises DatasetError."""
        path = self.folder / RUN
        if not path.exists() and self.rows:
            raise DatasetError(f"{self.path} has no {RUN} beside it, which says of what it is; choose another --out.")
        if not path.exists():
            fresh: dict[str, Any] = {"identity": identity, "sessions": []}
            write_all({path: json_bytes(fresh)})
            return fresh
        try:
            found = json.loads(path.read_bytes())
            before, _ = found["identity"], found["sessions"].append
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"{path} is damaged, or of something else; choose another --out.") from error
        if not self.rows:  # what was asked before came to nothing
            return {"identity": identity, "sessions": []}
        if changes := differences(before, identity):
            raise DatasetError(
                f"{self.folder} holds results of another evaluation, which must not be mixed with this one: "
                f"{'; '.join(changes)}. Choose another --out, or ask for what was asked before."
            )
        record: dict[str, Any] = found
        return record

    def _lock(self) -> None:
        """Keep other processes out until this one closes the table or dies; where the system cannot, hope."""
        try:
            import fcntl
        except ImportError:
            return
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatasetError(
                f"Another evaluation is writing to {self.folder}; wait for it, or choose another --out."
            ) from None
        except OSError:
            return  # a file system without locks

    def _read(self) -> dict[str, Row]:
        self.file.seek(0)
        data = self.file.read()
        head = line(COLUMNS)
        if not (data.startswith(head) or head.startswith(data)):
            raise DatasetError(f"{self.path} is no table of this version of Peekaboo; choose another --out.")
        whole = data[: data.rfind(b"\n") + 1]
        self.file.truncate(len(whole))
        if not whole:
            self._append(COLUMNS)
        lines = whole[len(head) :].decode("utf-8", "replace").splitlines()
        rows = {}
        for number, cells in enumerate(csv.reader(lines), 2):
            try:
                row = Row.parse(cells)
            except (ValueError, TypeError, AttributeError, csv.Error) as error:
                raise DatasetError(f"{self.path}, line {number} is damaged ({error}); take that line out.") from error
            rows[row.sample] = row
        return rows

    def _append(self, cells: Sequence[str]) -> None:
        try:
            self.file.write(line(cells))
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as error:
            raise OutputError(
                f"{self.path} could not be written ({error.strerror or error}); free some space and run the same command again."
            ) from error

    def begin(self, circumstances: dict[str, Any]) -> None:
        """Write down on what this session runs, and since when."""
        self.clock, self.session = time.perf_counter(), {"started": now(), "samples": 0, **versions(), **circumstances}
        self.record["sessions"].append(self.session)
        write_all({self.folder / RUN: json_bytes(self.record)})

    def add(self, row: Row) -> None:
        """Keep a row: first its mask, then, flushed, its line."""
        if row.labels is not None:
            write_all({self.mask_path(row.sample): mask_bytes(row.labels)})
        self._append(row.cells())
        self.rows[row.sample] = Row.parse(row.cells())
        self.session["samples"] = self.session.get("samples", 0) + 1

    def end(self, problems: list[str]) -> None:
        """Write down when this session ended, and what was skipped."""
        if self.session:
            self.session.update(ended=now(), seconds=round(time.perf_counter() - self.clock, 1))
        self.record["problems"] = problems
        write_all({self.folder / RUN: json_bytes(self.record)})

    def close(self) -> None:
        """Let go of the folder."""
        with suppress(OSError):  # a line that found no room before, and has been told of, would find none again
            self.file.close()

    def mask_path(self, sample: str) -> Path:
        """Where a sample's predicted mask lies."""
        return (
            self.folder
            / MASKS
            / f"{slug(sample)}-{hashlib.sha256(sample.encode('utf-8', 'replace')).hexdigest()[:8]}.png"
        )

    def labels(self, sample: str) -> NDArray[np.uint8]:
        """A sample's predicted labels (H, W) uint8, n + 1 for prompt n. Raises DatasetError."""
        image = open_mask(self.mask_path(sample))
        values = np.asarray(image)
        return values if image.mode == "P" else (values > 0).astype(np.uint8)


def mask_bytes(labels: NDArray[np.uint8]) -> bytes:
    """Labels as PNG: black and white where the first prompt is all there is, else the numbers of the prompts, with a palette."""
    if labels.max() <= 1:
        return image_bytes(Image.fromarray(labels > 0), ".png")
    image = Image.fromarray(labels)
    image.putpalette([0, 0, 0, *(v for i in range(255) for v in COLOURS[i % len(COLOURS)])])
    return image_bytes(image, ".png")


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two identities, each in words: "seed was 0, is 1"."""
    changes = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            changes += differences(old, new)
        elif key == "dataset":
            changes.append("the data set's annotations changed")
        elif key.endswith("_files"):
            changes.append(f"the files of the {key.removesuffix('_files').replace('_', ' ')} changed")
        else:
            changes.append(f"{key} was {old!r}, is {new!r}")
    return changes


def now() -> str:
    """The time, ISO 8601, UTC, seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Of Python, the machine, and the libraries that figures depend on."""
    found = {"python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
