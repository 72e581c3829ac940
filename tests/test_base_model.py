"""A fingerprint identifies base weights in every type, whatever adapters are on them."""

from __future__ import annotations

import torch
from controls import must_fail
from diffusers import StableDiffusionPipeline
from made import made
from tiny import style_adapter, tiny_pipeline, tiny_unet

from diffusers_esd import bake
from diffusers_esd.base_model import fingerprint, model_name, same_weights


def fine_tuned(pipe: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """A pipeline after a few updates with Adam at a usual rate."""
    optimizer = torch.optim.Adam(pipe.unet.parameters(), lr=1e-4)
    for seed in range(10):
        x_t = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(seed))
        states = pipe.encode_prompt("a cat", "cpu", 1, False)[0].detach()
        optimizer.zero_grad()
        pipe.unet(x_t, 500, states).sample.square().mean().backward()
        optimizer.step()
    return pipe


def test_a_fingerprint_knows_weights_in_every_type_and_tells_others_apart() -> None:
    known = fingerprint(tiny_pipeline().unet)
    assert len(known) == 4 * 64
    styled = tiny_pipeline()
    style_adapter(styled)
    assert fingerprint(styled.unet) == known, "adapters do not count"
    last = tiny_pipeline()
    last.unet.to(memory_format=torch.channels_last)
    assert fingerprint(last.unet) == known
    for dtype in (torch.float16, torch.bfloat16):
        assert same_weights(fingerprint(tiny_pipeline().to(dtype).unet), known)
    assert same_weights(
        fingerprint(tiny_pipeline().to(torch.float16).unet), fingerprint(tiny_pipeline().to(torch.bfloat16).unet)
    )
    for other in (tiny_pipeline(seed=1), fine_tuned(tiny_pipeline()), bake(tiny_pipeline(), made(tiny_pipeline()))):
        with must_fail("other weights are told apart"):
            assert same_weights(fingerprint(other.unet), known)
        with must_fail("also in float16"):
            assert same_weights(fingerprint(other.to(torch.float16).unet), known)


def test_a_fingerprint_of_weights_that_are_not_in_memory_is_unknown() -> None:
    with torch.device("meta"):
        assert fingerprint(tiny_unet()) == ""


def test_a_default_device_of_torch_does_not_matter() -> None:
    pipe = tiny_pipeline()
    expected = fingerprint(pipe.unet)
    try:
        torch.set_default_device("meta")
        assert fingerprint(pipe.unet) == expected
    finally:
        torch.set_default_device(None)


def test_the_name_of_a_local_model_is_that_of_its_folder(tmp_path: object) -> None:
    pipe = tiny_pipeline()
    pipe.register_to_config(_name_or_path="someone/copy")
    assert model_name(pipe) == "someone/copy"
    pipe.register_to_config(_name_or_path=str(tmp_path))
    assert model_name(pipe) in str(tmp_path)
    with must_fail("the rest of the path is private"):
        assert "/" in model_name(pipe)
