"""What a training changes around it while it runs: PyTorch's settings, offloading, other adapters."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType

import torch

from ..denoiser import Denoiser, Snapshot, check_denoiser, check_present, has_hooks, switched_off
from ..families import Family
from ..modes import Modes
from ..pictures.draw import without_bars
from .memory import without_group_offloading


@contextmanager
def own_settings(device: torch.device) -> Iterator[None]:
    """Without the caller's autocast, `no_grad`, `inference_mode` and default device.

    Autocast caches its cast of the weights for as long as it is active, so a student inside it would stay as it was in
    the first iteration.
    """
    with ExitStack() as stack:
        for kind in {device.type, "cpu"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def silent(family: Family, *, enabled: bool) -> Iterator[None]:
    """Without warnings and progress bars: one process of several shows them.

    Args:
        family: The family.
        enabled: `False` leaves them.
    """
    if not enabled:
        yield
        return
    with without_bars(family.pipe), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def trainable(family: Family, beside: Collection[str]) -> Iterator[None]:
    """The denoiser as a training needs it, and afterwards as it was.

    Args:
        family: The family.
        beside: Names of adapters that are switched off inside.
    """
    with ExitStack() as stack:
        # The pipeline's offloaded models are offloaded again, as after one of its own calls.
        stack.callback(family.pipe.maybe_free_model_hooks)
        stack.enter_context(own_settings(family.device))
        stack.enter_context(without_group_offloading(family.denoiser))
        stack.enter_context(switched_off(family.denoiser, beside))
        yield


class Guard:
    """A context for code of others between two iterations, such as a callback's: the training goes on as without it.

    Afterwards the denoiser is in the same mode as before, the same adapters are active with the same scales, the same
    parameters train, and gradients are where CUDA graphs add to them. What cannot be restored is an error. PyTorch's
    own settings are not restored here: iterations run in `own_settings`. Random numbers have their own generators.

    Args:
        denoiser: The denoiser, as it is while it trains.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser, self._adapters, self._modes = denoiser, Snapshot(denoiser), Modes(denoiser)
        self._parameters, self._is_movable = list(denoiser.parameters()), has_hooks(denoiser)
        self._gradients = [(p, p.grad) for p in self._parameters if p.grad is not None]
        self._before: list[tuple[int, int]] = []

    def __enter__(self) -> None:
        self._before = self._weights()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._modes.restore()
        for parameter, gradient in self._gradients:
            if parameter.grad is not gradient:
                parameter.grad = gradient
        try:
            if not self._adapters.is_current():
                check_present(self._denoiser, self._adapters.names)
                self._adapters.restore()
                check_denoiser(self._denoiser)
        except ValueError as refused:
            raise DisturbedError(f"The callback has changed the pipeline. {refused}") from refused
        if self._weights() != self._before:
            raise DisturbedError(
                "The callback has changed or moved the weights of the denoiser. `progress.erasure()` returns a copy of "
                "those that train."
            ) from error

    def _weights(self) -> list[tuple[int, int]]:
        """How often each tensor was changed in place, as PyTorch counts it, and where it is: graphs read it there."""
        return [(p._version, 0 if self._is_movable else p.data_ptr()) for p in self._parameters]


class DisturbedError(RuntimeError):
    """Code of others has changed what a training depends on, and it cannot be restored."""
