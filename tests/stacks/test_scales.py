"""One source, a list and a mapping are named in one way."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from diffusers_esd.stacks.scales import with_scales


@pytest.mark.parametrize("source", ["no-cat", Path("no-cat"), 3, object()])
def test_a_single_source_and_a_list_have_scale_1(source: Any) -> None:
    expected = [(source, 1.0)]
    assert with_scales(source) == expected, "a text is not taken for its letters"
    assert with_scales([source]) == with_scales((source,)) == with_scales(iter([source])) == expected
    assert with_scales([source, source]) == expected * 2


def test_a_mapping_gives_the_scales_in_its_order() -> None:
    assert with_scales({"no-dog": 0.5, Path("no-cat"): 2}) == [("no-dog", 0.5), (Path("no-cat"), 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert with_scales({"no-cat": 0.0}) == [("no-cat", 0.0)]
    with pytest.warns(UserWarning, match=r"^`scale` is -1: a negative scale turns an erasure into its inverse"):
        assert with_scales({"no-cat": -1.0}) == [("no-cat", -1.0)]


@pytest.mark.parametrize("empty", [[], (), {}, iter([])])
def test_no_source_is_an_error(empty: Any) -> None:
    with pytest.raises(ValueError, match=r"^`erasures` is empty; give at least one erasure.$"):
        with_scales(empty)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "1", None])
def test_a_scale_is_a_finite_number(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^`scale` must be "):
        with_scales({"no-cat": 1.0, "no-dog": value})
