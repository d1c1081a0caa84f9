"""Peekaboo: point at a picture, say what you mean, get its mask, with nothing but a text-to-image diffusion model.

    import peekaboo
    result = peekaboo.segment("photo.jpg", "a sheep")
    result.cutout().save("sheep.png")

The method is that of arXiv 2211.13224. Names are imported when first used, so that importing the package stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peekaboo.errors import PeekabooError
    from peekaboo.pipeline import Peekaboo, segment
    from peekaboo.result import Generation, Segmentation
    from peekaboo.settings import GenerateSettings, Settings, preset

__version__ = "0.1.0"
__all__ = [
    "GenerateSettings",
    "Generation",
    "Peekaboo",
    "PeekabooError",
    "Segmentation",
    "Settings",
    "preset",
    "segment",
]

_HOMES = {
    "Peekaboo": "pipeline",
    "segment": "pipeline",
    "Generation": "result",
    "Segmentation": "result",
    "GenerateSettings": "settings",
    "Settings": "settings",
    "preset": "settings",
    "PeekabooError": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'peekaboo' has no attribute {name!r}")
    return getattr(import_module(f"peekaboo.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
