"""Functions of tensors on buffers of their own, which a GPU runs as CUDA graphs.

A training of batch 1 starts thousands of small kernels per iteration, and starting them takes longer than running them.
A CUDA graph starts all at once. It reads and writes fixed addresses, so the arguments are copied to buffers first, and
gradients are added to tensors that exist already. Where nothing can be captured, the same code runs without a graph.

https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ..denoiser import has_hooks
from ..families import Family
from ..quantization import quantization
from ..run import RunConfig

_LOGGER = logging.getLogger(__name__)

Function = Callable[..., tuple[Tensor, ...]]
"""Takes tensors, all of whose values matter, and returns tensors. It may add to gradients, and does nothing else."""

Captured = tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]
"""A graph, and where its replay writes the results."""


class Graphs:
    """What the captured functions of a training share: a memory pool, and whether capturing is possible.

    Args:
        device: Where the functions compute.
        parameters: The weights to whose gradients they add.
        obstacle: Why nothing can be captured; `""` if it can.

    Attributes:
        obstacle: The same; it is set if capturing fails.
        captured: The graphs, by what was captured.
    """

    def __init__(self, device: torch.device, parameters: Iterable[nn.Parameter], obstacle: str) -> None:
        self.obstacle = obstacle
        self.captured: dict[object, Captured] = {}
        self._device, self._parameters = device, list(parameters)
        self._pool = None if obstacle else torch.cuda.graph_pool_handle()
        if obstacle:
            _LOGGER.info("The iterations run without CUDA graphs: %s.", obstacle)

    def capture(self, function: Callable[[], tuple[Tensor, ...]]) -> Captured:
        """The graph of a function, and where its results are written. Gradients are left as they were.

        Raises:
            RuntimeError: If it cannot be captured, or memory is missing.
        """
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        before = [gradient.clone() for gradient in gradients]
        with torch.cuda.device(self._device):
            try:
                # Libraries set themselves up in the first call, which must not be captured.
                side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
                side.wait_stream(torch.cuda.current_stream())
                try:
                    with torch.cuda.stream(side):
                        function()
                finally:
                    torch.cuda.current_stream().wait_stream(side)
                graph = torch.cuda.CUDAGraph()
                # Other threads, such as a callback's, may use the GPU meanwhile.
                with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                    results = function()
            finally:
                for gradient, value in zip(gradients, before, strict=True):
                    gradient.copy_(value)
        return graph, results

    def give_up(self, message: str) -> None:
        """From now on nothing is captured, and the memory of all graphs is free."""
        self.obstacle = f"capturing failed: {next(iter(message.splitlines()), 'no reason given')}"
        self.captured.clear()
        torch.cuda.empty_cache()
        _LOGGER.warning("The iterations run without CUDA graphs, which takes longer: %s", self.obstacle)


class Buffered:
    """A function that computes on buffers. Each set of shapes has its own, and is captured when it comes again.

    Args:
        function: The function.
        graphs: What it shares with others.
    """

    def __init__(self, function: Function, graphs: Graphs) -> None:
        self._function, self._graphs = function, graphs
        self._calls: dict[object, _Call] = {}

    def __call__(self, *tensors: Tensor, **named: Tensor) -> tuple[Tensor, ...]:
        """What the function returns for these tensors, in tensors of its own."""
        key = (torch.is_grad_enabled(), *(tensor.shape for tensor in (*tensors, *named.values())))
        if key not in self._calls:
            self._calls[key] = _Call(self._function, self._graphs, tensors, named)
        return self._calls[key](tensors, named)


class _Call:
    def __init__(
        self, function: Function, graphs: Graphs, tensors: tuple[Tensor, ...], named: dict[str, Tensor]
    ) -> None:
        self._function, self._graphs = function, graphs
        self._tensors = [tensor.clone() for tensor in tensors]
        self._named = {name: tensor.clone() for name, tensor in named.items()}
        self._is_first = True

    def __call__(self, tensors: tuple[Tensor, ...], named: dict[str, Tensor]) -> tuple[Tensor, ...]:
        for buffer, tensor in zip(self._tensors, tensors, strict=True):
            buffer.copy_(tensor)
        for name, buffer in self._named.items():
            buffer.copy_(named[name])
        graphs, is_first, self._is_first = self._graphs, self._is_first, False
        if not (graphs.obstacle or is_first or self in graphs.captured):
            failure = None
            try:
                graphs.captured[self] = graphs.capture(self._run)
            except RuntimeError as error:
                failure = str(error)
            if failure is not None:  # here the error, whose frames hold tensors, is gone
                graphs.give_up(failure)
        if self not in graphs.captured:
            return self._run()
        graph, results = graphs.captured[self]
        graph.replay()
        # Graphs share memory: the replay of another may write over these.
        return tuple(result.clone() for result in results)

    def _run(self) -> tuple[Tensor, ...]:
        return self._function(*self._tensors, **self._named)


def obstacle(family: Family, run: RunConfig) -> str:
    """Why the family's denoiser cannot be captured; `""` if it can."""
    if not run.capture:
        return "`capture` is False"
    if family.device.type != "cuda":
        return f"the device is {family.device.type}, and needs to be cuda"
    if not family.can_be_captured:
        return f"CUDA graphs of the family {type(family).__name__} are not known to work"
    if has_hooks(family.denoiser):
        return "the denoiser has hooks, such as those of offloading"
    if kinds := quantization(family.denoiser):
        return f"the denoiser is quantised ({kinds}), and it is not known whether its layers can be captured"
    return ""
