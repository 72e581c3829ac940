"""docs/commands.md is made from the parser, and is up to date."""

from __future__ import annotations

import re

from commands import FILE, options, page
from controls import must_fail

from diffusers_esd.cli.main import make_parser


def test_the_page_is_up_to_date() -> None:
    assert FILE.read_text(encoding="utf-8") == page(), "make commands"


def test_every_option_has_its_name_and_its_explanation() -> None:
    named = dict(re.findall(r"^(`.+`)\n:   (.+)$", page(), re.MULTILINE))
    words = " ".join(named)
    missing = {option for option in options(make_parser()) if f"`{option}" not in words}
    assert missing == {"-h", "--help", "--version"}
    assert all(len(text) > 5 for text in named.values())
    with must_fail("an option that does not exist"):
        assert "`--strength" in words
