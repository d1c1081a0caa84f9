"""Segmenting many pictures on the machines of a Ray cluster: the workers make the files, and the caller writes them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peekaboo import cluster, jobs
from peekaboo.cluster import Cluster
from peekaboo.errors import PeekabooError
from peekaboo.files import write_all
from peekaboo.jobs import Job
from peekaboo.settings import Settings


@dataclass(frozen=True)
class Order:
    """What is asked of every picture. Plain data: it is sent to the workers, which load the model themselves.

    model, device, dtype: as for `Peekaboo.from_pretrained`. guide: a map's file, or None.
    """

    prompts: list[str]
    settings: Settings
    model: str
    device: str = "auto"
    dtype: str = "auto"
    guide: Path | None = None
    profile: bool = False
    timelapse: bool = False

    def __call__(self) -> tuple[Callable[[Path], Files | str], Mapping[str, Any]]:
        """In a worker: what segments a picture. Raises PeekabooError for what cannot be loaded."""
        from peekaboo.pipeline import Peekaboo, circumstances

        model = Peekaboo.from_pretrained(self.model, self.device, self.dtype)
        model.companions.load(self.settings, guided=self.guide is not None)
        model.remember_prompts()

        def work(image: Path) -> Files | str:
            try:
                run = model.start(image, self.prompts, preset=self.settings, guide=self.guide, profile=self.profile)
                frames = jobs.Frames(run) if self.timelapse else None
                for step in run:
                    if frames is not None:
                        frames.add(step)
                files, record = jobs.encode(image, run.result(), frames)
                return Files({name: data() if callable(data) else data for name, data in files.items()}, record)
            except Exception as error:  # libraries raise many kinds for one bad picture
                return jobs.explain(image, error)

        return work, circumstances(model.denoiser)


@dataclass(frozen=True)
class Files:
    """A picture's results, not written yet. files: by name inside the picture's folder. record: the run record, which is one of them."""

    files: dict[str, bytes]
    record: dict[str, Any]


def segment_all(where: Cluster, order: Order, work: Sequence[Job]) -> Generator[tuple[Job, dict[str, Any] | str]]:
    """Segment the pictures in any order and write each whole; its run record, or a sentence on why there is none.

    Pictures, guide and model must lie at the same paths on every machine. Raises PeekabooError where the workers cannot be
    made, or Ray breaks off.
    """
    for answer in cluster.spread(where, order, [job.image for job in work]):
        job = work[answer.index]
        if answer.lost:
            yield job, f"{job.image}: {cluster.given_up('it')}"
        elif isinstance(answer.value, str):
            yield job, answer.value
        else:
            try:
                write_all({job.folder / name: data for name, data in answer.value.files.items()})
            except PeekabooError as error:
                yield job, str(error)
            else:
                yield job, answer.value.record
