"""The adapter on a denoiser: attach, switch off for the teacher, weights out and in.

The teacher is the denoiser with *our* adapter off; whatever else the user has active stays in both. Switching goes
over layers collected once, which costs microseconds where walking the model costs tens of milliseconds.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from .denoiser import Denoiser, UserState, adapter_names, evaluation, tuner_layers
from .groups import Selection
from .streams import stream

_FILTERING = threading.Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without PEFT's warnings of a second adapter, and of one that is deleted while active: both are meant."""
    # Python's filters of warnings are the same for all threads.
    with _FILTERING, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        warnings.filterwarnings("ignore", "Adapter .* was active which is now deleted")
        yield


class Adapter:
    """A LoRA of ours, attached to a denoiser and active beside the user's, with float32 weights.

    Args:
        denoiser: The pipeline's denoiser, a diffusers model.
        name: Name of the adapter, not in use.
        selection: The layers it goes to.
        rank: Rank in every layer.
        lora_alpha: Scale times rank.
        seed: Seed of the initial weights; the global generators are left as they were.
        rows: Fixed A of each layer, (rank, d); only B trains then. `None` draws A from Kaiming's uniform
            distribution, as PEFT does, and trains both.

    Attributes:
        selection: The layers it is on.
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
        rows: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.name = name
        self.selection = selection
        self._denoiser = denoiser
        self._user = UserState(denoiser)
        # PEFT divides lora_alpha by r, so any number will do; its annotation says int.
        config = LoraConfig(r=rank, lora_alpha=lora_alpha, target_modules=selection.pattern)  # type: ignore[arg-type]
        try:
            # On the meta device PEFT draws no random numbers.
            with _quiet(), torch.device("meta"):
                denoiser.add_adapter(config, adapter_name=name)
            self._set_up(seed, rows)
        except BaseException:
            _delete(denoiser, name, self._user)
            raise

    def _set_up(self, seed: int, rows: Mapping[str, Tensor] | None) -> None:
        denoiser, name = self._denoiser, self.name
        # By layer, not by name: a name such as "0" or "conv" also stands in the names of base weights.
        layers = {path: layer for path, layer in denoiser.named_modules() if name in getattr(layer, "lora_A", ())}
        for path, layer in layers.items():
            device = layer.get_base_layer().weight.device
            a, b = (side[name] for side in (layer.lora_A, layer.lora_B))
            first = torch.empty(a.weight.shape, device="cpu", dtype=torch.float32)
            nn.init.kaiming_uniform_(first, a=5**0.5, generator=stream(seed, "adapter", path))
            if rows is not None:
                first.zero_()
                first[: len(rows[path])] = rows[path].reshape(len(rows[path]), *first.shape[1:])
            a.weight = nn.Parameter(first.to(device))
            b.weight = nn.Parameter(torch.zeros(b.weight.shape, device=device, dtype=torch.float32))
        self._layers = list(layers.values())
        self._user.restore(adding=[name])
        trained = ("lora_A", "lora_B") if rows is None else ("lora_B",)
        self.parameters = [getattr(layer, side)[name].weight for layer in self._layers for side in trained]
        self._states = [(layer.__dict__, list(layer.active_adapters)) for layer in self._layers]

    @contextmanager
    def training(self) -> Iterator[None]:
        """Our weights trainable and nothing else's; the denoiser in evaluation mode."""
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
        """Fold `lora_alpha / rank` into B, so that the attached adapter is, bit for bit, the one in the file."""
        for layer in self._layers:
            rank, alpha = layer.r[self.name], layer.lora_alpha[self.name]
            layer.lora_B[self.name].weight.mul_(alpha / rank)
            layer.lora_alpha[self.name] = rank
            layer.scaling[self.name] = 1.0
        self._denoiser.peft_config[self.name].lora_alpha = self._denoiser.peft_config[self.name].r

    def weights(self, component: str) -> dict[str, Tensor]:
        """The portable weights after `fold_scale`: `<component>.<module>.lora_A.weight`, float32, on the CPU."""
        return weights(self._denoiser, self.name, component)

    def detach(self) -> None:
        """Take the adapter off; the denoiser is as it was."""
        _delete(self._denoiser, self.name, self._user)


def weights(denoiser: Denoiser, name: str, component: str) -> dict[str, Tensor]:
    """A and B of an adapter by portable key, copied to the CPU."""
    # PEFT's own collection drops keys in which another adapter's name stands, such as "0".
    found = {
        f"{component}.{path}.{side}.weight": getattr(layer, side)[name].weight
        for path, layer in denoiser.named_modules()
        if isinstance(layer, LoraLayer) and name in layer.lora_A
        for side in ("lora_A", "lora_B")
    }
    return {key: weight.detach().cpu().contiguous().clone() for key, weight in found.items()}


def load(denoiser: Denoiser, component: str, weights: dict[str, Tensor], name: str, scale: float) -> None:
    """Load portable weights as a further active adapter; the user's stay as they are.

    Args:
        denoiser: The pipeline's denoiser.
        component: The prefix of the keys, `"unet"` or `"transformer"`.
        weights: What `Adapter.weights` returned.
        name: Name for the adapter, not in use.
        scale: Its scale; 1 is the erasure as trained, 0 the base.

    Raises:
        ValueError: If the weights do not fit the denoiser.
    """
    check_fit(denoiser, component, weights)
    user = UserState(denoiser)
    try:
        with _quiet():
            denoiser.load_lora_adapter(dict(weights), prefix=component, adapter_name=name)
    except BaseException:
        _delete(denoiser, name, user)
        raise
    user.restore(adding=[name])
    for layer in tuner_layers(denoiser):
        if name in layer.scaling:
            layer.set_scale(name, scale)


def activate(denoiser: Denoiser, scales: Mapping[str, float]) -> None:
    """Activate adapters that are on the denoiser, with scales, beside those that are active already."""
    user = UserState(denoiser)
    user.restore(adding=[name for name in scales if name not in user.active])
    for layer in tuner_layers(denoiser):
        for name, scale in scales.items():
            if name in layer.scaling:
                layer.set_scale(name, scale)


def active_scales(denoiser: Denoiser) -> dict[str, float]:
    """The active adapters and the scales they are active with."""
    scales: dict[str, float] = {}
    for layer in tuner_layers(denoiser):
        for name in layer.active_adapters:
            if name in layer.scaling and name not in scales:
                is_rslora = getattr(denoiser.peft_config[name], "use_rslora", False)
                rank = math.sqrt(layer.r[name]) if is_rslora else layer.r[name]
                scales[name] = layer.scaling[name] * rank / layer.lora_alpha[name]
    return scales


def check_fit(denoiser: Denoiser, component: str, weights: dict[str, Tensor]) -> None:
    """Refuse weights whose layers the denoiser lacks or has in another shape.

    Raises:
        ValueError: Naming the first layer that does not fit.
    """
    modules = dict(denoiser.named_modules())
    for key, value in weights.items():
        name, _, side = key.removeprefix(f"{component}.").removesuffix(".weight").rpartition(".")
        module = modules.get(name)
        module = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        if not isinstance(module, nn.Linear | nn.Conv2d):
            raise ValueError(f"The erasure was trained on another architecture: this denoiser has no layer {name!r}.")
        one = (1,) * (module.weight.dim() - 2)  # B's kernel
        fits = (
            value.shape[1:] == module.weight.shape[1:]
            if side == "lora_A"
            else (value.shape[:1] == module.weight.shape[:1] and value.shape[2:] == one)
        )
        if not fits:
            raise ValueError(
                f"The erasure was trained on another architecture: layer {name!r} has weights of shape "
                f"{tuple(module.weight.shape)}, and the erasure's {side} has {tuple(value.shape)}."
            )


def remove(denoiser: Denoiser, name: str) -> None:
    """Take an adapter off; the others stay as they are.

    Raises:
        ValueError: If there is no adapter of that name.
    """
    if name not in adapter_names(denoiser):
        there = ", ".join(adapter_names(denoiser)) or "none"
        raise ValueError(f"No adapter {name!r} on this pipeline; adapters there: {there}.")
    _delete(denoiser, name, UserState(denoiser))


def _delete(denoiser: Denoiser, name: str, user: UserState) -> None:
    if name in adapter_names(denoiser):
        with _quiet():
            denoiser.delete_adapters(name)
    if not adapter_names(denoiser):
        denoiser.unload_lora()
    # PEFT leaves its wrapper on layers that no adapter is left on.
    for path, layer in list(denoiser.named_modules()):
        if isinstance(layer, LoraLayer) and not layer.lora_A:
            denoiser.set_submodule(path, layer.get_base_layer())
    user.restore(removing=name)
