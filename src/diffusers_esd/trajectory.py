"""Where the training states `x_t` come from.

The paper denoises from fresh noise to a random timestep for every state (`FreshTrajectory`): about 50 network
evaluations to obtain one state, then three to train on it. But a denoising step at `x_t` needs exactly what the
loss at `x_t` needs: the teacher's conditional and unconditional predictions and the student's conditional one.
`TrajectoryPool` therefore keeps several trajectories under way, at different timesteps. An iteration takes a batch
of them, and the predictions of its loss also move them on; a trajectory that has ended starts again from fresh noise.
States cost nothing, and every timestep comes equally often.

Every prompt gets its turn. Where the states of a training are fewer than prompts times timesteps, a member of the pool
goes several positions at a time, so that each prompt still crosses the whole schedule.

Both are guided by the family, usually as `e_null + guidance_scale * (e_rollout - e_null)`, with the teacher's `e_null`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .config import Rollout
from .networks import Networks
from .streams import noise, permutation, stream

JUMPS = 5
"""Exact steps at most in which a member reaches its first position, and at least in which it crosses the schedule."""

_PER_STATE = 4  # members of a pool for each state of a batch


@dataclass(frozen=True)
class States:
    """A batch of training states.

    Attributes:
        x_t: Noisy latents, (B, C, H, W), in the denoiser's type.
        position: Where in the schedule each stands, (B,), 0 for pure noise.
        prompts: The prompt each is conditioned on.
        members: Index of each trajectory in its pool.
    """

    x_t: Tensor
    position: Tensor
    prompts: tuple[str, ...]
    members: tuple[int, ...] = ()


class Trajectory(Protocol):
    """A source of training states."""

    resting: set[str]
    """Prompts that are not drawn."""

    def draw(self) -> States:
        """A batch to train on."""

    def rest(self, prompt: str) -> None:
        """Draw a prompt no more."""

    def wake(self, prompt: str) -> None:
        """Draw a resting prompt again."""

    def draw_resting(self) -> States:
        """A batch of resting prompts, to see whether they stay as they are."""

    def has_work(self) -> bool:
        """Whether a prompt is left that does not rest."""

    def advance(self, states: States, e_rollout: Tensor, e_null: Tensor) -> None:
        """Take notice of the predictions made at `states`, each (B, C, H, W)."""


class _Sampler:
    """What both sources share.

    Args:
        networks: Teacher and student.
        prompts: What trajectories are conditioned on.
        purpose: Name of the random streams.
        seed: Seed of the random streams.
        shape: Of one latent.
        batch_size: States in a batch.
        rollout: Whose prediction moves a trajectory.
        states: How many will be drawn in all, about.
        at_a_time: How many prompts have trajectories at a time; `None` means all.
    """

    def __init__(
        self,
        networks: Networks,
        prompts: Sequence[str],
        *,
        purpose: str,
        seed: int,
        shape: tuple[int, ...],
        batch_size: int,
        rollout: Rollout,
        states: int,
        at_a_time: int | None = None,
    ) -> None:
        self._networks = networks
        self._purpose, self._seed = purpose, seed
        self._prompts = [prompts[i] for i in permutation(len(prompts), self._stream("order"))]
        self._shape = shape
        self._batch_size = batch_size
        self._rollout = rollout
        self._steps = len(networks.family.timesteps)
        self.resting: set[str] = set()
        self._begin(states, at_a_time)

    def _begin(self, states: int, at_a_time: int | None) -> None:
        """Prepare what `draw` needs; the constructor's last act."""

    def rest(self, prompt: str) -> None:
        """Draw a prompt no more, because it needs no more training."""
        self.resting.add(prompt)

    def wake(self, prompt: str) -> None:
        """Draw a resting prompt again."""
        self.resting.remove(prompt)

    def has_work(self) -> bool:
        """Whether a prompt is left that does not rest."""
        return len(self.resting) < len(set(self._prompts))

    def _stream(self, *keys: int | str) -> torch.Generator:
        return stream(self._seed, self._purpose, *keys)

    def _noise(self, generator: torch.Generator) -> Tensor:
        """One first state, (1, C, H, W)."""
        family = self._networks.family
        return noise((1, *self._shape), generator).to(family.device, family.dtype)

    def _next(self, x_t: Tensor, position: Tensor, towards: Tensor, e_rollout: Tensor, e_null: Tensor) -> Tensor:
        family = self._networks.family
        return family.step(family.guide(e_null, e_rollout), x_t, position, towards)

    @torch.no_grad()
    def _denoise(self, x_t: Tensor, position: Tensor, towards: Tensor, prompts: Sequence[str]) -> Tensor:
        """The states (B, C, H, W) at later positions (B,), at the cost of two evaluations each."""
        nothing = [""] * len(prompts)
        if self._rollout == "teacher":
            e_null, e_rollout = self._networks.teacher(x_t, position, nothing, prompts)
        else:
            (e_null,) = self._networks.teacher(x_t, position, nothing)
            e_rollout = self._networks.student(x_t, position, prompts)
        return self._next(x_t, position, towards, e_rollout, e_null)


class FreshTrajectory(_Sampler):
    """A state is denoised from fresh noise by a uniform number of steps: the paper to the letter.

    Prompts are taken in turn.
    """

    def _begin(self, states: int, at_a_time: int | None) -> None:
        self._drawn = 0

    def draw(self) -> States:
        """`batch_size` states: a position and a prompt each, then noise denoised to that position."""
        return self._draw([prompt for prompt in self._prompts if prompt not in self.resting])

    def draw_resting(self) -> States:
        """The same of the resting prompts."""
        return self._draw([prompt for prompt in self._prompts if prompt in self.resting])

    def _draw(self, prompts: Sequence[str]) -> States:
        found: list[tuple[Tensor, int, str]] = []
        for _ in range(self._batch_size):
            generator = self._stream(self._drawn)
            prompt = prompts[self._drawn % len(prompts)]
            end = _integer(self._steps, generator)
            x_t = self._noise(generator)
            for position in range(end):
                x_t = self._denoise(x_t, _at(position), _at(position + 1), [prompt])
            found.append((x_t, end, prompt))
            self._drawn += 1
        states, positions, drawn = zip(*found, strict=True)
        return States(torch.cat(states), _at(*positions), drawn)

    def advance(self, states: States, e_rollout: Tensor, e_null: Tensor) -> None:
        """Nothing: the next state starts anew."""


@dataclass
class Member:
    """A trajectory of a pool.

    Attributes:
        index: Its number, which with `lap` is the key of its noise.
        prompt: What it is conditioned on.
        x_t: Its state, (1, C, H, W).
        position: Where that stands.
        noise: The state it has started from.
        lap: How many trajectories it was before.
        visits: How often it was drawn.
    """

    index: int
    prompt: str
    x_t: Tensor
    noise: Tensor
    position: int = 0
    lap: int = 0
    visits: int = 0


class TrajectoryPool(_Sampler):
    """States are those of trajectories under way; the predictions of the loss move them on.

    A pool has four members per state of a batch, and at least one for each prompt, or for 64 of more that take turns.
    Where all prompts have members they have equally many, and these keep their prompt for good. Members are drawn in
    shuffled rounds, so that prompts come equally often and neighbouring batches are of different trajectories.

    A member starts at a position of its own, which it reaches from noise in at most five larger steps: the first
    iterations already see every part of the schedule, under every prompt.

    Attributes:
        members: The trajectories by their index.
        stride: Positions that a member goes at a time.
    """

    def _begin(self, states: int, at_a_time: int | None) -> None:
        n = len(self._prompts)
        self._size = max(_PER_STATE * self._batch_size, min(n, at_a_time or n))
        if n <= self._size:
            self._size = n * math.ceil(self._size / n)
        self.stride = max(1, min(math.ceil(self._steps / JUMPS), math.ceil(n * self._steps / states)))
        self._shuffle = self._stream("turns")
        self.members: dict[int, Member] = {}
        self._add(range(self._size))

    def _add(self, indices: Sequence[int]) -> None:
        """New members, at positions that share the schedule among them."""
        offset = torch.rand((), generator=self._stream("offset", indices[0]), device="cpu").item()
        visits = min((member.visits for member in self._active()), default=0)
        added = []
        for i, index in enumerate(indices):
            position = int((i + offset) * self._steps / len(indices)) % self._steps
            first = self._noise(self._stream(index, 0))
            added.append(Member(index, self._prompts[index % len(self._prompts)], first, first, position, 0, visits))
        self.members |= {member.index: member for member in added}
        self._reach(added)

    def _active(self) -> list[Member]:
        return [member for member in self.members.values() if member.prompt not in self.resting]

    def rest(self, prompt: str) -> None:
        """Draw a prompt no more; those that are left get members more where these have become few."""
        super().rest(prompt)
        active = [i for i, other in enumerate(self._prompts) if other not in self.resting]
        missing = _PER_STATE * self._batch_size - len(self._active())
        if active and missing > 0:
            first = max(self.members) // len(self._prompts) + 1
            indices = [(first + i // len(active)) * len(self._prompts) + active[i % len(active)] for i in range(missing)]
            self._add(indices)

    def wake(self, prompt: str) -> None:
        """Draw a resting prompt again, as often as the others."""
        visits = min((member.visits for member in self._active()), default=0)
        super().wake(prompt)
        for member in self.members.values():
            if member.prompt == prompt:
                member.visits = visits

    def _reach(self, members: Sequence[Member]) -> None:
        """Bring members that have just started from noise to their positions."""
        for jump in range(JUMPS):
            moving = []
            for member in members:
                n = min(JUMPS, math.ceil(member.position / self.stride))
                if jump < n:
                    path = [round(member.position * k / n) for k in (jump, jump + 1)]
                    moving.append((member, *path))
            for start in range(0, len(moving), self._batch_size):
                some, positions, towards = zip(*moving[start : start + self._batch_size], strict=True)
                x_t, prompts = torch.cat([member.x_t for member in some]), [member.prompt for member in some]
                reached = self._denoise(x_t, _at(*positions), _at(*towards), prompts)
                for member, state in zip(some, reached.split(1), strict=True):
                    member.x_t = state

    def draw(self) -> States:
        """The next `batch_size` members, at the states where they stand."""
        return self._draw(self._active())

    def draw_resting(self) -> States:
        """The next members of resting prompts."""
        return self._draw([member for member in self.members.values() if member.prompt in self.resting])

    def _draw(self, members: Sequence[Member]) -> States:
        # Those with the fewest visits come first: a batch never holds a member twice, and no member waits a round.
        order = permutation(len(members), self._shuffle)
        turns = sorted(order, key=lambda i: members[i].visits)[: self._batch_size]
        chosen = [members[i] for i in turns]
        for member in chosen:
            member.visits += 1
        return States(
            torch.cat([member.x_t for member in chosen]),
            _at(*(member.position for member in chosen)),
            tuple(member.prompt for member in chosen),
            tuple(member.index for member in chosen),
        )

    @torch.no_grad()
    def advance(self, states: States, e_rollout: Tensor, e_null: Tensor) -> None:
        """Move the members of `states` on; those that end start again from fresh noise."""
        members = [self.members[i] for i in states.members]
        towards = [min(member.position + self.stride, self._steps) for member in members]
        reached = self._next(states.x_t, states.position, _at(*towards), e_rollout, e_null)
        ended = []
        for member, position, x_t in zip(members, towards, reached.split(1), strict=True):
            member.position, member.x_t = position, x_t
            if position == self._steps:
                self._restart(member)
                ended.append(member)
        self._reach(ended)

    def _restart(self, member: Member) -> None:
        member.lap += 1
        generator = self._stream(member.index, member.lap)
        member.prompt = self._prompts[(member.index + member.lap * self._size) % len(self._prompts)]
        member.x_t = member.noise = self._noise(generator)
        # So that with a stride, too, every position comes equally often.
        member.position = _integer(self.stride, generator)


def _integer(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(high, (), generator=generator, device="cpu"))


def _at(*positions: int) -> Tensor:
    return torch.tensor(positions, device="cpu")
