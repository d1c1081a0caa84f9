"""Adapters: one file per model family, all behind the small protocol of `base`."""

from peekaboo.denoisers.base import Denoiser, adapt
from peekaboo.denoisers.load import BUNDLED, bundled_folder, load_pipeline

__all__ = ["BUNDLED", "Denoiser", "adapt", "bundled_folder", "load_pipeline"]
