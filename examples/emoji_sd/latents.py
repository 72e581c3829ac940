"""Latents of the training images and their captions, in random batches."""

from __future__ import annotations

import argparse

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from .data import to_model
from .loop import images
from .text import LENGTH
from .vocabulary import STYLES


class Latents:
    """Batches of captions, latents and noise.

    Args:
        options: Of the training script.
        vae: The autoencoder; it moves to the device of the options.
        tokens: The tokenizer.
    """

    def __init__(self, options: argparse.Namespace, vae: AutoencoderKL, tokens: CLIPTokenizer) -> None:
        self._options, words = options, options.preset.vocabulary
        self._data = images(options)
        self._mean, self._std = encode(vae.to(options.device).eval(), self._data["pictures"])
        texts = words.all_captions()
        self._ids = torch.tensor(tokens(texts, padding="max_length", max_length=LENGTH).input_ids)
        row = {text: i for i, text in enumerate(texts)}
        # table[object, style, kind of caption] -> row of ids
        self._table = torch.tensor([[[row[c] for c in words.captions(o, s)] for s in STYLES] for o in words.objects])
        self._weights = torch.tensor(options.preset.caption_weights)

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens of captions (B, tokens), latents (B, 8, 8, 8) and standard normal noise (B, 8, 8, 8), on the device.

        Args:
            generator: Of the CPU.
        """
        n, device = self._options.batch, self._options.device
        index = torch.randint(len(self._mean), (n,), generator=generator)
        kind = torch.multinomial(self._weights, n, replacement=True, generator=generator)
        text = self._ids[self._table[self._data["objects"][index], self._data["styles"][index], kind]]
        index = index.to(device)
        mean, std = self._mean[index], self._std[index]
        x_0 = mean + std * torch.randn(mean.shape, generator=generator).to(device)
        noise = torch.randn(mean.shape, generator=generator).to(device)
        return text.to(device), x_0, noise


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the scaled latents of uint8 images, (N, 8, 8, 8) each, on its device."""
    parts = [vae.encode(to_model(part.to(vae.device))).latent_dist for part in pictures.split(64)]
    scale = vae.config.scaling_factor
    return torch.cat([p.mean for p in parts]) * scale, torch.cat([p.std for p in parts]) * scale
