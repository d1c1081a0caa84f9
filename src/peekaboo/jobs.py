"""What a folder of pictures adds to one picture: finding them, naming their results, saving them with the run record."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from peekaboo.errors import ImageError, OutputError, PeekabooError, SettingsError
from peekaboo.files import FileData, check_writable, distinct, image_bytes, slug, write_all, zip_bytes
from peekaboo.generate import Draft
from peekaboo.guides import read_guide
from peekaboo.images import SUFFIXES
from peekaboo.optimize import Step
from peekaboo.pipeline import Peekaboo, Run, check_prompts
from peekaboo.result import Segmentation, check_transparent
from peekaboo.rgba import checkerboard, on, to_image
from peekaboo.settings import GenerateSettings, Settings, generate_preset, preset

__all__ = ["check_prompts", "check_writable", "slug"]  # for the doors, which import nothing else of the core


@dataclass(frozen=True)
class Job:
    """A picture to segment, and the folder for its results."""

    image: Path
    folder: Path


def expand(patterns: Sequence[str], out: Path) -> list[Job]:
    """The jobs of paths, folders (their pictures, sorted, not those of folders inside) and globs.

    Names that clash get a suffix, with those of other pictures' results that are in `out` already, too. Raises ImageError where a folder
    or a glob holds no picture.
    """
    paths: list[Path] = []
    for pattern in patterns:
        try:
            paths += _matches(pattern)
        except (OSError, RuntimeError, ValueError) as error:
            raise ImageError(f"{pattern[:80]} cannot be looked up ({error}); check the name.") from error
    unique = list(dict.fromkeys(paths))
    names = distinct((path.stem for path in unique), lambda index, name: is_free(out / name, unique[index]))
    return [Job(path, out / name) for path, name in zip(unique, names, strict=True)]


def is_free(folder: Path, image: Path) -> bool:
    """Whether the results of a picture may go into a folder: nothing of another picture's is there, as far as its run record tells."""
    try:
        before = json.loads((folder / "run.json").read_text(encoding="utf-8"))["path"]
        return Path(before).resolve() == image.resolve()
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        return True


def in_turn(model: Peekaboo, work: Iterable[Job]) -> Iterator[Job]:
    """The jobs one by one; their prompts, which are the same for all, are encoded once."""
    with model.same_prompts():
        yield from work


def _matches(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.is_dir())
        if not inside:
            raise ImageError(f"The folder {path} holds no pictures ({', '.join(sorted(SUFFIXES))}).")
        return inside
    if not path.exists() and glob.has_magic(pattern):
        inside = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if not Path(p).is_dir())
        if not inside:
            raise ImageError(f"No file matches {pattern}; check the pattern.")
        return inside
    return [path]


NETWORKS = {"depth_model": "depth-bilateral", "clip_model": "clip"}
SWITCH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def read_settings(
    name: str,
    seed: int,
    changes: Sequence[str],
    variant: str | None = None,
    networks: Mapping[str, str | None] | None = None,
) -> Settings:
    """Settings from a preset, a variant, NAME=VALUE texts, and the networks named beside them, by setting.

    A depth network that is named implies depth-bilateral, an image-text model the variant clip, unless a variant is named.
    Raises SettingsError, also where a network is named that the variant does not ask.
    """
    named = {key: value for key, value in (networks or {}).items() if value is not None}
    if variant is None and len(named) == 1:
        variant = NETWORKS[next(iter(named))]
    for key in named:
        if NETWORKS[key] != variant:
            option = key.replace("_", "-")
            raise SettingsError(f"--{option} goes with --variant {NETWORKS[key]}, not with {variant or 'the default'}.")
    base = preset(name, variant, seed=seed, **named)
    return base.with_changes(**parsed_changes(base, changes))


def read_generate_settings(name: str, seed: int, negative: str, changes: Sequence[str]) -> GenerateSettings:
    """Settings of a generation from a preset and NAME=VALUE texts. Raises SettingsError."""
    base = generate_preset(name, seed=seed, negative_prompt=negative)
    return base.with_changes(**parsed_changes(base, changes))


def parsed_changes(base: Settings | GenerateSettings, changes: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE texts as values of the types that the settings have. Raises SettingsError."""
    kinds = {field.name: type(getattr(base, field.name)) for field in fields(base) if field.name != "preset"}
    parsed: dict[str, Any] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise SettingsError(f"--set {change!r} has no value; expected NAME=VALUE.")
        if key == "preset":
            raise SettingsError(f"The preset is named with --preset, not with --set {change}.")
        if key not in kinds:
            raise SettingsError(f"There is no setting {key!r}; the settings are {', '.join(sorted(kinds))}.")
        try:
            parsed[key] = SWITCH[text.lower()] if kinds[key] is bool else kinds[key](text)
        except (ValueError, KeyError) as error:
            raise SettingsError(
                f"The setting {key} is {text!r}; expected a value like {getattr(base, key)!r}."
            ) from error
    return parsed


def only_guide(settings: Settings, depth: Path | None, guide: Path | None) -> Path | None:
    """The map of --depth or of --guide, which can be read; None where neither is given. Raises SettingsError where both are, or where the
    settings are not those of depth-bilateral, and ImageError for a map that is none, before any work is done."""
    if depth is not None and guide is not None:
        raise SettingsError("--depth and --guide both give a map to guide the blur; give one of them.")
    if depth is not None and settings.blur != "depth":
        raise SettingsError(f"--depth {depth} goes with --variant depth-bilateral, not with another.")
    option, path = ("--guide", guide) if depth is None else ("--depth", depth)
    if path is not None:
        try:
            read_guide(path)
        except ImageError as error:
            raise ImageError(f"{option}: {error}") from error
    return path


def save(job: Job, result: Segmentation, frames: Frames | None) -> dict[str, Any]:
    """Write everything of one picture, and return its run record."""
    files, record = encode(job.image, result, frames)
    write_all({job.folder / name: data for name, data in files.items()})
    return record


def encode(image: Path, result: Segmentation, frames: Frames | None) -> tuple[dict[str, FileData], dict[str, Any]]:
    """All files of one picture's results, by name inside its folder, and its run record, which is one of them."""
    result.record.update(image=str(image), path=os.path.abspath(image))
    movie = frames.movie() if frames is not None else None
    return result.files({"timelapse.webp": movie} if movie else None)


def write_zip(path: Path, folder: str, files: Mapping[str, FileData]) -> None:
    """Write one picture's results as one file, in a folder inside it. Raises OutputError."""
    write_all({path: lambda: zip_bytes({f"{folder}/{name}": data for name, data in files.items()})})


def finding(row: Mapping[str, Any]) -> str:
    """One line on a prompt, of a run record's `results`: found or not, how large."""
    if row["found"]:
        return f"{row['prompt']}: {100 * row['area']:.1f} % of the picture, score {row['score']:.2f}"
    return f"not found: {row['prompt']} (score {row['score']:.2f})"


def explain(image: Path, error: BaseException) -> str:
    """One sentence for what went wrong with an image: our own, or one for too little memory or a library's fault."""
    if isinstance(error, PeekabooError):
        return str(error)
    text = str(error).strip().splitlines()
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return f"{image}: there is not enough memory; give fewer prompts at a time, or another --device."
    return f"{image}: {type(error).__name__}: {text[0] if text else 'no reason given'}"


def check_pictures(out: Path, timelapse: Path | None) -> None:
    """Whether a generation can be written where it is asked to. Raises OutputError."""
    check_transparent(out)
    if timelapse is not None and timelapse.resolve() == out.resolve():
        raise OutputError(f"The picture and the timelapse are both to be {out}; give them two names.")
    if timelapse is not None and timelapse.suffix.lower() != ".webp":
        raise OutputError(f"The timelapse {timelapse} must end in .webp.")
    for path in (out, timelapse):
        if path is not None:
            check_writable(path.parent)


def write_movie(path: Path, drafts: Drafts) -> None:
    """Write a generation's animation. Raises OutputError."""
    write_all({path: drafts.movie()})


def animation(images: Sequence[Image.Image]) -> bytes:
    """An animation as WebP; empty if there is no image."""
    if not images:
        return b""
    first, *rest = images
    return image_bytes(first, ".webp", save_all=True, append_images=rest, duration=80, loop=0, quality=80)


class Drafts:
    """The timelapse of a generation: the picture on checks after each step, at most `LIMIT` frames."""

    SIDE, LIMIT = 384, 120

    def __init__(self, size: tuple[int, int]) -> None:
        scale = self.SIDE / max(size)
        self.size = (round(size[0] * scale), round(size[1] * scale))
        self.checks = checkerboard(self.size, 16)
        self.images: list[Image.Image] = []

    def add(self, draft: Draft) -> None:
        """Add a step's frame; of a long run, every n-th."""
        every = -(-draft.total // self.LIMIT)
        if draft.index % every == 0 or draft.index == draft.total:
            self.images.append(on(self.checks, to_image(draft.colour, draft.alpha, self.size)))

    def movie(self) -> bytes:
        """The animation as WebP; empty if there was no step."""
        return animation(self.images)


class Frames:
    """The timelapse of a run: the picture on grey through each step's alpha, at the α grid's size, enlarged for the eye."""

    SIDE = 384

    def __init__(self, run: Run) -> None:
        height, width = run.picture.size
        ratio = min(1.0, self.SIDE / max(height, width))
        self.size = (max(1, round(height * ratio)), max(1, round(width * ratio)))
        small = Image.fromarray(run.picture.rgb).resize(self.size[::-1], Image.Resampling.LANCZOS)
        self.rgb = np.asarray(small, np.float32)
        self.images: list[Image.Image] = []

    def add(self, step: Step) -> None:
        """Add a step's frame."""
        alpha = 1 - torch.prod(1 - step.alpha.detach().float().cpu(), dim=0)  # any of the prompts
        large = F.interpolate(alpha[None, None], self.size, mode="bilinear", align_corners=False)[0, 0]
        mixed = large.numpy()[..., None] * (self.rgb - 96) + 96
        self.images.append(Image.fromarray(mixed.clip(0, 255).astype(np.uint8)))

    def movie(self) -> bytes:
        """The animation as WebP; empty if there was no step."""
        return animation(self.images)
