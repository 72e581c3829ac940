"""`ESDConfig`: every choice of a training, checked when made, frozen afterwards, JSON both ways."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Group = Literal["esd-x", "esd-x-strict", "esd-u", "full"]
Rollout = Literal["student", "teacher"]
Trajectory = Literal["pool", "fresh"]
Optimizer = Literal["adam", "adam8bit"]


@dataclass(frozen=True, kw_only=True)
class ESDConfig:
    """Every choice of a training; the defaults are the paper's for nudity on SD 1.4, and preserve the rest.

    Attributes:
        group: Which layers train. `"esd-x"`: cross-attention, for what should go when the prompt names it (a style).
            `"esd-x-strict"`: only its keys and values. `"esd-u"`: everything but cross-attention, for what should go
            in any case (nudity, an object). `"full"`: both.
        eta: Strength of the negative guidance, Eq. 7's `eta`; 0 or more, usually 1 to 3. Scripts that count from
            the conditional prediction call `eta + 1` their negative guidance.
        guidance_scale: Classifier-free guidance of the trajectories that training states come from, usually 3.
        num_inference_steps: Denoising steps of a trajectory; training visits exactly their timesteps.
        iterations: Optimiser updates.
        batch_size: Training states per evaluation of the student.
        gradient_accumulation_steps: Batches per iteration, one after the other: as one larger, at less memory.
        learning_rate: Adam's, constant. Adapters want about ten times what full weights want.
        rank: Rank of the adapter in every layer.
        lora_alpha: Scale of the adapter is `lora_alpha / rank`; `None` means `rank`, a scale of 1.
        rollout: Whose conditional prediction moves a trajectory: the `"student"`'s (the paper) or the `"teacher"`'s.
        trajectory: `"pool"` takes states from trajectories that advance with the predictions of the loss, at no cost;
            `"fresh"` denoises from new noise for every state, as the paper does.
        optimizer: `"adam"`, or `"adam8bit"`, which keeps its state in eight bits (`pip install "diffusers-esd[8bit]"`).
        gradient_checkpointing: Compute the activations twice in place of keeping them: less memory, more time.
        offload: Keep the text encoders and the autoencoder on the CPU while the denoiser trains.
        size: Height and width of the pictures in pixels; `None` means the model's own.
        seed: Seed of everything random: adapter, noises, timesteps, the order of concepts.
        erase_from: Prompt from which the concept is erased (`"hat"` from `"a cowboy"`): the student learns
            `e_from - eta * (e_cond - e_null)` on this prompt. `None` erases the concept itself.
        preserve: What must stay as it is: prompts, or `"vocabulary"`, the words of the text encoder in a few templates
            without those of the concept. Nothing, `()`, is the paper's plain training.
        null_space: Whether the adapter listens only to what tells the concept from the preserved prompts: A of every
            layer is computed and held, B trains. Groups `"esd-x"` and `"full"` then leave the cross-attentions'
            queries and outputs alone.
        preserve_weight: Weight of a loss that holds the student to the teacher on the preserved prompts, on
            trajectories of their own, at the cost of a second training; 0 or more, usually 1 to 20. 0 has no such loss.
            `None` means 0 where the null space is of text alone (`"esd-x"`, `"esd-x-strict"`), and 10 elsewhere.
        stop_at_alignment: Stop when the smoothed alignment has fallen to this value; below 1, usually `-eta / 2` or
            lower. `None` trains for all iterations.
    """

    group: Group = "esd-u"
    eta: float = 1.0
    guidance_scale: float = 3.0
    num_inference_steps: int = 50
    iterations: int = 1000
    batch_size: int = 1
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-4
    rank: int = 16
    lora_alpha: float | None = None
    rollout: Rollout = "student"
    trajectory: Trajectory = "pool"
    optimizer: Optimizer = "adam"
    gradient_checkpointing: bool = False
    offload: bool = False
    size: int | None = None
    seed: int = 0
    erase_from: str | None = None
    preserve: tuple[str, ...] | Literal["vocabulary"] = "vocabulary"
    null_space: bool = True
    preserve_weight: float | None = None
    stop_at_alignment: float | None = None

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: If a value is out of range; the message says what came and what is allowed.
            TypeError: If a value has the wrong type.
        """
        if isinstance(self.preserve, str) and self.preserve != "vocabulary":
            raise TypeError(
                f"preserve={self.preserve!r} is one string; give a list of prompts, [{self.preserve!r}], "
                "or 'vocabulary'."
            )
        if not isinstance(self.preserve, str):
            object.__setattr__(self, "preserve", tuple(self.preserve))
            for prompt in self.preserve:
                check_prompt("preserve", prompt)
        for name in ("null_space", "gradient_checkpointing", "offload"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}.")
        choices = {"group": Group, "rollout": Rollout, "trajectory": Trajectory, "optimizer": Optimizer}
        for name, allowed in choices.items():
            _check_choice(name, getattr(self, name), get_args(allowed))
        for name in ("num_inference_steps", "iterations", "batch_size", "gradient_accumulation_steps", "rank"):
            _check_integer(name, getattr(self, name), least=1)
        if self.size is not None:
            _check_integer("size", self.size, least=1)
        _check_integer("seed", self.seed, least=0)
        _check_number("eta", self.eta, "0 or more", lambda v: v >= 0)
        _check_number("guidance_scale", self.guidance_scale, "0 or more", lambda v: v >= 0)
        if self.preserve_weight is not None:
            _check_number("preserve_weight", self.preserve_weight, "0 or more", lambda v: v >= 0)
        _check_number("learning_rate", self.learning_rate, "above 0", lambda v: v > 0)
        if self.lora_alpha is not None:
            _check_number("lora_alpha", self.lora_alpha, "above 0", lambda v: v > 0)
        if self.stop_at_alignment is not None:
            _check_number("stop_at_alignment", self.stop_at_alignment, "below 1", lambda v: v < 1)
        if self.erase_from is not None:
            check_prompt("erase_from", self.erase_from)

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
    """Refuse what is no prompt.

    Raises:
        TypeError: If it is no string.
        ValueError: If it is empty or blank.
    """
    if not isinstance(prompt, str):
        raise TypeError(f"{name} must be text, got {prompt!r} of type {type(prompt).__name__}.")
    if not prompt.strip():
        raise ValueError(f"{name} is empty: got {prompt!r}; give the words of a prompt.")


def check_adapter_name(name: object) -> None:
    """Refuse a name that no adapter can have, or no file be called by.

    Raises:
        TypeError: If it is no string.
        ValueError: If it is blank, or has a dot or a slash.
    """
    if not isinstance(name, str):
        raise TypeError(f"Adapter name {name!r} is no text.")
    if not name.strip():
        raise ValueError(f"Adapter name {name!r} is empty; give it a name such as 'no-cat'.")
    if "." in name:
        raise ValueError(f"Adapter name {name!r} has a dot, which PEFT cannot store; use {name.replace('.', '-')!r}.")
    if set(name) & set("/\\\0"):
        raise ValueError(f"Adapter name {name!r} has a slash, which a file's name cannot have.")


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(map(repr, allowed))}.")


def _check_integer(name: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r} of type {type(value).__name__}.")
    if value < least:
        raise ValueError(f"{name}={value} is too small; it must be {least} or more.")


def _check_number(name: str, value: object, allowed: str, test: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}.")
    if not math.isfinite(value) or not test(value):
        raise ValueError(f"{name}={value} is out of range; it must be {allowed}.")
