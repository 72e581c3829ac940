"""`TrajectoryPool`: training states at no extra cost.

A denoising step at `x_t` needs the same predictions as the loss at `x_t`. So a pool keeps several trajectories at
different timesteps; an iteration trains on a batch of them and moves them on with the same predictions. The argument
and the cost are in `docs/theory.md`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..streams import permutation
from .trajectory import Sampler, States, at, integer

JUMPS = 5
"""Largest number of steps to a member's first position, and smallest number in which it crosses the schedule."""

PRESERVED_AT_A_TIME = 64
"""Largest number of preserved prompts that have trajectories at a time."""

_PER_STATE = 4  # members for each state of a batch


@dataclass
class Member:
    """A trajectory of a pool.

    Attributes:
        index: Its number; index and `lap` are the key of its noise.
        prompt: Its prompt.
        x_t: Its state, (1, C, H, W).
        position: Where in the schedule the state stands.
        lap: Number of trajectories that it has finished.
        visits: How often it was drawn.
    """

    index: int
    prompt: str
    x_t: Tensor
    position: int = 0
    lap: int = 0
    visits: int = 0


class TrajectoryPool(Sampler):
    """Training states are the current states of the pool's trajectories, its members.

    A pool has four members per state of a batch, and at least one for each prompt, or for 64 prompts at a time if there
    are more. If all prompts have members they have equally many, and a member keeps its prompt. Members are drawn in
    shuffled rounds, so that prompts come equally often and successive batches are of different trajectories.

    Each member starts at a position of its own, which it reaches from noise in at most five larger steps: the first
    iterations already see every part of the schedule, under every prompt. If a training has fewer states than prompts
    times timesteps, a member moves several positions at a time, so that each prompt still crosses the whole schedule.

    Attributes:
        members: The trajectories by their index.
        stride: Positions that a member moves at a time.
    """

    def _set_up(self, states: int, at_a_time: int | None) -> None:
        self._size = pool_size(len(self._prompts), self._batch_size, at_a_time)
        self.stride = pool_stride(len(self._prompts), self._steps, states)
        self._shuffle = self._stream("turns")
        self.members: dict[int, Member] = {}

    def _begin(self) -> None:
        self._add(range(self._size))

    def state_dict(self) -> dict[str, Any]:
        """The members in their order, and the generator of the rounds."""
        members = [vars(member) for member in self.members.values()]
        return {**super().state_dict(), "members": members, "turns": self._shuffle.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        device = self._schedule.family.device
        members = [Member(**{**member, "x_t": member["x_t"].to(device)}) for member in state["members"]]
        self.members = {member.index: member for member in members}
        self._shuffle.set_state(state["turns"])

    def _add(self, indices: Sequence[int]) -> None:
        """Add members, at positions evenly spread over the schedule."""
        offset = torch.rand((), generator=self._stream("offset", indices[0]), device="cpu", dtype=torch.float32).item()
        visits = min((member.visits for member in self._active()), default=0)
        added = []
        for i, index in enumerate(indices):
            position = int((i + offset) * self._steps / len(indices)) % self._steps
            first = self._schedule.noise(self._stream(index, 0))
            added.append(Member(index, self._prompts[index % len(self._prompts)], first, position, 0, visits))
        self.members |= {member.index: member for member in added}
        self._reach(added)

    def _active(self) -> list[Member]:
        return [member for member in self.members.values() if member.prompt not in self.resting]

    def rest(self, prompt: str) -> None:
        """Stop drawing a prompt; the others get more members if there are too few for a batch."""
        super().rest(prompt)
        active = [i for i, other in enumerate(self._prompts) if other not in self.resting]
        missing = _PER_STATE * self._batch_size - len(self._active())
        if active and missing > 0:
            first = max(self.members) // len(self._prompts) + 1
            indices = [
                (first + i // len(active)) * len(self._prompts) + active[i % len(active)] for i in range(missing)
            ]
            self._add(indices)

    def wake(self, prompt: str) -> None:
        """Draw a resting prompt again, as often as the others."""
        visits = min((member.visits for member in self._active()), default=0)
        super().wake(prompt)
        for member in self.members.values():
            if member.prompt == prompt:
                member.visits = visits

    def _reach(self, members: Sequence[Member]) -> None:
        """Move members that have just started from noise to their positions."""
        for jump in range(JUMPS):
            moving = []
            for member in members:
                n = min(JUMPS, math.ceil(member.position / self.stride))
                if jump < n:
                    path = [round(member.position * k / n) for k in (jump, jump + 1)]
                    moving.append((member, path[0], path[1]))
            for start in range(0, len(moving), self._batch_size):
                batch = moving[start : start + self._batch_size]
                reached = self._jump(batch)
                for (member, *_), state in zip(batch, reached.chunk(len(reached)), strict=True):
                    member.x_t = state.clone()

    def _jump(self, batch: Sequence[tuple[Member, int, int]]) -> Tensor:
        """The states of members after a jump, each from one position to another. Each process computes its part."""
        processes, n = self.networks.processes, len(batch)
        part = batch[processes.rows(n)]
        members, positions, towards = zip(*part, strict=True)
        x_t, prompts = torch.cat([member.x_t for member in members]), [member.prompt for member in members]
        (reached,) = processes.gather(n, self.denoise(x_t, at(*positions), at(*towards), prompts))
        self.networks.count(no_grad=2 * (n - len(part)))  # by the others
        return reached

    def draw(self) -> States:
        """The current states of the next `batch_size` members."""
        return self._draw(self._active())

    def draw_resting(self) -> States:
        """The current states of the next members of resting prompts."""
        return self._draw([member for member in self.members.values() if member.prompt in self.resting])

    def _draw(self, members: Sequence[Member]) -> States:
        # Members with the fewest visits come first: no batch has a member twice, and no member misses a round.
        order = permutation(len(members), self._shuffle)
        turns = sorted(order, key=lambda i: members[i].visits)[: self._batch_size]
        chosen = [members[i] for i in turns]
        for member in chosen:
            member.visits += 1
        return States(
            torch.cat([member.x_t for member in chosen]),
            at(*(member.position for member in chosen)),
            tuple(member.prompt for member in chosen),
            tuple(member.index for member in chosen),
        )

    @torch.no_grad()
    def advance(self, states: States, e_rollout: Tensor, e_null: Tensor) -> None:
        """Move the members of `states` on; those that end start again from new noise."""
        members = [self.members[i] for i in states.members]
        towards = [min(member.position + self.stride, self._steps) for member in members]
        reached = self._next(states.x_t, states.position, at(*towards), e_rollout, e_null)
        ended = []
        for member, position, x_t in zip(members, towards, reached.chunk(len(reached)), strict=True):
            member.position, member.x_t = position, x_t.clone()
            if position == self._steps:
                self._restart(member)
                ended.append(member)
        self._reach(ended)

    def _restart(self, member: Member) -> None:
        member.lap += 1
        generator = self._stream(member.index, member.lap)
        member.prompt = self._prompts[(member.index + member.lap * self._size) % len(self._prompts)]
        member.x_t = self._schedule.noise(generator)
        # A random first position: with a stride, too, every position comes equally often.
        member.position = integer(self.stride, generator)


def pool_size(prompts: int, batch_size: int, at_a_time: int | None) -> int:
    """Number of members: a multiple of the number of prompts if all prompts have members at a time."""
    size = max(_PER_STATE * batch_size, min(prompts, at_a_time or prompts))
    return prompts * math.ceil(size / prompts) if prompts <= size else size


def pool_stride(prompts: int, steps: int, states: int) -> int:
    """Positions that a member moves at a time, so that each prompt crosses the schedule in so many states."""
    return max(1, min(math.ceil(steps / JUMPS), math.ceil(prompts * steps / states)))
