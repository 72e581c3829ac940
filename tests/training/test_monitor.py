"""What a training writes while it runs: the history, the tracker's log, and what happens if one of them fails."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import TensorBoardTracker
from controls import must_fail
from made import is_equal, with_provenance
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import tiny_pipeline

from diffusers_esd import Erasure, ESDTrainer, Progress, RunConfig
from diffusers_esd.training.monitor import Monitor
from diffusers_esd.training.prompts import Prompts
from diffusers_esd.training.task import Task

CONCEPTS = ["a cat", "a dog"]
QUICK: dict[str, Any] = {
    "group": "esd-x-strict", "num_inference_steps": 4, "iterations": 6, "rank": 2, "learning_rate": 1e-2,
    "preserve": (), "lr_scheduler": "linear", "lr_warmup_steps": 2,
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore:.*which hardly trains them")


def train(folder: Path | None = None, callback: Any = None, **options: Any) -> Erasure:
    trainer = ESDTrainer(tiny_pipeline(), **{**QUICK, **options}, output_dir=folder)
    return trainer.erase(CONCEPTS, name="ours", callback=callback)


def same(a: Erasure, b: Erasure) -> bool:
    return is_equal(with_provenance(a, seconds=0.0), with_provenance(b, seconds=0.0))


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "ours" / "history.jsonl").read_text("utf-8").splitlines()]


def without_seconds(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def expected() -> Erasure:
    return train()


def test_a_line_is_what_the_callback_gets(tmp_path: Path, expected: Erasure) -> None:
    seen: list[Progress] = []
    written: list[int] = []

    def callback(progress: Progress) -> None:
        seen.append(progress)
        written.append(len(history(tmp_path)))

    erasure = train(tmp_path, callback)
    assert same(erasure, expected)
    lines = history(tmp_path)
    assert written == [1, 2, 3, 4, 5, 6], "while it runs"
    assert without_seconds(lines) == [asdict(progress) for progress in seen]
    assert [(line["loss"], line["alignment"]) for line in lines] == list(erasure.provenance.history)
    assert [line["learning_rate"] for line in lines] == pytest.approx([0, 5e-3, 1e-2, 7.5e-3, 5e-3, 2.5e-3])
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    assert seconds[-1] <= erasure.provenance.seconds + 0.01


def test_the_file_of_a_resumed_training_equals_that_of_an_uninterrupted_one(tmp_path: Path) -> None:
    train(tmp_path / "whole")
    lines = without_seconds(history(tmp_path / "whole"))
    folder, every = tmp_path / "resumed", {"checkpoint_every": 3, "keep_checkpoints": 9}

    def killed(progress: Progress) -> None:
        if progress.iteration == 5:
            raise SystemExit

    with pytest.raises(SystemExit):
        train(folder, killed, **every)
    file = folder / "ours" / "history.jsonl"
    file.write_text(file.read_text()[:-7])  # as a kill does, in the middle of the fifth line
    train(folder, resume=folder / "ours" / "checkpoint-3", **every)
    assert without_seconds(history(folder)) == lines
    train(tmp_path / "other", resume=folder / "ours" / "checkpoint-3")
    assert without_seconds(history(tmp_path / "other")) == lines, "another folder gets the earlier lines as well"
    train(folder, resume="latest")
    assert without_seconds(history(folder)) == lines, "a finished training changes nothing"


def test_a_history_that_cannot_be_written_does_not_end_a_training(tmp_path: Path, expected: Erasure) -> None:
    (tmp_path / "ours" / "history.jsonl").mkdir(parents=True)
    with pytest.warns(UserWarning, match=r"history\.jsonl could not be written"):
        assert same(train(tmp_path), expected)


def test_numbers_and_images_are_logged(tmp_path: Path, expected: Erasure) -> None:
    assert same(train(tmp_path, report_to="tensorboard", sample_every=9), expected)
    log = EventAccumulator(str(tmp_path / "ours" / "logs" / "diffusers-esd"))
    log.Reload()
    lines = history(tmp_path)
    for name in ("loss", "alignment", "smoothed_alignment", "learning_rate"):
        logged = [(event.step, event.value) for event in log.Scalars(name)]
        assert logged == [(line["iteration"], pytest.approx(line[name], rel=1e-6)) for line in lines]
    for concept in CONCEPTS:
        values = [line["alignments"][concept] for line in lines if concept in line["alignments"]]
        logged = [event.value for event in log.Scalars(f"alignments/{concept}")]
        assert logged == pytest.approx(values, rel=1e-6)
    assert [image.step for image in log.Images("samples")] == [6]


def test_a_tracker_that_fails_does_not_lose_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: Erasure
) -> None:
    def fail(self: Any, values: Any, step: int) -> None:
        if step == 3:
            raise ConnectionError("the server is gone")

    finished: list[object] = []
    finish = TensorBoardTracker.finish
    monkeypatch.setattr(TensorBoardTracker, "finish", lambda tracker: finished.append(tracker) or finish(tracker))
    with monkeypatch.context() as patch:
        patch.setattr(TensorBoardTracker, "log", fail)
        with pytest.raises(ConnectionError, match="the server is gone") as caught:
            train(tmp_path, report_to="tensorboard")
    path = tmp_path / "ours" / "checkpoint-3"
    assert caught.value.__notes__ == [f"The training can go on from its last checkpoint: resume={str(path)!r}."]
    assert len(finished) == 1
    assert same(train(tmp_path, resume="latest"), expected)
    assert [line["iteration"] for line in history(tmp_path)] == [1, 2, 3, 4, 5, 6]

    def fail_at_the_end(self: Any) -> None:
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(TensorBoardTracker, "finish", fail_at_the_end)
    other = tmp_path / "other"
    with pytest.raises(ConnectionError) as caught:
        train(other, report_to="tensorboard")
    assert "checkpoint-6" in caught.value.__notes__[0]
    assert same(train(other, resume="latest"), expected), "it is finished and saved"


def test_an_interrupted_training_draws_no_last_image(tmp_path: Path) -> None:
    parts: Any = dict.fromkeys(("family", "config", "limits", "selection", "encoded"))
    run = RunConfig(output_dir=tmp_path, sample_every=5)
    task = Task(run=run, name="ours", prompts=Prompts(("a cat",), ("a cat",)), **parts)
    with Monitor(task, None, 0.0) as monitor:
        monitor.end(complete=False)
    assert not list(tmp_path.rglob("*.png"))
    with Monitor(task, None, 0.0) as monitor, pytest.raises(AttributeError):  # it draws, and there is no pipeline
        monitor.end(complete=True)


def test_one_process_of_several_writes(tmp_path: Path) -> None:
    """A monitor that does not write needs nothing of its task but where the others write."""

    def written(writes: bool, **options: Any) -> list[str]:
        parts: Any = dict.fromkeys(("family", "config", "limits", "selection", "prompts", "encoded"))
        task = Task(run=RunConfig(output_dir=tmp_path, **options), name="ours", **parts)
        progress = Progress(1, 0.5, 1.0, 1.0, {"a cat": 1.0}, 1e-4)
        with Monitor(task, None, 0.0, writes=writes) as monitor:
            monitor.record(progress)
            monitor.report(progress)
            monitor.sync()
            monitor.end(complete=True)
        return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))

    assert written(False, sample_every=1, report_to="tensorboard") == []
    with must_fail("another one writes"):
        assert written(True) == []
