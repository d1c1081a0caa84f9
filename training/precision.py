"""Half precision where it is faster: a processor without bfloat16 multipliers emulates them, ten times slower than float32."""

from __future__ import annotations

import torch


def multiplies_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 numbers natively: every GPU that one would train on, and some processors."""
    if torch.device(device).type != "cpu":
        return True
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def half(device: str) -> torch.autocast:
    """A context of bfloat16 autocast, or of none where it would slow the device down."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=multiplies_bfloat16(device))
