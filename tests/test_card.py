"""Cards: they state what is true of an erasure, and leave what people wrote."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from controls import must_fail
from evaluated import a_report
from huggingface_hub import ModelCard
from made import made, with_provenance
from tiny import tiny_pipeline

from diffusers_esd import Erasure, ESDConfig, merge
from diffusers_esd.card import baked_card, erasure_card, is_repo_id, recipe_card, update_card

REPO = "someone/no-cat"


@pytest.fixture(scope="module")
def erasure() -> Erasure:
    return made(tiny_pipeline(), rank=2)


def written(erasure: Erasure, **options: Any) -> ModelCard:
    return ModelCard(erasure_card(erasure.name, REPO, erasure.config, erasure.provenance, rank=erasure.rank, **options))


def test_the_card_says_what_there_is_to_say(erasure: Erasure) -> None:
    known = with_provenance(erasure, base_model="someone/model")
    card = written(known, kohya="no-cat.kohya.safetensors", images={"a cat": "images/00.png"})
    assert card.data.base_model == "someone/model"
    assert card.data.pipeline_tag == "text-to-image"
    assert card.data.to_dict()["widget"] == [{"text": "a cat", "output": {"url": "images/00.png"}}]
    for words in (
        "This adapter erases “a cat” from someone/model.", "| group | esd-u |", "eta = 1", "8 iterations of 1",
        "<Gallery />",
        f'pipe.load_lora_weights("{REPO}", adapter_name="no-a-cat")', f'stack(pipe, {{"{REPO}": 1.0}})',
        "`no-cat.kohya.safetensors`", "A LoRA can be removed", "attacks may bring a concept back",
        "licence of the base model applies",
    ):  # fmt: skip
        assert words in card.text
    plain = written(erasure)
    assert "from_pretrained" not in plain.text
    assert plain.data.base_model is None, "a local name is not an id"
    assert "<Gallery />" not in plain.text
    assert update_card(str(card), str(card)).strip() == str(card).strip(), "updating with itself changes nothing"


def test_the_card_says_what_an_evaluation_found(erasure: Erasure) -> None:
    text = written(erasure, report=a_report(), report_picture="report.png").text
    for words in (
        "## What is gone and what stayed",
        "![Images of the base model and of the erasure](report.png)",
        "| named: a cat (a judge) | ████████░░ 0.75 (0.30 to 0.95) | ██░░░░░░░░ 0.25 (0.05 to 0.70) | 4 of 4 |",
        "Suite quick, 2026-01-31; judged by a judge, scores.",
    ):
        assert words in text
    assert "![" not in written(erasure, report=a_report()).text
    with must_fail("without a report, there is no table"):
        assert "What is gone" in written(erasure).text


def test_the_card_of_a_merge_or_an_import_claims_no_training(erasure: Erasure) -> None:
    dog = made(tiny_pipeline(), "a dog", group="esd-x", rank=3)
    merged = written(merge({erasure: 1.0, dog: 0.5}, name="both")).text
    unknown = replace(erasure, config=None)
    imported = written(with_provenance(unknown, origin="imported", parts=(("f.safetensors", 1.0),))).text
    refined = written(with_provenance(erasure, origin="refined", parts=(("no-a-cat", 1.0),))).text
    assert "It was refined from several erasures with diffusers-esd" in refined
    assert "| refined from | no-a-cat x 1 |" in refined
    assert "It was merged from several erasures with diffusers-esd" in merged
    assert "| merged from | no-a-cat x 1, no-a-dog x 0.5 |" in merged
    assert f"| layers | {len(erasure.layers()) + len(dog.layers())}, rank 3 |" in merged
    assert "It was trained with another tool and imported with diffusers-esd" in imported
    assert "| imported from | f.safetensors |" in imported

    def claims_no_training(text: str) -> None:
        assert not [
            row for row in ("group", "negative guidance", "preserved", "training", "alignment") if f"| {row} |" in text
        ]

    claims_no_training(merged)
    claims_no_training(imported)
    with must_fail("a trained one has these rows"):
        claims_no_training(written(erasure).text)


def test_the_table_of_a_training(erasure: Erasure) -> None:
    full = with_provenance(erasure, concepts=("a cat", "a|dog"), alignments={"a cat": -0.4, "a|dog": -0.6})
    full = with_provenance(full, pattern=r".*\.attn2\.to_[kv]")
    text = written(replace(full, config=ESDConfig(group="esd-x", rank=2))).text
    for row in (
        "| concept | a cat, a\\|dog |",
        "| group | esd-x: the cross-attentions' keys and values |",
        "| alignment | -0.50 (1: intact, 0: as without the concept's words, -1: target); a cat -0.40, a\\|dog -0.60 |",
    ):
        assert row in text
    assert "A negative scale turns the erasure into its inverse" in text
    assert "left out" not in text


def test_text_is_shown_as_it_is(erasure: Erasure) -> None:
    hostile = with_provenance(erasure, concepts=("<img> *loud* `code` [link](x)\nline",))
    text = written(replace(hostile, config=ESDConfig(group=".*attn1.*"))).text
    assert "| group | .\\*attn1.\\* |" in text
    assert "| concept | \\<img> \\*loud\\* \\`code\\` \\[link](x) line |" in text


def test_the_card_of_a_recipe() -> None:
    card = ModelCard(recipe_card("me/both", [("me/no-cat", "v1", 1.0), ("me/no-dog", None, 0.5)]))
    for words in (
        "# both",
        "| [me/no-cat](https://huggingface.co/me/no-cat) | `v1` | 1 |",
        "| [me/no-dog](https://huggingface.co/me/no-dog) | `main` | 0.5 |",
        'from diffusers_esd import stack\n\nstack(pipe, "me/both")\n',
    ):
        assert words in card.text
    assert not {"lora", "diffusers"} & set(card.data.tags), "for these the Hub shows code that cannot load it"
    assert card.data.library_name is None
    assert update_card(str(card), str(card)).strip() == str(card).strip()
    renewed = update_card(str(card), recipe_card("me/both", [("me/no-bus", None, 1.0)]))
    assert "me/no-bus" in renewed
    assert "me/no-cat" not in renewed


def test_the_card_of_a_baked_pipeline() -> None:
    card = ModelCard(baked_card("someone/model", [(["a cat"], "no-cat", 1.0), (["a|dog"], "no-dog", 0.5)]))
    assert card.data.base_model == "someone/model"
    assert card.data.to_dict()["base_model_relation"] == "finetune"
    assert "lora" not in card.data.tags
    assert "| a cat | no-cat | 1 |\n| a\\|dog | no-dog | 0.5 |" in card.text
    assert ModelCard(baked_card("my-model", [])).data.base_model is None, "a local name is not an id"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a/b", True), ("a", False), ("a/b/c", False), ("../b", False), ("./b", False), ("a/b c", False)],
)
def test_ids_of_repositories(text: str, expected: bool) -> None:
    assert is_repo_id(text) is expected


def loaded_by(module: str) -> list[str]:
    """Which heavy packages a new process has loaded after importing a module."""
    code = f"import sys, {module}; print([m for m in ('torch', 'diffusers', 'peft') if m in sys.modules])"
    return ast.literal_eval(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout.decode()
    )


def test_cards_and_the_hub_are_light() -> None:
    assert loaded_by("diffusers_esd.card, diffusers_esd.hub") == []
    with must_fail("an erasure needs torch"):
        assert loaded_by("diffusers_esd.erasure") == []
