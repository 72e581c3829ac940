"""Where the tokens of text and of the image stand in the sequence that a layer is given.

A null space needs them: a layer that text and image share gets a few tokens of a prompt among thousands of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Places:
    """Which of a layer's inputs are of text and which of the image. Those of padding are neither.

    Attributes:
        text: True at a prompt's own tokens, (B, length).
        image: True at the tokens of the image, (B, length).
    """

    text: Tensor
    image: Tensor


def text_first(own: Tensor, length: int, before: int = 0) -> Places:
    """The places in a sequence of text alone, or of text followed by the image.

    Args:
        own: True at a prompt's own tokens, not at padding, (B, tokens).
        length: Number of tokens in the sequence. If they are fewer than those of the text, padding was cut off.
        before: Number of other tokens before the text, such as registers.
    """
    places = torch.arange(length, device=own.device)
    text = functional.pad(own, (before, max(0, length - own.shape[1] - before)))[:, :length]
    return Places(text, (places >= before + own.shape[1]).expand_as(text))


def image_first(own: Tensor, length: int, multiple: int) -> Places:
    """The places in a sequence of the image followed by text, which is padded to a multiple of a number of tokens.

    Args:
        own: True at a prompt's own tokens, not at padding, (B, tokens).
        length: Number of tokens in the longest sequence of the batch.
        multiple: The number of text tokens, with padding, is the next multiple of this.
    """
    longest = int(own.sum(1).max())
    start = length - -(-longest // multiple) * multiple
    text = functional.pad(own, (start, max(0, length - start - own.shape[1])))[:, :length]
    return Places(text, (torch.arange(length, device=own.device) < start).expand_as(text))
