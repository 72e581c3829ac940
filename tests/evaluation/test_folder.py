"""The folder of an evaluation: images and findings that depend on something, and where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from controls import must_fail
from PIL import Image

from diffusers_esd.evaluation.folder import Folder, check_names
from diffusers_esd.evaluation.judges.base import Finding


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "new")


def test_a_manifest_that_differs_is_an_error_and_nothing_is_lost(folder: Folder) -> None:
    folder.begin("no cat", {"options": {"steps": 2}, "prompts": "abc"})
    folder.write_image("no cat", "a", Image.new("RGB", (2, 2)))
    folder.begin("no cat", {"prompts": "abc", "options": {"steps": 2}})
    message = r"new/images/no-cat has images of another evaluation: options differ\. Give another folder, or delete"
    with pytest.raises(ValueError, match=message):
        folder.begin("no cat", {"options": {"steps": 3}, "prompts": "abc"})
    assert folder.missing("no cat", ["a", "b"]) == ["b"]


def test_images_without_a_manifest_are_refused(folder: Folder) -> None:
    folder.write_image("base", "a", Image.new("RGB", (2, 2)))
    with pytest.raises(ValueError, match=r"images/base contains files without a manifest; give another folder\.$"):
        folder.begin("base", {})


def test_what_a_killed_process_left_is_removed(folder: Folder) -> None:
    left = folder.images("base") / ".manifest.json.1.tmp"
    left.parent.mkdir(parents=True)
    left.touch()
    (folder.path / ".report.json.1.tmp").touch()
    folder.begin("base", {})
    assert [file.name for file in folder.path.rglob("*") if file.is_file()] == ["manifest.json"]


def test_damaged_and_missing_images_are_told_apart(folder: Folder) -> None:
    folder.write_image("base", "a", Image.new("RGB", (20, 20), "red"))
    image = folder.read_image("base", "a")
    assert image is not None
    assert image.getpixel((0, 0)) == (255, 0, 0)
    file = folder.images("base") / "a.png"
    for content in (file.read_bytes()[:60], b"", b"GIF89a"):
        file.write_bytes(content)
        assert folder.read_image("base", "a") is None
    with pytest.raises(FileNotFoundError):
        folder.read_image("base", "b")


def test_findings_are_read_if_nothing_they_depend_on_has_changed(folder: Folder) -> None:
    found = {"a": (Finding("a cat", 0.5), Finding("a dog", 0.25)), "b": ()}
    folder.write_findings("base", "My judge", {"weights": "1", "sizes": (1, 2)}, found)
    assert folder.read_findings("base", "My judge", {"sizes": [1, 2], "weights": "1"}) == found
    assert folder.read_findings("no-cat", "My judge", {}) is None
    with must_fail("other weights"):
        assert folder.read_findings("base", "My judge", {"sizes": [1, 2], "weights": "2"}) == found


def test_only_images_are_deleted(folder: Folder) -> None:
    folder.begin("base", {})
    folder.write_image("base", "a", Image.new("RGB", (2, 2)))
    folder.write_findings("base", "judge", {}, {})
    mine = folder.path / "images" / "mine" / "a.png"
    mine.parent.mkdir()
    mine.touch()
    folder.delete_images()
    assert not folder.images("base").exists()
    assert mine.is_file(), "what is not an evaluation's stays"
    mine.unlink()
    mine.parent.rmdir()
    folder.delete_images()
    assert [path.name for path in folder.path.iterdir()] == ["judgements"]


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    Folder(tmp_path / "new" / "newer").check()
    Folder(tmp_path).check()
    assert list(tmp_path.iterdir()) == [], "nothing is made"
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match=r"contains something that is not an evaluation; give a new folder\.$"):
        Folder(tmp_path).check()
    with pytest.raises(FileExistsError, match=r"thesis\.tex is a file; give a folder\.$"):
        Folder(tmp_path / "thesis.tex").check()
    with pytest.raises(NotADirectoryError, match=r"thesis\.tex/new cannot be written: Not a directory"):
        Folder(tmp_path / "thesis.tex" / "new").check()
    (tmp_path / "images").mkdir()
    with pytest.raises(FileExistsError, match=r"not an evaluation"):  # pictures of someone else
        Folder(tmp_path).check()
    Folder(tmp_path).begin("base", {})
    Folder(tmp_path).check()
    (tmp_path / "erasure.json").touch()
    with pytest.raises(FileExistsError, match=r"not an evaluation"):
        Folder(tmp_path).check()


@pytest.mark.parametrize("names", [["a", "b", "a"], ["no cat", "No-cat"]])
def test_names_must_have_files_of_their_own(names: list[str]) -> None:
    with pytest.raises(ValueError, match=rf"^Two judges have the name '{names[-1]}'; give one of them another\.$"):
        check_names("judges", names)
    check_names("judges", names[:1])
