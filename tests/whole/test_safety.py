"""Files that were not written by us, or were damaged on the way: refused with an error, never run, memory bounded."""

from __future__ import annotations

import json
import pickle
import random
import resource
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made import made
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import tiny_pipeline

from diffusers_esd import Erasure
from diffusers_esd.files import HEADER_KEY, WEIGHTS_NAME, read_header, read_png
from diffusers_esd.storage import PICTURE_NAME

MUTATIONS = 600


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a good file."""
    folder = tmp_path_factory.mktemp("good")
    made(tiny_pipeline(), group="esd-x", rank=2).save_pretrained(folder)
    return (folder / WEIGHTS_NAME).read_bytes()


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def mutate(content: bytes, chance: random.Random) -> bytes:
    """One of the ways in which a file can be wrong."""
    kind = chance.randrange(7)
    if kind == 0:
        return content[: chance.randrange(len(content))]
    if kind == 1:
        changed = bytearray(content)
        for _ in range(chance.randrange(1, 20)):
            changed[chance.randrange(len(changed) if chance.random() < 0.3 else 3000)] = chance.randrange(256)
        return bytes(changed)
    if kind == 2:
        return struct.pack("<Q", chance.choice([0, 1, 2**20, 2**40, 2**63, 2**64 - 1])) + content[8:]
    header, data = parts(content)
    keys = [key for key in header if key != "__metadata__"]
    key = chance.choice(keys)
    if kind == 3:
        lie = [2**62, 2**31, -1, 0, 1.5, "x", None, []]
        header[key][chance.choice(["shape", "data_offsets"])] = [chance.choice(lie), chance.choice(lie)]
    elif kind == 4:
        header[chance.choice(["unet.foreign.weight", "../../x", "", "unet..lora_A.weight"])] = header.pop(key)
    elif kind == 5:
        header[key]["dtype"] = chance.choice(["I64", "F16", "BOOL", "X", None, 7])
    else:
        values = json.loads(header["__metadata__"][HEADER_KEY])
        target = chance.choice([values, values["config"], values["provenance"]])
        odd = [None, -1, 10**9, "", "../../x", "a.b", [], {}, [[1]], 1e308, True]
        target[chance.choice(list(target))] = chance.choice(odd)
        header["__metadata__"][HEADER_KEY] = json.dumps(values)
    return joined(header, data)


def test_mutated_files_are_refused_or_good(content: bytes, tmp_path: Path) -> None:
    chance, refused, pipe = random.Random(0), 0, tiny_pipeline()
    good, messages = tmp_path / WEIGHTS_NAME, []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(MUTATIONS):
        good.write_bytes(mutate(content, chance))
        try:
            erasure = Erasure.from_pretrained(tmp_path)
        except ValueError as error:
            messages.append(str(error))
            refused += 1
        else:
            assert all(value.numel() * value.element_size() < len(content) for value in erasure.weights.values())
            try:
                erasure.apply(pipe)
            except ValueError:
                refused += 1
            else:
                erasure.remove(pipe)
        try:
            read_header(good)
        except ValueError as error:
            messages.append(str(error))
    assert all(message.startswith(str(good)) for message in messages)
    assert MUTATIONS // 2 < refused < MUTATIONS, "both kinds are there"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 500_000, "kilobytes: a length that lies is not believed"
    good.write_bytes(content)
    assert Erasure.from_pretrained(tmp_path).name == "no-a-cat", "the control"


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return (open, ("exploded", "w"))


@pytest.mark.parametrize("name", ["weights.bin", "weights.pt", "pytorch_lora_weights.safetensors"])
def test_a_pickle_is_not_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="not a safetensors file"):
        Erasure.from_pretrained(tmp_path / name)
    assert not (tmp_path / "exploded").exists()
    pickle.loads((tmp_path / name).read_bytes())
    assert (tmp_path / "exploded").exists(), "the control: it would have"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights, values: weights.update({"unet.x.weight": torch.zeros(2, 2)}), "its keys are not those of an"),
        (lambda weights, values: values.update(rank=10**6), "but the rank is 1000000"),
        (lambda weights, values: values.update(name="../../escape"), "The adapter name '../../escape' contains a dot"),
        (
            lambda weights, values: values["provenance"].update(component="vae"),
            "the component must be 'unet' or 't",
        ),
        (lambda weights, values: values["provenance"].update(iterations="x"), "`iterations`: expected a whole number"),
        (
            lambda weights, values: values["config"].update(trajectory="all"),
            "`trajectory` must be one of 'pool'",
        ),
        (lambda weights, values: values["config"].update(eta=-1), "`eta` must be 0 or more, got -1"),
    ],
)
def test_a_record_that_this_package_cannot_write_is_refused(
    content: bytes, change: Callable[[Any, Any], None], message: str, tmp_path: Path
) -> None:
    file = tmp_path / WEIGHTS_NAME
    file.write_bytes(content)
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata()
        weights = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    values = json.loads(header[HEADER_KEY])
    change(weights, values)
    save_file(weights, file, metadata={**header, HEADER_KEY: json.dumps(values)})
    with pytest.raises(ValueError, match=message) as caught:
        Erasure.from_pretrained(tmp_path)
    assert "is damaged or of a newer version" in str(caught.value)


def test_a_mutated_picture_is_refused_or_good(content: bytes, tmp_path: Path) -> None:
    chance, messages = random.Random(0), []
    (tmp_path / WEIGHTS_NAME).write_bytes(content)
    file = tmp_path / PICTURE_NAME
    Image.effect_noise((32, 32), 64).save(file)
    good = file.read_bytes()
    for _ in range(MUTATIONS):
        changed = bytearray(good[: chance.randrange(len(good))] if chance.random() < 0.3 else good)
        for _ in range(chance.randrange(1, 5)):
            if changed:
                changed[chance.randrange(min(len(changed), 100))] = chance.randrange(256)
        file.write_bytes(changed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            picture = read_png(file)
        # Pillow warns of its own before the error that is passed on.
        messages += [
            str(warning.message) for warning in caught if picture is None and "left out" in str(warning.message)
        ]
        if picture is not None:
            assert picture.width * picture.height < 10**8
    assert MUTATIONS // 2 < len(messages) < MUTATIONS, "both kinds are there"
    assert all(message.startswith(f"{file} is damaged or not a PNG image (") for message in messages)
    file.write_bytes(good)
    assert Erasure.from_pretrained(tmp_path).picture is not None, "the control"
