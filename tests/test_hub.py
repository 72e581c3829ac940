"""The Hub: the real client against a hub of our own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import local_hub
import pytest
from huggingface_hub import ModelCard
from local_hub import client
from made import made, with_provenance
from PIL import Image
from tiny import tiny_pipeline

from diffusers_esd import Erasure
from diffusers_esd.card import recipe_card
from diffusers_esd.hub import check_repo_id, locate, split_revision

REPO = "someone/no-cat"


@pytest.fixture
def hub() -> Iterator[local_hub.Hub]:
    if huggingface_hub.__version__ < "2":
        pytest.skip("this version validates cards at a fixed address")
    with local_hub.running() as running:
        yield running


@pytest.fixture(scope="module")
def erasure() -> Erasure:
    return made(tiny_pipeline(), rank=2)


PUSH = """
from diffusers_esd import Erasure
e = Erasure.from_pretrained({folder!r})
print(e.push_to_hub({repo!r}, {options}))
"""


LOAD = """
from diffusers_esd import Erasure
print(Erasure.from_pretrained({repo!r}).name)
"""
# The errors need no torch, whose import takes seconds.
FAIL = """
from diffusers_esd.hub import locate
try:
    print(locate({repo!r}, "pytorch_lora_weights.safetensors"))
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
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "diffusers"
    assert {"lora", "diffusers", "concept-erasure", "esd"} <= set(card.data.tags)

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
    assert client(hub, tmp_path / "b", FAIL.format(repo=REPO), token=None).strip() == message
    message = "There is neither a folder nor a repository 'someone/nothing'"
    assert message in client(hub, tmp_path / "c", FAIL.format(repo="someone/nothing"))


def test_a_repository_without_an_erasure_says_so(hub: local_hub.Hub, tmp_path: Path) -> None:
    hub.repositories["someone/else"] = {"README.md": b"x"}
    message = "The repository 'someone/else' does not contain pytorch_lora_weights.safetensors; give another repo"
    assert message in client(hub, tmp_path, FAIL.format(repo="someone/else"))


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
    card = ModelCard(hub.repositories[REPO]["README.md"].decode())
    assert card.data.license == "mit"
    assert card.data.tags == ["mine", "diffusers", "lora", "concept-erasure", "esd", "text-to-image"]
    assert card.text.count("This adapter erases") == 1
    assert "theirs.png" in hub.repositories[REPO]
    assert not {"images/00.png", "former.kohya.safetensors"} & set(hub.repositories[REPO]), "what was ours and is gone"
    assert all(words in card.text for words in ("# My cat eraser", "I like birds.", "The end."))


def test_without_a_connection_no_card_is_taken_for_missing(erasure: Erasure, tmp_path: Path) -> None:
    folder = str(erasure.save_pretrained(tmp_path / "no-cat"))
    with local_hub.running() as stopped:
        url = stopped.url
    gone = local_hub.Hub()
    gone.url = url
    message = f"There is no folder '{REPO}', and the Hub cannot be reached."
    assert message in client(gone, tmp_path, FAIL.format(repo=REPO))
    code = f"from diffusers_esd.cli.main import main; import sys; sys.exit(main(['push', {folder!r}, {REPO!r}]))"
    message = f"error: The Hub cannot be reached; nothing was published at '{REPO}' ("
    with pytest.raises(AssertionError, match=re.escape(message)) as caught:
        client(gone, tmp_path, code)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b", ("a/b", None)),
        ("a/b@v1", ("a/b", "v1")),
        ("a/b@refs/pr/1", ("a/b", "refs/pr/1")),
        ("a/b@v1@2", ("a/b", "v1@2")),
        ("folder@2", ("folder@2", None)),
        ("./a/b@v1", ("./a/b@v1", None)),
        ("/home/a@b/c", ("/home/a@b/c", None)),
        ("a/b/c@v1", ("a/b/c@v1", None)),
    ],
)
def test_a_revision_stands_behind_the_id_of_a_repository(text: str, expected: tuple[str, str | None]) -> None:
    assert split_revision(text) == expected


def test_an_empty_revision_is_refused() -> None:
    message = "The revision in 'a/b@' is empty; give a branch, a tag or a commit, or leave out the '@'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        split_revision("a/b@")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Erasure.from_pretrained("a/b@")


def test_a_revision_of_a_local_folder_is_refused(tmp_path: Path) -> None:
    message = f"`revision` is for a repository on the Hub, got 'v2' for the local path {tmp_path}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Erasure.from_pretrained(tmp_path, revision="v2")


def test_two_revisions_are_refused() -> None:
    message = "'a/b@v1' has a revision, and `revision` is 'v2'; give one of them."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Erasure.from_pretrained("a/b@v1", revision="v2")


@pytest.mark.parametrize("repo_id", ["no-cat", "a/b/c", "a/b@v1", "../b", ""])
def test_what_cannot_be_an_id_is_not_published(repo_id: str, erasure: Erasure) -> None:
    with pytest.raises(ValueError, match=f"^`repo_id` must be 'user/name', got '{repo_id}'.$"):
        erasure.push_to_hub(repo_id)
    check_repo_id(REPO)


def test_the_first_name_that_exists_is_located(tmp_path: Path) -> None:
    names = ("first", "second")
    (tmp_path / "second").write_text("x")
    assert locate(tmp_path, names) == tmp_path / "second"
    (tmp_path / "first").write_text("x")
    assert locate(tmp_path, names) == tmp_path / "first"
    assert locate(str(tmp_path / "second"), names) == tmp_path / "second", "a file is taken as it is"
    with pytest.raises(FileNotFoundError, match=r"^Nothing to read at .*: it does not contain a or b"):
        locate(tmp_path, ("a", "b"))


@pytest.mark.parametrize("path", ["nowhere", "a/b.safetensors", "a/stack.json", "a/b/c"])
def test_what_is_not_there_is_not_looked_for_on_the_hub(path: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    message = f"Nothing to read at {path}: give a folder, a file, or the 'user/name' of a repository."
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        locate(path, "x")


REVISIONS = """
from diffusers_esd import Erasure
from diffusers_esd.hub import commit_of
print(Erasure.from_pretrained("someone/no-cat").name)
print(Erasure.from_pretrained("someone/no-cat@v1").name)
print(Erasure.from_pretrained("someone/no-cat", revision="v1").name)
print(commit_of("someone/no-cat"), commit_of("someone/no-cat", revision="v1"))
for ask in (
    lambda: Erasure.from_pretrained("someone/no-cat@v2"),
    lambda: commit_of("someone/no-cat", revision="v2"),
    lambda: commit_of("someone/nothing"),
    lambda: commit_of("nothing"),
):
    try:
        print(ask())
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_revisions(hub: local_hub.Hub, erasure: Erasure, tmp_path: Path) -> None:
    """A tag keeps the erasure of its commit, and a branch has the newest."""
    former = replace(erasure, name="former").save_pretrained(tmp_path / "former")
    folder = erasure.save_pretrained(tmp_path / "no-cat")
    hub.commits[REPO] = 2
    first, second = (f"{i:040x}" for i in (1, 2))
    hub.repositories[REPO] = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.former[REPO] = {first: {path.name: path.read_bytes() for path in former.iterdir()}}
    hub.tags[REPO] = {"v1": first}
    assert client(hub, tmp_path, REVISIONS).splitlines() == [
        "no-a-cat",
        "former",
        "former",
        f"{second} {first}",
        "FileNotFoundError The repository 'someone/no-cat' has no revision 'v2'.",
        "FileNotFoundError The repository 'someone/no-cat' has no revision 'v2'.",
        "FileNotFoundError There is neither a folder nor a repository 'someone/nothing'; a private one needs a token.",
        "ValueError `repo_id` must be 'user/name', got 'nothing'.",
    ]


def test_a_commit_is_not_guessed_without_a_connection(tmp_path: Path) -> None:
    with local_hub.running() as stopped:
        url = stopped.url
    gone = local_hub.Hub()
    gone.url = url
    code = """
from diffusers_esd.hub import commit_of
try:
    commit_of("someone/no-cat")
except ConnectionError as error:
    print(error)
"""
    message = "The Hub cannot be reached, so the commit of 'someone/no-cat' is unknown ("
    assert client(gone, tmp_path, code).startswith(message)


LOCATE = """
from diffusers_esd.hub import locate
print(locate("someone/recipe", ("pytorch_lora_weights.safetensors", "stack.json")).read_text())
try:
    locate("someone/recipe", ("a", "b"))
except FileNotFoundError as error:
    print(error)
"""


def test_the_first_name_that_a_repository_has_is_downloaded(hub: local_hub.Hub, tmp_path: Path) -> None:
    hub.repositories["someone/recipe"] = {"stack.json": b"recipe"}
    message = "The repository 'someone/recipe' does not contain a or b; give another repository or revision."
    assert client(hub, tmp_path, LOCATE).splitlines() == ["recipe", message]
    hub.repositories["someone/recipe"]["pytorch_lora_weights.safetensors"] = b"weights"
    assert client(hub, tmp_path / "new", LOCATE).splitlines() == ["weights", message]


PUBLISH = """
from pathlib import Path
from diffusers_esd.hub import publish
print(publish(Path({folder!r}), "someone/recipe", message="A recipe"))
"""


def test_any_folder_with_a_card_is_published(hub: local_hub.Hub, tmp_path: Path) -> None:
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "stack.json").write_text(json.dumps([]))
    card = recipe_card("someone/recipe", [("me/no-cat", "v1", 0.5)])
    (folder / "README.md").write_text(card)
    client(hub, tmp_path, PUBLISH.format(folder=str(folder)))
    assert hub.repositories["someone/recipe"] == {"stack.json": b"[]", "README.md": card.encode()}


PUSH_PICTURES = """
from diffusers_esd import Erasure
cat, violence = (Erasure.from_pretrained(folder) for folder in {folders!r})
pictures = {{"a street": cat.picture}}
cat.push_to_hub("me/alone")
cat.push_to_hub("me/given", pictures=pictures)
violence.push_to_hub("me/explicit", pictures=pictures)
violence.push_to_hub("me/requested", pictures=pictures, explicit_pictures=True)
"""


def test_pictures_are_published_if_they_are_given_and_explicit_ones_on_request(
    hub: local_hub.Hub, erasure: Erasure, tmp_path: Path
) -> None:
    cat = replace(erasure, picture=Image.new("RGB", (8, 8), "red"))
    violence = with_provenance(cat, concepts=("violence",))
    folders = [str(e.save_pretrained(tmp_path / name)) for name, e in (("cat", cat), ("violence", violence))]
    client(hub, tmp_path, PUSH_PICTURES.format(folders=folders))
    images = {repo: [name for name in files if name.endswith(".png")] for repo, files in hub.repositories.items()}
    assert images == {
        "me/alone": [],
        "me/given": ["images/00.png"],
        "me/explicit": [],
        "me/requested": ["images/00.png"],
    }
