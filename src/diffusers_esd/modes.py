"""`Modes`: which modules of a model are in training mode, and how that is restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class Modes:
    """The modes of all modules of a model at one moment."""

    def __init__(self, model: nn.Module) -> None:
        self._modes = [(module, module.training) for module in model.modules()]

    def restore(self) -> None:
        """Restore them. Modules that were added since are left as they are."""
        for module, mode in self._modes:
            if module.training != mode:  # to read it is cheaper than to set it
                module.training = mode


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """A model in evaluation mode, so that no dropout is active."""
    modes = Modes(model)
    model.eval()
    try:
        yield
    finally:
        modes.restore()
