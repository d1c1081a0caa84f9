"""The command line: thin, no logic of its own. Nothing heavy is imported before it is needed."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from peekaboo import __version__
from peekaboo.cli_batch import segment_on
from peekaboo.cli_evaluate import evaluate
from peekaboo.cli_generate import generate
from peekaboo.cli_ui import ui
from peekaboo.console import (
    ADDRESS,
    DEVICE,
    DONE,
    DTYPE,
    ENGINE,
    MODEL,
    SOME_FAILED,
    WORKERS,
    WRONG_USAGE,
    Dtype,
    Engine,
    Report,
)
from peekaboo.errors import PeekabooError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Segment a picture by description with a text-to-image diffusion model, and no training.",
)


class Preset(StrEnum):
    """The presets of `peekaboo.settings`, as a choice of the command line."""

    default = "default"
    paper = "paper"
    draft = "draft"


class Variant(StrEnum):
    """The variants of the paper's tables, `peekaboo.settings.VARIANTS`."""

    raster = "raster"
    fourier = "fourier"
    bilateral_fourier = "bilateral-fourier"
    rgb_bilateral = "rgb-bilateral"
    depth_bilateral = "depth-bilateral"
    clip = "clip"


def _version(value: bool) -> None:
    if value:
        typer.echo(f"peekaboo {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def segment(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Pictures, folders of pictures, or globs.")],
    prompt: Annotated[
        list[str],
        typer.Option("--prompt", "-p", help="What to find; repeat it for several in one joint run."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the results.")] = Path("peekaboo-out"),
    model: Annotated[str, MODEL] = "bundled",
    preset: Annotated[
        Preset, typer.Option(help="'paper' is the method of arXiv 2211.13224, 'draft' the first map alone.")
    ] = Preset.default,
    variant: Annotated[
        Variant | None, typer.Option(help="A row of the paper's tables: alpha model, guide and loss.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of every random draw.")] = 0,
    set_: Annotated[
        list[str],
        typer.Option("--set", metavar="NAME=VALUE", help="Change any setting (see peekaboo.Settings); repeatable."),
    ] = [],  # noqa: B006
    guide: Annotated[
        Path | None,
        typer.Option(help="A map (image or .npy, a depth map for one) to guide the blur instead of RGB."),
    ] = None,
    depth: Annotated[
        Path | None, typer.Option(help="A depth map (image or .npy) for depth-bilateral, which it implies.")
    ] = None,
    depth_model: Annotated[
        str | None, typer.Option(help="The depth network, a Hub id or a folder; implies depth-bilateral.")
    ] = None,
    clip_model: Annotated[
        str | None, typer.Option(help="The image-text model of the variant clip, a Hub id or a folder.")
    ] = None,
    device: Annotated[str, DEVICE] = "auto",
    dtype: Annotated[Dtype, DTYPE] = Dtype.auto,
    engine: Annotated[Engine, ENGINE] = Engine.local,
    address: Annotated[str | None, ADDRESS] = None,
    workers: Annotated[int | None, WORKERS] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Say where each image's time went.")] = False,
    timelapse: Annotated[bool, typer.Option("--timelapse", help="Also write timelapse.webp.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each image's run record on stdout, one line an image.")
    ] = False,
) -> None:
    """Write OUT/<image>/<prompt>/{alpha,mask,cutout,overlay}.png and OUT/<image>/run.json."""
    from peekaboo import cluster, jobs

    report = Report(quiet)
    try:
        where = cluster.choose(engine.value, address, workers, device)
        networks = {"depth_model": depth_model, "clip_model": clip_model}
        composition = variant.value if variant else "depth-bilateral" if depth else None
        settings = jobs.read_settings(preset.value, seed, set_, composition, networks)
        guide = jobs.only_guide(settings, depth, guide)
        prompts = jobs.check_prompts(prompt)
        work = jobs.expand(images, out)
        jobs.check_writable(out)
        if where is not None:
            from peekaboo.batch import Order

            order = Order(prompts, settings, model, device, dtype.value, guide, profile, timelapse)
            raise typer.Exit(segment_on(where, order, work, report, as_json))
        loaded = report.load(model, device, dtype.value)
        loaded.companions.load(settings, guided=guide is not None)
    except PeekabooError as error:
        report.error(str(error))
        raise typer.Exit(WRONG_USAGE) from None
    except KeyboardInterrupt:
        report.error("stopped; nothing was written")
        raise typer.Exit(SOME_FAILED) from None
    failed = done = 0
    for job in jobs.in_turn(loaded, work):
        try:
            run = loaded.start(job.image, prompts, preset=settings, guide=guide, profile=profile)
            frames = jobs.Frames(run) if timelapse else None
            stopped = report.watch(job.image.name, run, frames)
            if stopped and run.last is None:
                raise KeyboardInterrupt
            record = jobs.save(job, run.result(), frames)
        except KeyboardInterrupt:
            report.stopped(done, failed, len(work))
            raise typer.Exit(SOME_FAILED) from None
        except Exception as error:  # libraries raise many kinds for one bad picture
            failed += 1
            text = jobs.explain(job.image, error)
            report.error(text)
            if as_json:
                report.emit({"image": str(job.image), "error": text})
            continue
        done += 1
        report.done(job.folder, record, stopped)
        if as_json:
            report.emit({**record, "folder": str(job.folder)})
        if stopped:
            if len(work) > 1:
                report.stopped(done, failed, len(work))
            raise typer.Exit(SOME_FAILED)
    raise typer.Exit(report.finish(failed, len(work)))


@app.command()
def doctor(
    model: Annotated[str, typer.Option("--model", "-m", help="'bundled' or a model folder.")] = "bundled",
    vocabulary: Annotated[bool, typer.Option("--vocabulary", help="List every name that the model learnt.")] = False,
) -> None:
    """Say what is installed, which devices there are, and whether the model is whole."""
    from peekaboo.doctor import examine, vocabulary_text

    if vocabulary:
        try:
            typer.echo(vocabulary_text(model))
        except PeekabooError as error:
            Report(quiet=False).error(str(error))
            raise typer.Exit(WRONG_USAGE) from None
        return
    checks = list(examine(model))
    for check in checks:
        typer.echo(f"{check.what:<14}{check.found}" if check.good else f"{check.what:<14}PROBLEM: {check.found}")
    raise typer.Exit(DONE if all(check.good for check in checks) else SOME_FAILED)


app.command()(generate)
app.command()(evaluate)
app.command()(ui)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
