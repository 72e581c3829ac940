"""The figure and the table of a study."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from diffusers_esd.study import Mean, figure, markdown

MEANS = (
    Mean("original", 4.0, (3.5, 4.5), 3, 10, 3.85),
    Mean("a | b & c", 2.0, None, 3, 1, None),
)
SVG = "{http://www.w3.org/2000/svg}"


def test_the_table_has_a_row_for_each_condition() -> None:
    assert markdown(MEANS) == (
        "| condition | mean | 95 % interval | ratings | pictures | paper |\n"
        "|---|---|---|---|---|---|\n"
        "| original | 4.00 | 3.50 to 4.50 | 30 | 10 | 3.85 |\n"
        "| a \\| b & c | 2.00 | - | 3 | 1 | - |\n\n"
        "3 participants, 11 pictures. "
        "The interval is a percentile bootstrap of participants and pictures, 2000 draws.\n"
        "`paper` is the mean in Gandikota et al. 2023, of other participants and pictures.\n"
    )


def test_dots_intervals_and_diamonds_are_on_one_axis() -> None:
    root = ElementTree.fromstring(figure(MEANS))
    grid = [float(line.get("x1", "")) for line in root.iter(f"{SVG}line") if line.get("class") == "grid"]
    assert len(grid) == 5

    def x(rating: float) -> float:
        return pytest.approx(grid[0] + (grid[4] - grid[0]) * (rating - 1) / 4, abs=0.11)

    assert grid == [x(rating) for rating in range(1, 6)]
    *dots, _ = (float(circle.get("cx", "")) for circle in root.iter(f"{SVG}circle"))  # the last is the legend's
    assert dots == [x(4.0), x(2.0)]
    own = [line for line in root.iter(f"{SVG}line") if line.get("class") == "own"]
    assert [(float(line.get("x1", "")), float(line.get("x2", ""))) for line in own[:-1]] == [(x(3.5), x(4.5))]
    diamonds = [float(path.get("d", "")[1:].split()[0]) for path in root.iter(f"{SVG}path")]
    assert diamonds[:-1] == [x(3.85)]
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"original", "a | b & c", "4.00", "2.00", "mean in Gandikota et al. 2023"} <= set(texts)


def test_without_a_published_mean_the_paper_is_not_in_the_legend() -> None:
    assert "Gandikota" in figure(MEANS)
    assert "Gandikota" not in figure(MEANS[1:])
    assert "path" not in figure(MEANS[1:])
