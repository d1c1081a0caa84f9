"""Every setting of a run, in one frozen dataclass that feeds the API, the command line, and the run record."""

from __future__ import annotations

import dataclasses
import numbers
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from peekaboo.errors import SettingsError

Alpha = Literal["raster", "fourier"]
Blur = Literal["rgb", "depth", "none"]
Estimator = Literal["sds", "csd", "clip"]
Optimizer = Literal["sgd", "adam"]


@dataclass(frozen=True)
class Checked:
    """What frozen dataclasses of settings share: types and ranges are checked when one is made, whoever makes it."""

    def _check(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise SettingsError(f"The setting {name} is {getattr(self, name)!r}; expected {expected}.")

    def _check_types(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(kind) is Literal:
                if value not in get_args(kind):
                    choices = " or ".join(map(repr, get_args(kind)))
                    raise SettingsError(f"The setting {name} is {value!r}; expected {choices}.")
            elif kind is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
                object.__setattr__(self, name, int(value))  # NumPy's, too
            elif kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool) and value == value:
                object.__setattr__(self, name, float(value))
            elif type(value) is not kind or value != value:
                raise SettingsError(f"The setting {name} is {value!r}; expected a {kind.__name__}.")

    def _check_descent(self) -> None:
        """The ranges of what every descent by score distillation is told, of a mask or of a picture."""
        values: Any = self
        self._check("steps", values.steps >= 0, "0 or more")
        self._check("draws", values.draws >= 1, "1 or more")
        self._check("t_max", 0 < values.t_max <= 1, "above 0 and at most 1")
        self._check("t_min", 0 <= values.t_min < values.t_max, f"at least 0 and below t_max, which is {values.t_max}")
        self._check("learning_rate", values.learning_rate > 0, "above 0")
        self._check("seed", 0 <= values.seed < 2**63, "between 0 and 2**63 - 1")

    def with_changes(self, **changes: Any) -> Self:
        """A copy with some settings changed. Raises SettingsError for an unknown name or a value out of range."""
        known = {f.name for f in dataclasses.fields(self)} - {"preset"}  # a name alone would tell an untruth
        for name in changes:
            if name not in known:
                raise SettingsError(f"There is no setting {name!r}; the settings are {', '.join(sorted(known))}.")
        return dataclasses.replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the run record."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Settings(Checked):
    r"""How a segmentation is made. The defaults are the preset "default"; see `preset` for the others.

    preset: the name of what these began as, for the record; it sets nothing: `peekaboo.preset("paper")` does.
    alpha: what is optimised, "raster" (a logit per pixel) or "fourier" (an MLP on Fourier features).
    blur: what guides the bilateral blur: "rgb", "depth" (a network's, see depth_model, or the map that `segment(guide=…)`
    gives), or "none"; a given guide always wins.
    warm_start: draws of (t, ε), for the picture and for its mirror image, for the forward-only map that alpha starts from; 0 starts from noise, as the paper does.
    rivals: True compares the prompt, for that map and for `presence`, with other names, a draw each, rather than with no prompt: what speaks
    for any object at all does not count, and it costs nothing. With the bundled model, False takes the wrong object half as often, and the
    right one of two of a kind less often; `presence` is calibrated for True.
    pooling: how far the map's evidence is pooled over what the prompt's words attend to, in shares of the picture's shorter side
    (a standard deviation); 0 takes each place for itself.
    cut: where that map, the background 0 and its peak 1, counts as undecided.
    steps: optimisation steps. draws: (t, ε) pairs a step. estimator: "sds", the paper's
    :math:`w(t)(ε̂-ε)`, "csd", the classifier score alone :math:`w(t)(ε_p-ε_∅)` (arXiv 2310.19415), or "clip", minus the
    similarity that an image-text model sees between composite and prompt.
    depth_model, clip_model: Hub ids or local folders; "auto" is Depth Anything V2 small, and the bundled dual encoder with the
    bundled model or else CLIP ViT-B/16.
    complement: weight of the score on the complement (1−α)·x, which must not be the prompt.
    balance: True shifts every image's alpha gradient so that indifferent pixels stand still; gravity is then not needed.
    t_min, t_max: timesteps that the steps draw from, as fractions of the training schedule's length (the first map's: `evidence.BAND`).
    guidance_scale: s in :math:`ε̂ = ε_∅ + s(ε_p - ε_∅)`. Other code writes ε_p + s(ε_p − ε_∅), which is one more at the same s.
    gravity: λ of the penalty λ·Σα, on an α grid of four pixels per latent side as in the paper.
    optimizer, learning_rate: "sgd" or "adam", on the logits (see `optimize.learning_rate` for how the paper's is scaled).
    kernel_size, blur_iterations, sigma_space, sigma_guide: the bilateral blur's.
    threshold: the mask is alpha above it. compete: several prompts share the pixels (softmax with a "none of them" class).
    grabcut: True lets the picture's own colours say how far the things extend that alpha has found (`peekaboo.grabcut`).
    levels: how the finished alpha is cleaned: up to this it becomes 0, from one minus this on 1, and what is between is stretched, ½ staying ½,
    so that a cut-out has no haze around it; 0 leaves it as it was optimised.
    presence: what scores less is not there: its mask is empty, its alpha 0. 0 finds everything. See `peekaboo.presence`.
    places: True reads "the left …", "the second … from the right" off a prompt, asks the model for the rest of it, and keeps the thing
    that stands there (`peekaboo.places`); False leaves such words to the model.
    seed: of every random draw. The same seed on the same machine gives the same bytes (tested on CPUs; CUDA's kernels need not).
    """

    preset: str = "default"
    alpha: Alpha = "raster"
    blur: Blur = "rgb"
    warm_start: int = 24
    rivals: bool = True
    pooling: float = 0.17
    cut: float = 0.33
    steps: int = 4
    draws: int = 2
    estimator: Estimator = "csd"
    complement: float = 0.0
    balance: bool = True
    t_min: float = 0.3
    t_max: float = 0.8
    guidance_scale: float = 100.0
    gravity: float = 0.0
    optimizer: Optimizer = "adam"
    learning_rate: float = 0.25
    kernel_size: int = 3
    blur_iterations: int = 40
    sigma_space: float = 5.0
    sigma_guide: float = 0.08
    depth_model: str = "auto"
    clip_model: str = "auto"
    threshold: float = 0.5
    compete: bool = True
    places: bool = True
    grabcut: bool = True
    levels: float = 0.25
    presence: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_types()
        self._check_descent()
        self._check("warm_start", self.warm_start >= 0, "0 or more")
        self._check("steps", self.steps + self.warm_start > 0, "1 or more when warm_start is 0")
        self._check("pooling", 0 <= self.pooling < 2, "at least 0 and below 2")
        self._check("kernel_size", self.kernel_size % 2 == 1 and self.kernel_size > 0, "odd and positive")
        self._check("blur_iterations", self.blur_iterations >= 0, "0 or more")
        self._check("sigma_space", self.sigma_space > 0, "above 0")
        self._check("sigma_guide", self.sigma_guide > 0, "above 0")
        self._check("threshold", 0 < self.threshold < 1, "between 0 and 1")
        self._check("complement", self.complement >= 0, "0 or more")
        self._check("levels", 0 <= self.levels < 0.5, "at least 0 and below 0.5")
        self._check("presence", 0 <= self.presence < 1, "at least 0 and below 1")


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # a quick look: the forward-only map alone
    "draft": {"steps": 0},
    # arXiv 2211.13224: 200 iterations of SGD from an undecided mask, one (t, noise) each, gravity
    "paper": {
        "warm_start": 0,
        "steps": 200,
        "draws": 1,
        "estimator": "sds",
        "balance": False,
        "t_min": 0.02,
        "t_max": 0.98,
        "guidance_scale": 100.0,
        "gravity": 0.05,
        "optimizer": "sgd",
        "learning_rate": 1e-5,
        "places": False,
        "grabcut": False,
        "levels": 0.0,
        "presence": 0.0,
    },
}

VARIANTS: dict[str, dict[str, Any]] = {  # the rows of the paper's tables: an alpha model, a guide, a loss
    "raster": {"alpha": "raster", "blur": "none"},
    "fourier": {"alpha": "fourier", "blur": "none"},
    "bilateral-fourier": {"alpha": "fourier", "blur": "rgb"},
    "rgb-bilateral": {"alpha": "raster", "blur": "rgb"},
    "depth-bilateral": {"alpha": "raster", "blur": "depth"},
    "clip": {"alpha": "raster", "blur": "rgb", "estimator": "clip"},
}


def preset(name: str = "default", variant: str | None = None, **changes: Any) -> Settings:
    """The settings of a preset, "default", "paper" or "draft", as one of the paper's variants, with changes.

    variant: a name of `VARIANTS`, or None for the preset's own. It goes with any preset: under "paper" it is the row of the
    paper's table; under "default" the same composition, from the warm start. Raises SettingsError.
    """
    if name not in PRESETS:
        raise SettingsError(f"There is no preset {name!r}; the presets are {', '.join(PRESETS)}.")
    composition = variant_changes(variant) if variant else {}
    return Settings(preset=name).with_changes(**{**PRESETS[name], **composition, **changes})


def variant_changes(name: str) -> dict[str, Any]:
    """What a variant sets. Raises SettingsError for an unknown one."""
    if name not in VARIANTS:
        raise SettingsError(f"There is no variant {name!r}; the variants are {', '.join(VARIANTS)}.")
    return VARIANTS[name]


Start = Literal["sample", "consensus", "noise"]


@dataclass(frozen=True)
class GenerateSettings(Checked):
    r"""How a picture with transparency is made. The defaults are the preset "default"; see `generate_preset`.

    preset: the name of what these began as, for the record; it sets nothing: `generate_preset` does.
    alpha: what holds the picture and its alpha, "raster" (four logits a pixel) or "fourier" (an MLP with four outputs).
    start: "sample" begins with a plain sample of the model's own, out of which the prompt's own mask cuts the thing (`sampling.sample`, then
    a segmentation under the preset "default"); "consensus" with a sample on many backgrounds at once (`consensus.sample`), whose alpha may be
    half transparent; "noise" with nothing, as the paper does. start_steps, start_guidance: that sample's denoising steps and guidance scale.
    steps: optimisation steps with the Peekaboo loss. backgrounds: random solid colours that every step, of either kind, blends
    with. estimator, draws, guidance_scale, t_min, t_max: see `Settings`.
    learning_rate: Adam's, for logits; for the weights of an MLP as it is.
    penalty: weight of the mean of alpha, which wants less to be covered.
    negative_prompt: what the guidance leads away from, instead of nothing.
    seed: of every random draw.
    """

    preset: str = "default"
    alpha: Alpha = "raster"
    start: Start = "sample"
    start_steps: int = 30
    start_guidance: float = 5.0
    steps: int = 0
    backgrounds: int = 4
    draws: int = 1
    estimator: Estimator = "sds"
    guidance_scale: float = 7.5
    complement: float = 0.0
    t_min: float = 0.02
    t_max: float = 0.5
    learning_rate: float = 0.02
    penalty: float = 0.0
    negative_prompt: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_types()
        self._check_descent()
        self._check("steps", self.steps > 0 or self.start != "noise", "1 or more when start is noise")
        self._check("start_steps", self.start_steps >= 2, "2 or more")
        self._check("backgrounds", self.backgrounds >= 2, "2 or more: one background cannot tell what is transparent")
        self._check("estimator", self.estimator != "clip", "'sds' or 'csd'")
        self._check("complement", self.complement == 0, "0: there is no picture but the one that is made")


GENERATE_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # arXiv 2211.13224 and its authors' notebook: a four-channel Fourier image from nothing, Adam at 2e-4, guidance 100
    "paper": {
        "alpha": "fourier",
        "start": "noise",
        "steps": 500,
        "backgrounds": 4,
        "guidance_scale": 100.0,
        "t_max": 0.98,
        "learning_rate": 2e-4,
    },
}


def generate_preset(name: str = "default", **changes: Any) -> GenerateSettings:
    """The settings of a preset of generation, "default" or "paper", with changes. Raises SettingsError."""
    if name not in GENERATE_PRESETS:
        raise SettingsError(
            f"There is no preset {name!r} of generation; the presets are {', '.join(GENERATE_PRESETS)}."
        )
    return GenerateSettings(preset=name).with_changes(**{**GENERATE_PRESETS[name], **changes})
