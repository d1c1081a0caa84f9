"""The methods that Peekaboo is compared with, all behind one protocol.

One file a method: each has a class and `load(model, device, dtype, *, …options) -> Segmenter`, and is found by its
name. Adding a method is adding a file; a file whose name begins with an underscore is none. Nothing heavy is imported
before `make`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from peekaboo.errors import SettingsError

__all__ = ["METHODS", "Segmenter", "make"]

METHODS: tuple[str, ...] = tuple(
    sorted(part.name.replace("_", "-") for part in pkgutil.iter_modules(__path__) if not part.name.startswith("_"))
)
"""What `make` makes, by name."""


class Segmenter(Protocol):
    """Anything that finds what prompts name in a picture."""

    def __call__(self, image: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """Alphas (N, H, W), float32 in [0, 1], of N prompts at the picture's own size, each as if it were asked alone.
        A mask is alpha > 0.5. image: HWC uint8 in [0, 255]. Raises PeekabooError."""
        ...


def make(
    name: str, model: str | Path | None = None, device: str | None = None, dtype: str | None = None, **options: Any
) -> Segmenter:
    """Load a method.

    name: one of `METHODS`. model: a Hub id, or a local folder or file; None for the method's own. device: "cpu", "cuda"
    …, or None for the best there is. dtype: "float32", "float16", "bfloat16", or None for float32, in which rivals are
    at their best (the diffusion models: what fits the device). options: the method's own, named in its `load`.

    Raises SettingsError for an unknown method or option, ModelError for weights that are missing or broken.
    """
    if name not in METHODS:
        raise SettingsError(f"There is no baseline {name!r}; the baselines are {', '.join(METHODS)}.")
    load = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").load
    known = [key for key, p in inspect.signature(load).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise SettingsError(
                f"The baseline {name} has no option {option!r}; it has {', '.join(known) if known else 'none'}."
            )
    made: Segmenter = load(model, device, dtype, **options)
    return made
