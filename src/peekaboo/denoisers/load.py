"""Finding and loading a model: the bundled one, a Hub id, a diffusers folder, or one .safetensors file."""

from __future__ import annotations

import json
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from peekaboo.denoisers.quiet import quiet
from peekaboo.denoisers.steady import steady
from peekaboo.errors import ModelError, first_line
from peekaboo.files import sha256

BUNDLED = "bundled"
SUMS = "SHA256SUMS"
FP16 = "fp16"
"""diffusers' name of a model's half-precision files, its "variant"."""
PICKLES = frozenset({".ckpt", ".pt", ".pth", ".bin", ".pkl"})


def bundled_folder() -> Path:
    """Where the bundled model lies, in diffusers' own layout."""
    return Path(__file__).parent.parent / "bundled"


def verify(folder: Path) -> int:
    """Compare a model's weights with the SHA-256 sums released beside them (`SHA256SUMS`, the format of sha256sum).

    Returns how many files were compared: 0 where there is no list. Raises ModelError naming the first that differs.
    """
    sums = folder / SUMS
    if not sums.is_file():
        return 0
    rows = [line.split(maxsplit=1) for line in sums.read_text(encoding="utf-8").splitlines() if line.strip()]
    for expected, name in rows:
        path = folder / name.strip()
        found = sha256(path)
        if found != expected:
            how = "is not the file that was released (its SHA-256 differs)" if found else "is missing"
            raise ModelError(f"{path} {how}; install Peekaboo again, or get a complete copy of the model.")
    return len(rows)


def pick_device(device: str | torch.device | None) -> torch.device:
    """The named device, or the best one there is. Raises ModelError if it is unknown or absent."""
    steady()
    if device in (None, "auto"):
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(str(device))
        torch.zeros(1, device=chosen)
        if chosen.type == "meta":
            raise NotImplementedError("no storage")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"The device {str(device)!r} cannot be used here; leave it out, or say one that `peekaboo doctor` lists."
        ) from error
    return chosen


def pick_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The named precision, or float16 on a CUDA GPU and float32 elsewhere. (The scores are differences of nearly equal
    predictions: float16 rounds them eight times finer than bfloat16.)"""
    names = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype in (None, "auto"):
        return torch.float16 if device.type == "cuda" else torch.float32
    dtype = str(dtype).removeprefix("torch.")
    if dtype not in names:
        raise ModelError(f"The dtype {dtype!r} is unknown; say one of auto, {', '.join(names)}.")
    return names[dtype]


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 numbers natively: GPUs, and some processors. The others emulate it, many times slower."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type != "cpu" or any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def bundled_dtype(device: torch.device) -> torch.dtype:
    """The bundled model's precision where none is named: bfloat16 on a processor that multiplies it natively, which is faster there
    and finds the same alphas to a hair (tests/test_bundled.py), else float32; too small a model to gain from half precision on a GPU."""
    return torch.bfloat16 if device.type == "cpu" and multiplies_bfloat16(device) else torch.float32


def overflows(name: str | Path) -> bool:
    """Whether a model's networks overflow in float16, as Flux's do: by its model_index.json, in a folder or on the Hub. False where there
    is none."""
    from diffusers import DiffusionPipeline

    with quiet(), suppress(Exception):  # loading tells what is wrong with the model
        return "Flux" in str(DiffusionPipeline.load_config(str(Path(name).expanduser()))["_class_name"])
    return False


def load_pipeline(
    name: str | Path = BUNDLED, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> Any:
    """Load a text-to-image pipeline, weights from safetensors only (a pickle can run code when it is opened).

    name: "bundled"; a folder in diffusers' layout; one .safetensors checkpoint; or an id on the Hugging Face Hub.
    Raises ModelError with what is wrong and what to do.
    """
    chosen_device = pick_device(device)
    bundled = str(name) == BUNDLED
    own = bundled and dtype in (None, "auto")
    chosen_dtype = bundled_dtype(chosen_device) if own else pick_dtype(dtype, chosen_device)
    if chosen_dtype == torch.float16 and dtype in (None, "auto") and overflows(name):
        chosen_dtype = torch.bfloat16
    try:
        path = bundled_folder() if bundled else Path(name).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"The model name {str(name)[:80]!r} cannot be a path ({first_line(error)}).") from error
    if bundled:
        verify(path)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of names that diffusers will change at 1.0
        if is_folder:
            pipe = _from_folder(path, chosen_dtype)
        elif is_file:
            pipe = _from_file(path, chosen_dtype)
        else:
            pipe = _from_hub(str(name), chosen_dtype)
        pipe = pipe.to(chosen_device)
    pipe.set_progress_bar_config(disable=True)
    if bundled:
        pipe.register_to_config(_name_or_path=BUNDLED)
    return pipe


def _from_folder(path: Path, dtype: torch.dtype) -> Any:
    from diffusers import DiffusionPipeline

    check_folder(path)
    options: dict[str, Any] = {"safety_checker": None, **dict.fromkeys(_left_out(path))}
    if _is_fp16(path):
        options["variant"] = FP16
    try:
        return DiffusionPipeline.from_pretrained(
            path, torch_dtype=dtype, use_safetensors=True, local_files_only=True, **options
        )
    except Exception as error:  # diffusers raises many kinds for a broken folder
        for pickled in sorted(p for p in path.rglob("*") if p.suffix in PICKLES):
            if not any(pickled.parent.glob("*.safetensors")):
                raise ModelError(_pickle_reason(pickled)) from error
        raise ModelError(
            f"The model in {path} is incomplete or damaged ({first_line(error)}); get a complete copy."
        ) from error


def check_folder(path: Path) -> None:
    """Whether a folder has what a diffusers model is made of, its weights unread. Raises ModelError."""
    if not (path / "model_index.json").is_file():
        raise ModelError(f"{path} is no diffusers model: it has no model_index.json; name the folder that has.")
    if missing := _missing_parts(path):
        raise ModelError(
            f"The model in {path} is incomplete or damaged (without {', '.join(missing)}); get a complete copy."
        )


def _is_fp16(path: Path) -> bool:
    """Whether some part has its weights as half-precision files only: `diffusion_pytorch_model.fp16.safetensors`."""
    weights: dict[Path, list[bool]] = {}
    for file in path.glob("*/*.safetensors"):
        weights.setdefault(file.parent, []).append(f".{FP16}" in file.name)
    return any(all(half) for half in weights.values())


def _missing_parts(path: Path) -> list[str]:
    """The parts that model_index.json names and the folder lacks. (transformers makes an empty tokenizer of a missing one.)"""
    try:
        index = json.loads((path / "model_index.json").read_text())
        parts = {name: value[1] for name, value in index.items() if isinstance(value, list) and value[0]}
    except (ValueError, TypeError, IndexError, AttributeError):
        return ["a model_index.json that can be read"]
    missing = []
    for name, kind in parts.items():
        if name == "safety_checker":
            continue
        needed = "*" if "Tokenizer" in str(kind) else "*config.json"
        if not any((path / name).glob(needed)):
            missing.append(name)
    return missing


def file_family(path: Path) -> str:
    """The diffusers pipeline of one .safetensors checkpoint, by the names of its weights. Raises safetensors' error for what is none."""
    from safetensors import safe_open

    with safe_open(path, "pt") as weights:
        names = list(weights.keys())
    marks = {
        "conditioner.embedders.": "StableDiffusionXLPipeline",
        "joint_blocks.": "StableDiffusion3Pipeline",
        "double_blocks.": "FluxPipeline",
    }
    found = (family for mark, family in marks.items() if any(mark in name for name in names))
    return next(found, "StableDiffusionPipeline")


def _left_out(path: Path) -> list[str]:
    """The parts that a model was saved without, such as Stable Diffusion 3's T5: diffusers must be told that there are none."""
    index = json.loads((path / "model_index.json").read_text())
    return [name for name, value in index.items() if value == [None, None]]


def _from_file(path: Path, dtype: torch.dtype) -> Any:
    import diffusers

    if path.suffix.lower() in PICKLES:
        raise ModelError(_pickle_reason(path))
    if path.suffix.lower() != ".safetensors":
        raise ModelError(f"{path} is no model: expected a .safetensors file or a diffusers folder.")
    try:
        family = file_family(path)
        options = {"safety_checker": None} if family == "StableDiffusionPipeline" else {}
        return getattr(diffusers, family).from_single_file(path, torch_dtype=dtype, **options)
    except Exception as error:
        raise ModelError(
            f"{path} cannot be loaded ({first_line(error)}). A single file needs its model's configuration from the "
            "Hugging Face Hub once; without network, convert it to a diffusers folder elsewhere and name that."
        ) from error


def is_hub_id(name: str) -> bool:
    """Whether a name could be an id on the Hugging Face Hub, owner/name."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")


def _from_hub(name: str, dtype: torch.dtype) -> Any:
    from diffusers import DiffusionPipeline

    if not is_hub_id(name):
        raise ModelError(
            f"There is no model {name!r}: expected {BUNDLED!r}, a folder, a .safetensors file or a Hub id like owner/name."
        )
    options = {"torch_dtype": dtype, "use_safetensors": True, "safety_checker": None}
    try:
        return DiffusionPipeline.from_pretrained(name, **options)
    except Exception as error:
        if "safetensors" in str(error):  # there may be half-precision ones, which diffusers does not take by itself
            with suppress(Exception):
                return DiffusionPipeline.from_pretrained(name, variant=FP16, **options)
        raise ModelError(
            f"The model {name!r} could not be fetched from the Hugging Face Hub ({first_line(error)}). Check the name and the "
            f"network, name a local folder, or leave --model out to use the bundled one."
        ) from error


def _pickle_reason(path: Path) -> str:
    return (
        f"{path} is a pickle, which can run any code when it is opened, so it is refused; use the model's .safetensors "
        "version, or convert it with the safetensors tools on a machine you can spare."
    )
