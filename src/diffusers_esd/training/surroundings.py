"""The caller's PyTorch settings: a training does not depend on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


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
