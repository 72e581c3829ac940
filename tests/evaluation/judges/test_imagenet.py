"""ImageNet's classes: EfficientNet-Lite0 with its real weights, on photographs; what ResNet-50 says without any."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from PIL.Image import Image, fromarray
from skimage import data
from tiny_clip import picture

from diffusers_esd.evaluation.judges.imagenet import IMAGENETTE, EfficientNetLite0, ResNet50
from diffusers_esd.evaluation.judges.weights import FOLDER, MissingWeightsError
from diffusers_esd.evaluation.spelling import key

ESPRESSO = {"espresso": 967}


@pytest.fixture(scope="module")
def coffee() -> Image:
    return fromarray(data.coffee())


@pytest.fixture(scope="module")
def judge() -> EfficientNetLite0:
    return EfficientNetLite0(labels=ESPRESSO)


def test_coffee_is_espresso_and_a_cat_a_cat(judge: EfficientNetLite0, coffee: Image) -> None:
    cat = fromarray(data.chelsea())
    (espresso,), (tabby,) = judge([picture(coffee), picture(cat)])
    assert espresso.label == "espresso"
    assert espresso.score == pytest.approx(0.957, abs=0.01)
    assert tabby.label in ("class 281", "class 282", "class 285"), "three kinds of cat"
    with must_fail("the cat is not espresso"):
        assert tabby.label == "espresso"


def test_colours_in_the_wrong_order_are_another_image(judge: EfficientNetLite0, coffee: Image) -> None:
    blue = fromarray(data.coffee()[:, :, ::-1].copy())
    (right,), (wrong,) = judge([picture(coffee), picture(blue)])
    with must_fail("red and blue are not the same to the network"):
        assert wrong.score == pytest.approx(right.score, abs=0.05)


def test_more_classes_are_found_in_order(coffee: Image) -> None:
    (found,) = EfficientNetLite0(labels=ESPRESSO, top=5)([picture(coffee)])
    scores = [finding.score for finding in found]
    assert len(found) == 5
    assert found[0].label == "espresso"
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) <= 1


@pytest.mark.parametrize("asked", ["espresso", "Espresso", "an ESPRESSO", "class 967", "a class 967"])
def test_a_class_is_called_as_the_prompt_calls_it(asked: str, judge: EfficientNetLite0, coffee: Image) -> None:
    assert judge([picture(coffee, subject=asked)])[0][0].label == asked
    assert judge([picture(coffee, subject="church")])[0][0].label == "espresso"
    assert judge([picture(coffee, person=asked)])[0][0].label == "espresso", "this is another question"


def test_names_of_imagenette_and_other_names_are_known(judge: EfficientNetLite0) -> None:
    for label, number in IMAGENETTE.items():
        for written in (label, label.upper(), f"a {label}", label.replace(" ", "_"), f"class {number}"):
            assert judge.class_of(written) == number
    assert judge.class_of("chainsaw") == judge.class_of("chain saw") == 491
    for unknown in ("class 1000", "class x", "class ", "dog", "", "the"):
        assert judge.class_of(unknown) is None
        assert not judge.knows(unknown)
    assert judge.knows("Golf Ball")


def test_own_labels_are_before_imagenettes(coffee: Image) -> None:
    judge = EfficientNetLite0(labels={"tench": 967})
    assert judge.class_of("tench") == 967
    assert judge([picture(coffee)])[0][0].label == "tench"


def test_an_article_alone_is_a_word() -> None:
    assert [key(text) for text in ("The  Church", "a", "an apple", "theatre")] == ["church", "a", "apple", "theatre"]


def test_one_by_one_gives_what_a_batch_gives(judge: EfficientNetLite0, coffee: Image) -> None:
    pictures = [picture(coffee), picture(fromarray(data.rocket()))]
    alone = [judge([p])[0][0] for p in pictures]
    for (together,), single in zip(judge(pictures), alone, strict=True):
        assert together.label == single.label
        assert together.score == pytest.approx(single.score, abs=1e-5)


def test_the_record_names_weights_and_labels(judge: EfficientNetLite0) -> None:
    record = judge.record()
    assert record["package"] == "efficientnet-lite-pytorch"
    assert record["weights"]["sha256"].startswith("57934424")
    assert (record["top"], record["labels"], record["question"]) == (1, ESPRESSO, "subject")


def test_errors_are_raised(judge: EfficientNetLite0, coffee: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="There is no image to judge"):
        judge([])

    def fail(*arguments: object) -> None:
        raise RuntimeError("the network failed")

    monkeypatch.setattr(torch.nn.Module, "__call__", fail)
    with pytest.raises(RuntimeError, match="the network failed"):
        judge([picture(coffee)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, r"`top` must be 1 or more, got 0\."),
        ({"labels": {"x": 1000}}, r"`labels` must be numbers from 0 to 999, got \{'x': 1000\}\."),
    ],
)
def test_wrong_arguments_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        EfficientNetLite0(**options)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"x\.pth is damaged, or is not a file of tensors"):
        EfficientNetLite0(weights=tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("tag", "file"), [("IMAGENET1K_V1", "resnet50-0676ba61"), ("IMAGENET1K_V2", "resnet50-11ad3fa6")]
)
def test_missing_weights_of_resnet_say_what_to_do(
    tag: Any, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv(FOLDER, raising=False)
    with pytest.raises(
        MissingWeightsError, match=rf"^The weights {file}\.pth are not in .* from the torchvision project"
    ):
        ResNet50(tag)
    with pytest.raises(ValueError, match=r"^`tag` must be one of 'IMAGENET1K_V1', 'IMAGENET1K_V2', got 'V3'\.$"):
        ResNet50("V3")  # type: ignore[arg-type]


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_without_torchvision_the_error_has_the_command(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "x.pth")
    with pytest.raises(
        ImportError, match=r'^torchvision is not installed: pip install "diffusers-esd\[classifier\]"\.$'
    ):
        ResNet50(weights=tmp_path / "x.pth")
