"""The trainer's settings that the demo, the tests and the frontier use on this model.

They depend on the size of the model; everything else is the package's default. `plain` is the paper's training, which
erases in a hundred updates here and also damages similar concepts.
"""

from __future__ import annotations

from typing import Any

from diffusers_esd.config import Group

_COMMON: dict[str, Any] = {"num_inference_steps": 25, "batch_size": 4, "learning_rate": 1e-3}


def settings(group: Group | str, *, style: bool = False, anchor: bool = False) -> dict[str, Any]:
    """Fields of `ESDConfig` for this model.

    Training stops at an alignment, which is lower for `esd-u`, and lowest for a style. `esd-u`, which a loss holds
    back, needs a larger learning rate to get there. An anchor is nearer to the concept than the empty prompt, so
    training goes further beyond it.
    """
    global_layers = group == "esd-u"
    fields = {**_COMMON, "group": group, "rank": 4, "iterations": 240}
    if anchor:
        fields |= {"anchor": "auto", "stop_at_alignment": -0.35 if global_layers else -0.2}
        return fields | ({"learning_rate": 2e-3} if global_layers else {})
    fields |= {"stop_at_alignment": -0.6 if style else -0.2 if global_layers else -0.05}
    return fields | ({"learning_rate": 3e-3} if global_layers else {})


def plain(group: Group) -> dict[str, Any]:
    """Fields of `ESDConfig` for the paper's training: nothing is preserved."""
    return {**_COMMON, "group": group, "rank": 8, "iterations": 100, "preserve": ()}
