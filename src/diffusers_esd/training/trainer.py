"""`ESDTrainer`: a pipeline and a configuration in, an `Erasure` out.

The prompts are chosen and encoded, `NullSpaceFinder` decides which inputs the adapter's layers may answer, `Training`
trains them. Here they are put together, and the user's pipeline is put back as it was.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, fields, replace
from importlib.util import find_spec
from typing import Any, Literal, overload

import torch
from diffusers import DiffusionPipeline

from ..adapter import Adapter, active_scales
from ..config import ESDConfig, check_prompt
from ..denoiser import adapter_names, base_layers, check_denoiser, check_name, evaluation, resident, without
from .encoding import Encoded, name_long
from ..erasure import Erasure
from ..families import Family, family_for
from ..groups import Selection, select
from ..limits import Limits
from .moments import text_moments
from .networks import Networks
from .null_space import NullSpace, NullSpaceFinder, sees_text
from .plan import Plan, is_confined, make_plan
from .progress import Progress
from .prompts import Prompts, choose
from ..provenance import default_name
from .record import record
from ..run import RunConfig
from .loop import Training, checkpointed, offloaded

_LEAST_VISITS = 10  # of a concept; with fewer it is hardly trained


class ESDTrainer:
    """Erases concepts from a pipeline's denoiser.

    Args:
        pipe: A pipeline of a known family.
        config: What is learned; `None` means the defaults.
        run: How it runs; `None` means the defaults.
        family: For a kind of pipeline the package does not know: its family.
        limits: Fixed numbers of vocabulary and null space, seldom changed.
        overrides: Fields of `ESDConfig` and of `RunConfig` to change.

    Raises:
        TypeError: If the pipeline is of no known family, or a field is unknown.
        ValueError: If the pipeline or the configuration cannot be trained; the message says what to do.
        ImportError: If the optimiser's package is missing.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        config: ESDConfig | None = None,
        *,
        run: RunConfig | None = None,
        family: Family | None = None,
        limits: Limits | None = None,
        **overrides: Any,
    ) -> None:
        of_run = {field.name for field in fields(RunConfig)}
        running = {name: overrides.pop(name) for name in of_run & overrides.keys()}
        self.run = RunConfig(**{**asdict(run or RunConfig()), **running})
        self.config = ESDConfig.from_dict({**(config or ESDConfig()).to_dict(), **overrides})
        self.limits = limits or Limits()
        if self.config.optimizer == "adam8bit" and find_spec("bitsandbytes") is None:
            raise ImportError("optimizer='adam8bit' needs bitsandbytes: pip install \"diffusers-esd[8bit]\".")
        self.family = family if family is not None else family_for(pipe)
        if self.family.pipe is not pipe:
            raise ValueError("family is of another pipeline; make it of the one that is trained, such as Mine(pipe).")
        self.family.check()
        if self.run.gradient_checkpointing and not self.family.denoiser._supports_gradient_checkpointing:
            raise ValueError(f"A {type(self.family.denoiser).__name__} has no gradient checkpointing.")
        self._shape = self.family.latent_shape(self.config.size)
        self._selection()
        self.family.prepare(self.config.num_inference_steps, self._shape, self.config.guidance_scale)

    @overload
    def erase(
        self,
        concept: str | Sequence[str],
        *,
        name: str | None = None,
        beside: Sequence[str] = (),
        callback: Callable[[Progress], None] | None = None,
        dry_run: Literal[False] = False,
    ) -> Erasure: ...

    @overload
    def erase(
        self,
        concept: str | Sequence[str],
        *,
        name: str | None = None,
        beside: Sequence[str] = (),
        callback: Callable[[Progress], None] | None = None,
        dry_run: Literal[True],
    ) -> Plan: ...

    def erase(
        self,
        concept: str | Sequence[str],
        *,
        name: str | None = None,
        beside: Sequence[str] = (),
        callback: Callable[[Progress], None] | None = None,
        dry_run: bool = False,
    ) -> Erasure | Plan:
        """Train an adapter that erases a concept. It stays on the pipeline, active beside what was active before.

        Args:
            concept: The concept in words, or several that one adapter erases together.
            name: Name of the adapter; `None` makes one of the concept, `"no-van-gogh"`.
            beside: Names of adapters that are switched off while it trains, such as earlier erasures: it then erases
                from the model without them, and works without them. By default it is trained on top of all that is
                active.
            callback: Called after every iteration.
            dry_run: Only say what would be trained and what it would cost. The denoiser is not evaluated.

        Returns:
            The erasure. After Ctrl-C in the iterations it is what was reached, with `provenance.complete` false. With
                `dry_run`, the plan.

        Raises:
            TypeError: If a concept is not a string.
            ValueError: If a concept is empty, a name cannot be used, or the pipeline cannot be trained.

        Warns:
            UserWarning: If the iterations are too few for so many concepts.
        """
        concepts = self._checked([concept] if isinstance(concept, str) else concept)
        name = name if name is not None else default_name(concepts)
        selection = self._selection()
        denoiser = self.family.denoiser
        check_name(denoiser, name)
        beside = [beside] if isinstance(beside, str) else beside
        if missing := set(beside) - set(adapter_names(denoiser)):
            there = ", ".join(adapter_names(denoiser)) or "none"
            raise ValueError(f"beside names {', '.join(sorted(missing))}; adapters on the pipeline: {there}.")
        with ExitStack() as stack:
            # Whatever the pipeline offloads between calls it also offloads after this one.
            stack.callback(self.family.pipe.maybe_free_model_hooks)
            stack.enter_context(_surroundings(self.family.device))
            name_long(self.family, self._users_prompts(concepts))
            prompts = choose(self.family, self.config, self.limits, concepts)
            if dry_run:
                return make_plan(self.family, self.config, self.limits, concepts, name, selection, prompts)
            stack.enter_context(resident(denoiser))
            stack.enter_context(without(denoiser, beside))
            return self._erase(concepts, name, selection, prompts, tuple(beside), callback)

    def _checked(self, concepts: object) -> tuple[str, ...]:
        """The concepts, each once."""
        if not isinstance(concepts, Iterable):
            raise TypeError(f"concept must be a string or a list of strings, got {concepts!r}.")
        listed = list(concepts)
        if not listed:
            raise ValueError("concept is an empty list; give at least one prompt.")
        for prompt in listed:
            check_prompt("concept", prompt)
        concepts = tuple(dict.fromkeys(listed))
        if len(concepts) > 1 and self.config.erase_from is not None:
            raise ValueError("erase_from takes a single concept; erase several with one call each.")
        batch = self.config.states // self.config.iterations
        if len(concepts) > 1 and self.config.states < _LEAST_VISITS * len(concepts):
            needed = -(-_LEAST_VISITS * len(concepts) // batch)
            warnings.warn(
                f"{self.config.iterations} iterations of {batch} visit each of {len(concepts)} concepts "
                f"{self.config.states / len(concepts):.1f} times, which hardly trains them; give iterations={needed} "
                "or more.",
                stacklevel=3,
            )
        return concepts

    def _erase(
        self,
        concepts: tuple[str, ...],
        name: str,
        selection: Selection,
        prompts: Prompts,
        beside: tuple[str, ...],
        callback: Callable[[Progress], None] | None,
    ) -> Erasure:
        started = time.monotonic()
        config, family = self.config, self.family
        active = active_scales(family.denoiser)
        encoded = Encoded(family)
        finder = self._finder(selection, prompts, encoded) if is_confined(self.config, prompts) else None
        encoded.add(["", *concepts, *prompts.student, *prompts.of_loss])
        with offloaded(family, self.run):
            space = None if finder is None else self._space(finder, selection)
            adapter = Adapter(
                family.denoiser,
                name,
                selection if space is None else selection.only(space.rows),
                rank=config.rank,
                lora_alpha=config.lora_alpha or config.rank,
                seed=config.seed,
                rows=None if space is None else space.rows,
            )
            try:
                with adapter.training(), checkpointed(family, self.run):
                    family.prepare(config.num_inference_steps, self._shape, config.guidance_scale)
                    training = Training(
                        config,
                        Networks(family, adapter, encoded),
                        adapter.parameters,
                        concepts=concepts,
                        student_prompts=prompts.student,
                        preserved=prompts.of_loss,
                        shape=self._shape,
                    )
                    training.run(callback)
                adapter.fold_scale()
                provenance = replace(
                    record(family, self.limits, training, adapter.selection, selection, prompts, space),
                    active=active,
                    beside=beside,
                    seconds=round(time.monotonic() - started, 2),
                )
                return Erasure(name, adapter.weights(family.component), config, provenance)
            except BaseException:
                adapter.detach()
                raise

    def _users_prompts(self, concepts: Sequence[str]) -> list[str]:
        config = self.config
        listed = () if isinstance(config.preserve, str) else config.preserve
        return [*concepts, *([] if config.erase_from is None else [config.erase_from]), *listed]

    def _selection(self) -> Selection:
        """The layers to train, of a denoiser that can be trained."""
        check_denoiser(self.family.denoiser)
        modules = [module for module, _ in self.family.denoiser.named_modules()]
        selection = select(
            base_layers(self.family.denoiser),
            modules,
            self.config.group,
            text_layers=self.family.text_layers,
            text_inputs=self.family.text_inputs,
        )
        if self.config.null_space and self.config.preserve and not selection.confinable().names:
            raise ValueError(
                f"group={self.config.group!r} selects only queries and outputs of cross-attentions, which the null "
                "space leaves out; train them with null_space=False or preserve=()."
            )
        return selection

    def _finder(self, selection: Selection, prompts: Prompts, encoded: Encoded) -> NullSpaceFinder:
        """The finder of the null space; every prompt it needs is encoded here."""
        config, family, limits = self.config, self.family, self.limits
        of_text, others = sees_text(family, selection.confinable().names)
        needed = {*prompts.of_kept, *prompts.of_concept} if others else set()
        keep = {*needed, *prompts.of_loss, *prompts.student, ""}
        text = None
        if of_text:
            text = text_moments(
                encoded,
                prompts.preserved.prompts,
                prompts.student,
                prompts.contexts,
                empty_share=limits.empty_share,
                sampled=isinstance(config.preserve, str),
                keep=keep,
            )
        encoded.add([*needed])
        return NullSpaceFinder(
            family,
            encoded,
            text=text,
            kept=prompts.of_kept,
            concept=prompts.of_concept,
            rank=config.rank,
            shape=self._shape,
            guidance_scale=config.guidance_scale,
            seed=config.seed,
            limits=limits,
        )

    def _space(self, finder: NullSpaceFinder, selection: Selection) -> NullSpace:
        denoiser = self.family.denoiser
        # Hooks on every layer would have compiled code compiled again for each, if it took notice of them at all.
        compiled = any(module._compiled_call_impl is not None for module in denoiser.modules())
        with evaluation(denoiser), torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            return finder.find(selection.confinable().names)


@contextmanager
def _surroundings(device: torch.device) -> Iterator[None]:
    """Without the caller's autocast, `no_grad`, `inference_mode` and default device.

    Autocast keeps its cast of the weights for as long as it lasts, so that a student inside it would stay as it was at
    the first iteration.
    """
    with ExitStack() as stack:
        for kind in {device.type, "cpu"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
