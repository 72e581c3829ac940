"""Train emoji_sd's denoiser and text encoder together, on the latents of the trained autoencoder.

The loss is the mean squared error of the noise prediction. The tokenizer is a byte-pair encoding of CLIP's kind
whose merges are learned from the captions, so that every caption word is one token and every other word is spelled.
`python -m emoji_sd.train_diffusion`, run from `examples/` after `emoji_sd.train_autoencoder`.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .data import make, to_model
from .loop import arguments, train
from .vocabulary import OBJECTS, STYLES, all_captions, captions

LENGTH = 32
# How often an image carries each of its captions, in the order of `captions`; the last is the empty prompt.
CAPTION_WEIGHTS = torch.tensor([0.40, 0.14, 0.08, 0.08, 0.10, 0.075, 0.125])


def tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer over the captions' words."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    corpus = [*all_captions(), *(" ".join(letters) for _ in range(2))]
    trainer = trainers.BpeTrainer(vocab_size=2000, end_of_word_suffix="</w>", initial_alphabet=letters)
    bpe.train_from_iterator(corpus, trainer)
    with tempfile.TemporaryDirectory() as folder:
        vocab_file, merges_file = bpe.model.save(folder)
        vocab = json.loads(Path(vocab_file).read_text())
        lines = [line for line in Path(merges_file).read_text().splitlines() if not line.startswith("#")]
    for letter in letters:  # a letter that ends a word is a token of its own
        vocab.setdefault(letter + "</w>", len(vocab))
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    merges = [tuple(line.split(" ")) for line in lines]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH, pad_token="<|endoftext|>")


def text_encoder(tokens: CLIPTokenizer) -> CLIPTextModel:
    """The untrained text encoder."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=128,
            intermediate_size=256,
            projection_dim=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
        )
    )


def denoiser() -> UNet2DConditionModel:
    """The untrained denoiser."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(64, 112, 160),
        layers_per_block=1,
        cross_attention_dim=128,
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
    """Mean and standard deviation of the scaled latents of uint8 images, (N, 8, 8, 8) each."""
    parts = [vae.encode(to_model(part)).latent_dist for part in pictures.split(64)]
    scale = vae.config.scaling_factor
    return torch.cat([p.mean for p in parts]) * scale, torch.cat([p.std for p in parts]) * scale


def main() -> None:
    """Train, then save the pipeline in float16."""
    options = arguments(__doc__, updates=6000, batch=40, rate=1.2e-3)
    data = make(options.augmentations, options.seed)
    vae = AutoencoderKL.from_pretrained(options.output / "vae").eval()
    mean, std = encode(vae, data["pictures"])
    torch.manual_seed(options.seed)
    tokens, noise_schedule = tokenizer(), scheduler()
    model = nn.ModuleDict({"unet": denoiser().to(memory_format=torch.channels_last), "text": text_encoder(tokens)})
    texts = all_captions()
    ids = torch.tensor(tokens(texts, padding="max_length", max_length=LENGTH).input_ids)
    row = {text: i for i, text in enumerate(texts)}
    # table[object, style, kind of caption] -> row of ids
    table = torch.tensor([[[row[c] for c in captions(o, s)] for s in STYLES] for o in OBJECTS])

    def loss(generator: torch.Generator) -> torch.Tensor:
        index = torch.randint(len(mean), (options.batch,), generator=generator)
        kind = torch.multinomial(CAPTION_WEIGHTS, options.batch, replacement=True, generator=generator)
        text = ids[table[data["objects"][index], data["styles"][index], kind]]
        x_0 = mean[index] + std[index] * torch.randn(mean[index].shape, generator=generator)
        noise = torch.randn(x_0.shape, generator=generator)
        t = torch.randint(noise_schedule.config.num_train_timesteps, (options.batch,), generator=generator)
        states = model["text"](text).last_hidden_state
        e = model["unet"](noise_schedule.add_noise(x_0, noise, t), t, states).sample
        return (e - noise).square().mean()

    train("diffusion", model, loss, options)
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model["text"],
        tokenizer=tokens,
        unet=model["unet"],
        scheduler=noise_schedule,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    vae.register_to_config(_name_or_path="emoji_sd")  # else its folder is recorded
    pipe.unet.to(memory_format=torch.contiguous_format)
    pipe.to(dtype=torch.float16).save_pretrained(options.output)


if __name__ == "__main__":
    main()
