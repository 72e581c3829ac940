"""LPIPS with the published weights of the channels, and random ones of the backbone: those cannot be fetched here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics
from controls import must_fail
from naive_lpips import alex_weights, naive
from PIL.Image import fromarray
from skimage import data
from tiny_clip import picture

from diffusers_esd.evaluation.judges.lpips import LPIPS
from diffusers_esd.evaluation.judges.pixels import to_unit
from diffusers_esd.evaluation.judges.weights import FOLDER, MissingWeightsError

HEADS = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / "alex.pth"
COFFEE, CAT = (fromarray(read()).resize((72, 64)) for read in (data.coffee, data.chelsea))


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """A backbone with random weights, and the classifier that torchvision's file has beside it."""
    torch.save({**alex_weights(), "classifier.1.weight": torch.zeros(2)}, tmp_path / "alexnet.pth")
    return tmp_path / "alexnet.pth"


def test_it_is_the_formula_with_the_published_weights_of_the_channels(backbone: Path) -> None:
    judge = LPIPS(weights=backbone)
    (same,), (other,) = judge([picture(COFFEE), picture(CAT, base=COFFEE)])
    assert tuple(same) == ("lpips", 0.0)
    x, y = (2 * to_unit(image) - 1 for image in (CAT, COFFEE))
    assert other.score == pytest.approx(naive(x, y, alex_weights(), torch.load(HEADS, map_location="cpu")), rel=1e-5)
    assert judge([picture(COFFEE, base=CAT)])[0][0].score == pytest.approx(other.score)
    with must_fail("the cat is not the coffee"):
        assert other.score == pytest.approx(0, abs=1e-3)


def test_only_the_published_backbone_is_called_lpips(backbone: Path) -> None:
    judge = LPIPS(weights=backbone)
    record = judge.record()
    assert judge.name == f"distance_alex_{record['weights']['sha256'][:8]}"
    assert record["package"] == "torchmetrics"
    assert record["heads"]["file"] == "alex.pth"
    assert (judge.kind, judge.better) == ("scores", "")


@pytest.mark.parametrize(("net", "file"), [("alex", "alexnet-owt-7be5be79"), ("vgg", "vgg16-397923af")])
def test_missing_weights_say_what_to_do(net: Any, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv(FOLDER, raising=False)
    with pytest.raises(
        MissingWeightsError, match=rf"^The weights {file}\.pth are not in .* from the torchvision project"
    ):
        LPIPS(net)


def test_wrong_use_is_refused(backbone: Path) -> None:
    with pytest.raises(ValueError, match=r"^`net` must be one of 'alex', 'vgg', got 'squeeze'\.$"):
        LPIPS("squeeze")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^The weights are not those of this network"):
        LPIPS("vgg", weights=backbone)
    judge = LPIPS(weights=backbone)
    with pytest.raises(ValueError, match="There is no image to judge"):
        judge([])
    with pytest.raises(ValueError, match=r"^The images must have the same size"):
        judge([picture(COFFEE, base=COFFEE.resize((64, 64)))])
