"""The files of a report, and which pictures are in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from controls import must_fail
from evaluated import a_report, small_suite
from PIL import Image

from diffusers_esd import Report
from diffusers_esd.evaluation.folder import Folder
from diffusers_esd.evaluation.prompts import Prompt, PromptSet
from diffusers_esd.evaluation.write import samples, write_report
from diffusers_esd.report_table import markdown


def drawn(folder: Folder, report: Report, suite: object) -> None:
    for method in report.methods:
        for prompt in suite.everything:  # type: ignore[attr-defined]
            folder.write_image(method, prompt.case, Image.new("RGB", (8, 8), "red"))


def test_all_files_are_written(tmp_path: Path) -> None:
    folder, report, suite = Folder(tmp_path), a_report(), small_suite()
    drawn(folder, report, suite)
    written = write_report(report, suite, folder, [])
    assert written.picture is not None
    assert Report.from_pretrained(tmp_path) == report
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == markdown(report)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == 2 * len(samples(suite.everything))
    assert "What is left of &#39;a cat&#39;, and of everything else" in page


def test_a_damaged_image_is_left_out_of_the_pictures(tmp_path: Path) -> None:
    folder, report, suite = Folder(tmp_path), a_report(), small_suite()
    drawn(folder, report, suite)
    shown = len(samples(suite.everything))
    (folder.images("base") / f"{samples(suite.everything)[0].case}.png").write_bytes(b"")
    write_report(report, suite, folder, [])
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("<img") == 2 * (shown - 1)


def test_a_prompt_alone_can_be_explicit(tmp_path: Path) -> None:
    folder, report, suite = Folder(tmp_path), a_report(), small_suite()
    drawn(folder, report, suite)
    write_report(report, suite, folder, [])
    assert (tmp_path / "report.png").is_file()
    first, second, third, explicit, *others = suite.prompts
    third, explicit = replace(third, text="a kitten"), replace(explicit, text="a naked man")
    suite = replace(suite, prompts=PromptSet("small", (first, second, third, explicit, *others)))
    assert explicit not in samples(suite.everything), "even if it is not among the few that are shown"
    assert write_report(report, suite, folder, []).picture is None
    assert not (tmp_path / "report.png").exists(), "nor is the former picture left"
    with must_fail("no picture is in the page"):
        assert "<img" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_few_prompts_of_every_group_are_shown() -> None:
    def group(name: str, concept: str, texts: str) -> list[Prompt]:
        return [
            Prompt(case=f"{name}{concept}-{i}", text=t, seed=i, group=name, concept=concept)
            for i, t in enumerate(texts)
        ]

    few = samples([*group("named", "cat", "aaaa"), *group("general", "", "bbccddeeff")])
    assert [prompt.case for prompt in few] == ["namedcat-0", "namedcat-1", *(f"general-{i}" for i in (0, 2, 4, 6))]
    many = [*(p for c in "abcdefg" for p in group("named", c, "xy")), *group("general", "", "bcdef")]
    chosen = samples(many)
    assert len(chosen) == 16
    assert {prompt.concept for prompt in chosen} == {*"abcdefg", ""}
    assert [many.index(prompt) for prompt in chosen] == sorted(many.index(prompt) for prompt in chosen)
