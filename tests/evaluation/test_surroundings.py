"""What is around a concept: near by text, near by score, and what could show it without its words."""

from __future__ import annotations

from emoji_sd import load

from diffusers_esd.evaluation.surroundings import surroundings


def test_neighbours_of_a_cat() -> None:
    asked: list[str] = []

    def allowed(prompt: str) -> bool:
        asked.append(prompt)
        return len(asked) % 3 != 2

    around = surroundings(load(), "a cat", ["a cat", "a lion"], None, 4, allowed)
    near = (*around.by_text, *around.by_score)
    assert len(set(near)) == 8
    assert not {"a cat", "a lion", ""} & set(near)
    known = [prompt for i, prompt in enumerate(asked) if i % 3 != 1]
    assert list(around.by_text) == known[:4], "nearest first, of those that are allowed"
    assert {*around.by_score} <= {*known[4:24]}
    assert around.by_score != tuple(known[4:8]), "the order by score is another"
    assert around.unnamed[-1] == ""
    assert len(around.unnamed) == 2
    assert "cat" not in around.unnamed[0].split()
