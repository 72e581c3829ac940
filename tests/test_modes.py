"""Modes of a model are restored, whatever happened to them."""

from __future__ import annotations

import pytest
from torch import nn

from diffusers_esd.modes import Modes, evaluation


def model() -> nn.Sequential:
    """Two layers in training mode and one that is not."""
    layers = nn.Sequential(nn.Linear(1, 1), nn.Dropout(), nn.Linear(1, 1))
    layers[2].eval()
    return layers


def test_modes_are_restored_one_by_one() -> None:
    layers = model()
    modes = Modes(layers)
    layers.eval()
    layers[2].train()
    modes.restore()
    assert [module.training for module in layers.modules()] == [True, True, True, False]


def test_evaluation_ends_after_an_error() -> None:
    layers = model()
    with evaluation(layers):
        assert not any(module.training for module in layers.modules())
    with pytest.raises(ZeroDivisionError), evaluation(layers):
        raise ZeroDivisionError
    assert [module.training for module in layers.modules()] == [True, True, True, False]
