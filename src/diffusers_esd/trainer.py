"""`ESDTrainer`: a pipeline and a configuration in, an `Erasure` out.

`null_space` decides what the adapter's layers may listen to, `Training` trains them; here both are put together, and
the user's pipeline is put back as it was.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

import torch
from diffusers import DiffusionPipeline

from . import vocabulary
from .adapter import Adapter
from .config import ESDConfig, check_prompt
from .denoiser import adapter_names, base_layers, check_denoiser, check_name, evaluation, resident, without
from .erasure import Erasure
from .families import Family, family_for
from .groups import Selection, select
from .null_space import NullSpace, null_space
from .training import Progress, Training

_CONTEXTS = 32  # words in whose company the concept is looked at
_PRESERVED = 256  # prompts that the preserve loss draws from


class ESDTrainer:
    """Erases concepts from a pipeline's denoiser.

    Args:
        pipe: A pipeline of a known family.
        config: The configuration; `None` means the defaults.
        family: For a kind of pipeline the package does not know: its family.
        overrides: Fields of `ESDConfig` to change.

    Raises:
        TypeError: If the pipeline is of no known family, or a field is unknown.
        ValueError: If the pipeline or the configuration cannot be trained; the message says what to do.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        config: ESDConfig | None = None,
        *,
        family: Family | None = None,
        **overrides: Any,
    ) -> None:
        self.config = ESDConfig.from_dict({**(config or ESDConfig()).to_dict(), **overrides})
        if self.config.optimizer == "adam8bit" and find_spec("bitsandbytes") is None:
            raise ValueError("optimizer='adam8bit' needs bitsandbytes: pip install 'diffusers-esd[8bit]'.")
        self.family = family if family is not None else family_for(pipe)
        if self.family.pipe is not pipe:
            raise ValueError("family is of another pipeline; make it of the one that is trained, such as Mine(pipe).")
        self.family.check()
        if self.config.gradient_checkpointing and not self.family.denoiser._supports_gradient_checkpointing:
            raise ValueError(f"A {type(self.family.denoiser).__name__} has no gradient checkpointing.")
        self._shape = self.family.latent_shape(self.config.size)
        self._selection()

    def erase(
        self,
        concept: str | Sequence[str],
        *,
        name: str | None = None,
        beside: Sequence[str] = (),
        callback: Callable[[Progress], None] | None = None,
    ) -> Erasure:
        """Train an adapter that erases a concept. It stays on the pipeline, active beside what was active before.

        Args:
            concept: The concept in words, or several that one adapter erases together.
            name: Name of the adapter; `None` makes one of the concept, `"no-van-gogh"`.
            beside: Names of adapters that are switched off while it trains, such as earlier erasures: it then erases
                from the model without them, and works without them. By default it is trained on top of all that is
                active.
            callback: Called after every iteration.

        Returns:
            The erasure. After Ctrl-C in the iterations it is what was reached, with `provenance.complete` false.

        Raises:
            TypeError: If a concept is no text.
            ValueError: If a concept is empty, a name cannot be used, or the pipeline cannot be trained.
        """
        concepts = [concept] if isinstance(concept, str) else list(concept)
        if not concepts:
            raise ValueError("concept is an empty list; give at least one prompt.")
        for prompt in concepts:
            check_prompt("concept", prompt)
        if len(concepts) > 1 and self.config.erase_from is not None:
            raise ValueError("erase_from takes a single concept; erase several with one call each.")
        name = name if name is not None else "no-" + "-".join(map(_slug, concepts))
        selection = self._selection()
        denoiser = self.family.denoiser
        check_name(denoiser, name)
        beside = [beside] if isinstance(beside, str) else list(beside)
        if missing := set(beside) - set(adapter_names(denoiser)):
            there = ", ".join(adapter_names(denoiser)) or "none"
            raise ValueError(f"beside names {', '.join(sorted(missing))}; adapters on the pipeline: {there}.")
        with ExitStack() as stack:
            # Whatever the pipeline offloads between calls it also offloads after this one.
            stack.callback(self.family.pipe.maybe_free_model_hooks)
            stack.enter_context(resident(denoiser))
            stack.enter_context(without(denoiser, beside))
            return self._erase(concepts, name, selection, callback)

    def _erase(
        self, concepts: list[str], name: str, selection: Selection, callback: Callable[[Progress], None] | None
    ) -> Erasure:
        started = time.monotonic()
        preserved = self._preserved(concepts)
        space = self._null_space(selection, concepts, preserved) if preserved and self.config.null_space else None
        adapter = Adapter(
            self.family.denoiser,
            name,
            selection if space is None else selection.only(space.rows),
            rank=self.config.rank,
            lora_alpha=self.config.lora_alpha or self.config.rank,
            seed=self.config.seed,
            rows=None if space is None else space.rows,
        )
        try:
            with adapter.training():
                training = Training(
                    self.config,
                    self.family,
                    adapter,
                    concepts=concepts,
                    student_prompts=self._student_prompts(concepts),
                    preserved=preserved[:_PRESERVED],
                    shape=self._shape,
                )
                training.run(callback)
            adapter.fold_scale()
        except BaseException:
            adapter.detach()
            raise
        provenance = training.provenance(time.monotonic() - started, 0 if space is None else space.evaluations)
        return Erasure(name, adapter.weights(self.family.component), self.config, provenance)

    def _selection(self) -> Selection:
        """The layers to train, of a denoiser that can be trained."""
        check_denoiser(self.family.denoiser)
        modules = [module for module, _ in self.family.denoiser.named_modules()]
        return select(
            base_layers(self.family.denoiser),
            modules,
            self.config.group,
            text_layers=self.family.text_layers,
            text_inputs=self.family.text_inputs,
        )

    def _preserved(self, concepts: Sequence[str]) -> tuple[str, ...]:
        """The prompts to preserve."""
        if not isinstance(self.config.preserve, str):
            return self.config.preserve
        generator = torch.Generator().manual_seed(self.config.seed + 2)
        return vocabulary.preserved(self.family, [*concepts, *self._student_prompts(concepts)], generator)

    def _null_space(self, selection: Selection, concepts: Sequence[str], preserved: Sequence[str]) -> NullSpace:
        """Where the adapter may listen."""
        generator = torch.Generator().manual_seed(self.config.seed + 3)
        words = vocabulary.words(self.family.tokenizer)
        prompts = [vocabulary.in_contexts(c, words, _CONTEXTS, generator) for c in self._student_prompts(concepts)]
        # Hooks on every layer would have compiled code compiled again for each, if it took notice of them at all.
        with evaluation(self.family.denoiser), torch.compiler.set_stance("force_eager"):
            return null_space(
                self.family,
                selection.confinable().names,
                concept=[prompt for group in prompts for prompt in group],
                preserved=preserved,
                rank=self.config.rank,
                shape=self._shape,
                guidance_scale=self.config.guidance_scale,
                generator=generator,
            )

    def _student_prompts(self, concepts: Sequence[str]) -> list[str]:
        """What the student is trained on, and trajectories run on: the concepts, or `erase_from`."""
        return list(concepts) if self.config.erase_from is None else [self.config.erase_from]


def _slug(concept: str) -> str:
    return re.sub(r"[^\w]+", "-", concept.lower()).strip("-") or "concept"
