"""`evaluate`: from a pipeline and erasures to a report; killed, without room, and by two processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import evaluated
import numpy as np
import pytest
import torch
from controls import must_fail
from evaluated import Bright, Brightness, brightness, called, images_of, run_small, small_suite
from launched import Launcher
from made import made
from PIL import Image
from pipelines import same, state_of
from tiny import style_adapter, tiny_pipeline

from diffusers_esd import Erasure, Report, evaluate


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    folder = tmp_path_factory.mktemp("undisturbed") / "new"
    return folder, run_small(folder)[0]


def same_reports(a: Report, b: Report) -> bool:
    """Whether two reports are equal but for their dates."""
    return replace(a, created="") == replace(b, created="")


def read(file: Path) -> Any:
    return np.asarray(Image.open(file), dtype=int)


def near(a: Path, b: Path) -> bool:
    """Whether two evaluations have the same images."""
    first, second = images_of(a), images_of(b)
    return first.keys() == second.keys() and all(abs(read(first[k]) - read(second[k])).max() <= 1 for k in first)


def test_the_figures_are_those_of_the_images(undisturbed: tuple[Path, Report]) -> None:
    folder, report = undisturbed
    assert report.methods == ("base", "no-a-cat", "again")
    assert [(row.group, row.concept, row.judge) for row in report.rows] == [
        ("named", "a cat", "bright or dark"),
        ("general", "", "bright or dark"),
        ("named", "a cat", "brightness"),
        ("general", "", "brightness"),
    ]
    for method in report.methods:
        values = [brightness(Image.open(images_of(folder)[f"{method}/named-{i:04d}"])) for i in range(4)]
        row = report.row("named", "a cat", judge="brightness")
        assert row.figures[method].value == pytest.approx(np.mean(values))
        rate = report.row("named", "a cat", judge="bright or dark").figures[method]
        assert rate.value == np.mean([value > 0.5 for value in values])
        assert (rate.judged, rate.expected) == (4, 4)
    again = report.row("general", judge="brightness").differences["again"]
    assert (again.value, again.low, again.high) == (0, None, None), "the base model again"
    with must_fail("the erasure changes images"):
        assert report.row("general", judge="brightness").differences["no-a-cat"].value == 0
    assert Report.from_pretrained(folder) == report
    assert {path.name for path in folder.iterdir()} == {
        "images", "judgements", "report.json", "report.md", "report.html", "report.png",
    }  # fmt: skip


def test_a_second_call_draws_and_judges_nothing(undisturbed: tuple[Path, Report]) -> None:
    folder, report = undisturbed
    times = {case: file.stat().st_mtime_ns for case, file in images_of(folder).items()}
    second, drawn = run_small(folder)
    assert (same_reports(second, report), drawn) == (True, 0)
    assert {case: file.stat().st_mtime_ns for case, file in images_of(folder).items()} == times


def test_a_killed_evaluation_goes_on(undisturbed: tuple[Path, Report], launcher: Launcher, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    launcher.start(tmp_path / "0", run_small, n=1, output=folder, after=2)
    assert launcher.read("ended") == [-9]
    before = {case: file.stat().st_mtime_ns for case, file in images_of(folder).items()}
    assert len(before) == 8 + 8 + 4
    ((report, drawn),) = launcher.run(tmp_path / "1", run_small, n=1, output=folder)
    assert drawn == 4
    assert {case: images_of(folder)[case].stat().st_mtime_ns for case in before} == before
    assert same_reports(report, undisturbed[1])
    assert near(folder, undisturbed[0])


def test_without_room_nothing_is_half_written(
    undisturbed: tuple[Path, Report], launcher: Launcher, tmp_path: Path
) -> None:
    folder = tmp_path / "new"
    (message,) = launcher.run(tmp_path / "0", run_small, n=1, output=folder, after=1, how="full")
    assert message.startswith("OSError: ")
    assert "images/again/named-0002.png cannot be written (File too large); what was drawn stays." in message
    assert len(images_of(folder)) == 8 + 8 + 2
    assert not list(folder.rglob(".*")), "no file is half written"
    ((report, drawn),) = launcher.run(tmp_path / "1", run_small, n=1, output=folder)
    assert (same_reports(report, undisturbed[1]), drawn) == (True, 6)


def test_two_processes_share_the_prompts(undisturbed: tuple[Path, Report], launcher: Launcher, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    (first, own), (second, others) = launcher.run(tmp_path / "0", run_small, output=folder)
    assert (own, others) == (4, 4)
    assert first == second
    assert near(folder, undisturbed[0])
    for row, expected in zip(first.rows, undisturbed[1].rows, strict=True):
        for method, figure in row.figures.items():
            assert figure.value == pytest.approx(expected.figures[method].value, abs=0.005)
    assert not list(folder.rglob(".*"))


def test_one_of_several_processes_prints(launcher: Launcher, tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "model")
    made(pipe, rank=2, group="esd-x").save_pretrained(tmp_path / "no-cat")
    call = [
        "evaluate", str(tmp_path / "model"), "--erasure", str(tmp_path / "no-cat"), "-o", str(tmp_path / "new"),
        "--judge", "evaluated:Everything", "--steps", "1", "--batch-size", "32", "--device", "cpu", "-q",
    ]  # fmt: skip
    first, second = launcher.run(tmp_path / "0", called, arguments=call)
    assert first[0] == 0
    assert first[1].endswith(f"{tmp_path / 'new' / 'report.html'}\n")
    assert second == (0, "")


def test_the_pipeline_is_left_and_its_adapters_are_part_of_the_base(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    style_adapter(pipe)
    pipe.set_progress_bar_config(disable=True, leave=False)
    erasure = made(pipe, rank=2, group="esd-x")
    erasure.apply(pipe)  # as after a training
    before, scales = state_of(pipe), pipe.get_active_adapters()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    report = evaluate(pipe, {erasure: 0.5}, suite=small_suite(Brightness()), output_dir=tmp_path)
    same(before, state_of(pipe))
    assert pipe.get_active_adapters() == scales == ["style", "no-a-cat"]
    assert pipe._progress_bar_config == {"disable": True, "leave": False}
    assert torch.equal(torch.get_rng_state(), state)
    assert list(report.columns[0].record["adapters"]) == ["style"], "the erasure is not part of the base"
    assert report.columns[1].record["erasures"][0]["scale"] == 0.5
    plain = evaluate(
        tiny_pipeline(), erasure, suite=small_suite(Brightness()), output_dir=tmp_path / "images" / "plain"
    )
    with must_fail("the style changes the base"):
        assert plain.rows[0].figures["base"] == report.rows[0].figures["base"]


def test_several_erasures_are_columns_of_their_own_and_together(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    cat, dog = made(pipe, rank=2, group="esd-x"), made(pipe, "a dog", rank=2, group="esd-x", seed=1)
    suite = small_suite(Bright())
    prompts = [replace(p, concept="a dog", group="named") if p.text == "a dog" else p for p in suite.prompts]
    suite = replace(suite, prompts=replace(suite.prompts, prompts=tuple(prompts)))
    report = evaluate(pipe, [cat, dog], suite=suite, output_dir=tmp_path)
    assert report.methods == ("base", "no-a-cat", "no-a-dog", "all together")
    assert report.columns[3].erases == ("a cat", "a dog")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Which erasure harms which concept" in page
    assert page.count('<td class="own"') == 2
    for erasure in (cat, dog):
        assert erasure.with_report(report).report == report
        folder = erasure.with_report(report).save_pretrained(tmp_path / "images" / "saved" / erasure.name)
        loaded = Erasure.from_pretrained(folder)
        assert loaded.report == report
        assert loaded.report.picture.tobytes() == report.picture.tobytes()
        erasure.save_pretrained(folder)
        assert {"report.json", "report.png"} & {file.name for file in folder.iterdir()} == set()
    other = made(pipe, rank=2, group="esd-x", seed=7)
    with pytest.raises(ValueError, match=r"none of which has the weights of no-a-cat\. Evaluate this erasure\.$"):
        other.with_report(report)


def test_explicit_concepts_are_not_shown(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    report = evaluate(
        pipe, made(pipe, "nudity", rank=2, group="esd-x"), suite=small_suite(Bright()), output_dir=tmp_path
    )
    assert report.picture is None
    assert not (tmp_path / "report.png").exists()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Pictures are not shown, because a concept or a prompt is explicit." in page
    assert "<img" not in page
    with must_fail("others are shown"):
        evaluate(
            pipe, made(pipe, rank=2, group="esd-x"), suite=small_suite(Bright()), output_dir=tmp_path / "images" / "2"
        )
        assert "<img" not in (tmp_path / "images" / "2" / "report.html").read_text(encoding="utf-8")


def test_options_and_images_are_the_callers(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    report = evaluate(
        pipe, made(pipe, rank=2, group="esd-x"), suite=small_suite(), judges=[Bright(0.25)],
        options={"num_inference_steps": 1}, output_dir=tmp_path, keep_images=False,
    )  # fmt: skip
    assert report.options == {"num_inference_steps": 1, "guidance_scale": 3.0}
    assert report.judges == {"bright or dark": {"threshold": 0.25}}
    assert not (tmp_path / "images").exists()
    assert report.picture is not None
    manifest = json.loads(next((tmp_path / "judgements").rglob("*.json")).read_text())
    assert manifest["depends"]["images"]["options"] == report.options


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "`batch_size` must be 1 or more, got 0"),
        ({"tolerate_damaged": -1}, ValueError, "`tolerate_damaged` must be 0 or more, got -1"),
        ({"options": {"generator": torch.Generator()}}, TypeError, "^`options` must have JSON types: .*Generator"),
        ({"methods": [evaluated.Ending(), evaluated.Ending()]}, ValueError, "^Two methods have the name 'again'"),
        ({"methods": [evaluated.Ending()], "judges": [Bright(), Bright(0.1)]}, ValueError, "^Two judges have the name"),
        ({"methods": [evaluated.Ending()], "judges": []}, ValueError, "^The suite 'small' has no judge; give at least"),
        ({"methods": [evaluated.Ending()], "suite": "quick"}, ValueError, "asks about erasures; give at least one"),
        ({"methods": [evaluated.Ending()], "suite": "other"}, ValueError, "^`suite` must be a Suite or one of quick, "),
        ({"erasures": "nowhere"}, FileNotFoundError, "nowhere"),
        ({"output_dir": Path(__file__).parent, "methods": [evaluated.Ending()]}, FileExistsError, "not an evaluation"),
    ],
)  # fmt: skip
def test_mistakes_are_found_before_anything_is_drawn(
    arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        evaluate(tiny_pipeline(), **{"suite": small_suite(), "output_dir": tmp_path, **arguments})
    assert list(tmp_path.iterdir()) == []
