"""Trackers of accelerate: TensorBoard's file is read back, the others are found by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking
from accelerate.tracking import GeneralTracker
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import tiny_pipeline

from diffusers_esd import ESDTrainer
from diffusers_esd.training.tracking import Tracker, check_tracker, labels


def test_what_is_logged_is_in_tensorboards_file(tmp_path: Path) -> None:
    options: dict[str, Any] = {"run": "ours", "settings": {"eta": 1.0, "size": None}, "prompts": ["a cat"]}
    image = Image.effect_noise((8, 6), 50).convert("RGB")
    for start, iterations in ((0, (1, 2, 3)), (2, (3, 4))):
        tracker = Tracker("tensorboard", tmp_path, **options, iterations=start)
        for i in iterations:
            tracker.log(i, {"loss": start + i / 4}, {"a cat": -i})
        tracker.log_image(iterations[-1], image)
        tracker.finish()
    log = EventAccumulator(str(tmp_path / "diffusers-esd"))
    log.Reload()
    logged = [(event.step, event.value) for event in log.Scalars("loss")]
    assert logged == [(1, 0.25), (2, 0.5), (3, 2.75), (4, 3.0)], "resumed at 2"
    assert [(e.step, e.value) for e in log.Scalars("alignments/a cat")][-1] == (4, -4.0)
    assert [(e.step, e.width, e.height) for e in log.Images("samples")] == [(4, 8, 6)]
    assert "eta: 1.0\nsize: None\n" in next(tmp_path.rglob("hparams.yml")).read_text()


def test_a_process_that_is_not_accelerates_main_one_logs_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each of several processes may train an erasure of its own."""
    monkeypatch.setattr(tracking.PartialState, "is_main_process", property(lambda self: False))
    tracker = Tracker("tensorboard", tmp_path, run="ours", settings={}, prompts=["a cat"], iterations=0)
    tracker.log(1, {"loss": 0.5}, {"a cat": 1.0})
    tracker.finish()
    log = EventAccumulator(str(tmp_path / "diffusers-esd"))
    log.Reload()
    assert [event.value for event in log.Scalars("loss")] == [0.5]


def test_names_of_curves_are_short_and_no_two_are_the_same() -> None:
    long = "a very long prompt about a cat " * 3
    found = labels(["a cat", f"{long} one", f"{long} two", "a/b", "a?b", "a cat", "café"])
    assert found == {
        "a cat": "a cat", f"{long} one": long[:40], f"{long} two": f"{long[:40]} 2", "a/b": "a_b", "a?b": "a_b 2",
        "café": "café",
    }  # fmt: skip


def test_a_missing_package_is_an_error_before_anything_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tracking, "_available_trackers", [])
    for name, command in (("tensorboard", '"diffusers-esd[tracking]"'), ("wandb", "wandb"), ("comet_ml", "comet-ml")):
        message = f"`report_to`='{name}' needs a package that is not installed: pip install {command}."
        with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
            ESDTrainer(tiny_pipeline(), report_to=name, output_dir=tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"^`report_to` must be None or one of 'aim', .*'wandb'; got 'all'\.$"):
        check_tracker("all")


class Recorder(GeneralTracker):
    """A tracker of the user's own, without images."""

    name = "recorder"
    requires_logging_directory = False
    logged: list[tuple[int | None, dict[str, Any]]]

    def __init__(self, run_name: str) -> None:
        super().__init__()
        type(self).logged = []

    @property
    def tracker(self) -> None:
        return None

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.logged.append((step, values))


@pytest.fixture
def recorder() -> Iterator[type[Recorder]]:
    tracking.register_tracker_class(Recorder)
    yield Recorder
    del tracking.LOGGER_TYPE_TO_CLASS["recorder"]


def test_a_tracker_that_the_user_registered_is_used(recorder: type[Recorder], tmp_path: Path) -> None:
    check_tracker("recorder")
    tracker = Tracker("recorder", tmp_path, run="ours", settings={}, prompts=["a cat"], iterations=0)
    tracker.log(1, {"loss": 0.5}, {"a cat": 1.0})
    tracker.log_image(1, Image.new("RGB", (1, 1)))
    tracker.finish()
    assert recorder.logged == [(1, {"loss": 0.5, "alignments/a cat": 1.0})]


def test_wandb_gets_the_name_of_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without its package: accelerate's class is found by name, and what it is started with is compared."""
    started: list[Any] = []

    def start(tracker: Any) -> None:
        started.append((tracker.run_name, tracker.init_kwargs))

    monkeypatch.setattr(tracking.WandBTracker, "start", start)
    monkeypatch.setattr(tracking.WandBTracker, "store_init_configuration", lambda _, values: started.append(values))
    Tracker("wandb", tmp_path / "logs", run="no-cat", settings={"preserve": ["a"]}, prompts=[], iterations=0)
    expected = ("diffusers-esd", {"name": "no-cat", "dir": str(tmp_path / "logs")})
    assert started == [expected, {"preserve": "['a']"}]
