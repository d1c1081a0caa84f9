"""Writing results whole: every file is written beside its place and renamed into it, so nothing is ever half-written."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import unicodedata
import uuid
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from peekaboo.errors import OutputError


def slug(text: str, limit: int = 60) -> str:
    """A file name made of the text's letters and digits, in any script, lower case, joined by "-"; "prompt" if it has none."""
    normal = unicodedata.normalize("NFKC", text).lower()
    parts = re.findall(r"[^\W_]+", normal)
    name = "-".join(parts)
    while len(name.encode()) > limit:
        name = name[:-1]
    return name.strip("-") or "prompt"


def distinct(names: Iterable[str], free: Callable[[int, str], bool] = lambda index, name: True) -> list[str]:
    """The names, with -2, -3 … appended to those that came before (letter case does not count: some disks ignore it), and to those of
    which `free` says that the name, for the one of that index, is not."""
    taken: set[str] = set()
    result = []
    for index, name in enumerate(names):
        candidate, count = name, 1
        while candidate.lower() in taken or not free(index, candidate):
            count += 1
            candidate = f"{name}-{count}"
        taken.add(candidate.lower())
        result.append(candidate)
    return result


FileData = bytes | Callable[[], bytes]
"""What a file will hold, or what makes it."""


def write_all(files: Mapping[Path, FileData]) -> None:
    """Write all the files or none: each is written beside its place, and renamed into it when all are. Raises OutputError.

    What is given as a function is made when its turn comes, so that large files are not all in memory at once.
    """
    partials: dict[Path, Path] = {}
    path = Path()
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            partials[path] = path.with_name(f".{uuid.uuid4().hex[:8]}.partial")
            partials[path].write_bytes(data() if callable(data) else data)
        for path in partials:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        for path, partial in partials.items():
            os.replace(partial, path)
    except OSError as error:
        raise OutputError(_reason(path, error)) from error
    finally:
        for partial in partials.values():
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def _reason(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path} could not be written: the disk is full; free some space or choose another --out."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} could not be written: permission denied; choose another --out."
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return f"{path} could not be written: a file or folder of that name is in the way; choose another --out."
    return f"{path} could not be written ({error.strerror or error}); choose another --out."


def image_bytes(image: Image.Image, suffix: str, **options: Any) -> bytes:
    """An image encoded in the format of a suffix such as ".png"."""
    buffer = io.BytesIO()
    image.save(buffer, Image.registered_extensions()[suffix], **options)
    return buffer.getvalue()


def zip_bytes(files: Mapping[str, FileData]) -> bytes:
    """An archive of files by name, uncompressed, since pictures are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data() if callable(data) else data)
    return buffer.getvalue()


def json_bytes(data: Any) -> bytes:
    """Indented JSON in UTF-8; what UTF-8 cannot hold (a file name's stray bytes) is escaped."""
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal; "" of one that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def check_writable(folder: Path) -> None:
    """Make the folder and try to write there, before any work is done. Raises OutputError."""
    probe = folder / f".{uuid.uuid4().hex[:8]}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OutputError(_reason(folder, error)) from error
