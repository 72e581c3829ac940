"""A family in a user's own file: the code of the documentation, on the real classes, from the training to the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler
from pipelines import alignment
from tiny import autoencoder, louder, seeded, t5_encoder, t5_tokenizer
from torch import Tensor

from diffusers_esd import ESDTrainer

PAGE = Path(__file__).parents[2] / "docs" / "families.md"


def chroma_of_the_page() -> Any:
    """The class that the documentation shows."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (block,) = (block for block in blocks if "class Chroma(" in block)
    namespace: dict[str, Any] = {"__name__": "chroma"}
    exec(compile(block, str(PAGE), "exec"), namespace)
    return namespace["Chroma"]


@seeded
def tiny_chroma() -> ChromaPipeline:
    """Chroma."""
    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=16,
        approximator_hidden_dim=16,
        approximator_layers=1,
    ).eval()
    pipe = ChromaPipeline(
        transformer=louder(transformer, ("attn.add_v_proj.weight", "attn.to_out.0.weight"), 10),
        vae=autoencoder(),
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )
    pipe.default_sample_size = 8
    return pipe


def family_of(pipe: Any) -> Any:
    return chroma_of_the_page()(pipe, max_sequence_length=48)


@torch.no_grad()
def test_its_states_are_the_pipelines_own() -> None:
    pipe = tiny_chroma()
    family = family_of(pipe)
    schedule = family.schedule(4, family.latent_shape(16), 4.0)
    x_t = schedule.noise(torch.Generator().manual_seed(0))
    theirs: list[Tensor] = []

    def keep(pipe: Any, i: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        theirs.append(tensors["latents"])
        return tensors

    options = {"guidance_scale": 4.0, "num_inference_steps": 4, "height": 16, "width": 16, "max_sequence_length": 48}
    latents = pipe._pack_latents(x_t, *x_t.shape)
    pipe("a cat", latents=latents, output_type="latent", callback_on_step_end=keep, **options)
    rows = family.encode(["", "a cat"])
    for i in range(4):
        position = torch.tensor([i])
        e_null, e = schedule.predict(torch.cat([x_t] * 2), position.repeat(2), rows).chunk(2)
        x_t = schedule.step(schedule.guide(e_null, e), x_t, position, position + 1)
        torch.testing.assert_close(pipe._pack_latents(x_t, *x_t.shape), theirs[i], rtol=1e-4, atol=1e-4)
    with must_fail("states do move"):
        torch.testing.assert_close(theirs[0], theirs[1], rtol=1e-2, atol=1e-2)


@torch.no_grad()
def predicted(pipe: Any, prompt: str) -> Tensor:
    family = family_of(pipe)
    x_t = torch.randn((4, 4, 8, 8), generator=torch.Generator().manual_seed(9))
    return family.predict(x_t, torch.full((4,), 600.0), family.encode([prompt] * 4), 3.0)


def test_it_trains_and_the_file_loads(tmp_path: Path) -> None:
    pipe = tiny_chroma()
    with pytest.raises(TypeError, match=r"^Unknown pipeline ChromaPipeline; .* pass family=\.\.\., a subclass"):
        ESDTrainer(pipe)
    e_cond, e_null = predicted(pipe, "a cat"), predicted(pipe, "")
    options = {"group": "esd-x", "iterations": 80, "batch_size": 4, "rank": 4, "learning_rate": 1e-2, "size": 16}
    trainer = ESDTrainer(pipe, family=family_of(pipe), num_inference_steps=4, preserve=(), **options)
    erasure = trainer.erase("a cat")
    assert erasure.provenance.history[0][1] == pytest.approx(1.0, abs=1e-3)
    student = predicted(pipe, "a cat")
    assert alignment(student, e_cond, e_null) < 0
    erasure.save_pretrained(tmp_path)
    fresh = tiny_chroma()
    with must_fail("without the file it is another model"):
        torch.testing.assert_close(predicted(fresh, "a cat"), student)
    fresh.load_lora_weights(tmp_path)
    torch.testing.assert_close(predicted(fresh, "a cat"), student)
