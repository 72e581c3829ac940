"""A small Z-Image that has learned to draw: a coloured blob at a random place, whose colour is the word of the prompt.

Text and image share its layers, as in the published one. Images are latents, (4, 8, 8). It trains in half a minute.
"""

from __future__ import annotations

import torch
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from tiny_language import tiny_z_image
from torch import Tensor
from torch.nn import functional

from diffusers_esd.families import Family, ZImage

WORDS = ("cat", "dog", "pizza", "bus", "panda", "car", "owl", "apple")
SHAPE = (4, 8, 8)
_ITERATIONS, _BATCH, _LARGEST_RATE = 300, 32, 3e-3


def colours() -> Tensor:
    """The colour of each word, (8, 4)."""
    return functional.normalize(torch.randn(len(WORDS), 4, generator=torch.Generator().manual_seed(1)), dim=1)


def blobs(words: Tensor, generator: torch.Generator) -> Tensor:
    """An image of each word, given by its number."""
    centre = 2 + 4 * torch.rand(len(words), 2, 1, 1, generator=generator)
    places = torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij"))
    return 3 * colours()[words][:, :, None, None] * (-(places - centre).square().sum(1) / 4.5).exp()[:, None]


def blob_pipeline() -> ZImagePipeline:
    """The trained pipeline."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe = tiny_z_image()
        sizes = {"dim": 64, "n_layers": 3, "n_refiner_layers": 1, "n_heads": 4, "n_kv_heads": 4, "cap_feat_dim": 32}
        transformer = ZImageTransformer2DModel(
            in_channels=4, axes_dims=[4, 6, 6], axes_lens=[640, 16, 16], **sizes
        ).train()
    pipe.register_modules(transformer=transformer)
    family, generator = family_of(pipe), torch.Generator().manual_seed(1)
    rows = family.encode([*(f"a {word}" for word in WORDS), ""])
    optimizer = torch.optim.Adam(transformer.parameters(), _LARGEST_RATE)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LARGEST_RATE, total_steps=_ITERATIONS, pct_start=0.1)
    for _ in range(_ITERATIONS):
        words = torch.randint(len(WORDS), (_BATCH,), generator=generator)
        x_0 = blobs(words, generator)
        noise = torch.randn(x_0.shape, generator=generator)
        sigma = (torch.randn(_BATCH, generator=generator) + 0.5).sigmoid()
        x_t = torch.lerp(x_0, noise, sigma[:, None, None, None])
        asked = torch.where(torch.rand(_BATCH, generator=generator) < 0.15, len(WORDS), words)  # some without a prompt
        v = family.predict(x_t, 1000 * sigma, {key: value[asked] for key, value in rows.items()}, 0)
        optimizer.zero_grad()
        functional.mse_loss(v, noise - x_0).backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        optimizer.step()
        rates.step()
    transformer.eval()
    return pipe


def family_of(pipe: ZImagePipeline, kind: type[ZImage] = ZImage) -> ZImage:
    """Its family, with 48 tokens to a prompt."""
    return kind(pipe, max_sequence_length=48)


@torch.no_grad()
def states(family: Family, word: str, steps: int = 6, n: int = 16) -> list[tuple[Tensor, Tensor]]:
    """States (n, 4, 8, 8) and positions of trajectories of a word; the last is the finished image."""
    schedule = family.schedule(steps, SHAPE, 2.0)
    x_t = schedule.noise(torch.Generator().manual_seed(7), n)
    rows = family.encode([""] * n + [f"a {word}"] * n)
    seen = []
    for i in range(steps):
        position = torch.full((n,), i)
        seen.append((x_t, position))
        e_null, e = schedule.predict(torch.cat([x_t] * 2), position.repeat(2), rows).chunk(2)
        x_t = schedule.step(schedule.guide(e_null, e), x_t, position, position + 1)
    return [*seen, (x_t, torch.full((n,), steps))]


@torch.no_grad()
def predictions(family: Family, prompt: str, places: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Predictions for a prompt at the states of `states`, but for the finished image."""
    schedule = family.schedule(len(places) - 1, SHAPE, 2.0)
    return torch.stack([schedule.predict(x, i, family.encode([prompt] * len(x))) for x, i in places[:-1]])


def share(images: Tensor, word: str) -> float:
    """The share of images whose colour is a word's."""
    weight = images.square().sum(1, keepdim=True)
    mean = functional.normalize((images * weight).sum((2, 3)), dim=1)
    return ((mean @ colours().T).argmax(1) == WORDS.index(word)).float().mean().item()
