"""Functions on buffers: bit for bit a naive loop, and on a GPU the same as CUDA graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from controls import must_fail
from diffusers import DiffusionPipeline
from quantised import QUANTISED
from tiny import not_captured, tiny_pipeline
from torch import Tensor
from torch.nn.functional import mse_loss

from diffusers_esd import Erasure, ESDConfig, ESDTrainer, Limits
from diffusers_esd.adapter import Adapter, read_weights
from diffusers_esd.families import family_for
from diffusers_esd.run import RunConfig
from diffusers_esd.training.encoding import Encoded
from diffusers_esd.training.graphs import Buffered, Graphs, obstacle
from diffusers_esd.training.networks import Networks
from diffusers_esd.training.prompts import choose
from diffusers_esd.training.state import new_state

TWENTY: dict[str, Any] = {
    "iterations": 20, "num_inference_steps": 5, "rank": 2, "learning_rate": 1e-2, "null_space": False, "preserve": (),
}  # fmt: skip
OTHERS = ("a dog", "a bird")
FEW_LAYERS = {"group": "esd-x-strict"}
OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {"trajectory": "fresh", "iterations": 10, **FEW_LAYERS},
    "pool": {},
    "eta": {"eta": 3.0, **FEW_LAYERS},
    "batch": {"batch_size": 3, **FEW_LAYERS},
    "anchor": {"anchor": "an animal", **FEW_LAYERS},
    "erase from": {"erase_from": "an animal", **FEW_LAYERS},
    "erase from, anchor": {"erase_from": "an animal", "anchor": "a plant", **FEW_LAYERS},
    "preserve": {"preserve": OTHERS, "iterations": 10},
    "preserve, accumulated": {"preserve": OTHERS, "gradient_accumulation_steps": 2, "iterations": 8},
    "teacher's trajectories": {"rollout": "teacher", **FEW_LAYERS},
    "clipped": {"max_grad_norm": 0.1, **FEW_LAYERS},
    "learning rate": {"lr_scheduler": "cosine", "lr_warmup_steps": 5, **FEW_LAYERS},
}


def naive(pipe: DiffusionPipeline, config: ESDConfig) -> dict[str, Tensor]:
    """The package's trajectories and optimiser; predictions, losses and gradients by hand."""
    family, unet = family_for(pipe), pipe.unet
    encoded = Encoded(family)
    prompts = choose(encoded, config, Limits(), ["a cat"])
    encoded.add(["", "a cat", *prompts.student, *prompts.loss, str(config.anchor)])
    selection = ESDTrainer(pipe, config).selection()
    adapter = Adapter(unet, "naive", selection, rank=config.rank, lora_alpha=config.rank, seed=config.seed)
    schedule = family.schedule(config.num_inference_steps, family.latent_shape(None), config.guidance_scale)
    with adapter.training():
        state = new_state(config, Networks(schedule, adapter, encoded, not_captured()), adapter.parameters, prompts)

        def e(x_t: Tensor, position: Tensor, prompts: list[str]) -> tuple[Tensor, ...]:
            n = len(prompts) // len(x_t)
            t = schedule.timesteps[position].repeat(n)
            return unet(torch.cat([x_t] * n), t, return_dict=False, **encoded.rows(prompts))[0].chunk(n)

        for _ in range(config.iterations):
            state.optimizer.zero_grad()
            for _ in range(config.gradient_accumulation_steps):
                drawn = state.erase.draw()
                n, student = len(drawn.prompts), list(drawn.prompts)
                with torch.no_grad(), adapter.off():
                    asked = [""] * n + ["a cat"] * n + [str(config.anchor)] * n * bool(config.anchor)
                    asked += student if config.erase_from else []
                    e_null, e_cond, *more = e(drawn.x_t, drawn.position, asked)
                (e_student,) = e(drawn.x_t, drawn.position, student)
                e_a = more[0] if config.anchor else e_null
                origin = more[-1] if config.erase_from else e_a
                loss = mse_loss(e_student, origin - config.eta * (e_cond - e_a))
                (loss / config.gradient_accumulation_steps).backward()
                rollout = e_student.detach() if config.rollout == "student" else origin if config.erase_from else e_cond
                state.erase.advance(drawn, rollout, e_null)
                if state.preserve is not None:
                    kept = state.preserve.draw()
                    n, student = len(kept.prompts), list(kept.prompts)
                    with torch.no_grad(), adapter.off():
                        e_null, e_cond = e(kept.x_t, kept.position, [""] * n + student)
                    (e_student,) = e(kept.x_t, kept.position, student)
                    (mse_loss(e_student, e_cond) * (10 / config.gradient_accumulation_steps)).backward()
                    state.preserve.advance(kept, e_student.detach(), e_null)
            if config.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(adapter.parameters, config.max_grad_norm)
            state.optimizer.step()
            state.lr_scheduler.step()
    return read_weights(unet, "naive", "unet")


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_iterations_equal_a_naive_loop_bit_for_bit(options: dict[str, Any]) -> None:
    config = ESDConfig(**{**TWENTY, **options})
    ours = ESDTrainer(tiny_pipeline(), config).erase("a cat").weights
    theirs = naive(tiny_pipeline(), config)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    with must_fail("B is 0 before the training"):
        assert not any(value.any() for key, value in ours.items() if "lora_B" in key)


def test_buffers_hold_what_came_last() -> None:
    addresses: list[int] = []

    def total(x: Tensor, **rows: Tensor) -> tuple[Tensor, ...]:
        addresses.append(x.data_ptr())
        return x + rows["text"], x * 0

    buffered = Buffered(total, not_captured())
    found = [buffered(torch.full((n,), value), text=torch.ones(n))[0] for n, value in ((2, 1.0), (3, 5.0), (2, 2.0))]
    assert [value.tolist() for value in found] == [[2, 2], [6, 6, 6], [3, 3]]
    assert addresses[0] == addresses[2], "the same shapes have the same buffers"
    assert addresses[0] != addresses[1]


def test_why_nothing_is_captured_is_in_the_provenance() -> None:
    config = {**TWENTY, "iterations": 1}
    provenance = ESDTrainer(tiny_pipeline(), **config).erase("a cat").provenance
    assert provenance.not_captured == "the device is cpu, and needs to be cuda"
    assert ESDTrainer(tiny_pipeline(), **config, capture=False).erase("a cat").provenance.not_captured == (
        "`capture` is False"
    )


def test_a_failure_ends_capturing_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    graphs = not_captured()
    graphs.give_up("Tried to allocate 2 GiB.\nSee the documentation.")
    assert graphs.obstacle == "capturing failed: Tried to allocate 2 GiB."
    assert "which takes longer: capturing failed: Tried to allocate 2 GiB." in caplog.text


def test_quantised_weights_are_an_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    family = family_for(QUANTISED["GGUF Q8_0"]())
    monkeypatch.setattr(type(family), "device", torch.device("cuda"))
    expected = "the denoiser is quantised (GGUF Q8_0), and it is not known whether its layers can be captured"
    assert obstacle(family, RunConfig()) == expected
    assert obstacle(family_for(tiny_pipeline()), RunConfig()) == ""


# On a GPU.

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


def trained(dtype: torch.dtype = torch.float32, **options: Any) -> Erasure:
    pipe = tiny_pipeline().to("cuda", dtype)
    pipe.set_progress_bar_config(disable=True)
    return ESDTrainer(pipe, **{**TWENTY, **options}).erase("a cat")


@on_gpu
@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_captured_iterations_equal_eager_ones(options: dict[str, Any]) -> None:
    captured, eager = trained(**options), trained(**options, capture=False)
    assert captured.provenance.not_captured == ""
    assert captured.provenance.evaluations == eager.provenance.evaluations
    largest = max(value.abs().max().item() for value in eager.weights.values())
    for key, value in eager.weights.items():
        torch.testing.assert_close(captured.weights[key], value, rtol=0, atol=2e-2 * largest)
    losses = [torch.tensor([loss for loss, _ in e.provenance.history]) for e in (captured, eager)]
    torch.testing.assert_close(*losses, rtol=1e-2, atol=1e-4)


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_captured(dtype: torch.dtype) -> None:
    options = {"preserve": OTHERS, "gradient_checkpointing": True}
    captured, eager = trained(dtype, **options), trained(dtype, **options, capture=False)
    assert captured.provenance.not_captured == ""
    assert captured.provenance.alignment == pytest.approx(eager.provenance.alignment, abs=0.05)


@on_gpu
def test_capturing_changes_no_gradient() -> None:
    weight = torch.nn.Parameter(torch.ones(3, device="cuda"))
    weight.grad = torch.full_like(weight, 5.0)

    def work(x: Tensor) -> tuple[Tensor, ...]:
        (weight * x).sum().backward()
        return (x * 2,)

    graphs = Graphs(torch.device("cuda"), [weight], "")
    buffered = Buffered(work, graphs)
    for n in (1.0, 2.0, 3.0):
        (twice,) = buffered(torch.full((3,), n, device="cuda"))
        assert twice.tolist() == [2 * n] * 3
    assert graphs.obstacle == ""
    assert weight.grad.tolist() == [11.0] * 3, "5 + 1 + 2 + 3: what warms up counts for nothing"


@on_gpu
def test_out_of_memory_while_capturing_goes_on_without() -> None:
    calls: list[bool] = []

    def work(x: Tensor) -> tuple[Tensor, ...]:
        calls.append(torch.cuda.is_current_stream_capturing())
        if calls[-1]:
            torch.empty(2**50, device="cuda", dtype=torch.uint8)
        return (x + 1,)

    graphs = Graphs(torch.device("cuda"), (), "")
    buffered = Buffered(work, graphs)
    for n in range(4):
        assert buffered(torch.full((2,), float(n), device="cuda"))[0].tolist() == [n + 1] * 2
    assert calls.count(True) == 1
    assert graphs.obstacle.startswith("capturing failed: ")
