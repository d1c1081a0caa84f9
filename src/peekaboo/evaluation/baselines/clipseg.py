"""CLIPSeg (arXiv 2112.10003): a small decoder on CLIP's activations, trained on the masks and phrases of PhraseCut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peekaboo.evaluation.baselines._shared import BATCH, Baseline, TextAndImage, fill

DEFAULT = "CIDAS/clipseg-rd64-refined"


class ClipSeg(Baseline):
    """The sigmoid of CLIPSeg's logits, its own decision at 0.5."""

    def __init__(self, parts: TextAndImage, template: str, model: str) -> None:
        self.parts, self.template, self.model = parts, template, model

    def alpha(self, rgb: NDArray[np.uint8], prompts: list[str]) -> Tensor:
        """See `Baseline`. (N, 352, 352) for the public model; all prompts in batches of the same picture."""
        pixels, texts = self.parts.see(rgb), fill(self.template, prompts)
        maps = []
        for part in (texts[i : i + BATCH] for i in range(0, len(texts), BATCH)):
            batch = pixels.expand(len(part), -1, -1, -1)
            logits = self.parts.network(pixel_values=batch, **self.parts.read(part)).logits
            maps.append(logits.reshape(len(part), *logits.shape[-2:]))
        return torch.sigmoid(torch.cat(maps).float())


def load(model: str | Path | None, device: str | None, dtype: str | None, *, template: str = "{}") -> ClipSeg:
    """template: what a prompt is put into, such as "a photo of a {}." around class names. Raises ModelError."""
    from transformers import CLIPSegForImageSegmentation

    name = str(model or DEFAULT)
    return ClipSeg(TextAndImage.load(CLIPSegForImageSegmentation, name, "CLIPSeg", device, dtype), template, name)
