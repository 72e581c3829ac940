"""A small CLIP model that knows colours: what is red is an apple. Trained, so that its scores mean something."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL.Image import Image, new
from tiny import tiny_tokenizer
from torch.nn.functional import cross_entropy
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from diffusers_esd.evaluation.judges.base import Picture
from diffusers_esd.evaluation.judges.care import COCO_WORDS
from diffusers_esd.evaluation.prompts import Prompt

COLOURS = {"person": (255, 255, 255), "apple": (220, 20, 20), "banana": (240, 220, 20), "bird": (20, 40, 220)}
TEMPLATE = "a photo of a {}"
SIDE = 32

_ITERATIONS = 60
_BRIGHTNESS = 60  # a colour is never the same twice


def colour_of(word: str, change: int = 0) -> Image:
    """An image of one colour.

    Args:
        word: A key of `COLOURS`.
        change: How much darker it is, from 0 to 255.
    """
    red, green, blue = (max(0, value - change) for value in COLOURS[word])
    return new("RGB", (SIDE, SIDE), (red, green, blue))


def picture(image: Image, text: str = "", base: Image | None = None, **labels: str) -> Picture:
    """What a judge gets."""
    return Picture(Prompt(case="x", text=text, seed=0, labels=labels), image, base or image)


def save_untrained(folder: Path, seed: int = 0) -> None:
    """Write a model with random weights, and its processor."""
    tokenizer = tiny_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(tokenizer), "max_position_embeddings": 32}
    text |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    vision = {**sizes, "image_size": SIDE, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)


def save_trained(folder: Path) -> None:
    """Write a model that has learned to choose, for a colour, its word among the 80 of COCO."""
    save_untrained(folder)
    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    texts = processor(
        text=[TEMPLATE.format(word) for word in COCO_WORDS], padding=True, truncation=True, return_tensors="pt"
    )
    targets = torch.tensor([COCO_WORDS.index(word) for word in COLOURS])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(_ITERATIONS):
        changes = torch.randint(_BRIGHTNESS, (len(COLOURS),), generator=generator).tolist()
        images = [colour_of(word, change) for word, change in zip(COLOURS, changes, strict=True)]
        pixels = processor(images=images, return_tensors="pt").pixel_values
        loss = cross_entropy(model(**texts, pixel_values=pixels).logits_per_image, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
