"""The adapter on a denoiser: attach, switch off for the teacher, read and load weights.

The teacher is the denoiser with *our* adapter off; the user's active adapters stay on in both. Switching uses a list of
layers that is collected once: that takes microseconds, while a walk over the model takes tens of milliseconds. PEFT is
used in this file and in `denoiser.py`, nowhere else.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from .denoiser import Denoiser, Snapshot, adapter_names, check_present, tuner_layers
from .groups import Selection
from .modes import evaluation
from .portable import check_fit
from .quantization import is_in_float8
from .streams import stream

_FILTERING = threading.Lock()  # Python's warning filters are shared by all threads


class Adapter:
    """A new LoRA on a denoiser, active beside the user's, with float32 weights.

    Args:
        denoiser: The pipeline's denoiser, a diffusers model.
        name: Name of the adapter, not in use.
        selection: The layers it is attached to.
        rank: Rank in every layer.
        lora_alpha: Scale times rank.
        seed: Seed of the initial weights. The global generators are not used.
        fixed_a: Fixed A of each layer, (rank, d); then only B trains. `None` draws A from Kaiming's uniform
            distribution, as PEFT does, and trains both.
        first_b: Initial B of each layer, (out, rank); `None` means 0.

    Attributes:
        selection: The layers it is attached to.
        parameters: The weights that train.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        name: str,
        selection: Selection,
        *,
        rank: int,
        lora_alpha: float,
        seed: int,
        fixed_a: Mapping[str, Tensor] | None = None,
        first_b: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.name = name
        self.selection = selection
        self._denoiser = denoiser
        self._user = Snapshot(denoiser)
        # PEFT divides lora_alpha by r, so any number works; its annotation says int.
        config = LoraConfig(r=rank, lora_alpha=lora_alpha, target_modules=selection.pattern)  # type: ignore[arg-type]
        try:
            # On the meta device PEFT does not draw random numbers.
            with _quiet(), torch.device("meta"):
                denoiser.add_adapter(config, adapter_name=name)
            self._set_up(seed, fixed_a, first_b)
        except BaseException:
            _delete(denoiser, name, self._user)
            raise

    def _set_up(self, seed: int, fixed_a: Mapping[str, Tensor] | None, first_b: Mapping[str, Tensor] | None) -> None:
        denoiser, name = self._denoiser, self.name
        # Found by layer, not by name: a name such as "0" or "conv" is also part of the names of base weights.
        layers = {path: layer for path, layer in denoiser.named_modules() if name in getattr(layer, "lora_A", ())}
        for path, layer in layers.items():
            device = layer.get_base_layer().weight.device
            a, b = (side[name] for side in (layer.lora_A, layer.lora_B))
            first = torch.empty(a.weight.shape, device="cpu", dtype=torch.float32)
            nn.init.kaiming_uniform_(first, a=5**0.5, generator=stream(seed, "adapter", path))
            if fixed_a is not None:
                first.zero_()
                first[: len(fixed_a[path])] = fixed_a[path].reshape(len(fixed_a[path]), *first.shape[1:])
            a.weight = nn.Parameter(first.to(device))
            second = torch.zeros(b.weight.shape, device="cpu", dtype=torch.float32)
            if first_b is not None:
                second.copy_(first_b[path].view_as(second))
            b.weight = nn.Parameter(second.to(device))
        self._layers = list(layers.values())
        self._user.restore(adding=[name])
        trained = ("lora_A", "lora_B") if fixed_a is None else ("lora_B",)
        self.parameters = [getattr(layer, side)[name].weight for layer in self._layers for side in trained]
        self._states = [(layer.__dict__, list(layer.active_adapters)) for layer in self._layers]

    @contextmanager
    def training(self) -> Iterator[None]:
        """Only our weights are trainable, and the denoiser is in evaluation mode."""
        self._denoiser.requires_grad_(False)
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        try:
            with evaluation(self._denoiser):
                yield
        finally:
            self._user.restore(adding=[self.name])
            for parameter in self.parameters:
                parameter.grad = None

    @contextmanager
    def off(self) -> Iterator[None]:
        """The teacher: the denoiser without our adapter, with everything else."""
        for state, active in self._states:
            state["_active_adapter"] = [name for name in active if name != self.name]
        try:
            yield
        finally:
            for state, active in self._states:
                state["_active_adapter"] = active

    @torch.no_grad()
    def fold_scale(self) -> None:
        """Multiply B by `lora_alpha / rank`, so that the attached adapter equals the one in the file, bit for bit."""
        for layer in self._layers:
            rank, alpha = layer.r[self.name], layer.lora_alpha[self.name]
            layer.lora_B[self.name].weight.mul_(alpha / rank)
            layer.lora_alpha[self.name] = rank
            layer.scaling[self.name] = 1.0
        self._denoiser.peft_config[self.name].lora_alpha = self._denoiser.peft_config[self.name].r

    def detach(self) -> None:
        """Remove the adapter; the denoiser is as it was before."""
        _delete(self._denoiser, self.name, self._user)


def read_weights(denoiser: Denoiser, name: str, component: str) -> dict[str, Tensor]:
    """A and B of an adapter by portable key, copied to the CPU; `lora_alpha / rank` is folded into B."""
    weights: dict[str, Tensor] = {}
    # PEFT's own collection drops keys that contain another adapter's name, such as "0".
    for path, layer in denoiser.named_modules():
        if isinstance(layer, LoraLayer) and name in layer.lora_A:
            for side, factor in (("lora_A", 1.0), ("lora_B", layer.lora_alpha[name] / layer.r[name])):
                weight = getattr(layer, side)[name].weight.detach().cpu().contiguous()
                weights[f"{component}.{path}.{side}.weight"] = weight * factor
    return weights


def is_loaded(denoiser: Denoiser, name: str, component: str, weights: Mapping[str, Tensor]) -> bool:
    """Whether the denoiser has an adapter with this name and these portable weights."""
    present = read_weights(denoiser, name, component)
    return present.keys() == weights.keys() and all(
        torch.equal(value, weights[key].to(value.dtype)) for key, value in present.items()
    )


def load(denoiser: Denoiser, component: str, weights: Mapping[str, Tensor], name: str, scale: float) -> None:
    """Load portable weights as one more active adapter; the user's adapters stay as they are.

    Args:
        denoiser: The pipeline's denoiser.
        component: The prefix of the keys, `"unet"` or `"transformer"`.
        weights: Portable weights.
        name: Name of the adapter, not in use.
        scale: Its scale; 1 is the erasure as trained, 0 the base model.

    Raises:
        ValueError: If the weights do not fit the denoiser.
    """
    check_fit(denoiser, component, weights)
    user = Snapshot(denoiser)
    try:
        with _quiet():
            denoiser.load_lora_adapter(dict(weights), prefix=component, adapter_name=name, low_cpu_mem_usage=True)
    except BaseException:
        _delete(denoiser, name, user)
        raise
    if is_in_float8(denoiser):  # PEFT has cast A and B to it
        for key, weight in weights.items():
            own = key.removeprefix(f"{component}.").removesuffix("weight")
            parameter = denoiser.get_parameter(f"{own}{name}.weight")
            parameter.data = weight.to(parameter.device)
    user.restore(adding=[name])
    _set_scales(denoiser, {name: scale})


def activate(denoiser: Denoiser, scales: Mapping[str, float]) -> None:
    """Activate adapters that are on the denoiser, with scales, beside those that are active already."""
    user = Snapshot(denoiser)
    user.restore(adding=[name for name in scales if name not in user.active])
    _set_scales(denoiser, scales)


def remove(denoiser: Denoiser, name: str) -> None:
    """Remove an adapter; the others stay as they are.

    Raises:
        ValueError: If there is no adapter of that name.
    """
    check_present(denoiser, [name])
    _delete(denoiser, name, Snapshot(denoiser))


def remove_all(denoiser: Denoiser) -> None:
    """Remove every adapter, so that the denoiser is the base model."""
    if adapter_names(denoiser):
        denoiser.unload_lora()


@contextmanager
def as_found(denoiser: Denoiser) -> Iterator[None]:
    """Adapters may be loaded, activated and scaled inside; afterwards the denoiser is as it was before."""
    before, present = Snapshot(denoiser), adapter_names(denoiser)
    try:
        yield
    finally:
        for name in adapter_names(denoiser):
            if name not in present:
                remove(denoiser, name)
        before.restore()


def _set_scales(denoiser: Denoiser, scales: Mapping[str, float]) -> None:
    for layer in tuner_layers(denoiser):
        for name in scales.keys() & layer.scaling.keys():
            layer.set_scale(name, scales[name])


def _delete(denoiser: Denoiser, name: str, user: Snapshot) -> None:
    if name in adapter_names(denoiser):
        with _quiet():
            denoiser.delete_adapters(name)
    if not adapter_names(denoiser):
        denoiser.unload_lora()
    # PEFT leaves its wrapper on layers that have no adapter left.
    for path, layer in list(denoiser.named_modules()):
        if isinstance(layer, LoraLayer) and not layer.lora_A:
            denoiser.set_submodule(path, layer.get_base_layer())
    user.restore(removing=name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence PEFT's warnings about a second adapter and about deleting an active one, both intended, and merging."""
    known = "Already found a `peft_config`|Adapter .* was active which is now deleted|TorchaoLoraLinear was inst"
    with _FILTERING, warnings.catch_warnings():
        warnings.filterwarnings("ignore", known)
        yield
