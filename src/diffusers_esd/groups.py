"""Which layers a group trains.

A layer is a Linear or a Conv2d without groups; a LoRA does not change norms or biases.

    esd-x         every layer of the cross-attentions
    esd-x-strict  only their keys and values
    esd-u         every layer outside the cross-attentions
    full          every layer

Any other group is a regular expression that matches whole names. It gives the paper's other parameter sets, such as
the self-attentions alone, `".*attn1.*"`.

Cross-attention modules are called `attn2` in U-Nets and in the transformers that have them. In models where text and
image attend to each other jointly (Stable Diffusion 3, Flux), `esd-x` and `esd-x-strict` are the text's projections in
the attentions: `docs/results.md` has the measurement.

Layers are selected by type and name. PEFT gets the selection as a regular expression that matches exactly these
modules. Paper: Sec. 4; authors' code: ESD-x, ESD-u and the strict variant.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from .config import Group


@dataclass(frozen=True)
class Selection:
    """The layers of a group.

    Attributes:
        group: The group.
        names: Module names of the layers, in the model's order.
        pattern: Regular expression that fully matches these names and no other module's.
        mixed: The names among them whose inputs mix text and image: queries and outputs of the cross-attentions.
    """

    group: Group | str
    names: tuple[str, ...]
    pattern: str
    mixed: frozenset[str] = frozenset()

    def only(self, names: Collection[str]) -> Selection:
        """The layers of this selection that are among `names`."""
        kept = tuple(name for name in self.names if name in names)
        return self if kept == self.names else Selection(self.group, kept, names_pattern(kept))

    def confinable(self) -> Selection:
        """The layers that a null space can confine: all but the mixed ones. To see every mixture that must be preserved
        would take far more trajectories than a training itself."""
        return self.only([name for name in self.names if name not in self.mixed])


MIXED = "queries and outputs of cross-attentions: their inputs mix text and image"
"""Why a null space leaves layers out; `Selection.confinable`."""
TEXT_LAYERS = r".*\battn2\."
"""Matches the names of the layers of cross-attentions, from the start."""
TEXT_INPUTS = r".*\battn2\.to_[kv]$"
"""Matches the names of their keys and values."""
JOINT_TEXT_LAYERS = r"(joint_)?transformer_blocks\.\d+\.attn\.(add_[qkv]_proj|to_add_out)$"
"""The same where text and image attend to each other jointly: the projections of the text in the attentions."""


def select(
    layers: Collection[str],
    modules: Collection[str],
    group: Group | str,
    *,
    text_layers: str = TEXT_LAYERS,
    text_inputs: str = TEXT_INPUTS,
) -> Selection:
    """The layers of a group.

    Args:
        layers: Names of every Linear and Conv2d of the denoiser.
        modules: Names of all its modules.
        group: One of `"esd-x"`, `"esd-x-strict"`, `"esd-u"`, `"full"`, or a regular expression that matches the whole
            name of a layer.
        text_layers: Regular expression that matches the names of the cross-attentions' layers, from the start.
        text_inputs: The same for their keys and values.

    Raises:
        ValueError: If the group selects no layer.
    """
    prefixes = {
        "esd-x": f"(?={text_layers})",
        "esd-x-strict": f"(?={text_inputs})",
        "esd-u": f"(?!{text_layers})",
        "full": "",
    }
    known = group in prefixes
    names = tuple(name for name in layers if (re.match(prefixes[group], name) if known else re.fullmatch(group, name)))
    if not names:
        counts = {g: sum(bool(re.match(p, name)) for name in layers) for g, p in prefixes.items()}
        fitting = ", ".join(f"{g!r} ({n} layers)" for g, n in counts.items() if n) or "none"
        what = "" if known else ", as a regular expression,"
        raise ValueError(f"`group`={group!r}{what} selects no layer of this denoiser; groups that do: {fitting}.")
    endings = r"(.*\.)?(" + "|".join(sorted({_ending(name) for name in names})) + ")"
    pattern = prefixes[group] + endings if known else group
    if {name for name in modules if re.fullmatch(pattern, name)} != set(names):
        pattern = names_pattern(names)
    mixed = [name for name in names if re.match(text_layers, name) and not re.match(text_inputs, name)]
    return Selection(group, names, pattern, frozenset(mixed))


def names_pattern(names: Collection[str]) -> str:
    """Regular expression that matches exactly these names."""
    return "|".join(map(re.escape, names))


def _ending(name: str) -> str:
    """The last part of a name, or the last two if the last is a number: `to_q`, `to_out.0`."""
    parts = name.split(".")
    return re.escape(".".join(parts[-2:] if parts[-1].isdigit() else parts[-1:]))
