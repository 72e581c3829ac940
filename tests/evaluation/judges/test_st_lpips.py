"""ST-LPIPS with its real weights, against the code of the package that has them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from controls import must_fail
from PIL.Image import Image, fromarray
from skimage import data
from tiny_clip import picture

from diffusers_esd.evaluation.judges.pixels import to_unit
from diffusers_esd.evaluation.judges.st_lpips import STLPIPS, STFeatures
from diffusers_esd.evaluation.judges.weights import MissingWeightsError

COFFEE, CAT = (fromarray(read()).resize((72, 64)) for read in (data.coffee, data.chelsea))
NETS = ("alex", "vgg")


@pytest.fixture(scope="module", params=NETS)
def judge(request: pytest.FixtureRequest) -> STLPIPS:
    return STLPIPS(request.param)


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package's own module. It imports three packages that its shift-tolerant networks do not use."""
    for name, attribute in (("torchvision", "models"), ("IPython", "embed"), ("torchsummary", "summary")):
        if find_spec(name) is None:
            stub = ModuleType(name)
            setattr(stub, attribute, None)
            monkeypatch.setitem(sys.modules, name, stub)
    yield import_module("stlpips_pytorch.stlpips")
    for name in [name for name in sys.modules if name.startswith("stlpips_pytorch")]:
        del sys.modules[name]


@torch.no_grad()
def test_it_is_what_the_packages_own_code_gives(judge: STLPIPS, upstream: Any) -> None:
    net = judge.name.removeprefix("st_lpips_")
    module = upstream.LPIPS(net=net, variant="shift_tolerant", verbose=False)
    x, y = (2 * to_unit(image)[None] - 1 for image in (CAT, COFFEE))
    expected = module(x, y).item()
    own = judge([picture(CAT, base=COFFEE)])[0][0].score
    assert own == pytest.approx(expected, rel=1e-5)
    assert expected > 0.2
    with must_fail("without the shift and scale of the colours, it is another number"):
        assert own == pytest.approx(module((x + 1) / 2, (y + 1) / 2).item(), rel=1e-3)


def test_the_package_is_not_imported(judge: STLPIPS) -> None:
    assert judge([picture(COFFEE)]) == [(("st_lpips", 0.0),)]
    assert "stlpips_pytorch" not in sys.modules


def shifted(image: Image, pixels: int) -> Image:
    return fromarray(np.roll(np.array(image), pixels, axis=1))


def test_a_shift_counts_less_than_another_image(judge: STLPIPS) -> None:
    pictures = [picture(shifted(COFFEE, 1), base=COFFEE), picture(CAT, base=COFFEE), picture(COFFEE, base=CAT)]
    (near,), (far,), (back,) = judge(pictures)
    assert 0 < near.score < 0.1 < far.score
    assert far.score == pytest.approx(back.score)


def test_the_record_has_package_and_weights(judge: STLPIPS) -> None:
    record = judge.record()
    assert (record["package"], record["version"]) == ("stlpips-pytorch", "0.0.2")
    assert record["weights"]["file"] == f"{record['net']}_shift_tolerant.pth"
    assert record["weights"]["sha256"].startswith({"alex": "b356b382", "vgg": "44597da6"}[record["net"]])
    assert (judge.kind, judge.better) == ("scores", "")


def test_features_are_those_of_the_last_layer() -> None:
    extractor = STFeatures("alex", side=48)
    features = extractor([COFFEE, CAT])
    assert features.shape == (2, 256)
    torch.testing.assert_close(extractor([CAT]), features[1:], rtol=1e-4, atol=1e-5)
    with must_fail("another image has other features"):
        torch.testing.assert_close(features[0], features[1], rtol=1e-2, atol=1e-2)
    assert extractor.name == "st-alex"
    assert extractor.record()["side"] == 48
    assert STFeatures("vgg", side=48)([CAT]).shape == (1, 512)


def test_wrong_use_is_refused(judge: STLPIPS) -> None:
    with pytest.raises(ValueError, match=r"^`net` must be one of 'alex', 'vgg', got 'squeeze'\.$"):
        STLPIPS("squeeze")  # type: ignore[arg-type]
    with pytest.raises(
        MissingWeightsError, match=r"^`weights`: there is no file nowhere\.pth\. Get alex_shift_tolerant"
    ):
        STLPIPS(weights="nowhere.pth")
    with pytest.raises(ValueError, match="There is no image to judge"):
        judge([])
    with pytest.raises(ValueError, match=r"^The images must have the same size"):
        judge([picture(COFFEE, base=COFFEE.resize((64, 64)))])
    with pytest.raises(ValueError, match=r"^The images must be at least 32 pixels"):
        judge([picture(COFFEE.resize((16, 16)))])


def test_an_error_of_the_network_is_raised(judge: STLPIPS, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("the network failed")

    monkeypatch.setattr(torch.nn.Module, "__call__", fail)
    with pytest.raises(RuntimeError, match="the network failed"):
        judge([picture(COFFEE)])
