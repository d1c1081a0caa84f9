"""What is installed, on which devices it can run, and whether the model is whole: `peekaboo doctor`."""

from __future__ import annotations

import platform
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import peekaboo
from peekaboo.denoisers.load import BUNDLED, bundled_folder, check_folder, is_hub_id, verify
from peekaboo.errors import ModelError, PeekabooError
from peekaboo.vocabulary import Vocabulary

PACKAGES = ("torch", "diffusers", "transformers", "kornia", "safetensors", "numpy", "pillow")


@dataclass(frozen=True)
class Check:
    """One line of the report: what was looked at, what was found, and whether that is as it should be."""

    what: str
    found: str
    good: bool = True


def examine(model: str = BUNDLED) -> Iterator[Check]:
    """Look at the installation, the devices and the model. Loads no weights; needs no network."""
    yield Check("peekaboo", f"{peekaboo.__version__} in {Path(peekaboo.__file__).parent}")
    yield Check("python", f"{platform.python_version()}, {sys.platform} {platform.machine()}")
    for package in PACKAGES:
        try:
            yield Check(package, version(package))
        except PackageNotFoundError:
            yield Check(package, "missing; install it again with `pip install peekaboo-segmentation`", False)
    yield from devices()
    yield from examine_model(model)


def devices() -> Iterator[Check]:
    """Each device that torch can use here; the first is what `--device auto` takes."""
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            memory = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
            yield Check("device", f"cuda:{index}, {torch.cuda.get_device_name(index)}, {memory}")
    if torch.backends.mps.is_available():
        yield Check("device", "mps, Apple silicon")
    threads = torch.get_num_threads()
    yield Check("device", f"cpu, {threads} thread{'s' if threads > 1 else ''}")


def examine_model(model: str) -> Iterator[Check]:
    """Whether the files of a model folder are those that were released, and what it knows."""
    folder = model_folder(model)
    if folder is None:
        if is_hub_id(model):
            yield Check("model", f"{model} is no folder here; it is looked for on the Hugging Face Hub when it is used")
        elif Path(model).expanduser().is_file():
            yield Check("model", f"{model}, one file; it is opened when it is used")
        else:
            yield Check(
                "model", f"there is no {model}: expected 'bundled', a folder, a file or an id like owner/name", False
            )
        return
    try:
        check_folder(folder)
        files = verify(folder)
        yield Check(
            "model", f"{folder}" + (f", {files} files as released" if files else ", no checksums to compare with")
        )
        if vocabulary := Vocabulary.read(folder):
            core = sum(name.core for name in vocabulary.names)
            yield Check("knows", f"{len(vocabulary.names)} names, {core} of them well; --vocabulary lists them")
    except PeekabooError as error:
        yield Check("model", str(error), False)


def model_folder(model: str) -> Path | None:
    """The folder of "bundled" or of a path, or None."""
    folder = bundled_folder() if model == BUNDLED else Path(model).expanduser()
    return folder if folder.is_dir() else None


def vocabulary_text(model: str = BUNDLED) -> str:
    """Every name that a model learnt, by category; the ones it learnt best are marked. Raises ModelError if it tells none."""
    folder = model_folder(model)
    vocabulary = Vocabulary.read(folder) if folder else None
    if vocabulary is None:
        raise ModelError(f"The model {model!r} carries no list of what it knows; large models know most words.")
    groups: dict[str, list[str]] = defaultdict(list)
    for name in vocabulary.names:
        also = f" ({', '.join(name.synonyms)})" if name.synonyms else ""
        groups[name.category].append(f"{'*' if name.core else ''}{name.name}{also}")
    kinds = sorted({kind for name in vocabulary.names for kind in name.kinds})
    parts = [
        f"{title}: {', '.join(sorted(names, key=lambda n: n.lstrip('*')))}" for title, names in sorted(groups.items())
    ]
    parts.append(f"Kinds: {', '.join(kinds)}")
    parts.append(f"Other words: {', '.join(sorted(vocabulary.words))}")
    parts.append("* learnt best: shown in most of the training scenes. In brackets: other names for the same thing.")
    return "\n\n".join(parts)
