"""`ESDConfig`: what an erasure learns. Checked when it is created, frozen, JSON both ways.

It is stored in the file of the erasure. How a training runs (offloading, gradient checkpointing) is in `RunConfig`, and
the fixed numbers of vocabulary and null space are in `Limits`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from .arguments import Check, check_flag, check_prompt, check_prompts, integer_from, number_in, one_of

Group = Literal["esd-x", "esd-x-strict", "esd-u", "full"]
Rollout = Literal["student", "teacher"]
Trajectory = Literal["pool", "fresh"]
Optimizer = Literal["adam", "adam8bit"]
LRScheduler = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class ESDConfig:
    """What an erasure learns. The defaults are the paper's for nudity on SD 1.4, plus preserving everything else.

    Attributes:
        group: Which layers train. `"esd-x"`: the cross-attentions, for a concept that appears because the prompt names
            it, such as a style. `"esd-x-strict"`: only their keys and values. Where text and image attend to each other
            jointly, both are the text's projections in the attentions. `"esd-u"`: all other layers, for a concept that
            must disappear in any case, such as nudity or an object. `"full"`: all layers. Any other string is a regular
            expression that matches the whole name of a layer, such as `".*attn1.*"`.
        eta: Strength of the negative guidance, `eta` in Eq. 7; 0 or more, usually 1 to 3. The authors' later scripts
            call `eta + 1` the negative guidance.
        guidance_scale: Classifier-free guidance of the trajectories that training states come from, usually 3. Where
            the denoiser takes the guidance as an input, every prediction has it: give the one of your images.
        num_inference_steps: Denoising steps of a trajectory. Training uses exactly their timesteps.
        iterations: Optimiser updates.
        batch_size: Training states in one forward pass of the student.
        gradient_accumulation_steps: Batches per iteration, one after the other: the same as a larger batch, with less
            memory.
        learning_rate: Adam's learning rate. Adapters need about ten times that of full weights.
        lr_scheduler: How the learning rate changes after the warm-up: it stays (`"constant"`), or decays to 0,
            `"linear"` or as a `"cosine"`.
        lr_warmup_steps: Iterations in which the learning rate rises from 0; fewer than `iterations`.
        max_grad_norm: Gradients are clipped to this norm; `None` does not clip.
        rank: Rank of the adapter in every layer.
        lora_alpha: The adapter is multiplied by `lora_alpha / rank`; `None` means `rank`, a factor of 1.
        rollout: Whose conditional prediction moves a trajectory: the `"student"`'s (the paper) or the `"teacher"`'s.
        trajectory: `"pool"` takes training states from trajectories that advance with the predictions of the loss, at
            no extra cost; `"fresh"` denoises from new noise for every state, as the paper does.
        optimizer: `"adam"`, or `"adam8bit"`, whose state has eight bits (`pip install "diffusers-esd[8bit]"`).
        size: Height and width of the images in pixels; `None` means the model's own.
        seed: Seed of everything random: adapter, noise, timesteps, the order of concepts.
        anchor: Prompt that the concept is erased towards: the target is `e_a - eta * (e_cond - e_a)`, with the
            prediction `e_a` for the anchor. `""`, the empty prompt, is the paper's. A list has one for each concept.
            `"auto"` takes, among generic prompts such as "an animal" and the empty one, the one nearest to the concept.
            With `eta=0` the concept is replaced by the anchor.
        erase_from: Prompt from which the concept is erased (`"hat"` from `"a cowboy"`): the student learns
            `e_from - eta * (e_cond - e_a)` on this prompt. `None` erases the concept itself.
        preserve: What must not change: a list of prompts, or `"vocabulary"`, the words of the text encoder in a few
            templates: frequent ones and those nearest to the concept, without the words that mean the concept. An empty
            list is the paper's plain training.
        synonyms: Further words for the concept, such as `"kitten"` for a cat, that the vocabulary must not preserve.
        null_space: Whether A of every layer is computed and fixed, so that the adapter answers the concept and hardly
            the preserved prompts; only B trains. The groups `"esd-x"` and `"full"` then leave out the queries and
            outputs of the cross-attentions, so that `"esd-x"` trains the same layers as `"esd-x-strict"`.
        preserve_weight: Weight of the preserve loss, which holds the student to the teacher on the preserved prompts,
            on trajectories of their own; it doubles the cost of training. 0 or more, usually 1 to 20; 0 switches it
            off. `None` means 0 for `"esd-x"` and `"esd-x-strict"` with a null space, and 10 otherwise.
        stop_at_alignment: A concept is done when its smoothed alignment is at or below this value; training stops when
            all concepts are done. Below 1, usually `-eta / 2` or lower. `None` trains for all iterations.
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
    anchor: str | tuple[str, ...] = ""
    erase_from: str | None = None
    preserve: tuple[str, ...] | Literal["vocabulary"] = "vocabulary"
    synonyms: tuple[str, ...] = ()
    null_space: bool = True
    preserve_weight: float | None = None
    stop_at_alignment: float | None = None

    def __post_init__(self) -> None:
        """Check every field; numbers become Python's own types.

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
                f"`lr_warmup_steps` must be fewer than `iterations`, {self.iterations}; got {self.lr_warmup_steps}."
            )
        if self.erase_from is not None and self.eta == 0:
            raise ValueError("`eta`=0 erases nothing with `erase_from`; give `eta` above 0, or leave out `erase_from`.")
        if self.synonyms and self.preserve != "vocabulary":
            raise ValueError(
                "`synonyms` are words that the vocabulary does not preserve, and `preserve` is a list; leave the words "
                f"out of the list. Got synonyms={self.synonyms!r}."
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
        """Number of training states in all iterations."""
        return self.iterations * self.batch_size * self.gradient_accumulation_steps

    @property
    def loss_weight(self) -> float:
        """Weight of the preserve loss: `preserve_weight`, or the default that `None` stands for."""
        if self.preserve_weight is not None:
            return self.preserve_weight
        return 0.0 if self.null_space and self.group in ("esd-x", "esd-x-strict") else 10.0

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        lists = {name: getattr(self, name) for name in ("anchor", "preserve", "synonyms")}
        return {**asdict(self), **{name: v if isinstance(v, str) else list(v) for name, v in lists.items()}}

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
            raise TypeError(f"Unknown ESDConfig field {', '.join(unknown)}; expected {', '.join(known)}.")
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> ESDConfig:
        """The configuration that `to_json` wrote."""
        return cls.from_dict(json.loads(text))


def _group(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be a string, got {value!r} of type {type(value).__name__}.")
    try:
        re.compile(value)
    except re.error as error:
        known = ", ".join(map(repr, get_args(Group)))
        raise ValueError(
            f"`{name}` must be one of {known}, or a regular expression; got {value!r} ({error})."
        ) from error
    return value


def _preserve(name: str, value: Any) -> Any:
    if value == "vocabulary":
        return value
    return check_prompts(name, value, or_else=" or 'vocabulary'")


def _anchor(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return value if value.strip() else ""
    if not isinstance(value, Iterable):
        kind = type(value).__name__
        raise TypeError(f"`{name}` must be a prompt, a list of prompts or 'auto', got {value!r} of type {kind}.")
    anchors = tuple(value)
    for anchor in anchors:
        if not isinstance(anchor, str):
            raise TypeError(f"`{name}` must be a prompt or a list of prompts, got {anchor!r} in the list.")
        if anchor == "auto":
            raise ValueError(f"`{name}`='auto' chooses for all concepts; it cannot be in a list, got {anchors!r}.")
    return anchors


_at_least_0 = number_in("0 or more", lambda v: v >= 0)
_above_0 = number_in("above 0", lambda v: v > 0)
_CHECKS: dict[str, Check] = {
    "group": _group,
    "eta": _at_least_0,
    "guidance_scale": _at_least_0,
    "num_inference_steps": integer_from(1),
    "iterations": integer_from(1),
    "batch_size": integer_from(1),
    "gradient_accumulation_steps": integer_from(1),
    "learning_rate": _above_0,
    "lr_scheduler": one_of(LRScheduler),
    "lr_warmup_steps": integer_from(0),
    "max_grad_norm": _above_0,
    "rank": integer_from(1),
    "lora_alpha": _above_0,
    "rollout": one_of(Rollout),
    "trajectory": one_of(Trajectory),
    "optimizer": one_of(Optimizer),
    "size": integer_from(1),
    "seed": integer_from(0),
    "anchor": _anchor,
    "erase_from": check_prompt,
    "preserve": _preserve,
    "synonyms": check_prompts,
    "null_space": check_flag,
    "preserve_weight": _at_least_0,
    "stop_at_alignment": number_in("below 1", lambda v: v < 1),
}
_OPTIONAL = {field.name for field in fields(ESDConfig) if field.default is None}
