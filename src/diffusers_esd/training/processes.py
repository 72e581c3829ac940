"""`Processes`: they train one erasure together.

A batch is cut into one part per process. Each process evaluates its part, and then all get the results of all parts.
Gradients are averaged before an update. Everything else, such as the trajectories, the alignments and the optimiser, is
the same in every process, because it follows from the same numbers. So two processes of batch 1 train as one process of
batch 2. Process 0, the main one, calls the callback, warns and writes files.

A process that was not started by a launcher is alone, and nothing here does anything. `launch` finds and connects them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from ..config import ESDConfig

T = TypeVar("T")

_FAILED = 2**30  # a decision that is larger than all others
_OTHERS = (
    "Processes of one launcher train one erasure together. To train another in each process, give data_parallel=False."
)


class Processes:
    """The processes of a training, seen from one of them.

    Args:
        rank: Number of this process, from 0.
        number: Number of processes.
        group: Connects them, for tensors on the CPU; not used by a process that is alone.

    Attributes:
        rank: Number of this process.
        number: Number of processes.
        is_main: Whether this is process 0.
    """

    def __init__(self, rank: int = 0, number: int = 1, group: Any = None) -> None:
        self.rank, self.number, self.is_main = rank, number, rank == 0
        self._group = group

    def joint(self, config: ESDConfig) -> ESDConfig:
        """The configuration of one process that does the work of all."""
        return replace(config, batch_size=config.batch_size * self.number)

    def rows(self, n: int) -> slice:
        """Which of n rows this process evaluates. If there are too few for every process, some evaluate the first row,
        and `gather` ignores what they found."""
        part = self._part(n)
        return part if part.start < part.stop else slice(0, 1)

    def _part(self, n: int) -> slice:
        return slice(n * self.rank // self.number, n * (self.rank + 1) // self.number)

    def gather(self, n: int, *parts: Tensor) -> tuple[Tensor, ...]:
        """The results of all processes.

        Args:
            n: Number of rows in all processes.
            parts: For the m rows of this process, (m, ...), or a mean over them, ().

        Returns:
            For all rows, (n, ...), or the mean over them, (), in the same types.
        """
        if self.number == 1:
            return parts
        own = self._part(n)
        m = own.stop - own.start
        wholes = []
        for part in parts:
            if part.dim():
                whole = torch.zeros((n, *part.shape[1:]), device=part.device, dtype=torch.float32)
                whole[own] = part[:m]
            else:
                whole = part.float() * (m / n)
            wholes.append(whole)
        self._sum(wholes)
        return tuple(whole.to(part.dtype) for whole, part in zip(wholes, parts, strict=True))

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replace gradients by their means over all processes."""
        if self.number > 1:
            self._sum(gradients)
            torch._foreach_div_(list(gradients), self.number)

    @torch.no_grad()
    def _sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes, in one message."""
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        if flat.is_cuda and "nccl" in distributed.get_backend():
            distributed.all_reduce(flat)
        else:
            on_cpu = flat.cpu()
            distributed.all_reduce(on_cpu, group=self._group)
            flat = on_cpu.to(flat.device)
        for tensor, total in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def from_main(self, function: Callable[[], T]) -> T:
        """What a function returns in the main process, where alone it is called; the others wait, and get a copy.

        Tensors of the copy are on the CPU.

        Raises:
            RuntimeError: In the others, if it raises an error in the main process.
        """
        if self.number == 1:
            return function()
        message = [b""]
        if self.is_main:
            value, error = None, ""
            try:
                value = function()
                return value
            except BaseException as raised:
                error = _text(raised)
                raise
            finally:
                buffer = io.BytesIO()
                torch.save((value, error), buffer)
                distributed.broadcast_object_list([buffer.getvalue()], 0, group=self._group)
        distributed.broadcast_object_list(message, 0, group=self._group)
        # It comes from a process of this training.
        value, error = torch.load(io.BytesIO(message[0]), map_location="cpu", weights_only=False)
        if error:
            raise RuntimeError(f"Process 0 of the training failed: {error}")
        return value

    def agree(self, decide: Callable[[], int]) -> int:
        """The largest of the numbers that a function returns in the processes; of several, Ctrl-C in one is a 1.

        Raises:
            RuntimeError: If it raises an error in another process.
        """
        if self.number == 1:
            return decide()
        failure: BaseException | None = None
        try:
            decision = decide()
        except KeyboardInterrupt:
            decision = 1
        except BaseException as error:
            failure, decision = error, _FAILED
        largest = torch.tensor(decision, device="cpu")
        distributed.all_reduce(largest, distributed.ReduceOp.MAX, group=self._group)
        texts: list[Any] = [""] * self.number
        if largest == _FAILED:
            distributed.all_gather_object(texts, "" if failure is None else _text(failure), group=self._group)
        if failure is not None:
            raise failure
        for rank, text in enumerate(texts):
            if text:
                raise RuntimeError(f"Process {rank} of the training failed: {text}")
        return int(largest)

    def collect(self, value: T) -> list[T]:
        """The values of all processes."""
        values: list[Any] = [value]
        if self.number > 1:
            values *= self.number
            distributed.all_gather_object(values, value, group=self._group)
        return values

    def check_equal(self, values: Mapping[str, Any]) -> None:
        """Refuse processes that would train something else.

        Raises:
            ValueError: If a value is another than in the main process.
            RuntimeError: If it is so in another process.
        """
        if self.number == 1:
            return
        first = self.collect(values)[0]

        def check() -> int:
            for name, value in values.items():
                if value != first[name]:
                    raise ValueError(
                        f"`{name}` is {value!r} in process {self.rank}, and {first[name]!r} in process 0. {_OTHERS}"
                    )
            return 0

        self.agree(check)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
