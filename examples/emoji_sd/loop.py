"""The loop the three training scripts share: cosine learning rate, moving average, progress, resumable checkpoints."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel

from . import WEIGHTS
from .data import CACHE


def arguments(description: str | None, *, updates: int, batch: int, rate: float) -> argparse.Namespace:
    """The command line of a training script, with its defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--updates", type=int, default=updates, help="optimiser updates in all")
    parser.add_argument("--batch", type=int, default=batch, help="images per update")
    parser.add_argument("--learning-rate", type=float, default=rate, help="at its highest; cosine to zero")
    parser.add_argument("--augmentations", type=int, default=24, help="images rendered per drawing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="folder of the finished weights")
    return parser.parse_args()


def train(
    name: str,
    model: torch.nn.Module,
    loss: Callable[[torch.Generator], torch.Tensor],
    options: argparse.Namespace,
    cache: Path = CACHE,
) -> None:
    """Train `model` in place; on return its weights are their moving average.

    Every 200 updates the whole state is saved as `cache/<name>.ckpt`; a second call continues from there. Randomness of
    update n derives from `(seed, n)`, so a resumed run equals an uninterrupted one.

    Args:
        name: Name of the checkpoint.
        model: What to train.
        loss: The loss of one batch, drawn with the generator given.
        options: What `arguments` returned.
        cache: Folder of the checkpoint.
    """
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{name}.ckpt"
    optimizer = torch.optim.AdamW(model.parameters(), options.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(200, options.updates // 10), options.updates)
    ema = EMAModel(model.parameters(), decay=0.998, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    done = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        ema.load_state_dict(state["ema"])
        done = state["done"]
        print(f"{name}: resumed at {done}", flush=True)
    start, first, total = time.monotonic(), done, 0.0
    generator = torch.Generator()
    model.train()
    while done < options.updates:
        generator.manual_seed(options.seed * 1_000_003 + done)
        value = loss(generator)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        ema.step(model.parameters())
        done += 1
        total += value.item()
        if done % 50 == 0:
            pace = (time.monotonic() - start) / (done - first)
            left = pace * (options.updates - done) / 60
            print(
                f"{name} {done}/{options.updates} loss {total / 50:.5f} {pace:.2f} s/update {left:.0f} min left",
                flush=True,
            )
            total = 0.0
        if done % 200 == 0 or done == options.updates:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "ema": ema.state_dict(),
                "done": done,
            }
            torch.save(state, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").rename(path)
    ema.copy_to(model.parameters())
    model.eval()
