"""The command `study`: from a folder of pictures to a figure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from drawn import draw_folder

from diffusers_esd.cli import main
from diffusers_esd.study import Key, figure, markdown, means, read_ratings
from diffusers_esd.study.key import read_key


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(draw_folder(tmp_path / "pictures"))


def rate(key: Key, participant: str, file: Path) -> str:
    """A file of ratings, 4 for `original` and 2 for the rest."""
    answers = [(item, 4 if one.condition == "original" else 2) for item, one in key.candidates.items()]
    lines = [f"{key.study},{participant},{item},{rating}" for item, rating in answers]
    file.write_text("\n".join(["study,participant,id,rating", *lines]))
    return str(file)


def test_from_pictures_to_a_figure(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "new" / "study.html"
    assert main(["study", "make", folder, "-o", str(page), "--title", "Mine", "--question", "Alike?", "--blur"]) == 0
    key_file = page.with_name("study-key.csv")
    size = page.stat().st_size / 1e6
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"{page}: 12 pictures to rate, {size:.1f} MB",
        f"{key_file}: the key; participants must not have it",
    ]
    text = page.read_text(encoding="utf-8")
    assert '"title": "Mine", "question": "Alike?", "blur": true' in text
    key = read_key(key_file)
    files = [rate(key, participant, tmp_path / f"{participant}.csv") for participant in ("a1", "a2")]
    output = tmp_path / "figure.svg"
    assert main(["study", "figure", *files, "--key", str(key_file), "-o", str(output)]) == 0
    rated = means(read_ratings(files, key_file))
    assert [(each.condition, each.mean) for each in rated] == [("original", 4), ("esd-x", 2), ("similar artist", 2)]
    assert capsys.readouterr().out == f"{markdown(rated)}\n{output}\n"
    assert output.read_text(encoding="utf-8") == figure(rated)


def test_references_and_seed_are_those_of_the_page(folder: str, tmp_path: Path) -> None:
    studies = []
    for i, options in enumerate(([], ["--references", "5", "--seed", "0"], ["--references", "4"], ["--seed", "1"])):
        assert main(["study", "make", folder, "-o", str(tmp_path / f"{i}.html"), *options]) == 0
        studies.append(read_key(tmp_path / f"{i}-key.csv").study)
    assert studies[0] == studies[1]
    assert len(set(studies)) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["make", "nowhere", "-o", "new/study.html"], 1, "error: There is no folder nowhere."),
        (["make", "nowhere", "-o", "study.pdf"], 1, "error: `output` must end in .html, got study.pdf."),
        (["make", "nowhere", "-o", "study.html", "--references", "0"], 2, "--references: must be a whole number, 1 or"),
        (["figure", "a.csv", "--key", "key.csv", "-o", "figure.png"], 1, "error: --output must end in .svg, got fig"),
        (["figure", "a.csv", "--key", "key.csv", "-o", "new/figure.svg"], 1, "error: There is no file key.csv."),
        (["figure", "a.csv", "-o", "figure.svg"], 2, "--key"),
        (["show"], 2, "invalid choice: 'show'"),
        ([], 2, "COMMAND"),
    ],
)
def test_errors_come_before_anything_is_written(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["study", *arguments])
    except SystemExit as error:
        status = error.code  # type: ignore[assignment]
    assert status == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_ratings_of_another_study_write_no_figure(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in ("0", "1"):
        assert main(["study", "make", folder, "-o", str(tmp_path / f"{seed}.html"), "--seed", seed]) == 0
    ratings = rate(read_key(tmp_path / "0-key.csv"), "a1", tmp_path / "a1.csv")
    output = tmp_path / "figure.svg"
    assert main(["study", "figure", ratings, "--key", str(tmp_path / "1-key.csv"), "-o", str(output)]) == 1
    assert "error: " in (error := capsys.readouterr().err)
    assert f"the study of {tmp_path / '1-key.csv'}." in error
    assert not output.exists()


def test_it_does_not_load_pytorch(folder: str, tmp_path: Path) -> None:
    code = (
        "import sys; from diffusers_esd.cli import main; import diffusers_esd.study;"
        f"main(['study', 'make', {folder!r}, '-o', {str(tmp_path / 'study.html')!r}]);"
        "print([name for name in ('torch', 'diffusers', 'numpy', 'matplotlib') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "[]"
