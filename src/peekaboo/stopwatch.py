"""Where the time of a run went: `--profile`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from peekaboo.denoisers.base import Denoiser


class Stopwatch:
    """Seconds and calls by name. Time measured inside another measurement counts for the inner one alone, so that all of
    them add up to the whole.

    device: whose queue is waited for at each start and end, so that a GPU's work counts where it was asked for.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self._inner: list[float] = []

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time meanwhile to `name`."""
        self._wait()
        start = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            self._wait()
            whole = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + whole - self._inner.pop()
            self.calls[name] = self.calls.get(name, 0) + 1
            if self._inner:
                self._inner[-1] += whole

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def report(self) -> dict[str, dict[str, float]]:
        """{name: {"seconds": …, "calls": …}}, the longest first."""
        order = sorted(self.seconds, key=lambda name: -self.seconds[name])
        return {name: {"seconds": round(self.seconds[name], 4), "calls": self.calls[name]} for name in order}


class TimedDenoiser:
    """A `Denoiser` that does what another does, under a stopwatch."""

    def __init__(self, inner: Denoiser, stopwatch: Stopwatch) -> None:
        self._inner, self._stopwatch = inner, stopwatch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def encode_prompt(self, prompts: Sequence[str]) -> Tensor:
        """See `Denoiser`."""
        with self._stopwatch.measure("text encoder"):
            return self._inner.encode_prompt(prompts)

    def encode(self, images: Tensor) -> Tensor:
        """See `Denoiser`."""
        with self._stopwatch.measure("picture encoder, forward"):
            return self._inner.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        """See `Denoiser`."""
        with self._stopwatch.measure("picture decoder"):
            return self._inner.decode(latents)

    def predict(self, noisy: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
        """See `Denoiser`."""
        with self._stopwatch.measure("denoiser"):
            return self._inner.predict(noisy, t, embeddings)
