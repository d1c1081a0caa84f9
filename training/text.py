"""The text side of the denoiser: a CLIP tokenizer whose words are the sources' names, and a CLIP text encoder whose token
embeddings start from what the words look like (a larger model would bring this from CLIP's own training)."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from concepts import read_table
from config import DenoiserConfig
from scenes import Pack, Sprite

FRAME = "a an the and of in on with left right photo drawing picture red green blue yellow black white brown"


def words(pack_path: Path) -> list[str]:
    """Every name and caption of the sources, the held-out files' too: words are no pictures."""
    records = json.loads(bytes(np.load(pack_path)["records"]))
    texts = [c.name for c in read_table()] + [r["caption"] for r in records if r["caption"]]
    return sorted(set(texts)) + FRAME.split() * 3


def build_tokenizer(texts: list[str], length: int, vocabulary: int = 4096) -> CLIPTokenizer:
    """Byte-pair tokens learnt on `texts` (each text weighs the same); unknown words fall apart into pieces, never fail."""
    empty = CLIPTokenizer()
    bpe = empty.backend_tokenizer
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=1,
        end_of_word_suffix="</w>",
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([text.lower() for text in texts], trainer)
    model = json.loads(bpe.to_str())["model"]
    vocab = dict(model["vocab"])
    for character in ByteLevel.alphabet():
        vocab.setdefault(character + "</w>", len(vocab))  # a word may end in any byte
    merges = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)


def looks(sprites: list[Sprite], side: int = 12) -> np.ndarray:
    """What a concept looks like on average: small thumbnails of colour and of outline."""
    thumbs = []
    for sprite in sprites:
        mip = sprite.mips[-1]
        square = np.zeros((32, 32, 4), np.float32)
        top, left = (32 - mip.shape[0]) // 2, (32 - mip.shape[1]) // 2
        square[top : top + mip.shape[0], left : left + mip.shape[1]] = mip
        square = (square + square[:, ::-1]) / 2
        thumbs.append(cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA).ravel())
    return np.mean(thumbs, axis=0)


def build_text_encoder(cfg: DenoiserConfig, tokenizer: CLIPTokenizer, pack: Pack, seed: int) -> CLIPTextModel:
    """One transformer layer over token embeddings of unit variance: half of each known word's is its looks (principal
    components over the concepts), the rest noise."""
    torch.manual_seed(seed)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=cfg.text_width,
            intermediate_size=4 * cfg.text_width,
            num_hidden_layers=1,
            num_attention_heads=cfg.text_width // cfg.heads_dim,
            max_position_embeddings=cfg.text_tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    table = encoder.get_input_embeddings().weight.data
    table.normal_()
    features = np.stack([looks(pack.concepts[name]) for name in pack.names])
    features -= features.mean(axis=0)
    u, s, _ = np.linalg.svd(features, full_matrices=False)
    half = min(cfg.text_width // 2, len(pack.names) - 1)
    components = u[:, :half] * np.sqrt(len(pack.names)) * (s[:half] / s[0]) ** 0.25
    seen: dict[int, list[np.ndarray]] = {}
    for name, row in zip(pack.names, components, strict=True):
        for token in tokenizer(name, add_special_tokens=False)["input_ids"]:
            seen.setdefault(token, []).append(row)
    for token, rows in seen.items():
        table[token, :half] = torch.from_numpy(np.mean(rows, axis=0)).float()
    return encoder
