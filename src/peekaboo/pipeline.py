"""The façade: pictures and prompts in, results out."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import peekaboo
from peekaboo import attention, evidence, generate, grabcut, optimize, places
from peekaboo.companions import Companions
from peekaboo.denoisers import BUNDLED, Denoiser, adapt, bundled_folder, load_pipeline
from peekaboo.denoisers.base import RememberingDenoiser
from peekaboo.errors import PromptError, SettingsError
from peekaboo.generate import Draft
from peekaboo.guides import GuideLike, misfits, read_guide
from peekaboo.images import MIN_SIDE, ImageLike, Picture, model_size, read_image, to_model
from peekaboo.optimize import Step
from peekaboo.presence import presence
from peekaboo.refine import clean, upsample
from peekaboo.result import Generation, Segmentation
from peekaboo.rgba import to_image
from peekaboo.scene import ALPHA_PER_LATENT, Scene, alpha_grid, to_grid
from peekaboo.settings import GenerateSettings, Settings, generate_preset, variant_changes
from peekaboo.settings import preset as make_preset
from peekaboo.stopwatch import Stopwatch, TimedDenoiser
from peekaboo.vocabulary import Vocabulary, read_cached, unknown_notes

MAX_PROMPTS = 64
MAX_SIDE = 4096
"""The longest side, in pixels, of a picture that is made."""


class Peekaboo:
    """Segments pictures by description, and makes them with transparency, with one loaded model.

    pipe: a loaded diffusers text-to-image pipeline (its LoRA weights, textual inversions and device are used as they are), or
    anything that has the `Denoiser` protocol. Raises ModelError for a family without an adapter.
    """

    def __init__(self, pipe: Any) -> None:
        self.denoiser: Denoiser = adapt(pipe)
        self.companions = Companions(self.denoiser.name, self.denoiser.device)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = BUNDLED,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> Peekaboo:
        """Load a model: "bundled" (no network, no account), a diffusers folder, a .safetensors file, or a Hub id.

        device: "cpu", "cuda", "mps" …, or None for the best there is. dtype: "float32", "float16", "bfloat16", or None to fit
        the device; torch's own objects, too. Raises ModelError.
        """
        with recording():
            return cls(load_pipeline(name, device, dtype))

    @contextmanager
    def same_prompts(self) -> Iterator[None]:
        """Meanwhile, the same prompts are encoded once: for many pictures in a row. Nothing is remembered afterwards, and nothing
        may be loaded into the model (LoRA, textual inversion) meanwhile."""
        inner = self.denoiser
        self.remember_prompts()
        try:
            yield
        finally:
            self.denoiser = inner

    def remember_prompts(self) -> None:
        """`same_prompts` from now on, for good: for a worker whose model nobody else touches."""
        self.denoiser = RememberingDenoiser(self.denoiser)

    def start(
        self,
        image: ImageLike,
        prompts: str | Sequence[str],
        *,
        preset: str | Settings = "default",
        variant: str | None = None,
        guide: GuideLike | None = None,
        profile: bool = False,
        **settings: Any,
    ) -> Run:
        """Prepare a run without doing it: iterate over it to see each `Step`, and ask its `result` at any time.

        The arguments are those of `segment`.
        """
        texts = check_prompts(prompts)
        if isinstance(preset, Settings):
            chosen = preset.with_changes(**{**(variant_changes(variant) if variant else {}), **settings})
        else:
            chosen = make_preset(preset, variant, **settings)
        return Run(self.denoiser, read_image(image), texts, chosen, guide, self.companions, profile)

    def segment(
        self,
        image: ImageLike,
        prompts: str | Sequence[str],
        *,
        preset: str | Settings = "default",
        variant: str | None = None,
        guide: GuideLike | None = None,
        profile: bool = False,
        on_step: Callable[[Step], None] | None = None,
        **settings: Any,
    ) -> Segmentation:
        """Find what each prompt names in a picture.

        image: path, PIL image or array, HWC uint8 in [0, 255] or float in [0, 1]; any size and aspect, EXIF-oriented.
        prompts: one, or several for one joint run in which they compete for the pixels.
        preset: "default", "paper", "draft", or `Settings`. settings: any field of `Settings`, by name.
        variant: a composition of the paper's tables, by name (`settings.VARIANTS`): "depth-bilateral", "clip" …
        guide: a map, array or file, that guides the blur instead of the picture's colours; a depth map is one.
        profile: True adds to the record where the time went. on_step: called after every iteration.

        Returns alphas at the input's own size. Raises PeekabooError: ImageError, PromptError, SettingsError, NumericalError.
        """
        run = self.start(image, prompts, preset=preset, variant=variant, guide=guide, profile=profile, **settings)
        for step in run:
            if on_step is not None:
                on_step(step)
        return run.result()

    def start_generation(
        self,
        prompt: str,
        *,
        height: int | None = None,
        width: int | None = None,
        preset: str | GenerateSettings = "default",
        **settings: Any,
    ) -> Making:
        """Prepare a generation without doing it: iterate over it to see each `Draft`, and ask its `result` at any time.

        The arguments are those of `generate`.
        """
        if not isinstance(prompt, str):
            raise PromptError(
                f"A picture is made from one prompt, which must be text, but this is a {type(prompt).__name__}."
            )
        (text,) = check_prompts(prompt)
        base = preset if isinstance(preset, GenerateSettings) else generate_preset(preset)
        chosen = base.with_changes(**settings)
        check_letters(chosen.negative_prompt)
        return Making(self.denoiser, text, check_size(height, width), chosen, self.companions)

    def generate(
        self,
        prompt: str,
        *,
        height: int | None = None,
        width: int | None = None,
        preset: str | GenerateSettings = "default",
        on_step: Callable[[Draft], None] | None = None,
        **settings: Any,
    ) -> Generation:
        """Make a picture with transparency of what the prompt says (arXiv 2211.13224, §5).

        height, width: of the picture in pixels, 8 to 4096; one that is missing is the other, and both are the model's own side.
        The model works at its own number of pixels with that aspect, and the result is resized.
        preset: "default", "paper", or `GenerateSettings`. settings: any field of `GenerateSettings`, by name.
        on_step: called after every step.

        Returns an RGBA picture. Raises PeekabooError: PromptError, SettingsError, NumericalError.
        """
        making = self.start_generation(prompt, height=height, width=width, preset=preset, **settings)
        for draft in making:
            if on_step is not None:
                on_step(draft)
        return making.result()


def segment(
    image: ImageLike, prompts: str | Sequence[str], *, model: str | Path = BUNDLED, **options: Any
) -> Segmentation:
    """Load a model, segment one picture, and let go of the model: see `Peekaboo.segment` for the options.

    For more than one picture, make a `Peekaboo` once and use it again.
    """
    return Peekaboo.from_pretrained(model).segment(image, prompts, **options)


def check_prompts(prompts: str | Sequence[str]) -> list[str]:
    """The prompts as a list, stripped. Raises PromptError where one says nothing, or there are none or too many."""
    if not isinstance(prompts, str) and not isinstance(prompts, Iterable):
        raise PromptError(f"A prompt must be text, or several in a list, but this is a {type(prompts).__name__}.")
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts:
        raise PromptError("There is no prompt; say what to find, for example 'a sheep'.")
    if len(texts) > MAX_PROMPTS:
        raise PromptError(f"{len(texts)} prompts are too many for one run; the limit is {MAX_PROMPTS}.")
    for text in texts:
        if not isinstance(text, str):
            raise PromptError(f"A prompt must be text, but {text!r} is a {type(text).__name__}.")
        if not text.strip():
            raise PromptError("The prompt is empty; say what to find, for example 'a sheep'.")
        check_letters(text)
    clean = [" ".join(text.split()) for text in texts]
    for text, count in Counter(text.lower() for text in clean).items():
        if count > 1:
            raise PromptError(
                f"The prompt {text!r} is given {count} times; prompts of one run compete, so give it once."
            )
    return clean


def check_letters(text: str) -> None:
    """Raises PromptError where a prompt holds what the shell hands over for bytes that are no UTF-8."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise PromptError(f"The prompt {text!a} holds bytes that are no text in UTF-8; type it again.")


class Run:
    """One segmentation under way. Iterate to work; stop at any time; `result` gives the masks so far."""

    def __init__(
        self,
        denoiser: Denoiser,
        picture: Picture,
        prompts: list[str],
        settings: Settings,
        guide: GuideLike | None,
        companions: Companions,
        profile: bool = False,
    ) -> None:
        self.companions = companions
        self.stopwatch = Stopwatch(denoiser.device) if profile else None
        denoiser = TimedDenoiser(denoiser, self.stopwatch) if self.stopwatch else denoiser
        self.denoiser, self.picture, self.prompts, self.settings = denoiser, picture, prompts, settings
        read = [places.read(prompt) if settings.places else (prompt, None) for prompt in prompts]
        self.places = [place for _, place in read]
        self.asked = [text for text, _ in read]
        unknown = unknown_notes(vocabulary_of(denoiser.name), list(dict.fromkeys(self.asked)))
        self.notes = [*picture.notes, *clipped_notes(denoiser, self.asked), *unknown]
        self.model_size = model_size(*picture.size, denoiser.native_area, denoiser.factor)
        self.grid = alpha_grid(denoiser, self.model_size)
        self.clock = time.perf_counter()
        with recording(), self._timed("preparation"):
            self.scene = self._prepare(guide)
        self.last: Step | None = None

    def _timed(self, name: str) -> AbstractContextManager[None]:
        return self.stopwatch.measure(name) if self.stopwatch else nullcontext()

    def _prepare(self, guide: GuideLike | None) -> Scene:
        seen = to_model(self.picture.rgb, self.model_size)
        image = seen.to(self.denoiser.device)
        embeddings = self.denoiser.encode_prompt([*self.asked, ""])
        names = evidence.rivals_of(self.asked) if self.settings.rivals else []
        rivals = self.denoiser.encode_prompt(names) if names else None
        pools = self.settings.warm_start and self.settings.pooling
        words = attention.words_of(self.denoiser, self.asked) if pools else None
        blur_guide: Tensor | None = None
        if guide is None and self.settings.blur == "depth":
            guide = self.companions.depth(self.settings)(self.picture.rgb)
        if guide is not None:
            array = torch.from_numpy(read_guide(guide)).permute(2, 0, 1)[None]
            self.notes += misfits((array.shape[-2], array.shape[-1]), self.picture.size)
            blur_guide = to_grid(array, self.grid).to(self.denoiser.device)
        elif self.settings.blur == "rgb":
            blur_guide = to_grid(seen, self.grid).to(self.denoiser.device)
        judge = self.companions.clip(self.settings).judge(self.asked) if self.settings.estimator == "clip" else None
        prior = places.prior(self.places, self.grid)
        asks = places.alike(self.asked)
        prompts, null = embeddings[:-1], embeddings[-1:]
        return Scene(self.denoiser, image, prompts, null, blur_guide, judge, rivals, words, prior, asks)

    def __iter__(self) -> Iterator[Step]:
        steps = optimize.run(self.scene, self.settings)
        while True:
            with recording(), self._timed("alpha: blur, backward pass, update"):
                step = next(steps, None)
            if step is None:
                return
            self.last = step
            yield step

    def result(self) -> Segmentation:
        """The masks after the last step that was done, at the picture's own size; all zero before the first, and for what scores
        below `Settings.presence`."""
        alpha = self.alphas()
        with self._timed("score"):
            score = presence(self.scene, alpha, self.settings).cpu()
        alpha = alpha.cpu() * (score >= self.settings.presence).view(-1, 1, 1)
        with self._timed("upsampling"):
            full = clean(upsample(alpha, self.picture.rgb, cell=ALPHA_PER_LATENT), self.settings.levels)
        return Segmentation(full, score.numpy(), self.prompts, self.settings, self.picture, self._record())

    def alphas(self) -> Tensor:
        """The alphas so far (N, h, w), a prompt each, before presence judges them: as far as the picture's colours carry them, on a finer
        grid than α's where `grabcut` is on; of those that tell a place, the one thing that stands there."""
        if self.last is None:
            return torch.zeros(len(self.prompts), *self.grid)
        alphas = self.last.alpha.clone()
        for i, place in enumerate(self.places):
            if place is not None:
                alphas[i], note = places.keep(alphas[i], place, self.settings.threshold)
                if note and (text := f"{self.prompts[i]}: {note}.") not in self.notes:
                    self.notes.append(text)
        if self.settings.grabcut:
            said = evidence.testimony(self.scene, self.settings)
            gain = evidence.gain_map(said, (said.shape[-2], said.shape[-1]))
            with self._timed("extent: GrabCut"):
                placed = [i for i, place in enumerate(self.places) if place is not None]
                return grabcut.extended(alphas, self.picture.rgb, gain, self.last.alpha - alphas, placed)
        return alphas

    def _record(self) -> dict[str, Any]:
        done, total = self.last.index if self.last else 0, optimize.iterations(self.settings)
        return {
            **circumstances(self.denoiser),
            "size": list(self.picture.size),
            "model_size": list(self.model_size),
            "steps_done": done,
            "steps_asked": total,
            "interrupted": done < total,
            "seconds": round(time.perf_counter() - self.clock, 3),
            "notes": self.notes,
            **({"profile": self.stopwatch.report()} if self.stopwatch else {}),
        }


class Making:
    """One generation under way. Iterate to work; stop at any time; `result` gives the picture so far."""

    def __init__(
        self,
        denoiser: Denoiser,
        prompt: str,
        size: tuple[int, int] | None,
        settings: GenerateSettings,
        companions: Companions,
    ) -> None:
        self.denoiser, self.prompt, self.settings, self.companions = denoiser, prompt, settings, companions
        side = round(denoiser.native_area**0.5)
        self.size: tuple[int, int] = size or (side, side)
        self.total = generate.iterations(settings)
        self.model_size = model_size(*self.size, denoiser.native_area, denoiser.factor)
        prompts = [prompt, settings.negative_prompt] if settings.negative_prompt else [prompt]
        unknown = unknown_notes(vocabulary_of(denoiser.name), prompts)
        self.notes = [*clipped_notes(denoiser, prompts), *unknown]
        self.clock = time.perf_counter()
        self.last: Draft | None = None

    def __iter__(self) -> Iterator[Draft]:
        drafts = generate.run(self.denoiser, self.prompt, self.model_size, self.settings, self.cut)
        while True:
            with recording():
                draft = next(drafts, None)
            if draft is None:
                return
            self.last = draft
            yield draft

    def cut(self, colour: Tensor) -> tuple[Tensor, Tensor]:
        """The thing that the prompt names in a picture (3, H, W) in [0, 1], by its own mask: straight colours (3, H, W), alpha (H, W). All of the
        picture, with a note, where nothing is told from the rest."""
        rgb = np.array(to_image(*generate.no_cut(colour)).convert("RGB"))
        found = Run(
            self.denoiser,
            Picture(rgb),
            [self.prompt],
            make_preset("default", presence=0.0, seed=self.settings.seed),
            None,
            self.companions,
        )
        for _ in found:
            pass
        result = found.result()
        if not result.found[0]:
            self.notes.append(
                "What the prompt names could not be told from the rest of the picture; nothing was cut out."
            )
            return generate.no_cut(colour)
        rgba = torch.from_numpy(np.array(result.cutout())).to(colour).permute(2, 0, 1) / 255
        return rgba[:3], rgba[3]

    def result(self) -> Generation:
        """The picture after the last step that was done; before the first it is empty."""
        if self.last is None:
            image = Image.new("RGBA", self.size[::-1])
        else:
            image = to_image(self.last.colour, self.last.alpha, self.size)
        done, total = self.last.index if self.last else 0, self.total
        record = {
            **circumstances(self.denoiser),
            "prompt": self.prompt,
            "size": list(self.size),
            "model_size": list(self.model_size),
            "steps_done": done,
            "steps_asked": total,
            "interrupted": done < total,
            "seconds": round(time.perf_counter() - self.clock, 3),
            "notes": self.notes,
        }
        return Generation(image, self.prompt, self.settings, done, record)


def recording() -> AbstractContextManager[None]:
    """Gradients can be had of what is computed meanwhile, though the caller be in `torch.inference_mode`, as servers are. Never held
    over a yield: whoever watches a run gets their mode back."""
    return torch.inference_mode(False)


def circumstances(denoiser: Denoiser) -> dict[str, Any]:
    """What a record says about where and with what something was made."""
    return {
        "peekaboo": peekaboo.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "model": denoiser.name,
        "device": str(denoiser.device),
        "dtype": str(denoiser.dtype).removeprefix("torch."),
    }


def check_size(height: int | None, width: int | None) -> tuple[int, int] | None:
    """(height, width) of a picture to be made, or None if neither is given. Raises SettingsError."""
    given = [side for side in (height, width) if side is not None]
    if not given:
        return None
    size = (given[0], given[-1])
    if not all(isinstance(side, int) and MIN_SIDE <= side <= MAX_SIDE for side in size):
        raise SettingsError(
            f"The size {size[0]}×{size[1]} is no size; each side must be {MIN_SIDE} to {MAX_SIDE} pixels."
        )
    return size


def vocabulary_of(name: str) -> Vocabulary | None:
    """What the model of that name says it knows: the bundled one, or a folder that carries a list."""
    return read_cached(bundled_folder() if name == BUNDLED else Path(name))


def clipped_notes(denoiser: Denoiser, prompts: Sequence[str]) -> list[str]:
    """A sentence for every prompt whose end the model does not see."""
    notes = []
    for prompt in prompts:
        if rest := denoiser.clipped(prompt):
            shown = rest if len(rest) <= 80 else rest[:77] + "..."
            notes.append(f"The prompt is longer than the model reads; this end of it was cut: {shown}")
    return notes
