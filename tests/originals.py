"""LSeg and CLIPpy, tiny and random, with the parameter names of their authors' checkpoints and a forward pass written
from the papers: what the evaluation's baselines, built of transformers, must agree with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tiny

WIDTH = 128
"""Two heads of 64, as all these networks have them."""


def named(**parts: nn.Module | nn.Parameter) -> nn.Module:
    """A module that only holds its parts by name."""
    module = nn.Module()
    for name, part in parts.items():
        setattr(module, name, part)
    return module


def noise(*shape: int) -> nn.Parameter:
    return nn.Parameter(0.5 * torch.randn(*shape))


def attend(qkv: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention of fused (B, n, 3 · width), query first, by hand."""
    q, k, v = (part.unflatten(-1, (-1, 64)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    scores = q @ k.transpose(-1, -2) / 8
    scores = scores if mask is None else scores.masked_fill(mask, float("-inf"))
    return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


class Vit(nn.Module):
    """timm's VisionTransformer: 16-pixel patches, a class token, pre-norm blocks, exact GELU, ε = 1e-6."""

    def __init__(self, depth: int, grid: int) -> None:
        super().__init__()
        self.cls_token, self.pos_embed = noise(1, 1, WIDTH), noise(1, grid * grid + 1, WIDTH)
        self.patch_embed = named(proj=nn.Conv2d(3, WIDTH, 16, stride=16))
        self.blocks = nn.ModuleList(
            named(
                norm1=nn.LayerNorm(WIDTH, eps=1e-6),
                attn=named(qkv=nn.Linear(WIDTH, 3 * WIDTH), proj=nn.Linear(WIDTH, WIDTH)),
                norm2=nn.LayerNorm(WIDTH, eps=1e-6),
                mlp=named(fc1=nn.Linear(WIDTH, 96), fc2=nn.Linear(96, WIDTH)),
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.head = nn.Linear(WIDTH, 7)  # of the classification before: nobody asks it

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """The tokens after each block."""
        patches = self.patch_embed.proj(pixels)
        side = round((self.pos_embed.shape[1] - 1) ** 0.5)
        places = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        places = F.interpolate(places, size=patches.shape[-2:], mode="bilinear").flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token, patches.flatten(2).transpose(1, 2)], dim=1)
        x = x + torch.cat([self.pos_embed[:, :1], places], dim=1)
        after = []
        for block in self.blocks:
            x = x + block.attn.proj(attend(block.attn.qkv(block.norm1(x))))
            x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))
            after.append(x)
        return after


class ClipText(nn.Module):
    """OpenAI's CLIP, of which LSeg uses the text half: causal, QuickGELU, read at the end token."""

    def __init__(self, words: int, length: int, out: int) -> None:
        super().__init__()
        self.token_embedding, self.positional_embedding = nn.Embedding(words, WIDTH), noise(length, WIDTH)
        blocks = nn.ModuleList(
            named(
                ln_1=nn.LayerNorm(WIDTH),
                attn=nn.MultiheadAttention(WIDTH, 2, batch_first=True),
                ln_2=nn.LayerNorm(WIDTH),
                mlp=named(c_fc=nn.Linear(WIDTH, 96), c_proj=nn.Linear(96, WIDTH)),
            )
            for _ in range(2)
        )
        self.transformer, self.ln_final = named(resblocks=blocks), nn.LayerNorm(WIDTH)
        self.text_projection, self.logit_scale = noise(WIDTH, out), nn.Parameter(torch.zeros([]))
        self.visual = named(proj=noise(3, 3))  # the other half: nobody asks it

    def forward(self, ids: Tensor, end: int) -> Tensor:
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
        for block in self.transformer.resblocks:
            attn, y = block.attn, block.ln_1(x)
            x = x + attn.out_proj(attend(F.linear(y, attn.in_proj_weight, attn.in_proj_bias), mask))
            y = block.mlp.c_fc(block.ln_2(x))
            x = x + block.mlp.c_proj(y * torch.sigmoid(1.702 * y))
        x = self.ln_final(x)[torch.arange(len(ids)), (ids == end).int().argmax(dim=1)]
        return x @ self.text_projection


def residual_unit(width: int) -> nn.Module:
    parts = {f"conv{i}": nn.Conv2d(width, width, 3, padding=1, bias=False) for i in (1, 2)}
    parts |= {f"bn{i}": nn.BatchNorm2d(width) for i in (1, 2)}
    for i in (1, 2):
        nn.init.normal_(parts[f"bn{i}"].running_mean)
        nn.init.uniform_(parts[f"bn{i}"].running_var, 0.5, 2)
    return named(**parts)


class LSeg(nn.Module):
    """DPT with the projected readout over a ViT, CLIP's texts, cosines over 0.07."""

    def __init__(self, words: int, length: int, depth: int = 8, width: int = 8, out: int = 32) -> None:
        super().__init__()
        self.clip_pretrained, sizes = ClipText(words, length, out), [6, 8, 10, 12]
        scales = [
            nn.ConvTranspose2d(sizes[0], sizes[0], 4, stride=4),
            nn.ConvTranspose2d(sizes[1], sizes[1], 2, stride=2),
            None,
            nn.Conv2d(sizes[3], sizes[3], 3, stride=2, padding=1),
        ]
        self.pretrained = named(model=Vit(depth, 2))
        self.scratch = named(head1=nn.Conv2d(width, out, 1))
        for i, (size, scale) in enumerate(zip(sizes, scales, strict=True), start=1):
            readout = named(project=nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.GELU()))
            post = [readout, nn.Identity(), nn.Identity(), nn.Conv2d(WIDTH, size, 1), *([scale] if scale else [])]
            setattr(self.pretrained, f"act_postprocess{i}", nn.Sequential(*post))
            setattr(self.scratch, f"layer{i}_rn", nn.Conv2d(size, width, 3, padding=1, bias=False))
            units = {f"resConfUnit{j}": residual_unit(width) for j in (1, 2)}
            setattr(self.scratch, f"refinenet{i}", named(out_conv=nn.Conv2d(width, width, 1), **units))

    def features(self, pixels: Tensor) -> list[Tensor]:
        """The four scales, reassembled."""
        after, rows = self.pretrained.model(pixels), pixels.shape[-2] // 16
        scales = []
        for i in range(4):
            post = getattr(self.pretrained, f"act_postprocess{i + 1}")
            tokens = after[(i + 1) * len(after) // 4 - 1]
            readout = tokens[:, :1].expand_as(tokens[:, 1:])
            x = post[0].project(torch.cat([tokens[:, 1:], readout], dim=-1))
            x = post[3](x.transpose(1, 2).unflatten(2, (rows, -1)))
            scales.append(post[4](x) if len(post) > 4 else x)
        return scales

    @staticmethod
    def refine(unit: nn.Module, x: Tensor) -> Tensor:
        y = unit.bn1(unit.conv1(F.relu(x)))
        return x + unit.bn2(unit.conv2(F.relu(y)))

    def forward(self, pixels: Tensor, ids: Tensor, end: int) -> Tensor:
        """Logits (N, H, W) of pixels (1, 3, H, W) in [−1, 1]."""
        path = None
        for i in (4, 3, 2, 1):
            net = getattr(self.scratch, f"refinenet{i}")
            level = getattr(self.scratch, f"layer{i}_rn")(self.features(pixels)[i - 1])
            path = level if path is None else path + self.refine(net.resConfUnit1, level)
            path = self.refine(net.resConfUnit2, path)
            path = net.out_conv(F.interpolate(path, scale_factor=2, mode="bilinear", align_corners=True))
        seen = F.normalize(self.scratch.head1(path), dim=1)
        texts = F.normalize(self.clip_pretrained(ids, end), dim=1)
        logits = torch.einsum("nd,dhw->nhw", texts, seen[0]) / 0.07
        return F.interpolate(logits[None], scale_factor=2, mode="bilinear", align_corners=True)[0]


class Clippy(nn.Module):
    """A ViT whose patches lie near Sentence-T5's texts: T5's encoder, the mean over tokens, a linear map, unit
    length."""

    def __init__(self, words: int) -> None:
        from transformers import T5Config, T5EncoderModel

        super().__init__()
        config = T5Config(
            vocab_size=words, d_model=WIDTH, d_kv=16, d_ff=96, num_layers=2, num_heads=4, dropout_rate=0.0
        )
        dense = named(linear=nn.Linear(WIDTH, WIDTH, bias=False))
        self.visual = named(trunk=Vit(depth=3, grid=4))
        self.text = nn.Sequential(named(auto_model=T5EncoderModel(config)), nn.Identity(), dense, nn.Identity())
        self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, pixels: Tensor, ids: list[list[int]]) -> Tensor:
        """Logits (N, h, w) of standardised pixels (1, 3, H, W): one text at a time, so no padding."""
        trunk = self.visual.trunk
        patches = F.normalize(trunk.norm(trunk(pixels)[-1])[0, 1:], dim=1)
        rows = pixels.shape[-2] // 16
        maps = []
        for row in ids:
            tokens = self.text[0].auto_model(input_ids=torch.tensor([row])).last_hidden_state[0]
            text = F.normalize(self.text[2].linear(tokens.mean(dim=0)), dim=0)
            maps.append((patches @ text).unflatten(0, (rows, -1)))
        return self.logit_scale.exp() * torch.stack(maps)


def lseg() -> LSeg:
    """One for the letters' tokenizer of `tiny`."""
    torch.manual_seed(3)
    words = tiny.tokenizer()
    return LSeg(len(words), words.model_max_length).eval()


def clippy() -> Clippy:
    """One for the letters' T5 tokenizer of `tiny`."""
    torch.manual_seed(4)
    return Clippy(len(tiny.t5_tokenizer())).eval()


def names_of(network: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Its state dict with a prefix, as the trainers' checkpoints have it."""
    return {prefix + name: value for name, value in network.state_dict().items()}
