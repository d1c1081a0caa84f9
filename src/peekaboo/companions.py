"""The other networks that some variants ask, loaded when first asked and kept with the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from peekaboo.denoisers import BUNDLED
from peekaboo.settings import Settings

if TYPE_CHECKING:
    from peekaboo.clip import Clip
    from peekaboo.depth import Depth


class Companions:
    """The image-text model and the depth network beside one denoiser.

    model: the denoiser's name: where it is the bundled one, so is the image-text model unless the settings name another.
    """

    def __init__(self, model: str, device: torch.device) -> None:
        self.model, self.device = model, device
        self._clips: dict[str, Clip] = {}
        self._depths: dict[str, Depth] = {}

    def load(self, settings: Settings, guided: bool) -> None:
        """Load what these settings will ask for, so that what is missing is told at once. guided: a map is given, so that no
        depth network is needed. Raises ModelError."""
        if settings.estimator == "clip":
            self.clip(settings)
        if settings.blur == "depth" and not guided:
            self.depth(settings)

    def clip(self, settings: Settings) -> Clip:
        """The image-text model that the CLIP loss asks. Raises ModelError."""
        from peekaboo import clip

        name = settings.clip_model
        if name == "auto":
            name = clip.BUNDLED_CLIP if self.model == BUNDLED else clip.DEFAULT
        if name not in self._clips:
            self._clips[name] = clip.Clip.from_pretrained(name, self.device)
        return self._clips[name]

    def depth(self, settings: Settings) -> Depth:
        """The depth network that guides the blur. Raises ModelError."""
        from peekaboo import depth

        name = depth.DEFAULT if settings.depth_model == "auto" else settings.depth_model
        if name not in self._depths:
            self._depths[name] = depth.Depth.from_pretrained(name, self.device)
        return self._depths[name]
