"""What the training steps share: batches of scenes, checkpoints that survive, curves."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from config import Config, cache_folder
from grow import grow
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


Composed = TypeVar("Composed", bound=tuple)  # a Batch, or what `prepare` made of one; with its `names`


class SceneBatches(IterableDataset):
    """An endless stream of batches; one shape (H, W) a batch."""

    def __init__(self, cfg: Config, pack: Pack, batch: int, seed: int, prepare: Callable[[Batch], Any]) -> None:
        self.cfg, self.pack, self.batch, self.seed, self.prepare = cfg, pack, batch, seed, prepare

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        cv2.setNumThreads(1)
        # one of many has no cores to spare; a process that has them all may use them (step 4)
        if worker:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        names = self.pack.few(self.cfg.scenes.only) or None
        while True:
            shape = self.cfg.shapes[rng.integers(len(self.cfg.shapes))]
            scenes = [compose(rng, self.pack, self.cfg, shape, names=names) for _ in range(self.batch)]
            pictures = torch.from_numpy(np.stack([s.image for s in scenes]))
            cover = torch.from_numpy(np.stack([s.alphas.sum(axis=0, keepdims=True) for s in scenes])).clamp(0, 1)
            yield self.prepare(Batch(pictures, [s.caption for s in scenes], [s.names for s in scenes], cover))


def as_it_is(batch: Batch) -> Batch:
    return batch


def batches(
    cfg: Config,
    pack: Pack,
    batch: int,
    seed: int,
    workers: int = 1,
    prepare: Callable[[Batch], Composed] = as_it_is,
) -> Iterator[Composed]:
    """The stream, composed in `workers` processes, which share the pack in memory (0: in this one) and `prepare` each batch: one
    process that trains has no time for what many can do."""
    stream = SceneBatches(cfg, pack, batch, seed, prepare)
    return iter(
        DataLoader(
            stream,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=8 if workers else None,
            pin_memory=torch.cuda.is_available(),  # so that copies to a GPU need not wait for what it computes
        )
    )


class Ahead:
    """Takes from a stream in a thread of its own, so that whoever trains can ask for what is ready and need not wait."""

    def __init__(self, stream: Iterator[Any], room: int = 4) -> None:
        self.waiting: queue.Queue[Any] = queue.Queue(room)
        threading.Thread(target=self._take, args=(stream,), daemon=True).start()

    def _take(self, stream: Iterator[Any]) -> None:
        try:
            for batch in stream:
                self.waiting.put(batch)
        except BaseException as error:  # to be raised where the batch is missed
            self.waiting.put(error)

    def take(self, wait: bool) -> Any | None:
        """The next batch; without `wait`, None where none is ready."""
        try:
            found = self.waiting.get(block=wait)
        except queue.Empty:
            return None
        if isinstance(found, BaseException):
            raise found
        return found


Kept = TypeVar("Kept", bound=tuple)


class Source(Generic[Kept]):
    """What is trained on: fresh batches and, between them, mixtures of the last ones, which cost no composing.

    Args:
        stream: of composed scenes, each batch with the `names` of what they show.
        encode: makes of them what is kept: a NamedTuple of tensors (B, …) and lists of B. Batches are mixed whose first tensors
            have one shape.
        batch: scenes of a batch to train on.
        room: how many batches are kept.
        share: of the batches, how many are mixtures. None: it never waits for a fresh batch, all are mixtures of those there are.
    """

    def __init__(
        self, stream: Iterator[Composed], encode: Callable[[Composed], Kept], batch: int, room: int, share: float | None
    ) -> None:
        self.stream, self.encode = Ahead(stream), encode
        self.batch, self.room, self.share = batch, room, share
        self.kept: list[tuple[torch.Size, Kept]] = []  # with the shape of the first tensor
        self.composed = 0

    def __next__(self) -> Kept:
        if self.share is not None:
            return self.mixture(2) if self.enough and torch.rand(()) < self.share else self.fresh()
        while not self.enough:
            self.fresh()
        for _ in range(8):
            if (batch := self.stream.take(wait=False)) is None:
                break
            self.keep(batch)
        return self.mixture(-(-self.batch // self.kept[0][0][0]))

    @property
    def enough(self) -> bool:
        """Whether enough is kept for a mixture to be one."""
        return len(self.kept) >= min(self.room // 2, 32)

    def fresh(self) -> Kept:
        batch = self.stream.take(wait=True)
        assert batch is not None  # the stream is endless
        return self.keep(batch)

    def keep(self, batch: Any) -> Kept:
        kept = self.encode(batch)
        self.kept = [*self.kept[-self.room + 1 :], (kept[0].shape, kept)]
        self.composed += len(batch.names)
        return kept

    def mixture(self, parts: int) -> Kept:
        """A batch out of `parts` of the kept ones, all of one shape."""
        shape, one = self.kept[int(torch.randint(len(self.kept), ()))]
        alike = [kept for of, kept in self.kept if of == shape]
        chosen = [one] + [alike[int(i)] for i in torch.randint(len(alike), (parts - 1,))]
        order = torch.randperm(parts * shape[0])[: self.batch]
        mixed: list[Any] = []
        for columns in zip(*chosen, strict=True):
            if isinstance(columns[0], Tensor):
                mixed.append(torch.cat(columns)[order.to(columns[0].device)])
            else:
                values = [value for column in columns for value in column]
                mixed.append([values[i] for i in order.tolist()])
        return type(one)(*mixed)


def to_pixels(pictures: Tensor, device: str) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [-1, 1]."""
    return pictures.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 127.5 - 1


def half(device: str) -> torch.autocast:
    """A context of bfloat16 autocast, or of none where it would slow the device down."""
    return torch.autocast(device, torch.bfloat16, enabled=multiplies_bfloat16(torch.device(device)))


def trapezoid(step: int, done: float, warmup: int, decay: float = 0.2) -> float:
    """Learning rate factor: up over the warm-up, constant, then linearly to zero over the last share `decay` of the run, of which
    the share `done` lies behind."""
    return min(1.0, (step + 1) / warmup, max(0.0, 1 - done) / decay)


class Length:
    """How long a run is: so many steps, or, with `minutes`, as many as there is time for, where a machine is lent by the hour. before: the
    share that lies behind where a run by the clock is resumed; a finished one, 1, is not begun again."""

    def __init__(self, steps: int, minutes: float | None = None, before: float = 0.0) -> None:
        self.steps, self.minutes = steps, minutes
        self.start = time.monotonic() - before * 60 * (minutes or 0)

    def done(self, step: int) -> float:
        """The share of the run that lies behind, from 0 to 1 (and over)."""
        if self.minutes is None:
            return step / self.steps
        return (time.monotonic() - self.start) / (60 * self.minutes)


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
    """Load the released weights of one part ("vae", "unet", "text_encoder") where they fit, a smaller UNet's too (grow.py); False
    where they do not.

    Raises nothing when there is no release, or one of another shape: the network then keeps its random weights.
    """
    files = sorted((BUNDLED / part).glob("*.safetensors"))
    if not files:
        return False
    weights = {name: tensor.float() for name, tensor in load_file(files[0]).items()}
    own = network.state_dict()
    if isinstance(network, UNet2DConditionModel) and grow(weights, network):
        print(f"{part}: starting from the released weights, with new layers between", flush=True)
        return True
    if {n: w.shape for n, w in own.items()} != {n: w.shape for n, w in weights.items()}:
        print(f"{part}: the released weights have another shape; starting from random ones", flush=True)
        return False
    network.load_state_dict(weights)
    print(f"{part}: starting from the released weights", flush=True)
    return True


def read_log(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
