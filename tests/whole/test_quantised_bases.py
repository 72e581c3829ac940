"""An erasure on a quantised base: teacher, loss and training are exact, the base stays as it is, files are portable."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from emoji_sd import load
from evaluated import Brightness, small_suite
from quantised import QUANTISED, predicted, stored
from safetensors.torch import save_file

from diffusers_esd import (
    Erasure,
    ESDTrainer,
    Limits,
    bake,
    evaluate,
    import_erasure,
    merge,
    preview,
    refine,
    stack,
)  # fmt: skip
from diffusers_esd.adapter import Adapter
from diffusers_esd.denoiser import tuner_layers
from diffusers_esd.families import family_for
from diffusers_esd.training.encoding import Encoded
from diffusers_esd.training.graphs import Graphs
from diffusers_esd.training.networks import Networks

SHORT: dict[str, Any] = {"iterations": 3, "batch_size": 1, "rank": 4, "num_inference_steps": 4, "preserve": ()}


def differences(pipe: Any, before: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the numbers of the base that are not as before."""
    after = stored(pipe.unet)
    assert after.keys() == before.keys()
    return [name for name, value in before.items() if not torch.equal(value, after[name])]


# One of each library, and what diffusers does itself; the others differ in how numbers are stored.
SEVERAL = ("torchao Int8Tensor", "bitsandbytes nf4", "GGUF Q8_0", "float8_e4m3fn storage")


@pytest.mark.parametrize(
    "kind", [kind if kind in SEVERAL else pytest.param(kind, marks=pytest.mark.slow) for kind in QUANTISED]
)
def test_training_beside_a_quantised_base(kind: str, tmp_path: Path) -> None:
    pipe: Any = QUANTISED[kind]()
    intact, before = predicted(pipe), stored(pipe.unet)
    seen: list[float] = []
    trainer = ESDTrainer(pipe, **SHORT, group="full", eta=1.5, learning_rate=3e-3)
    erasure = trainer.erase("a cat", callback=lambda progress: seen.append(progress.loss))
    assert erasure.provenance.base_quantization == kind
    assert not differences(pipe, before)
    trained = predicted(pipe)
    with must_fail("the erasure does something"):
        assert torch.equal(trained, intact)
    layers = [layer for layer in tuner_layers(pipe.unet) if erasure.name in layer.lora_B]
    assert len(layers) == erasure.provenance.layers > 90
    for layer in layers:
        b = layer.lora_B[erasure.name].weight
        assert b.dtype == torch.float32
        assert b.abs().max() > 0
    erasure.save_pretrained(tmp_path / "no-cat")

    fresh: Any = QUANTISED[kind]()
    if kind == "float8_e4m3fn storage":  # PEFT would cast the adapter to float8, in which nothing can be computed
        Erasure.from_pretrained(tmp_path / "no-cat").apply(fresh)
    else:
        fresh.load_lora_weights(str(tmp_path / "no-cat"))
    assert torch.equal(predicted(fresh), trained)

    full: Any = load()
    base = predicted(full)
    Erasure.from_pretrained(tmp_path / "no-cat").apply(full)
    moved = (trained - intact).norm()
    assert (predicted(full) - trained).norm() < (base - intact).norm() + moved / 4
    assert (predicted(full) - base - (trained - intact)).norm() < moved / 2
    with must_fail("without the adapter nothing moves"):
        assert (base - base - (trained - intact)).norm() < moved / 2

    erasure.remove(pipe)
    assert torch.equal(predicted(pipe), intact)
    assert not any("lora" in name for name, _ in pipe.unet.named_modules())


@pytest.mark.parametrize("kind", QUANTISED)
def test_teacher_and_first_gradient(kind: str) -> None:
    """The teacher is the quantised base bit for bit. The gradient is that on a base with dequantised weights.

    Exception: 8 bits of bitsandbytes round the inputs of layers too.
    """
    gradients = []
    for pipe in (QUANTISED[kind](), dequantised_pipeline(QUANTISED[kind]())):
        family: Any = family_for(pipe)
        trainer = ESDTrainer(pipe, **SHORT, group="full")
        schedule = trainer.schedule()
        encoded = Encoded(family)
        encoded.add(["", "a cat"])
        x_t = schedule.noise(torch.Generator().manual_seed(0), 2)
        position, rows = torch.tensor([1, 2]), encoded.rows(["", "a cat"])
        with torch.no_grad():
            untouched = schedule.predict(x_t, position, rows)
        adapter = Adapter(family.denoiser, "no-cat", trainer.selection(), rank=2, lora_alpha=2, seed=0)
        networks = Networks(schedule, adapter, encoded, Graphs(family.device, adapter.parameters, "a test"))
        with adapter.training():
            for parameter in adapter.parameters:
                parameter.data += 0.01
            teacher = networks.predict_as_teacher(x_t, position, **rows)[0]
            assert torch.equal(teacher, untouched)
            student = networks.predict_as_student(x_t, position, **rows)
            with must_fail("the adapter does something"):
                assert torch.equal(student, untouched)
            student.square().mean().backward()
            gradients.append(torch.cat([parameter.grad.flatten() for parameter in adapter.parameters]))
    difference, size = (gradients[0] - gradients[1]).norm(), gradients[1].norm()
    assert difference < (0.05 if kind == "bitsandbytes int8" else 1e-4) * size


def dequantised_pipeline(pipe: Any) -> Any:
    """The small model in float32, with the values of quantised weights."""
    from diffusers_esd.quantization import dequantised

    full: Any = load()
    with torch.no_grad():
        for name, layer in full.unet.named_modules():
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                layer.weight.copy_(dequantised(pipe.unet.get_submodule(name)))
        others = dict(pipe.unet.named_parameters())
        for name, parameter in full.unet.named_parameters():
            if not name.endswith(".weight") or parameter.dim() == 1:
                parameter.copy_(others[name].float())
    return full


@pytest.mark.parametrize("kind", SEVERAL)
def test_the_loss_before_the_first_update(kind: str) -> None:
    """It is (1 + eta)^2 MSE(e_cond, e_null): the student is the teacher, whose concept direction is e_cond - e_null."""
    seen: dict[float, float] = {}
    for eta in (0.5, 2.0):
        losses: list[float] = []
        ESDTrainer(QUANTISED[kind](), **{**SHORT, "iterations": 1}, eta=eta).erase(
            "a cat", callback=lambda progress, losses=losses: losses.append(progress.loss)
        )
        seen[eta] = losses[0] / (1 + eta) ** 2
    assert seen[0.5] == pytest.approx(seen[2.0], rel=1e-5)
    assert seen[0.5] > 0


def test_an_int8_base_forgets_with_a_null_space() -> None:
    pipe: Any = QUANTISED["torchao Int8Tensor"]()
    before = stored(pipe.unet)
    values: list[float] = []
    few = Limits(trajectories=32, concept_trajectories=12, steps=3)
    erasure = ESDTrainer(pipe, iterations=25, num_inference_steps=10, learning_rate=1e-2, limits=few).erase(
        "a cat", callback=lambda progress: values.append(progress.alignment)
    )
    assert not differences(pipe, before)
    assert erasure.provenance.leaks
    assert values[0] > 0.8
    assert erasure.provenance.alignment is not None
    assert erasure.provenance.alignment < 0.5


def test_erasures_of_a_quantised_base_work_together(tmp_path: Path) -> None:
    pipe: Any = QUANTISED["torchao Int8Tensor"]()
    cat, dog = (ESDTrainer(pipe, **SHORT, learning_rate=1e-2).erase(concept) for concept in ("a cat", "a dog"))
    cat.remove(pipe)
    dog.remove(pipe)
    stack(pipe, {cat: 1.0, dog: 0.5})
    together = predicted(pipe)
    cat.remove(pipe)
    dog.remove(pipe)
    merged = merge({cat: 1.0, dog: 0.5})
    assert merged.provenance.base_quantization == "torchao Int8Tensor"
    merged.apply(pipe)
    torch.testing.assert_close(predicted(pipe), together, rtol=1e-4, atol=1e-4)
    with must_fail("the erasures do something"):
        torch.testing.assert_close(predicted(pipe), predicted(QUANTISED["torchao Int8Tensor"]()), rtol=1e-4, atol=1e-4)
    merged.remove(pipe)
    result = cat.check(pipe, "a cat", seeds=1, num_inference_steps=2)
    assert result.picture is not None


def test_what_else_takes_a_quantised_pipeline(tmp_path: Path) -> None:
    pipe: Any = QUANTISED["GGUF Q8_0"]()
    intact, before = predicted(pipe), stored(pipe.unet)
    trainer = ESDTrainer(pipe, **SHORT, learning_rate=1e-2)
    parts = [trainer.erase(concept) for concept in ("a cat", "a dog")]
    for part in parts:
        part.remove(pipe)
    refined = refine(pipe, parts, iterations=20, preserve=("a bus",))
    assert refined.provenance.base_quantization == "GGUF Q8_0"
    assert preview(pipe, refined, "a cat", num_inference_steps=1).size[0] > 0
    report = evaluate(pipe, refined, suite=small_suite(Brightness()), output_dir=tmp_path)
    assert report.columns[0].record["quantization"] == "GGUF Q8_0"
    assert not differences(pipe, before)
    assert torch.equal(predicted(pipe), intact)


def test_a_plan_and_a_checkpoint_are_of_one_quantisation(tmp_path: Path) -> None:
    pipe: Any = QUANTISED["bitsandbytes nf4"]()
    plan, full = (ESDTrainer(p, **SHORT).erase("a cat", dry_run=True) for p in (pipe, load()))
    assert plan.layers == full.layers
    assert plan.memory["adapter and Adam"] == full.memory["adapter and Adam"]
    linear = sum(layer.weight.numel() for layer in load().unet.modules() if isinstance(layer, torch.nn.Linear))
    assert full.memory["denoiser"] - plan.memory["denoiser"] == 4 * linear - linear // 2
    ESDTrainer(pipe, **SHORT, output_dir=tmp_path, checkpoint_every=1).erase("a cat", name="ours")
    with pytest.raises(
        ValueError, match=r"`quantisation of the base weights` is None, in the checkpoint 'bitsandbytes"
    ):
        ESDTrainer(load(), **SHORT, output_dir=tmp_path, resume="latest").erase("a cat", name="ours")
    again = ESDTrainer(QUANTISED["bitsandbytes nf4"](), **SHORT, output_dir=tmp_path, resume="latest")
    assert again.erase("a cat", name="ours").provenance.complete


def test_full_weights_are_needed_to_bake_and_to_import(tmp_path: Path) -> None:
    pipe: Any = QUANTISED["bitsandbytes nf4"]()
    erasure = ESDTrainer(pipe, **SHORT).erase("a cat")
    with pytest.raises(ValueError, match=r"^The denoiser is quantised \(bitsandbytes nf4\), and baking needs full"):
        bake(pipe, erasure)
    weights = {key: value for key, value in load().unet.state_dict().items() if "attn2.to_k" in key}
    file = tmp_path / "full.safetensors"
    save_file(weights, file)
    with pytest.raises(ValueError, match=r"nf4\), and the import of full weights needs full weights. Load the pipel"):
        import_erasure(file, pipe, concept="a cat")


def test_another_quantisation_of_the_same_model_is_no_other_model(recwarn: pytest.WarningsRecorder) -> None:
    trained = ESDTrainer(QUANTISED["bitsandbytes nf4"](), **SHORT).erase("a cat")
    recwarn.clear()
    for build in (load, QUANTISED["torchao Int8Tensor"], QUANTISED["bitsandbytes nf4"]):
        stack(build(), [trained])
    assert not [warning for warning in recwarn if "was trained on" in str(warning.message)]
    other: Any = QUANTISED["bitsandbytes nf4"]()
    for layer in other.unet.modules():
        if type(layer).__name__ == "Linear4bit":
            layer.weight.data = layer.weight.data.flip(0)
    with pytest.warns(UserWarning, match="with other weights"):
        stack(other, [trained])
