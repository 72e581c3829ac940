"""A recipe is the mapping that it stands for: in memory, in a file and on the Hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import local_hub
import pytest
import torch
from controls import must_fail
from made import made
from tiny import latents, tiny_pipeline

from diffusers_esd import Erasure, Recipe, bake, merge, preview, stack
from diffusers_esd.stacks.entry import RecipeEntry
from diffusers_esd.stacks.recipe import read_recipe


@pytest.fixture
def hub() -> Iterator[local_hub.Hub]:
    with local_hub.running() as running:
        yield running


@pytest.fixture(scope="module")
def erasures() -> tuple[Erasure, Erasure]:
    pipe = tiny_pipeline()
    return made(pipe, "a cat", rank=2), made(pipe, "a dog", rank=3, seed=1)


@pytest.fixture
def folders(erasures: tuple[Erasure, Erasure], tmp_path: Path) -> list[Path]:
    return [erasure.save_pretrained(tmp_path / "saved" / erasure.name) for erasure in erasures]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_recipe_gives_the_pipeline_of_its_mapping(
    erasures: tuple[Erasure, Erasure], folders: list[Path], tmp_path: Path
) -> None:
    cat, dog = erasures
    file = Recipe.of({folders[0]: 0.8, str(folders[1]): 1.5}).save(tmp_path / "stack.json")
    expected, pipe = tiny_pipeline(), tiny_pipeline()
    assert stack(pipe, file) == stack(expected, {cat: 0.8, dog: 1.5})
    assert torch.equal(latents(pipe), latents(expected))
    other = tiny_pipeline()
    stack(other, {cat: 0.8, dog: 1.4})
    with must_fail("another scale is another pipeline"):
        assert torch.equal(latents(other), latents(expected))
    halved, by_hand = tiny_pipeline(), tiny_pipeline()
    stack(halved, {file: 0.5})
    stack(by_hand, {cat: 0.4, dog: 0.75})
    assert torch.equal(latents(halved), latents(by_hand)), "the scales are multiplied"

    merged, baked = merge(file), bake(tiny_pipeline(), file)
    assert all(torch.equal(v, merged.weights[k]) for k, v in merge({cat: 0.8, dog: 1.5}).weights.items())
    weights = bake(tiny_pipeline(), {cat: 0.8, dog: 1.5}).unet.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in baked.unet.state_dict().items())
    options: dict[str, Any] = {"side": 32, "num_inference_steps": 1}
    image = preview(tiny_pipeline(), {file: 0.5}, "a cat", **options)
    assert image.tobytes() == preview(tiny_pipeline(), {cat: 0.4, dog: 0.75}, "a cat", **options).tobytes()


def test_the_file_has_the_documented_form(folders: list[Path], tmp_path: Path) -> None:
    recipe = Recipe.of({folders[0]: 0.8, "me/no-dog@v1": 1, "me/no-bus": 0.5})
    file = recipe.save(tmp_path / "recipes" / "mine.json")
    assert json.loads(file.read_text(encoding="utf-8")) == {
        "format": "diffusers-esd stack",
        "version": 1,
        "erasures": [
            {"source": "../saved/no-a-cat", "revision": None, "scale": 0.8},
            {"source": "me/no-dog", "revision": "v1", "scale": 1.0},
            {"source": "me/no-bus", "revision": None, "scale": 0.5},
        ],
    }
    assert read_recipe(file) == Recipe.from_pretrained(file) == recipe
    assert [str(entry) for entry in recipe.entries[1:]] == ["me/no-dog@v1", "me/no-bus"]
    with pytest.raises(FrozenInstanceError):
        recipe.entries = ()  # type: ignore[misc]


@pytest.mark.parametrize("erasures_of", [lambda p: p, lambda p: str(p), lambda p: [p], lambda p: {p: 1.0}])
def test_one_source_a_list_and_a_mapping(erasures_of: Any, folders: list[Path]) -> None:
    assert Recipe.of(erasures_of(folders[0])) == Recipe((RecipeEntry(str(folders[0])),))


def test_relative_paths_move_with_the_file(
    folders: list[Path], erasures: tuple[Erasure, Erasure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Recipe.of("saved/no-a-cat").save("saved")
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "saved", moved)
    monkeypatch.chdir(moved / "no-a-dog")
    assert json.loads((moved / "stack.json").read_text())["erasures"][0]["source"] == "./no-a-cat"
    assert stack(tiny_pipeline(), moved) == {"no-a-cat": 1.0}
    with must_fail("the path is not relative to the working directory"):
        assert Path("no-a-cat").exists()
    by_hand = {"format": "diffusers-esd stack", "version": 1, "erasures": [{"source": "no-a-cat", "scale": 2}]}
    (moved / "by-hand.json").write_text(json.dumps(by_hand))
    assert Recipe.from_pretrained(moved / "by-hand.json").entries[0] == RecipeEntry(str(moved / "no-a-cat"), None, 2.0)


def test_a_recipe_in_a_recipe_is_refused(folders: list[Path], tmp_path: Path) -> None:
    inner = Recipe.of(folders[0])
    file = inner.save(tmp_path / "inner")
    pattern = r"^A recipe cannot contain another recipe"
    for source in (inner, file, file.parent):
        with pytest.raises(ValueError, match=pattern):
            Recipe.of([source])
    values = json.loads(file.read_text()) | {"erasures": [{"source": "./inner", "revision": None, "scale": 1}]}
    (tmp_path / "outer.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=pattern):
        stack(tiny_pipeline(), tmp_path / "outer.json")


def test_what_a_recipe_cannot_name(erasures: tuple[Erasure, Erasure], folders: list[Path]) -> None:
    with pytest.raises(
        TypeError, match=r"^A recipe names saved erasures, got an Erasure in memory. Save it with erasure"
    ):
        Recipe.of({erasures[0]: 1.0})
    with pytest.raises(FileNotFoundError, match=r"^Nothing to read at .*nowhere"):
        Recipe.of("nowhere")
    with pytest.raises(ValueError, match=r"^`erasures` is empty"):
        Recipe.of([])
    with pytest.raises(ValueError, match=r"^A recipe must have at least one erasure, got none.$"):
        Recipe(())
    with pytest.raises(TypeError, match=r"^`scale` must be a number"):
        Recipe.of({folders[0]: "1"})
    with pytest.raises(ValueError, match=r"^`scale` must be finite"):
        RecipeEntry("me/no-cat", None, float("inf"))
    with pytest.raises(ValueError, match=r"^`revision` is for erasures on the Hub, got 'v1' for the path /"):
        RecipeEntry(str(folders[0]), "v1")
    with pytest.raises(ValueError, match=r"^`source` must be a path, or the 'user/name' of the Hub, got 'cat'"):
        RecipeEntry("cat")
    with pytest.raises(ValueError, match=r"^`revision` of 'me/cat' is empty"):
        RecipeEntry("me/cat", "")
    with pytest.warns(UserWarning, match=r"which amplifies the concept.$"):
        Recipe.of({folders[0]: -1})


GOOD = {"source": "me/no-cat", "revision": None, "scale": 1.0}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"format": "another"}, r"is not a recipe: `format` must be 'diffusers-esd stack'\.$"),
        ({"version": 2}, r"has version 2, and this package reads version 1; update diffusers-esd, or"),
        ({"erasures": []}, r"is damaged: `erasures` must be a list of at least one erasure, got \[\]\.$"),
        ({"erasures": {"me/no-cat": 1}}, r"is damaged: `erasures` must be a list"),
        ({"erasures": [GOOD, "me/no-dog"]}, r"is damaged: erasures\[1\]: expected an object, got 'me/no-dog'$"),
        ({"erasures": [{"source": "me/no-cat"}]}, r"is damaged: erasures\[0\]: `scale` is missing$"),
        (
            {"erasures": [{**GOOD, "weight": 1}]},
            r"is damaged: erasures\[0\]: unknown key 'weight'; expected `",
        ),
        ({"erasures": [{**GOOD, "scale": "1"}]}, r"is damaged: erasures\[0\]: `scale`: expected a number, got '1'$"),
        ({"erasures": [{**GOOD, "scale": float("nan")}]}, r"is damaged: erasures\[0\]: `scale` must be finite"),
        ({"erasures": [{**GOOD, "source": 3}]}, r"is damaged: erasures\[0\]: `source`: expected a string, got 3$"),
        ({"erasures": [{**GOOD, "revision": 1}]}, r"is damaged: erasures\[0\]: `revision`: expected a string, got 1$"),
        ({"erasures": [{**GOOD, "revision": ""}]}, r"is damaged: erasures\[0\]: `revision` of 'me/no-cat' is empty"),
        ({"erasures": [{**GOOD, "source": "./a", "revision": "v1"}]}, r"erasures\[0\]: `revision` is for erasures on"),
        ({"erasures": [{**GOOD, "source": "me/a@v1", "revision": "v2"}]}, r"erasures\[0\]: 'me/a@v1' has a revision, "),
    ],
)
def test_a_wrong_file_is_named_with_its_fault(changes: dict[str, Any], fault: str, tmp_path: Path) -> None:
    values = {"format": "diffusers-esd stack", "version": 1, "erasures": [GOOD]}
    file = tmp_path / "stack.json"
    file.write_text(json.dumps(values))
    assert len(Recipe.from_pretrained(file).entries) == 1, "the file without the fault"
    file.write_text(json.dumps(values | changes))
    with pytest.raises(ValueError, match=rf"^{file} {fault if fault.startswith(('is', 'has')) else '.*' + fault}"):
        Recipe.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"[]", b"3"])
def test_a_file_that_is_not_json_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"^.*stack\.json is (damaged: it is not JSON|not a recipe)"):
        stack(tiny_pipeline(), tmp_path)


def test_a_file_appears_whole_or_not_at_all(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.of(folders)
    before = recipe.save(tmp_path / "there").read_bytes()
    real = Path.write_text

    def fail(path: Path, text: str, **options: Any) -> int:
        real(path, text[: len(text) // 2], **options)
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", fail)
    for folder in ("there", "new"):
        with pytest.raises(OSError, match="no space left"):
            Recipe.of(folders[0]).save(tmp_path / folder)
    assert files_of(tmp_path / "there") == {"stack.json": before}
    assert list((tmp_path / "new").iterdir()) == []
    monkeypatch.undo()
    assert Recipe.of(folders[0]).save(tmp_path / "there").read_bytes() != before, "a recipe is replaced"


def test_other_files_are_not_replaced(folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"package.json exists and is not a recipe; give another path.$"):
        Recipe.of(folders).save(tmp_path / "package.json")
    assert (tmp_path / "package.json").read_text() == "{}"
    with pytest.raises(
        FileExistsError, match=r"contains an erasure, which would be read instead; give another folder.$"
    ):
        Recipe.of(folders).save(folders[0])


USE = """
import os, torch
from diffusers_esd import Erasure, Recipe, stack
from tiny import latents, tiny_pipeline
os.chdir({folder!r})
"""


def test_a_pushed_recipe_is_pinned_and_read_by_its_name(
    hub: local_hub.Hub, erasures: tuple[Erasure, Erasure], folders: list[Path], tmp_path: Path
) -> None:
    cat, dog = folders
    changed = made(tiny_pipeline(), "a cat", rank=2, seed=7).save_pretrained(tmp_path / "changed")
    start = USE.format(folder=str(tmp_path))
    code = f"""{start}
for folder, repo in (({str(cat)!r}, "me/no-cat"), ({str(dog)!r}, "me/no-dog")):
    Erasure.from_pretrained(folder).push_to_hub(repo)
print(Recipe.of({{"me/no-cat": 0.8, "me/no-dog@main": 0.5}}).push_to_hub("me/both"))
Erasure.from_pretrained({str(changed)!r}).push_to_hub("me/no-cat")
"""
    assert f"{hub.url}/me/both/commit/" in local_hub.client(hub, tmp_path / "home", code)
    files = hub.repositories["me/both"]
    assert json.loads(files["stack.json"])["erasures"] == [
        {"source": "me/no-cat", "revision": f"{1:040x}", "scale": 0.8},
        {"source": "me/no-dog", "revision": "main", "scale": 0.5},
    ]
    assert "me/no-cat" in files["README.md"].decode()
    hub.tags |= {"me/both": {"v1": f"{1:040x}"}, "me/no-cat": {"v1": f"{1:040x}"}}
    # A folder of the same name is not what the recipe on the Hub names.
    shutil.copytree(changed, tmp_path / "me" / "no-dog")
    code = f"""{start}
pipe, named, tagged, expected, newest = (tiny_pipeline() for _ in range(5))
print(stack(pipe, "me/both"))
stack(named, Recipe.from_pretrained("me/both", revision="v1"))
stack(tagged, {{"me/no-cat@v1": 0.8, {str(dog)!r}: 0.5}})
stack(expected, {{{str(cat)!r}: 0.8, {str(dog)!r}: 0.5}})
stack(newest, {{"me/no-cat": 0.8, {str(dog)!r}: 0.5}})
print([torch.equal(latents(p), latents(expected)) for p in (pipe, named, tagged)])
print(torch.equal(latents(newest), latents(expected)))
print(stack(tiny_pipeline(), "me/both@v1"))
"""
    active = "{'no-a-cat': 0.8, 'no-a-dog': 0.5}"
    printed = local_hub.client(hub, tmp_path / "fresh", code).splitlines()
    assert printed == [active, "[True, True, True]", "False", active], "pinned: as it was, whatever was pushed since"


def test_what_a_recipe_on_the_hub_cannot_name(hub: local_hub.Hub, folders: list[Path], tmp_path: Path) -> None:
    local = {"format": "diffusers-esd stack", "version": 1, "erasures": [{**GOOD, "source": str(folders[0])}]}
    nested = local | {"erasures": [{**GOOD, "source": "me/local"}]}
    hub.repositories |= {name: {"stack.json": json.dumps(values).encode()} for name, values in
                         (("me/local", local), ("me/nested", nested))}  # fmt: skip
    hub.repositories["me/taken"] = {"pytorch_lora_weights.safetensors": b""}
    code = f"""{USE.format(folder=str(tmp_path))}
def attempt(call):
    try:
        print(call())
    except (ValueError, OSError) as error:
        print(error)
attempt(lambda: Recipe.of({str(folders[0])!r}).push_to_hub("me/new"))
attempt(lambda: Recipe.of("me/missing").push_to_hub("me/new"))
attempt(lambda: Recipe.of("me/local").push_to_hub("new"))
attempt(lambda: Recipe.of("me/nested").push_to_hub("me/taken"))
attempt(lambda: Recipe.from_pretrained("me/local"))
attempt(lambda: stack(tiny_pipeline(), "me/nested"))
attempt(lambda: stack(tiny_pipeline(), "me/missing"))
"""
    printed = local_hub.client(hub, tmp_path / "home", code).splitlines()
    assert printed[0].startswith(
        f"A recipe on the Hub names erasures on the Hub, got {folders[0]}. Push it first, with"
    )
    assert "'me/missing'" in printed[1]
    assert printed[2] == "`repo_id` must be 'user/name', got 'new'."
    assert printed[3] == "'me/taken' contains an erasure, which would be read instead; give another repository."
    assert printed[4].endswith(
        f"is damaged: erasures[0]: a recipe on the Hub must name erasures on the Hub, got the path {str(folders[0])!r}"
    )
    assert printed[5].startswith("A recipe cannot contain another recipe, got me/local")
    assert "'me/missing'" in printed[6]
    assert "me/new" not in hub.repositories
    assert list(hub.repositories["me/taken"]) == ["pytorch_lora_weights.safetensors"]


def test_only_what_is_needed_is_downloaded(hub: local_hub.Hub, folders: list[Path], tmp_path: Path) -> None:
    hub.repositories["me/no-cat"] = files_of(folders[0])
    recipe = {"format": "diffusers-esd stack", "version": 1, "erasures": [GOOD]}
    hub.repositories["me/recipe"] = {"stack.json": json.dumps(recipe).encode(), "other.bin": b"large"}
    code = f"{USE.format(folder=str(tmp_path))}stack(tiny_pipeline(), ['me/recipe'])"
    local_hub.client(hub, tmp_path / "home", code)
    names = {path.name for path in (tmp_path / "home").rglob("*") if path.is_symlink() or path.suffix}
    assert {"stack.json", "pytorch_lora_weights.safetensors"} <= names
    with must_fail("nothing else is downloaded"):
        assert {"erasure.json", "other.bin"} & names
