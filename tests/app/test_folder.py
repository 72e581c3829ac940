"""The app's folder: nothing outside of a visitor's own is read or written."""

from __future__ import annotations

from pathlib import Path

import pytest
from controls import must_fail

from diffusers_esd.app.folder import Shelf, is_visitor, new_visitor

BAD = [
    "../x",
    "..",
    ".",
    "/etc",
    "a/b",
    "a\\b",
    "",
    " ",
    "\0",
    "no-a-cat/../no-a-dog",
    3,
    None,
    ["no-a-cat"],
    "no-a-bird",
]


def test_visitors_are_different_and_cannot_be_paths(tmp_path: Path) -> None:
    first, second = new_visitor(), new_visitor()
    assert first != second
    assert is_visitor(first)
    for value in ("", "..", "../" + first, first + "/..", first.upper() + "G", first[:-1], None, 3, first + "\n"):
        assert not is_visitor(value)
        with pytest.raises(ValueError, match=r"^The page does not know its visitor; load it again\.$"):
            Shelf(tmp_path, value)


def test_only_erasures_that_are_listed_are_read(shelf: Shelf) -> None:
    for name in BAD:
        with pytest.raises(ValueError, match=r"^There is no erasure .* here; there are no-a-cat, no-a-dog\.$"):
            shelf.erasure(name)
    with pytest.raises(ValueError, match=r"^There is no erasure '\.\./x' here"):
        shelf.sources({"../x": 1.0})
    with pytest.raises(ValueError, match=r"^There is no erasure '\.\./x' here"):
        shelf.keep({"../x": 1.0})
    assert shelf.erasure("no-a-cat") == shelf.path / "erasures" / "no-a-cat"


def test_nothing_is_written_elsewhere(shelf: Shelf) -> None:
    for name in BAD[: BAD.index("no-a-bird")]:
        for kind in ("erasures", "exports", "reports", "runs"):
            with pytest.raises((ValueError, TypeError), match="adapter"):
                shelf.place(kind, name)
        with pytest.raises((ValueError, TypeError), match="adapter"):
            shelf.free_name(name)


def test_what_is_placed_is_inside(shelf: Shelf) -> None:
    assert shelf.place("exports", "my stack").resolve().is_relative_to(shelf.path.resolve())
    with must_fail("a parent is not inside"):
        assert (shelf.path / "exports" / ".." / ".." / "x").resolve().is_relative_to(shelf.path.resolve())


def test_visitors_do_not_see_one_another(shelf: Shelf) -> None:
    other = Shelf(shelf.path.parent, new_visitor())
    assert other.names() == []
    assert other.scales() == {}
    with pytest.raises(ValueError, match=r"^There is no erasure 'no-a-cat' here; there are none yet\.$"):
        other.erasure("no-a-cat")


def test_a_new_erasure_gets_a_free_name(shelf: Shelf) -> None:
    assert shelf.name_for("a cat") == "no-a-cat-2"
    assert shelf.name_for("a bird") == "no-a-bird"
    shelf.place("runs", "no-a-bird").mkdir(parents=True)
    assert shelf.name_for("a bird") == "no-a-bird-2"


def test_the_stack_is_kept(shelf: Shelf) -> None:
    assert shelf.scales() == {"no-a-cat": 1.0, "no-a-dog": 1.0}
    shelf.keep({"no-a-cat": 0.5, "no-a-dog": 0.0})
    again = Shelf(shelf.path.parent, shelf.path.name)
    assert again.scales() == {"no-a-cat": 0.5, "no-a-dog": 0.0}
    assert again.sources(again.scales()) == {str(shelf.path / "erasures" / "no-a-cat"): 0.5}
    with pytest.raises(ValueError, match=r"^The stack is empty: train an erasure first, or raise a scale above 0\.$"):
        again.sources({"no-a-cat": 0.0})
