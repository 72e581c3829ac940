"""Encoded prompts: text encoders run in batches, and before the denoiser is needed.

The token states of a few hundred prompts take a gigabyte with T5, those of three thousand twelve. So prompts are
encoded in batches, and only the rows that are needed again are kept, on the CPU. No prompt is encoded twice; a resumed
training takes the rows from its checkpoint. All prompts are encoded before the denoiser's first evaluation, so the text
encoders and the denoiser need not be in memory together.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from ..arguments import warn_user
from ..families import Conditioning, Family
from .encodings import Encodings

_BATCH = 16


class Encoded:
    """Conditionings of prompts, on the CPU.

    Args:
        family: The family that encodes them.
    """

    def __init__(self, family: Family) -> None:
        self._family, self._device = family, family.device
        self._conditionings: dict[str, Conditioning] = {}

    @property
    def family(self) -> Family:
        """The family that encodes the prompts."""
        return self._family

    def add(self, prompts: Sequence[str]) -> None:
        """Encode and keep the prompts that are not kept yet."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._conditionings]
        for start, conditioning in self._encode(new):
            for i, prompt in enumerate(new[start : start + _BATCH]):
                # A copy: a view would keep the whole batch in memory.
                row = {key: value[i : i + 1].to("cpu", copy=True) for key, value in conditioning.items()}
                self._conditionings[prompt] = row

    def keep_only(self, prompts: Sequence[str]) -> None:
        """Add these prompts and forget all others."""
        self.add(prompts)
        self._conditionings = {prompt: self._conditionings[prompt] for prompt in dict.fromkeys(prompts)}

    def stored(self, prompts: Sequence[str]) -> Encodings:
        """The kept conditionings of these prompts, each once."""
        prompts = tuple(dict.fromkeys(prompts))
        rows = [self._conditionings[prompt] for prompt in prompts]
        return Encodings(prompts, {key: torch.cat([row[key] for row in rows]) for key in rows[0]})

    def restore(self, encodings: Encodings) -> None:
        """Keep what `stored` returned, and nothing else."""
        self._conditionings = {
            prompt: {key: value[i : i + 1] for key, value in encodings.conditioning.items()}
            for i, prompt in enumerate(encodings.prompts)
        }

    def states(self, prompts: Sequence[str]) -> Iterator[tuple[list[int], Tensor]]:
        """Numbers of n of the prompts, and their token states, (n, tokens, width), float32.

        Prompts that are kept come first. The others are encoded, and are not kept.
        """
        numbers = range(len(prompts))
        kept = [i for i in numbers if prompts[i] in self._conditionings]
        for start in range(0, len(kept), _BATCH):
            part = kept[start : start + _BATCH]
            yield part, self.rows([prompts[i] for i in part])[self._family.text].float()
        new = [i for i in numbers if prompts[i] not in self._conditionings]
        for start, conditioning in self._encode([prompts[i] for i in new]):
            yield new[start : start + _BATCH], conditioning[self._family.text].float()

    def _encode(self, prompts: Sequence[str]) -> Iterator[tuple[int, Conditioning]]:
        """Batches of conditionings, each with the number of its first prompt. More than one have a progress bar."""
        if prompts:
            check_encoders(self._family)
        with ExitStack() as stack:
            bar = None
            if len(prompts) > _BATCH:
                bar = stack.enter_context(self._family.progress_bar("encoding prompts", len(prompts)))
            for start in range(0, len(prompts), _BATCH):
                batch = prompts[start : start + _BATCH]
                with _quiet(self._family):
                    conditioning = self._family.encode(batch)
                yield start, conditioning
                if bar is not None:
                    bar.update(len(batch))

    def rows(self, prompts: Sequence[str]) -> Conditioning:
        """Conditionings of N prompts that were added, on the pipeline's device."""
        rows = [self._conditionings[prompt] for prompt in prompts]
        return {key: torch.cat([row[key] for row in rows]).to(self._device) for key in rows[0]}

    def nbytes(self) -> int:
        """Bytes of the kept conditionings."""
        return sum(value.nbytes for row in self._conditionings.values() for value in row.values())


def check_encoders(family: Family) -> None:
    """Refuse a pipeline without its text encoders.

    Raises:
        ValueError: If all are missing.
    """
    if not has_encoders(family):
        raise ValueError(
            "The text encoder is missing (text_encoder=None), and prompts must be encoded. Load the pipeline with its "
            "text encoders, or go on from a checkpoint, which has the encoded prompts: resume='latest'."
        )


def has_encoders(family: Family) -> bool:
    """Whether the pipeline has a text encoder; some pipelines have several, not all of which are needed."""
    return any(family.pipe.components[name] is not None for name in encoder_names(family))


def encoder_names(family: Family) -> list[str]:
    """Names of the pipeline's text encoders, whether they are loaded or not."""
    return [name for name in family.pipe.components if name.startswith("text_encoder")]


def warn_of_long(family: Family, prompts: Iterable[str]) -> None:
    """Warn once of each prompt that is longer than the text encoder reads.

    Warns:
        UserWarning: Naming the prompt.
    """
    most = family.tokenizer.model_max_length
    for prompt in dict.fromkeys(prompts):
        if len(family.tokenizer(prompt, verbose=False).input_ids) > most:
            warn_user(
                f"The prompt {prompt!r} is longer than the {most} tokens that the text encoder reads; its end is cut "
                "off, as in the pipeline."
            )


@contextmanager
def _quiet(family: Family) -> Iterator[None]:
    """Silence what pipelines log about every batch with a long prompt; `warn_of_long` names it once."""

    def is_wanted(record: logging.LogRecord) -> bool:
        return "truncated because" not in record.getMessage()

    loggers = [logging.getLogger(kind.__module__) for kind in type(family.pipe).__mro__]
    for logger in loggers:
        logger.addFilter(is_wanted)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_wanted)
