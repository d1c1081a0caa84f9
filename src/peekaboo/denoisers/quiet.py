"""Silence for libraries that talk on stderr."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """No chatter of diffusers, transformers and the Hub's client meanwhile (our own sentences say it all); restored afterwards."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    hub = logging.getLogger("huggingface_hub")  # tells of every retry
    hub_level = hub.level
    hub.setLevel(logging.CRITICAL)
    loggers = [diffusers_logging, transformers_logging]
    levels = [logger.get_verbosity() for logger in loggers]
    bars = [logger.is_progress_bar_enabled() for logger in loggers]
    for logger in loggers:
        logger.set_verbosity(logging.CRITICAL)
        logger.disable_progress_bar()
    try:
        yield
    finally:
        hub.setLevel(hub_level)
        for logger, level, bar in zip(loggers, levels, bars, strict=True):
            logger.set_verbosity(level)
            if bar:
                logger.enable_progress_bar()
