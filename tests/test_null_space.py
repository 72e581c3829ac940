"""The null space: exact algebra, the vocabulary it protects, and an adapter that hardly hears what is preserved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from emoji_sd import OBJECTS, STYLES, load, phrase, settings
from tiny import tiny_pipeline, tiny_tokenizer
from torch import Tensor, nn

from diffusers_esd import ESDTrainer
from diffusers_esd.families import family_for
from diffusers_esd.null_space import _Moments, _portions, _rows, directions
from diffusers_esd.vocabulary import NEAR, SINGLE, in_contexts, nearness, preserved, words


def moment(rows: Tensor) -> Tensor:
    return rows.T @ rows / len(rows)


def some_rows(n: int, d: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((n, d), generator=generator) * torch.linspace(3, 0.1, d)


def test_directions_are_the_naive_eigenvectors() -> None:
    kept, concept, strength = moment(some_rows(200, 24, 0)), moment(some_rows(5, 24, 1)), 0.05
    p = torch.linalg.inv(kept / (strength * kept.diagonal().mean()) + torch.eye(24))
    values, vectors = torch.linalg.eigh(p @ concept @ p)
    expected = (vectors[:, -3:] * values[-3:].sqrt()).flip(1).T
    expected = expected * (3 / (expected @ concept @ expected.T).trace()).sqrt()
    rows, leak = directions(kept, concept, 3, strength)
    signs = (rows * expected).sum(1).sign()
    torch.testing.assert_close(rows * signs[:, None], expected, rtol=1e-3, atol=1e-4)
    assert (rows @ concept @ rows.T).trace().item() == pytest.approx(3, rel=1e-4)
    assert leak == pytest.approx(((expected @ kept @ expected.T).trace() / 3).item(), rel=1e-3)


def test_what_lies_outside_the_preserved_span_is_heard_and_nothing_else() -> None:
    basis = torch.linalg.qr(torch.randn((16, 16), generator=torch.Generator().manual_seed(0))).Q
    kept = moment(torch.randn((99, 10), generator=torch.Generator().manual_seed(1)) @ basis[:, :10].T)
    concept = moment((basis[:, 3] + basis[:, 12])[None])
    rows, leak = directions(kept, concept, 1, 1e-4)
    assert leak < 1e-4
    assert torch.cosine_similarity(rows[0], basis[:, 12], dim=0).abs() > 0.999
    _, control = directions(kept, moment(basis[:, 3][None]), 1, 1e-4)
    assert control > 0.5, "the control: what is preserved itself cannot be told apart"


def test_rows_of_a_convolution_are_what_its_kernel_sees() -> None:
    layer = nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False)
    x = torch.randn(2, 3, 8, 8)
    out = _rows(layer, x) @ layer.weight.flatten(1).T
    torch.testing.assert_close(out, layer(x).flatten(2).transpose(1, 2).reshape(-1, 5))


def test_words_are_whole_and_real() -> None:
    known = words(tiny_tokenizer())
    assert {"cat", "rocket", "mono", "animal"} <= set(known)
    assert all(len(word) >= 3 and word.isalpha() for word in known)
    assert "ca" not in known


@pytest.mark.parametrize(("concept", "gone"), [("a cat", "cat"), ("art in mono style", "mono")])
def test_the_vocabulary_leaves_the_concept_out_and_its_neighbours_in(concept: str, gone: str) -> None:
    prompts = preserved(family_for(load()), [concept], torch.Generator().manual_seed(0))
    said = {word for prompt in prompts for word in prompt.split()}
    assert gone not in said
    assert prompts[0] == ""
    neighbours = {"dog", "rabbit", "crown", "animal", "noto", "art"}
    assert neighbours <= said
    assert {template.format("dog") for template in SINGLE} <= set(prompts)
    again = preserved(family_for(load()), [concept], torch.Generator().manual_seed(0))
    assert prompts == again


def test_nearness_is_one_for_the_same_word_and_tells_a_style_in_a_phrase() -> None:
    family = family_for(load())
    known = [*OBJECTS, *STYLES, "animal"]
    near = dict(zip(known, nearness(family, known, ["a cat"]).tolist(), strict=True))
    assert near["cat"] == pytest.approx(1, abs=1e-3)
    assert max(value for word, value in near.items() if word != "cat") < NEAR
    near = dict(zip(known, nearness(family, known, ["art in mono style"]).tolist(), strict=True))
    assert near["mono"] >= NEAR


def test_a_concept_is_looked_at_in_company() -> None:
    found = in_contexts("a cat", ["noto", "mono"], 3, torch.Generator().manual_seed(0))
    assert found[:3] == ("a cat",) * 3
    assert len(found) == 6
    assert set(found[3:]) <= {"a cat in noto style", "a cat in mono style"}


def leaks(erasure: Any, pipe: Any, kept: Sequence[str], concept: str) -> float:
    """How loud preserved text is beside the concept's to the adapter's keys and values."""
    family = family_for(pipe)
    loud = []
    for prompts in (kept, [concept]):
        states = family.encode(prompts)["encoder_hidden_states"]
        layers = [key for key in erasure.weights if key.endswith("lora_A.weight")]
        loud.append(sum((states @ erasure.weights[key].T).square().mean().item() for key in layers))
    return loud[0] / loud[1]


def test_an_adapter_hardly_hears_the_other_objects() -> None:
    others = [phrase(word) for word in OBJECTS if word != "cat"]
    quick = {**settings("esd-x"), "iterations": 1}
    confined = ESDTrainer(load(), **quick).erase("a cat")
    assert leaks(confined, load(), others, "a cat") < 0.1
    free = ESDTrainer(load(), **{**quick, "group": "esd-x-strict", "null_space": False, "preserve_weight": 0.0})
    assert leaks(free.erase("a cat"), load(), others, "a cat") > 0.5, "the control"
    assert confined.provenance.evaluations["no_grad"] < 200, "text alone costs no evaluations"
    assert all(".to_k." in key or ".to_v." in key for key in confined.weights)


def test_a_is_held_and_b_trains() -> None:
    first = ESDTrainer(load(), **{**settings("esd-x"), "iterations": 1}).erase("a cat")
    later = ESDTrainer(load(), **{**settings("esd-x"), "iterations": 4}).erase("a cat")
    for key, value in first.weights.items():
        assert torch.equal(value, later.weights[key]) is ("lora_A" in key)


def test_layers_that_see_the_timestep_alone_are_left_out() -> None:
    quick = {**settings("esd-u"), "iterations": 1, "num_inference_steps": 5}
    erasure = ESDTrainer(load(), **quick).erase("a cat")
    assert erasure.provenance.layers == len(erasure.weights) // 2
    assert not any("time_emb" in key for key in erasure.weights)
    assert any("ff.net" in key for key in erasure.weights)
    pipe = load()
    erasure.apply(pipe)
    assert sum("lora_A" in name for name, _ in pipe.unet.named_parameters()) == erasure.provenance.layers


def test_hooks_are_gone_and_modes_as_they_were() -> None:
    pipe = load()
    pipe.unet.train()
    before = [len(module._forward_pre_hooks) for module in pipe.unet.modules()]
    ESDTrainer(pipe, **{**settings("esd-x"), "iterations": 1}).erase("a cat")
    pipe.unload_lora_weights()
    assert [len(module._forward_pre_hooks) for module in pipe.unet.modules()] == before
    assert pipe.unet.training

    family = family_for(pipe)
    moments = _Moments(family, ["conv_in"], torch.Generator())
    with pytest.raises(RuntimeError), moments.of_layers():
        raise RuntimeError
    assert not pipe.unet.conv_in._forward_pre_hooks


def test_a_concept_that_nothing_tells_apart_is_refused_before_training() -> None:
    """The control: on the trained model the same call trains, in the tests above."""
    message = "No layer can tell 'a cat' from what is preserved"
    pipe = tiny_pipeline()
    with pytest.raises(ValueError, match=message):
        ESDTrainer(pipe).erase("a cat")
    assert not hasattr(pipe.unet, "peft_config")


def test_moments_are_gathered_in_portions_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusers_esd.null_space._MEMORY", 1600)
    widths = {"a": 10, "b": 10, "c": 10, "d": 20}
    assert list(_portions(widths)) == [["a", "b"], ["c"], ["d"]], "2 * 4 * 10 * 10 bytes each, and 3200"
