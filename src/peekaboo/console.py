"""What the commands share: exit codes, and what a user sees on the terminal."""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from peekaboo.pipeline import Peekaboo, Run

DONE, SOME_FAILED, WRONG_USAGE = 0, 1, 2
T = TypeVar("T")


class Dtype(StrEnum):
    """The precisions a model can be loaded in."""

    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class Engine(StrEnum):
    """Who does the work of many pictures: this process, or a Ray cluster."""

    local = "local"
    ray = "ray"


MODEL = typer.Option("--model", "-m", help="'bundled', a diffusers folder, a .safetensors file, or a Hub id.")
DEVICE = typer.Option(help="'auto', 'cpu', 'cuda', 'mps' … auto takes the best there is.")
DTYPE = typer.Option(help="Precision of the model; auto fits the device.")
ENGINE = typer.Option(help="'ray' spreads the pictures over the machines of a Ray cluster (see --address).")
ADDRESS = typer.Option(
    help="Of the Ray cluster, HOST:PORT or 'auto'; unless given, $RAY_ADDRESS, or this machine alone."
)
WORKERS = typer.Option(min=1, help="How many processes Ray runs; unless given, one a GPU, or one a machine.")


class Report:
    """What the user sees, on stderr: stdout is for --json. mute: nobody reads stdout any more."""

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console

        self.quiet, self.mute = quiet, False
        self.console: Console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, markup=False)

    def error(self, text: str) -> None:
        self.console.print(f"error: {text}", style="red", markup=False)

    def emit(self, row: dict[str, Any]) -> None:
        """One line of JSON on stdout. Where it cannot be written (a closed pipe, a full disk), that is said once and the work goes on."""
        if self.mute:
            return
        try:
            typer.echo(json.dumps(row))
        except OSError as error:
            self.mute = True
            with suppress(OSError, ValueError):  # what is left in the buffer would fail once more when Python ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.error(f"no more records can be printed ({error.strerror}); the files are written all the same")

    def stopped(self, done: int, failed: int, total: int) -> None:
        """What Ctrl-C left of many pictures."""
        kept = f"{done} of {total} images are done" + (f", {failed} failed" if failed else "")
        self.error(f"stopped; {kept}; nothing was written for the others" if done else "stopped; nothing was written")

    def load(self, model: str, device: str, dtype: str) -> Peekaboo:
        """Load the model and say, loudly, on which device it runs."""
        with self.console.status("loading the model …") if not self.quiet else nullcontext():
            from peekaboo.pipeline import Peekaboo

            loaded = Peekaboo.from_pretrained(model, device, dtype)
        d = loaded.denoiser
        self.say(f"model {d.name} on device {d.device}, {str(d.dtype).removeprefix('torch.')}")
        return loaded

    def watch_many(self, outcomes: Iterator[T], total: int) -> Iterator[T]:
        """The outcomes of many pictures, as they come, under a progress bar."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, disable=self.quiet, transient=True) as bar:
            task = bar.add_task("", total=total)
            for outcome in outcomes:
                yield outcome
                bar.update(task, advance=1)

    def watch(self, name: str, run: Run, frames: Any) -> bool:
        """Work through a run under a progress bar. True if Ctrl-C stopped it: the masks so far are kept."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        for note in run.notes:
            self.say(f"note: {note}")
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("change {task.fields[change]:.4f}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=self.quiet,
            transient=True,
        )
        with bar:
            task = bar.add_task(name, total=None, change=0.0)
            try:
                for step in run:
                    bar.update(task, completed=step.index, total=step.total, change=step.change)
                    if frames is not None:
                        frames.add(step)
            except KeyboardInterrupt:
                return True
        return False

    def done(self, folder: Path, record: dict[str, Any], stopped: bool) -> None:
        """One line a prompt: found or not, how large, where."""
        if stopped:
            steps = f"{record['steps_done']} of {record['steps_asked']} iterations"
            self.error(f"stopped after {steps}; the masks so far are kept in {folder}")
        from peekaboo.jobs import finding

        for row in record["results"]:
            self.say(finding(row))
        for name, row in record.get("profile", {}).items():
            self.say(f"  {row['seconds']:8.3f} s  {name} ({row['calls']:.0f} calls)")
        self.say(f"{folder}: {record['seconds']:.1f} s on {record['device']}")

    def finish(self, failed: int, total: int) -> int:
        """The last word on many pictures: the exit code."""
        if failed and total > 1:
            others = "the others are done" if failed < total else "nothing was written"
            self.error(f"{failed} of {total} images failed; {others}.")
        return SOME_FAILED if failed or self.mute else DONE
