"""Shared fixtures: determinism, no network, the toy denoiser."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

from peekaboo.scene import Scene
from toys import Toy


@pytest.fixture(autouse=True)
def _threads():
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def toy_scene(toy) -> Scene:
    """A red square on blue, 24 × 40 pixels, with the prompt "red"."""
    image = torch.zeros(1, 3, 24, 40, dtype=torch.float64)
    image[:, 2] = 0.9
    image[:, :, 4:16, 8:24] = torch.tensor([0.9, 0.05, 0.05], dtype=torch.float64).view(1, 3, 1, 1)
    embeddings = toy.encode_prompt(["red", ""])
    return Scene(toy, image, embeddings[:1], embeddings[1:], None)
