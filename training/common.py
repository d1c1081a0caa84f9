"""What the training steps share: batches of scenes, checkpoints that survive, curves."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from config import Config, cache_folder
from peekaboo.denoisers.load import multiplies_bfloat16
from scenes import Pack, compose

BUNDLED = Path(__file__).parent.parent / "src" / "peekaboo" / "bundled"


class Batch(NamedTuple):
    """Scenes of one shape: pictures uint8 (B, H, W, 3), a caption each, the names of the objects in each, and where
    there is any object: float32 (B, 1, H, W) in [0, 1]."""

    pictures: Tensor
    captions: list[str]
    names: list[list[str]]
    cover: Tensor


class SceneBatches(IterableDataset):
    """An endless stream of batches; one shape (H, W) a batch."""

    def __init__(self, cfg: Config, batch: int, seed: int) -> None:
        self.cfg, self.batch, self.seed = cfg, batch, seed

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        cv2.setNumThreads(1)
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        pack = Pack(cache_folder() / "data.npz")
        while True:
            shape = self.cfg.shapes[rng.integers(len(self.cfg.shapes))]
            scenes = [compose(rng, pack, self.cfg, shape) for _ in range(self.batch)]
            pictures = torch.from_numpy(np.stack([s.image for s in scenes]))
            cover = torch.from_numpy(np.stack([s.alphas.sum(axis=0, keepdims=True) for s in scenes])).clamp(0, 1)
            yield Batch(pictures, [s.caption for s in scenes], [s.names for s in scenes], cover)


def batches(cfg: Config, batch: int, seed: int, workers: int = 1) -> Iterator[Batch]:
    stream = SceneBatches(cfg, batch, seed)
    return iter(DataLoader(stream, batch_size=None, num_workers=workers, prefetch_factor=8 if workers else None))


def to_pixels(pictures: Tensor, device: str) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [-1, 1]."""
    return pictures.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def half(device: str) -> torch.autocast:
    """A context of bfloat16 autocast, or of none where it would slow the device down."""
    return torch.autocast(device, torch.bfloat16, enabled=multiplies_bfloat16(torch.device(device)))


def trapezoid(step: int, total: int, warmup: int, decay: float = 0.2) -> float:
    """Learning rate factor: up over the warm-up, constant, then linearly to zero over the last share `decay` of the steps."""
    return min(1.0, (step + 1) / warmup, (1 - step / total) / decay)


class Run:
    """A resumable run: one checkpoint file, one log of JSON lines, one clock."""

    def __init__(self, name: str, seconds: float) -> None:
        self.folder = cache_folder() / "runs"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = self.folder / f"{name}.pt"
        self.log_file = self.folder / f"{name}.jsonl"
        self.seconds, self.last, self.start = seconds, time.time(), time.time()

    def load(self) -> dict | None:
        return torch.load(self.checkpoint, weights_only=True) if self.checkpoint.exists() else None

    def due(self) -> bool:
        """True when the last checkpoint is long ago."""
        return time.time() - self.last >= self.seconds

    def save(self, state: dict) -> None:
        """Replace the checkpoint, whole: it is never half-written."""
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)
        self.last = time.time()

    def log(self, **figures: float) -> None:
        figures["minutes"] = round((time.time() - self.start) / 60, 2)
        with self.log_file.open("a") as file:
            file.write(json.dumps(figures) + "\n")
        print(" ".join(f"{k} {v:.6g}" for k, v in figures.items()), flush=True)


def start_from_released(network: nn.Module, part: str) -> bool:
    """Load the released weights of one part ("vae", "unet", "text_encoder") where they fit; False where they do not.

    Raises nothing when there is no release, or one of another shape: the network then keeps its random weights.
    """
    files = sorted((BUNDLED / part).glob("*.safetensors"))
    if not files:
        return False
    weights = {name: tensor.float() for name, tensor in load_file(files[0]).items()}
    own = network.state_dict()
    if {n: w.shape for n, w in own.items()} != {n: w.shape for n, w in weights.items()}:
        print(f"{part}: the released weights have another shape; starting from random ones", flush=True)
        return False
    network.load_state_dict(weights)
    print(f"{part}: starting from the released weights", flush=True)
    return True


def read_log(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
