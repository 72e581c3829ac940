"""A training that goes on from a checkpoint gives the same bits, whatever ended it; checkpoints are whole."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from launched import Launcher
from made import is_equal, with_provenance
from tiny import tiny_pipeline

from diffusers_esd import Erasure, ESDTrainer, Limits, Progress, refine
from diffusers_esd.training import checkpoint
from diffusers_esd.training.checkpoint import RECORD_NAME, STATE_NAME
from diffusers_esd.training.encodings import ENCODINGS_NAME

pytestmark = pytest.mark.filterwarnings("ignore:.*which hardly trains them")

CONCEPTS = ["a cat", "a dog", "a rocket"]
LIMITS = Limits(
    words=20, neighbours=4, pairs=8, contexts=4, loss_prompts=8, steps=2, trajectories=8,
    concept_trajectories=4, largest_leak=float("inf"), anchor_candidates=2,
)  # fmt: skip
PLAIN: dict[str, Any] = {
    "group": "esd-x-strict", "num_inference_steps": 4, "iterations": 8, "rank": 2, "learning_rate": 1e-2,
    "preserve": (),
}  # fmt: skip
CONFINED: dict[str, Any] = {
    **PLAIN, "group": r"(down|mid).*(attn1.to_q|attn2.to_k|conv1)", "iterations": 6, "preserve": "vocabulary",
    "anchor": "auto", "limits": LIMITS, "lr_scheduler": "cosine", "lr_warmup_steps": 2,
    "gradient_accumulation_steps": 2, "max_grad_norm": 0.1,
}  # fmt: skip
RESTING: dict[str, Any] = {**PLAIN, "iterations": 50, "batch_size": 2, "stop_at_alignment": -0.6}


def train(
    concept: Any = "a cat",
    *,
    dtype: torch.dtype = torch.float32,
    callback: Callable[[Progress], object] | None = None,
    **options: Any,
) -> Erasure:
    """A training of a new pipeline."""
    return ESDTrainer(tiny_pipeline().to(dtype), **{**PLAIN, **options}).erase(concept, name="ours", callback=callback)


def stop_at(iteration: int) -> Callable[[Progress], object]:
    """A callback that ends a training."""
    return lambda progress: "stop" if progress.iteration == iteration else None


def same(a: Erasure, b: Erasure) -> bool:
    """Whether two erasures are equal, bit for bit, but for the time they took."""
    return is_equal(with_provenance(a, seconds=0.0), with_provenance(b, seconds=0.0))


def saved(folder: Path) -> list[int]:
    """The iterations of all checkpoints."""
    return sorted(int(path.name.partition("-")[2]) for path in (folder / "ours").glob("checkpoint-*"))


def state(path: Path) -> dict[str, Any]:
    return torch.load(path / STATE_NAME, weights_only=True)


def equal(a: Any, b: Any) -> bool:
    """Whether two nested values are equal, in every bit of every tensor."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


# The same bits.


@pytest.mark.parametrize(
    ("options", "stops"),
    [
        (CONFINED, (1, 4)),
        ({**PLAIN, "trajectory": "fresh", "group": "esd-u", "batch_size": 2}, (3,)),
        ({**RESTING}, (34, 36)),
        pytest.param({**RESTING, "trajectory": "fresh"}, (34, 36), marks=pytest.mark.slow),
        ({**PLAIN, "dtype": torch.float16}, (3,)),
        ({**PLAIN, "preserve": ("a dog", "a bus"), "null_space": False}, (3,)),
    ],
    ids=["null space", "fresh", "resting", "resting, fresh", "float16", "A and B train"],
)
def test_a_resumed_training_is_the_same_bit_for_bit(
    options: dict[str, Any], stops: tuple[int, ...], tmp_path: Path
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "resumed"
    expected = train(CONCEPTS, **options, output_dir=whole)
    (last,) = saved(whole)
    for stop in stops:
        cut = train(CONCEPTS, **options, output_dir=folder, resume="latest", callback=stop_at(stop))
        assert not cut.provenance.complete
        assert saved(folder) == [stop], "it is saved when it ends, and older ones are deleted"
        at_stop = state(folder / "ours" / f"checkpoint-{stop}")
        if "stop_at_alignment" in options:
            assert at_stop["training"]["state"]["erase"]["resting"]
        with must_fail("it was cut off"):
            assert same(cut, expected)
    resumed = train(CONCEPTS, **options, output_dir=folder, resume="latest", offload=True)
    assert resumed.provenance.complete
    assert same(resumed, expected)
    both = [state(path / "ours" / f"checkpoint-{last}") for path in (whole, folder)]
    assert both[1]["seconds"] > at_stop["seconds"] > 0
    for part in ("prepared", "training"):
        assert equal(both[0][part], both[1][part]), "the state too, in every part"
    if "dtype" in options:
        assert both[1]["training"]["state"]["scaler"]["_growth_tracker"] == last, "updates without an overflow"
    with must_fail("it has changed since"):
        assert equal(at_stop["training"], both[1]["training"])
    finished: list[Progress] = []
    again = train(CONCEPTS, **options, output_dir=folder, resume="latest", callback=finished.append)
    assert same(again, expected)
    assert not finished, "the last checkpoint is the finished training"


def test_every_part_of_the_state_is_needed(tmp_path: Path) -> None:
    """Controls: a checkpoint with one part of the first iteration's state gives another erasure."""
    options = {**CONFINED, "anchor": ""}
    expected = train(output_dir=tmp_path, checkpoint_every=2, keep_checkpoints=9, **options)
    assert saved(tmp_path) == [0, 2, 4, 6]
    first, path = state(tmp_path / "ours" / "checkpoint-0"), tmp_path / "ours" / "checkpoint-4"
    good = state(path)
    assert same(train(resume=path, **options), expected)
    for part in ("parameters", "optimizer", "lr_scheduler", "erase", "preserve", "alignments", "history"):
        mixed = {**good["training"]["state"], part: first["training"]["state"][part]}
        torch.save({**good, "training": {**good["training"], "state": mixed}}, path / STATE_NAME)
        with must_fail(f"{part} belongs to the state"):
            assert same(train(resume=path, **options), expected)
    torch.save({**good, "training": {**good["training"], "evaluations": {}}}, path / STATE_NAME)
    with must_fail("the evaluations are counted"):
        assert same(train(resume=path, **options), expected)


def test_nothing_is_computed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All samples of the denoiser are of the remaining iterations, and no prompt is encoded."""
    counted = {"unet": 0, "text_encoder": 0}

    def trained(**options: Any) -> Erasure:
        counted.update(unet=0, text_encoder=0)
        pipe = tiny_pipeline()
        for name in counted:
            inner = getattr(pipe, name).forward

            def forward(first: torch.Tensor, *rest: Any, name: str = name, inner: Any = inner, **named: Any) -> Any:
                counted[name] += len(first)
                return inner(first, *rest, **named)

            getattr(pipe, name).forward = forward
        return ESDTrainer(pipe, **CONFINED, output_dir=tmp_path, **options).erase(CONCEPTS, name="ours", **callback)

    callback: dict[str, Any] = {"callback": stop_at(3)}
    before = trained().provenance.evaluations
    assert counted["unet"] == sum(before.values()), "the control: they are counted from the start"
    assert counted["text_encoder"] > 100
    callback = {}
    after = trained(resume="latest").provenance.evaluations
    assert counted["unet"] == sum(after.values()) - sum(before.values())
    assert counted["text_encoder"] == 0


def test_a_refinement_is_resumed_and_its_erasures_must_be_the_same(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    parts = {train("a cat"): 1.0, train("a dog"): 0.5}
    options: dict[str, Any] = {"iterations": 20, "rank": 2, "name": "ours", "limits": LIMITS}
    expected = refine(pipe, parts, **options)
    run = ESDTrainer(pipe, output_dir=tmp_path, resume="latest").run
    refine(pipe, parts, run=run, callback=stop_at(3), **options)
    resumed = refine(pipe, parts, run=run, **options)
    assert resumed.provenance.iterations == 20
    assert same(resumed, expected)
    with pytest.raises(
        ValueError, match=r"`norm of the erasures` is '[\d.]+', in the checkpoint '[\d.]+'\. To go on from it"
    ):
        refine(pipe, dict.fromkeys(parts, 1.0), run=run, **options)


# Which checkpoint.


def test_checkpoints_are_written_and_deleted_as_asked(tmp_path: Path) -> None:
    train(output_dir=tmp_path, checkpoint_every=3, keep_checkpoints=2)
    assert saved(tmp_path) == [6, 8]
    with pytest.raises(FileExistsError, match="ours contains checkpoints of an earlier training: go on from them"):
        train(output_dir=tmp_path)
    other = tmp_path / "other"
    train(output_dir=other, resume=tmp_path / "ours" / "checkpoint-6")
    assert saved(other) == [8]
    with pytest.raises(FileExistsError, match="contains checkpoints of an earlier training"):
        train(output_dir=other, resume=tmp_path / "ours" / "checkpoint-6")
    assert ESDTrainer(tiny_pipeline(), **PLAIN, output_dir=other).erase("a cat", name="ours", dry_run=True).layers
    assert saved(other) == [8]


def test_going_back_to_an_older_one_replaces_the_newer(tmp_path: Path) -> None:
    expected = train(output_dir=tmp_path, checkpoint_every=3, keep_checkpoints=9)
    assert saved(tmp_path) == [0, 3, 6, 8]
    (tmp_path / "ours" / "checkpoint-8" / STATE_NAME).write_bytes(b"damaged")
    older = tmp_path / "ours" / "checkpoint-3"
    train(output_dir=tmp_path, checkpoint_every=1, keep_checkpoints=2, resume=older, callback=stop_at(6))
    assert saved(tmp_path) == [5, 6]
    assert same(train(output_dir=tmp_path, resume="latest"), expected)


def test_what_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    message = "^`resume` must be 'latest' or the folder of a checkpoint, got '.*nowhere', which has no checkpoint.json"
    with pytest.raises(FileNotFoundError, match=message):
        train(resume=tmp_path / "nowhere")
    train(output_dir=tmp_path)
    path = tmp_path / "ours" / "checkpoint-8"
    for name in (STATE_NAME, RECORD_NAME, ENCODINGS_NAME):
        good = (path / name).read_bytes()
        for content in (good[: len(good) // 2], b"", b"[]"):
            (path / name).write_bytes(content)
            with pytest.raises(ValueError, match=r"checkpoint-8 is damaged \(.*\); resume an older checkpoint, or del"):
                train(resume=path)
        (path / name).write_bytes(good)
    assert train(resume=path).provenance.complete, "the control"


def test_a_disk_that_is_full_does_not_end_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    expected = train()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.warns(UserWarning, match=r"checkpoint-8 could not be written, or older .*No space left on device"):
            erasure = train(output_dir=tmp_path)
    assert same(erasure, expected)
    assert saved(tmp_path) == [], "and nothing is left over"


def test_a_folder_that_is_not_writable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not with chmod: root may write everywhere.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match=r"ours is not writable; give another `output_dir`\.$"):
        train(output_dir=tmp_path)


# Errors.


def fails_at(iteration: int, error: BaseException) -> Callable[[Progress], object]:
    def callback(progress: Progress) -> None:
        if progress.iteration == iteration:
            raise error

    return callback


def test_an_error_of_a_callback_saves_and_says_where(tmp_path: Path) -> None:
    expected, pipe = train(), tiny_pipeline()
    trainer = ESDTrainer(pipe, **PLAIN, output_dir=tmp_path)
    with pytest.raises(ZeroDivisionError) as caught:
        trainer.erase("a cat", name="ours", callback=fails_at(3, ZeroDivisionError("mine")))
    path = tmp_path / "ours" / "checkpoint-3"
    assert caught.value.__notes__ == [f"The training can go on from its last checkpoint: resume={str(path)!r}."]
    assert not getattr(pipe.unet, "peft_config", {}), "the pipeline is as it was"
    assert same(train(resume=path), expected)
    interrupted = train(output_dir=tmp_path / "other", callback=fails_at(3, KeyboardInterrupt()))
    assert not interrupted.provenance.complete
    assert saved(tmp_path / "other") == [3]
    with pytest.raises(ZeroDivisionError) as caught:
        train(callback=fails_at(3, ZeroDivisionError("mine")))
    with must_fail("without a folder nothing is saved"):
        assert hasattr(caught.value, "__notes__")


def test_an_iteration_that_fails_is_not_saved(tmp_path: Path) -> None:
    """Its state is half changed: the last checkpoint is from before."""
    expected, pipe = train(), tiny_pipeline()
    trainer = ESDTrainer(pipe, **PLAIN, output_dir=tmp_path, checkpoint_every=2)
    seen: list[int] = []

    def broken(*_: object) -> None:
        if seen[-1:] == [5]:
            raise ValueError("The loss is nan")

    pipe.unet.register_forward_pre_hook(broken)
    with pytest.raises(ValueError, match="The loss is nan") as caught:
        trainer.erase("a cat", name="ours", callback=lambda progress: seen.append(progress.iteration))
    assert saved(tmp_path) == [4]
    assert "checkpoint-4" in caught.value.__notes__[0]
    assert same(train(output_dir=tmp_path, resume="latest"), expected)


def test_out_of_memory_says_what_needs_less(tmp_path: Path) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError) as caught:
        train(callback=fails_at(2, error), output_dir=tmp_path, batch_size=4, gradient_accumulation_steps=2)
    assert caught.value.__notes__[1] == (
        "To need less memory, try, what saves most first: gradient_checkpointing=True (a checkpoint can be resumed "
        "with it); batch_size=1, gradient_accumulation_steps=8; offload=True (a checkpoint can be resumed with it); a "
        "smaller `size`; a `rank` below 2."
    )
    with pytest.raises(torch.OutOfMemoryError) as caught:
        train(callback=fails_at(2, torch.OutOfMemoryError("")), gradient_checkpointing=True, offload=True, rank=1)
    assert caught.value.__notes__ == ["To need less memory, try, what saves most first: a smaller `size`."]


# Signals.


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_waits_for_the_iteration_and_a_second_one_does_not(presses: int, tmp_path: Path) -> None:
    expected, pipe = train(), tiny_pipeline()
    seen: list[int] = []
    pressed: list[int] = []

    def press(*_: object) -> None:
        if len(seen) == 3 and len(pressed) < presses:
            pressed.append(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    pipe.unet.register_forward_pre_hook(press)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        trainer = ESDTrainer(pipe, **PLAIN, output_dir=tmp_path, checkpoint_every=2)
        erasure = trainer.erase("a cat", name="ours", callback=lambda progress: seen.append(progress.iteration))
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(pressed) == presses
    assert not erasure.provenance.complete
    assert seen == ([1, 2, 3, 4] if presses == 1 else [1, 2, 3])
    assert saved(tmp_path) == ([4] if presses == 1 else [2]), "half an iteration is not saved"
    assert same(train(output_dir=tmp_path, resume="latest"), expected)


def reporting(output_dir: Path, iterations: int, every: int) -> None:
    """A training that says where it is, and is slow where it could be killed."""
    sync = checkpoint.sync

    def slow(*paths: Path) -> None:
        if len(paths) > 1:
            print("writing", flush=True)
            time.sleep(0.02)
        sync(*paths)

    def report(progress: Progress) -> None:
        print("iteration", progress.iteration, flush=True)
        time.sleep(0.02)

    setattr(checkpoint, "sync", slow)  # noqa: B010
    train(iterations=iterations, checkpoint_every=every, output_dir=output_dir, resume="latest", callback=report)


class Trainings:
    """Trainings in processes of their own, one after the other."""

    def __init__(self, launcher: Launcher, messages: Path) -> None:
        self.launcher, self.messages = launcher, messages

    def start(self, folder: Path, iterations: int, every: int) -> int:
        """Go on with a training. Returns the number of the process."""
        options = {"output_dir": folder, "iterations": iterations, "every": every}
        (process,) = self.launcher.start(self.messages, reporting, n=1, **options)
        return process

    def wait(self, word: str) -> list[int]:
        """Wait for a line that begins so. Returns the numbers in it, after those of iterations in lines before."""
        return self.launcher.read(word, also="iteration")


@pytest.fixture
def trainings(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    return Trainings(launcher, tmp_path_factory.mktemp("messages"))


def check_kills(kills: int, iterations: int, folder: Path, trainings: Trainings) -> None:
    """A training that is killed again and again, every second time while it writes, gives the same bits."""
    chance, newest, cut_off = random.Random(0), 0, 0
    for kill in range(kills):
        process = trainings.start(folder, iterations, 1)
        for _ in range(chance.randrange(2, 6)):
            trainings.wait("iteration")
        if kill % 2 == 0:
            trainings.wait("writing")
        else:
            time.sleep(chance.random() * 0.05)
        os.kill(process, signal.SIGKILL)
        assert trainings.wait("ended")[-1] == -signal.SIGKILL
        names = [path.name for path in (folder / "ours").iterdir() if "checkpoint-" in path.name]
        cut_off += any(name.startswith(".") for name in names)
        present = [int(name.partition("-")[2]) for name in names if not name.startswith(".")]
        assert max(present) > newest, "it goes on"
        newest = max(present)
    assert cut_off >= 1, "some were cut off while they wrote"
    assert newest < iterations
    resumed = train(iterations=iterations, output_dir=folder, resume="latest")
    assert saved(folder) == [iterations], "and leftovers are removed"
    assert same(resumed, train(iterations=iterations))


def test_a_training_survives_kills(tmp_path: Path, trainings: Trainings) -> None:
    check_kills(3, 30, tmp_path, trainings)


@pytest.mark.slow
def test_a_training_survives_many_kills(tmp_path: Path, trainings: Trainings) -> None:
    check_kills(20, 200, tmp_path, trainings)


def test_sigterm_saves_and_then_terminates(tmp_path: Path, trainings: Trainings) -> None:
    process = trainings.start(tmp_path, 1000, 1000)
    for _ in range(3):
        trainings.wait("iteration")
    os.kill(process, signal.SIGTERM)
    *iterations, status = trainings.wait("ended")
    assert status == -signal.SIGTERM
    (last,) = saved(tmp_path)
    assert last == max([3, *iterations]), "every iteration that was made"
    end = stop_at(last + 1)
    resumed = train(iterations=1000, output_dir=tmp_path, resume="latest", callback=end)
    assert same(resumed, train(iterations=1000, callback=end))
