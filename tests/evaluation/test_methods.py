"""Methods: an image depends on its prompt and the method, not on the batch; the pipeline is left as it was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from controls import must_fail
from diffusers import EulerDiscreteScheduler
from evaluated import OPTIONS
from made import made
from PIL.Image import Image
from pipelines import same, state_of
from tiny import style_adapter, tiny_pipeline, tiny_xl

from diffusers_esd import Erasure
from diffusers_esd.evaluation.methods import Base, Erased, Method, drawer, without
from diffusers_esd.evaluation.prompts import Prompt
from diffusers_esd.files import digest

PROMPTS = (
    Prompt(case="a", text="a cat", seed=1),
    Prompt(case="b", text="a dog", seed=2, guidance_scale=1.5),
    Prompt(case="c", text="a cat", seed=3, width=32, height=16),
    Prompt(case="d", text="a bus", seed=4),
    Prompt(case="e", text="a cat", seed=1, negative_prompt="a bus"),
)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def erasure(pipe: Any) -> Erasure:
    return made(pipe, rank=2)


def drawn(pipe: Any, method: Method, prompts: Sequence[Prompt] = PROMPTS, **more: Any) -> list[Image]:
    with method.drawing(pipe, OPTIONS) as draw:
        return draw(prompts, **more)


def far(a: Sequence[Image], b: Sequence[Image]) -> int:
    """The largest difference of two pixels."""
    arrays = [(np.asarray(x, dtype=int), np.asarray(y, dtype=int)) for x, y in zip(a, b, strict=True)]
    assert all(x.shape == y.shape for x, y in arrays)
    return max(int(abs(x - y).max()) for x, y in arrays)


def test_an_image_does_not_depend_on_its_batch(pipe: Any) -> None:
    together = drawn(pipe, Base())
    alone = [drawn(pipe, Base(), [prompt])[0] for prompt in PROMPTS]
    assert far(together, alone) <= 1
    assert [image.size for image in together] == [(16, 16), (16, 16), (32, 16), (16, 16), (16, 16)]
    with must_fail("another seed is another image"):
        assert far(together[:1], drawn(pipe, Base(), [Prompt(case="a", text="a cat", seed=9)])) <= 1
    with must_fail("a negative prompt counts"):
        assert far(together[:1], together[4:]) <= 1
    with must_fail("guidance of its own counts"):
        assert far(together[1:2], drawn(pipe, Base(), [Prompt(case="b", text="a dog", seed=2)])) <= 1


def test_a_plain_prompt_of_sdxl_does_not_depend_on_negative_prompts_beside_it() -> None:
    """SDXL has zeros for no negative prompt, and the embedding of the empty text for an empty one."""
    pipe = tiny_xl()
    plain, against = PROMPTS[0], PROMPTS[4]
    assert far(drawn(pipe, Base(), [plain, against])[:1], drawn(pipe, Base(), [plain])) <= 1
    with must_fail("an empty negative prompt is another one"):
        with Base().drawing(pipe, {**OPTIONS, "negative_prompt": [""]}) as draw:
            empty = draw([plain])
        assert far(empty, drawn(pipe, Base(), [plain])) <= 1


def test_what_images_depend_on_is_in_the_record() -> None:
    pipe = tiny_pipeline()
    before = Base().record(pipe)
    assert json.loads(json.dumps(before)) == before
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    with must_fail("another scheduler draws other images"):
        assert Base().record(pipe) == before


def test_prompts_of_different_calls_come_back_in_their_order(pipe: Any) -> None:
    backwards = drawn(pipe, Base(), PROMPTS[::-1])
    assert far(backwards[::-1], drawn(pipe, Base())) <= 1


def test_embeddings_go_with_their_prompts(pipe: Any) -> None:
    embeddings = torch.cat([pipe.encode_prompt(p.text, "cpu", 1, False)[0] for p in PROMPTS[:4]])
    expected = drawn(pipe, Base(), PROMPTS[:4])
    assert far(drawn(pipe, Base(), PROMPTS[:4], prompt_embeds=embeddings), expected) <= 1
    with must_fail("each has its own"):
        assert far(drawn(pipe, Base(), PROMPTS[:4], prompt_embeds=embeddings.flip(0)), expected) <= 1


def test_erasures_act_inside_and_the_pipeline_is_left(erasure: Erasure) -> None:
    pipe = tiny_pipeline()
    style_adapter(pipe)
    before, images = state_of(pipe), drawn(pipe, Base())
    with must_fail("the user's adapter is part of the base"):
        assert far(images, drawn(tiny_pipeline(), Base())) <= 1
    method = Erased("no-a-cat", [(erasure, 0.5)])
    erased = drawn(pipe, method)
    same(before, state_of(pipe))
    assert pipe.get_active_adapters() == ["style"]
    assert far(drawn(pipe, Base()), images) == 0
    with must_fail("the erasure acts"):
        assert far(erased, images) <= 1
    erasure.apply(pipe, 0.5)
    assert far(drawn(pipe, Base()), erased) == 0, "as it does when it is applied"
    assert method.erases == ("a cat",)
    record = method.record(pipe)
    assert record["erasures"] == [{"name": "no-a-cat", "scale": 0.5, "weights": digest(erasure.weights)}]
    assert record["adapters"] == pytest.approx({"style": 0.6, "no-a-cat": 0.5})


def test_an_erasure_that_is_on_the_pipeline_is_not_part_of_the_base(erasure: Erasure) -> None:
    pipe = tiny_pipeline()
    plain = drawn(pipe, Base())
    erasure.apply(pipe, name="under-another-name")
    with must_fail("it is active"):
        assert far(drawn(pipe, Base()), plain) <= 1
    with without(pipe, [erasure]):
        assert far(drawn(pipe, Base()), plain) == 0
    assert pipe.get_active_adapters() == ["under-another-name"]


def test_erasures_act_together(pipe: Any, erasure: Erasure) -> None:
    other = made(pipe, "a dog", rank=2, seed=1)
    both = Erased("both", [(erasure, 1.0), (other, 1.0)])
    assert both.erases == ("a cat", "a dog")
    images = drawn(pipe, both)
    for one in (erasure, other):
        with must_fail("both act"):
            assert far(images, drawn(pipe, Erased("one", [(one, 1.0)]))) <= 1


def test_an_error_leaves_the_pipeline_as_it_was(erasure: Erasure) -> None:
    pipe = tiny_pipeline()
    before = state_of(pipe)
    with pytest.raises(KeyError), Erased("x", [(erasure, 1.0)]).drawing(pipe, OPTIONS):
        raise KeyError("stop")
    same(before, state_of(pipe))


def test_global_generators_are_not_used(pipe: Any) -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
    drawer(pipe, OPTIONS)(PROMPTS)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numbers).all()
