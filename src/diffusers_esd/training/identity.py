"""Which training is it? What must be equal for a training to go on from a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..base_model import fingerprint
from ..config import ESDConfig
from ..denoiser import active_scales
from ..families import Family
from ..limits import Limits
from ..low_rank import Layers
from ..provenance import package_versions
from ..quantization import quantization

_LONGEST = 80  # characters of a value in an error


class OtherTrainingError(ValueError):
    """A checkpoint is good, but it is of another training."""


def identify(
    family: Family,
    config: ESDConfig,
    limits: Limits,
    concepts: Sequence[str],
    beside: Sequence[str],
    start: Layers | None = None,
    processes: int = 1,
) -> dict[str, Any]:
    """What must be equal, by name, as JSON types. How a training runs (`RunConfig`) may differ.

    Args:
        family: The family, before our adapter is on its denoiser.
        config: What is learned.
        limits: The fixed numbers.
        concepts: What is erased.
        beside: Names of the adapters that are switched off.
        start: A and B of each layer that a refinement starts from.
        processes: Number of processes that train it; each has a batch of its own.
    """
    values = {
        **config.to_dict(),
        **{f"limits.{name}": value for name, value in asdict(limits).items()},
        "concept": list(concepts),
        "beside": list(beside),
        "active adapters": active_scales(family.denoiser),
        "fingerprint of the base weights": fingerprint(family.denoiser),
        "quantisation of the base weights": quantization(family.denoiser) or None,
        "type of the base weights": str(family.dtype),
        # Computed again, A and B may differ by a rotation, which does not change their norms.
        "norm of the erasures": start and f"{sum((a.norm() * b.norm()).item() for a, b in start.values()):.4g}",
        "number of processes": processes,
        "version of diffusers-esd": package_versions().get("diffusers-esd"),
    }
    return json.loads(json.dumps(values))


def check_same(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare a checkpoint's training with the one that is to go on from it.

    Args:
        path: The checkpoint.
        then: What `identify` returned for the checkpoint's training.
        now: The same for the new one.

    Raises:
        OtherTrainingError: Naming each value that differs, now and in the checkpoint.
    """
    if different := differences(then, now, "in the checkpoint"):
        raise OtherTrainingError(
            f"{path} is a checkpoint of another training: {different}. To go on from it, give its values; "
            "to start from the beginning, give another `output_dir` or `name`."
        )


def differences(then: Mapping[str, Any], now: Mapping[str, Any], where: str) -> str:
    """The values that differ, now and then; `""` if there are none.

    Args:
        then: Values by name.
        now: Others.
        where: What the text calls the place of the former ones.
    """
    return "; ".join(
        f"`{name}` is {_shown(now.get(name))}, {where} {_shown(then.get(name))}"
        for name in {**now, **then}
        if now.get(name) != then.get(name)
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 2 :]}"
