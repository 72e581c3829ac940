"""Files: whole or not at all, with the permissions of the umask; the types of stored weights."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from controls import must_fail
from PIL import Image
from safetensors.torch import save_file
from tiny import tiny_pipeline

from diffusers_esd.files import (
    read_header,
    read_png,
    read_safetensors,
    remove_folder,
    remove_leftovers,
    stored_dtype,
    stored_dtypes,
    stored_shapes,
    sync,
    whole,
    write_safetensors,
    write_text,
)


def test_the_stored_type_of_each_component(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.unet.half()
    pipe.vae.to(torch.bfloat16)
    pipe.unet.time_embedding.float()
    pipe.save_pretrained(tmp_path)
    save_file({"x": torch.zeros(10**6)}, tmp_path / "unet" / "diffusion_pytorch_model.other.safetensors")
    expected = {"unet": torch.float16, "vae": torch.bfloat16, "text_encoder": torch.float32}
    assert stored_dtypes(tmp_path) == expected, "most of the bytes decide, and a variant is not looked at"
    assert stored_dtypes(tmp_path, "other") == {**expected, "unet": torch.float32}, "where there is one"
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    assert stored_dtype(file) == "float16"
    assert stored_shapes(file)["conv_in.weight"] == (16, 4, 3, 3)
    save_file({"x": torch.zeros(3, dtype=torch.int64)}, tmp_path / "numbers.safetensors")
    assert stored_dtype(tmp_path / "numbers.safetensors") == "float32"
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model.safetensors is damaged or not a safetensors file"):
        stored_dtypes(tmp_path)


class BrokenOffError(Exception):
    """What ends a block too early."""


def interrupted_file(path: Path) -> None:
    with whole(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == path.parent, "on the same file system, so that it can be renamed"
        raise BrokenOffError


def interrupted_folder(path: Path) -> None:
    with whole(path) as temporary:
        (temporary / "inside").mkdir(parents=True)
        (temporary / "inside" / "file.txt").write_text("half")
        raise BrokenOffError


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("existed", [False, True])
def test_a_file_is_whole_or_not_there(existed: bool, tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    if existed:
        write_text(path, "before")
    with pytest.raises(BrokenOffError):
        interrupted_file(path)
    assert names(path.parent) == (["file.txt"] if existed else [])
    with whole(path) as temporary:
        temporary.write_text("after")
        with must_fail("it does not appear before the end"):
            assert path.exists()
            assert path.read_text() == "after"
    assert names(path.parent) == ["file.txt"]
    assert path.read_text() == "after"


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    with pytest.raises(BrokenOffError):
        interrupted_folder(path)
    assert names(path.parent) == []
    with whole(path) as temporary:
        temporary.mkdir()
        (temporary / "file.txt").write_text("after")
        with must_fail("it does not appear before the end"):
            assert path.exists()
    assert names(path.parent) == ["folder"]
    assert names(path) == ["file.txt"]


def test_the_same_tensors_give_the_same_bytes_and_come_back(tmp_path: Path) -> None:
    weights = {"b": torch.randn(3, 2).T, "a": torch.ones(2, dtype=torch.float16)}
    header = {"z": "1", "a": "ä"}
    files = [write_safetensors(tmp_path / f"{i}.safetensors", weights, header) for i in range(8)]
    assert len({file.read_bytes() for file in files}) == 1
    read_back, tensors = read_safetensors(files[0])
    assert read_back == header == read_header(files[0])
    assert all(torch.equal(tensors[key], value) for key, value in weights.items())


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_files_have_the_permissions_of_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "text", "x")
        write_safetensors(tmp_path / "weights", {"x": torch.zeros(1)}, {})
        save_file({"x": torch.zeros(1)}, tmp_path / "control")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes["text"] == modes["weights"] == 0o666 & ~umask
    with must_fail("safetensors' own function does not follow the umask"):
        assert modes["control"] == 0o666 & ~umask


def test_what_an_interruption_leaves_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    write_text(tmp_path / "folder" / "file.txt", "x")
    (tmp_path / ".hidden").touch()
    with monkeypatch.context() as patch:
        patch.setattr("diffusers_esd.files.shutil.rmtree", interrupted_file)
        with pytest.raises(BrokenOffError):
            remove_folder(tmp_path / "folder")
    (tmp_path / ".file.txt.1.tmp").touch()
    left = names(tmp_path)
    assert len(left) == 3
    assert "folder" not in left, "its name is gone first"
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".hidden"]


def test_a_folder_is_removed_and_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[os.stat_result] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number)) or fsync(number))
    file = write_text(tmp_path / "folder" / "file.txt", "x")
    with must_fail("writing a file alone does not wait for the disk"):
        assert synced
    sync(file, file.parent)
    assert [os.path.samestat(a, b.stat()) for a, b in zip(synced, (file, file.parent), strict=True)] == [True, True]
    remove_folder(file.parent)
    assert names(tmp_path) == []


def test_only_png_is_read(tmp_path: Path) -> None:
    file, image = tmp_path / "check.png", Image.new("RGB", (8, 4))
    assert read_png(file) is None
    image.save(file, format="BMP")
    with pytest.warns(UserWarning, match=r"check.png is damaged or not a PNG image"):
        assert read_png(file) is None
    image.save(file)
    read = read_png(file)
    assert read is not None
    assert read.size == (8, 4)
