"""An image-text model that judges composites: any CLIP or SigLIP of transformers, differentiable down to the pixels.

The paper's "CLIP" variant uses it as the loss (arXiv 2211.13224); the models are those of arXiv 2103.00020 and 2303.15343.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from peekaboo.denoisers.load import bundled_folder, verify
from peekaboo.parts import load_part
from peekaboo.scene import Judge

BUNDLED_CLIP = "bundled-clip"
DEFAULT = "openai/clip-vit-base-patch16"


def bundled_clip_folder() -> Path:
    """Where the bundled dual encoder lies: beside the bundled model."""
    return bundled_folder().with_name(BUNDLED_CLIP)


class Clip:
    """A frozen dual encoder of pictures and texts.

    model: a transformers model with `get_image_features` and `get_text_features`. tokenizer, image_processor: its own; of the
    image processor only the size, the mean and the spread are read, since its work has to be done differentiably.
    """

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any) -> None:
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.size = input_size(model, image_processor)
        self.mean = torch.tensor(image_processor.image_mean).view(1, 3, 1, 1)
        self.spread = torch.tensor(image_processor.image_std).view(1, 3, 1, 1)

    @classmethod
    def from_pretrained(cls, name: str, device: torch.device) -> Clip:
        """Load "bundled-clip", a local folder, or a Hub id; float32, safetensors only. Raises ModelError."""
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        folder: str | Path = bundled_clip_folder() if name == BUNDLED_CLIP else name
        if name == BUNDLED_CLIP:
            verify(bundled_clip_folder())
        hint = "name a CLIP or SigLIP with --clip-model, a Hub id or a local folder"
        model = load_part(AutoModel, folder, "image-text model", hint)
        tokenizer = load_part(AutoTokenizer, folder, "tokenizer of the image-text model", hint)
        processor = load_part(AutoImageProcessor, folder, "image processor of the image-text model", hint)
        return cls(model.to(device), tokenizer, processor)

    def see(self, pictures: Tensor) -> Tensor:
        """What the model is shown of pictures (B, 3, H, W) in [0, 1]: resized to its own size and standardised.

        The whole picture, squeezed to the model's square: what is cropped away could get no gradient.
        """
        pictures = pictures.float()
        if tuple(pictures.shape[-2:]) != self.size:
            pictures = F.interpolate(pictures, size=self.size, mode="bicubic", antialias=True, align_corners=False)
        return (pictures - self.mean.to(pictures.device)) / self.spread.to(pictures.device)

    def embed_images(self, pictures: Tensor) -> Tensor:
        """Unit embeddings (B, D) of pictures (B, 3, H, W) in [0, 1]. Carries a gradient."""
        rows = self.model.get_image_features(pixel_values=self.see(pictures))
        return F.normalize(getattr(rows, "pooler_output", rows), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings (N, D) of texts."""
        length = self.model.config.get_text_config().max_position_embeddings
        batch = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).to(self.model.device)
        rows = self.model.get_text_features(**batch)
        return F.normalize(getattr(rows, "pooler_output", rows), dim=-1)

    def judge(self, texts: Sequence[str]) -> Judge:
        """Cosine similarities (N,), in [-1, 1], of N pictures (N, 3, H, W), each with its own of the N texts."""
        embedded = self.embed_texts(texts)
        return lambda pictures: (self.embed_images(pictures) * embedded).sum(dim=-1)


def input_size(model: Any, image_processor: Any) -> tuple[int, int]:
    """The (height, width) that the model takes."""
    for size in (getattr(image_processor, "crop_size", None), getattr(image_processor, "size", None)):
        if size and getattr(size, "height", None) and getattr(size, "width", None):
            return int(size.height), int(size.width)
        if isinstance(size, dict) and "height" in size and "width" in size:
            return int(size["height"]), int(size["width"])
    side = int(model.config.vision_config.image_size)
    return side, side
