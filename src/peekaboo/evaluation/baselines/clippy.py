r"""CLIPpy (arXiv 2210.09996): a ViT-B/16 begun at DINO, trained against Sentence-T5 captions by the *maximum* over its
patches.

The pooling makes each patch comparable with a text: the cosine of a patch and a text, upsampled, is the text's map.

The checkpoint is clippy_5k.pt (github.com/kahnchana/clippy, release v1.0), an unofficial replica on CC-12M in a smaller
setting (45 % on ImageNet, 50.8 mIoU on VOC by its own account). What is known of it was read in that repository, which
is OpenCLIP with `clippy-B-16.json`: under `state_dict`, with `module.` before the names, `visual.trunk` is timm's
vit_base_patch16_224_dino without a head, and `text` is the SentenceTransformer sentence-t5-base: `text.0.auto_model`
its T5 encoder, then the mean over tokens, `text.2.linear` (768 → 768, no bias), and unit length. The names inside
`text` are those of the sentence-transformers package, not read off the file, which could not be had here: the tests
build a small network with all these names.

As in its notebook: the whole picture at 224 × 224, OpenAI's mean and spread, and a prompt competing with "background";
the notebook puts both into "a photo of a {}", an option here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from peekaboo.errors import ModelError
from peekaboo.evaluation.baselines import _checkpoint
from peekaboo.evaluation.baselines._checkpoint import State, count, under
from peekaboo.evaluation.baselines._shared import Baseline, against, fill, load_words, place, resize
from peekaboo.images import to_model

WHERE = "clippy_5k.pt from https://github.com/kahnchana/clippy/releases"
TOKENIZER = "sentence-transformers/sentence-t5-base"
MAX_TOKENS = 256
"""What Sentence-T5 reads."""
MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Weights:
    """The checkpoint's weights, named as transformers names them.

    pixels: of a `ViTModel` without pooler. texts: of a `T5EncoderModel`. dense: the projection after the mean over
    tokens, (768, 768). scale: the learnt temperature's inverse.
    """

    pixels: State
    texts: State
    dense: Tensor
    scale: float


def from_original(state: Mapping[str, Tensor]) -> Weights:
    """The weights of a checkpoint by the repository's names (with or without `module.` before them). Raises
    ModelError."""
    original = under(state, "module.") or dict(state)
    texts = under(original, "text.0.auto_model.")
    for name in ("visual.trunk.pos_embed", "text.0.auto_model.shared.weight", "text.2.linear.weight"):
        if name not in original:
            raise ModelError(f"The checkpoint is none of CLIPpy with Sentence-T5: it has no {name}; get {WHERE}.")
    return Weights(
        pixels=_checkpoint.vit_names(under(original, "visual.trunk.")),
        texts=texts,
        dense=original["text.2.linear.weight"].float(),
        scale=float(original["logit_scale"].exp()) if "logit_scale" in original else 1 / 0.07,
    )


def pixel_network(weights: Weights) -> Any:
    """The ViT of these weights."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(**_checkpoint.vit_shape(weights.pixels))
    return _checkpoint.build(ViTModel, config, weights.pixels, "CLIPpy", without="pooler.")


def text_network(weights: Weights) -> Any:
    """The T5 encoder of these weights: the first T5's feed-forward, or the gated one of T5 1.1 where the weights have
    that."""
    from transformers import T5Config, T5EncoderModel

    state = weights.texts
    first = "encoder.block.0.layer."
    gated = f"{first}1.DenseReluDense.wi_0.weight" in state
    heads = state[f"{first}0.SelfAttention.relative_attention_bias.weight"]
    config = T5Config(
        vocab_size=state["shared.weight"].shape[0],
        d_model=state["shared.weight"].shape[1],
        d_kv=state[f"{first}0.SelfAttention.q.weight"].shape[0] // heads.shape[1],
        d_ff=state[f"{first}1.DenseReluDense.wo.weight"].shape[1],
        num_layers=count(state, r"encoder\.block\.(\d+)\..*"),
        num_heads=heads.shape[1],
        relative_attention_num_buckets=heads.shape[0],
        feed_forward_proj="gated-gelu" if gated else "relu",
    )
    return _checkpoint.build(T5EncoderModel, config, state, "CLIPpy's Sentence-T5")


class Clippy(Baseline):
    """A prompt's cosine with the patches against that of the background."""

    def __init__(self, weights: Weights, tokenizer: Any, background: str, template: str, model: str) -> None:
        self.vit, self.text, self.tokenizer = pixel_network(weights), text_network(weights), tokenizer
        self.dense, self.scale = weights.dense, weights.scale
        self.background, self.template, self.model = background, template, model

    def to(self, device: Any, dtype: Any) -> Clippy:
        """Move all parts."""
        self.vit.to(device, dtype)
        self.text.to(device, dtype)
        self.dense = self.dense.to(device, dtype)
        return self

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Unit embeddings (N, 768) of texts, as SentenceTransformer makes them."""
        batch = self.tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        ids, mask = batch["input_ids"].to(self.dense.device), batch["attention_mask"].to(self.dense.device)
        tokens = self.text(input_ids=ids, attention_mask=mask).last_hidden_state
        kept = mask[..., None].to(tokens.dtype)
        mean = (tokens * kept).sum(dim=1) / kept.sum(dim=1)
        return F.normalize(F.linear(mean, self.dense).float(), dim=-1)

    def embed_patches(self, pixels: Tensor) -> Tensor:
        """Unit embeddings (768, h, w) of the patches of a picture (1, 3, H, W) in [0, 1] of the network's own size."""
        side = pixels.shape[-1] // self.vit.config.patch_size
        mean, spread = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(SPREAD).view(1, 3, 1, 1)
        seen = ((pixels - mean) / spread).to(self.dense.device, self.dense.dtype)
        tokens = self.vit(pixel_values=seen).last_hidden_state[0, 1:].float()
        patches: Tensor = F.normalize(tokens, dim=-1).T.unflatten(1, (side, side))
        return patches

    def logits(self, rgb: NDArray[np.uint8], texts: list[str]) -> Tensor:
        """(N, h, w) on the grid of patches: the cosines over the temperature."""
        side = self.vit.config.image_size
        patches = self.embed_patches(to_model(rgb, (side, side)))
        return self.scale * torch.einsum("nd,dhw->nhw", self.embed_texts(texts), patches)

    def alpha(self, rgb: NDArray[np.uint8], prompts: list[str]) -> Tensor:
        """See `Baseline`."""
        logits = self.logits(rgb, fill(self.template, [*prompts, self.background]))
        return against(resize(logits, (rgb.shape[0], rgb.shape[1])))


def load(
    model: str | Path | None,
    device: str | None,
    dtype: str | None,
    *,
    tokenizer: str = TOKENIZER,
    background: str = "background",
    template: str = "{}",
) -> Clippy:
    """model: the checkpoint, or a folder with it alone; there is no default. tokenizer: a Hub id or a folder with
    Sentence-T5's tokenizer. background: the text of all that a prompt does not name. template: what texts are put into.
    Raises ModelError."""
    where, precision = place(device, dtype)
    path = _checkpoint.find_checkpoint(model, "CLIPpy", WHERE)
    weights = from_original(_checkpoint.read_checkpoint(path))
    hint = "name a folder that holds the tokenizer of sentence-t5-base with the option tokenizer"
    words = load_words(tokenizer, "CLIPpy's Sentence-T5", hint)
    return Clippy(weights, words, background, template, str(path)).to(where, precision)
