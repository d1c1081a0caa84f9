"""What the baselines share: checking what comes in, resizing what goes out, and rules that make a mask of a map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from peekaboo.denoisers import BUNDLED, Denoiser, adapt, load_pipeline
from peekaboo.denoisers.load import pick_device, pick_dtype
from peekaboo.errors import ModelError, PromptError, SettingsError
from peekaboo.images import model_size, read_image, to_model
from peekaboo.parts import load_part

BATCH = 16
"""Prompts a network sees at a time, so that memory does not grow with them."""


class Baseline(ABC):
    """A `Segmenter`: the checks and the last resizing; what a method is, is its `alpha`.

    model: what it runs on, for records.
    """

    model: str = ""

    def __call__(self, image: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Segmenter`."""
        rgb = read_image(image).rgb
        texts = [" ".join(prompt.split()) for prompt in ([prompts] if isinstance(prompts, str) else prompts)]
        if not texts or not all(texts):
            raise PromptError("A prompt is missing or empty; say what to find, for example 'a sheep'.")
        size = (rgb.shape[0], rgb.shape[1])
        with torch.no_grad():
            alpha = resize(self.alpha(rgb, texts), size).clamp(0, 1)
        result: NDArray[np.float32] = alpha.cpu().numpy()
        return result

    @abstractmethod
    def alpha(self, rgb: NDArray[np.uint8], prompts: list[str]) -> Tensor:
        """Alphas (N, h, w) in [0, 1] of a picture HWC uint8, at any size of its aspect; undecided at 0.5. No
        gradient."""


def resize(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Maps (N, h, w) at another size, float32, bilinear, with an antialiasing filter where they shrink."""
    maps = maps.float()
    if tuple(maps.shape[-2:]) == size:
        return maps
    shrinks = not align_corners and (size[0] < maps.shape[-2] or size[1] < maps.shape[-1])
    return F.interpolate(maps[None], size=size, mode="bilinear", antialias=shrinks, align_corners=align_corners)[0]


def against(logits: Tensor) -> Tensor:
    """Each prompt against the background alone: logits (N + 1, h, w), the background last, to alphas (N, h, w), the
    softmax over the two. Above 0.5 where the prompt is the likelier name, whatever else was asked."""
    return torch.sigmoid(logits[:-1].float() - logits[-1:].float())


def otsu(values: Tensor) -> Tensor:
    """Otsu's threshold of each row of values (N, n): of all splits of the sorted values, the one whose two sides' means
    lie furthest apart, weighted (the largest variance between them). (N,), half way between the split's two
    neighbours."""
    ordered = values.double().sort(dim=1).values
    count = torch.arange(1, ordered.shape[1], dtype=torch.float64, device=values.device)
    total, sums = ordered.sum(dim=1, keepdim=True), ordered.cumsum(dim=1)[:, :-1]
    rest = ordered.shape[1] - count
    between = count * rest * ((total - sums) / rest - sums / count).square()
    split = between.argmax(dim=1, keepdim=True)
    middle = (ordered.gather(1, split) + ordered.gather(1, split + 1)) / 2
    return middle[:, 0].to(values.dtype)


def around(maps: Tensor, threshold: Tensor) -> Tensor:
    """Maps (N, h, w) to alphas in [0, 1] with each map's threshold (N,) at 0.5: linear from its least value to the
    threshold, and from there to its greatest. A map that is flat names nothing: 0."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    middle = threshold.view(-1, 1, 1).clamp(low, high)
    below = (maps - low) / (middle - low).clamp_min(1e-12)
    above = (maps - middle) / (high - middle).clamp_min(1e-12)
    alpha = torch.where(maps > middle, 0.5 + above / 2, below / 2)
    return torch.where(high - low > 1e-12, alpha, torch.zeros_like(alpha))


def fill(template: str, prompts: Sequence[str]) -> list[str]:
    """The prompts in a template with one `{}`. Raises SettingsError."""
    if template.count("{}") != 1:
        raise SettingsError(f"The template {template!r} must hold {{}} once, where the prompt goes.")
    return [template.replace("{}", prompt) for prompt in prompts]


def place(device: str | None, dtype: str | None) -> tuple[torch.device, torch.dtype]:
    """Where and in what precision a rival runs: the best device, and float32 unless another is named. Raises
    ModelError."""
    where = pick_device(device)
    return where, torch.float32 if dtype in (None, "auto") else pick_dtype(dtype, where)


def load_words(name: str | Path, what: str, hint: str) -> Any:
    """A tokenizer, from a Hub id or a local folder. Raises ModelError, also for one that knows no word: that is what
    transformers makes of a folder that has none."""
    from transformers import AutoTokenizer

    tokenizer = load_part(AutoTokenizer, name, f"tokenizer of {what}", hint)
    ids = tokenizer("a dog", add_special_tokens=False)["input_ids"]
    if set(ids) <= {tokenizer.unk_token_id, *tokenizer.all_special_ids}:
        raise ModelError(
            f"The tokenizer of {what} in {str(name)[:80]!r} knows no words, or has no files there; {hint}."
        )
    return tokenizer


def load_denoiser(model: Any, device: str | None, dtype: str | None) -> Denoiser:
    """The denoiser of a model by name, of a pipeline that is already loaded, or as it is. Raises ModelError."""
    if model is None or isinstance(model, (str, Path)):
        return adapt(load_pipeline(BUNDLED if model is None else model, device, dtype))
    return adapt(model)


def latents_of(denoiser: Denoiser, rgb: NDArray[np.uint8]) -> Tensor:
    """The latents (1, C, h, w) of a picture, seen at the model's own number of pixels with the picture's aspect."""
    size = model_size(rgb.shape[0], rgb.shape[1], denoiser.native_area, denoiser.factor)
    return denoiser.encode(to_model(rgb, size).to(denoiser.device))


class TextAndImage:
    """A frozen text-and-image network of transformers, with its tokenizer and image processor.

    The picture is squeezed whole to the network's own square: what its processor would crop away must get a mask too.
    """

    def __init__(self, network: Any, tokenizer: Any, image_processor: Any) -> None:
        from peekaboo.clip import input_size

        self.network, self.tokenizer = network.eval().requires_grad_(False), tokenizer
        self.image_processor, self.size = image_processor, input_size(network, image_processor)

    @classmethod
    def load(cls, kind: Any, name: str | Path, what: str, device: str | None, dtype: str | None) -> TextAndImage:
        """Load a Hub id or a local folder, safetensors only. Raises ModelError."""
        from transformers import AutoImageProcessor

        where, precision = place(device, dtype)
        hint = "check the name and the network, or name a local folder that holds one"
        network = load_part(kind, name, f"{what} model", hint).to(where, precision)
        tokenizer = load_words(name, f"the {what} model", hint)
        processor = load_part(AutoImageProcessor, name, f"image processor of the {what} model", hint)
        return cls(network, tokenizer, processor)

    def see(self, rgb: NDArray[np.uint8]) -> Tensor:
        """A picture HWC uint8 as the network takes it: (1, 3, h, w)."""
        size = {"height": self.size[0], "width": self.size[1]}
        batch = self.image_processor(
            images=Image.fromarray(rgb), size=size, do_center_crop=False, return_tensors="pt"
        ).pixel_values
        pixels: Tensor = batch.to(self.network.device, self.network.dtype)
        return pixels

    def read(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """The tokens of texts, cut to what the network reads."""
        length = self.network.config.get_text_config().max_position_embeddings
        batch = self.tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        return {key: batch[key].to(self.network.device) for key in ("input_ids", "attention_mask")}
