"""`peekaboo ui`: the web page, thin as its neighbours of the command line. It finds things in a picture, and makes pictures with
transparency, with one loaded model, one run at a time; what is written is what the command line writes."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from peekaboo import jobs
from peekaboo.denoisers import BUNDLED
from peekaboo.errors import EngineError, ImageError, MissingExtraError, first_line
from peekaboo.generate import Draft
from peekaboo.pipeline import Making, Peekaboo, Run, vocabulary_of
from peekaboo.rgba import checkerboard, on, to_image
from peekaboo.settings import GENERATE_PRESETS, PRESETS, Settings
from peekaboo.settings import preset as make_preset

try:
    import gradio as gr
except ImportError as error:
    raise MissingExtraError(
        "The page needs Gradio: pip install 'peekaboo-segmentation[ui]', or use `peekaboo segment`."
    ) from error

KEPT_SECONDS = 3600
"""How long the page's own files, uploads and results, stay on the disk."""
SHOWN_SIDE = 512
"""The longest side, in pixels, at which a picture that is being made is shown."""
CSS = """
.checks img { background: repeating-conic-gradient(#ccc 0% 25%, #fff 0% 50%) 0 0 / 16px 16px; }
"""

Found = tuple[Any, Any, str, Any]
"""What the first tab shows: the picture, the cut-outs with what is said of each, the text below, the file to download."""
Made = tuple[Any, str, Any]
"""What the second tab shows: the picture on checks, the text below, the file to download."""


def upload(**options: Any) -> gr.Image:
    """Where a picture is dropped: its file as it came. (Gradio would open it first, and turn what it cannot open into an error without
    a reason. No subclass: for one, Gradio writes a file beside this.)"""
    image = gr.Image(type="filepath", **options)
    image.preprocess = lambda payload: None if payload is None else payload.path
    return image


class Page:
    """What the page does when a button is pressed. model: loaded, and used by one run at a time. folder: where the files to download
    are made."""

    def __init__(self, model: Peekaboo, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.stops: dict[str, threading.Event] = {}

    def find(
        self,
        image: str | None,
        prompts: str,
        preset: str,
        presence: float,
        seed: float,
        changes: str,
        request: gr.Request,
    ) -> Iterator[Found]:
        """The masks as they come, then the results, of all the prompts in one run: a prompt a line."""
        stop = self.fresh_stop(request)
        with as_toasts(Path(image or "the picture")):
            if image is None:
                raise ImageError("There is no picture yet; drop one on the left.")
            settings = jobs.read_settings(preset, int(seed or 0), [f"presence={presence}", *lines(changes)])
            run = self.model.start(image, jobs.check_prompts(lines(prompts)), preset=settings)
            frames = jobs.Frames(run)
            for step in run:
                frames.add(step)
                yield frames.images.pop(), [], progress(run.notes, step.index, step.total), None
                if stop.is_set():
                    break
            yield self.results(Path(image), run)

    def results(self, image: Path, run: Run) -> Found:
        """What a run found, with everything that `peekaboo segment` would write, in one file."""
        result = run.result()
        files, record = jobs.encode(image, result, None)
        path = self.new_folder() / f"{image.stem}.zip"
        jobs.write_zip(path, image.stem, files)
        said = [jobs.finding(row) for row in record["results"]]
        cutouts = [(result.cutout(i), run.prompts[i]) for i, found in enumerate(result.found) if found]
        ended = "stopped; the masks so far, " if record["interrupted"] else ""
        text = [*map(note, run.notes), *said, f"{ended}{record['seconds']:.1f} s on {record['device']}"]
        return result.overlay(), cutouts, "\n\n".join(text), gr.DownloadButton(value=str(path), interactive=True)

    def make(
        self,
        prompt: str,
        negative: str,
        width: float,
        height: float,
        preset: str,
        seed: float,
        changes: str,
        request: gr.Request,
    ) -> Iterator[Made]:
        """The picture as it comes, on checks, then the PNG. A side of 0 is the model's own."""
        stop = self.fresh_stop(request)
        with as_toasts(Path("the picture")):
            settings = jobs.read_generate_settings(preset, int(seed or 0), negative, lines(changes))
            sides = {"height": int(height or 0) or None, "width": int(width or 0) or None}
            making = self.model.start_generation(prompt, **sides, preset=settings)
            for draft in making:
                yield shown(making, draft), progress(making.notes, draft.index, draft.total), None
                if stop.is_set():
                    break
            result = making.result()
            path = self.new_folder() / f"{jobs.slug(prompt)}.png"
            result.save(path)
            ended = f"stopped after {result.steps} of {making.total} steps, " if result.steps < making.total else ""
            said = [*map(note, making.notes), f"{ended}{result.record['seconds']:.1f} s on {result.record['device']}"]
            view = shown(making, making.last) if making.last else None
            yield view, "\n\n".join(said), gr.DownloadButton(value=str(path), interactive=True)

    def stop(self, request: gr.Request) -> None:
        """The session's run ends after the step that it is at; what there is so far is kept."""
        if (event := self.stops.get(request.session_hash or "")) is not None:
            event.set()

    def fresh_stop(self, request: gr.Request) -> threading.Event:
        """What `stop` will set for the session's next run."""
        event = self.stops[request.session_hash or ""] = threading.Event()
        return event

    def forget(self, request: gr.Request) -> None:
        """A session has ended: so does its run."""
        self.stop(request)
        self.stops.pop(request.session_hash or "", None)

    def new_folder(self) -> Path:
        """A folder of its own for a file to download, so that the file can have a plain name. Those that are `KEPT_SECONDS` old go."""
        for old in self.folder.glob("result-*"):
            if time.time() - old.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix="result-", dir=self.folder))


@contextmanager
def as_toasts(what: Path) -> Iterator[None]:
    """Errors are told in the page, in one sentence, the file they are about by its name alone."""
    try:
        yield
    except Exception as error:  # libraries raise many kinds for one bad picture
        text = jobs.explain(what, error).replace(str(what), what.name)
        raise gr.Error(text, duration=None, print_exception=False) from error


def lines(text: str) -> list[str]:
    """What is on each line of a text, but for empty ones."""
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


def note(text: str) -> str:
    return f"*note: {text}*"


def progress(notes: list[str], index: int, total: int) -> str:
    """What stands below a picture while a run is under way."""
    return "\n\n".join([*map(note, notes), f"step {index} of {total}"])


def shown(making: Making, draft: Draft) -> Image.Image:
    """A picture that is being made, on checks, large enough to be looked at."""
    scale = max(1.0, SHOWN_SIDE / max(making.size))
    size = (round(making.size[0] * scale), round(making.size[1] * scale))
    return on(checkerboard(size, 16), to_image(draft.colour, draft.alpha, size))


def heading(model: Peekaboo) -> str:
    """What the page says of itself and of its model."""
    denoiser = model.denoiser
    text = [
        "# Peekaboo",
        "Point at a picture, say what you mean, get its mask: with nothing but a text-to-image diffusion model "
        f"(here: {denoiser.name}, on {denoiser.device}), and no training.",
    ]
    if denoiser.name == BUNDLED:
        text.append(
            "**This model is the small one that Peekaboo carries: it knows drawings and cut-outs of everyday things, and no photographs.** "
            "For those, start the page with a Stable Diffusion or Flux: `peekaboo ui -m MODEL`."
        )
    return "\n\n".join(text)


def build(page: Page) -> gr.Blocks:
    """The page: two tabs."""
    denoiser = page.model.denoiser
    vocabulary = vocabulary_of(denoiser.name)
    with gr.Blocks(title="Peekaboo", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as blocks:
        gr.Markdown(heading(page.model))
        if vocabulary:
            with gr.Accordion("What this model knows best", open=False):
                gr.Markdown(", ".join(sorted(name.name for name in vocabulary.names if name.core)))
        with gr.Tab("Find"):
            build_find(page)
        with gr.Tab("Make"):
            build_make(page)
        blocks.unload(page.forget)
    return blocks


def build_settings(example: str) -> tuple[gr.Number, gr.Textbox]:
    """What both tabs take beside a preset: a seed, and any setting, of which the example is one."""
    seed = gr.Number(0, label="Seed", precision=0, minimum=0)
    label, info = "Any other setting", "NAME=VALUE, one a line, as --set has it"
    return seed, gr.Textbox(label=label, info=info, placeholder=example, lines=2)


def build_find(page: Page) -> None:
    """The tab that segments a picture."""
    with gr.Row():
        with gr.Column():
            image = upload(label="Picture", sources=["upload", "clipboard"], height=360)
            prompts = gr.Textbox(
                label="What to find",
                info="a thing a line; they compete for the pixels",
                placeholder="a ladybug\nthe left apple",
                lines=3,
            )
            with gr.Row():
                go, halt = gr.Button("Find", variant="primary"), gr.Button("Stop")
            with gr.Accordion("Settings", open=False):
                preset = gr.Dropdown(
                    list(PRESETS),
                    value="default",
                    label="Preset",
                    info="paper: arXiv 2211.13224; draft: the first map alone",
                )
                presence = gr.Slider(
                    0,
                    0.95,
                    Settings().presence,
                    step=0.05,
                    label="Least score",
                    info="what scores below is not found; 0 finds everything",
                )
                seed, changes = build_settings("threshold=0.4")
        with gr.Column():
            view = gr.Image(label="Found", interactive=False, format="png", height=360)
            said = gr.Markdown()
            cutouts = gr.Gallery(
                label="Cut-outs",
                format="png",
                columns=3,
                object_fit="contain",
                elem_classes="checks",
                interactive=False,
            )
            file = gr.DownloadButton("Download masks, alphas and cut-outs", interactive=False)
    preset.change(lambda name: make_preset(name).presence, preset, presence, api_visibility="private")
    go.click(
        page.find,
        [image, prompts, preset, presence, seed, changes],
        [view, cutouts, said, file],
        concurrency_id="model",
        show_progress_on=view,
    )
    halt.click(page.stop, queue=False, api_name="stop")


def build_make(page: Page) -> None:
    """The tab that makes a picture with transparency."""
    with gr.Row():
        with gr.Column():
            prompt = gr.Textbox(label="What to make", placeholder="a red apple")
            negative = gr.Textbox(label="What it should not look like")
            with gr.Row():
                width = gr.Number(0, label="Width", info="pixels; 0: the model's own", precision=0, minimum=0)
                height = gr.Number(0, label="Height", precision=0, minimum=0)
            with gr.Row():
                go, halt = gr.Button("Make", variant="primary"), gr.Button("Stop")
            with gr.Accordion("Settings", open=False):
                preset = gr.Dropdown(
                    list(GENERATE_PRESETS),
                    value="default",
                    label="Preset",
                    info="paper: optimised from nothing, slowly",
                )
                seed, changes = build_settings("start_guidance=5")
        with gr.Column():
            view = gr.Image(label="Made, on checks", interactive=False, format="png", height=420)
            said = gr.Markdown()
            file = gr.DownloadButton("Download the PNG, with its transparency", interactive=False)
    go.click(
        page.make,
        [prompt, negative, width, height, preset, seed, changes],
        [view, said, file],
        concurrency_id="model",
        show_progress_on=view,
    )
    halt.click(page.stop, queue=False, api_visibility="private")


@contextmanager
def gradio_files_in(folder: str) -> Iterator[None]:
    """Meanwhile what Gradio begins keeps its files, uploads above all, in a folder, not in one for all."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before


@contextmanager
def serving(model: Peekaboo, host: str, port: int | None, browser: bool = False) -> Iterator[str]:
    """Meanwhile the page is served at the URL that is given; its files are gone afterwards.

    port: None takes the first free one from 7860 on. Raises EngineError where it cannot be served there.
    """
    with tempfile.TemporaryDirectory(prefix="peekaboo-ui-") as folder, gradio_files_in(folder):
        blocks = build(Page(model, Path(folder)))
        try:
            _, url, _ = blocks.launch(
                server_name=host,
                server_port=port,
                inbrowser=browser,
                share=False,
                quiet=True,
                show_error=True,
                prevent_thread_lock=True,
                ssr_mode=False,
                footer_links=[],
                allowed_paths=[folder],
                css=CSS,
                theme=gr.themes.Default(font="system-ui", font_mono="monospace"),
            )
        except (OSError, ValueError) as error:
            raise EngineError(
                f"The page cannot be served at {host}:{port or 7860} ({first_line(error)}); choose another --port or --host."
            ) from error
        try:
            yield url
        finally:
            blocks.close(verbose=False)
