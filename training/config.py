"""Everything about a training run that one may want to change, in one place."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


def cache_folder() -> Path:
    """Where downloads, the data pack and checkpoints live: outside git, kept between runs."""
    default = Path.home() / ".cache" / "peekaboo-training"
    return Path(os.environ.get("PEEKABOO_TRAINING_CACHE", default))


@dataclass(frozen=True)
class DataConfig:
    """Step 1: what is fetched and how it is packed."""

    npm: tuple[str, ...] = ("noto", "twemoji", "fluent-emoji", "fluent-emoji-flat", "openmoji")
    debian: tuple[str, ...] = (
        "tuxpaint-stamps-default",
        "mate-backgrounds",
        "gnome-backgrounds",
        "plasma-workspace-wallpapers",
        "lomiri-wallpapers-20.04",
    )
    categories: tuple[str, ...] = (
        "Activities",
        "Animals & Nature",
        "Food & Drink",
        "Objects",
        "Travel & Places",
    )
    sprite_side: int = 128  # longest side of a packed cut-out, pixels
    background_side: int = 360  # shortest side of a packed background, pixels


@dataclass(frozen=True)
class SceneConfig:
    """How scenes are composed (see scenes.py)."""

    objects: tuple[float, ...] = (0.55, 0.35, 0.10)  # P(1), P(2), P(3 objects)
    scale: tuple[float, float] = (0.42, 0.95)  # object's longest side / picture's shortest side
    solid: float = 0.48  # share of solid backgrounds; Peekaboo's composites have one
    gradient: float = 0.15
    photo: float = 0.37
    drop_name: float = 0.20  # an object of a crowded scene is left out of the caption
    photo_stamp: float = 0.40  # photographs among the cut-outs of a concept that has some


@dataclass(frozen=True)
class VaeConfig:
    """Step 2: AutoencoderKL."""

    channels: tuple[int, ...] = (32, 64, 96)
    latent_channels: int = 4
    scenes: int = 48_000
    batch: int = 8
    lr: float = 5e-4
    kl: float = 1e-5
    edges: float = 0.5  # weight of the loss on picture gradients: sharp borders make sharp masks


@dataclass(frozen=True)
class DenoiserConfig:
    """Step 3: UNet2DConditionModel and its CLIP text encoder, trained together."""

    channels: tuple[int, ...] = (96, 160)
    layers: int = 1
    heads_dim: int = 32
    text_width: int = 192
    text_tokens: int = 24  # positions, start and end tokens counted
    prediction_type: str = "v_prediction"
    scenes: int = 172_000
    batch: int = 64  # scenes a step
    lr: float = 7e-4
    warmup: int = 200  # steps
    caption_dropout: float = 0.12  # trains the unconditional branch of guidance
    ema: float = 0.999


@dataclass(frozen=True)
class Config:
    """The whole run."""

    seed: int = 0
    size: int = 64  # pixels: the model's native side
    shapes: tuple[tuple[int, int], ...] = (
        (64, 64),
        (64, 64),
        (56, 72),
        (72, 56),
    )  # (H, W), one drawn per batch
    data: DataConfig = field(default_factory=DataConfig)
    scenes: SceneConfig = field(default_factory=SceneConfig)
    vae: VaeConfig = field(default_factory=VaeConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    checkpoint_seconds: int = 180
