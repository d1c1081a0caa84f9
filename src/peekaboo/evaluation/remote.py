"""The engine that scores on the machines of a Ray cluster: `run.local`, done by many, with the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from peekaboo import cluster
from peekaboo.cluster import Cluster
from peekaboo.errors import EngineError
from peekaboo.evaluation.datasets import Sample
from peekaboo.evaluation.rows import Failure, differences
from peekaboo.evaluation.run import Engine, Outcome, attempt
from peekaboo.evaluation.segmenters import Recipe, circumstances


def on_ray(where: Cluster) -> Engine:
    """The engine of `run.Evaluation` that works on a cluster. Pictures, masks and models must lie at the same paths on every
    machine; nothing is written there."""

    def engine(
        recipe: Recipe, samples: Iterable[Sample], on_device: Callable[[dict[str, object]], None]
    ) -> Iterator[Outcome]:
        chosen = list(samples)
        make = partial(make_scorer, recipe, recipe.identity())
        begun = False
        for answer in cluster.spread(where, make, chosen):
            if not begun:
                on_device({**(answer.place or {}), "engine": "ray"})
                begun = True
            yield Failure(chosen[answer.index].key, lost(chosen[answer.index])) if answer.lost else answer.value

    return engine


def make_scorer(recipe: Recipe, identity: dict[str, Any]) -> tuple[Callable[[Sample], Outcome], dict[str, Any]]:
    """What scores a sample in a worker, and on what it runs. Raises PeekabooError, also where the worker's model or Peekaboo is
    another than that of who asked."""
    if changes := differences(identity, recipe.identity()):
        raise EngineError(
            f"A worker would evaluate something else: {'; '.join(changes)}. Every machine needs the same files."
        )
    segmenter = recipe.build()
    return partial(attempt, segmenter, threshold=recipe.threshold), circumstances(segmenter, recipe)


def lost(sample: Sample) -> str:
    """What is said of a sample that no worker lived to score."""
    return f"{sample.key}: {cluster.given_up(sample.image.name)}"
