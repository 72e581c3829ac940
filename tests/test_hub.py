"""Erasures on a hub: the real client against a hub of our own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import local_hub
import pytest
from controls import must_fail
from huggingface_hub import ModelCard
from made import made, with_provenance
from PIL import Image
from tiny import tiny_pipeline

from diffusers_esd import Erasure, ESDConfig, merge
from diffusers_esd.hub import card, curve, is_explicit, is_repo_id, update_card

REPO = "someone/no-cat"


@pytest.fixture
def hub() -> Iterator[local_hub.Hub]:
    with local_hub.running() as running:
        yield running


@pytest.fixture(scope="module")
def erasure() -> Erasure:
    return made(tiny_pipeline(), rank=2)


def client(hub: local_hub.Hub, home: Path, code: str, token: str | None = local_hub.TOKEN) -> str:
    """Run code in a process whose hub is ours: the client reads its environment when it is imported."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0"}
    if token is not None:
        environment["HF_TOKEN"] = token
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


PUSH = """
from diffusers_esd import Erasure
e = Erasure.from_pretrained({folder!r})
print(e.push_to_hub({repo!r}, {options}))
"""
LOAD = """
from diffusers_esd import Erasure
try:
    print(Erasure.from_pretrained({repo!r}).name)
except FileNotFoundError as error:
    print(error)
"""


def test_push_and_load(hub: local_hub.Hub, erasure: Erasure, tmp_path: Path) -> None:
    folder = str(erasure.save_pretrained(tmp_path / "no-cat"))
    address = client(hub, tmp_path, PUSH.format(folder=folder, repo=REPO, options=""))
    assert address.strip().startswith(f"{hub.url}/{REPO}/commit/")
    files = hub.repositories[REPO]
    assert set(files) >= {"README.md", "erasure.json", "pytorch_lora_weights.safetensors", "no-a-cat.kohya.safetensors"}
    assert [name for name in files if name.endswith("pytorch_lora_weights.safetensors")] == [
        "pytorch_lora_weights.safetensors"
    ], "exactly one of that name"
    found = ModelCard(files["README.md"].decode())
    assert found.data.library_name == "diffusers"
    assert {"lora", "diffusers", "concept-erasure", "esd"} <= set(found.data.tags)

    code = f"""
import torch
from tiny import latents, tiny_pipeline
from diffusers_esd import Erasure, stack
plain, ours, local = tiny_pipeline(), tiny_pipeline(), tiny_pipeline()
untouched = latents(local)
Erasure.from_pretrained({folder!r}).apply(local)
plain.load_lora_weights({REPO!r})
print(stack(ours, {{{REPO!r}: 1.0}}))
print([torch.equal(latents(local), other) for other in (latents(plain), latents(ours), untouched)])
"""
    printed = client(hub, tmp_path, code, token=None)
    assert "no-a-cat" in printed
    assert printed.splitlines()[-1] == "[True, True, False]", "compared in one process: sums depend on its threads"
    assert files["pytorch_lora_weights.safetensors"] == Path(folder, "pytorch_lora_weights.safetensors").read_bytes()


def test_unchanged_files_are_not_committed_again(hub: local_hub.Hub, erasure: Erasure, tmp_path: Path) -> None:
    push = PUSH.format(folder=str(erasure.save_pretrained(tmp_path / "no-cat")), repo=REPO, options="")
    client(hub, tmp_path, push + "e.push_to_hub('someone/no-cat')")
    assert hub.commits[REPO] == 1


def test_a_private_repository_needs_the_token(hub: local_hub.Hub, erasure: Erasure, tmp_path: Path) -> None:
    folder = str(erasure.save_pretrained(tmp_path / "no-cat"))
    client(hub, tmp_path, PUSH.format(folder=folder, repo=REPO, options="private=True"))
    assert client(hub, tmp_path / "a", LOAD.format(repo=REPO)).strip() == "no-a-cat"
    message = f"There is neither a folder nor a repository '{REPO}'; a private one needs a token."
    assert client(hub, tmp_path / "b", LOAD.format(repo=REPO), token=None).strip() == message
    message = "There is neither a folder nor a repository 'someone/nothing'"
    assert message in client(hub, tmp_path / "c", LOAD.format(repo="someone/nothing"))


def test_a_repository_without_an_erasure_says_so(hub: local_hub.Hub, tmp_path: Path) -> None:
    hub.repositories["someone/else"] = {"README.md": b"x"}
    message = "The repository 'someone/else' has no pytorch_lora_weights.safetensors: it is not an erasure."
    assert message in client(hub, tmp_path, LOAD.format(repo="someone/else"))


def test_an_interrupted_upload_is_completed_by_the_next(hub: local_hub.Hub, erasure: Erasure, tmp_path: Path) -> None:
    folder = str(erasure.save_pretrained(tmp_path / "no-cat"))
    hub.fail_next_commit = True
    code = PUSH.format(folder=folder, repo=REPO, options="")
    with pytest.raises(AssertionError, match="connection lost"):
        client(hub, tmp_path, code)
    assert hub.repositories[REPO] == {}, "nothing half-written"
    client(hub, tmp_path, code)
    assert "erasure.json" in hub.repositories[REPO]


def test_what_people_wrote_in_a_card_stays(hub: local_hub.Hub, erasure: Erasure, tmp_path: Path) -> None:
    theirs = "---\nlicense: mit\ntags:\n- mine\n---\n\n# My cat eraser\n\nI like dogs.\n"
    hub.repositories[REPO] = {"README.md": theirs.encode()}
    folder = str(erasure.save_pretrained(tmp_path / "no-cat"))
    client(hub, tmp_path, PUSH.format(folder=folder, repo=REPO, options=""))
    first = hub.repositories[REPO]["README.md"].decode()
    hub.repositories[REPO] |= {"images/00.png": b"old", "theirs.png": b"kept", "former.kohya.safetensors": b"old"}
    edited = first.replace("I like dogs.", "I like birds.") + "\nThe end.\n"
    hub.repositories[REPO]["README.md"] = edited.encode()
    client(hub, tmp_path, PUSH.format(folder=folder, repo=REPO, options=""))
    found = ModelCard(hub.repositories[REPO]["README.md"].decode())
    assert found.data.license == "mit"
    assert found.data.tags == ["mine", "diffusers", "lora", "concept-erasure", "esd", "text-to-image"]
    assert found.text.count("This adapter erases") == 1
    assert "theirs.png" in hub.repositories[REPO]
    assert not {"images/00.png", "former.kohya.safetensors"} & set(hub.repositories[REPO]), "what was ours and is gone"
    assert all(words in found.text for words in ("# My cat eraser", "I like birds.", "The end."))


def test_without_a_connection_no_card_is_taken_for_missing(erasure: Erasure, tmp_path: Path) -> None:
    folder = str(erasure.save_pretrained(tmp_path / "no-cat"))
    with local_hub.running() as stopped:
        url = stopped.url
    gone = local_hub.Hub()
    gone.url = url
    message = f"There is no folder '{REPO}', and the Hub cannot be reached."
    assert message in client(gone, tmp_path, LOAD.format(repo=REPO))
    code = f"from diffusers_esd.cli.main import main; import sys; sys.exit(main(['push', {folder!r}, {REPO!r}]))"
    message = f"error: The Hub cannot be reached, and nothing was published at '{REPO}' ("
    with pytest.raises(AssertionError, match=re.escape(message)) as caught:
        client(gone, tmp_path, code)
    assert "Traceback" not in str(caught.value)


def written(erasure: Erasure, **options: Any) -> ModelCard:
    return ModelCard(card(erasure.to_dict(), REPO, **{"kohya": None, "pictures": {}, **options}))


def test_the_card_says_what_there_is_to_say(erasure: Erasure) -> None:
    facts = replace(erasure.provenance, base_model="someone/model")
    known = Erasure(erasure.name, erasure.weights, erasure.config, facts)
    found = written(known, kohya="no-cat.kohya.safetensors", pictures={"a cat": "images/00.png"}, evaluation="| gone |")
    assert found.data.base_model == "someone/model"
    assert found.data.pipeline_tag == "text-to-image"
    assert found.data.to_dict()["widget"] == [{"text": "a cat", "output": {"url": "images/00.png"}}]
    for words in (
        "This adapter erases “a cat” from someone/model.", "| group | `esd-u` |", "`eta=1`", "8 iterations of 1",
        "<Gallery />",
        "| gone |", f'pipe.load_lora_weights("{REPO}", adapter_name="no-a-cat")', f'stack(pipe, {{"{REPO}": 1.0}})',
        "`no-cat.kohya.safetensors`", "A LoRA can be detached", "attacks may bring a concept back",
        "licence of the base",
    ):  # fmt: skip
        assert words in found.text
    plain = written(erasure)
    assert "from_pretrained" not in plain.text
    assert plain.data.base_model is None, "a local name is no id"
    assert "<Gallery />" not in plain.text
    assert update_card(str(found), str(found)).strip() == str(found).strip(), "updating with itself changes nothing"


def test_the_card_of_a_merge_or_an_import_claims_no_training(erasure: Erasure) -> None:
    dog = made(tiny_pipeline(), "a dog", group="esd-x", rank=3)
    merged = written(merge([erasure, dog], [1.0, 0.5], name="both")).text
    facts = replace(erasure.provenance, origin="imported", parts=(("f.safetensors", 1.0),))
    imported = written(Erasure("x", erasure.weights, None, facts)).text
    assert "It was merged from several erasures with diffusers-esd" in merged
    assert "| merged from | no-a-cat x 1, no-a-dog x 0.5 |" in merged
    assert f"| layers | {len(erasure.layers()) + len(dog.layers())}, rank 3 |" in merged
    assert "It was trained with another tool and imported with diffusers-esd" in imported
    assert "| imported from | `f.safetensors` |" in imported

    def check(text: str) -> None:
        assert not [row for row in ("group", "strength", "preserved", "training", "alignment") if f"| {row} |" in text]

    check(merged)
    check(imported)
    with must_fail("a trained one has these rows"):
        check(written(erasure).text)


def test_the_card_tells_what_was_trained_and_what_was_left_out(erasure: Erasure) -> None:
    full = with_provenance(
        erasure,
        concepts=("a cat", "a|dog"),
        left_out={"the concept is too faint there": ("conv_in", "conv_out"), "it lets too much through": ("x",)},
        alignments={"a cat": -0.4, "a|dog": -0.6, "a bus": None},
        preserved={"prompts": 500, "moments": 400, "loss": 100},
        active={"style": 0.6},
        beside=("no-bus",),
    )
    config = ESDConfig(group="esd-x", rank=2)
    text = written(Erasure("x", full.weights, config, full.provenance)).text
    for row in (
        "| concept | a cat, a\\|dog |",
        "| group | `esd-x`: the cross-attentions' keys and values |",
        "| layers left out | 2: the concept is too faint there; 1: it lets too much through |",
        "| preserved | the text encoder's vocabulary (500 prompts, 400 of them for the null space, 100 of them in ",
        "| trained on top of | style x 0.6 |",
        "| switched off while training | no-bus |",
        "| alignment | -0.50 (1 intact, 0 as without the words, -1 target); a cat -0.40, a\\|dog -0.60 |",
    ):
        assert row in text
    assert "A negative scale turns the erasure into its inverse" in text
    plain = Erasure("x", full.weights, ESDConfig(group="esd-x", null_space=False), erasure.provenance)
    assert "| group | `esd-x`: the cross-attentions' queries, keys, values, outputs |" in written(plain).text
    assert "left out" not in written(plain).text


def test_the_curve_of_alignment() -> None:
    assert curve([1.0, 0.5, 0.0]) == "█▅▁"
    assert curve([0.3] * 100) == "▁" * 32
    assert len(curve([float(i) for i in range(1000)])) == 32
    assert curve([]) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a/b", True), ("a", False), ("a/b/c", False), ("../b", False), ("./b", False), ("a/b c", False)],
)
def test_ids_of_repositories(text: str, expected: bool) -> None:
    assert is_repo_id(text) is expected


def test_pictures_of_explicit_concepts_are_left_out_unless_asked_for(
    erasure: Erasure, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded: list[set[str]] = []

    def upload(folder: Path, *arguments: Any, **options: Any) -> str:
        uploaded.append({path.name for path in folder.rglob("*") if path.suffix == ".png"})
        json.loads((folder / "erasure.json").read_text())
        return "address"

    monkeypatch.setattr("diffusers_esd.hub.upload", upload)
    explicit = Erasure("x", erasure.weights, erasure.config, replace(erasure.provenance, concepts=("violence",)))
    pictures = {"a street": Image.new("RGB", (8, 8))}
    with pytest.warns(UserWarning, match=r"^The pictures are left out, because the concept is violence"):
        explicit.push_to_hub(REPO, pictures=pictures)
    explicit.push_to_hub(REPO, pictures=pictures, explicit_pictures=True)
    erasure.push_to_hub(REPO, pictures=pictures)
    assert uploaded == [set(), {"00.png"}, {"00.png"}]
    assert is_explicit(["nsfw_content"])
    assert not is_explicit(["a cat", "Van Gogh"])
    with pytest.raises(ValueError, match=r"^`repo_id` must be 'user/name', got 'no-cat'.$"):
        erasure.push_to_hub("no-cat")
