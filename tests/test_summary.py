"""What is said about an erasure: only what is true of it."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
from controls import must_fail
from made import made, with_provenance
from tiny import tiny_flux, tiny_pipeline

from diffusers_esd import Erasure, ESDConfig, ESDTrainer
from diffusers_esd.summary import curve, outcome, summarise


@pytest.fixture(scope="module")
def erasure() -> Erasure:
    return made(tiny_pipeline(), group="esd-x", rank=2)


def rows(erasure: Erasure) -> dict[str, str]:
    return summarise(erasure.config, erasure.provenance, erasure.rank)


def test_the_rows_of_a_training(erasure: Erasure) -> None:
    full = with_provenance(
        erasure,
        concepts=("a cat", "a dog", "a bus"),
        base_quantization="bitsandbytes nf4",
        left_out={"the concept is too faint there": ("conv_in", "conv_out"), "it lets too much through": ("x",)},
        alignments={"a cat": -0.4, "a dog": -0.6, "a bus": None},
        preserved={"prompts": 500, "moments": 400, "loss": 100, "words": 50, "vocabulary": 27101},
        active={"style": 0.6},
        beside=("no-bus",),
        complete=False,
        processes=2,
        rank_error=0.25,
    )
    expected = {
        "concept": "a cat, a dog, a bus",
        "group": "esd-x: the cross-attentions' keys and values",
        "base model": f"{full.provenance.base_model}, quantised: bitsandbytes nf4",
        "layers": f"{len(full.layers())}, rank 2",
        "layers left out": "2: the concept is too faint there; 1: it lets too much through",
        "negative guidance": "eta = 1",
        "preserved": "50 of 27,101 words that the text encoder knows (500 prompts, 400 of them for the null space, 100 "
        "of them in the loss)",
        "training": "8 iterations of 1 in each of 2 processes, 1 s, learning rate 0.0001; interrupted",
        "trained on top of": "style x 0.6",
        "switched off while training": "no-bus",
        "alignment": "-0.50 (1: intact, 0: as without the concept's words, -1: target); a cat -0.40, a dog -0.60",
        "error of the lower rank": "25.0%",
    }
    shown = rows(replace(full, config=ESDConfig(group="esd-x", rank=2)))
    assert expected.items() <= shown.items()
    with must_fail("a plain training has fewer rows"):
        assert shown.keys() == rows(erasure).keys()
    plain = rows(replace(erasure, config=ESDConfig(group="esd-x", null_space=False)))
    assert plain["group"] == "esd-x: the cross-attentions' queries, keys, values, outputs"
    assert rows(made(tiny_flux(), group="esd-x"))["group"] == "esd-x: layers of the text alone"


def test_the_anchor_is_shown_with_its_distance_and_is_the_zero_of_alignment(erasure: Erasure) -> None:
    one = with_provenance(erasure, anchors={"a cat": "an animal"}, anchor_distances={"a cat": 0.831})
    assert rows(one)["erased towards"] == "“an animal” (0.83 of the distance of the empty prompt)"
    assert "0: as for the anchor" in rows(one)["alignment"]
    two = with_provenance(erasure, concepts=("a cat", "a bus"), anchors={"a cat": "an animal", "a bus": ""})
    assert rows(two)["erased towards"] == "a cat: “an animal”, a bus: “”"
    paper = rows(with_provenance(erasure, anchors={"a cat": ""}))
    assert "erased towards" not in paper
    with must_fail("the empty prompt is not called an anchor"):
        assert "0: as for the anchor" in paper["alignment"]


def test_an_import_claims_no_training(erasure: Erasure) -> None:
    imported = replace(with_provenance(erasure, origin="imported", parts=(("f.safetensors", 1.0),)), config=None)
    training = {"group", "negative guidance", "preserved", "training", "alignment"}
    assert not training & rows(imported).keys()
    assert rows(imported)["imported from"] == "f.safetensors"
    with must_fail("a trained one has these rows"):
        assert not training & rows(erasure).keys()


def test_the_curve_of_alignment_is_on_a_fixed_scale() -> None:
    assert curve([1.0, 0.0, -1.0], -1.0, 1.0) == "█▅▁"
    assert curve([0.99, 0.98], -1.0, 1.0) == "██", "nothing has happened"
    assert curve([5.0, -5.0], -1.0, 1.0) == "█▁"
    assert curve([0.3] * 100, 0.3, 1.0) == "▁" * 32
    assert len(curve([float(i) for i in range(1000)], 0.0, 1.0)) == 32
    assert curve([], 0.0, 1.0) == ""


@pytest.mark.parametrize(
    ("alignment", "fields", "expected"),
    [
        (0.99, {}, "a cat: alignment 0.99, target -1: nothing is erased; raise the learning rate, then the iterations"),
        (0.7, {}, "the concept is still there; raise the learning rate, then the iterations"),
        (0.0, {}, "the concept is weakened; look at images, and raise the iterations if they still show it"),
        (-0.93, {}, "a cat: alignment -0.93, target -1: reached"),
        (-0.2, {"stop_at_alignment": -0.2}, "reached"),
        (-0.2, {"erase_from": "an animal"}, "the concept is still there"),
        (-0.01, {"erase_from": "an animal"}, "nothing is erased"),
        (-2.8, {"eta": 3.0}, "a cat: alignment -2.80, target -3: reached"),
    ],
)
def test_the_end_says_what_it_means(erasure: Erasure, alignment: float, fields: dict[str, Any], expected: str) -> None:
    found = with_provenance(erasure, alignments={"a bus": -5.0, "a cat": alignment, "a dog": None}).provenance
    assert expected in outcome(ESDConfig(**fields), found)
    assert outcome(ESDConfig(), with_provenance(erasure, alignments={"a cat": None}).provenance) == ""


def test_a_training_that_erased_nothing_warns() -> None:
    quick = {"num_inference_steps": 5, "rank": 2, "preserve": (), "group": "esd-x", "trajectory": "fresh"}
    with pytest.warns(
        UserWarning, match=r"^Nothing was erased\. a cat: alignment 1\.00, target -1: nothing is erased;"
    ):
        ESDTrainer(tiny_pipeline(), **quick, iterations=1, learning_rate=1e-9).erase("a cat")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ESDTrainer(tiny_pipeline(), **quick, iterations=40, learning_rate=1e-2).erase("a cat")
