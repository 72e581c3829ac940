"""`ESDConfig`: what is learned. Checked when made, frozen afterwards, JSON both ways.

It goes into the file of the result. How a training runs (offloading, gradient checkpointing) is `RunConfig`'s; the
fixed numbers of vocabulary and null space are in `Limits`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal, get_args

Group = Literal["esd-x", "esd-x-strict", "esd-u", "full"]
Rollout = Literal["student", "teacher"]
Trajectory = Literal["pool", "fresh"]
Optimizer = Literal["adam", "adam8bit"]
LRScheduler = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class ESDConfig:
    """What a training learns. The defaults are the paper's for nudity on SD 1.4, and preserve everything else.

    Attributes:
        group: Which layers train. `"esd-x"`: cross-attention, for what should go when the prompt names it (a style).
            `"esd-x-strict"`: only its keys and values. `"esd-u"`: everything but cross-attention, for what should go
            in any case (nudity, an object). `"full"`: both. Any other string is a regular expression that matches the
            whole name of a layer, such as `".*attn1.*"`.
        eta: Strength of the negative guidance, Eq. 7's `eta`; 0 or more, usually 1 to 3. Scripts that count from
            the conditional prediction call `eta + 1` their negative guidance.
        guidance_scale: Classifier-free guidance of the trajectories that training states come from, usually 3.
        num_inference_steps: Denoising steps of a trajectory; training visits exactly their timesteps.
        iterations: Optimiser updates.
        batch_size: Training states per evaluation of the student.
        gradient_accumulation_steps: Batches per iteration, one after the other: as one larger, at less memory.
        learning_rate: Adam's. Adapters want about ten times what full weights want.
        lr_scheduler: How the learning rate changes after the warm-up: it stays (`"constant"`), or decays towards 0,
            `"linear"` or as a `"cosine"`.
        lr_warmup_steps: Iterations over which the learning rate rises from 0; fewer than `iterations`.
        max_grad_norm: Longer gradients are shortened to this norm; `None` leaves them as they are.
        rank: Rank of the adapter in every layer.
        lora_alpha: Scale of the adapter is `lora_alpha / rank`; `None` means `rank`, a scale of 1.
        rollout: Whose conditional prediction moves a trajectory: the `"student"`'s (the paper) or the `"teacher"`'s.
        trajectory: `"pool"` takes states from trajectories that advance with the predictions of the loss, at no cost;
            `"fresh"` denoises from new noise for every state, as the paper does.
        optimizer: `"adam"`, or `"adam8bit"`, which keeps its state in eight bits (`pip install "diffusers-esd[8bit]"`).
        size: Height and width of the pictures in pixels; `None` means the model's own.
        seed: Seed of everything random: adapter, noises, timesteps, the order of concepts.
        erase_from: Prompt from which the concept is erased (`"hat"` from `"a cowboy"`): the student learns
            `e_from - eta * (e_cond - e_null)` on this prompt. `None` erases the concept itself.
        preserve: What must stay as it is: prompts, or `"vocabulary"`, the words of the text encoder in a few templates
            without those of the concept. Nothing, `()`, is the paper's plain training.
        null_space: Whether the adapter is confined to what tells the concept from the preserved prompts: A of every
            layer is computed and fixed, B trains. Groups `"esd-x"` and `"full"` then leave the cross-attentions'
            queries and outputs alone, so that `"esd-x"` trains the layers of `"esd-x-strict"`.
        preserve_weight: Weight of a loss that holds the student to the teacher on the preserved prompts, on
            trajectories of their own, at the cost of a second training; 0 or more, usually 1 to 20. 0 has no such loss.
            `None` means 0 where the null space is of text alone (`"esd-x"`, `"esd-x-strict"`), and 10 elsewhere.
        stop_at_alignment: A concept whose smoothed alignment has fallen to this value is done; training stops when all
            are. Below 1, usually `-eta / 2` or lower. `None` trains for all iterations.
    """

    group: Group | str = "esd-u"
    eta: float = 1.0
    guidance_scale: float = 3.0
    num_inference_steps: int = 50
    iterations: int = 1000
    batch_size: int = 1
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-4
    lr_scheduler: LRScheduler = "constant"
    lr_warmup_steps: int = 0
    max_grad_norm: float | None = None
    rank: int = 16
    lora_alpha: float | None = None
    rollout: Rollout = "student"
    trajectory: Trajectory = "pool"
    optimizer: Optimizer = "adam"
    size: int | None = None
    seed: int = 0
    erase_from: str | None = None
    preserve: tuple[str, ...] | Literal["vocabulary"] = "vocabulary"
    null_space: bool = True
    preserve_weight: float | None = None
    stop_at_alignment: float | None = None

    def __post_init__(self) -> None:
        """Check every field; numbers become Python's own.

        Raises:
            ValueError: If a value is out of range; the message says what came and what is allowed.
            TypeError: If a value has the wrong type.
        """
        for name, check in _CHECKS.items():
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                object.__setattr__(self, name, check(name, value))
        if self.lr_warmup_steps >= self.iterations:
            raise ValueError(
                f"lr_warmup_steps={self.lr_warmup_steps} must be fewer than the iterations, {self.iterations}."
            )

    @classmethod
    def paper(cls, group: Group | str = "esd-u", **overrides: Any) -> ESDConfig:
        """The paper's plain training: states from fresh noise, nothing preserved, A and B train.

        Args:
            group: Which layers train.
            overrides: Other fields to change.
        """
        plain = {"group": group, "trajectory": "fresh", "preserve": (), "null_space": False}
        return cls(**{**plain, **overrides})

    @property
    def states(self) -> int:
        """Training states of all iterations."""
        return self.iterations * self.batch_size * self.gradient_accumulation_steps

    @property
    def loss_weight(self) -> float:
        """Weight of the preserve loss: `preserve_weight`, or what `None` means."""
        if self.preserve_weight is not None:
            return self.preserve_weight
        return 0.0 if self.null_space and self.group in ("esd-x", "esd-x-strict") else 10.0

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        preserve = self.preserve if isinstance(self.preserve, str) else list(self.preserve)
        return {**asdict(self), "preserve": preserve}

    def to_json(self) -> str:
        """The fields as a JSON object, sorted by name."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ESDConfig:
        """The configuration of a dictionary of fields.

        Raises:
            TypeError: If a field is unknown; the message lists those that exist.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise TypeError(f"ESDConfig has no field {', '.join(unknown)}; it has {', '.join(known)}.")
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> ESDConfig:
        """The configuration that `to_json` wrote."""
        return cls.from_dict(json.loads(text))


def check_prompt(name: str, prompt: object) -> None:
    """Refuse what cannot be a prompt.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is empty or blank.
    """
    if not isinstance(prompt, str):
        raise TypeError(f"{name} must be a string, got {prompt!r} of type {type(prompt).__name__}.")
    if not prompt.strip():
        raise ValueError(f"{name} is empty: got {prompt!r}; give the words of a prompt.")


def check_adapter_name(name: object) -> None:
    """Refuse a name that an adapter or a file cannot have.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is blank, or has a dot or a slash.
    """
    if not isinstance(name, str):
        raise TypeError(f"An adapter's name must be a string, got {name!r} of type {type(name).__name__}.")
    if not name.strip():
        raise ValueError(f"Adapter name {name!r} is empty; give it a name such as 'no-cat'.")
    if "." in name:
        raise ValueError(f"Adapter name {name!r} has a dot, which PEFT cannot store; use {name.replace('.', '-')!r}.")
    if set(name) & set("/\\\0"):
        raise ValueError(f"Adapter name {name!r} has a slash, which a file's name cannot have.")


def check_flag(name: str, value: object) -> bool:
    """Refuse what is not True or False.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}.")
    return value


Check = Callable[[str, Any], Any]


def _choice(allowed: Any) -> Check:
    def check(name: str, value: Any) -> Any:
        if value not in get_args(allowed):
            raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(map(repr, get_args(allowed)))}.")
        return value

    return check


def _integer(least: int) -> Check:
    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} must be a whole number, got {value!r} of type {type(value).__name__}.")
        if value < least:
            raise ValueError(f"{name}={value} is too small; it must be {least} or more.")
        return int(value)

    return check


def _number(allowed: str, test: Callable[[float], bool]) -> Check:
    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}.")
        try:
            number = value if isinstance(value, int) and math.isfinite(value) else float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number) or not test(number):
            raise ValueError(f"{name}={value} is out of range; it must be {allowed}.")
        return number

    return check


def _group(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {value!r} of type {type(value).__name__}.")
    try:
        re.compile(value)
    except re.error as error:
        known = ", ".join(map(repr, get_args(Group)))
        raise ValueError(
            f"{name}={value!r} is not one of {known}, and not a valid regular expression ({error})."
        ) from error
    return value


def _preserve(name: str, value: Any) -> Any:
    if value == "vocabulary":
        return value
    if isinstance(value, str):
        raise TypeError(f"{name}={value!r} is one string; give a list of prompts, [{value!r}], or 'vocabulary'.")
    if not isinstance(value, Iterable):
        kind = type(value).__name__
        raise TypeError(f"{name} must be a list of prompts or 'vocabulary', got {value!r} of type {kind}.")
    value = tuple(value)
    for prompt in value:
        check_prompt(name, prompt)
    return value


def _prompt(name: str, value: Any) -> Any:
    check_prompt(name, value)
    return value


_at_least_0 = _number("0 or more", lambda v: v >= 0)
_above_0 = _number("above 0", lambda v: v > 0)
_CHECKS: dict[str, Check] = {
    "group": _group,
    "eta": _at_least_0,
    "guidance_scale": _at_least_0,
    "num_inference_steps": _integer(1),
    "iterations": _integer(1),
    "batch_size": _integer(1),
    "gradient_accumulation_steps": _integer(1),
    "learning_rate": _above_0,
    "lr_scheduler": _choice(LRScheduler),
    "lr_warmup_steps": _integer(0),
    "max_grad_norm": _above_0,
    "rank": _integer(1),
    "lora_alpha": _above_0,
    "rollout": _choice(Rollout),
    "trajectory": _choice(Trajectory),
    "optimizer": _choice(Optimizer),
    "size": _integer(1),
    "seed": _integer(0),
    "erase_from": _prompt,
    "preserve": _preserve,
    "null_space": check_flag,
    "preserve_weight": _at_least_0,
    "stop_at_alignment": _number("below 1", lambda v: v < 1),
}
_OPTIONAL = {field.name for field in fields(ESDConfig) if field.default is None}
