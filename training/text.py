"""The text side of the denoiser: a CLIP tokenizer whose words are the sources' names, and a CLIP text encoder whose token
embeddings start from what the words look like (a larger model would bring this from CLIP's own training)."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from captions import COLOURS, FRAMES, PLACES
from config import DenoiserConfig
from scenes import Pack, Sprite
from vocabulary import Concept

FRAME = " ".join(["a an the and of in on with two three", *COLOURS, *PLACES, *FRAMES[True], *FRAMES[False]])


def words(concepts: list[Concept]) -> list[str]:
    """Every text that a caption may hold, the test files' names too: words are no pictures."""
    texts = {text for c in concepts for text in (c.name, c.plural, *c.synonyms, *c.kinds, *c.keywords)}
    return sorted(texts) + sorted(set(FRAME.split())) * 3


def build_tokenizer(texts: list[str], length: int, vocabulary: int) -> CLIPTokenizer:
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
        mip = sprite.mips[-1].astype(np.float32) / 255
        square = np.zeros((32, 32, 4), np.float32)
        top, left = (32 - mip.shape[0]) // 2, (32 - mip.shape[1]) // 2
        square[top : top + mip.shape[0], left : left + mip.shape[1]] = mip
        square = (square + square[:, ::-1]) / 2
        thumbs.append(cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA).ravel())
    return np.mean(thumbs, axis=0)


def token_looks(tokenizer: CLIPTokenizer, pack: Pack, count: int) -> dict[int, np.ndarray]:
    """`count` principal components, of unit variance or less, of the looks of the concepts whose names hold a token."""
    features = np.stack([looks(pack.sprites[name]) for name in pack.names])
    features -= features.mean(axis=0)
    u, s, _ = np.linalg.svd(features, full_matrices=False)
    components = u[:, :count] * np.sqrt(len(pack.names)) * (s[:count] / s[0]) ** 0.25
    seen: dict[int, list[np.ndarray]] = {}
    for name, row in zip(pack.names, components, strict=True):
        concept = pack.concepts[name]
        for token in set(tokenizer(" ".join([name, concept.plural, *concept.synonyms])).input_ids[1:-1]):
            seen.setdefault(token, []).append(row)
    return {token: np.mean(rows, axis=0) for token, rows in seen.items()}


def build_text_encoder(cfg: DenoiserConfig, tokenizer: CLIPTokenizer, pack: Pack, seed: int) -> CLIPTextModel:
    """A few transformer layers over token embeddings of unit variance: half of each known word's is its looks (principal
    components over the concepts), the rest noise."""
    torch.manual_seed(seed)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=cfg.text_width,
            intermediate_size=4 * cfg.text_width,
            num_hidden_layers=cfg.text_layers,
            num_attention_heads=cfg.text_width // cfg.heads_dim,
            max_position_embeddings=cfg.text_tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    table = encoder.get_input_embeddings().weight.data
    table.normal_()
    half = min(cfg.text_width // 2, len(pack.names) - 1)
    for token, row in token_looks(tokenizer, pack, half).items():
        table[token, :half] = torch.from_numpy(row).float()
    return encoder


def transplant(encoder: CLIPTextModel, tokenizer: CLIPTokenizer, pack: Pack, released: Path) -> int:
    """Carry a released text encoder over to a new vocabulary; returns how many tokens were carried.

    All weights but the token table are copied, and the table too where the vocabularies are one. Else a token of both keeps its
    embedding; a new word gets the one that a ridge regression from looks to released embeddings predicts for it, with noise
    up to the released spread. (The first release, which lists no vocabulary, had learnt the core names only.)
    """
    weights = {
        name: tensor.float() for name, tensor in load_file(released / "text_encoder" / "model.safetensors").items()
    }
    old, new = CLIPTokenizer.from_pretrained(released / "tokenizer").get_vocab(), tokenizer.get_vocab()
    if old == new and all(encoder.state_dict()[name].shape == tensor.shape for name, tensor in weights.items()):
        encoder.load_state_dict(weights)
        return len(new)
    table_name = next(name for name in weights if name.endswith("token_embedding.weight"))
    old_table = weights.pop(table_name)
    own = encoder.state_dict()
    if any(own[name].shape != tensor.shape for name, tensor in weights.items()):
        return 0
    encoder.load_state_dict(weights, strict=False)
    table = encoder.get_input_embeddings().weight.data
    features = token_looks(tokenizer, pack, 32)
    all_told = (released / "vocabulary.json").is_file()
    concepts = [c for c in pack.every_concept if c.core or all_told]
    told = {token for text in words(concepts) for token in tokenizer(text).input_ids}
    shared = {new[text]: old[text] for text in new.keys() & old.keys() if new[text] in told}
    known = [token for token in shared if token in features]
    x = torch.tensor(np.stack([features[token] for token in known])).float()
    y = old_table[[shared[token] for token in known]]
    mean, spread = y.mean(dim=0), y.std(dim=0)
    ridge: Tensor = torch.linalg.solve(x.T @ x + 0.3 * len(known) * torch.eye(x.shape[1]), x.T @ (y - mean))
    for token, row in features.items():
        guess = torch.from_numpy(row).float() @ ridge
        table[token] = mean + guess + 0.7 * spread * torch.randn(len(spread))
    for token, old_token in shared.items():
        table[token] = old_table[old_token]
    return len(shared)
