"""A checkpoint of another training is refused before any work, with the values that differ."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from tiny import style_adapter, tiny_pipeline

from diffusers_esd import ESDConfig, ESDTrainer, Limits
from diffusers_esd.families import family_for
from diffusers_esd.training.identity import OtherTrainingError, check_same, identify

pytestmark = pytest.mark.filterwarnings("ignore:.*which hardly trains them")

QUICK: dict[str, Any] = {"num_inference_steps": 3, "iterations": 2, "rank": 2, "preserve": (), "group": "esd-x-strict"}


def other_weights(pipe: Any) -> None:
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.mul_(1.5)


def no_change(pipe: Any) -> None:
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints")
    ESDTrainer(tiny_pipeline(), **QUICK, output_dir=path).erase("a cat", name="ours")
    return path


def refused(folder: Path, pipe: Any, concept: Any = "a cat", **options: Any) -> str:
    """The message of a training that is refused, before the text encoder or the denoiser is called."""

    def called(*_: object) -> None:
        raise RuntimeError("work has started")

    trainer = ESDTrainer(pipe, **{**QUICK, **options}, output_dir=folder, resume="latest")
    hooks = [model.register_forward_pre_hook(called) for model in (pipe.unet, pipe.text_encoder)]
    try:
        trainer.erase(concept, name="ours")
    except ValueError as error:
        return str(error)
    except RuntimeError:
        return ""
    finally:
        for hook in hooks:
            hook.remove()
    raise AssertionError("It needed neither.")


@pytest.mark.parametrize(
    ("options", "change", "difference"),
    [
        ({"eta": 2.0}, no_change, "`eta` is 2.0, in the checkpoint 1.0"),
        ({"concept": ["a cat", "a dog"]}, no_change, "`concept` is ['a cat', 'a dog'], in the checkpoint ['a cat']"),
        ({"eta": 2.0, "seed": 1}, no_change, "`eta` is 2.0, in the checkpoint 1.0; `seed` is 1, in the checkpoint 0"),
        ({"limits": Limits(words=7)}, no_change, "`limits.words` is 7, in the checkpoint 500"),
        ({}, style_adapter, "`active adapters` is {'style': 0.6}, in the checkpoint {}"),
        (
            {},
            lambda pipe: pipe.to(torch.bfloat16),
            "`type of the base weights` is 'torch.bfloat16', in the checkpoint '",
        ),
        ({}, other_weights, "`fingerprint of the base weights` is '"),
        ({"preserve": ["a dog"] * 99}, no_change, "`preserve` is ['a dog', 'a dog', 'a dog', 'a dog', 'a ..."),
    ],
)
def test_another_training_is_refused_before_any_work(
    options: dict[str, Any], change: Callable[[Any], object], difference: str, folder: Path
) -> None:
    pipe = tiny_pipeline()
    change(pipe)
    message = refused(folder, pipe, **options)
    assert re.match(r".*checkpoint-2 is a checkpoint of another training: ", message)
    assert difference in message
    assert message.endswith(
        "To go on from it, give its values; to start from the beginning, give another `output_dir` or `name`."
    )
    with must_fail("the same training is not refused"):
        assert refused(folder, tiny_pipeline())


def test_how_a_training_runs_may_differ(folder: Path) -> None:
    options = {"offload": True, "gradient_checkpointing": True, "checkpoint_every": 7, "keep_checkpoints": 3}
    trainer = ESDTrainer(tiny_pipeline(), **QUICK, **options, output_dir=folder, resume="latest")
    assert trainer.erase("a cat", name="ours").provenance.complete


def test_a_start_is_recognised_by_its_norms() -> None:
    family, a, b = family_for(tiny_pipeline()), torch.randn(2, 8), torch.randn(4, 2)
    turn = torch.linalg.qr(torch.randn(2, 2)).Q

    def named(a: torch.Tensor, b: torch.Tensor) -> dict[str, Any]:
        return identify(family, ESDConfig(), Limits(), ["a cat"], [], {"layer": (a, b)})

    check_same(Path("x"), named(a, b), named(turn @ a, b @ turn.T))
    with pytest.raises(OtherTrainingError, match=r"`norm of the erasures` is '"):
        check_same(Path("x"), named(a, b), named(a, 1.1 * b))
    with pytest.raises(OtherTrainingError, match=r"`norm of the erasures` is '.*', in the checkpoint None"):
        check_same(Path("x"), identify(family, ESDConfig(), Limits(), ["a cat"], []), named(a, b))


def test_the_number_of_processes_belongs_to_a_training() -> None:
    family = family_for(tiny_pipeline())
    one, two = (identify(family, ESDConfig(), Limits(), ["a cat"], [], processes=n) for n in (1, 2))
    with pytest.raises(
        OtherTrainingError, match=r": `number of processes` is 2, in the checkpoint 1\. To go on from it"
    ):
        check_same(Path("x"), one, two)
    check_same(Path("x"), two, two)
