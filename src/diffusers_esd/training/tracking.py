"""`Tracker`: loss, alignments and images of a training, logged through accelerate: TensorBoard, W&B and others.

https://huggingface.co/docs/accelerate/usage_guides/tracking
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_PROJECT = "diffusers-esd"
_PACKAGES = {"tensorboard": '"diffusers-esd[tracking]"', "comet_ml": "comet-ml"}  # others are named as their tracker
_LONGEST = 40  # characters of a prompt in the name of a curve


def check_tracker(name: str) -> None:
    """Refuse a tracker that accelerate does not know, or whose package is missing.

    Raises:
        ValueError: If it is unknown; the message lists those that exist.
        ImportError: If its package is missing; the message says how to install it.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    if name not in LOGGER_TYPE_TO_CLASS:
        known = ", ".join(map(repr, sorted(LOGGER_TYPE_TO_CLASS)))
        raise ValueError(f"`report_to` must be None or one of {known}; got {name!r}.")
    # A class that the user has registered with accelerate is not one of accelerate's own types.
    if name in LoggerType.list() and name not in map(str, get_available_trackers()):
        package = _PACKAGES.get(name, name)
        raise ImportError(f"`report_to`={name!r} needs a package that is not installed: pip install {package}.")


class Tracker:
    """Logs a training.

    Args:
        kind: Name of accelerate's class, such as `"tensorboard"`.
        folder: Folder of the logs.
        run: Name of the training.
        settings: What the training learns, by name.
        prompts: The prompts whose alignments are logged.
        iterations: Number of iterations before a resumed training goes on.
    """

    def __init__(
        self,
        kind: str,
        folder: Path,
        *,
        run: str,
        settings: Mapping[str, Any],
        prompts: Sequence[str],
        iterations: int,
    ) -> None:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        tracker_class = LOGGER_TYPE_TO_CLASS[kind]
        options: dict[str, dict[str, Any]] = {
            # TensorBoard does not show what was logged after the checkpoint.
            "tensorboard": {"purge_step": iterations + 1},
            "wandb": {"name": run, "dir": str(folder)},
        }
        folder.mkdir(parents=True, exist_ok=True)
        where = (str(folder),) if tracker_class.requires_logging_directory else ()
        self._kind, self._labels = kind, labels(prompts)
        self._tracker: Any = tracker_class(_PROJECT, *where, **options.get(kind, {}))
        # accelerate would log in its main process alone, but each of several processes may train an erasure of its own.
        self._tracker.main_process_only = False
        PartialState()  # accelerate's own messages need it
        self._tracker.start()
        plain = {key: v if isinstance(v, bool | int | float | str) else str(v) for key, v in settings.items()}
        self._tracker.store_init_configuration(plain)

    def log(self, iteration: int, values: Mapping[str, float], alignments: Mapping[str, float]) -> None:
        """Log numbers.

        Args:
            iteration: Number of the iteration, from 1.
            values: Numbers by name.
            alignments: Smoothed alignment by prompt.
        """
        each = {f"alignments/{self._labels[prompt]}": value for prompt, value in alignments.items()}
        self._tracker.log({**values, **each}, step=iteration)

    def log_image(self, iteration: int, image: Image.Image) -> None:
        """Log an image, if the tracker has a place for images."""
        if hasattr(self._tracker, "log_images"):  # optional in accelerate's interface
            options = {"dataformats": "NHWC"} if self._kind == "tensorboard" else {}
            self._tracker.log_images({"samples": np.asarray(image)[None]}, step=iteration, **options)

    def finish(self) -> None:
        """Write what is left, and close."""
        self._tracker.finish()


def labels(prompts: Sequence[str]) -> dict[str, str]:
    """A short name for the curve of each prompt, of letters, digits and spaces; no two are the same."""
    names: dict[str, str] = {}
    for prompt in dict.fromkeys(prompts):
        short = re.sub(r"[^\w .-]+", "_", prompt)[:_LONGEST]
        taken = set(names.values())
        number = next(n for n in range(1, len(taken) + 2) if (short if n == 1 else f"{short} {n}") not in taken)
        names[prompt] = short if number == 1 else f"{short} {number}"
    return names
