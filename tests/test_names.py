"""Names of adapters: short enough for a file, and refused where PEFT or a file system would fail."""

from __future__ import annotations

import re

import pytest

from diffusers_esd.names import bounded_name, check_adapter_name, check_new_name, default_name


def test_names_that_a_file_system_takes() -> None:
    assert default_name(["Van Gogh"]) == "no-van-gogh"
    assert default_name(["a cat", "a dog"]) == "no-a-cat-a-dog"
    assert default_name(["!?"]) == "no-concept"
    many = default_name([f"concept number {i}" for i in range(100)])
    other = default_name([f"concept number {i}" for i in range(101)])
    wide = default_name(["猫" * 100])
    assert many[:-8] == other[:-8]
    assert many != other, "what is cut off counts"
    for name in (many, other, wide):
        assert len(name.encode()) <= 64
        assert re.fullmatch(r"no-.*[^-]-[0-9a-f]{8}", name)
    exact = "x" * 64
    assert bounded_name(exact) == exact
    assert bounded_name(exact + "x") != exact + "x"


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        (3, TypeError, "The name of an adapter must be a string, got 3 of type int."),
        ("", ValueError, "The adapter name '' is empty; give a name such as 'no-cat'."),
        (" \t", ValueError, "The adapter name ' \\t' is empty; give a name such as 'no-cat'."),
        ("v1.5", ValueError, "The adapter name 'v1.5' contains a dot, which PEFT cannot store; use 'v1-5'."),
        ("a/b", ValueError, "The adapter name 'a/b' contains a slash, which a file name cannot contain."),
        ("a\\b", ValueError, "contains a slash, which a file name cannot contain."),
    ],
)
def test_names_that_an_adapter_cannot_have(name: object, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        check_adapter_name(name)


@pytest.mark.parametrize("concepts", [["a cat"], ["a.b/c"], ["猫"], ["..."], ["x" * 500]])
def test_a_default_name_is_a_name_that_an_adapter_can_have(concepts: list[str]) -> None:
    check_adapter_name(default_name(concepts))


def test_a_new_name_is_not_one_of_torchs_own() -> None:
    check_adapter_name("keys")  # a file may have it: an adapter of it can be loaded under another name
    check_new_name("no-keys")
    with pytest.raises(
        ValueError, match=r"^The adapter name 'keys' is reserved by torch.nn.ModuleDict; use 'no-keys'.$"
    ):
        check_new_name("keys")
    with pytest.raises(ValueError, match=r"contains a dot"):
        check_new_name("v1.5")
