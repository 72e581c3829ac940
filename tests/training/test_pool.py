"""The trajectory pool: its prompts, its timesteps, its states, its cost."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from controls import must_fail
from tiny import not_captured, tiny_pipeline

from diffusers_esd import ESDTrainer
from diffusers_esd.adapter import Adapter
from diffusers_esd.denoiser import base_layers
from diffusers_esd.families import StableDiffusion
from diffusers_esd.groups import select
from diffusers_esd.streams import stream
from diffusers_esd.training.encoding import Encoded
from diffusers_esd.training.networks import Networks
from diffusers_esd.training.pool import TrajectoryPool
from diffusers_esd.training.trajectory import FreshTrajectory, States

STEPS = 10
OTHERS = ("rocket", "bus", "car", "train", "bicycle", "sailboat", "house", "church", "lamp", "clock", "key", "crown")
WORDS = ("cat", "dog", "frog", "panda", "pig", "rabbit", "owl", "penguin", "turtle", "fish", "pizza", "banana")


class Quick(StableDiffusion):
    """Predicts nothing, quickly: for what is asked of the pool's order alone."""

    def predict(self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Any, guidance_scale: float) -> torch.Tensor:
        return 0.1 * x_t


def pool_of(
    prompts: Sequence[str],
    states: int,
    *,
    batch_size: int = 1,
    steps: int = STEPS,
    at_a_time: int | None = None,
    kind: type[StableDiffusion] = Quick,
) -> TrajectoryPool:
    """A pool by itself."""
    family = kind(tiny_pipeline())
    encoded = Encoded(family)
    encoded.add(["", *prompts])
    modules = [module for module, _ in family.denoiser.named_modules()]
    selection = select(base_layers(family.denoiser), modules, "esd-x-strict")
    adapter = Adapter(family.denoiser, "ours", selection, rank=2, lora_alpha=2, seed=0)
    options: dict[str, Any] = {"purpose": "erase", "seed": 0, "rollout": "student"}
    networks = Networks(family.schedule(steps, (4, 8, 8), 3.0), adapter, encoded, not_captured())
    return TrajectoryPool(networks, prompts, batch_size=batch_size, states=states, at_a_time=at_a_time, **options)


def drawn(pool: TrajectoryPool, iterations: int) -> list[States]:
    """The states of so many iterations."""
    found = []
    for _ in range(iterations):
        states = pool.draw()
        pool.advance(states, 0.1 * states.x_t, 0.1 * states.x_t)
        found.append(states)
    return found


def visits(states: list[States]) -> dict[str, Counter[int]]:
    """How often each prompt was drawn at each position."""
    found: dict[str, Counter[int]] = defaultdict(Counter)
    for batch in states:
        for prompt, position in zip(batch.prompts, batch.position.tolist(), strict=True):
            found[prompt][position] += 1
    return found


def some_prompts(n: int) -> list[str]:
    return [f"a {word} in {style} style" for style in WORDS for word in WORDS][:n]


@pytest.mark.parametrize(
    ("n", "iterations", "batch_size", "steps"),
    [(12, 240, 1, 50), (50, 1000, 1, 50), (3, 60, 4, 10), (12, 60, 4, 25), (100, 1000, 1, 20)],
)
def test_every_concept_is_trained_equally_and_over_the_whole_schedule(
    n: int, iterations: int, batch_size: int, steps: int
) -> None:
    concepts = some_prompts(n)
    pool = pool_of(concepts, iterations * batch_size, batch_size=batch_size, steps=steps)
    found = visits(drawn(pool, iterations))
    counts = [sum(found[concept].values()) for concept in concepts]
    assert max(counts) <= 1.2 * min(counts)
    assert sum(counts) == iterations * batch_size
    for concept in concepts:
        assert {position * 4 // steps for position in found[concept]} == {0, 1, 2, 3}, concept
    assert len(pool.members) >= max(4 * batch_size, min(n, 64))
    if n > 1:
        first = {member.prompt for member in list(pool.members.values())[:n]}
        assert first == set(concepts), "each has a member from the start"


def test_without_a_stride_a_concept_would_not_cross_the_schedule() -> None:
    """The control of the test above."""
    pool = pool_of(some_prompts(12), 10**9, steps=50)
    assert pool.stride == 1
    found = visits(drawn(pool, 120))
    with must_fail("ten steps of fifty are not the schedule"):
        assert all({p * 4 // 50 for p in positions} == {0, 1, 2, 3} for positions in found.values())


def test_concepts_and_timesteps_are_not_tied() -> None:
    """Of each concept every position is seen about as often as any other."""
    pool = pool_of(some_prompts(6), 6 * 400)
    for positions in visits(drawn(pool, 6 * 400)).values():
        assert all(30 <= positions[p] <= 50 for p in range(STEPS)), positions


@pytest.mark.parametrize(("n", "states"), [(256, 1280), (100, 600), (20, 400)])
def test_every_preserved_prompt_gets_its_turn(n: int, states: int) -> None:
    prompts = [f"a {word} in {style} style" for word in (*WORDS, *OTHERS) for style in WORDS][:n]
    pool = pool_of(prompts, states, batch_size=4, steps=25, at_a_time=64)
    assert len(pool.members) == max(16, min(n, 64))
    assert set(visits(drawn(pool, states // 4))) == set(prompts)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(("prompts", "steps", "stride"), [(2, 10, 1), (12, 40, 4)])
def test_timesteps_are_uniform_over_positions(batch_size: int, prompts: int, steps: int, stride: int) -> None:
    iterations = 3600 // batch_size
    pool = pool_of(some_prompts(prompts), 120 if stride > 1 else 3600, batch_size=batch_size, steps=steps)
    assert pool.stride == stride
    states = drawn(pool, iterations)
    counts = Counter(position for s in states for position in s.position.tolist())
    expected = 3600 / steps
    assert all(abs(counts[p] - expected) < 0.3 * expected for p in range(steps)), counts
    early = {p * 8 // steps for s in states[: len(pool.members) // batch_size] for p in s.position.tolist()}
    assert len(early) >= min(8, len(pool.members)) - 1, "the first round sees every part of the schedule"


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_batch_holds_no_trajectory_twice_and_rounds_are_shuffled(batch_size: int) -> None:
    pool = pool_of(some_prompts(2), 100, batch_size=batch_size)
    states = drawn(pool, 40)
    assert all(len(set(s.members)) == batch_size for s in states)
    n = len(pool.members)
    members = [i for s in states for i in s.members]
    rounds = [members[i : i + n] for i in range(0, len(members) - n + 1, n)]
    assert all(sorted(r) == list(range(n)) for r in rounds)
    with must_fail("rounds differ"):
        assert len({tuple(r) for r in rounds}) == 1


def test_a_first_position_takes_five_steps_at_most() -> None:
    pool = pool_of(some_prompts(64), 64 * 50, steps=50)
    members = pool.members.values()
    assert sorted(member.position for member in members)[-1] > 45
    steps = sum(min(5, member.position) for member in members)
    assert pool.networks.evaluations == {"no_grad": 2 * steps, "grad": 0}


def test_too_few_iterations_for_so_many_concepts_are_named() -> None:
    options: dict[str, Any] = {"num_inference_steps": 4, "rank": 2, "preserve": (), "group": "esd-x-strict"}
    with pytest.warns(
        UserWarning, match=r"5 iterations of 2 visit each of 3 concepts 3.3 times.*iterations=15 or more"
    ):
        ESDTrainer(tiny_pipeline(), iterations=5, batch_size=2, **options).erase(["a cat", "a dog", "a pig"])


@pytest.mark.parametrize(("concepts", "stride"), [(2, 1), (6, 2)])
@torch.no_grad()
def test_without_training_states_are_denoised_from_their_noise(concepts: int, stride: int) -> None:
    """Against a naive walk over a member's own positions, with the pipeline's alphas."""
    paths: dict[int, list[tuple[int, torch.Tensor]]] = defaultdict(list)
    prompts = some_prompts(concepts)
    pool = pool_of(prompts, 20, kind=StableDiffusion)
    assert pool.stride == stride
    for member in pool.members.values():
        n = min(5, math.ceil(member.position / stride))
        paths[member.index] = [round(member.position * k / n) for k in range(n + 1)] if n else [0]
    for _ in range(4 * len(pool.members)):
        states = pool.draw()
        (member,) = (pool.members[i] for i in states.members)
        (e_null,) = pool.networks.teacher(states.x_t, states.position, [""])
        e = pool.networks.student(states.x_t, states.position, states.prompts)
        lap = member.lap
        pool.advance(states, e, e_null)
        paths[member.index] = [*paths[member.index], member.position] if lap == member.lap else [0, member.position]
    pipe = tiny_pipeline()
    pipe.scheduler.set_timesteps(STEPS)
    timesteps, alphas = pipe.scheduler.timesteps, pipe.scheduler.alphas_cumprod
    for member in pool.members.values():
        null, cond = (pipe.encode_prompt(p, "cpu", 1, False)[0] for p in ("", member.prompt))
        noise = torch.randn((1, 4, 8, 8), generator=stream(0, "erase", member.index, member.lap))
        path, expected = sorted(set(paths[member.index])), noise
        for here, there in pairwise(path):
            t, a, a_next = timesteps[here], alphas[timesteps[here]], alphas[timesteps[there]]
            e_null, e_cond = pipe.unet(expected, t, null).sample, pipe.unet(expected, t, cond).sample
            e = e_null + 3.0 * (e_cond - e_null)
            expected = a_next.sqrt() * (expected - (1 - a).sqrt() * e) / a.sqrt() + (1 - a_next).sqrt() * e
        torch.testing.assert_close(member.x_t, expected, rtol=1e-3, atol=1e-3)
    assert any(member.lap for member in pool.members.values()), "some have started anew"
    with must_fail("states do move"):
        torch.testing.assert_close(member.x_t, noise)


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


def test_a_prompt_that_rests_is_not_drawn_and_the_others_have_members_enough() -> None:
    pool = pool_of(some_prompts(5), 1000, batch_size=3)
    drawn(pool, 20)
    for prompt in some_prompts(4):
        pool.rest(prompt)
        states = drawn(pool, 10)
        assert not pool.resting & {p for s in states for p in s.prompts}
        assert all(len(set(s.members)) == 3 for s in states)
        assert set(pool.draw_resting().prompts) <= pool.resting
    assert pool.has_work()
    pool.wake(some_prompts(1)[0])
    counts = Counter(prompt for s in drawn(pool, 60) for prompt in s.prompts)
    shares = {p: counts[p] / sum(m.prompt == p for m in pool.members.values()) for p in counts}
    assert max(shares.values()) <= 1.2 * min(shares.values()), "after its rest its members are drawn like the others"
    for prompt in some_prompts(5):
        pool.rest(prompt)
    assert not pool.has_work()


@pytest.mark.parametrize("resting", [1, 3])
def test_fresh_states_come_equally_often_too_while_others_rest(resting: int) -> None:
    pool = pool_of(some_prompts(6), 100)
    options: dict[str, Any] = {"purpose": "erase", "seed": 0, "rollout": "student", "batch_size": 1}
    fresh = FreshTrajectory(pool.networks, some_prompts(6), states=100, **options)
    for prompt in some_prompts(resting):
        fresh.rest(prompt)
    counts: Counter[str] = Counter()
    looks: Counter[str] = Counter()
    for iteration in range(60):
        counts.update(fresh.draw().prompts)
        if iteration % 4 == 0:
            looks.update(fresh.draw_resting().prompts)
    assert set(counts) == set(some_prompts(6)[resting:])
    assert max(counts.values()) <= min(counts.values()) + 1
    assert set(looks) == set(some_prompts(resting))
    fresh.wake(some_prompts(1)[0])
    again = Counter(prompt for _ in range(60) for prompt in fresh.draw().prompts)
    assert max(again.values()) <= min(again.values()) + 1
