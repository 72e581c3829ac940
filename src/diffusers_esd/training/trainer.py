"""`ESDTrainer`: takes a pipeline and a configuration, gives an `Erasure`.

`begin` chooses the prompts and trains. `ESDTrainer.erase` checks what it is given, and restores the pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from importlib.util import find_spec
from typing import Any, Literal, overload

from diffusers import DiffusionPipeline

from ..adapter import remove
from ..config import ESDConfig
from ..denoiser import adapter_names, base_layers, check_denoiser, check_name, check_present
from ..erasure import Erasure
from ..families import Family, Schedule, checked_family
from ..groups import Selection, select
from ..limits import Limits
from ..names import default_name
from ..run import RunConfig
from .begin import begin, chosen
from .encoding import Encoded, warn_of_long
from .launch import joined
from .memory import check_memory
from .plan import Plan
from .progress import Callback
from .prompts import Prompts, check_concepts, given_prompts
from .samples import check_samples
from .surroundings import own_settings, silent, trainable
from .task import Task
from .tracking import check_tracker
from .train import plan


class ESDTrainer:
    """Erases concepts from a pipeline's denoiser.

    Args:
        pipe: A pipeline of a known family.
        config: Settings of what is learned; `None` means the defaults.
        run: Settings of how the training runs; `None` means the defaults.
        family: The family to use; `None` finds it by the pipeline's class.
        limits: The fixed numbers of vocabulary and null space, seldom changed.
        overrides: Fields of `ESDConfig` and of `RunConfig` to change.

    Raises:
        TypeError: If the kind of pipeline is unknown, or a field is unknown.
        ValueError: If the pipeline or the configuration cannot be trained; the message says what to do.
        ImportError: If the package of the optimiser or of the tracker is missing.
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
        run_fields = {field.name for field in fields(RunConfig)}
        run_overrides = {name: overrides.pop(name) for name in run_fields & overrides.keys()}
        self.run = RunConfig(**{**asdict(run or RunConfig()), **run_overrides})
        self.config = ESDConfig.from_dict({**(config or ESDConfig()).to_dict(), **overrides})
        self.limits = limits or Limits()
        check_packages(self.config, self.run)
        self.family = checked_family(pipe, family)
        check_memory(self.family, self.run)
        check_samples(self.family, self.run)
        self._shape = self.family.latent_shape(self.config.size)
        # For their errors only; what is trained may have changed until `erase` is called.
        self.selection()
        with own_settings(self.family.device):
            self.schedule()

    @overload
    def erase(
        self,
        concept: str | Sequence[str],
        *,
        name: str | None = None,
        beside: Sequence[str] = (),
        callback: Callback | None = None,
        overwrite: bool = False,
        dry_run: Literal[False] = False,
    ) -> Erasure: ...

    @overload
    def erase(
        self,
        concept: str | Sequence[str],
        *,
        name: str | None = None,
        beside: Sequence[str] = (),
        callback: Callback | None = None,
        overwrite: bool = False,
        dry_run: Literal[True],
    ) -> Plan: ...

    def erase(
        self,
        concept: str | Sequence[str],
        *,
        name: str | None = None,
        beside: Sequence[str] = (),
        callback: Callback | None = None,
        overwrite: bool = False,
        dry_run: bool = False,
    ) -> Erasure | Plan:
        """Train an adapter that erases a concept. It stays on the pipeline, and what was active before stays active.

        Args:
            concept: The concept in words, or several that one adapter erases together.
            name: Name of the adapter; `None` makes one from the concept, such as `"no-van-gogh"`.
            beside: Names of adapters, such as earlier erasures, that are switched off during training. The new erasure
                then does not depend on them. By default it is trained on top of everything that is active.
            callback: Called after every iteration. If it returns `"stop"`, the training ends, as after Ctrl-C. Of
                several processes, the main one calls it.
            overwrite: Whether an adapter of this name that is on the pipeline is removed first, for a notebook cell
                that runs twice; otherwise it is an error. Files, such as checkpoints, are not replaced. If the training
                fails, the removed adapter does not come back.
            dry_run: Only return what would be trained and what it would cost. Nothing is trained, and the denoiser is
                evaluated only to find anchors (`anchor="auto"`).

        Returns:
            The erasure; of several processes, each gets the same. After Ctrl-C it is the state at the end of that
                iteration, and `provenance.complete` is false; a second Ctrl-C does not wait for the end. With
                `dry_run`, the plan.

        Raises:
            TypeError: If a concept is not a string.
            ValueError: If a concept is empty, a name cannot be used, the pipeline cannot be trained, or the checkpoint
                of `resume` is damaged or of another training.
            FileNotFoundError: If `resume` is not a checkpoint.
            FileExistsError: If `output_dir` has checkpoints of this name, and `resume` does not go on from them.
            RuntimeError: If another process of a launcher fails, or the callback changes the denoiser in a way that
                cannot be restored.

        Warns:
            UserWarning: If the iterations are too few for so many concepts.
        """
        processes = joined(self.family.device, enabled=self.run.data_parallel, connected=not dry_run)
        with silent(self.family, enabled=not processes.is_main):
            config = processes.joint(self.config)
            concepts = check_concepts(concept, config)
            name = name if name is not None else default_name(concepts)
            selection = self.selection()
            denoiser = self.family.denoiser
            replaces = overwrite and name in adapter_names(denoiser)
            if not replaces:
                check_name(denoiser, name)
            beside = (beside,) if isinstance(beside, str) else tuple(beside)
            check_present(denoiser, beside)
            if replaces and not dry_run:
                remove(denoiser, name)
                beside = tuple(other for other in beside if other != name)
            with trainable(self.family, beside):
                warn_of_long(self.family, given_prompts(config, concepts))
                task = Task(
                    family=self.family,
                    config=self.config,
                    run=self.run,
                    limits=self.limits,
                    name=name,
                    selection=selection,
                    prompts=Prompts(concepts, ()),
                    encoded=Encoded(self.family),
                    beside=beside,
                    processes=processes,
                )
                return plan(replace(task, prompts=chosen(task))) if dry_run else begin(task, callback)

    def schedule(self) -> Schedule:
        """The schedule of the trajectories, on the pipeline's device.

        Raises:
            ValueError: If `num_inference_steps` is too large for the model's timesteps.
        """
        return self.family.schedule(self.config.num_inference_steps, self._shape, self.config.guidance_scale)

    def selection(self) -> Selection:
        """The layers of the group.

        Raises:
            ValueError: If the denoiser cannot be trained, or the group does not select a layer that can.
        """
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
                f"`group`={self.config.group!r} selects only queries and outputs of cross-attentions, which the null "
                "space leaves out; train them with null_space=False or preserve=()."
            )
        return selection


def check_packages(config: ESDConfig, run: RunConfig) -> None:
    """Refuse settings that need a package that is missing.

    Raises:
        ValueError: If the tracker is unknown.
        ImportError: If a package is missing; the message says how to install it.
    """
    if config.optimizer == "adam8bit" and find_spec("bitsandbytes") is None:
        raise ImportError("`optimizer`='adam8bit' needs bitsandbytes: pip install \"diffusers-esd[8bit]\".")
    if run.report_to is not None:
        check_tracker(run.report_to)
