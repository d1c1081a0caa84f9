"""A larger UNet from a smaller one: the new layers begin as nothing, so that both compute the same, and learn from there
(Net2Net's idea, arXiv 1511.05641, for residual networks)."""

from __future__ import annotations

import re

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

LAYER = re.compile(r"^((down|up)_blocks\.\d+)\.(resnets|attentions)\.(\d+)\.")
LAST = {"resnets": "conv2.", "attentions": "proj_out."}  # of each kind of layer, what adds to what comes in


@torch.no_grad()
def grow(weights: dict[str, Tensor], unet: UNet2DConditionModel) -> bool:
    """Load the weights of a UNet that differs from `unet` in nothing but fewer `layers_per_block`, or in blocks that do not read
    the caption; False, and nothing is changed, where it differs otherwise or not at all.

    A block of the way down gets its new layers after the old ones; one of the way up gets them after its first, so that each old
    layer meets the skip connection that it met before.
    """
    own = unet.state_dict()
    old, new = depth(weights), unet.config.layers_per_block
    reading = blocks_that_read(weights)
    if not 0 < old <= new or (old == new and reading == blocks_that_read(own)):
        return False
    result: dict[str, Tensor] = {}
    used = set()
    for name, tensor in own.items():
        source = name
        if found := LAYER.match(name):
            block, way, kind, number = found.group(1), found.group(2), found.group(3), int(found.group(4))
            before = number
            if way == "down":
                fresh = number >= old
            else:  # one layer more than on the way down
                fresh = 1 <= number <= new - old
                before = number if number == 0 else number - (new - old)
            if fresh or (kind == "attentions" and block not in reading):
                result[name] = begin_as_nothing(kind, name[found.end() :], tensor)
                continue
            source = f"{block}.{kind}.{before}.{name[found.end() :]}"
        if source not in weights or weights[source].shape != tensor.shape:
            return False
        result[name] = weights[source]
        used.add(source)
    if used != set(weights):
        return False
    unet.load_state_dict(result)
    return True


def depth(weights: dict[str, Tensor]) -> int:
    """`layers_per_block` of a UNet with these weights."""
    found = {int(m.group(4)) for m in map(LAYER.match, weights) if m and m.group(2, 3) == ("down", "resnets")}
    return 1 + max(found, default=-1)


def blocks_that_read(weights: dict[str, Tensor]) -> set[str]:
    """The blocks with attention, "down_blocks.1" and so on."""
    return {m.group(1) for m in map(LAYER.match, weights) if m and m.group(3) == "attentions"}


def begin_as_nothing(kind: str, part: str, tensor: Tensor) -> Tensor:
    """A new layer's weight or bias such that the layer hands on what comes in: the first channels of it, where a skip connection
    brings more."""
    if part.startswith(LAST[kind]):
        return torch.zeros_like(tensor)
    if part == "conv_shortcut.weight":
        return torch.eye(*tensor.shape[:2])[..., None, None].to(tensor)
    if part == "conv_shortcut.bias":
        return torch.zeros_like(tensor)
    return tensor.clone()
