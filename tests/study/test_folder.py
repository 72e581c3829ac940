"""The folder of a study: what is read, and what is refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from drawn import ARTISTS, CONDITIONS, draw, draw_folder
from PIL import Image

from diffusers_esd.study.folder import read_folder, read_picture, same_spelling


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return draw_folder(tmp_path / "pictures")


def test_all_pictures_are_read_by_artist_and_condition(folder: Path) -> None:
    (folder / ".DS_Store").touch()
    (folder / ARTISTS[0] / "esd-x" / ".hidden").touch()
    artists = read_folder(folder, references=5)
    assert [artist.name for artist in artists] == list(ARTISTS)
    for artist in artists:
        counts = {condition: len(pictures) for condition, pictures in artist.candidates.items()}
        assert {"references": len(artist.references), **counts} == CONDITIONS
        assert [picture.path.name for picture in artist.candidates["esd-x"]] == ["0.png", "1.png", "2.png"]


def test_a_picture_is_resized_and_has_no_metadata(tmp_path: Path) -> None:
    image = Image.linear_gradient("L").resize((1200, 600)).convert("RGB")
    exif = image.getexif()
    exif[0x013B] = "an artist"
    image.save(tmp_path / "a.jpg", exif=exif, comment="a comment", icc_profile=b"profile")
    jpeg = read_picture(tmp_path / "a.jpg").jpeg
    for secret in (b"an artist", b"a comment", b"profile"):
        assert secret in (tmp_path / "a.jpg").read_bytes()
        assert secret not in jpeg
    assert Image.open(BytesIO(jpeg)).size == (512, 256)


def test_a_picture_is_upright_and_on_white(tmp_path: Path) -> None:
    turned = Image.new("RGB", (30, 20))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert Image.open(BytesIO(read_picture(tmp_path / "turned.jpg").jpeg)).size == (20, 30)
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    shown = Image.open(BytesIO(read_picture(tmp_path / "clear.png").jpeg))
    assert shown.getextrema() == ((255, 255),) * 3


def test_the_digest_is_of_the_pixels(tmp_path: Path) -> None:
    png = draw(tmp_path / "a.png", "Round")
    Image.open(png).save(tmp_path / "a.bmp")
    digest = read_picture(png).digest
    assert read_picture(tmp_path / "a.bmp").digest == digest
    assert read_picture(draw(tmp_path / "b.png", "another Round")).digest != digest


@pytest.mark.parametrize("name", ["esd-x", "ESD x", " esd_X "])
def test_the_same_spelling(name: str) -> None:
    assert same_spelling(name) == "esd x"


def _remove(path: str) -> Callable[[Path], object]:
    return lambda folder: shutil.rmtree(folder / path) if (folder / path).is_dir() else (folder / path).unlink()


def _corrupt(folder: Path) -> None:
    for name in ("original/0.png", "references/5.png"):
        file = folder / "Ada Round" / name
        file.write_bytes(file.read_bytes()[:100])
    (folder / "Bo Square" / "esd-x" / "notes.txt").write_text("x")


def _copy(source: str, target: str) -> Callable[[Path], object]:
    return lambda folder: shutil.copy(folder / source, folder / target)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_remove("Ada Round/references/0.png"), None),
        (
            lambda folder: [_remove(f"Ada Round/references/{i}.png")(folder) for i in range(2)],
            "{}/Ada Round/references must contain 5 pictures or more, got 4; add some, or give a lower number of `ref",
        ),
        (
            _remove("Bo Square/references"),
            "{}/Bo Square/references must contain 5 pictures or more, got 0; add some, or give a lower number of `ref",
        ),
        (
            lambda folder: [_remove(f"Bo Square/{name}")(folder) for name in CONDITIONS if name != "references"],
            "{}/Bo Square must contain a folder of candidates, such as original or esd-x.",
        ),
        (
            _remove("Bo Square/similar artist/0.png"),
            "{}/Bo Square/similar artist is empty; add pictures, or remove it.",
        ),
        (lambda folder: (folder / "notes.txt").touch(), "{0} must contain folders only; move or remove {0}/notes.txt."),
        (
            lambda folder: (folder / "Bo Square" / "a.png").touch(),
            "{0}/Bo Square must contain folders only; move or remove {0}/Bo Square/a.png.",
        ),
        (
            lambda folder: (folder / "Bo Square" / "esd-x" / "more").mkdir(),
            "{0}/Bo Square/esd-x must contain pictures only; move or remove {0}/Bo Square/esd-x/more.",
        ),
        (
            lambda folder: (folder / "Bo Square" / "esd-x").rename(folder / "Bo Square" / "ESD x"),
            "The conditions 'esd-x' and 'ESD x' look like one; give both the same name.",
        ),
        (
            _copy("Bo Square/esd-x/0.png", "Bo Square/original/9.png"),
            "{0}/Bo Square/esd-x/0.png and {0}/Bo Square/original/9.png are the same picture; an artist must have each",
        ),
        (
            _copy("Ada Round/references/5.png", "Ada Round/original/9.png"),
            "{0}/Ada Round/original/9.png and {0}/Ada Round/references/5.png are the same picture; an artist must ha",
        ),
        (_copy("Ada Round/esd-x/0.png", "Bo Square/esd-x/9.png"), None),
    ],
)
def test_what_is_missing_or_not_in_its_place(
    spoil: Callable[[Path], object], message: str | None, folder: Path
) -> None:
    spoil(folder)
    if message is None:
        assert read_folder(folder, references=5)
        return
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(folder))}"):
        read_folder(folder, references=5)


def test_pictures_that_cannot_be_read_are_listed(folder: Path) -> None:
    _corrupt(folder)
    with pytest.raises(
        ValueError, match=r"^These files cannot be read as pictures: .* Replace or remove them\.$"
    ) as error:
        read_folder(folder, references=5)
    for name in ("Ada Round/original/0.png", "Ada Round/references/5.png", "Bo Square/esd-x/notes.txt"):
        assert str(folder / name) in str(error.value)
    assert str(error.value).count("; ") == 2


def test_a_folder_must_be_there_and_not_empty(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^There is no folder .*nowhere\.$"):
        read_folder(tmp_path / "nowhere", references=5)
    with pytest.raises(ValueError, match=r" is empty; it must contain a folder for each artist\.$"):
        read_folder(tmp_path, references=5)
