"""Eq. 7, the first update's loss and the alignment, exactly."""

from __future__ import annotations

import pytest
import torch
from controls import must_fail
from pipelines import alignment
from tiny import tiny_pipeline

from diffusers_esd import ESDTrainer, Progress, esd_target


def test_eq_7_on_hand_made_tensors() -> None:
    e_cond, e_null = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 2.0]])
    assert torch.equal(esd_target(e_cond, e_null, eta=1.0), torch.tensor([[-1.0, 3.0]]))
    assert torch.equal(esd_target(e_cond, e_null, eta=3.0), torch.tensor([[-5.0, 5.0]]))
    assert torch.equal(esd_target(e_cond, e_null, eta=0.0), e_null)


def test_erase_from_moves_the_origin() -> None:
    e_cond, e_null, e_from = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0]), torch.tensor([10.0, 10.0])
    assert torch.equal(esd_target(e_cond, e_null, 1.0, e_from), torch.tensor([8.0, 11.0]))
    # The authors' later code: no erase_from means e_from = e_cond, which is eta = negative_guidance - 1.
    assert torch.equal(esd_target(e_cond, e_null, 2.0, e_from=e_cond), esd_target(e_cond, e_null, 1.0))


def test_the_target_commutes_with_affine_maps_of_the_prediction() -> None:
    generator = torch.Generator().manual_seed(0)
    e_cond, e_null, x_t = torch.randn(3, 2, 4, 8, 8, generator=generator)

    def velocity(e: torch.Tensor) -> torch.Tensor:
        return 0.8 * e - 0.6 * x_t

    mapped = esd_target(velocity(e_cond), velocity(e_null), 2.0)
    torch.testing.assert_close(mapped, velocity(esd_target(e_cond, e_null, 2.0)))


@pytest.mark.parametrize("eta", [0.5, 1.0, 3.0])
def test_alignment_of_constructed_predictions(eta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    e_cond, e_null, e_from = torch.randn(3, 2, 4, 8, 8, generator=generator, dtype=torch.float64)
    assert alignment(e_cond, e_cond, e_null).item() == pytest.approx(1.0)
    assert alignment(e_null, e_cond, e_null).item() == pytest.approx(0.0)
    assert alignment(esd_target(e_cond, e_null, eta), e_cond, e_null).item() == pytest.approx(-eta, abs=1e-5)
    assert alignment(e_from, e_cond, e_null, e_from).item() == 0.0
    target = esd_target(e_cond, e_null, eta, e_from)
    assert alignment(target, e_cond, e_null, e_from).item() == pytest.approx(-eta, abs=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("eta", [0.5, 2.0])
def test_first_loss_is_the_closed_form(prediction_type: str, eta: float) -> None:
    """At the first update student and teacher agree: loss = (1 + eta)^2 MSE(e_cond, e_null)."""
    pipe = tiny_pipeline(prediction_type)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    losses: list[Progress] = []
    trainer = ESDTrainer(
        pipe, eta=eta, iterations=1, num_inference_steps=5, batch_size=2, trajectory="fresh", preserve=()
    )

    def note(module: torch.nn.Module, inputs: object, output: tuple[torch.Tensor]) -> None:
        if len(output[0]) == 4 and not torch.is_grad_enabled():  # the teacher: empty prompt, then concept
            seen.append(tuple(output[0].chunk(2)))  # type: ignore[arg-type]

    hook = pipe.unet.register_forward_hook(note)
    trainer.erase("a cat", callback=losses.append)
    hook.remove()
    ((e_null, e_cond),) = seen
    distance = torch.nn.functional.mse_loss(e_cond, e_null).item()
    with must_fail("the concept does differ from the empty prompt"):
        assert distance < 1e-6
    assert losses[0].loss == pytest.approx((1 + eta) ** 2 * distance, rel=1e-4)
    assert losses[0].alignment == pytest.approx(1.0, abs=1e-4)
