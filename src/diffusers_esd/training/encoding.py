"""Encoded prompts: text encoders run in batches, and before the denoiser is needed.

The token states of a few hundred prompts take a gigabyte with T5, those of three thousand twelve. So prompts are
encoded in batches, and only the rows that the denoiser will need are kept, on the CPU. All prompts are encoded before
the denoiser's first evaluation, so the text encoders and the denoiser need not be in memory together.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ..arguments import warn_user
from ..families import Conditioning, Family

_BATCH = 16


class Encoded:
    """Conditionings of prompts, on the CPU.

    Args:
        family: The family that encodes them.
    """

    def __init__(self, family: Family) -> None:
        self._family, self._device = family, family.device
        self._conditionings: dict[str, Conditioning] = {}

    def add(self, prompts: Sequence[str]) -> None:
        """Encode and keep the prompts that are not kept yet."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._conditionings]
        for _ in self.states(new, keep=set(new)):
            pass

    def states(self, prompts: Sequence[str], *, keep: Collection[str] = ()) -> Iterator[tuple[Sequence[str], Tensor]]:
        """Batches of prompts and their token states, (n, tokens, width), float32. What is kept is not encoded again.

        Args:
            prompts: The prompts.
            keep: Those whose conditionings are kept.
        """
        text = self._family.text
        for start in range(0, len(prompts), _BATCH):
            chosen = prompts[start : start + _BATCH]
            rows = {prompt: kept[text] for prompt in chosen if (kept := self._conditionings.get(prompt)) is not None}
            if batch := [prompt for prompt in dict.fromkeys(chosen) if prompt not in rows]:
                with _quiet(self._family):
                    conditioning = self._family.encode(batch)
                for i, prompt in enumerate(batch):
                    row = {key: value[i : i + 1] for key, value in conditioning.items()}
                    rows[prompt] = row[text]
                    if prompt in keep:
                        # A copy: a view would keep the whole batch in memory.
                        self._conditionings[prompt] = {key: v.to("cpu", copy=True) for key, v in row.items()}
            yield chosen, torch.cat([rows[prompt].to(self._device) for prompt in chosen]).float()

    def rows(self, prompts: Sequence[str]) -> Conditioning:
        """Conditionings of N prompts that were added, on the pipeline's device."""
        rows = [self._conditionings[prompt] for prompt in prompts]
        return {key: torch.cat([row[key] for row in rows]).to(self._device) for key in rows[0]}

    def nbytes(self) -> int:
        """Bytes of the kept conditionings."""
        return sum(value.nbytes for row in self._conditionings.values() for value in row.values())


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
