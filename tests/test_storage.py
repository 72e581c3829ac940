"""The files of an erasure: both ways, never half-written, and refused if they are something else."""

from __future__ import annotations

import json
import os
import re
import resource
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from controls import must_fail
from made import is_equal, made, with_provenance
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import tiny_pipeline

from diffusers_esd import Erasure
from diffusers_esd.files import HEADER_KEY, WEIGHTS_NAME
from diffusers_esd.storage import JSON_NAME, PICTURE_NAME, is_finished


@pytest.fixture(scope="module")
def erasure() -> Erasure:
    return made(tiny_pipeline())


def test_both_ways(erasure: Erasure, tmp_path: Path) -> None:
    folder = erasure.save_pretrained(tmp_path / "no-cat")
    for path in (folder, folder / WEIGHTS_NAME):
        read = Erasure.from_pretrained(path)
        assert read.to_dict() == erasure.to_dict()
        assert read.provenance == erasure.provenance
        assert read.weights.keys() == erasure.weights.keys()
        assert all(torch.equal(read.weights[key], value) for key, value in erasure.weights.items())
    assert json.loads((folder / JSON_NAME).read_text()) == json.loads(json.dumps(erasure.to_dict()))


def test_the_same_erasure_is_the_same_file(erasure: Erasure, tmp_path: Path) -> None:
    files = [erasure.save_pretrained(tmp_path / str(i)) / WEIGHTS_NAME for i in range(8)]
    assert len({file.read_bytes() for file in files}) == 1


def test_the_header_is_what_every_loader_understands(erasure: Erasure, tmp_path: Path) -> None:
    with safe_open(erasure.save_pretrained(tmp_path / "no-cat") / WEIGHTS_NAME, framework="pt") as file:
        header = file.metadata()
    lora = json.loads(header["lora_adapter_metadata"])
    assert lora.keys() == {f"unet.{k}" for k in ("r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern")}
    assert lora["unet.r"] == lora["unet.lora_alpha"] == 4
    assert json.loads(header[HEADER_KEY])["provenance"]["concepts"] == ["a cat"]
    ranks = {value.shape[0] for key, value in erasure.weights.items() if "lora_A" in key}
    assert ranks == {4}


def test_saving_over_an_erasure_keeps_what_others_put_there(erasure: Erasure, tmp_path: Path) -> None:
    folder = erasure.save_pretrained(tmp_path / "no-cat")
    (folder / "README.md").write_text("my card")
    erasure.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "my card"
    assert {path.name for path in folder.iterdir()} == {"README.md", WEIGHTS_NAME, JSON_NAME}


def test_a_failed_save_leaves_the_former_folder(erasure: Erasure, tmp_path: Path) -> None:
    folder = erasure.save_pretrained(tmp_path / "no-cat")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for target in (folder, tmp_path / "new"):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
            with pytest.raises(OSError, match=r"File too large"):
                erasure.save_pretrained(target)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["no-cat"], "nothing of the new folder"


def test_a_folder_that_contains_something_else_is_refused(erasure: Erasure, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    message = f"{tmp_path} contains something that is not an erasure; give a new or an empty folder."
    with pytest.raises(FileExistsError, match=re.escape(message)):
        erasure.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def _missing(path: Path) -> None:
    pass


def _foreign(path: Path) -> None:
    save_file({"unet.conv_in.lora_A.weight": torch.zeros(1)}, path)


def _cut(path: Path) -> None:
    _foreign(path)
    path.write_bytes(path.read_bytes()[:-2])


def _pickle(path: Path) -> None:
    torch.save({"unet.conv_in.lora_A.weight": torch.zeros(1)}, path)


def _text(path: Path) -> None:
    path.write_text("this is not a tensor file")


@pytest.mark.parametrize(
    ("make", "name", "kind", "message"),
    [
        (_missing, WEIGHTS_NAME, FileNotFoundError, "give a folder, a file, or the 'user/name' of a repository."),
        (_foreign, WEIGHTS_NAME, ValueError, "is not an erasure: 'diffusers_esd' is missing in its header."),
        (_cut, WEIGHTS_NAME, ValueError, "is damaged or not a safetensors file ("),
        (_text, WEIGHTS_NAME, ValueError, "is damaged or not a safetensors file ("),
        (_pickle, WEIGHTS_NAME, ValueError, "is damaged or not a safetensors file ("),
        (_pickle, "weights.bin", ValueError, "is not a safetensors file; only those are read, because others can run "),
    ],
)
def test_what_is_not_an_erasure_is_refused(
    make: Callable[[Path], None], name: str, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    make(tmp_path / name)
    with pytest.raises(kind, match=re.escape(message)):
        Erasure.from_pretrained(tmp_path / name)


def test_a_folder_without_an_erasure_is_refused(tmp_path: Path) -> None:
    message = f"Nothing to read at {tmp_path}: it does not contain {WEIGHTS_NAME}; it contains no files."
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        Erasure.from_pretrained(tmp_path)
    for i in range(6):
        (tmp_path / f"{i}.txt").write_text("x")
    message = "; it contains 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, ...."
    with pytest.raises(FileNotFoundError, match=f"{re.escape(message)}$"):
        Erasure.from_pretrained(tmp_path)


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_files_have_the_mode_that_the_umask_gives(umask: int, erasure: Erasure, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        folder = erasure.save_pretrained(tmp_path / "no-cat")
        save_file({"x": torch.zeros(1)}, tmp_path / "control.safetensors")
    finally:
        os.umask(before)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        WEIGHTS_NAME: 0o666 & ~umask,
        JSON_NAME: 0o666 & ~umask,
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask
    with must_fail("safetensors' own function does not follow the umask"):
        assert stat.S_IMODE((tmp_path / "control.safetensors").stat().st_mode) == 0o666 & ~umask


def test_another_default_device_and_type_do_not_matter(erasure: Erasure, tmp_path: Path) -> None:
    folder = erasure.save_pretrained(tmp_path / "plain")
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        read = Erasure.from_pretrained(folder)
        read.save_pretrained(tmp_path / "other")
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert is_equal(read, erasure)
    assert (tmp_path / "other" / WEIGHTS_NAME).read_bytes() == (folder / WEIGHTS_NAME).read_bytes()


def picture(color: str = "red") -> Image.Image:
    image = Image.new("RGB", (8, 4), color)
    image.putpixel((1, 2), (1, 2, 3))
    return image


def test_a_picture_comes_back_and_belongs_to_its_erasure(erasure: Erasure, tmp_path: Path) -> None:
    assert erasure.picture is None
    shown = replace(erasure, picture=picture())
    folder = shown.save_pretrained(tmp_path / "no-cat")
    assert {path.name for path in folder.iterdir()} == {WEIGHTS_NAME, JSON_NAME, PICTURE_NAME}
    read = Erasure.from_pretrained(folder)
    assert read.picture is not None
    assert list(read.picture.getdata()) == list(picture().getdata())
    with must_fail("another picture differs"):
        assert list(read.picture.getdata()) == list(picture("blue").getdata())
    assert is_equal(read, erasure)
    assert Erasure.from_pretrained(folder / WEIGHTS_NAME).picture is None, "a file is read alone"
    plain = erasure.save_pretrained(tmp_path / "plain")
    assert (plain / WEIGHTS_NAME).read_bytes() == (folder / WEIGHTS_NAME).read_bytes(), (
        "the weights do not depend on it"
    )
    erasure.save_pretrained(folder)
    assert not (folder / PICTURE_NAME).exists(), "the picture of another erasure is not kept"


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n" + b"\0" * 100])
def test_a_damaged_picture_is_left_out_with_a_warning(content: bytes, erasure: Erasure, tmp_path: Path) -> None:
    folder = erasure.save_pretrained(tmp_path / "no-cat")
    (folder / PICTURE_NAME).write_bytes(content)
    message = f"{folder / PICTURE_NAME} is damaged or not a PNG image ("
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}.*; it is left out"):
        read = Erasure.from_pretrained(folder)
    assert read.picture is None
    assert is_equal(read, erasure)


def test_an_interrupted_erasure_does_not_replace_a_finished_one(erasure: Erasure, tmp_path: Path) -> None:
    folder = tmp_path / "no-cat"
    interrupted = with_provenance(erasure, complete=False)
    for saved in (interrupted, interrupted, erasure, erasure):
        saved.save_pretrained(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    message = f"{folder} contains a finished erasure, and the training of this one was interrupted: save it in another"
    with pytest.raises(FileExistsError, match=f"^{re.escape(message)}"):
        interrupted.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("content", "finished"),
    [
        (None, False), ("{", True), ("[]", True), ("{}", True), ('{"provenance": {}}', True),
        ('{"provenance": {"complete": true}}', True), ('{"provenance": {"complete": false}}', False),
    ],
)  # fmt: skip
def test_what_is_not_known_to_be_interrupted_is_finished(content: str | None, finished: bool, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / JSON_NAME).write_text(content)
    assert is_finished(tmp_path) is finished
