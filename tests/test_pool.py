"""The trajectory pool: its timesteps, its states, its cost."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from tiny import tiny_pipeline

from diffusers_esd import ESDTrainer
from diffusers_esd.trajectory import States, TrajectoryPool

STEPS = 10


def drawn(monkeypatch: pytest.MonkeyPatch, **options: object) -> tuple[list[States], list[TrajectoryPool]]:
    """The states of a training and the pools it made, seen at their public method."""
    states: list[States] = []
    pools: list[TrajectoryPool] = []
    draw = TrajectoryPool.draw

    def note(pool: TrajectoryPool) -> States:
        if pool not in pools:
            pools.append(pool)
        states.append(draw(pool))
        return states[-1]

    monkeypatch.setattr(TrajectoryPool, "draw", note)
    ESDTrainer(tiny_pipeline(), num_inference_steps=STEPS, rank=2, preserve=(), **options).erase(["a cat", "a dog"])  # type: ignore[arg-type]
    return states, pools


@pytest.mark.parametrize("batch_size", [1, 3])
def test_timesteps_are_uniform_over_positions(monkeypatch: pytest.MonkeyPatch, batch_size: int) -> None:
    states, _ = drawn(monkeypatch, iterations=240 // batch_size, batch_size=batch_size)
    counts = Counter(position for s in states for position in s.position.tolist())
    expected = 240 / STEPS
    chi_squared = sum((counts[p] - expected) ** 2 / expected for p in range(STEPS))
    assert chi_squared < 21.7, f"99 % bound for 9 degrees of freedom: {counts}"
    assert set(range(STEPS)) == set(counts)
    early = {p for s in states[: STEPS * 4 // batch_size] for p in s.position.tolist()}
    assert early == set(range(STEPS))


def test_a_batch_holds_no_trajectory_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    states, pools = drawn(monkeypatch, iterations=30, batch_size=3)
    assert all(len(set(s.members)) == 3 for s in states)
    assert Counter(i for s in states for i in s.members).keys() == set(range(len(pools[0].x_t)))


def test_each_trajectory_draws_a_concept(monkeypatch: pytest.MonkeyPatch) -> None:
    states, _ = drawn(monkeypatch, iterations=120, batch_size=3)
    share = Counter(prompt for s in states for prompt in s.prompts)
    assert set(share) == {"a cat", "a dog"}


@torch.no_grad()
def test_without_training_states_are_denoised_from_their_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    _, (pool,) = drawn(monkeypatch, iterations=25, batch_size=2, learning_rate=1e-30, guidance_scale=3.0)
    pipe = tiny_pipeline()
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(STEPS)
    assert len({noise.data_ptr() for noise in pool.noise}) > 1, "the control: some have started anew"
    for x_t, position, prompt, noise in zip(pool.x_t, pool.position, pool.prompts, pool.noise, strict=True):
        null, cond = (pipe.encode_prompt(p, "cpu", 1, False)[0] for p in ("", prompt))
        expected = noise
        for t in scheduler.timesteps[:position]:
            e_null, e_cond = pipe.unet(expected, t, null).sample, pipe.unet(expected, t, cond).sample
            expected = scheduler.step(e_null + 3.0 * (e_cond - e_null), t, expected).prev_sample
        torch.testing.assert_close(x_t, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("batch_size", "preserve"), [(1, ()), (4, ()), (2, ("a dog",))])
def test_evaluations_are_two_without_and_one_with_gradient(batch_size: int, preserve: tuple[str, ...]) -> None:
    pipe, counted = tiny_pipeline(), {"no_grad": 0, "grad": 0}
    iterations = 8

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        counted["grad" if torch.is_grad_enabled() else "no_grad"] += len(inputs[0])

    pipe.unet.register_forward_pre_hook(count)
    erasure = ESDTrainer(
        pipe,
        num_inference_steps=STEPS,
        iterations=iterations,
        batch_size=batch_size,
        rank=2,
        preserve=preserve,
        null_space=False,
    ).erase("a cat")
    pools = 2 if preserve else 1
    samples = iterations * batch_size * pools
    assert counted["grad"] == samples
    assert 2 * samples <= counted["no_grad"] <= 2 * samples + pools * 2 * STEPS
    assert erasure.provenance.evaluations == counted


def test_the_loss_falls_and_the_alignment_with_it() -> None:
    erasure = ESDTrainer(
        tiny_pipeline(),
        num_inference_steps=STEPS,
        iterations=150,
        batch_size=4,
        rank=4,
        learning_rate=5e-3,
        preserve=(),
    ).erase("a cat")
    losses, aligned = zip(*erasure.provenance.history, strict=True)
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])
    assert aligned[0] == pytest.approx(1.0, abs=1e-3)
    assert sum(aligned[-20:]) / 20 < 0


def test_training_is_reproducible_and_the_seed_matters() -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        trainer = ESDTrainer(tiny_pipeline(), num_inference_steps=5, iterations=3, rank=2, seed=seed, preserve=())
        return dict(trainer.erase("a cat").weights)

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_training_stops_at_the_alignment_asked_for() -> None:
    options = {
        "num_inference_steps": 5,
        "iterations": 400,
        "batch_size": 4,
        "rank": 4,
        "learning_rate": 5e-3,
        "preserve": (),
    }
    erasure = ESDTrainer(tiny_pipeline(), stop_at_alignment=0.5, **options).erase("a cat")  # type: ignore[arg-type]
    assert erasure.provenance.alignment <= 0.5
    assert 20 <= erasure.provenance.iterations < 400
