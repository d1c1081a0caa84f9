"""`peekaboo ui`: thin, as its neighbour `cli`."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from peekaboo.console import DEVICE, DONE, DTYPE, MODEL, WRONG_USAGE, Dtype, Report
from peekaboo.errors import PeekabooError


def ui(
    model: Annotated[str, MODEL] = "bundled",
    host: Annotated[
        str, typer.Option(help="Where it listens; 0.0.0.0 lets other machines in, with no password.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The first free one from 7860 on, unless given.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser", help="Open it in a browser.")] = False,
    device: Annotated[str, DEVICE] = "auto",
    dtype: Annotated[Dtype, DTYPE] = Dtype.auto,
) -> None:
    """Serve a web page that finds things in pictures, and makes pictures with transparency."""
    report = Report(quiet=False)
    try:
        from peekaboo.page import serving

        with serving(report.load(model, device, dtype.value), host, port, browser) as url:
            report.say(f"the page is at {url} (Ctrl-C ends it)")
            threading.Event().wait()
    except PeekabooError as error:
        report.error(str(error))
        raise typer.Exit(WRONG_USAGE) from None
    except KeyboardInterrupt:
        raise typer.Exit(DONE) from None
