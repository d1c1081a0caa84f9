"""What pulls the denoiser's features towards words while it trains, and is thrown away after: representation alignment (as
REPA, arXiv 2410.06940, does with a foreign encoder) with the names of what a scene shows.

The features of the UNet's middle, of noisy latents and the empty caption (so that no name leaks in), are compared with the
text encoder's embeddings of names. Nothing says where a thing is: a picture's score for a name is the log-sum-exp over its places, and
the right name must beat the others (the contrastive loss of CLIP, arXiv 2103.00020, over names).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer


def middle(unet: UNet2DConditionModel, noisy: Tensor, t: Tensor, text: Tensor) -> Tensor:
    """The features (B, width, h, w) that leave the UNet's middle block: its forward pass up to there."""
    embedding = unet.time_embedding(unet.get_time_embed(sample=noisy, timestep=t))
    embedding = embedding + unet.add_embedding(text)
    sample = unet.conv_in(noisy)
    for block in unet.down_blocks:
        options = {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}
        sample, _ = block(hidden_states=sample, temb=embedding, **options)
    return unet.mid_block(sample, embedding, encoder_hidden_states=text)


class Aligner(nn.Module):
    """Two linear heads into a joint space, and the loss."""

    def __init__(self, width: int, text_width: int, names: list[str], tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.see = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, text_width))
        self.read = nn.Linear(text_width, text_width)
        self.log_scale = nn.Parameter(torch.tensor(2.3))
        self.index = {name: i for i, name in enumerate(names)}
        tokens = tokenizer(names, padding=True, truncation=True, return_tensors="pt")
        self.register_buffer("ids", tokens.input_ids, persistent=False)  # (names, tokens)
        own = tokens.attention_mask.clone()
        own[:, 0] = 0  # the start token
        own[torch.arange(len(own)), own.sum(dim=1)] = 0  # the end token
        self.register_buffer("own", own.float(), persistent=False)

    def logits(self, features: Tensor, text: CLIPTextModel, chosen: Tensor) -> Tensor:
        """How much each picture (features (B, width, h, w)) speaks of each of the chosen names (K,): (B, K)."""
        hidden = text(self.ids[chosen])[0].float()  # (K, tokens, text width)
        own = self.own[chosen][..., None]
        words = F.normalize(self.read((hidden * own).sum(dim=1) / own.sum(dim=1).clamp_min(1)), dim=-1)
        seen = F.normalize(self.see(features.float().flatten(2).transpose(1, 2)), dim=-1)  # (B, h*w, text width)
        places = self.log_scale.exp().clamp(max=50) * seen @ words.T  # (B, h*w, K)
        return places.logsumexp(dim=1)

    def forward(
        self, features: Tensor, text: CLIPTextModel, names: list[list[str]], weight: Tensor, others: int
    ) -> Tensor:
        """The loss. names: of what each picture shows. weight: (B,), of each picture. others: names that are drawn at random
        beside those of the batch."""
        shown = torch.zeros(len(names), len(self.index), dtype=torch.bool)
        for row, found in zip(shown, names, strict=True):
            row[[self.index[name] for name in found]] = True
        drawn = torch.zeros(len(self.index), dtype=torch.bool)
        drawn[torch.randint(len(self.index), (others,))] = True
        chosen = (shown.any(dim=0) | drawn).nonzero()[:, 0].to(features.device)
        shown = shown.to(features.device)[:, chosen]
        logits = self.logits(features, text, chosen)
        rest = logits.masked_fill(shown, float("-inf")).logsumexp(dim=1, keepdim=True)  # (B, 1)
        losses = F.softplus(rest - logits) * shown  # -log of the softmax over the name and all that are not there
        per_picture = losses.sum(dim=1) / shown.sum(dim=1)
        return (weight * per_picture).sum() / weight.sum()
