"""The optimiser's part of a training: the learning rate's schedule, clipping, and how it runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from controls import must_fail
from tiny import style_adapter, tiny_pipeline

from diffusers_esd import ESDConfig, ESDTrainer, RunConfig

QUICK: dict[str, Any] = {"num_inference_steps": 5, "iterations": 8, "rank": 2, "preserve": (), "group": "esd-x-strict"}


def norms(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, **options: Any) -> list[float]:
    """Norm of the gradient at each update."""
    found: list[float] = []
    step = torch.optim.Adam.step

    def note(optimizer: torch.optim.Adam, *arguments: Any, **named: Any) -> Any:
        gradients = [p.grad.flatten() for group in optimizer.param_groups for p in group["params"]]
        found.append(torch.cat(gradients).norm().item())
        return step(optimizer, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", note)
        ESDTrainer(tiny_pipeline().to(dtype), **QUICK, **options).erase("a cat")
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_long_gradients_are_shortened_to_the_norm_asked_for(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = norms(monkeypatch, torch.float32)
    bound = min(free) / 2
    clipped = norms(monkeypatch, dtype, max_grad_norm=bound)
    assert clipped == pytest.approx([bound] * len(clipped), rel=1e-2), "unscaled first, where the loss was scaled"
    with must_fail("they would be longer"):
        assert free == pytest.approx([bound] * len(free), rel=1e-2)
    short = norms(monkeypatch, torch.float32, max_grad_norm=1e6)
    assert short == pytest.approx(free)


def test_a_run_is_given_flat_or_as_a_value_and_is_not_in_the_result() -> None:
    flat = ESDTrainer(tiny_pipeline(), gradient_checkpointing=True, eta=2.0)
    assert flat.run == RunConfig(gradient_checkpointing=True)
    assert flat.config == ESDConfig(eta=2.0)
    value = ESDTrainer(tiny_pipeline(), run=RunConfig(offload=True), gradient_checkpointing=True)
    assert value.run == RunConfig(offload=True, gradient_checkpointing=True)
    with pytest.raises(TypeError, match=r"^`offload` must be True or False, got 1.$"):
        ESDTrainer(tiny_pipeline(), offload=1)
    plain = ESDTrainer(tiny_pipeline(), **QUICK).erase("a cat")
    erasure = ESDTrainer(tiny_pipeline(), **QUICK, offload=True, gradient_checkpointing=True).erase("a cat")
    assert erasure.config == plain.config
    for key, weight in plain.weights.items():
        torch.testing.assert_close(erasure.weights[key], weight, rtol=1e-3, atol=1e-5)


def test_a_cell_that_runs_twice_replaces_its_adapter() -> None:
    pipe = tiny_pipeline()
    style_adapter(pipe)
    trainer = ESDTrainer(pipe, **QUICK)
    first = trainer.erase("a cat")
    with pytest.raises(ValueError, match=r"^The adapter name 'no-a-cat' is in use on this pipeline"):
        trainer.erase("a cat")
    assert trainer.erase("a cat", overwrite=True, dry_run=True).name == "no-a-cat"
    assert list(pipe.unet.peft_config) == ["style", "no-a-cat"], "a dry run removes nothing"
    again = trainer.erase("a cat", overwrite=True, beside=["no-a-cat"])
    assert list(pipe.unet.peft_config) == pipe.get_active_adapters() == ["style", "no-a-cat"]
    assert all(torch.equal(weight, again.weights[key]) for key, weight in first.weights.items())
    assert again.provenance.beside == ()
    with must_fail("beside the first one, another is trained"):
        on_top = trainer.erase("a cat", name="other", overwrite=True)
        assert all(torch.equal(weight, on_top.weights[key]) for key, weight in first.weights.items())
