"""Which layers a group trains.

A layer is a Linear or a Conv2d; a LoRA cannot carry norms or biases. In a U-Net the cross-attention modules are
called `attn2`:

    esd-x         every layer of the cross-attentions
    esd-x-strict  only their keys and values
    esd-u         every layer outside the cross-attentions
    full          every layer

A selection is made by type and name, and handed to PEFT as a regular expression that provably matches the same
modules. Paper: Sec. 4; the authors' code: ESD-x, ESD-u and their strict variant.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import get_args

from .config import Group


@dataclass(frozen=True)
class Selection:
    """The layers of a group.

    Attributes:
        group: The group.
        names: Module names of the layers, in the model's order.
        pattern: Regular expression that fully matches these names and no other module's.
    """

    group: Group
    names: tuple[str, ...]
    pattern: str

    def only(self, names: Collection[str]) -> Selection:
        """The layers of this selection that are among `names`."""
        kept = tuple(name for name in self.names if name in names)
        return self if kept == self.names else Selection(self.group, kept, "|".join(map(re.escape, kept)))

    def confinable(self) -> Selection:
        """Without the queries and outputs of cross-attentions: text and picture have mixed there, and no trajectories
        short enough to be worth it show all mixtures that must be preserved."""
        return self.only([name for name in self.names if not re.fullmatch(r".*\battn2\.to_(q|out\.0)", name)])


# Group -> what a layer's name has to match from its start.
_PREFIX: dict[Group, str] = {
    "esd-x": r"(?=.*\battn2\.)",
    "esd-x-strict": r"(?=.*\battn2\.to_[kv]$)",
    "esd-u": r"(?!.*\battn2\.)",
    "full": r"",
}


def select(layers: Collection[str], modules: Collection[str], group: Group) -> Selection:
    """The layers of a group.

    Args:
        layers: Names of every Linear and Conv2d of the denoiser.
        modules: Names of all its modules.
        group: One of `"esd-x"`, `"esd-x-strict"`, `"esd-u"`, `"full"`.

    Raises:
        ValueError: If the group is unknown or selects no layer.
    """
    if group not in _PREFIX:
        raise ValueError(f"group={group!r} is unknown; choose one of {', '.join(map(repr, get_args(Group)))}.")
    prefix = re.compile(_PREFIX[group])
    names = tuple(name for name in layers if prefix.match(name))
    if not names:
        counts = {g: sum(bool(re.match(p, name)) for name in layers) for g, p in _PREFIX.items()}
        fitting = ", ".join(f"{g!r} ({n} layers)" for g, n in counts.items() if n) or "none"
        raise ValueError(f"group={group!r} selects no layer of this denoiser; groups that do: {fitting}.")
    pattern = _PREFIX[group] + r"(.*\.)?(" + "|".join(sorted({_ending(name) for name in names})) + ")"
    matched = {name for name in modules if re.fullmatch(pattern, name)}
    assert matched == set(names), f"pattern and selection differ in {sorted(matched ^ set(names))}"
    return Selection(group, names, pattern)


def _ending(name: str) -> str:
    """The last part of a name, with the part before it where it is a number: `to_q`, `to_out.0`."""
    parts = name.split(".")
    return re.escape(".".join(parts[-2:] if parts[-1].isdigit() else parts[-1:]))
