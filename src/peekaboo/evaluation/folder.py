"""People's own data: a folder with pictures, masks, and `prompts.csv`.

The table has a first line that names the columns `image`, `mask` and `prompt`, in any order; others are ignored. Paths are
relative to the folder, or to images/ and masks/ in it. A mask is an image of the picture's size: what is above half of its
greatest value is the thing (0/255, 0/1 and 16 bits all work), or its alpha, if it has transparency. One line is one sample.
--root may also be the table itself, by any name.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from peekaboo.errors import DatasetError, first_line
from peekaboo.evaluation.datasets import Dataset, MaskFile, Sample, first_folder, gather, words

TABLE = "prompts.csv"
COLUMNS = ("image", "mask", "prompt")
PROTOCOL = "One sample a line of the table, IoU of its mask per sample; mIoU is the mean over samples."


def read(name: str, root: Path) -> Dataset:
    """Read a folder of one's own. Raises DatasetError."""
    table = root if root.is_file() else root / TABLE
    rows = read_table(table)
    images: dict[str, int] = {}
    for _, row in rows:
        images.setdefault(row["image"] or "", len(images))
    rows.sort(key=lambda pair: images[pair[1]["image"] or ""])  # stable: the samples of one picture together
    records = [(f"{table}, line {line}", row) for line, row in rows]
    samples, problems = gather(records, lambda row: sample_of(table.parent, row))
    return Dataset(name, "", samples, problems, PROTOCOL)


def read_table(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The lines of the table, each with its number in the file. Raises DatasetError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
            header = reader.fieldnames or []
    except OSError as error:
        raise DatasetError(
            f"There is no table {path} ({error.strerror or error}); expected a CSV file with the columns {', '.join(COLUMNS)}."
        ) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is no CSV file in UTF-8 ({first_line(error)}).") from error
    if missing := [column for column in COLUMNS if column not in header]:
        raise DatasetError(
            f"{path} lacks the column {', '.join(missing)}; its first line must name image, mask and prompt."
        )
    return rows


def sample_of(root: Path, row: dict[str, str]) -> Iterable[Sample]:
    """The sample of a line. Raises DatasetError."""
    image, mask = (locate(root, row[column], f"{column}s") for column in ("image", "mask"))
    prompt = words(row["prompt"])
    yield Sample(f"{row['image'].strip()} {row['mask'].strip()} {prompt}", image, (prompt,), MaskFile(mask))


def locate(root: Path, name: str | None, inner: str) -> Path:
    """A file of the table. Raises DatasetError where there is none."""
    if not name or not name.strip():
        raise DatasetError(f"it names no {inner[:-1]}")
    folder = first_folder((root, root / inner), name.strip())
    if folder is None:
        raise DatasetError(f"there is no {inner[:-1]} {root / name.strip()}")
    return folder / name.strip()
