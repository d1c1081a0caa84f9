"""`peekaboo evaluate`: thin, as its neighbour `cli`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from peekaboo.console import (
    ADDRESS,
    DEVICE,
    DONE,
    DTYPE,
    ENGINE,
    SOME_FAILED,
    WORKERS,
    WRONG_USAGE,
    Dtype,
    Engine,
    Report,
)
from peekaboo.errors import PeekabooError

if TYPE_CHECKING:
    from peekaboo.evaluation.run import Evaluation

TOLD = 20
"""How many skipped records are told of on the terminal."""


class Benchmark(StrEnum):
    """The data sets that are read, `peekaboo.evaluation.datasets.BENCHMARKS`."""

    voc_c = "voc-c"
    voc = "voc"
    refcoco = "refcoco"
    refcoco_plus = "refcoco+"
    refcocog = "refcocog"
    coco = "coco"
    folder = "folder"


class Partition(StrEnum):
    """Who split RefCOCO."""

    unc = "unc"
    google = "google"
    umd = "umd"


class Prompts(StrEnum):
    """What is asked of a picture of VOC."""

    all = "all"
    present = "present"


def evaluate(
    benchmark: Annotated[Benchmark, typer.Argument(help="What to score on; 'folder' is your own data.")],
    root: Annotated[Path, typer.Option(help="Where the data set lies, as it was unpacked.")],
    split: Annotated[str | None, typer.Option(help="val unless given; for voc-c trainval.")] = None,
    split_by: Annotated[Partition | None, typer.Option(help="RefCOCO's partition; unc or umd unless given.")] = None,
    images: Annotated[Path | None, typer.Option(help="coco, refcoco: the pictures, if they lie elsewhere.")] = None,
    prompts: Annotated[
        Prompts | None, typer.Option(help="voc: all 20 class names compete, or those that are present.")
    ] = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="coco: instances alone in their category, not unions.")
    ] = False,
    least_area: Annotated[
        float | None, typer.Option(help="coco: only what covers more than this share of its picture.")
    ] = None,
    method: Annotated[str, typer.Option(help="'peekaboo', or a baseline; a wrong name lists them.")] = "peekaboo",
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="As for segment; for a baseline, its own unless given.")
    ] = None,
    preset: Annotated[str, typer.Option(help="As for segment.")] = "default",
    variant: Annotated[str | None, typer.Option(help="As for segment.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of every random draw; the same for every sample.")] = 0,
    set_: Annotated[
        list[str],
        typer.Option("--set", metavar="NAME=VALUE", help="Change any setting, or a baseline's option; repeatable."),
    ] = [],  # noqa: B006
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first samples; a later run can go on.")] = None,
    device: Annotated[str, DEVICE] = "auto",
    dtype: Annotated[Dtype, DTYPE] = Dtype.auto,
    engine: Annotated[Engine, ENGINE] = Engine.local,
    address: Annotated[str | None, ADDRESS] = None,
    workers: Annotated[int | None, WORKERS] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The folder for the results; the same one resumes.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Score a method on a data set: OUT/{rows.csv,run.json,table.md,table.tex,report.html,masks/,pictures/}."""
    report = Report(quiet)
    try:
        from peekaboo import cluster
        from peekaboo.evaluation import datasets, remote, run, segmenters

        where = cluster.choose(engine.value, address, workers, device)
        recipe = segmenters.recipe(method, model, preset, variant, seed, set_, device, dtype.value)
        choices = {"split": split, "split_by": split_by and split_by.value, "images": images, "least_area": least_area}
        choices |= {"prompts": prompts and prompts.value, "alone": alone or None}
        dataset = datasets.read_dataset(benchmark.value, root, **choices)
        folder = out or Path("peekaboo-out") / "-".join(filter(None, (benchmark.value, dataset.split, method)))
        evaluation = run.Evaluation(dataset, recipe, folder, limit, remote.on_ray(where) if where else run.local)
    except PeekabooError as error:
        report.error(str(error))
        raise typer.Exit(WRONG_USAGE) from None
    for problem in dataset.problems[:TOLD]:
        report.error(problem)
    if len(dataset.problems) > TOLD:
        report.error(f"and {len(dataset.problems) - TOLD} records more, all listed in run.json and report.html")
    done = len(evaluation.samples) - len(evaluation.todo)
    report.say(f"{dataset.title}: {len(evaluation.samples)} samples, {done} of them done before; results in {folder}")
    raise typer.Exit(work(report, evaluation))


def work(report: Report, evaluation: Evaluation) -> int:
    """Score what is left and write the report; the exit code."""
    from peekaboo.evaluation.report import write_report
    from peekaboo.evaluation.tables import markdown

    try:
        stopped = watch(report, evaluation)
        evaluation.close()
        summary = write_report(evaluation)
    except PeekabooError as error:
        report.error(str(error))
        return SOME_FAILED if evaluation.begun else WRONG_USAGE
    finally:
        evaluation.ledger.close()
    if not report.quiet:
        typer.echo(markdown(evaluation, summary))
    report.say(f"{evaluation.out / 'report.html'}")
    if stopped:
        report.error(
            f"stopped after {len(summary.rows)} of {len(evaluation.samples)} samples; the same command goes on"
        )
    skipped = len(evaluation.dataset.problems) + len(evaluation.failures)
    if skipped:
        report.error(f"{skipped} records were skipped, for the reasons above; the figures are of the others")
    return SOME_FAILED if stopped or skipped else DONE


def watch(report: Report, evaluation: Evaluation) -> bool:
    """Work under a progress bar with the mean IoU so far. True if Ctrl-C stopped it: what is done is kept."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("mIoU {task.fields[mean]:.3f}"),
        TimeRemainingColumn(),
        console=report.console,
        disable=report.quiet,
        transient=True,
    )
    total, count = 0.0, 0
    with bar:
        task = bar.add_task("", total=len(evaluation.todo), mean=0.0)
        try:
            for outcome in evaluation:
                score = getattr(outcome, "iou", None)
                if score is None:
                    report.error(str(outcome))
                else:
                    total, count = total + score, count + 1
                bar.update(task, advance=1, mean=total / max(1, count))
        except KeyboardInterrupt:
            return True
    return False
