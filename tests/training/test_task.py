"""What a training is given."""

from __future__ import annotations

from dataclasses import replace

from tiny import tiny_pipeline

from diffusers_esd import ESDConfig, ESDTrainer, Limits, RunConfig
from diffusers_esd.training.encoding import Encoded
from diffusers_esd.training.prompts import choose
from diffusers_esd.training.task import Task


def test_a_null_space_confines_only_what_is_preserved_and_has_no_start() -> None:
    trainer = ESDTrainer(tiny_pipeline(), preserve=("a dog",), size=16)
    encoded = Encoded(trainer.family)
    task = Task(
        family=trainer.family,
        config=trainer.config,
        run=RunConfig(),
        limits=Limits(),
        name="no-a-cat",
        selection=trainer.selection(),
        prompts=choose(encoded, trainer.config, Limits(), ["a cat"]),
        encoded=encoded,
    )
    assert task.is_confined
    assert task.shape == (4, 8, 8)
    assert not replace(task, start={}).is_confined
    assert not replace(task, config=ESDConfig(preserve=("a dog",), null_space=False)).is_confined
    assert not replace(task, prompts=choose(encoded, ESDConfig(preserve=()), Limits(), ["a cat"])).is_confined
