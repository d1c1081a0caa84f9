"""Everything about a training run that one may want to change, in one place."""

from __future__ import annotations

import ast
import os
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """Where downloads, the data pack and checkpoints live: outside git, kept between runs."""
    default = Path.home() / ".cache" / "peekaboo-training"
    return Path(os.environ.get("PEEKABOO_TRAINING_CACHE", default))


@dataclass(frozen=True)
class DataConfig:
    """Step 1: what is fetched and how it is packed."""

    icons: tuple[str, ...] = (  # @iconify-json/…: SVG
        "noto",
        "twemoji",
        "fluent-emoji",
        "fluent-emoji-flat",
        "openmoji",
        "emojione",
        "emojione-v1",
        "noto-v1",
        "streamline-emojis",
        "fxemoji",
    )
    renders: str = "@lobehub/fluent-emoji-3d"  # WebP, named by code point
    keywords: str = "emojibase-data"
    stamps: str = "tuxpaint-stamps-default"
    clips: str = "openclipart-png"
    wordnet: str = "wordnet-base"
    backgrounds: tuple[str, ...] = (
        "mate-backgrounds",
        "gnome-backgrounds",
        "plasma-workspace-wallpapers",
        "lomiri-wallpapers-20.04",
        "lomiri-wallpapers-16.04",
        "ukui-wallpapers",
    )
    unseen_style: str = "fxemoji"  # a whole set that no training step sees
    families: tuple[tuple[str, ...], ...] = (  # sets whose drawings of one thing are alike: held out together
        ("fluent-emoji", "fluent-emoji-flat", "fluent-emoji-3d"),
        ("noto", "noto-v1"),
        ("emojione", "emojione-v1"),
    )
    sprite_side: int = 128  # longest side of a packed cut-out, pixels
    quality: int = 78  # WebP's
    background_side: int = 360  # shortest side of a packed background, pixels


@dataclass(frozen=True)
class SceneConfig:
    """How scenes are composed (see scenes.py)."""

    only: int = (
        0  # of the core names, so many and nothing else: a small world for ablations (benchmarks/ablations.py); 0: all
    )
    core: float = 0.55  # share of the draws that show one of the hand-written table's names
    people: float = 0.10  # share that shows a person, a hand or a smiley
    objects: tuple[float, ...] = (0.50, 0.40, 0.10)  # P(1), P(2), P(3 objects)
    scale: tuple[float, float] = (0.42, 0.95)  # object's longest side / picture's shortest side
    close_up: tuple[float, float] = (0.60, 1.05)  # the same in close-ups, which show one object
    solid: float = 0.40  # share of solid backgrounds; Peekaboo's composites have one
    gradient: float = 0.22
    photo: float = 0.38
    drop_name: float = 0.30  # an object of a crowded scene is left out of the caption
    of_a_kind: float = 0.12  # two objects of a crowded scene show the same thing
    photo_stamp: float = 0.40  # photographs among the cut-outs of a concept that has some
    restyled: float = 0.20  # objects drawn otherwise: darker, flatter, paler, outlined, out of focus
    recoloured: float = 0.10  # objects whose hue is turned; the caption names the colour where it has a name
    shadow: float = 0.25
    patches: float = 0.20  # scenes with distractor patches: shapes, scraps of photographs
    light: float = 0.20  # scenes lit from one side
    jpeg: float = 0.15


@dataclass(frozen=True)
class CaptionConfig:
    """How a scene is put in words (see captions.py). Shares of the mentions."""

    synonym: float = 0.15
    kind: float = 0.08
    keyword: float = 0.03
    colour: float = 0.15
    position: float = 0.12
    frame: float = 0.15  # "a photo of", "a drawing of"


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
    attention: tuple[bool, ...] = (False, True)  # levels, from the latents' own size down, that read the caption
    layers: int = 2
    heads_dim: int = 32
    text_width: int = 192
    text_layers: int = 1
    vocabulary: int = 8192  # tokens
    text_tokens: int = 24  # positions, start and end tokens counted
    prediction_type: str = "v_prediction"
    min_snr: float = 0.0  # the γ of min-SNR weighting (arXiv 2303.09556); 0: every timestep weighs the same
    scenes: int = 240_000
    batch: int = 96  # scenes a step
    compose: int = 128  # scenes that are composed at a time, where that is less
    lr: float = 8e-4
    muon: bool = True  # for the matrices; AdamW for the rest
    warmup: int = 100  # steps
    decay: float = 0.5  # share of the steps over which the rate falls to zero
    replay: int = 64  # encoded batches that are kept to be trained on again; a GPU has room for thousands
    replay_share: float = (
        0.5  # steps on kept batches: each scene is seen twice on average. On a GPU: as many as need be
    )
    object_weight: float = 3.0  # of a latent that shows an object, against one of background, in the loss
    align: float = 0.005  # weight of the loss that pulls the UNet's middle towards the names of what it sees (align.py)
    align_share: float = 0.34  # of a batch that it looks at
    align_others: int = 128  # names, beside those of the batch, that the right one must beat
    caption_dropout: float = 0.12  # trains the unconditional branch of guidance
    ema: float = 0.995


@dataclass(frozen=True)
class ClipConfig:
    """Step 4: CLIPModel, the dual encoder that judges pictures."""

    width: int = 192  # of both encoders and of the joint space
    layers: int = 6
    text_layers: int = 2
    patch: int = 8  # pixels
    scale: tuple[float, float] = (0.50, 1.05)  # the object's longest side / picture's side
    scenes: int = 240_000
    batch: int = 256
    replay: int = 2048  # composed batches of 256 that are kept to be trained on again, on a GPU
    lr: float = 1e-3
    warmup: int = 50  # steps
    ema: float = 0.99


@dataclass(frozen=True)
class Config:
    """The whole run."""

    seed: int = 5  # of scenes, noise and fresh weights; another for each run that goes on from the last, or it sees the same scenes
    size: int = 64  # pixels: the model's native side
    shapes: tuple[tuple[int, int], ...] = (  # (H, W), one drawn per batch
        (64, 64),
        (64, 64),
        (56, 72),
        (72, 56),
        (48, 48),
        (48, 48),
        (48, 48),
    )
    close_up: tuple[int, int] = (48, 48)  # this shape shows one object, large: cheap practice
    data: DataConfig = field(default_factory=DataConfig)
    scenes: SceneConfig = field(default_factory=SceneConfig)
    captions: CaptionConfig = field(default_factory=CaptionConfig)
    vae: VaeConfig = field(default_factory=VaeConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    checkpoint_seconds: int = 180


def changed(cfg: Any, changes: list[str], inside: str = "") -> Any:
    """The configuration with some values replaced: each change is "denoiser.lr=2e-3", as the steps' --set has it.

    Raises SystemExit with a sentence where there is no such value, or none of that type.
    """
    for change in changes:
        path, equals, text = change.partition("=")
        said = f"--set {inside}{change}"
        head, _, rest = path.partition(".")
        old = getattr(cfg, head, None) if head in {f.name for f in fields(cfg)} else None
        if not equals or is_dataclass(old) != bool(rest) or old is None:
            raise SystemExit(f"{said}: expected NAME=VALUE with a name of config.py, like denoiser.lr=2e-3.")
        if rest:
            cfg = replace(cfg, **{head: changed(old, [f"{rest}={text}"], f"{inside}{head}.")})
            continue
        try:
            value = text if isinstance(old, str) else ast.literal_eval(text)
        except (ValueError, SyntaxError) as error:
            raise SystemExit(f"{said}: {text!r} is no value.") from error
        value = float(value) if isinstance(old, float) and isinstance(value, int) else value
        if type(value) is not type(old):
            raise SystemExit(f"{said}: expected {type(old).__name__}, like {old!r}.")
        cfg = replace(cfg, **{head: value})
    return cfg
