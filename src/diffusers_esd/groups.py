"""Which layers a group trains.

A layer is a Linear or a Conv2d; a LoRA cannot carry norms or biases.

    esd-x         every layer of the cross-attentions
    esd-x-strict  only their keys and values
    esd-u         every layer outside the cross-attentions
    full          every layer

Any other group is a regular expression that matches whole names, for the paper's other sets of parameters (its
self-attentions alone, `".*attn1.*"`).

Cross-attention modules are called `attn2` in U-Nets and in transformers that have them. Where text and picture attend
to each other jointly instead (Stable Diffusion 3, Flux), the family says which layers are taken for them.

A selection is made by type and name, and handed to PEFT as a regular expression that provably matches the same
modules. Paper: Sec. 4; the authors' code: ESD-x, ESD-u and their strict variant.
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
        mixed: Those names where text and picture have mixed: queries and outputs of the cross-attentions.
    """

    group: Group | str
    names: tuple[str, ...]
    pattern: str
    mixed: frozenset[str] = frozenset()

    def only(self, names: Collection[str]) -> Selection:
        """The layers of this selection that are among `names`."""
        kept = tuple(name for name in self.names if name in names)
        return self if kept == self.names else Selection(self.group, kept, exactly(kept))

    def confinable(self) -> Selection:
        """Without the mixed layers: no trajectories short enough to be worth it show all mixtures that must be
        preserved."""
        return self.only([name for name in self.names if name not in self.mixed])


TEXT_LAYERS = r".*\battn2\."
"""What the names of the layers of cross-attentions match from their start."""
TEXT_INPUTS = r".*\battn2\.to_[kv]$"
"""What those of their keys and values match."""


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
        text_layers: What the names of the layers of the cross-attentions match from their start.
        text_inputs: What those of their keys and values match.

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
        what = "selects" if known else "is none of the named groups, and as a regular expression it selects"
        raise ValueError(f"group={group!r} {what} no layer of this denoiser; groups that do: {fitting}.")
    endings = r"(.*\.)?(" + "|".join(sorted({_ending(name) for name in names})) + ")"
    pattern = prefixes[group] + endings if known else group
    if {name for name in modules if re.fullmatch(pattern, name)} != set(names):
        pattern = exactly(names)
    mixed = [name for name in names if re.match(text_layers, name) and not re.match(text_inputs, name)]
    return Selection(group, names, pattern, frozenset(mixed))


def exactly(names: Collection[str]) -> str:
    """Regular expression that matches these names and no other."""
    return "|".join(map(re.escape, names))


def _ending(name: str) -> str:
    """The last part of a name, with the part before it where it is a number: `to_q`, `to_out.0`."""
    parts = name.split(".")
    return re.escape(".".join(parts[-2:] if parts[-1].isdigit() else parts[-1:]))
