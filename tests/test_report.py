"""A report: JSON both ways, damaged files, and two reports beside each other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from controls import must_fail
from evaluated import a_report
from PIL import Image

from diffusers_esd import Report
from diffusers_esd.report_rows import Column, Estimate


def saved(folder: Path, report: Report) -> Path:
    file = folder / "report.json"
    file.write_text(json.dumps(report.to_dict()), encoding="utf-8")
    return file


def another(**changes: Any) -> Report:
    """The same base model beside another method."""
    report = a_report(**changes)
    other = Estimate(0.5, 0.1, 0.9, 4, 4)

    def renamed(figures: dict[str, Any]) -> dict[str, Any]:
        return {("no-a-dog" if name == "no-a-cat" else name): value for name, value in figures.items()}

    first, second = report.rows
    figures = {"base": first.figures["base"], "no-a-dog": other}
    labels = {label: renamed(by_method) for label, by_method in first.by_label.items()}
    first = replace(first, figures=figures, differences=renamed(first.differences), by_label=labels)
    columns = (report.columns[0], Column("no-a-dog", ("a dog",), {}))
    return replace(report, columns=columns, rows=(first, second))


def test_json_both_ways(tmp_path: Path) -> None:
    report = a_report()
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    Image.new("RGB", (4, 3), "red").save(tmp_path / "report.png")
    saved(tmp_path, report)
    for path in (tmp_path, tmp_path / "report.json"):
        read = Report.from_pretrained(path)
        assert read == report
        assert read.picture is not None
        assert read.picture.size == (4, 3)
    with must_fail("a figure counts"):
        changed = replace(report.rows[0], figures={"base": Estimate(0.7, 0.3, 0.95, 4, 4)})
        assert replace(report, rows=(changed, report.rows[1])) == report


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("version",), 2, r"The report is of version 2; this version reads 1\.$"),
        (("rows",), None, r"damaged"),
        (("rows", 0, "figures", "base", "value"), "high", r"damaged .*expected a number, got 'high'"),
        (("rows", 0, "figures", "base", "value"), float("nan"), r"damaged .*expected a finite number"),
        (("rows", 0, "figures", "base", "judged"), -1, r"damaged .*expected 0 or more, got -1"),
        (("rows", 0, "measure"), "colour", r"damaged .*expected one of 'rate', 'mean', 'count', 'distance'"),
        (("columns", 0, "erases"), "a cat", r"damaged"),
        (("judges",), [], r"damaged"),
    ],
)  # fmt: skip
def test_damaged_and_newer_reports_are_refused(path: tuple[Any, ...], value: Any, message: str, tmp_path: Path) -> None:
    values = json.loads(json.dumps(a_report().to_dict()))
    part = values
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    (tmp_path / "report.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=rf"report\.json: .*{message}"):
        Report.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', "3"])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ValueError, match=r"report\.json: "):
        Report.from_pretrained(tmp_path)


def test_a_missing_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^There is no report at .*nowhere\.$"):
        Report.from_pretrained(tmp_path / "nowhere")


def test_a_damaged_picture_is_left_out(tmp_path: Path) -> None:
    saved(tmp_path, a_report())
    (tmp_path / "report.png").write_bytes(b"PNG")
    with pytest.warns(UserWarning, match=r"report\.png is damaged"):
        assert Report.from_pretrained(tmp_path).picture is None


def test_rows_are_found() -> None:
    report = a_report()
    assert report.methods == ("base", "no-a-cat")
    assert report.row("named", "a cat") == report.rows[0]
    assert report.row("general", judge="scores") == report.rows[1]
    with pytest.raises(
        KeyError, match=r"0 rows are 'named' of 'a dog'; the report has general \(scores\), named: a cat"
    ):
        report.row("named", "a dog")


def test_columns_of_two_reports_stand_beside_each_other() -> None:
    both = a_report().beside(another(notes=("Another.",)))
    assert both.methods == ("base", "no-a-cat", "no-a-dog")
    row = both.row("named", "a cat")
    assert {name: figure.value for name, figure in row.figures.items()} == {
        "base": 0.75,
        "no-a-cat": 0.25,
        "no-a-dog": 0.5,
    }
    assert row.differences.keys() == {"no-a-cat", "no-a-dog"}
    assert row.by_label["a dog"].keys() == {"base", "no-a-cat", "no-a-dog"}
    assert both.notes == ("A note.", "Another.")
    assert a_report().beside(a_report()) == a_report()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suite": "objects"}, "their suite differ: 'quick' and 'objects'"),
        ({"options": {"num_inference_steps": 50}}, "their options differ: num_inference_steps: 2 and 50"),
        ({"judges": {"a judge": {"weights": "3"}, "scores": {}}}, r"their judges differ: a judge: weights: '2+'"),
        ({"attacks": {"x": {"steps": 1}}}, "their attacks differ: x: None and "),
        ({"prompts": {"name": "quick"}}, "their prompts differ: digest: '1+' and None; licence"),
    ],
)  # fmt: skip
def test_reports_that_cannot_be_compared_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^The reports cannot be compared, because {message}"):
        a_report().beside(another(**changes))


def test_figures_of_the_same_method_must_be_equal() -> None:
    other = another()
    figures = {**other.rows[0].figures, "base": Estimate(0.5, 0.1, 0.9, 4, 4)}
    other = replace(other, rows=(replace(other.rows[0], figures=figures), other.rows[1]))
    with pytest.raises(ValueError, match=r"^Both reports have figures of base, and they differ\.$"):
        a_report().beside(other)


def test_what_a_report_is_about() -> None:
    assert a_report().is_about("0" * 64)
    with must_fail("other weights"):
        assert a_report().is_about("1" * 64)
