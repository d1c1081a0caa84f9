"""The evaluation itself: score one sample, which is a pure function, and do that for all that are not done yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from peekaboo.errors import DatasetError, NumericalError
from peekaboo.evaluation.datasets import Dataset, Loaded, Sample
from peekaboo.evaluation.metrics import Overlap, overlap
from peekaboo.evaluation.rows import Failure, Ledger, Row
from peekaboo.evaluation.segmenters import THRESHOLD, Recipe, circumstances

if TYPE_CHECKING:
    from peekaboo.evaluation.baselines import Segmenter

BACKGROUND = "background"
Outcome = Row | Failure
Engine = Callable[[Recipe, Iterable[Sample], Callable[[dict[str, object]], None]], Iterator[Outcome]]
"""Who does the work: makes segmenters of the recipe, tells once on what they run, and gives each sample's outcome, in any order."""


def score_sample(segmenter: Segmenter, sample: Sample, threshold: float = THRESHOLD) -> Row:
    """Segment one sample and compare: the same segmenter, sample and threshold give the same row, but for its seconds.

    With one prompt the mask is alpha > threshold. With several each pixel goes to the prompt of the greatest alpha, if that is
    above the threshold. Pixels of which the truth says nothing do not count. IoU = |A ∩ B| / |A ∪ B|, 0 for an empty union; with
    several prompts, the mean over those that have true pixels, while the row's counts are sums over all prompts.
    Raises PeekabooError for a picture or mask that cannot be read and for alphas that are none.
    """
    loaded = sample.load()
    clock = time.perf_counter()
    alpha = check_alpha(segmenter(loaded.rgb, sample.prompts), (len(sample.prompts), *loaded.rgb.shape[:2]))
    seconds = time.perf_counter() - clock
    labels = label(alpha, threshold)
    counts = {
        prompt: overlap(labels == index + 1, loaded.masks[index, :, :], loaded.valid)
        for index, prompt in enumerate(sample.prompts)
    }
    there = [c.iou for c in counts.values() if c.true] if len(counts) > 1 else [c.iou for c in counts.values()]
    total = sum(counts.values(), Overlap())
    return Row(
        sample=sample.key,
        image=sample.image.name,
        prompt="; ".join(sample.prompts),
        iou=sum(there) / len(there) if there else 0.0,
        intersection=total.shared,
        union=total.union,
        seconds=seconds,
        classes={BACKGROUND: background(labels, loaded), **counts} if sample.per_class else {},
        labels=labels,
    )


def background(labels: NDArray[np.uint8], loaded: Loaded) -> Overlap:
    """The overlap of the pixels that no prompt took with those that none has."""
    return overlap(labels == 0, np.asarray(~loaded.masks.any(axis=0)), loaded.valid)


def check_alpha(alpha: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Alphas of the promised shape, finite and in [0, 1]. Raises NumericalError."""
    if alpha.shape != shape:
        raise NumericalError(f"The method gave alphas of the shape {alpha.shape}; expected {shape}.")
    if not np.isfinite(alpha).all() or alpha.min() < 0 or alpha.max() > 1:
        raise NumericalError("The method gave alphas that are not numbers in [0, 1].")
    return alpha


def label(alpha: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """Alphas (N, H, W) in [0, 1] to labels (H, W) uint8: n + 1 where prompt n has the greatest alpha and it is above the
    threshold, else 0."""
    winner = alpha.argmax(axis=0).astype(np.uint8) + np.uint8(1)
    return np.where(alpha.max(axis=0) > threshold, winner, np.uint8(0))


def attempt(segmenter: Segmenter, sample: Sample, threshold: float) -> Outcome:
    """`score_sample`, or why it failed: our own errors, too little memory, and a library's fault for this picture."""
    try:
        return score_sample(segmenter, sample, threshold)
    except Exception as error:  # libraries raise many kinds for one bad picture
        from peekaboo.jobs import explain

        text = explain(sample.image, error)
        return Failure(sample.key, text if sample.key in text else f"{sample.key}: {text}")


def local(
    recipe: Recipe, samples: Iterable[Sample], on_device: Callable[[dict[str, object]], None]
) -> Iterator[Outcome]:
    """The engine that works in this process, one sample after the other. Raises PeekabooError where the recipe fails."""
    segmenter = recipe.build()
    on_device(circumstances(segmenter, recipe))
    for sample in samples:
        yield attempt(segmenter, sample, recipe.threshold)


class Evaluation:
    """One evaluation under way. Iterate to work: each outcome is on the disk when it is given. Stop at any time; another one
    with the same recipe, data set and folder goes on where this one stopped.

    limit: only the data set's first samples; a later run with a higher limit goes on.
    Raises DatasetError where the folder holds results of something else, OutputError where it cannot be written.
    """

    def __init__(
        self, dataset: Dataset, recipe: Recipe, out: Path, limit: int | None = None, engine: Engine = local
    ) -> None:
        self.dataset, self.recipe, self.out, self.engine = dataset, recipe, out, engine
        self.samples = dataset.samples[:limit]
        self.failures: list[Failure] = []
        self.identity = {
            "benchmark": dataset.name,
            "split": dataset.split,
            "choices": dataset.choices,
            "dataset": dataset.fingerprint(),
            **recipe.identity(),
        }
        self.ledger = Ledger(out, self.identity)
        try:
            self.todo = [sample for sample in self.samples if sample.key not in self.ledger.rows]
            if strangers := self.ledger.rows.keys() - {sample.key for sample in dataset.samples}:
                raise DatasetError(
                    f"{self.ledger.path} has a row for {min(strangers)!r}, which is no sample of {dataset.title}."
                )
        except DatasetError:
            self.ledger.close()
            raise

    def __iter__(self) -> Iterator[Outcome]:
        if not self.todo:
            return
        for outcome in self.engine(self.recipe, self.todo, self.ledger.begin):
            if isinstance(outcome, Row):
                self.ledger.add(outcome)
            else:
                self.failures.append(outcome)
            yield outcome

    @property
    def begun(self) -> bool:
        """Whether the method was loaded, so that what goes wrong now is not how it was asked for."""
        return bool(self.ledger.session)

    def rows(self) -> list[Row]:
        """The rows so far of the samples that count, in the data set's order."""
        return [self.ledger.rows[s.key] for s in self.samples if s.key in self.ledger.rows]

    def close(self) -> None:
        """Write down when this session ended, and let go of the folder."""
        self.ledger.end([*self.dataset.problems, *(str(f) for f in self.failures)])
        self.ledger.close()
