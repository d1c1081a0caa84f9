"""Tiny randomly initialised models of real architectures, made in memory: no download, no bundled weights."""

from __future__ import annotations

import signal
import string
from pathlib import Path
from typing import Any

import torch


def hear_ctrl_c() -> None:
    """For a child process: SIGINT is not ignored, even where the tests themselves run in a shell's background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def tokenizer(length: int = 12) -> Any:
    """A CLIP tokenizer whose words are letters."""
    from transformers import CLIPTokenizer

    letters = [*string.printable, *(c + "</w>" for c in string.printable if not c.isspace())]
    vocab = {token: index for index, token in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=length)


def clip_text(width: int, projected: bool = False) -> Any:
    """A CLIP text encoder of the letters, with a projection of its own width or without."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    words = tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2 if projected else 1,
        num_attention_heads=2,
        max_position_embeddings=words.model_max_length,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        projection_dim=width,
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def t5_text(width: int) -> Any:
    """A T5 encoder of the letters."""
    from transformers import T5Config, T5EncoderModel

    shape = {"d_model": width, "d_kv": 8, "d_ff": 2 * width, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(T5Config(vocab_size=len(t5_tokenizer()), **shape))


def autoencoder(blocks: int = 3, latent_channels: int = 4, **config: Any) -> Any:
    """An AutoencoderKL; `blocks` 3 means four pixels per latent."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.5,
        **config,
    )


def denoiser(sample_size: int | tuple[int, int] = 8, **config: Any) -> Any:
    """A UNet2DConditionModel of two levels, the lower of which reads the prompt."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=sample_size,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        norm_num_groups=8,
        **config,
    )


def diffusion(prediction_type: str = "epsilon") -> Any:
    """The scheduler of Stable Diffusion."""
    from diffusers import DDPMScheduler

    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return DDPMScheduler(prediction_type=prediction_type, clip_sample=False, **betas)


def stable_diffusion(
    prediction_type: str = "epsilon",
    vae_blocks: int = 3,
    latent_channels: int = 4,
    sample_size: int | tuple[int, int] = 8,
    in_channels: int | None = None,
    width: int = 16,
    **unet: Any,
) -> Any:
    """A StableDiffusionPipeline of a few thousand parameters; `vae_blocks` 3 means four pixels per latent."""
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(0)
    words = tokenizer()
    text = clip_text(width)
    vae = autoencoder(vae_blocks, latent_channels)
    channels = {"in_channels": in_channels or latent_channels, "out_channels": latent_channels}
    network = denoiser(sample_size=sample_size, cross_attention_dim=width, **channels, **unet)
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=words,
        unet=network,
        scheduler=diffusion(prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stable_diffusion_xl(**unet: Any) -> Any:
    """A StableDiffusionXLPipeline of a few thousand parameters."""
    from diffusers import StableDiffusionXLPipeline

    torch.manual_seed(0)
    sizes = {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 24}
    network = denoiser(cross_attention_dim=16 + 24, addition_embed_type="text_time", **{**sizes, **unet})
    pipe = StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=clip_text(16),
        text_encoder_2=clip_text(24, projected=True),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=network,
        scheduler=diffusion(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stable_diffusion_3(t5: bool = True, **transformer: Any) -> Any:
    """A StableDiffusion3Pipeline of a few thousand parameters."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(0)
    shape = {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 4,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 48,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 16 + 24,
        "out_channels": 4,
        "pos_embed_max_size": 16,
        "qk_norm": "rms_norm",
    }
    network = SD3Transformer2DModel(**{**shape, **transformer})
    torch.nn.init.normal_(network.proj_out.weight, std=0.2)
    pipe = StableDiffusion3Pipeline(
        vae=autoencoder(shift_factor=0.25),
        text_encoder=clip_text(16, projected=True),
        text_encoder_2=clip_text(24, projected=True),
        text_encoder_3=t5_text(48) if t5 else None,
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        tokenizer_3=t5_tokenizer() if t5 else None,
        transformer=network,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def flux(guidance: bool = True, **transformer: Any) -> Any:
    """A FluxPipeline of a few thousand parameters."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    shape = {
        "in_channels": 16,
        "num_layers": 2,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 48,
        "pooled_projection_dim": 16,
        "guidance_embeds": guidance,
        "axes_dims_rope": (4, 4, 8),
    }
    pipe = FluxPipeline(
        vae=autoencoder(shift_factor=0.25),
        text_encoder=clip_text(16),
        text_encoder_2=t5_text(48),
        tokenizer=tokenizer(),
        tokenizer_2=t5_tokenizer(),
        transformer=FluxTransformer2DModel(**{**shape, **transformer}),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    pipe.default_sample_size = 8  # of the latents; Flux's own is 128
    pipe.set_progress_bar_config(disable=True)
    return pipe


def clip(folder: Path, siglip: bool = False) -> Path:
    """A CLIPModel (or SiglipModel) of 32 pixels with its tokenizer and image processor, saved to `folder`."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, SiglipConfig, SiglipImageProcessor, SiglipModel

    torch.manual_seed(0)
    words = tokenizer()
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    text = {**shared, **ids, "vocab_size": len(words), "max_position_embeddings": words.model_max_length}
    vision = {**shared, "image_size": 32, "patch_size": 8}
    if siglip:
        SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
        SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    else:
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def depth(folder: Path) -> Path:
    """A DPT (the architecture of MiDaS 3) of 32 pixels with its image processor, saved to `folder`."""
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        is_hybrid=False,
    )
    DPTForDepthEstimation(config).save_pretrained(folder)
    DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def text_shape() -> dict[str, Any]:
    """Arguments of the text half of a CLIP whose words are letters."""
    words = tokenizer()
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {**shape, **ids, "vocab_size": len(words), "max_position_embeddings": words.model_max_length}


def clipseg(folder: Path) -> Path:
    """A CLIPSeg of 32 pixels with its tokenizer and image processor, saved to `folder`."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, ViTImageProcessor

    torch.manual_seed(1)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = CLIPSegConfig(
        text_config=text_shape(),
        vision_config={**shape, "image_size": 24, "patch_size": 8, "num_hidden_layers": 3},
        projection_dim=16,
        reduce_dim=8,
        extract_layers=[0, 1, 2],
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def groupvit(folder: Path) -> Path:
    """A GroupViT of 32 pixels with its tokenizer and image processor, saved to `folder`."""
    from transformers import CLIPImageProcessor, GroupViTConfig, GroupViTModel

    torch.manual_seed(2)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "depths": [1, 1, 1],
        "num_hidden_layers": 3,
        "num_group_tokens": [6, 4, 0],
        "num_output_groups": [6, 4, 0],
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 4,
    }
    config = GroupViTConfig(
        text_config=text_shape(), vision_config=vision, projection_dim=16, projection_intermediate_dim=32
    )
    network = GroupViTModel(config)
    for parameter in network.parameters():  # as drawn, its groups are all alike
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    network.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def t5_tokenizer() -> Any:
    """A T5 tokenizer whose words are letters."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5Tokenizer(vocab=special + [(c, -3.0) for c in string.ascii_letters], extra_ids=0)
