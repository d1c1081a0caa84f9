"""The same numbers from the first call on.

On Intel's and AMD's processors PyTorch leaves exp, sin and their like to MKL, which chooses each one's kernel when it is first called. Where
that first call runs on several threads at once, one of them may use a kernel of low accuracy, on its share of that one call: wrong by up to a
ten-thousandth, and not the same twice (PyTorch's issue 188792, open in November 2026; seen here in every third process). So each is
called once, on one number, before anything is computed.
"""

from __future__ import annotations

from functools import cache

import torch

FUNCTIONS = (
    *("exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "rsqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh"),
    *("asin", "acos", "atan", "erf", "erfc", "erfinv", "lgamma"),
)
"""What PyTorch may leave to MKL, by name."""


@cache
def steady() -> None:
    """Call each of `FUNCTIONS` once; nothing, from the second time on."""
    for dtype in (torch.float32, torch.float64):
        number = torch.full((1,), 0.5, dtype=dtype)
        for name in FUNCTIONS:
            getattr(torch, name)(number)
