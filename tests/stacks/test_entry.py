"""An entry is a path or a Hub id, and is written so that it cannot be taken for the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from controls import must_fail
from made import made
from tiny import tiny_pipeline

from diffusers_esd.stacks.entry import RecipeEntry


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("me/no-cat", ("me/no-cat", None)),
        ("me/no-cat@v1", ("me/no-cat", "v1")),
        ("./me/no-cat", ("{folder}/me/no-cat", None)),
        ("../no-cat", ("{parent}/no-cat", None)),
        ("no-cat", ("{folder}/no-cat", None)),
        ("saved/no-cat", ("saved/no-cat", None)),
        ("./saved/no-cat", ("{folder}/saved/no-cat", None)),
        ("a/b/c", ("{folder}/a/b/c", None)),
        ("/absolute/./no-cat", ("/absolute/no-cat", None)),
    ],
)
def test_a_source_is_a_path_if_it_cannot_be_a_hub_id(
    source: str, expected: tuple[str, str | None], tmp_path: Path
) -> None:
    (tmp_path / "saved" / "no-cat").mkdir(parents=True)
    entry = RecipeEntry.of(source, 0.5, folder=tmp_path)
    path, revision = expected
    path = path.format(folder=tmp_path, parent=tmp_path.parent)
    assert entry == RecipeEntry(path, revision, 0.5)
    assert entry.is_local == path.startswith("/")
    if entry.is_local:
        with pytest.raises(ValueError, match=r"^a recipe on the Hub must name erasures on the Hub, got the path"):
            RecipeEntry.of(path, 0.5, folder=None)
    else:
        assert RecipeEntry.of(source, 0.5, folder=None) == entry


def test_an_entry_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "recipes"
    (folder / "me" / "no-cat").mkdir(parents=True)
    sources = {
        RecipeEntry(str(folder / "me" / "no-cat")): "./me/no-cat",
        RecipeEntry(str(tmp_path / "no-dog"), None, 0.1 + 0.2): "../no-dog",
        RecipeEntry("me/no-bus", "v1"): "me/no-bus",
        RecipeEntry("me/no-cat", "v2"): "me/no-cat",  # beside a folder of this name
    }
    for entry, source in sources.items():
        written = entry.to_dict(folder)
        assert written == {"source": source, "revision": entry.revision, "scale": entry.scale}
        assert RecipeEntry.from_dict(written, folder) == entry
    with must_fail("without the dot a path is taken for a Hub id"):
        assert RecipeEntry.from_dict({"source": "me/no-cat", "scale": 1.0}, folder).is_local
    with pytest.raises(ValueError, match=r"^`source` is empty; give a path or the 'user/name' of the Hub$"):
        RecipeEntry.from_dict({"source": "", "scale": 1.0}, folder)


def test_a_path_through_a_symbolic_link_is_written_as_the_real_path(tmp_path: Path) -> None:
    (tmp_path / "deep" / "recipes").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "recipes")
    entry = RecipeEntry(str(tmp_path / "no-cat"))
    written = entry.to_dict(tmp_path / "link")
    assert written["source"] == "../../no-cat"
    assert RecipeEntry.from_dict(written, (tmp_path / "deep" / "recipes").resolve()) == entry


def test_a_local_entry_is_read(tmp_path: Path) -> None:
    folder = made(tiny_pipeline(), rank=1).save_pretrained(tmp_path / "no-cat")
    assert RecipeEntry(str(folder)).read().name == "no-a-cat"
    assert RecipeEntry(str(folder)).check_path().parent == folder
    with pytest.raises(FileNotFoundError, match=r"^Nothing to read at .*no-dog"):
        RecipeEntry(str(tmp_path / "no-dog")).read()
