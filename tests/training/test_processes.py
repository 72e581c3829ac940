"""Several processes train as one with their batches together; what one of them decides, all do."""

from __future__ import annotations

import os
import random
import signal
import time
import warnings
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
from diffusers_esd.training.launch import joined
from diffusers_esd.training.processes import Processes

pytestmark = pytest.mark.filterwarnings("ignore:.*which hardly trains them")

RATE = 1e-2
LIMITS = Limits(
    words=20, neighbours=4, pairs=8, contexts=4, loss_prompts=8, steps=2, trajectories=8,
    concept_trajectories=4, largest_leak=float("inf"), anchor_candidates=2,
)  # fmt: skip
PLAIN: dict[str, Any] = {
    "group": "esd-x-strict", "num_inference_steps": 4, "iterations": 6, "rank": 2, "learning_rate": RATE,
    "preserve": (),
}  # fmt: skip
CONFINED: dict[str, Any] = {
    "group": r"(down|mid).*(attn1.to_q|attn2.to_k|conv1)", "preserve": "vocabulary", "anchor": "auto",
    "limits": LIMITS, "gradient_accumulation_steps": 2, "max_grad_norm": 0.1,
}  # fmt: skip
NINE = [f"a {word}" for word in ("cat", "dog", "pig", "frog", "bus", "car", "owl", "fish", "key")]  # one member each
NO_MORE = 15.0  # seconds in which processes must end after one of them has failed


def train(
    concept: Any = ("a cat", "a dog"),
    *,
    factor: float = 1.0,
    dtype: torch.dtype = torch.float32,
    callback: Callable[[Progress], object] | None = None,
    **options: Any,
) -> Erasure:
    """A training of a new pipeline, whose predictions are multiplied by a factor."""
    pipe = tiny_pipeline().to(dtype)
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(factor)
    return ESDTrainer(pipe, **{**PLAIN, **options}).erase(concept, name="ours", callback=callback)


def rank() -> int:
    return int(os.environ["RANK"])


def same(a: Erasure, b: Erasure) -> bool:
    """Whether two erasures are equal, bit for bit, but for the time they took."""
    return is_equal(with_provenance(a, seconds=0.0), with_provenance(b, seconds=0.0))


def near(a: Erasure, b: Erasure) -> None:
    """Assert that two trainings went the same way but for rounding."""
    assert a.weights.keys() == b.weights.keys()
    for key, weight in a.weights.items():
        torch.testing.assert_close(weight, b.weights[key], rtol=0, atol=RATE / 20)
    torch.testing.assert_close(a.provenance.history, b.provenance.history, rtol=1e-2, atol=1e-3)
    for name in ("evaluations", "iterations", "preserved", "anchors", "complete"):
        assert getattr(a.provenance, name) == getattr(b.provenance, name), name


# As one process.


@pytest.mark.parametrize(
    ("options", "batch"),
    [
        ({}, 1),
        ({"batch_size": 2, "rollout": "teacher"}, 2),
        ({"trajectory": "fresh", "group": "esd-u"}, 1),
        (CONFINED, 1),
        ({"preserve": ("a bus", "a pig", "a frog"), "null_space": False, "trajectory": "fresh", "iterations": 3}, 1),
        ({"concept": "a cat", "erase_from": "a dog"}, 1),
        ({"iterations": 40, "stop_at_alignment": -0.5, "batch_size": 2}, 2),
        pytest.param(
            {"iterations": 95, "stop_at_alignment": 0.9, "concept": NINE, "num_inference_steps": 2},
            1,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["pool", "batches of two", "fresh", "null space", "preserve", "erase_from", "resting", "one member"],
)  # fmt: skip
def test_two_processes_are_as_one_with_both_batches(
    options: dict[str, Any], batch: int, launcher: Launcher, tmp_path: Path
) -> None:
    first, second = launcher.run(tmp_path, train, **options)
    assert same(first, second)
    assert first.provenance.seconds == second.provenance.seconds
    one = train(**{**options, "batch_size": 2 * batch})
    near(first, one)
    assert first.config.batch_size == batch
    assert (first.provenance.processes, one.provenance.processes) == (2, 1)
    if not options:
        with must_fail("the second process takes part"):
            near(first, train())


def test_gradients_that_overflow_in_one_process_are_skipped_in_both(launcher: Launcher, tmp_path: Path) -> None:
    options: dict[str, Any] = {"dtype": torch.float16, "factor": 100.0, "group": "esd-u", "num_inference_steps": 5}
    first, second = launcher.run(tmp_path, train, **options)
    assert same(first, second)
    assert first.provenance.iterations == PLAIN["iterations"]
    with must_fail("some attempts were made again"):
        assert first.provenance.evaluations["grad"] <= 2 * PLAIN["iterations"]
    texts = launcher.run(tmp_path / "worse", train, **{**options, "factor": 1e6})
    assert all(text.startswith("ValueError: The loss is ") for text in texts), texts


def test_a_refinement_is_shared_too(launcher: Launcher, tmp_path: Path) -> None:
    parts = [train("a cat"), train("a dog")]
    first, second = launcher.run(tmp_path, refined, parts=parts, batch_size=1)
    assert same(first, second)
    near(first, refined(parts, 2))
    assert first.provenance.processes == 2


def refined(parts: list[Erasure], batch_size: int) -> Erasure:
    options: dict[str, Any] = {"iterations": 5, "rank": 2, "name": "ours", "limits": LIMITS, "batch_size": batch_size}
    return refine(tiny_pipeline(), parts, **options)


def test_a_plan_counts_the_evaluations_of_all_processes(launcher: Launcher, tmp_path: Path) -> None:
    plan, _ = launcher.run(tmp_path / "plan", planned)
    facts = launcher.run(tmp_path, train, iterations=20)[0].provenance
    assert plan.evaluations["grad"] == facts.evaluations["grad"] == 40
    assert plan.evaluations["no_grad"] == pytest.approx(facts.evaluations["no_grad"], rel=0.1)


def planned() -> Any:
    """A plan, which does not wait for other processes."""
    time.sleep(rank())
    return ESDTrainer(tiny_pipeline(), **{**PLAIN, "iterations": 20}).erase(["a cat", "a dog"], dry_run=True)


def test_processes_can_train_alone(launcher: Launcher, tmp_path: Path) -> None:
    found = launcher.run(tmp_path, alone)
    for erasure, concept in zip(found, ["a cat", "a dog"], strict=True):
        assert same(erasure, train(concept))


def alone() -> Erasure:
    return train(["a cat", "a dog"][rank()], data_parallel=False)


def test_processes_that_would_train_different_things_are_refused(launcher: Launcher, tmp_path: Path) -> None:
    first, second = launcher.run(tmp_path, different)
    message = (
        "ValueError: `concept` is ['a dog'] in process 1, and ['a cat'] in process 0. Processes of one launcher train "
        "one erasure together. To train another in each process, give data_parallel=False."
    )
    assert second == message
    assert first == f"RuntimeError: Process 1 of the training failed: {message}"


def different() -> Erasure:
    return train(["a cat", "a dog"][rank()])


# What one process does.


def test_the_main_process_speaks(launcher: Launcher, tmp_path: Path) -> None:
    first, second = launcher.run(tmp_path, speaking, output_dir=tmp_path / "runs")
    assert first == ([1, 2, 3, 4, 5, 6], 1, True)
    assert second == ([], 0, True)
    written = sorted(path.name for path in (tmp_path / "runs" / "ours").iterdir())
    assert written == ["checkpoint-6", "history.jsonl", "logs", "samples"]
    assert [path.name for path in (tmp_path / "runs" / "ours" / "samples").iterdir()] == ["iteration-6.png"]
    assert len((tmp_path / "runs" / "ours" / "history.jsonl").read_text().splitlines()) == 6, "one process writes"


def speaking(output_dir: Path) -> tuple[list[int], int, bool]:
    """Iterations of which the callback was told, number of warnings, whether the pipeline is as it was."""
    pipe, seen = tiny_pipeline(), []
    before = dict(pipe._progress_bar_config)
    watch = {"output_dir": output_dir, "sample_every": 6, "sample_prompts": ["a cat"], "report_to": "tensorboard"}
    trainer = ESDTrainer(pipe, **PLAIN, **watch)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        trainer.erase(["a cat", "a dog"], name="ours", callback=lambda progress: seen.append(progress.iteration))
    told = [warning for warning in found if "hardly trains" in str(warning.message)]
    return seen, len(told), pipe._progress_bar_config == before


# Endings.


def ending(what: str, output_dir: Path) -> Erasure:
    """A training in which something happens at the third iteration, or in its middle in process 1."""
    pipe, seen = tiny_pipeline(), []
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

    def callback(progress: Progress) -> object:
        if progress.iteration == 3 and what == "error":
            raise ZeroDivisionError("mine")
        if progress.iteration == 3 and what == "interrupt":
            raise KeyboardInterrupt
        return "stop" if progress.iteration == 3 and what == "stop" else None

    def hook(*_: object) -> None:
        seen.append(1)
        if len(seen) == 18 and rank() == 1 and what not in ("error", "stop", "interrupt"):
            if what == "broken":
                raise torch.OutOfMemoryError("no memory")
            os.kill(os.getpid(), getattr(signal, what))

    pipe.unet.register_forward_pre_hook(hook)
    options = {**PLAIN, "iterations": 100, "output_dir": output_dir, "resume": "latest"}
    return ESDTrainer(pipe, **options).erase("a cat", name="ours", callback=callback)


@pytest.mark.parametrize("what", ["stop", "SIGINT", "interrupt"])
def test_what_ends_one_process_ends_all_after_the_same_iteration(what: str, launcher: Launcher, tmp_path: Path) -> None:
    first, second = launcher.run(tmp_path / what, ending, what=what, output_dir=tmp_path)
    assert same(first, second)
    assert not first.provenance.complete
    assert 3 <= first.provenance.iterations < 10
    (path,) = (tmp_path / "ours").glob("checkpoint-*")
    assert path.name == f"checkpoint-{first.provenance.iterations}"


def test_sigterm_ends_all_and_saves(launcher: Launcher, tmp_path: Path) -> None:
    launcher.start(tmp_path / "messages", ending, what="SIGTERM", output_dir=tmp_path)
    assert launcher.read("ended") == [-signal.SIGTERM] * 2
    (path,) = (tmp_path / "ours").glob("checkpoint-*")
    assert int(path.name.partition("-")[2]) >= 3


@pytest.mark.parametrize("what", ["error", "broken"])
def test_an_error_in_one_process_ends_all_soon(what: str, launcher: Launcher, tmp_path: Path) -> None:
    started = time.monotonic()
    first, second = launcher.run(tmp_path / what, ending, what=what, output_dir=tmp_path)
    assert time.monotonic() - started < NO_MORE
    (path,) = (tmp_path / "ours").glob("checkpoint-*")
    if what == "error":
        assert first == "ZeroDivisionError: mine"
        assert second == "RuntimeError: Process 0 of the training failed: ZeroDivisionError: mine"
        assert path.name == "checkpoint-3"
    else:
        assert second == "OutOfMemoryError: no memory"
        assert first.startswith("RuntimeError: "), "the connection is closed"
        assert path.name == "checkpoint-0", "half an iteration is not saved"


# Checkpoints.


def test_a_resumed_training_is_the_same_bit_for_bit(launcher: Launcher, tmp_path: Path) -> None:
    options = {**CONFINED, "iterations": 4, "resume": "latest"}
    expected = launcher.run(tmp_path / "1", train, **options, output_dir=tmp_path / "whole")
    run: dict[str, Any] = {**options, "output_dir": tmp_path / "cut"}
    cut = launcher.run(tmp_path / "2", train_until_two, **run)
    assert [erasure.provenance.iterations for erasure in cut] == [2, 2]
    resumed = launcher.run(tmp_path / "3", train, **run)
    assert all(same(erasure, expected[0]) for erasure in (*resumed, expected[1]))
    with must_fail("it was cut off"):
        assert same(cut[0], expected[0])
    with pytest.raises(
        ValueError, match=r"of another training: `number of processes` is 1, in the checkpoint 2\. To go on from it"
    ):
        train(**run)


def train_until_two(**options: Any) -> Erasure:
    return train(**options, callback=lambda progress: "stop" if progress.iteration == 2 else None)


def slow(output_dir: Path, iterations: int) -> Erasure:
    def callback(progress: Progress) -> None:
        print("iteration", progress.iteration, flush=True)
        time.sleep(0.01)

    run: dict[str, Any] = {"output_dir": output_dir, "resume": "latest", "checkpoint_every": 1}
    return train(callback=callback, iterations=iterations, **run)


def check_kills(kills: int, iterations: int, launcher: Launcher, folder: Path) -> None:
    """A training whose processes are killed again and again gives the same bits."""
    chance, runs = random.Random(0), folder / "runs"
    (expected, _) = launcher.run(folder / "whole", train, iterations=iterations)
    for kill in range(kills):
        processes = launcher.start(folder / f"kill-{kill}", slow, output_dir=runs, iterations=iterations)
        for _ in range(chance.randrange(2, 5)):
            launcher.read("iteration")
        time.sleep(chance.random() * 0.05)
        for process in processes:
            os.kill(process, signal.SIGKILL)
        assert launcher.read("ended") == [-signal.SIGKILL] * 2
    newest = max(int(path.name.partition("-")[2]) for path in (runs / "ours").glob("checkpoint-*"))
    assert kills <= newest < iterations
    for erasure in launcher.run(folder / "resumed", train, output_dir=runs, resume="latest", iterations=iterations):
        assert same(erasure, expected)


def test_a_training_survives_a_kill_of_all_processes(launcher: Launcher, tmp_path: Path) -> None:
    check_kills(1, 12, launcher, tmp_path)


@pytest.mark.slow
def test_a_training_survives_many_kills_of_all_processes(launcher: Launcher, tmp_path: Path) -> None:
    check_kills(15, 150, launcher, tmp_path)


# Parts.


@pytest.mark.parametrize(("n", "number"), [(4, 2), (5, 2), (1, 2), (2, 3), (3, 3)])
def test_rows_are_shared_and_none_is_left_out(n: int, number: int) -> None:
    parts = [Processes(i, number).rows(n) for i in range(number)]
    covered = [i for part in parts for i in range(part.start, part.stop)]
    assert set(covered) == set(range(n))
    assert all(part.start < part.stop <= n for part in parts), "a process without a share takes the first row"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_results_of_all_are_gathered(dtype: torch.dtype, launcher: Launcher, tmp_path: Path) -> None:
    values = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    for n in (5, 4, 1):
        for rows, mean in launcher.run(tmp_path / str(n), gathered, values=values[:n]):
            assert torch.equal(rows, values[:n])
            assert rows.dtype == dtype
            torch.testing.assert_close(mean, values[:n].float().mean())


def gathered(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    processes = joined(torch.device("cpu"))
    own = values[processes.rows(len(values))]
    return processes.gather(len(values), own, own.float().mean())
