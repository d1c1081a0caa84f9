"""What the optimisation needs of a diffusion model, and nothing more."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from peekaboo.denoisers.steady import steady
from peekaboo.errors import ModelError


@runtime_checkable
class Denoiser(Protocol):
    """A frozen latent diffusion model.

    name: for records. native_area: pixels it was trained at. factor: pixels per latent along a side.
    timesteps: length T of its training schedule; alphas_cumprod: ᾱ_t, (T,) float32.
    """

    name: str
    device: torch.device
    dtype: torch.dtype
    native_area: int
    factor: int
    timesteps: int
    alphas_cumprod: Tensor

    def encode_prompt(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings (N, tokens, width) of N prompts; "" is the unconditional one. What else a family's network is told of a prompt rides along
        as further rows (`latents.packed`)."""
        ...

    def clipped(self, prompt: str) -> str:
        """The end of the prompt that does not fit and is not seen by the model; "" if all of it fits."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Latents (B, C, h, w), scaled as the denoiser expects them, of images (B, 3, H, W) in [0, 1]. Carries a gradient."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] of latents (B, C, h, w), as `encode` gives them. Carries no gradient."""
        ...

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        r""":math:`z_t = \sqrt{ᾱ_t} z + \sqrt{1-ᾱ_t} ε` for t (B,) int64."""
        ...

    def predict(self, noisy: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
        """The predicted noise ε̂ (B, C, h, w), whatever the network itself predicts. Carries no gradient."""
        ...


MEMBERS = (*Denoiser.__annotations__, *(name for name in vars(Denoiser) if not name.startswith("_")))
"""What an object must have to be a `Denoiser`."""


class RememberingDenoiser:
    """A `Denoiser` that encodes the same prompts once, for as long as it lives: whoever makes it sees to it that no LoRA and no
    token is loaded into the model meanwhile. It keeps the last `LIMIT` calls."""

    LIMIT = 8

    def __init__(self, inner: Denoiser) -> None:
        self._inner = inner
        self._known: OrderedDict[tuple[str, ...], Tensor] = OrderedDict()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def encode_prompt(self, prompts: Sequence[str]) -> Tensor:
        """See `Denoiser`."""
        key = tuple(prompts)
        if key not in self._known:
            self._known[key] = self._inner.encode_prompt(prompts)
            if len(self._known) > self.LIMIT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]


def adapt(pipe: Any) -> Denoiser:
    """The denoiser of a loaded diffusers pipeline. Raises ModelError for a family that has no adapter."""
    steady()
    # hasattr, not isinstance: from Python 3.12 on, that overlooks what a wrapper's __getattr__ hands on
    if all(hasattr(pipe, name) for name in MEMBERS):
        return pipe  # type: ignore[no-any-return]
    family = family_of(pipe)
    missing = [part for part in family.PARTS if getattr(pipe, part, None) is None]
    if missing:
        raise ModelError(
            f"{type(pipe).__name__} has no {', '.join(missing)}; pass a loaded text-to-image pipeline of the "
            "Stable Diffusion or Flux families."
        )
    return family(pipe)  # type: ignore[no-any-return]


def family_of(pipe: Any) -> Any:
    """The adapter of a pipeline, by its network. Raises ModelError for a transformer that has none."""
    from peekaboo.denoisers.flux import Flux
    from peekaboo.denoisers.stable_diffusion import StableDiffusion
    from peekaboo.denoisers.stable_diffusion_3 import StableDiffusion3
    from peekaboo.denoisers.stable_diffusion_xl import StableDiffusionXL

    transformer = getattr(pipe, "transformer", None)
    if transformer is not None:
        kind = type(getattr(transformer, "_orig_mod", transformer)).__name__  # torch.compile wraps it
        families = {"SD3Transformer2DModel": StableDiffusion3, "FluxTransformer2DModel": Flux}
        if kind not in families:
            raise ModelError(
                f"A {kind} has no adapter; use a text-to-image model of the Stable Diffusion (1, 2, XL, 3) or Flux families."
            )
        return families[kind]
    config = getattr(getattr(pipe, "unet", None), "config", None)
    sized = getattr(config, "addition_embed_type", None) == "text_time"
    return StableDiffusionXL if sized else StableDiffusion


def epsilon_from(output: Tensor, noisy: Tensor, alpha_bar: Tensor, prediction_type: str) -> Tensor:
    r"""Turn a network's output into the predicted noise ε̂.

    epsilon: the output itself. v_prediction (arXiv 2202.00512): :math:`ε̂ = \sqrt{ᾱ_t} v + \sqrt{1-ᾱ_t} z_t`.
    sample: :math:`ε̂ = (z_t - \sqrt{ᾱ_t} ẑ) / \sqrt{1-ᾱ_t}`. `alpha_bar` broadcasts, (B, 1, 1, 1).
    """
    if prediction_type == "epsilon":
        return output
    if prediction_type == "v_prediction":
        return alpha_bar.sqrt() * output + (1 - alpha_bar).sqrt() * noisy
    if prediction_type == "sample":
        return (noisy - alpha_bar.sqrt() * output) / (1 - alpha_bar).sqrt()
    raise ModelError(f"The model predicts {prediction_type!r}; only epsilon, v_prediction and sample are known.")
