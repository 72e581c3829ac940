"""The null space: exact algebra, the vocabulary it protects, and an adapter that hardly hears what is preserved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from controls import must_fail
from emoji_sd import OBJECTS, STYLES, load, phrase, settings
from tiny import tiny_pipeline, tiny_tokenizer
from torch import Tensor, nn

from diffusers_esd import Erasure, ESDConfig, ESDTrainer, Limits
from diffusers_esd.families import family_for
from diffusers_esd.streams import stream
from diffusers_esd.training.inputs import layer_inputs, observed
from diffusers_esd.training.moments import Moments, directions
from diffusers_esd.training.null_space import portions
from diffusers_esd.training.prompts import choose
from diffusers_esd.training.vocabulary import SINGLE, contexts, nearness, preserved, words

NEAR = Limits().near


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
    rows = directions(Moments(kept, concept), 3, strength)
    signs = (rows * expected).sum(1).sign()
    torch.testing.assert_close(rows * signs[:, None], expected, rtol=1e-3, atol=1e-4)
    assert (rows @ concept @ rows.T).trace().item() == pytest.approx(3, rel=1e-4)
    leak = Moments(kept, concept).leak(rows)
    assert leak == pytest.approx(((expected @ kept @ expected.T).trace() / 3).item(), rel=1e-3)


def test_what_lies_outside_the_preserved_span_is_heard_and_nothing_else() -> None:
    basis = torch.linalg.qr(torch.randn((16, 16), generator=torch.Generator().manual_seed(0))).Q
    kept = moment(torch.randn((99, 10), generator=torch.Generator().manual_seed(1)) @ basis[:, :10].T)
    concept = moment((basis[:, 3] + basis[:, 12])[None])
    moments = Moments(kept, concept)
    rows = directions(moments, 1, 1e-4)
    assert moments.leak(rows) < 1e-4
    assert torch.cosine_similarity(rows[0], basis[:, 12], dim=0).abs() > 0.999
    control = Moments(kept, moment(basis[:, 3][None]))
    with must_fail("what is preserved itself cannot be told apart"):
        assert control.leak(directions(control, 1, 1e-4)) < 0.5


@pytest.mark.parametrize(("d", "n"), [(256, 2048), (1024, 1024), (2048, 768)])
def test_two_samples_of_one_distribution_are_told_apart_only_by_those_they_were_fitted_to(d: int, n: int) -> None:
    """Nothing tells the concept from the rest here, so no layer may pass, however wide."""

    def sample(seed: int, rows: int) -> Tensor:
        return moment(some_rows(rows, d, seed))

    fitted = Moments(sample(0, n), sample(1, n // 4))
    rows = directions(fitted, 4, Limits().state_strength * max(1.0, d / n))
    fresh = Moments(sample(2, n), sample(3, n // 4))
    assert fresh.leak(rows) > 0.5
    if d >= n:
        with must_fail("on what it was fitted to a wide layer seems to tell them apart"):
            assert fitted.leak(rows) > 0.5


def test_rows_of_a_convolution_are_what_its_kernel_sees() -> None:
    layer = nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False)
    x = torch.randn(2, 3, 8, 8)
    out = layer_inputs(layer, x) @ layer.weight.flatten(1).T
    torch.testing.assert_close(out, layer(x).flatten(2).transpose(1, 2).reshape(-1, 5))


def test_words_are_whole_and_real() -> None:
    known = words(tiny_tokenizer())
    assert {"cat", "rocket", "mono", "animal"} <= set(known)
    assert all(len(word) >= 3 and word.isalpha() for word in known)
    assert "ca" not in known


@pytest.mark.parametrize(("concept", "gone"), [("a cat", "cat"), ("art in mono style", "mono")])
def test_the_vocabulary_leaves_the_concept_out_and_its_neighbours_in(concept: str, gone: str) -> None:
    prompts = preserved(family_for(load()), [concept], seed=0, limits=Limits()).prompts
    said = {word for prompt in prompts for word in prompt.split()}
    assert gone not in said
    assert prompts[0] == ""
    neighbours = {"dog", "rabbit", "crown", "animal", "noto", "art"}
    assert neighbours <= said
    assert {template.format("dog") for template in SINGLE} <= set(prompts)
    assert len(set(prompts)) == len(prompts)
    assert prompts == preserved(family_for(load()), [concept], seed=0, limits=Limits()).prompts
    fewer = preserved(family_for(load()), [concept], seed=0, limits=Limits(words=10, pairs=20)).prompts
    assert len(fewer) <= 1 + 3 * 10 + 20


def test_nearness_is_one_for_the_same_word_and_tells_a_style_in_a_phrase() -> None:
    family = family_for(load())
    known = [*OBJECTS, *STYLES, "animal"]
    near = dict(zip(known, nearness(family, known, ["a cat"]).tolist(), strict=True))
    assert near["cat"] == pytest.approx(1, abs=1e-3)
    assert max(value for word, value in near.items() if word != "cat") < NEAR
    near = dict(zip(known, nearness(family, known, ["art in mono style"]).tolist(), strict=True))
    assert near["mono"] >= NEAR


def test_a_concept_is_looked_at_in_company() -> None:
    found = contexts("a cat", ["noto", "mono"], 3, stream(0, "contexts"))
    assert len(found) == 3
    assert set(found) <= {"a cat in noto style", "a cat in mono style"}
    assert contexts("a cat", [], 3, stream(0, "contexts")) == ("a cat",)


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
    unconfined = free.erase("a cat")
    with must_fail("an adapter that is not confined answers them as much as the concept"):
        assert leaks(unconfined, load(), others, "a cat") < 0.5
    assert confined.provenance.evaluations == unconfined.provenance.evaluations, "text alone costs no evaluations"
    assert all(".to_k." in key or ".to_v." in key for key in confined.weights)


def test_a_is_held_and_b_trains() -> None:
    first = ESDTrainer(load(), **{**settings("esd-x"), "iterations": 1}).erase("a cat")
    later = ESDTrainer(load(), **{**settings("esd-x"), "iterations": 4}).erase("a cat")
    for key, value in first.weights.items():
        assert torch.equal(value, later.weights[key]) is ("lora_A" in key)


@pytest.fixture(scope="module")
def erased() -> Erasure:
    """A cat, by a training of one iteration: what its layers may answer is decided before."""
    return ESDTrainer(load(), **{**settings("esd-u"), "iterations": 1, "num_inference_steps": 5}).erase("a cat")


def test_layers_that_see_the_timestep_alone_are_left_out(erased: Erasure) -> None:
    facts = erased.provenance
    assert facts.layers == len(erased.weights) // 2 == len(facts.leaks)
    assert not any("time_emb" in key for key in erased.weights)
    assert any("ff.net" in key for key in erased.weights)
    pipe = load()
    erased.apply(pipe)
    assert sum("lora_A" in name for name, _ in pipe.unet.named_parameters()) == facts.layers
    (left_out,) = facts.left_out.values()
    assert "time_embedding.linear_1" in left_out
    plan = ESDTrainer(load(), **settings("esd-u")).erase("a cat", dry_run=True)
    assert {*facts.leaks, *left_out} == set(plan.layers), "each layer of the group is in the one or in the other"


def test_layers_hardly_answer_preserved_pictures_that_they_were_not_fitted_to(erased: Erasure) -> None:
    """Leaks measured anew, on other noises, by hand; one layer of ten may be just above its bound."""
    family = family_for(load())
    schedule = family.schedule(Limits().steps, family.latent_shape(None), 3.0)
    rows = {name: a.flatten(1) for name, (a, _) in erased.layers().items()}

    def answers(prompts: Sequence[str], seed: int) -> dict[str, float]:
        total = dict.fromkeys(rows, 0.0)
        conditioning = family.encode(prompts)
        x_t = schedule.noise(torch.Generator().manual_seed(seed), len(prompts))

        def note(name: str, h: Tensor) -> None:
            total[name] += (h @ rows[name].T).square().sum(1).mean().item() / Limits().steps

        with torch.no_grad(), observed(family.denoiser, list(rows), note, seed, "test"):
            for position in range(Limits().steps):
                at = torch.full((len(prompts),), position)
                x_t = schedule.step(schedule.predict(x_t, at, conditioning), x_t, at, at + 1)
        return total

    others = [phrase(word, style) for word in OBJECTS if word != "cat" for style in ("noto", "mono")]
    of_others, of_cats = answers(others, 1), answers(["a cat", *[phrase("cat", style) for style in STYLES]] * 8, 2)
    found = {name: of_others[name] / of_cats[name] for name in rows}
    bound = Limits().largest_leak
    assert sum(leak > bound for leak in found.values()) <= 0.1 * len(found), found
    assert max(found.values()) < 1.5 * bound, found
    with must_fail("a layer of the group that was left out answers them"):
        name = "down_blocks.0.resnets.0.time_emb_proj"
        assert name in rows


def test_hooks_are_gone_and_modes_as_they_were() -> None:
    pipe = load()
    pipe.unet.train()
    before = [len(module._forward_pre_hooks) for module in pipe.unet.modules()]
    ESDTrainer(pipe, **{**settings("esd-x"), "iterations": 1}).erase("a cat")
    pipe.unload_lora_weights()
    assert [len(module._forward_pre_hooks) for module in pipe.unet.modules()] == before
    assert pipe.unet.training

    with pytest.raises(ZeroDivisionError), observed(pipe.unet, ["conv_in"], lambda name, h: None, 0, "test"):
        1 / (len(pipe.unet.conv_in._forward_pre_hooks) - 1)
    assert not pipe.unet.conv_in._forward_pre_hooks


def test_a_concept_that_nothing_tells_apart_is_refused_before_training() -> None:
    """The control: on the trained model the same call trains, in the tests above."""
    message = (
        r"^No layer can tell 'a cat' from what is preserved: the smallest leak is [\d.]+, and it must be 0.15 or less."
    )
    pipe = tiny_pipeline()
    with pytest.raises(ValueError, match=message):
        ESDTrainer(pipe).erase("a cat")
    assert not hasattr(pipe.unet, "peft_config")


def test_moments_are_gathered_in_portions_that_fit() -> None:
    widths = {"a": 10, "b": 10, "c": 10, "d": 20}
    assert list(portions(widths, 1600)) == [["a", "b"], ["c"], ["d"]], "2 * 4 * 10 * 10 bytes each, and 3200"


def test_portions_do_not_change_the_result() -> None:
    quick = {**settings("esd-u"), "group": r".*ff\.net\.2", "iterations": 1, "num_inference_steps": 5}
    small = {"trajectories": 16, "held_out": 8, "concept_trajectories": 4, "steps": 2, "largest_leak": 10.0}
    whole = ESDTrainer(load(), **quick, limits=Limits(**small)).erase("a cat")
    parts = ESDTrainer(load(), **quick, limits=Limits(**small, memory=1)).erase("a cat")
    assert parts.provenance.evaluations["no_grad"] > whole.provenance.evaluations["no_grad"]
    for key, value in whole.weights.items():
        torch.testing.assert_close(parts.weights[key], value, rtol=1e-3, atol=1e-4)


def test_a_users_list_is_used_whole_or_drawn_from_evenly() -> None:
    keep = tuple(phrase(word, style) for word in OBJECTS for style in STYLES if word != "cat")
    quick = {**settings("esd-u"), "num_inference_steps": 5, "preserve": keep}
    trainer = ESDTrainer(load(), **quick, limits=Limits(trajectories=48, held_out=16, loss_prompts=64))
    plan = trainer.erase("a cat", dry_run=True)
    assert set(plan.preserved) == set(keep)
    assert (len(plan.preserved), plan.of_moments, plan.of_loss) == (195, 48, 64)
    first = {prompt.split()[1] for prompt in plan.preserved[:64]}
    assert len(first) > 25, "drawn from all over the list"
    with must_fail("the first 64 of the list are few objects"):
        assert len({prompt.split()[1] for prompt in keep[:64]}) > 25
    few = ESDTrainer(load(), **{**quick, "preserve": keep[:10]}).erase("a cat", dry_run=True)
    assert (few.of_moments, few.of_loss) == (10, 10)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_both_halves_of_the_contexts_are_of_every_concept(n: int) -> None:
    concepts = [phrase(word) for word in OBJECTS[:n]]
    found = choose(family_for(load()), ESDConfig(**settings("esd-x")), Limits(), concepts).contexts
    for half in (found[::2], found[1::2]):
        assert {prompt.split(" in ")[0] for prompt in half} == set(concepts)


def test_all_of_many_concepts_are_looked_at() -> None:
    concepts = [phrase(word) for word in OBJECTS[:20]]
    prompts = choose(family_for(load()), ESDConfig(**settings("esd-u")), Limits(), concepts)
    half = len(prompts.of_concept) // 2
    for part in (prompts.of_concept[:half], prompts.of_concept[half:]):
        assert all(any(prompt.startswith(concept) for prompt in part) for concept in concepts)
        assert set(concepts) & set(part)
        assert any(" style" in prompt for prompt in part)
