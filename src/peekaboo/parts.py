"""One part of a transformers model, from a local folder or the Hugging Face Hub."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from peekaboo.denoisers.quiet import quiet
from peekaboo.errors import ModelError, first_line


def load_part(kind: Any, name: str | Path, what: str, hint: str) -> Any:
    """`kind.from_pretrained(name)`; networks in float32 and from safetensors only (a pickle can run code when it is opened).

    kind: a class of transformers. what, hint: for the sentence: "The depth network X cannot be loaded (…); give a map …".
    Raises ModelError.
    """
    network = not kind.__name__.endswith(("Tokenizer", "Processor"))
    options = {"use_safetensors": True, "dtype": torch.float32} if network else {}
    try:
        local = Path(name).expanduser().is_dir()
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return kind.from_pretrained(str(name), local_files_only=local, **options)
    except Exception as error:  # transformers raises many kinds for what is missing or broken
        raise ModelError(f"The {what} {str(name)[:80]!r} cannot be loaded ({first_line(error)}); {hint}.") from error
