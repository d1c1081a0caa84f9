"""Adapters: one file per model family, all behind the small protocol of `base`."""

from peekaboo.denoisers.base import Denoiser, adapt
from peekaboo.denoisers.load import BUNDLED, load_pipeline

__all__ = ["BUNDLED", "Denoiser", "adapt", "load_pipeline"]
