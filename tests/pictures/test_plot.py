"""The figure of a training: its lines, its fixed scale, its marks."""

from __future__ import annotations

import sys
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from made import made, with_provenance
from PIL import Image
from tiny import tiny_pipeline

from diffusers_esd import Erasure, ESDConfig, merge, plot_history
from diffusers_esd.pictures.plot import moving_average


@pytest.fixture(scope="module")
def erasure() -> Erasure:
    return made(tiny_pipeline(), rank=1)


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def dashed(axes: Any) -> list[float]:
    return [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]


def test_loss_and_alignment_are_drawn_with_their_averages(erasure: Erasure) -> None:
    above, below = plot_history(erasure).axes
    losses, alignments = (list(values) for values in zip(*erasure.provenance.history, strict=True))
    for axes, values in ((above, losses), (below, alignments)):
        each, average = axes.lines[:2]
        assert list(each.get_xdata()) == list(range(1, 9))
        assert list(each.get_ydata()) == values
        assert list(average.get_ydata()) == moving_average(values)
    assert above.get_yscale() == "log"
    assert above.get_title(loc="left") == "no-a-cat: 'a cat'"


def test_a_moving_average_forgets() -> None:
    assert moving_average([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert moving_average([0.0, 1.0]) == pytest.approx([0.0, 1 / 1.95])
    assert moving_average([]) == []


def test_the_scale_of_the_alignment_is_fixed(erasure: Erasure) -> None:
    config = ESDConfig(eta=3.0, stop_at_alignment=-1.5)
    for history in (((1.0, 0.99),), ((1.0, 50.0), (0.0, -50.0))):
        _, below = plot_history(with_provenance(replace(erasure, config=config), history=history)).axes
        assert below.get_ylim() == pytest.approx((-3.32, 1.32))
        assert dashed(below) == [1.0, 0.0, -1.5, -3.0]
        assert texts(below) == ["intact", "as without the concept's words", "stop_at_alignment", "target"]


def test_what_zero_means_depends_on_what_is_erased(erasure: Erasure) -> None:
    _, below = plot_history(with_provenance(erasure, anchors={"a cat": "an animal"})).axes
    assert texts(below) == ["intact", "as for the anchor", "target"]
    _, below = plot_history(replace(erasure, config=ESDConfig(erase_from="an animal"))).axes
    assert (texts(below), dashed(below)) == (["intact", "target"], [0.0, -1.0])


def test_several_concepts_are_marked_at_the_end(erasure: Erasure) -> None:
    each = {"a cat": -0.5, "a dog": 0.25, "a bus": None}
    _, below = plot_history(with_provenance(erasure, alignments=each)).axes
    assert below.collections[0].get_offsets().tolist() == [[8.0, -0.5], [8.0, 0.25]]
    assert texts(below)[-2:] == ["a cat", "a dog"]
    for alignments in ({"a cat": -0.5}, {str(i): 0.0 for i in range(13)}):
        _, below = plot_history(with_provenance(erasure, alignments=alignments)).axes
        assert not below.collections


def test_it_is_written_as_an_image_of_the_size_asked_for(erasure: Erasure) -> None:
    file = BytesIO()
    plot_history(erasure, width=4, height=3).savefig(file, dpi=50)
    assert Image.open(file).size == (200, 150)


def test_without_a_history_or_matplotlib_there_is_an_error(erasure: Erasure, monkeypatch: pytest.MonkeyPatch) -> None:
    message = r"^both has no history \(it was merged\); plot the erasures that it was made from\.$"
    with pytest.raises(ValueError, match=message):
        plot_history(merge(erasure, name="both"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'^`plot_history` needs matplotlib: pip install "diffusers-esd\[plot\]"\.$'):
        plot_history(erasure)
