"""The loop the three training scripts share: cosine learning rate, moving average, progress, resumable checkpoints.

On a GPU the forward and backward passes are one CUDA graph: networks this small would wait for their launches.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel

from .data import make
from .preset import PRESETS, Job

Batch = tuple[torch.Tensor, ...]
Loss = Callable[..., torch.Tensor]


def arguments(
    description: str | None, job: Job, argv: Sequence[str] | None = None, output: Path | None = None
) -> argparse.Namespace:
    """The options of a training script. Those that are not given are the preset's; `preset` is the `Preset` itself.

    Args:
        description: What the script does.
        job: What it trains.
        argv: The command line, if it is not the process's own.
        output: Folder of the finished weights; `None` means the preset's.
    """
    first = argparse.ArgumentParser(add_help=False)
    presets = [name for name, preset in PRESETS.items() if job in preset.trainings]
    first.add_argument("--preset", choices=presets, default="small", help="words and sizes of the model")
    preset = PRESETS[first.parse_known_args(argv)[0].preset]
    training = preset.trainings[job]
    parser = argparse.ArgumentParser(description=description, parents=[first])
    parser.add_argument("--device", default="cpu", help="where to train, cpu or cuda")
    parser.add_argument("--updates", type=int, default=training.updates, help="optimiser updates in all")
    parser.add_argument("--batch", type=int, default=training.batch, help="images per update")
    parser.add_argument("--learning-rate", type=float, default=training.learning_rate, help="at its highest")
    parser.add_argument("--augmentations", type=int, default=preset.augmentations, help="images per drawing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=preset.cache, help="folder of the data and the checkpoints")
    parser.add_argument("--output", type=Path, default=output or preset.weights, help="folder of the finished weights")
    options = parser.parse_args(argv)
    options.preset = preset
    return options


def images(options: argparse.Namespace) -> dict[str, torch.Tensor]:
    """The training images that the options name, on the CPU; see `data.make`."""
    return make(options.preset.vocabulary, options.augmentations, options.seed, options.cache)


def save(path: Path, parts: Mapping[str, Any], done: int) -> None:
    """Write a checkpoint: the states of `parts` after `done` updates."""
    state = {name: part.state_dict() for name, part in parts.items()}
    torch.save({**state, "done": done}, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)


def resume(path: Path, parts: Mapping[str, Any]) -> int:
    """Give `parts` the states of a checkpoint, if there is one. Returns the updates done."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    print(f"{path.stem}: resumed at {state['done']}", flush=True)
    return state["done"]


def train(
    name: str,
    model: torch.nn.Module,
    batch: Callable[[torch.Generator], Batch],
    loss: Loss,
    options: argparse.Namespace,
) -> None:
    """Train `model` in place, on `options.device`; on return its weights are their moving average.

    Every 200 updates the whole state is saved as `<name>.ckpt` in `options.cache`; a second call continues from there.
    Randomness of update n derives from `(seed, n)`, so a resumed run equals an uninterrupted one. It is drawn on the
    CPU, so that the batches are the same on every device.

    Args:
        name: Name of the checkpoint.
        model: What to train.
        batch: Draws the arguments of `loss` with the CPU generator given, on `options.device`; the same shapes always.
        loss: The loss of a batch. On a GPU it is captured, so it may not wait for the device.
        options: What `arguments` returned.
    """
    options.cache.mkdir(parents=True, exist_ok=True)
    path = options.cache / f"{name}.ckpt"
    model.to(options.device)
    on_gpu = torch.device(options.device).type == "cuda"
    optimizer = torch.optim.AdamW(
        model.parameters(), options.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=on_gpu or None
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, min(200, options.updates // 10), options.updates)
    # `foreach` is faster on a GPU; on a CPU the weights would differ from earlier ones
    ema = EMAModel(model.parameters(), decay=0.998, use_ema_warmup=True, inv_gamma=1.0, power=0.75, foreach=on_gpu)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "ema": ema}
    done = resume(path, parts)
    ema.to(options.device)
    generator = torch.Generator()
    model.train()
    gradients = eager(model, loss)
    if on_gpu:
        torch.set_float32_matmul_precision("high")
        gradients = captured(model, loss, batch(generator))
    start, first, total = time.monotonic(), done, torch.zeros((), device=options.device)
    while done < options.updates:
        generator.manual_seed(options.seed * 1_000_003 + done)
        total += gradients(*batch(generator))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.step(model.parameters())
        done += 1
        if done % 50 == 0:
            pace = (time.monotonic() - start) / (done - first)
            left = pace * (options.updates - done) / 60
            print(
                f"{name} {done}/{options.updates} loss {total.item() / 50:.5f} {pace:.3f} s/update {left:.0f} min left",
                flush=True,
            )
            total.zero_()
        if done % 200 == 0 or done == options.updates:
            save(path, parts, done)
    ema.copy_to(model.parameters())
    model.eval()


def eager(model: torch.nn.Module, loss: Loss) -> Loss:
    """Returns the loss, and leaves its gradients in `model`."""

    def gradients(*batch: torch.Tensor) -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        value = loss(*batch)
        value.backward()
        return value.detach()

    return gradients


def captured(model: torch.nn.Module, loss: Loss, example: Batch) -> Loss:
    """The same as a CUDA graph, replayed for batches of the shapes of `example`."""
    buffers, gradients = [part.clone() for part in example], eager(model, loss)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            gradients(*buffers)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # each replay writes the gradients anew
        value = gradients(*buffers)

    def replay(*batch: torch.Tensor) -> torch.Tensor:
        for buffer, part in zip(buffers, batch, strict=True):
            buffer.copy_(part)
        graph.replay()
        return value

    return replay
