"""All prompts are encoded before the denoiser is needed, few times, and the text encoders are out of the way then."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from tiny import tiny_flux, tiny_pipeline, tiny_sd3, tiny_xl

from diffusers_esd import ESDTrainer, Limits
from diffusers_esd.families import family_for
from diffusers_esd.training.encoding import Encoded

QUICK: dict[str, Any] = {"num_inference_steps": 5, "iterations": 3, "rank": 2, "size": 16}
SMALL = Limits(
    largest_leak=float("inf"), trajectories=8, concept_trajectories=4, steps=2, words=50, pairs=30, loss_prompts=8
)  # fmt: skip
BUILDERS = {"sd1": tiny_pipeline, "sdxl": tiny_xl, "sd3": tiny_sd3, "flux": tiny_flux}


def events_of(pipe: Any, **options: Any) -> tuple[list[str], Counter[str]]:
    """What happened in a training, in order (evaluations and moves); and how often each prompt was encoded."""
    events: list[str] = []
    prompts: Counter[str] = Counter()
    real = pipe.encode_prompt

    def encode_prompt(texts: list[str], *arguments: Any, **named: Any) -> Any:
        prompts.update(texts)
        return real(texts, *arguments, **named)

    pipe.encode_prompt = encode_prompt
    denoiser = pipe.components["unet" if "unet" in pipe.components else "transformer"]
    denoiser.register_forward_pre_hook(lambda *_: events.append("denoiser"))

    def note_moves(name: str, model: Any) -> None:
        to = model.to

        def move(*arguments: Any, **named: Any) -> Any:
            events.append(f"{name} moves")
            return to(*arguments, **named)

        model.to = move

    for name, model in pipe.components.items():
        if name.startswith("text_encoder"):
            model.register_forward_pre_hook(lambda *_: events.append("text"))
            note_moves(name, model)
    ESDTrainer(pipe, **QUICK, **options, limits=SMALL).erase("a cat")
    return events, prompts


@pytest.mark.parametrize(
    ("kind", "group"),
    [("sd1", "esd-x"), ("sd1", "full"), ("sdxl", "esd-u"), ("sdxl", "full"), ("sd3", "full"), ("flux", "esd-u")],
)
def test_all_encoding_comes_first_and_each_prompt_once(kind: str, group: str) -> None:
    events, prompts = events_of(BUILDERS[kind](), group=group)
    first = events.index("denoiser")
    assert "text" in events[:first]
    assert "text" not in events[first:]
    assert set(prompts.values()) == {1}, prompts.most_common(3)


def test_offload_takes_the_text_encoders_away_before_the_first_evaluation() -> None:
    events, _ = events_of(tiny_xl(), group="full", offload=True)
    moves = [event for event in events if "text_encoder" in event]
    first = events.index("denoiser")
    assert {"text_encoder moves", "text_encoder_2 moves"} <= set(events[:first]), "away while moments are gathered"
    assert len(moves) == 4, "away and back, once"
    events, _ = events_of(tiny_xl(), group="full")
    assert not [event for event in events if "text_encoder" in event], "only where it is wished"


def test_model_cpu_offload_moves_each_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of once for every batch of prompts: moves of all models onto the device, counted."""
    from accelerate.hooks import CpuOffload

    loads: list[int] = []
    last: list[Any] = [None]
    real = CpuOffload.pre_forward

    def pre_forward(hook: Any, module: Any, *arguments: Any, **named: Any) -> Any:
        if last[0] is not module:
            loads.append(id(module))
            last[0] = module
        return real(hook, module, *arguments, **named)

    monkeypatch.setattr(CpuOffload, "pre_forward", pre_forward)
    pipe = tiny_pipeline()
    pipe.enable_model_cpu_offload(device="cpu")
    ESDTrainer(pipe, **{k: v for k, v in QUICK.items() if k != "size"}, limits=SMALL, group="full").erase("a cat")
    assert loads == [id(pipe.text_encoder), id(pipe.unet)]


def test_only_what_is_asked_for_is_kept_and_on_the_cpu() -> None:
    family = family_for(tiny_pipeline())
    encoded = Encoded(family)
    encoded.add(["a cat", "a frog"])
    row = family.encode(["a cat"])[family.text]
    assert torch.equal(encoded.rows(["a cat"])[family.text], row)
    assert encoded.nbytes() == 2 * row.nbytes
    encoded.keep_only(["a cat", "a dog", "a cat"])
    assert encoded.nbytes() == 2 * row.nbytes
    assert len(encoded.rows(["a dog", "a cat"])[family.text]) == 2
    with pytest.raises(KeyError):
        encoded.rows(["a frog"])


def test_states_are_of_every_prompt_and_those_that_are_kept_are_not_encoded_again() -> None:
    pipe = tiny_pipeline()
    family, prompts = family_for(pipe), [f"a {word}" for word in ("cat", "dog", "frog", "panda")] * 10
    expected = family.encode(prompts)[family.text]
    calls: list[str] = []
    real = pipe.encode_prompt

    def encode_prompt(texts: list[str], *arguments: Any, **named: Any) -> Any:
        calls.extend(texts)
        return real(texts, *arguments, **named)

    pipe.encode_prompt = encode_prompt
    encoded = Encoded(family)
    encoded.add(["a cat", "a frog", "a cat"])
    assert calls == ["a cat", "a frog"]
    order: list[int] = []
    for numbers, states in encoded.states(prompts):
        torch.testing.assert_close(states, expected[numbers], rtol=1e-5, atol=1e-5)
        order += numbers
    assert sorted(order) == list(range(40))
    assert calls[2:] == ["a dog", "a panda"] * 10
    with pytest.raises(KeyError):
        encoded.rows(["a dog"])
