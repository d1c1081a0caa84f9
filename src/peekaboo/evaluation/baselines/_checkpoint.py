"""Weights of models that are published as one training checkpoint: read without running any code in it, and renamed.

The parts are built by `from_pretrained` of transformers from a configuration and a state dict in the names of the
checkpoints on the Hub, which every version of transformers reads.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peekaboo.denoisers.quiet import quiet
from peekaboo.errors import ModelError, first_line

State = dict[str, Tensor]
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth")
BOOKKEEPING = ("pytorch_lightning.", "lightning.", "lightning_fabric.")
"""Modules whose classes a Lightning checkpoint names beside its weights (its callbacks); they are stood in for, not
imported."""


class Inert:
    """Stands in for a class of a training framework while weights are read: it takes anything and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def find_checkpoint(model: str | Path | None, what: str, where: str) -> Path:
    """The checkpoint that was named, or the only one in the folder that was. Raises ModelError.

    what, where: for the sentence: "LSeg", "demo_e200.ckpt from https://…".
    """
    if model is None:
        raise ModelError(f"{what} has no weights that load by themselves; get {where}, and name the file as the model.")
    path = Path(model).expanduser()
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
        if len(files) != 1:
            found = ", ".join(p.name for p in files) or "none"
            raise ModelError(
                f"The folder {path} must hold one checkpoint of {what}, but it holds {found}; name the file."
            )
        path = files[0]
    if not path.is_file():
        raise ModelError(f"There is no file {str(model)[:80]!r} with the weights of {what}; get {where}.")
    return path


def read_checkpoint(path: Path) -> State:
    """The tensors of a safetensors file, or of a checkpoint of torch or Lightning, by their names there.

    Of a pickle only tensors and plain data are read (`weights_only`); one that asks for anything else is refused.
    Raises ModelError.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with _stand_ins(path):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds for what is broken or forbidden
        raise ModelError(
            f"{path} is not read: it is damaged, or holds more than weights, which could run any code when it is "
            f"opened ({first_line(error)}); get a clean copy, or convert it to safetensors on a machine you can spare."
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else {}
    return {str(name): value.detach() for name, value in state.items() if isinstance(value, Tensor)}


@contextmanager
def _stand_ins(path: Path) -> Iterator[None]:
    """Meanwhile torch reads a training framework's own classes as `Inert`."""
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # no checkpoint at all: torch.load will say what is wrong
        named = []
    stand_ins: list[Any] = [(Inert, name) for name in named if name.startswith(BOOKKEEPING)]
    with torch.serialization.safe_globals(stand_ins):
        yield


def under(state: Mapping[str, Tensor], prefix: str) -> State:
    """The entries whose names begin with the prefix, without it."""
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}


def renamed(state: Mapping[str, Tensor], rules: Iterable[tuple[str, str]]) -> State:
    """Each entry under the name that the first rule whose pattern is the whole of its name makes of it; the others are
    left out."""
    compiled = [(re.compile(pattern), new) for pattern, new in rules]
    result = {}
    for name, value in state.items():
        for pattern, new in compiled:
            if match := pattern.fullmatch(name):
                result[match.expand(new)] = value
                break
    return result


def split_in_three(state: Mapping[str, Tensor], pattern: str, parts: tuple[str, str, str]) -> State:
    """The fused query, key and value projections that the pattern names, cut into three: "…{}…" by `parts` in that
    order."""
    result = {}
    for name, value in state.items():
        if match := re.fullmatch(pattern, name):
            pieces = value.chunk(3)
            result.update({match.expand(part): piece for part, piece in zip(parts, pieces, strict=True)})
    return result


def vit_names(state: Mapping[str, Tensor]) -> State:
    """A ViT of timm, its names as DPT and ViT have them on the Hub. Its classification head is left out."""
    layer = r"encoder.layer.\1"
    rules = [
        (r"cls_token", "embeddings.cls_token"),
        (r"pos_embed", "embeddings.position_embeddings"),
        (r"patch_embed\.proj\.(\w+)", r"embeddings.patch_embeddings.projection.\1"),
        (r"blocks\.(\d+)\.norm1\.(\w+)", rf"{layer}.layernorm_before.\2"),
        (r"blocks\.(\d+)\.attn\.proj\.(\w+)", rf"{layer}.attention.output.dense.\2"),
        (r"blocks\.(\d+)\.norm2\.(\w+)", rf"{layer}.layernorm_after.\2"),
        (r"blocks\.(\d+)\.mlp\.fc1\.(\w+)", rf"{layer}.intermediate.dense.\2"),
        (r"blocks\.(\d+)\.mlp\.fc2\.(\w+)", rf"{layer}.output.dense.\2"),
        (r"norm\.(\w+)", r"layernorm.\1"),
    ]
    attention = rf"{layer}.attention.attention."
    parts = (rf"{attention}query.\2", rf"{attention}key.\2", rf"{attention}value.\2")
    return {**renamed(state, rules), **split_in_three(state, r"blocks\.(\d+)\.attn\.qkv\.(\w+)", parts)}


def vit_shape(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The shape of a ViT, as arguments of a configuration, read off `vit_names`. Heads are 64 wide, as in every ViT of
    timm here, and the layer norms' ε is timm's."""
    patch = state["embeddings.patch_embeddings.projection.weight"]
    width, side = patch.shape[0], patch.shape[-1]
    patches = state["embeddings.position_embeddings"].shape[1] - 1
    return {
        "hidden_size": width,
        "num_hidden_layers": count(state, r"encoder\.layer\.(\d+)\..*"),
        "num_attention_heads": width // 64,
        "intermediate_size": state["encoder.layer.0.intermediate.dense.weight"].shape[0],
        "patch_size": side,
        "image_size": round(patches**0.5) * side,
        "layer_norm_eps": 1e-6,
        "qkv_bias": "encoder.layer.0.attention.attention.query.bias" in state,
    }


def count(state: Iterable[str], pattern: str) -> int:
    """How many different numbers stand in the names that the pattern matches."""
    return len({match.group(1) for name in state if (match := re.fullmatch(pattern, name))})


def build(kind: Any, config: Any, state: Mapping[str, Tensor], what: str, without: str = "") -> Any:
    """A network of transformers with these weights, float32, in evaluation and frozen.

    without: the prefix of parameters that it has and that nobody asks. Raises ModelError where weights are missing or
    do not fit.
    """
    floats = {name: value.float() for name, value in state.items()}
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network, info = kind.from_pretrained(
                None, config=config, state_dict=floats, dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:  # transformers raises many kinds for shapes that do not fit
        raise ModelError(
            f"The weights of {what} do not fit together ({first_line(error)}); get a clean copy."
        ) from error
    missing = sorted(name for name in info["missing_keys"] if not (without and name.startswith(without)))
    if missing:
        raise ModelError(
            f"The checkpoint of {what} lacks {len(missing)} weights, such as {missing[0]}; get a clean copy."
        )
    return network.eval().requires_grad_(False)
