"""Prompts through the text encoders: in batches, and before the denoiser is needed.

Of a few hundred prompts T5's token states take a gigabyte, of three thousand twelve. So prompts are encoded a batch at
a time, only the rows that the denoiser will be given are kept, on the CPU, and the text encoders are done before the
first evaluation of the denoiser: they need not be in memory together.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .families import Conditioning, Family

_BATCH = 16


class Encoded:
    """Conditionings of prompts, on the CPU.

    Args:
        family: The family that encodes them.
    """

    def __init__(self, family: Family) -> None:
        self._family = family
        self._conditionings: dict[str, Conditioning] = {}
        self._long: set[str] = set()

    def add(self, prompts: Sequence[str]) -> None:
        """Encode and keep those that are not here yet."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._conditionings]
        for _ in self.states(new, keep=set(new)):
            pass

    def states(self, prompts: Sequence[str], *, keep: Collection[str] = ()) -> Iterator[tuple[Sequence[str], Tensor]]:
        """Batches of prompts and their token states, (n, tokens, width), float32.

        Args:
            prompts: The prompts.
            keep: Those whose conditionings are kept.
        """
        for start in range(0, len(prompts), _BATCH):
            batch = prompts[start : start + _BATCH]
            with _quiet(self._family) as cut:
                conditioning = self._family.encode(batch)
            if cut:
                self._name_long(batch)
            for i, prompt in enumerate(batch):
                if prompt in keep and prompt not in self._conditionings:
                    # A copy: a view would keep the whole batch.
                    row = {key: value[i : i + 1].to("cpu", copy=True) for key, value in conditioning.items()}
                    self._conditionings[prompt] = row
            yield batch, conditioning[self._family.text].float()

    def rows(self, prompts: Sequence[str]) -> Conditioning:
        """Conditionings of N prompts, on the pipeline's device."""
        found = [self._conditionings[prompt] for prompt in prompts]
        return {key: torch.cat([row[key] for row in found]).to(self._family.device) for key in found[0]}

    def nbytes(self) -> int:
        """Bytes that are kept."""
        return sum(value.nbytes for row in self._conditionings.values() for value in row.values())

    def _name_long(self, batch: Sequence[str]) -> None:
        """Warn of prompts whose end the text encoder does not read, once for each."""
        tokenizer = self._family.tokenizer
        most = tokenizer.model_max_length
        long = [p for p in batch if p not in self._long and len(tokenizer(p, verbose=False).input_ids) > most]
        self._long.update(long)
        for prompt in long:
            warnings.warn(
                f"The prompt {prompt!r} is longer than the {most} tokens that the text encoder reads; its end is cut "
                "off, as the pipeline does.",
                stacklevel=2,
            )


@contextmanager
def _quiet(family: Family) -> Iterator[list[str]]:
    """Keep back what pipelines log about each batch with a long prompt; yields what was kept back."""
    cut: list[str] = []

    def keep_back(record: logging.LogRecord) -> bool:
        if "truncated because" not in record.msg:
            return True
        cut.append(record.msg)
        return False

    loggers = [logging.getLogger(kind.__module__) for kind in type(family.pipe).__mro__]
    for logger in loggers:
        logger.addFilter(keep_back)
    try:
        yield cut
    finally:
        for logger in loggers:
            logger.removeFilter(keep_back)
