"""The file of an erasure in older diffusers, each in an environment of its own; `make test-compat` runs it."""

from __future__ import annotations

import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest
import torch
from pipelines import prediction
from tiny import tiny_pipeline

from diffusers_esd import ESDTrainer

# diffusers, and the PEFT, transformers and hub of its time.
TIMES = {
    "0.30.3": ("peft==0.12.0", "transformers==4.44.2", "huggingface-hub==0.24.7", "accelerate==0.33.0"),
    "0.33.1": ("peft==0.15.2", "transformers==4.51.3", "huggingface-hub==0.30.2", "accelerate==1.6.0"),
    "0.35.2": ("peft==0.17.1", "transformers==4.56.2", "huggingface-hub==0.35.3", "accelerate==1.10.1"),
    "0.36.0": ("peft==0.18.0", "transformers==4.57.3", "huggingface-hub==0.36.0", "accelerate==1.12.0"),
}
GROUPS = ("esd-x", "esd-u", "full")

SCRIPT = """
import sys
from pathlib import Path
# They are in the environment that has PyTorch, and older versions cannot import versions so new.
sys.modules |= dict.fromkeys(["torchao", "bitsandbytes", "gguf"])
import diffusers, torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

folder, version = Path(sys.argv[1]), sys.argv[2]
assert diffusers.__version__ == version, diffusers.__version__
inputs = torch.load(folder / "inputs.pt", weights_only=True)
for group in sys.argv[3:]:
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(norm_num_groups=4, block_out_channels=(8,)),
        text_encoder=CLIPTextModel(CLIPTextConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)),
        tokenizer=None, unet=UNet2DConditionModel.from_pretrained(folder / "unet"), scheduler=DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )
    pipe.load_lora_weights(str(folder / group), weight_name="pytorch_lora_weights.safetensors")
    with torch.no_grad():
        outputs = pipe.unet(inputs["x_t"], 500, inputs["states"]).sample
    torch.testing.assert_close(outputs, inputs[group], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(outputs, inputs["base"], atol=1e-3), "the control"
print("equal")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A denoiser, erasures of it, and what it then predicts."""
    root = tmp_path_factory.mktemp("erasures")
    pipe = tiny_pipeline()
    pipe.unet.save_pretrained(root / "unet")
    x_t = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    states = pipe.encode_prompt("a cat", "cpu", 1, False)[0].detach()
    outputs = {"x_t": x_t, "states": states, "base": prediction(pipe)}
    for group in GROUPS:
        pipe = tiny_pipeline()
        options = {"num_inference_steps": 5, "iterations": 8, "rank": 4, "lora_alpha": 6, "learning_rate": 1e-2}
        erasure = ESDTrainer(pipe, group=group, preserve=(), **options).erase("a cat")
        erasure.save_pretrained(root / group)
        outputs[group] = prediction(pipe)
    torch.save(outputs, root / "inputs.pt")
    (root / "script.py").write_text(SCRIPT)
    return root


@pytest.mark.compat
@pytest.mark.parametrize("version", list(TIMES))
def test_older_diffusers_load_it_with_equal_predictions(version: str, folder: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    # PyTorch, which is large and not what is tested, is this environment's.
    paths = subprocess.run(
        [python, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True
    )
    (Path(paths.stdout.strip()) / "parent.pth").write_text(sysconfig.get_path("purelib"))
    install = [python, "-m", "pip", "install", "-q", f"diffusers=={version}", *TIMES[version]]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    arguments = [python, folder / "script.py", folder, version, *GROUPS]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("equal"), done.stderr[-3000:]
