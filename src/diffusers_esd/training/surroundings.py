"""What a training changes around it while it runs: PyTorch's settings, offloading, other adapters."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager

import torch

from ..denoiser import switched_off
from ..families import Family
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
    before = getattr(family.pipe, "_progress_bar_config", {})
    family.pipe.set_progress_bar_config(**{**before, "disable": True})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        family.pipe.set_progress_bar_config(**before)


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
