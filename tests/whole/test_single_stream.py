"""Erasing from a model whose layers text and image share, on a small Z-Image that draws (`blobs`)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from blobs import WORDS, blob_pipeline, family_of, predictions, share, states
from controls import must_fail
from pipelines import alignment

from diffusers_esd import ESDTrainer, Limits
from diffusers_esd.families import Conditioning, ZImage
from diffusers_esd.families.places import Places


class WithoutImages(ZImage):
    """The control: of a shared layer's inputs only text is preserved."""

    def places(self, layer: str, conditioning: Conditioning, length: int) -> Places:
        places = super().places(layer, conditioning, length)
        return Places(places.text, torch.zeros_like(places.image))


class AtRandomPlaces(ZImage):
    """Shared layers as any other: inputs of text and image are not told apart."""

    shared_layers = r"(?!)"
    text_inputs = r"(?!)"


@pytest.mark.slow
def test_others_stay_because_images_are_preserved() -> None:
    """A pizza, by the shared layers alone, without the preserve loss, which would hide the difference."""
    pipe = blob_pipeline()
    others = [word for word in WORDS if word != "pizza"]
    family = family_of(pipe)
    places = {word: states(family, word) for word in WORDS}
    assert all(share(places[word][-1][0], word) > 0.9 for word in WORDS), "it draws what it is asked for"
    before = {word: predictions(family, f"a {word}", places[word]) for word in WORDS}
    empty = {word: predictions(family, "", places[word]) for word in WORDS}

    def erased(kind: type[ZImage], **options: Any) -> tuple[float, float, float, float]:
        """Alignment of the concept, how far others changed, and how often the concept and the others are drawn."""
        trainer = ESDTrainer(
            pipe,
            family=family_of(pipe, kind),
            group=r"layers\..*",
            iterations=250,
            batch_size=4,
            rank=8,
            learning_rate=5e-4,
            guidance_scale=2.0,
            num_inference_steps=10,
            preserve=tuple(f"a {word}" for word in others),
            preserve_weight=0.0,
            size=16,
            limits=Limits(trajectories=56, concept_trajectories=24),
            **options,
        )
        trainer.erase("a pizza")
        after = {word: predictions(family, f"a {word}", places[word]) for word in WORDS}
        drawn = {word: share(states(family, word)[-1][0], word) for word in WORDS}
        pipe.unload_lora_weights()
        along = alignment(after["pizza"].flatten(0, 1), *(e["pizza"].flatten(0, 1) for e in (before, empty)))
        changed = [((after[w] - before[w]).square().mean() / (empty[w] - before[w]).square().mean()) for w in others]
        result = float(along), float(sum(changed)) / len(others), drawn["pizza"], sum(drawn[w] for w in others) / 7
        print(kind.__name__, options, "alignment {:.2f}, others changed {:.3f}, drawn {:.2f}, {:.2f}".format(*result))
        return result

    along, changed, drawn, others_drawn = erased(ZImage)
    assert along < -0.4
    assert drawn == 0
    assert changed < 0.15
    assert others_drawn > 0.9
    erased(AtRandomPlaces)
    with must_fail("without images among what is preserved, others change"):
        assert erased(WithoutImages)[1] < 0.15
    with must_fail("without a null space"):
        assert erased(ZImage, null_space=False)[1] < 0.15
