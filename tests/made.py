"""Erasures with random weights, made without training."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diffusers_esd import Erasure, ESDConfig
from diffusers_esd.base_model import fingerprint, model_name
from diffusers_esd.denoiser import base_layers
from diffusers_esd.families import family_for
from diffusers_esd.groups import names_pattern
from diffusers_esd.names import default_name
from diffusers_esd.provenance import Provenance
from diffusers_esd.quantization import weight_shape


def made(
    pipe: Any,
    concept: str = "a cat",
    *,
    group: str = "esd-u",
    rank: int = 4,
    seed: int = 0,
    size: int | None = None,
) -> Erasure:
    """An erasure as training makes it, with random A and B of every layer of the group."""
    family = family_for(pipe)
    of_text = {"esd-x": (True,), "esd-u": (False,), "full": (True, False)}[group]
    names = [name for name in base_layers(family.denoiser) if bool(re.match(family.text_layers, name)) in of_text]
    provenance = Provenance(
        concepts=(concept,),
        base_model=model_name(pipe),
        base_fingerprint=fingerprint(family.denoiser),
        family=type(family).__name__,
        component=family.component,
        pattern=names_pattern(names),
        layers=len(names),
        versions={"torch": "2"},
        iterations=8,
        alignment=-0.5,
        seconds=1.0,
        evaluations={"no_grad": 16, "grad": 8},
        history=tuple((1.0 / (i + 1), 1.0 - i / 5) for i in range(8)),
    )
    config = ESDConfig(group=group, rank=rank, iterations=8, preserve=(), size=size)
    return Erasure(default_name([concept]), _weights(family, names, rank, seed), config, provenance)


def _weights(family: Any, names: Any, rank: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator("cpu").manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for name in names:
        shape = torch.Size(weight_shape(family.denoiser.get_submodule(name)))
        inputs = shape[1:].numel()
        a = torch.randn((rank, *shape[1:]), generator=generator) / inputs**0.5
        b = torch.randn((shape[0], rank, *[1] * (len(shape) - 2)), generator=generator) / (4 * rank)
        weights[f"{family.component}.{name}.lora_A.weight"] = a
        weights[f"{family.component}.{name}.lora_B.weight"] = b
    return weights


def with_provenance(erasure: Erasure, **changes: Any) -> Erasure:
    """The erasure with other values in its provenance."""
    return replace(erasure, provenance=replace(erasure.provenance, **changes))


def is_equal(a: Erasure, b: Erasure) -> bool:
    """Whether two erasures are the same in everything but the picture."""
    return (
        a.to_dict() == b.to_dict()
        and a.weights.keys() == b.weights.keys()
        and all(torch.equal(a.weights[key], value) for key, value in b.weights.items())
    )
