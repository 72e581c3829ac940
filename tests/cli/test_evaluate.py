"""The command `evaluate`: from options to a report, and what is refused before the model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from controls import must_fail

from diffusers_esd import Report
from diffusers_esd.cli import main
from diffusers_esd.cli.evaluate import SUITES
from diffusers_esd.evaluation.suites import SuiteName
from diffusers_esd.report_table import table


def test_the_names_are_those_of_the_package() -> None:
    assert get_args(SuiteName) == SUITES


def test_from_options_to_a_report(
    model: str, erasures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = [
        "evaluate", model, "--erasure", f"{erasures[0]}=0.5", "-o", str(tmp_path / "new"),
        "--judge", "evaluated:Everything", "--steps", "1", "--guidance-scale", "2", "--batch-size", "16",
        "--device", "cpu", "-q", "--baseline", "negative-prompt",
    ]  # fmt: skip
    assert main(call) == 0
    printed = capsys.readouterr()
    report = Report.from_pretrained(tmp_path / "new")
    assert printed.out == f"{table(report)}\n{tmp_path / 'new' / 'report.html'}\n"
    assert printed.err == ""
    assert report.options == {"num_inference_steps": 1, "guidance_scale": 2.0}
    assert report.methods == ("base", "no-a-cat", "negative-prompt")
    assert report.columns[1].record["erasures"][0]["scale"] == 0.5
    assert report.columns[2].erases == ("a cat",)
    assert main([*call, "--steps", "2"]) == 1
    assert "has images of another evaluation: options differ" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--images", "3"], 1, "error: --images is for the suite objects and styles, and --suite is quick."),
        (["--suite", "objects", "--words", "x"], 1, "error: --words is for the suite quick and attack, and --suite is"),
        (["--suite", "quick", "--reference", "x"], 1, "error: --reference is for the suite fidelity, and --suite is"),
        (["--suite", "all"], 2, "argument --suite: invalid choice: 'all'"),
        (["--tolerate-damaged", "-1"], 2, "argument --tolerate-damaged: must be a whole number, 0 or more; got '-1'."),
        (["--batch-size", "0"], 2, "argument --batch-size: must be a whole number, 1 or more; got '0'."),
        (["--judge", "clip"], 1, "error: There is no judge 'clip'; there are nudenet, "),
        (["--judge", "no_such_module:x"], 1, "error: No module named 'no_such_module'"),
        (["--baseline", "none"], 2, "argument --baseline: invalid choice: 'none'"),
        (["-o", "{file}"], 1, "error: {file} is a file; give a folder."),
        (["-o", "{other}"], 1, "error: {other} contains something that is not an evaluation; give a new folder."),
        (["-o", "{file}/new"], 1, "error: [Errno 20] {file}/new cannot be written: Not a directory"),
        (["--words", "x", "--erasure", "{second}"], 1, "--words is about one concept, and the erasures have 'a cat',"),
        (["--erasure", "nowhere"], 1, "error: Nothing to read at nowhere"),
    ],
)  # fmt: skip
def test_mistakes_are_printed_before_the_model_is_loaded(
    arguments: list[str],
    code: int,
    message: str,
    erasures: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    names = {"file": tmp_path / "file", "other": tmp_path / "other", "second": erasures[1]}
    given = [argument.format(**names) for argument in arguments]
    call = ["evaluate", "no/such/model", "--erasure", erasures[0], "-o", str(tmp_path / "new"), *given]
    try:
        status: Any = main(call)
    except SystemExit as ended:
        status = ended.code
    assert status == code
    printed = capsys.readouterr().err
    assert message.format(**names) in printed
    assert not (tmp_path / "new").exists()
    with must_fail("the model was not looked for"):
        assert "no/such/model" in printed
