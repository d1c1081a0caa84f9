"""What a run gives back: alphas at the input's own size, and everything one makes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from peekaboo.errors import OutputError, PromptError
from peekaboo.files import FileData, distinct, image_bytes, json_bytes, slug, write_all
from peekaboo.foreground import foreground
from peekaboo.images import Picture
from peekaboo.settings import GenerateSettings, Settings

COLOURS = ((255, 64, 64), (64, 160, 255), (72, 208, 96), (255, 176, 32), (200, 96, 255), (0, 208, 208))
KINDS = ("alpha", "mask", "cutout", "overlay")
"""The pictures that `Segmentation.save` writes for each prompt."""


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """The masks of one picture.

    alpha: (N, H, W) float32 in [0, 1], near 1 where prompt n is. score: (N,) float32 in [0, 1], the model's own evidence
    that the prompt is in the picture. found: (N,) bool. picture: what was segmented. record: how (device, seconds, model …).
    """

    alpha: NDArray[np.float32]
    score: NDArray[np.float32]
    prompts: list[str]
    settings: Settings
    picture: Picture
    record: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        height, width = self.picture.size
        things = (
            f"{prompt!r}: {f'{mask.mean():.1%}' if mask.any() else 'not found'}, score {score:.2f}"
            for prompt, mask, score in zip(self.prompts, self.mask, self.score, strict=True)
        )
        return f"Segmentation({width}×{height}; {'; '.join(things)})"

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(N, H, W) bool: alpha above the threshold."""
        return self.alpha > self.settings.threshold

    @property
    def found(self) -> NDArray[np.bool_]:
        """(N,) bool: the mask has at least one pixel."""
        found: NDArray[np.bool_] = self.mask.any(axis=(1, 2))  # type: ignore[assignment]
        return found

    def cutout(self, which: int | str = 0, decontaminate: bool = True) -> Image.Image:
        """The thing alone, RGBA with straight alpha, at the picture's own size; what was transparent stays so.

        which: the prompt, or its number, from 0. Raises PromptError where there is none such.
        decontaminate: True (the default) takes the old background's colours out of what is half transparent, so that there is no
        halo on another (`foreground.foreground`); False keeps the picture's colours everywhere.
        """
        alpha = self.alpha[self._index(which)]
        if self.picture.opacity is not None:
            alpha = alpha * (self.picture.opacity.astype(np.float32) / 255)
        opacity = _eight_bits(alpha)
        image = Image.fromarray(foreground(self.picture.rgb, opacity) if decontaminate else self.picture.rgb)
        image.putalpha(Image.fromarray(opacity))
        return image

    def overlay(self) -> Image.Image:
        """The picture with each mask tinted in its own colour and outlined, the rest greyed, RGB."""
        image = Image.fromarray(self.picture.rgb)
        grey = image.convert("L").point(lambda value: 0.5 * value + 90)
        canvas = Image.blend(image, Image.merge("RGB", [grey] * 3), 0.65)
        for index in range(len(self.alpha)):
            mask, colour = self._mask(index), COLOURS[index % len(COLOURS)]
            tinted = Image.blend(image, Image.new("RGB", image.size, colour), 0.28)
            canvas.paste(tinted, mask=Image.fromarray(mask))
            canvas.paste(colour, (0, 0, *image.size), Image.fromarray(_outline(mask)))
        return canvas

    def to_coco(self, image_id: int = 0, first_id: int = 1) -> dict[str, Any]:
        """COCO's layout: images, categories (the prompts), and an annotation with uncompressed RLE per found prompt."""
        height, width = self.picture.size
        annotations: list[dict[str, Any]] = []
        for index, mask in enumerate(self.mask):
            if not mask.any():
                continue
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            left, top = int(columns[0]), int(rows[0])
            annotations.append(
                {
                    "id": first_id + len(annotations),
                    "image_id": image_id,
                    "category_id": index + 1,
                    "segmentation": run_lengths(mask),
                    "area": int(mask.sum()),
                    "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
                    "iscrowd": 1,  # COCO's mark for RLE
                    "score": float(self.score[index]),
                }
            )
        categories = [{"id": i + 1, "name": prompt} for i, prompt in enumerate(self.prompts)]
        images = [{"id": image_id, "width": width, "height": height}]
        return {"images": images, "categories": categories, "annotations": annotations}

    def save(self, folder: str | Path, extra: Mapping[str, bytes] | None = None) -> dict[str, Any]:
        """Write `FOLDER/<prompt slug>/{alpha,mask,cutout,overlay}.png` and `FOLDER/run.json`: all of them, or none.

        extra: more files by name, written with them. Returns the run record, as written. Raises OutputError.
        """
        files, record = self.files(extra)
        write_all({Path(folder) / name: data for name, data in files.items()})
        return record

    def files(self, extra: Mapping[str, bytes] | None = None) -> tuple[dict[str, FileData], dict[str, Any]]:
        """What `save` writes, by name inside its folder, run.json last, the pictures still to be made; and the run record."""
        files: dict[str, FileData] = dict(extra or {})
        results = []
        for index, name in enumerate(distinct(slug(prompt) for prompt in self.prompts)):
            mask = self._mask(index)
            for kind in KINDS:
                files[f"{name}/{kind}.png"] = partial(self._png, index, kind)
            results.append(
                {
                    "prompt": self.prompts[index],
                    "found": bool(mask.any()),
                    "score": round(float(self.score[index]), 4),
                    "area": round(float(mask.mean()), 6),
                    "files": {kind: f"{name}/{kind}.png" for kind in KINDS},
                }
            )
        record = {**self.record, "results": results, "settings": self.settings.as_dict()}
        return {**files, "run.json": json_bytes(record)}, record

    def _index(self, which: int | str) -> int:
        """The number of a prompt that is given by its number or itself."""
        if isinstance(which, str):
            if which in self.prompts:
                return self.prompts.index(which)
        elif -len(self.prompts) <= which < len(self.prompts):
            return which
        asked = ", ".join(f"{i} ({prompt!r})" for i, prompt in enumerate(self.prompts))
        raise PromptError(f"There is no prompt {which!r} in this result; there are {asked}.")

    def _mask(self, index: int) -> NDArray[np.bool_]:
        """One prompt's mask (H, W): `mask` holds all of them, which large pictures should not need at once."""
        mask: NDArray[np.bool_] = self.alpha[index] > self.settings.threshold
        return mask

    def _png(self, index: int, kind: str) -> bytes:
        """The file of one prompt: see `KINDS`."""
        if kind == "alpha":
            image = Image.fromarray(_eight_bits(self.alpha[index]))
        elif kind == "mask":
            image = Image.fromarray(self._mask(index)).convert("L")
        else:
            image = self.cutout(index) if kind == "cutout" else self._alone(index).overlay()
        return image_bytes(image, ".png", compress_level=3)

    def _alone(self, index: int) -> Segmentation:
        one = slice(index, index + 1)
        return Segmentation(
            self.alpha[one], self.score[one], self.prompts[one], self.settings, self.picture, self.record
        )


@dataclass(frozen=True, eq=False)
class Generation:
    """A picture with transparency that was made from a prompt.

    image: RGBA, straight alpha. steps: how many steps were done. record: how (device, seconds, model …).
    """

    image: Image.Image
    prompt: str
    settings: GenerateSettings
    steps: int
    record: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write the picture as .png or .webp, whole or not at all; a PNG carries its record as the text "peekaboo".

        Raises OutputError.
        """
        path = check_transparent(path)
        options: dict[str, Any] = {}
        if path.suffix.lower() == ".png":
            options["pnginfo"] = text = PngInfo()
            text.add_itxt("peekaboo", json.dumps({**self.record, "settings": self.settings.as_dict()}))
        else:
            options.update(lossless=True, exact=True)  # the colours under what is transparent, too
        write_all({path: image_bytes(self.image, path.suffix.lower(), **options)})


def check_transparent(path: str | Path) -> Path:
    """The path, if its ending is that of a format that holds transparency. Raises OutputError."""
    path = Path(path)
    if path.suffix.lower() not in {".png", ".webp"}:
        raise OutputError(f"{path} cannot hold transparency; end its name in .png or .webp.")
    return path


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's uncompressed RLE of an (H, W) mask: run lengths down the columns, starting with zeros."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    if flat.size and flat[0]:
        counts = [0, *counts]
    return {"counts": counts, "size": list(mask.shape)}


def _eight_bits(alpha: NDArray[np.float32]) -> NDArray[np.uint8]:
    scaled = alpha * np.float32(255)
    np.rint(scaled, out=scaled)
    return scaled.astype(np.uint8)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask's pixels within a few of its border; wider on larger pictures, so that it stays visible."""
    reach = max(1, round(min(mask.shape) / 250))
    inner = np.pad(mask, reach)
    height, width = mask.shape
    inner = inner[:height] & inner[2 * reach :]
    inner = inner[:, :width] & inner[:, 2 * reach :]
    return mask & ~inner
