"""Many machines: items worked off by the processes of a Ray cluster, results given as they come. Knows nothing of pictures.

Workers are actors of Ray Data, which starts a new one where one dies, and gives what it had in hand to another. What each item
comes to is sent back: only this process writes, so that nothing is written twice, and nothing half.
"""

from __future__ import annotations

import logging
import os
import pickle
import platform
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import peekaboo
from peekaboo.errors import EngineError, MissingExtraError, PeekabooError, SettingsError, first_line

ATTEMPTS = 3
"""How often an item is begun: one that every worker dies of is given up."""
BLOCKS = 10_000
"""An item is a task of its own, unless there are more than these: then a few share one, and are lost, and done again, together."""
SILENCE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
"""Ray's environment where the user says nothing else: it tells nobody of its use, and keeps its log off the terminal."""

Work = Callable[[Any], Any]
Make = Callable[[], tuple[Work, Mapping[str, Any]]]
"""Called once in each worker: what does the work, and what there is to say of where. May raise PeekabooError. Can be pickled."""


@dataclass(frozen=True)
class Cluster:
    """Where the work is done.

    address: of a Ray cluster that runs ("auto", "host:6379"); None for $RAY_ADDRESS, or else one of this machine alone, which is
    started, and stopped at the end. workers: how many processes; None for one a GPU, or, where there is none, one a machine.
    gpus: False leaves GPUs alone.
    """

    address: str | None = None
    workers: int | None = None
    gpus: bool = True


@dataclass(frozen=True)
class Answer:
    """What an item came to. index: its place. value: what the work gave. lost: every worker that began it died, there is no value.
    place: what its worker's `Make` said of where."""

    index: int
    value: Any = None
    lost: bool = False
    place: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Refusal:
    """Why a worker cannot go on, and on which machine: no fault of an item, of which `Work` speaks itself."""

    error: PeekabooError
    machine: str


def refusal(error: Exception) -> Refusal:
    """An error as a `Refusal` by this machine."""
    known = error if isinstance(error, PeekabooError) else EngineError(f"{type(error).__name__}: {first_line(error)}.")
    return Refusal(known, platform.node())


def given_up(what: str) -> str:
    """What is said of an item whose `Answer` is lost."""
    return f"{ATTEMPTS} workers died of {what}, for want of memory perhaps; it was given up."


def choose(engine: str, address: str | None, workers: int | None, device: str) -> Cluster | None:
    """The cluster that a command line asks for, or None for this process. engine: "local" or "ray".

    Raises SettingsError for options of the one with the other, MissingExtraError without Ray.
    """
    if engine != "ray":
        for option, value in (("address", address), ("workers", workers)):
            if value is not None:
                raise SettingsError(f"--{option} {value} goes with --engine ray only; add that, or leave it out.")
        return None
    check_installed()
    return Cluster(address, workers, gpus=device.startswith(("auto", "cuda")))


def check_installed() -> None:
    """Raises MissingExtraError where Ray Data is not installed."""
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"--engine ray needs Ray Data, which is not installed ({error}); get it with "
            "pip install 'peekaboo-segmentation[ray]'."
        ) from error


def spread(cluster: Cluster, make: Make, items: Sequence[Any]) -> Iterator[Answer]:
    """Work the items off on a cluster: an answer for each, once, in the order in which they are done.

    make, items: can be pickled. Raises MissingExtraError without Ray, EngineError where Ray cannot be reached or breaks off,
    SettingsError for more workers than there is room for, and what `make` raised in a worker.
    """
    check_installed()
    with silent(), connected(cluster.address), broken_off():
        given: set[int] = set()
        for batch in batches(cluster, make, items):
            for data in batch.column("answer").to_pylist():
                answer = pickle.loads(data)
                if isinstance(answer, Refusal):
                    raise type(answer.error)(f"{answer.error} (said by the worker on {answer.machine})")
                if answer.index not in given:  # Ray may do again what was done, when a worker dies after it
                    given.add(answer.index)
                    yield answer
        if len(given) < len(items):
            raise EngineError(f"Ray gave {len(given)} of {len(items)} results; run the same command again.")


def batches(cluster: Cluster, make: Make, items: Sequence[Any]) -> Iterator[Any]:
    """Arrow tables with the column "answer", of one row or a few, as the actors have done them."""
    import ray
    from ray import cloudpickle

    counter = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts).remote()
    rows = [{"index": index, "item": cloudpickle.dumps(item)} for index, item in enumerate(items)]
    count, share = room(cluster, ray.nodes())
    data = ray.data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS)).map(
        Worker,
        compute=ray.data.ActorPoolStrategy(size=min(count, len(rows))),
        fn_constructor_args=(cloudpickle.dumps(make), os.getcwd(), peekaboo.__version__, counter),
        **share,
    )
    data.context.enable_progress_bars = False
    data.context.print_on_execution_start = False
    yield from data.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow")


class Attempts:
    """An actor of its own, which outlives the workers: how often each item was begun."""

    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()

    def begin(self, index: int) -> int:
        self.begun[index] += 1
        return self.begun[index]


class Worker:
    """The actor: makes what does the work, once, and does it for a row at a time. Its errors are sent back as `Refusal`s: Ray would
    wrap them in pages of its own."""

    def __init__(self, make: bytes, folder: str, version: str, counter: Any) -> None:
        self.counter, self.refusal = counter, None
        with suppress(OSError):  # so that paths mean what they mean to who asked; where not, each picture will say so
            os.chdir(folder)
        try:
            if version != peekaboo.__version__:
                raise EngineError(
                    f"Peekaboo {peekaboo.__version__} is installed there, and {version} here; install the same everywhere."
                )
            self.work, self.place = pickle.loads(make)()
        except Exception as error:
            self.refusal = refusal(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = self.refusal or self.answer(row["index"], row["item"])
        except Exception as error:
            answer = refusal(error)
        return {"answer": pickle.dumps(answer)}

    def answer(self, index: int, item: bytes) -> Answer:
        """Do the work, unless it has been begun too often: what kills a worker would kill them all, one after the other."""
        import ray

        if ray.get(self.counter.begin.remote(index)) > ATTEMPTS:
            return Answer(index, lost=True, place=self.place)
        return Answer(index, self.work(pickle.loads(item)), place=self.place)


def room(cluster: Cluster, nodes: Sequence[Mapping[str, Any]]) -> tuple[int, dict[str, float]]:
    """How many workers, and the share of a machine that each asks of Ray: a GPU, or the processors evenly.

    nodes: Ray's, as it describes them. Raises SettingsError where there is not that much room.
    """
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = int(sum(machine.get("GPU", 0) for machine in machines)) if cluster.gpus else 0
    if gpus:
        if cluster.workers and cluster.workers > gpus:
            raise SettingsError(
                f"--workers {cluster.workers} is more than the {gpus} GPUs of the cluster, and each worker takes one; "
                f"ask for {gpus} or fewer, or for --device cpu."
            )
        return cluster.workers or gpus, {"num_gpus": 1}
    cores = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1]
    if not cores:
        raise EngineError("The Ray cluster has neither GPUs nor processors to give; add a machine to it.")
    count = cluster.workers or len(cores)
    if count > sum(cores):
        raise SettingsError(
            f"--workers {count} is more than the {sum(cores)} processors of the cluster; ask for fewer."
        )
    shares = range(max(cores), 0, -1)  # the greatest of which so many fit
    return count, {"num_cpus": next(share for share in shares if sum(core // share for core in cores) >= count)}


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Ray, reached or started, and let go of at the end, unless this process was connected before. Raises EngineError."""
    import ray

    if ray.is_initialized():
        yield
        return
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"include_dashboard": False} if where == "local" else {}
    try:
        knock(where)
        with closed_stderr():
            ray.init(where, logging_level=logging.CRITICAL, log_to_driver=False, **options)
    except Exception as error:  # Ray raises many kinds
        raise EngineError(
            f"Ray at {where!r} cannot be reached ({last_line(error)}); give --address HOST:PORT of a cluster that runs, "
            "or none for this machine alone."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def knock(address: str, seconds: float = 10.0) -> None:
    """Whether anybody listens at [ray://]HOST:PORT: Ray itself would try for twenty minutes. Raises OSError or ValueError."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), seconds).close()


@contextmanager
def broken_off() -> Iterator[None]:
    """Ray's own errors as one sentence. Raises EngineError."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise EngineError(f"The work on Ray broke off ({last_line(error)}); the same command does it again.") from error


@contextmanager
def silent() -> Iterator[None]:
    """Ray without its chatter meanwhile; environment and loggers are restored afterwards."""
    before = {name: os.environ.get(name) for name in SILENCE}
    loggers = [logging.getLogger(name) for name in ("ray", "ray.data")]
    levels = [logger.level for logger in loggers]
    for name, value in SILENCE.items():
        os.environ.setdefault(name, value)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)


@contextmanager
def closed_stderr() -> Iterator[None]:
    """Nothing reaches the process's stderr meanwhile: Ray's core announces there, past all logging, that it is to be silent."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def last_line(error: BaseException) -> str:
    """The end of a library's error, where Ray says what happened, at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
