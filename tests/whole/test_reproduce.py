"""Each experiment of `examples/reproduce`, from its options to its tables, on a tiny pipeline.

Judges of our own look at one thing: whether an image is the base model's. So what each table must show is known: an
erasure of scale 0 changes nothing, and one of scale 1 changes every image.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from controls import must_fail
from made import made
from PIL import Image
from reproduce import __main__ as command
from reproduce import paper
from reproduce.tables import printed, table
from tiny import tiny_pipeline
from torch import Tensor

from diffusers_esd import Erasure, Report
from diffusers_esd.evaluation.distances import FrechetDistance
from diffusers_esd.evaluation.judges.base import Finding, Judge, Kind, Picture
from diffusers_esd.evaluation.judges.nudenet import FIG_7
from diffusers_esd.evaluation.judges.pixels import to_unit
from diffusers_esd.evaluation.prompt_sets import ARTISTS, ARTWORK

DOCS = Path(__file__).parents[2] / "docs" / "reproduce.md"
HEADER = "prompt,categories,nudity_percentage,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height"
I2P = f"{HEADER}\na cat,sexual,9.5,4294967294,7,16,16\na dog,hate,0.0,3,12.5,16,16\n"
COCO = "image_id,source,prompt,evaluation_seed\n01,coco,A cat.,41337\n02,coco,A dog.,63155\n02,coco,A dog.,7\n"
CELEBRITIES = """,type,prompt,evaluation_seed
0,erased,A portrait of Ada Example,1
1,erased,A sketch of Ada Example,2
2,others,Ben Example in an official photo,1
"""


Otherwise = Callable[[Picture], tuple[str, ...]]


def is_base(picture: Picture) -> bool:
    return picture.image.tobytes() == picture.base.tobytes()


class Sees(Judge):
    """Recognises what the prompt asks for in the base model's image, and otherwise something else, or nothing."""

    kind: ClassVar[Kind] = "recognises"

    def __init__(self, question: str = "subject", otherwise: Otherwise | None = None) -> None:
        self.name, self.question = f"sees_{question}", question
        self._otherwise = otherwise or (lambda picture: ("something else",))

    def record(self) -> dict[str, Any]:
        return {"question": self.question}

    def knows(self, label: str) -> bool:
        return label != ""

    def __call__(self, pictures: Sequence[Picture]) -> list[tuple[Finding, ...]]:
        return [
            tuple(Finding(label, 1.0) for label in self._otherwise(p))
            if not is_base(p)
            else (Finding(p.prompt.labels.get(self.question, ""), 1.0),)
            for p in pictures
        ]


class Counts(Judge):
    """Finds two feet and a belly in the base model's image, and otherwise a foot."""

    name = "counts"
    kind: ClassVar[Kind] = "detects"
    classes = tuple(FIG_7)

    def record(self) -> dict[str, Any]:
        return {}

    def __call__(self, pictures: Sequence[Picture]) -> list[tuple[Finding, ...]]:
        foot, belly = Finding("FEET_EXPOSED", 0.9), Finding("BELLY_EXPOSED", 0.9)
        return [(foot, foot, belly) if is_base(picture) else (foot,) for picture in pictures]


class Differs(Judge):
    """0 for the base model's image, otherwise 1."""

    name = "differs"
    kind: ClassVar[Kind] = "scores"

    def record(self) -> dict[str, Any]:
        return {}

    def __call__(self, pictures: Sequence[Picture]) -> list[tuple[Finding, ...]]:
        return [(Finding("differs", float(not is_base(picture))),) for picture in pictures]


class Colours:
    """The mean of each colour, from 0 to 1000, as features."""

    name = "colours"

    def record(self) -> dict[str, Any]:
        return {}

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        return 1000 * torch.stack([to_unit(image.convert("RGB")).mean((1, 2)) for image in images])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def erasure_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """The folder of an erasure of a concept."""
    root, pipe = tmp_path_factory.mktemp("erasures"), tiny_pipeline()

    def folder(concept: str, **options: Any) -> str:
        erasure = made(pipe, concept, rank=2, **options)
        return str(erasure.save_pretrained(root / erasure.name))

    return folder


@pytest.fixture
def run(model: str, tmp_path: Path) -> Callable[..., str]:
    """Run an experiment on one step, with judges of our own."""

    def run(name: str, *arguments: str, steps: int = 1, **own: Any) -> str:
        common = ["-o", str(tmp_path / "out"), "--steps", str(steps), "-q", "--batch-size", "16"]
        options = command.parsed([name, model, *common, *arguments])
        return options.run(options, **own)

    return run


def written(tmp_path: Path, text: str) -> str:
    file = tmp_path / "prompts.csv"
    file.write_text(text, encoding="utf-8")
    return str(file)


def rows_of(text: str) -> dict[str, list[str]]:
    """The rows of all tables, by their first cell."""
    lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line.startswith("|")]
    return {first: rest for first, *rest in lines}


def plain(cells: Sequence[str]) -> list[str]:
    """Figures without their intervals."""
    return [cell.split(" (")[0] for cell in cells]


def test_nudity(run: Callable[..., str], erasure_of: Callable[..., str], tmp_path: Path) -> None:
    text = run(
        "nudity",
        "--prompts",
        written(tmp_path, I2P),
        "--erasure",
        erasure_of("nudity"),
        "--no-images",
        judges=[Counts()],
    )
    rows = rows_of(text)
    assert plain(rows["Feet"]) == ["37", "-", "-", "4", "2"]
    assert plain(rows["Belly"]) == ["157", "-", "-", "2", "0"]
    assert plain(rows["all detections"]) == ["796", "134", "417", "6", "2"]
    assert rows["change in percent"] == ["+0", "-83", "-48", "+0", "-67"]
    assert plain(rows["images with any, in percent"]) == ["-", "-", "-", "100.0", "100.0"]
    assert "- 2 images of each method. The whole experiment has 4703." in text
    assert not (tmp_path / "out" / "evaluation" / "images").exists()
    assert not (tmp_path / "out" / "evaluation" / "report.png").exists(), "explicit images are not shown"


def test_nudity_of_the_base_model_alone(run: Callable[..., str], tmp_path: Path) -> None:
    rows = rows_of(run("nudity", "--prompts", written(tmp_path, I2P), "--category", "sexual", judges=[Counts()]))
    assert plain(rows["all detections"]) == ["796", "134", "417", "3"]
    assert not (tmp_path / "out" / "evaluation" / "report.png").exists(), "explicit images are not shown"


def test_nudity_without_its_package_draws_nothing(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "nudenet", None)
    out = tmp_path / "out"
    assert command.main(["nudity", model, "-o", str(out), "--prompts", written(tmp_path, I2P), "-q"]) == 1
    assert 'nudenet is not installed: pip install "diffusers-esd[nudenet]"' in capsys.readouterr().err
    assert not out.exists()


def test_fidelity(run: Callable[..., str], erasure_of: Callable[..., str], tmp_path: Path) -> None:
    erasures = ["--erasure", f"{erasure_of('nudity')}=0", "--erasure", erasure_of("a cat")]
    prompts = ["--prompts", written(tmp_path, COCO)]
    measure = FrechetDistance(Colours())
    rows = rows_of(run("fidelity", *prompts, *erasures, judges=[Differs()]))
    assert plain(rows["ESD-u, paper"]) == ["13.68", "0.1585"]
    assert plain(rows["base"]) == ["-", "0.0000"]
    real = tmp_path / "out" / "evaluation" / "images" / "base"
    rows = rows_of(run("fidelity", *prompts, *erasures, "--real", str(real), judges=[Differs()], measure=measure))
    assert rows[""] == ["frechet_distance[colours]", "differs"]
    assert plain(rows["base"]) == plain(rows["no-nudity"]) == ["0.00", "0.0000"]
    assert plain(rows["no-a-cat"])[1] == "1.0000"
    with must_fail("other images are at a distance"):
        assert plain(rows["no-a-cat"])[0] == "0.00"


def test_objects(run: Callable[..., str], erasure_of: Callable[..., str]) -> None:
    erasures = ["--erasure", erasure_of("a church"), "--erasure", f"{erasure_of('tench')}=0"]
    text = run("objects", "--limit", "1", *erasures, judges=[Sees()])
    rows = rows_of(text.partition("Rate of each")[0])
    assert rows["church"] == ["73.8", "100.0", "54.2", "0.0", "78.7", "100.0", "71.6", "0.0"]
    assert rows["tench"] == ["78.4", "100.0", "9.6", "100.0", "78.2", "100.0", "66.6", "100.0"]
    assert rows["gas pump"] == ["75.4", "100.0", "8.6", "-", "78.5", "100.0", "66.5", "-"]
    assert rows["average, ours of 2"] == ["78.2", "100.0", "12.6", "50.0", "78.2", "100.0", "63.2", "50.0"]
    rates = rows_of(text.partition("Rate of each")[2])
    assert plain(rates["no-a-church"]) == ["0.0"] * 10
    assert plain(rates["no-tench"]) == ["100.0"] * 10
    assert "No erasure of: cassette player, chain saw, gas pump, garbage truck" in text
    with must_fail("an erasure of a church is one of church"):
        assert rows["church"][3] == "-"


def test_styles(run: Callable[..., str], erasure_of: Callable[..., str]) -> None:
    erasures = ["--erasure", erasure_of("Kelly Mckernan", group="esd-x"), "--erasure", f"{erasure_of('Tyler Edlin')}=0"]
    rows = rows_of(run("styles", "--limit", "1", "--baseline", "negative-prompt", *erasures, judges=[Differs()]))
    assert rows["erased"] == ["erased artist", "other artists", *ARTISTS]
    assert plain(rows["no-kelly-mckernan"]) == ["1.000"] * 7
    assert plain(rows["no-tyler-edlin"]) == ["0.000"] * 7
    assert {name for name in rows if name.startswith("negative-prompt: ")} == {f"negative-prompt: {a}" for a in ARTISTS}
    assert plain(rows["negative-prompt: Kilian Eng"])[:2] == ["1.000", "1.000"]
    assert rows["ESD-x"] == ["1.12"]


def test_ablation(run: Callable[..., str], erasure_of: Callable[..., str], tmp_path: Path) -> None:
    arguments = ["--prompts", written(tmp_path, I2P), "--limit", "1", "--erasure", erasure_of("nudity", group="esd-u")]
    text = run("ablation", *arguments, judges=[Counts(), Sees()])
    lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line.startswith("| ")]
    by_way = {(group, eta): rest for group, eta, *rest in lines[2:]}
    assert by_way["esd-u", "1"] == ["83", "66.7", "7", "100.0"]
    assert by_way["esd-u", "3"] == ["88", "-", "14", "-"]
    assert by_way["self-attention", "1"] == ["-"] * 4
    assert {name for name, _ in by_way} == {"esd-x", "esd-u", "full", "self-attention"}


def test_artwork_is_trained_once(run: Callable[..., str], tmp_path: Path) -> None:
    config = tmp_path / "short.json"
    config.write_text('{"iterations": 1, "num_inference_steps": 1, "rank": 2, "learning_rate": 0.01}')
    arguments = ["artwork", "--train", "--config", str(config), "--seeds", "1", "--limit", "1"]
    first = run(*arguments, judges=[Differs()])
    (folder,) = (tmp_path / "out" / "erasures").iterdir()
    erasure = Erasure.from_pretrained(folder)
    assert erasure.provenance.concepts == (ARTWORK,)
    assert (erasure.config.group, erasure.config.trajectory, erasure.config.null_space) == ("esd-x", "fresh", False)
    assert (erasure.config.preserve, erasure.config.eta, erasure.config.iterations) == ((), 1.0, 1)
    before = (folder / "erasure.json").stat().st_mtime_ns
    assert run(*arguments, judges=[Differs()]) == first
    assert (folder / "erasure.json").stat().st_mtime_ns == before
    config.write_text('{"iterations": 2, "num_inference_steps": 1, "rank": 2}')
    with pytest.raises(ValueError, match="was trained with other settings; give another --output, or delete it"):
        run(*arguments, judges=[Differs()])


def test_unlearncanvas(run: Callable[..., str], erasure_of: Callable[..., str]) -> None:
    arguments = ["--target", "Van Gogh", "--target", "Dogs", "--limit", "1", "--erasure", erasure_of("Van Gogh Style")]
    judges = [Sees("style"), Sees("subject")]
    text = run("unlearncanvas", *arguments, "--erasure", f"{erasure_of('An image of Dogs.')}=0", judges=judges)
    rows = rows_of(text)
    assert rows["Van Gogh"] == ["100.00", "0.00", "0.00"]
    assert rows["Dogs"] == ["0.00", "100.00", "100.00"]
    assert rows["mean of 1 styles"] == rows["Van Gogh"]
    assert rows["paper, ESD, mean of 50 styles"] == ["98.58", "80.97", "93.96"]
    assert "- 20 images of each method. The whole experiment has 5100." in text


def test_celebrities(run: Callable[..., str], erasure_of: Callable[..., str], tmp_path: Path) -> None:
    def otherwise(picture: Picture) -> tuple[str, ...]:
        """No face in one of the erased images, another in the other one; the others are still seen."""
        if not picture.prompt.concept:
            return (picture.prompt.labels["person"],)
        return () if picture.prompt.seed == 1 else ("ben example",)

    arguments = ["--prompts", written(tmp_path, CELEBRITIES), "--erasure", erasure_of("Ada Example", group="esd-x")]
    text = run("celebrities", *arguments, judges=[Sees("person", otherwise)])
    rows = rows_of(text)
    assert rows["base"] == ["100.0", "100.0", "0.0", "0"]
    assert rows["all together"] == ["0.0", "100.0", "100.0", "1"]


def test_celebrities_name_their_publishers(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, file = tmp_path / "out", tmp_path / "prompts.csv"
    arguments = ["celebrities", model, "-o", str(out), "-q", "--prompts", str(file)]
    assert command.main(arguments) == 1
    error = capsys.readouterr().err
    assert "Shilin-LU/MACE/tree/main/prompts_csv (licence: MACE's own licence, non-commercial)" in error
    written(tmp_path, CELEBRITIES)
    assert command.main(arguments) == 1
    error = capsys.readouterr().err
    assert "Giphy/celeb-detection-oss (licence: MPL-2.0)" in error
    assert "--detector-python" in error
    assert not out.exists()


def test_missing_weights_are_named_before_an_image_is_drawn(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIFFUSERS_ESD_WEIGHTS", str(tmp_path / "none"))
    out = tmp_path / "out"
    for name, words in (("objects", "resnet50-11ad3fa6.pth"), ("unlearncanvas", "style50.pth")):
        assert command.main([name, model, "-o", str(out), "-q"]) == 1
        assert words in capsys.readouterr().err
    assert not out.exists()


def test_the_command_writes_its_tables(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from reproduce import artwork

    monkeypatch.setattr(artwork, "perceptual", lambda options: [Differs()])
    out = tmp_path / "out"
    arguments = ["artwork", model, "-o", str(out), "-q", "--steps", "1", "--seeds", "1", "--limit", "1"]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    assert (out / "tables.md").read_text(encoding="utf-8") == printed
    assert Report.from_pretrained(out / "evaluation").methods == ("base",)


def test_the_page_has_every_command_and_the_papers_tables() -> None:
    text = DOCS.read_text(encoding="utf-8")
    names = [experiment.__name__.rpartition(".")[2] for experiment in command.EXPERIMENTS]
    assert all(f"python -m reproduce {name} " in text for name in names)
    assert all(line in text for page in (table_1(), table_2()) for line in page.splitlines())
    assert all(f"| {FIG_7[label]} | {count} |" in text for label, count in paper.NUDITY_SD.items())
    assert all(f"| {name} | {rating:.2f} |" in text for name, rating in paper.STYLES.items())
    assert all(f"| {eta:g} | {row.erased} % | {row.interference} % |" in text for eta, row in paper.ETA.items())
    canvas = {kind: " | ".join(f"{value:.2f}" for value in row) for kind, row in paper.UNLEARNCANVAS.items()}
    assert all(f"{kind}s | {row} |" in text for kind, row in canvas.items())
    with must_fail("other figures are not there"):
        assert table_1().replace("13.68", "13.69") in text


def table_1() -> str:
    rows = [[name, printed(row.fid, 2), printed(row.clip, 4)] for name, row in paper.FIDELITY.items()]
    return table(["", "FID", "CLIP score"], rows)


def table_2() -> str:
    rows = {**paper.OBJECTS, "average": paper.OBJECTS_AVERAGE}
    header = ["erased class", "the class, SD", "the class, ESD-u", "other classes, SD", "other classes, ESD-u"]
    return table(header, [[name, *map(printed, row)] for name, row in rows.items()])
