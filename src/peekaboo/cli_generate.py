"""`peekaboo generate`: thin, as its neighbour `cli`."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from peekaboo.console import DEVICE, DONE, DTYPE, MODEL, SOME_FAILED, WRONG_USAGE, Dtype, Report
from peekaboo.errors import PeekabooError

if TYPE_CHECKING:
    from peekaboo.jobs import Drafts
    from peekaboo.pipeline import Making

PREVIEW_SECONDS = 1.0


class Preset(StrEnum):
    """The presets of generation, `peekaboo.settings.GENERATE_PRESETS`."""

    default = "default"
    paper = "paper"


def generate(
    prompt: Annotated[str, typer.Argument(help="What to make.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture, .png or .webp.")],
    model: Annotated[str, MODEL] = "bundled",
    preset: Annotated[Preset, typer.Option(help="'paper' is the way of arXiv 2211.13224.")] = Preset.default,
    height: Annotated[int | None, typer.Option(help="Pixels; the model's own side unless given.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    negative: Annotated[str, typer.Option("--negative", "-n", help="What it should not look like.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of every random draw.")] = 0,
    set_: Annotated[
        list[str],
        typer.Option("--set", metavar="NAME=VALUE", help="Change any setting (peekaboo.GenerateSettings); repeatable."),
    ] = [],  # noqa: B006
    device: Annotated[str, DEVICE] = "auto",
    dtype: Annotated[Dtype, DTYPE] = Dtype.auto,
    preview: Annotated[bool, typer.Option("--preview", help="Show the picture so far in OUT, every second.")] = False,
    timelapse: Annotated[Path | None, typer.Option(help="Also write an animation, .webp.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record on stdout.")] = False,
) -> None:
    """Make a picture with transparency of PROMPT."""
    from peekaboo import jobs

    report = Report(quiet)
    try:
        settings = jobs.read_generate_settings(preset.value, seed, negative, set_)
        jobs.check_pictures(out, timelapse)
        making = report.load(model, device, dtype.value).start_generation(
            prompt, height=height, width=width, preset=settings
        )
    except PeekabooError as error:
        report.error(str(error))
        raise typer.Exit(WRONG_USAGE) from None
    except KeyboardInterrupt:
        report.error("stopped; nothing was written")
        raise typer.Exit(SOME_FAILED) from None
    drafts = jobs.Drafts(making.model_size) if timelapse else None
    try:
        stopped = watch(report, making, out if preview else None, drafts)
        if stopped and making.last is None:
            report.error("stopped; nothing was written")
            raise typer.Exit(SOME_FAILED)
        result = making.result()
        result.save(out)
        if drafts is not None and timelapse is not None:
            jobs.write_movie(timelapse, drafts)
    except (PeekabooError, MemoryError, RuntimeError) as error:
        report.error(jobs.explain(out, error))
        raise typer.Exit(SOME_FAILED) from None
    if stopped:
        report.error(
            f"stopped after {result.steps} of {result.record['steps_asked']} steps; the picture so far is in {out}"
        )
    report.say(f"{out}: {result.record['seconds']:.1f} s on {result.record['device']}")
    if as_json:
        report.emit({**result.record, "settings": settings.as_dict()})
    raise typer.Exit(SOME_FAILED if stopped or report.mute else DONE)


def watch(report: Report, making: Making, preview: Path | None, drafts: Drafts | None) -> bool:
    """Work through a generation under a progress bar. True if Ctrl-C stopped it: the picture so far is kept."""
    from rich.progress import track

    for note in making.notes:
        report.say(f"note: {note}")
    shown = 0.0
    try:
        for draft in track(
            making, "generating", making.total, console=report.console, transient=True, disable=report.quiet
        ):
            if drafts is not None:
                drafts.add(draft)
            if preview is not None and time.monotonic() - shown >= PREVIEW_SECONDS:
                shown = time.monotonic()
                making.result().save(preview)
    except KeyboardInterrupt:
        return True
    return False
