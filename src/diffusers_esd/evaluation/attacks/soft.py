"""What an attack learns: the embedding of a token, or the whole conditioning of the denoiser.

Neither touches tokenizer or weights. A token is put in place of a word that the tokenizer has, by a hook on the table of
embeddings that is there only while the attack encodes its own prompts. Images are drawn with `prompt_embeds`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from inspect import unwrap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...families import Conditioning, Family
from ...files import write_safetensors

_ARGUMENTS = {
    "encoder_hidden_states": "prompt_embeds",
    "encoder_attention_mask": "prompt_attention_mask",
    "encoder_hidden_states_mask": "prompt_embeds_mask",
    "text_embeds": "pooled_prompt_embeds",
    "pooled_projections": "pooled_prompt_embeds",
}


def pipeline_arguments(family: Family, conditioning: Conditioning) -> dict[str, Tensor]:
    """The arguments of the pipeline's call that stand for a conditioning of N rows.

    Raises:
        TypeError: If the pipeline does not take them.
    """
    if unknown := [key for key in conditioning if key not in _ARGUMENTS]:
        raise TypeError(
            f"A {type(family.pipe).__name__} does not draw from token states alone ({', '.join(unknown)}), so this attack "
            "cannot be used with it."
        )
    arguments = {_ARGUMENTS[key]: value for key, value in conditioning.items()}
    if "AuraFlowPipeline" in family.pipelines:  # it asks for a mask, and does not read it
        states = arguments["prompt_embeds"]
        arguments["prompt_attention_mask"] = states.new_ones(states.shape[:2])
    return arguments


class Soft(ABC):
    """Something that is learned in place of a prompt, or of a part of it.

    Attributes:
        parameters: What is learned, by name, float32.
    """

    parameters: dict[str, Tensor]

    @abstractmethod
    def rows(self, texts: Sequence[str]) -> Conditioning:
        """The conditioning of N prompts, with gradient if it is enabled."""


class SoftPrompt(Soft):
    """A conditioning, whatever the prompt: token states, and the pooled states where the denoiser reads them.

    Args:
        family: The pipeline's family.
        start: The prompt whose conditioning is the first.
    """

    def __init__(self, family: Family, start: str) -> None:
        self._family, first = family, family.encode([start])
        pipeline_arguments(family, first)
        floats = {key: value for key, value in first.items() if value.is_floating_point()}
        self._fixed = {key: value for key, value in first.items() if key not in floats}
        self.parameters = {key: value.float().clone().requires_grad_(True) for key, value in floats.items()}

    def rows(self, texts: Sequence[str]) -> Conditioning:
        """N equal rows."""
        learned = {key: value.to(self._family.dtype) for key, value in self.parameters.items()}
        every = {**learned, **self._fixed}
        return {key: value.expand(len(texts), *value.shape[1:]) for key, value in every.items()}


class SoftToken(Soft):
    """An embedding in place of a word's, in each text encoder.

    Args:
        family: The pipeline's family.
        word: A word that is one token; where it stands in a prompt, the learned token is read. Its embedding is the
            first.

    Raises:
        ValueError: If the word is not one token, or the pipeline has no text encoder.
    """

    def __init__(self, family: Family, word: str) -> None:
        self._family, self._word = family, word
        pipe = family.pipe
        names = [name for name, part in pipe.components.items() if name.startswith("text_encoder") and part is not None]
        if not names:
            raise ValueError("The pipeline has no text encoder; learn the whole conditioning, mode='prompt_embeds'.")
        self._encoders = {name: pipe.components[name] for name in names}
        self._ids = {name: self._id_of(name, pipe.components[name.replace("text_encoder", "tokenizer")]) for name in names}
        self.parameters = {}
        for name, encoder in self._encoders.items():
            row = encoder.get_input_embeddings().weight[self._ids[name]]
            self.parameters[name] = row.detach().to(family.device, torch.float32).clone().requires_grad_(True)

    def _id_of(self, name: str, tokenizer: Any) -> int:
        ids = tokenizer(f" {self._word}", add_special_tokens=False).input_ids
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id != tokenizer.eos_token_id:
            raise ValueError(
                f"{self._word!r} is not one token of the pipeline's {name}, but {len(ids)}; give another `start`, a "
                "short common word."
            )
        return ids[0]

    def rows(self, texts: Sequence[str]) -> Conditioning:
        """The conditionings of prompts, in each of which the word stands.

        Raises:
            ValueError: If a text encoder does not read it.
        """
        # `encode` is without gradient by itself.
        encode = unwrap(type(self._family).encode)
        with ExitStack() as stack:
            read = {name: stack.enter_context(self._in_place(name)) for name in self.parameters}
            conditioning = encode(self._family, list(texts))
        for name, counts in read.items():
            if sum(counts) < len(texts):
                raise ValueError(
                    f"The pipeline's {name} read the token {sum(counts)} times in {len(texts)} prompts, so it cannot be "
                    f"learned. {self._word!r} must stand in every prompt; if it does, use mode='prompt_embeds'."
                )
        return conditioning

    @contextmanager
    def _in_place(self, name: str) -> Iterator[list[int]]:
        """The learned row in the output of the encoder's table. Yields how often it was put there."""
        counts: list[int] = []

        def hook(table: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            is_word = inputs[0] == self._ids[name]
            counts.append(int(is_word.any(-1).sum()))
            return torch.where(is_word[..., None], self.parameters[name].to(output), output)

        handle = self._encoders[name].get_input_embeddings().register_forward_hook(hook)
        try:
            yield counts
        finally:
            handle.remove()

    def save(self, path: Path, token: str = "<learned>") -> Path:
        """Write the token as a textual inversion, which `pipe.load_textual_inversion` reads.

        With two text encoders (XL), the file has `clip_l` and `clip_g`, each of which is loaded with its own encoder.
        The file brings the concept back: treat it as you would the base model.

        Args:
            path: The file, `.safetensors`.
            token: Its name in prompts.

        Raises:
            ValueError: If the pipeline has text encoders that such a file does not name.
        """
        names: Mapping[int, tuple[str, ...]] = {1: (token,), 2: ("clip_l", "clip_g")}
        if len(self.parameters) not in names:
            raise ValueError(
                f"Textual inversions are for one or two text encoders; this pipeline has {len(self.parameters)}."
            )
        rows = [value.detach().cpu()[None] for value in self.parameters.values()]
        return write_safetensors(path, dict(zip(names[len(rows)], rows, strict=True)), {"format": "pt"})
