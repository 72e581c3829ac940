"""Train emoji_sd's denoiser and text encoder together, on the latents of the trained autoencoder.

The loss is the mean squared error of the noise prediction. The tokenizer is a byte-pair encoding of CLIP's kind
whose merges are learned from the captions, so that every caption word is one token and every other word is spelled.
`python -m emoji_sd.train_diffusion`, run from `examples/` after `emoji_sd.train_autoencoder`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .data import to_model
from .loop import Batch, arguments, images, train
from .preset import Preset
from .vocabulary import STYLES

LENGTH = 32


def tokenizer(preset: Preset) -> CLIPTokenizer:
    """A CLIP tokenizer over the captions' words."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    corpus = [*preset.vocabulary.all_captions(), *(" ".join(letters) for _ in range(2))]
    # The trainer numbers what it is not given in an order that changes from process to process. A training that is
    # resumed needs the same numbers, so every letter is given, also as the end of a word.
    symbols = [*letters, *(letter + "</w>" for letter in letters)]
    trainer = trainers.BpeTrainer(vocab_size=preset.tokens, end_of_word_suffix="</w>", special_tokens=symbols)
    bpe.train_from_iterator(corpus, trainer)
    with tempfile.TemporaryDirectory() as folder:
        vocab_file, merges_file = bpe.model.save(folder)
        vocab = json.loads(Path(vocab_file).read_text())
        lines = [line for line in Path(merges_file).read_text().splitlines() if not line.startswith("#")]
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    merges = [tuple(line.split(" ")) for line in lines]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH, pad_token="<|endoftext|>")


def text_encoder(preset: Preset, tokens: CLIPTokenizer) -> CLIPTextModel:
    """The untrained text encoder."""
    width = preset.text_width
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=preset.text_layers,
            num_attention_heads=width // 32,
            max_position_embeddings=LENGTH,
            bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
        )
    )


def denoiser(preset: Preset) -> UNet2DConditionModel:
    """The untrained denoiser."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=preset.denoiser_widths,
        layers_per_block=1,
        cross_attention_dim=preset.text_width,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.x's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the scaled latents of uint8 images, (N, 8, 8, 8) each, on its device."""
    parts = [vae.encode(to_model(part.to(vae.device))).latent_dist for part in pictures.split(64)]
    scale = vae.config.scaling_factor
    return torch.cat([p.mean for p in parts]) * scale, torch.cat([p.std for p in parts]) * scale


def pipeline(
    vae: AutoencoderKL,
    text: CLIPTextModel,
    tokens: CLIPTokenizer,
    unet: UNet2DConditionModel,
    noise_schedule: DDIMScheduler,
) -> StableDiffusionPipeline:
    """The trained networks as a pipeline."""
    vae.register_to_config(_name_or_path="emoji_sd")  # else its folder is recorded
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokens,
        unet=unet.to(memory_format=torch.contiguous_format),
        scheduler=noise_schedule,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Train, then save the pipeline in float16."""
    options = arguments(__doc__, "diffusion", argv)
    preset, words, device = options.preset, options.preset.vocabulary, options.device
    data = images(options)
    vae = AutoencoderKL.from_pretrained(options.output / "vae").to(device).eval()
    mean, std = encode(vae, data["pictures"])
    torch.manual_seed(options.seed)
    tokens, noise_schedule = tokenizer(preset), scheduler()
    unet = denoiser(preset).to(memory_format=torch.channels_last)
    model = nn.ModuleDict({"unet": unet, "text": text_encoder(preset, tokens)})
    texts = words.all_captions()
    ids = torch.tensor(tokens(texts, padding="max_length", max_length=LENGTH).input_ids)
    row = {text: i for i, text in enumerate(texts)}
    # table[object, style, kind of caption] -> row of ids
    table = torch.tensor([[[row[c] for c in words.captions(o, s)] for s in STYLES] for o in words.objects])
    caption_weights = torch.tensor(preset.caption_weights)

    def batch(generator: torch.Generator) -> Batch:
        index = torch.randint(len(mean), (options.batch,), generator=generator)
        kind = torch.multinomial(caption_weights, options.batch, replacement=True, generator=generator)
        text = ids[table[data["objects"][index], data["styles"][index], kind]]
        x_0 = mean[index] + std[index] * torch.randn(mean[index].shape, generator=generator).to(device)
        noise = torch.randn(x_0.shape, generator=generator).to(device)
        t = torch.randint(noise_schedule.config.num_train_timesteps, (options.batch,), generator=generator).to(device)
        return text.to(device), noise_schedule.add_noise(x_0, noise, t), t, noise

    def loss(text: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        e = model["unet"](x_t, t, model["text"](text).last_hidden_state).sample
        return (e - noise).square().mean()

    train("diffusion", model, batch, loss, options)
    pipe = pipeline(vae, model["text"], tokens, model["unet"], noise_schedule)
    pipe.to(dtype=torch.float16).save_pretrained(options.output)


if __name__ == "__main__":
    main()
