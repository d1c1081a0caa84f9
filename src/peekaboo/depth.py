"""Relative depth of a picture, by any depth-estimation model of transformers: the guide of the paper's "Depth Bilateral"."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from peekaboo.parts import load_part

DEFAULT = "depth-anything/Depth-Anything-V2-Small-hf"


class Depth:
    """A frozen depth network and its image processor (DPT/MiDaS, Depth Anything, GLPN …)."""

    def __init__(self, model: Any, image_processor: Any) -> None:
        self.model, self.image_processor = model.eval().requires_grad_(False), image_processor

    @classmethod
    def from_pretrained(cls, name: str, device: torch.device) -> Depth:
        """Load a local folder or a Hub id; float32, safetensors only. Raises ModelError."""
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation

        hint = "give a map with --depth FILE, or name a network with --depth-model, a Hub id or a local folder"
        model = load_part(AutoModelForDepthEstimation, name, "depth network", hint)
        processor = load_part(AutoImageProcessor, name, "image processor of the depth network", hint)
        return cls(model.to(device), processor)

    @torch.no_grad()
    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The depth (h, w) float32 of a picture HWC uint8, at the network's own resolution. Relative: it has no unit, near may
        be high or low, and whoever uses it stretches it (`guides.read_guide` does)."""
        inputs = self.image_processor(images=Image.fromarray(rgb), return_tensors="pt").to(self.model.device)
        predicted: NDArray[np.float32] = self.model(**inputs).predicted_depth[0].float().cpu().numpy()
        return predicted
