"""Errors a user can cause. Each message says what was got, what was expected and what to do."""

from __future__ import annotations


class PeekabooError(Exception):
    """The family of all errors that a user's input can cause; its text is one clear sentence."""


class ImageError(PeekabooError):
    """A picture that cannot be read, or should not be."""


class PromptError(PeekabooError):
    """A prompt that says nothing."""


class ModelError(PeekabooError):
    """A model that cannot be found, loaded or used."""


class SettingsError(PeekabooError):
    """A setting out of its range."""


class OutputError(PeekabooError):
    """A result that cannot be written."""


class NumericalError(PeekabooError):
    """The optimisation produced values that are not numbers."""


class DatasetError(PeekabooError):
    """A data set, or a record of one, that cannot be read, or results of an evaluation that must not be mixed."""


class EngineError(PeekabooError):
    """Other machines, or the Ray that reaches them, that cannot be used."""


class MissingExtraError(PeekabooError):
    """An optional package is needed; the message says how to install it."""


def first_line(error: BaseException) -> str:
    """The first line of a library's error, at most 200 characters, to be quoted in a sentence of ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
