"""Reading a pickle of plain data without running what a hostile one would run."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, NoReturn

from peekaboo.errors import DatasetError, first_line

MAX_BYTES = 1 << 30
"""Larger files are refused before they are read; RefCOCO's have some tens of megabytes."""


class _Refused(Exception):
    """Something other than plain data was asked for."""


class PlainUnpickler(pickle.Unpickler):
    """Allows what pickle makes without importing anything: None, bool, int, float, str, bytes, tuple, list, dict, set.

    Every other object begins with the name of a class or function, and every such name is refused before it is looked up.
    Python 2's strings become str by Latin-1, which no byte can fail.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")

    def find_class(self, module: str, name: str) -> NoReturn:
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _Refused(f"the persistent object {pid!r}")


def load_plain(path: Path) -> Any:
    """The plain data of a pickle, of any protocol, Python 2's as well. Raises DatasetError for anything else."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DatasetError(
                f"{path} is larger than the limit of {MAX_BYTES >> 20} MiB; it is no list of expressions."
            )
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror or error}).") from error
    try:
        return PlainUnpickler(data).load()
    except _Refused as error:
        raise DatasetError(
            f"{path} is refused: this pickle asks for {first_line(error)}, which could run code; plain lists, "
            "dictionaries, texts and numbers were expected. Get the file from its authors."
        ) from None
    except Exception as error:  # a broken pickle can raise nearly anything
        raise DatasetError(
            f"{path} is no pickle that can be read ({first_line(error)}); get a complete copy."
        ) from error
