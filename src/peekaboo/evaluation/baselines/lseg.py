r"""LSeg (arXiv 2201.03546): a DPT on ViT-L/16 trained on labelled masks so that its pixels lie near CLIP's texts.

The logit of text n at a pixel is :math:`\cos(f(x), u_n) / 0.07`; f has half the input's resolution.

The public checkpoint is demo_e200.ckpt of github.com/isl-org/lang-seg, a Lightning pickle that its authors keep on
Google Drive. What is known of it was read in that repository: the names are those of its modules under `net.`:
`clip_pretrained` (OpenAI's CLIP ViT-B/32, of which the text half is used), `pretrained.model` (timm's
vit_large_patch16_384), `pretrained.act_postprocess1…4` (DPT's reassembly with the projected readout), `scratch` (DPT's
fusion with batch norms, and `head1`, 256 → 512). The temperature is a constant in the source and not in the file; the
demo's `arch_option` is 0, so there is no further head block. All shapes are read off the weights. The file itself could
not be had here: the tests build a small network with those names.

Two differences from the repository's own evaluation: one scale (long side 480, its crop size) and no flip, where that
averages six scales and their mirror images. A prompt competes with the one label "other", the repository's own
catch-all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from peekaboo.errors import ModelError
from peekaboo.evaluation.baselines import _checkpoint
from peekaboo.evaluation.baselines._checkpoint import State, count, renamed, split_in_three, under
from peekaboo.evaluation.baselines._shared import Baseline, against, load_words, place, resize
from peekaboo.images import to_model

WHERE = "demo_e200.ckpt from https://github.com/isl-org/lang-seg"
TOKENIZER = "openai/clip-vit-base-patch32"
TEMPERATURE = 0.07
MULTIPLE = 32
"""Sides of the input: the coarsest of DPT's four scales has one cell in 32 pixels."""


@dataclass(frozen=True)
class Weights:
    """The checkpoint's weights, named as transformers names them.

    pixels: of a `DPTForDepthEstimation`, less its head. texts: of a `CLIPTextModelWithProjection`. head, bias: the 1×1
    convolution to CLIP's space, (512, 256, 1, 1) and (512,).
    """

    pixels: State
    texts: State
    head: Tensor
    bias: Tensor


def from_original(state: Mapping[str, Tensor]) -> Weights:
    """The weights of a checkpoint by the repository's names (with or without `net.` before them). Raises ModelError."""
    original = under(state, "net.") or dict(state)
    for name in ("scratch.head1.weight", "pretrained.model.pos_embed", "clip_pretrained.text_projection"):
        if name not in original:
            raise ModelError(f"The checkpoint is none of LSeg with a ViT: it has no {name}; get {WHERE}.")
    vit = {f"dpt.{name}": value for name, value in _checkpoint.vit_names(under(original, "pretrained.model.")).items()}
    return Weights(
        pixels={**vit, **_neck_names(original)},
        texts=_text_names(under(original, "clip_pretrained.")),
        head=original["scratch.head1.weight"].float(),
        bias=original["scratch.head1.bias"].float(),
    )


def _neck_names(state: Mapping[str, Tensor]) -> State:
    """DPT's reassembly and fusion. Refinenet 4 is the first that the features pass, layer 0 in transformers."""
    rules = []
    for number in range(1, 5):
        stage, post = f"neck.reassemble_stage.layers.{number - 1}", rf"pretrained\.act_postprocess{number}"
        fusion = f"neck.fusion_stage.layers.{4 - number}"
        rules += [
            (post + r"\.0\.project\.0\.(\w+)", rf"neck.reassemble_stage.readout_projects.{number - 1}.0.\1"),
            (post + r"\.3\.(\w+)", rf"{stage}.projection.\1"),
            (post + r"\.4\.(\w+)", rf"{stage}.resize.\1"),
            (rf"scratch\.layer{number}_rn\.weight", f"neck.convs.{number - 1}.weight"),
            (rf"scratch\.refinenet{number}\.out_conv\.(\w+)", rf"{fusion}.projection.\1"),
            (
                rf"scratch\.refinenet{number}\.resConfUnit(\d)\.conv(\d)\.(\w+)",
                rf"{fusion}.residual_layer\1.convolution\2.\3",
            ),
            (
                rf"scratch\.refinenet{number}\.resConfUnit(\d)\.bn(\d)\.(\w+)",
                rf"{fusion}.residual_layer\1.batch_norm\2.\3",
            ),
        ]
    return renamed(state, rules)


def _text_names(state: Mapping[str, Tensor]) -> State:
    """The text half of OpenAI's CLIP. Its projection is stored the other way round."""
    layer = r"text_model.encoder.layers.\1"
    block = r"transformer\.resblocks\.(\d+)\."
    rules = [
        (r"token_embedding\.weight", "text_model.embeddings.token_embedding.weight"),
        (r"positional_embedding", "text_model.embeddings.position_embedding.weight"),
        (block + r"ln_(\d)\.(\w+)", rf"{layer}.layer_norm\2.\3"),
        (block + r"attn\.out_proj\.(\w+)", rf"{layer}.self_attn.out_proj.\2"),
        (block + r"mlp\.c_fc\.(\w+)", rf"{layer}.mlp.fc1.\2"),
        (block + r"mlp\.c_proj\.(\w+)", rf"{layer}.mlp.fc2.\2"),
        (r"ln_final\.(\w+)", r"text_model.final_layer_norm.\1"),
    ]
    parts = (rf"{layer}.self_attn.q_proj.\2", rf"{layer}.self_attn.k_proj.\2", rf"{layer}.self_attn.v_proj.\2")
    fused = split_in_three(state, block + r"attn\.in_proj_(\w+)", parts)
    projection = state["text_projection"].T.contiguous()
    return {**renamed(state, rules), **fused, "text_projection.weight": projection}


def pixel_network(weights: Weights) -> Any:
    """The DPT of these weights."""
    from transformers import DPTConfig, DPTForDepthEstimation

    state = weights.pixels
    depth = count(state, r"dpt\.encoder\.layer\.(\d+)\..*")
    config = DPTConfig(
        **_checkpoint.vit_shape(under(state, "dpt.")),
        is_hybrid=False,
        readout_type="project",
        backbone_out_indices=[depth * quarter // 4 - 1 for quarter in range(1, 5)],  # 5, 11, 17, 23 of 24
        reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_sizes=[state[f"neck.reassemble_stage.layers.{i}.projection.weight"].shape[0] for i in range(4)],
        fusion_hidden_size=weights.head.shape[1],
        use_batch_norm_in_fusion_residual=True,
        use_bias_in_fusion_residual=False,
    )
    return _checkpoint.build(DPTForDepthEstimation, config, state, "LSeg", without="head.")


def text_network(weights: Weights, tokenizer: Any) -> Any:
    """The text half of the CLIP of these weights; heads are 64 wide, as in every CLIP with a ViT."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    state = weights.texts
    vocabulary, width = state["text_model.embeddings.token_embedding.weight"].shape
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=state["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=count(state, r"text_model\.encoder\.layers\.(\d+)\..*"),
        num_attention_heads=width // 64,
        max_position_embeddings=state["text_model.embeddings.position_embedding.weight"].shape[0],
        projection_dim=state["text_projection.weight"].shape[0],
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _checkpoint.build(CLIPTextModelWithProjection, config, state, "LSeg's CLIP")


class LSeg(Baseline):
    """A prompt's cosine against that of "other", pixel by pixel."""

    def __init__(self, weights: Weights, tokenizer: Any, other: str, side: int, model: str) -> None:
        network = pixel_network(weights)
        self.dpt, self.neck, self.head, self.bias = network.dpt, network.neck, weights.head, weights.bias
        self.text, self.tokenizer = text_network(weights, tokenizer), tokenizer
        self.other, self.side, self.model = other, side, model

    def to(self, device: Any, dtype: Any) -> LSeg:
        """Move all parts."""
        for part in (self.dpt, self.neck, self.text):
            part.to(device, dtype)
        self.head, self.bias = self.head.to(device, dtype), self.bias.to(device, dtype)
        return self

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Unit embeddings (N, 512) of texts."""
        length = self.text.config.max_position_embeddings
        batch = self.tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
        ids, mask = batch["input_ids"].to(self.head.device), batch["attention_mask"].to(self.head.device)
        return F.normalize(self.text(input_ids=ids, attention_mask=mask).text_embeds.float(), dim=-1)

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """Unit embeddings (1, 512, H/2, W/2) of a picture (1, 3, H, W) in [0, 1], sides multiples of 32."""
        patch = self.dpt.config.patch_size
        seen = (2 * pixels - 1).to(self.head.device, self.head.dtype)
        hidden = self.dpt(seen, output_hidden_states=True).hidden_states
        chosen = [hidden[index + 1] for index in self.dpt.config.backbone_out_indices]
        features = self.neck(chosen, seen.shape[-2] // patch, seen.shape[-1] // patch)[-1]
        return F.normalize(F.conv2d(features, self.head, self.bias).float(), dim=1)

    def logits(self, pixels: Tensor, texts: list[str]) -> Tensor:
        """(N, H, W) of a picture (1, 3, H, W) in [0, 1]."""
        cosines = (self.embed_texts(texts) @ self.embed_pixels(pixels).flatten(2)[0]).unflatten(
            1, (pixels.shape[-2] // 2, pixels.shape[-1] // 2)
        )
        return resize(cosines / TEMPERATURE, (pixels.shape[-2], pixels.shape[-1]), align_corners=True)

    def alpha(self, rgb: NDArray[np.uint8], prompts: list[str]) -> Tensor:
        """See `Baseline`."""
        logits = self.logits(to_model(rgb, self.size(*rgb.shape[:2])), [*prompts, self.other])
        return against(resize(logits, (rgb.shape[0], rgb.shape[1]), align_corners=True))

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) at which a picture is seen: the long side `side`, the aspect kept, multiples of 32."""
        scale = self.side / max(height, width) / MULTIPLE
        return max(1, round(height * scale)) * MULTIPLE, max(1, round(width * scale)) * MULTIPLE


def load(
    model: str | Path | None,
    device: str | None,
    dtype: str | None,
    *,
    tokenizer: str = TOKENIZER,
    other: str = "other",
    side: int = 480,
) -> LSeg:
    """model: the checkpoint, or a folder with it alone; there is no default. tokenizer: a Hub id or a folder with
    CLIP's tokenizer. other: the label of all that a prompt does not name. side: of the input, in pixels. Raises
    ModelError."""
    where, precision = place(device, dtype)
    path = _checkpoint.find_checkpoint(model, "LSeg", WHERE)
    weights = from_original(_checkpoint.read_checkpoint(path))
    hint = "name a folder that holds CLIP's tokenizer with the option tokenizer"
    words = load_words(tokenizer, "LSeg's CLIP", hint)
    return LSeg(weights, words, other, side, str(path)).to(where, precision)
