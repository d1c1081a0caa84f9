"""What is evaluated: a recipe, which is plain data, and the segmenter made from it, here or on another machine."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import peekaboo
from peekaboo.denoisers import BUNDLED, bundled_folder
from peekaboo.errors import SettingsError
from peekaboo.evaluation import baselines
from peekaboo.settings import Settings, preset

if TYPE_CHECKING:
    from peekaboo.evaluation.baselines import Segmenter
    from peekaboo.pipeline import Peekaboo

PEEKABOO = "peekaboo"
THRESHOLD = 0.5
"""A baseline's mask is its alpha above this; Peekaboo's own threshold is a setting."""
GLANCE = 1 << 20
NETWORKS = ("depth_model", "clip_model", "tokenizer")
"""Settings and options that may name files on this disk."""


class PeekabooSegmenter:
    """Peekaboo as a `Segmenter`: image HWC uint8 in [0, 255] and N prompts, one joint run, to alphas (N, H, W) in [0, 1]."""

    def __init__(self, model: Peekaboo, settings: Settings) -> None:
        self.model, self.settings = model, settings
        model.companions.load(settings, guided=False)

    def __call__(self, image: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        return self.model.segment(image, list(prompts), preset=self.settings).alpha


@dataclass(frozen=True)
class Recipe:
    """All that makes a segmenter. Plain data: it can be sent to other processes, and compared with that of an earlier run.

    method: "peekaboo" or one of `baselines.METHODS`. model: as for `Peekaboo.from_pretrained`; None for the method's own.
    settings: Peekaboo's, or None for a baseline, whose options are `options`. variant: the name of what they compose, if it was
    named. device, dtype: names, or "auto".
    """

    method: str = PEEKABOO
    model: str | None = None
    settings: Settings | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    dtype: str = "auto"
    variant: str | None = None

    @property
    def threshold(self) -> float:
        """The mask is alpha above it, in (0, 1)."""
        return self.settings.threshold if self.settings else THRESHOLD

    @property
    def title(self) -> str:
        """For tables: "Peekaboo (default, depth-bilateral, steps=20)"."""
        if self.settings is None:
            return self.method
        base = preset(self.settings.preset, self.variant, seed=self.settings.seed).as_dict()
        changes = [f"{name}={value}" for name, value in self.settings.as_dict().items() if value != base[name]]
        return f"Peekaboo ({', '.join([self.settings.preset, *filter(None, [self.variant]), *changes])})"

    def build(self) -> Segmenter:
        """Load everything. Raises PeekabooError."""
        if self.settings is None:
            device, dtype = (None if value == "auto" else value for value in (self.device, self.dtype))
            return baselines.make(self.method, self.model, device, dtype, **self.options)
        from peekaboo.pipeline import Peekaboo

        model = Peekaboo.from_pretrained(self.model or BUNDLED, self.device, self.dtype)
        model.remember_prompts()
        return PeekabooSegmenter(model, self.settings)

    def identity(self) -> dict[str, Any]:
        """What must be the same for results to be mixed: not the device, nor versions of libraries."""
        said = self.settings.as_dict() if self.settings else self.options
        return {
            "peekaboo": peekaboo.__version__,
            "method": self.method,
            "model": self.model or (BUNDLED if self.settings else None),
            "model_files": fingerprint_model(self.model or (BUNDLED if self.settings else None)),
            "dtype": self.dtype,
            "settings": dict(said),
            **{f"{name}_files": fingerprint_model(said[name]) for name in NETWORKS if name in said},
        }


def circumstances(segmenter: Segmenter, recipe: Recipe) -> dict[str, Any]:
    """On what a segmenter runs, for the record: device, dtype, model."""
    from peekaboo import pipeline
    from peekaboo.denoisers.load import pick_device

    if isinstance(segmenter, PeekabooSegmenter):
        return pipeline.circumstances(segmenter.model.denoiser)
    device = pick_device(None if recipe.device == "auto" else recipe.device)
    return {"model": getattr(segmenter, "model", "") or recipe.model, "device": str(device), "dtype": recipe.dtype}


def recipe(
    method: str,
    model: str | None,
    preset_name: str,
    variant: str | None,
    seed: int,
    changes: Sequence[str],
    device: str = "auto",
    dtype: str = "auto",
) -> Recipe:
    """A recipe from what the command line says. preset_name, variant: Peekaboo's. changes: NAME=VALUE texts, settings of Peekaboo or
    options of the baseline. Raises SettingsError."""
    if method == PEEKABOO:
        from peekaboo.jobs import read_settings

        return Recipe(method, model, read_settings(preset_name, seed, changes, variant), {}, device, dtype, variant)
    if method not in baselines.METHODS:
        raise SettingsError(
            f"There is no method {method!r}; the methods are {', '.join((PEEKABOO, *baselines.METHODS))}."
        )
    if preset_name != "default" or variant is not None:
        raise SettingsError(f"--preset and --variant are Peekaboo's; leave them out with --method {method}.")
    return Recipe(method, model, None, read_options(method, seed, changes), device, dtype)


def read_options(method: str, seed: int, changes: Sequence[str]) -> dict[str, Any]:
    """A baseline's options, with its defaults, from NAME=VALUE texts of the defaults' types. Raises SettingsError."""
    load = importlib.import_module(f"{baselines.__name__}.{method.replace('-', '_')}").load
    parameters = inspect.signature(load).parameters.values()
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    numeric = {p.name for p in parameters if p.annotation == "float | str"}
    if "seed" in options:
        options["seed"] = seed
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or name not in options:
            raise SettingsError(
                f"--set {change!r} is no option of {method}; expected NAME=VALUE with one of "
                f"{', '.join(options) or 'none: it has no options'}."
            )
        value = number(text) if name in numeric else None
        options[name] = parsed(name, text, options[name]) if value is None else value
    return options


def number(text: str) -> float | None:
    """The number that a text is, or None."""
    try:
        return float(text)
    except ValueError:
        return None


def parsed(name: str, text: str, like: Any) -> Any:
    """A text as a value of another's type; as it is where that says nothing. Raises SettingsError."""
    if isinstance(like, (str, type(None))):
        return text
    try:
        if isinstance(like, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(like, tuple):
            return tuple(type(own)(part) for own, part in zip(like, text.split(","), strict=True))
        value = type(like)(text)
        if value != value:
            raise ValueError("not a number")
        return value
    except (ValueError, TypeError, KeyError) as error:
        raise SettingsError(f"The option {name} is {text!r}; expected a value like {like!r}.") from error


def fingerprint_model(name: str | None) -> str | None:
    """SHA-256 of a local model: each file's name, size, first and last MiB. None for one that is not on this disk."""
    if name is None:
        return None
    root = bundled_folder() if name == BUNDLED else Path(name).expanduser()
    digest = hashlib.sha256()
    try:
        files = sorted(p for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        if root.is_file():
            files = [root]
        for path in files:
            size = path.stat().st_size
            digest.update(f"{path.relative_to(root).as_posix()} {size}\n".encode())
            with path.open("rb") as file:
                digest.update(file.read(GLANCE))
                file.seek(max(0, size - GLANCE))
                digest.update(file.read(GLANCE))
    except (OSError, ValueError, RuntimeError):
        return None
    return digest.hexdigest() if files else None
