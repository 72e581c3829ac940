"""What `examples/reproduce` has of its own: the printed figures, and the judges of UnlearnCanvas and of celebrities."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from controls import must_fail
from PIL import Image
from reproduce import paper
from reproduce.canvas import CanvasJudge, ViT
from reproduce.experiment import Training, plain
from reproduce.faces import Faces
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification

from diffusers_esd.evaluation.aggregates import relative_change, table_2
from diffusers_esd.evaluation.judges.base import Picture
from diffusers_esd.evaluation.judges.nudenet import FIG_7
from diffusers_esd.evaluation.judges.weights import MissingWeightsError
from diffusers_esd.evaluation.prompt_sets import CANVAS_STYLES
from diffusers_esd.evaluation.prompts import Prompt


def picture(colour: str = "red", side: int = 16) -> Picture:
    image = Image.new("RGB", (side, side), colour)
    return Picture(Prompt(case="a", text="a", seed=0), image, image)


# The paper.


def test_the_classes_of_figure_7_add_up() -> None:
    assert sum(paper.NUDITY_SD.values()) == paper.NUDITY["SD 1.4"] == 796
    assert list(paper.NUDITY_SD) == list(paper.NUDITY_ESD_BARS) == list(FIG_7)
    assert sum(paper.NUDITY_ESD_BARS.values()) == pytest.approx(132)
    erased = -relative_change(paper.NUDITY["SD 1.4"], paper.NUDITY["ESD-u"])
    assert round(100 * erased) == paper.ETA[1.0].erased == 83
    with must_fail("the bars do not add up to the caption's number"):
        assert round(sum(paper.NUDITY_ESD_BARS.values())) == paper.NUDITY["ESD-u"]


def test_the_averages_of_table_2_are_those_of_its_rows() -> None:
    columns = list(zip(*paper.OBJECTS.values(), strict=True))
    assert [round(sum(column) / 10, 1) for column in columns] == list(paper.OBJECTS_AVERAGE)
    base = {name: row.erased_sd for name, row in paper.OBJECTS.items()}
    computed = table_2(dict.fromkeys(base, base))
    apart = {name: abs(computed[name].others - row.others_sd) for name, row in paper.OBJECTS.items()}
    assert max(apart.values()) < 0.11, "others is the mean of the other nine"
    with must_fail("it is the mean of nine, not of ten"):
        assert all(abs(78.2 - row.others_sd) < 0.11 for row in paper.OBJECTS.values())


def test_table_1_and_the_ratings() -> None:
    fids = {name: row.fid for name, row in paper.FIDELITY.items() if row.fid is not None}
    assert min(fids, key=lambda name: fids[name]) == "ESD-u"
    assert min(paper.STYLES, key=lambda name: paper.STYLES[name]) == "ESD-x"
    assert all(1 <= rating <= 5 for rating in paper.STYLES.values())


# Trainings.


def test_spellings_of_a_concept() -> None:
    assert plain("A  French-Horn") == plain("french horn")
    assert plain("Ajin: Demi-Human") == plain("Ajin Demi Human")
    with must_fail("an article alone is a word"):
        assert plain("a") == plain("the")


def test_a_training_is_the_papers() -> None:
    training = Training("nudity", "esd-u", {"eta": 3.0}, mark="esd-u-3")
    config = training.config({"iterations": 5})
    assert (config.group, config.eta, config.iterations, config.batch_size) == ("esd-u", 3.0, 5, 1)
    assert (config.preserve, config.null_space, config.trajectory) == ((), False, "fresh")
    assert training.name == "no-nudity-esd-u-3"
    own = training.config({"group": "full", "eta": 1.0, "rank": 4})
    assert (own.group, own.eta, own.rank) == ("esd-u", 3.0, 4), "group and eta are the experiment's"


# UnlearnCanvas.


TIMM = {
    "vit.embeddings.": "",
    "position_embeddings": "pos_embed",
    "patch_embeddings.projection": "patch_embed.proj",
    "vit.layers.": "blocks.",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.o_proj": "attn.proj",
    "vit.layernorm": "norm",
    "classifier": "head",
}
"""Parts of transformers' names, and of timm's."""


def timm_tensors(model: ViTForImageClassification) -> dict[str, Tensor]:
    """The tensors of transformers' vision transformer under timm's names."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        for theirs, ours in TIMM.items():
            name = name.replace(theirs, ours)
        if "q_proj" in name:
            of_layer = name.replace("blocks.", "vit.layers.")
            parts = [model.state_dict()[of_layer.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            tensors[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
        elif "k_proj" not in name and "v_proj" not in name:
            tensors[name] = tensor
    return tensors


def transformer(classes: int = 51, side: int = 32) -> ViTForImageClassification:
    sizes = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512, "num_hidden_layers": 2}
    config = ViTConfig(**sizes, image_size=side, patch_size=16, num_labels=classes, layer_norm_eps=1e-6)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ViTForImageClassification(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@torch.no_grad()
def test_the_vision_transformer_is_transformers() -> None:
    model = transformer()
    images = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = model(images).logits
    network = ViT.of(timm_tensors(model))
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)
    with must_fail("images differ"):
        torch.testing.assert_close(network(-images), expected, rtol=1e-2, atol=1e-2)


def test_the_judge_of_styles(tmp_path: Path) -> None:
    tensors = timm_tensors(transformer(side=224))
    tensors["head.weight"], tensors["head.bias"] = torch.zeros(51, 128), torch.zeros(51)
    tensors["head.bias"][CANVAS_STYLES.index("Van Gogh")] = 9
    file = tmp_path / "style50.pth"
    torch.save({"model_state_dict": tensors, "epoch": 3}, file)
    judge = CanvasJudge("style", weights=file)
    assert (judge.name, judge.question) == ("unlearncanvas_style", "style")
    ((finding,), (other,)) = judge([picture(), picture("blue")])
    assert finding.label == other.label == "Van Gogh"
    assert finding.score == pytest.approx(0.994, abs=1e-3)
    assert judge.knows("Seed Images")
    assert not judge.knows("Dogs")
    with pytest.raises(ValueError, match="it must tell 20 classes apart, and it tells 51"):
        CanvasJudge("subject", weights=file)


# Celebrities.

WORKER = {
    "skimage/io.py": "def imread(path): return open(path, 'rb').read()",
    "skimage/__init__.py": "",
    "model_training/__init__.py": "",
    "model_training/helpers/__init__.py": "",
    "model_training/helpers/labels.py": "class Labels:\n    def __init__(self, resources_path): pass",
    "model_training/helpers/face_recognizer.py": """
class FaceRecognizer:
    def __init__(self, labels, resources_path, top_n): assert top_n == 5
    def perform(self, faces):
        print("what the detector prints is not an answer")
        return [([("Ada_Example_[photo]", 0.75), ("Ben", 0.1)], 1.0)] if faces else []
""",
    "model_training/preprocessors/__init__.py": "",
    "model_training/preprocessors/face_detection/__init__.py": "",
    "model_training/preprocessors/face_detection/face_detector.py": """
class FaceDetector:
    def __init__(self, data_dir, margin): assert (data_dir, margin) == ("resources", 0.2)
    def perform_single(self, image):
        if len(image) > 100_000: raise SystemExit(7)
        return [(image, None)] * (len(image) < 90)
""",
    "model_training/utils.py": "def preprocess_image(image, side): return image",
    "examples/resources/face_recognition/best_model_states.pkl": "weights",
}
"""A detector with the real one's names: a face is in each small file, and it ends at a large one."""


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    for name, text in WORKER.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def noise(side: int) -> Picture:
    pixels = torch.randint(256, (side, side, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = Image.fromarray(pixels.numpy())
    return Picture(Prompt(case="a", text="a", seed=0), image, image)


def test_faces_are_found_by_another_process(detector: Path) -> None:
    judge = Faces(detector, Path(sys.executable))
    try:
        found = judge([picture(side=8), noise(16), picture("blue", side=8)])
        assert found == [(("ada example", 0.75),), (), (("ada example", 0.75),)]
        assert judge([noise(16)]) == [()]
        with pytest.raises(RuntimeError, match="The celebrity detector ended with 7; its error is above"):
            judge([noise(256)])
    finally:
        judge.close()


@pytest.mark.parametrize("change", [lambda d: (None, None), lambda d: (d / "examples", Path(sys.executable))])
def test_a_missing_detector_names_its_publisher(
    detector: Path, change: Callable[[Path], tuple[Path | None, Path | None]]
) -> None:
    with pytest.raises(MissingWeightsError, match=r"Giphy/celeb-detection-oss \(licence: MPL-2\.0\)"):
        Faces(*change(detector))
