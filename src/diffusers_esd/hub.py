"""The Hugging Face Hub: the card of an erasure, upload and download."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData, create_repo, hf_hub_download, upload_folder
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

TAGS = ("diffusers", "lora", "concept-erasure", "esd", "text-to-image")
_BEGIN, _END = "<!-- diffusers-esd: begin -->", "<!-- diffusers-esd: end -->"
_PAPER = "[Erasing Concepts from Diffusion Models](https://arxiv.org/abs/2303.07345)"
_USE = """
## Use it

```python
from diffusers import DiffusionPipeline

pipe = {pipeline}
pipe.load_lora_weights("{repo_id}", adapter_name="{name}")
```

Beside others, each with a scale (1 is the erasure as trained, 0 the base model):

```python
from diffusers_esd import stack

stack(pipe, {{"{repo_id}": 1.0}})
```
"""
_LIMITS = """## Limits

- A LoRA can be detached: it serves those who want the erasure, and does not hold against those who do not.
  `diffusers_esd.bake` writes it into the weights.
- A negative scale turns the erasure into its inverse, which amplifies the concept.
- Erasure is seldom complete. Other words, other languages and attacks may bring a concept back.
- What lies near the concept may have changed. Compare with the base model.
- The licence of the base model goes for what is made of it."""
_HOW = {
    "trained": "It was trained with diffusers-esd, after",
    "merged": "It was merged from several erasures with diffusers-esd, which implements",
    "imported": "It was trained with another tool and imported with diffusers-esd, which implements",
}
_PRESERVED = {"prompts": "prompts", "moments": "of them for the null space", "loss": "of them in the loss"}
_OURS = ("base_model", "base_model_relation", "widget")
_BARS = "▁▂▃▄▅▆▇█"
_EXPLICIT = re.compile(
    r"(?<![a-z])(nud\w*|naked|nsfw|porn\w*|sex\w*|erotic\w*|genital\w*|gore\w*|blood\w*|violen\w*|suicid\w*)(?![a-z])"
)


def is_repo_id(text: str) -> bool:
    """Whether a text can be the id of a repository, `user/name`."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return text.count("/") == 1


def check_repo_id(repo_id: str) -> None:
    """Refuse what cannot be the id of a repository.

    Raises:
        ValueError: If it is not `user/name`.
    """
    if not is_repo_id(repo_id):
        raise ValueError(f"`repo_id` must be 'user/name', got {repo_id!r}.")


def is_explicit(concepts: Sequence[str]) -> bool:
    """Whether a concept is of a kind whose pictures are not shown unasked."""
    return any(_EXPLICIT.search(concept.lower()) for concept in concepts)


def split_revision(text: str) -> tuple[str, str | None]:
    """The id of a repository and the revision behind it: `user/name@revision`.

    Args:
        text: A path or the id of a repository, with or without a revision.

    Returns:
        The id and the revision, or the text and `None` if it is not an id with a revision.

    Raises:
        ValueError: If the revision is empty.
    """
    repo_id, at, revision = text.partition("@")
    if not at or not is_repo_id(repo_id):
        return text, None
    if not revision:
        raise ValueError(f"The revision in {text!r} is empty; give a branch, a tag or a commit, or leave out the '@'.")
    return repo_id, revision


def locate(
    path: str | os.PathLike[str],
    filenames: str | Sequence[str],
    *,
    token: str | bool | None = None,
    revision: str | None = None,
) -> Path:
    """The file of an erasure or a recipe: a local one, or one of a repository, which is downloaded.

    Args:
        path: A file, a folder, or the id of a repository, `user/name` or `user/name@revision`.
        filenames: The file's name in a folder or a repository; or several names, of which the first that exists counts.
        token: For a private repository; `None` means the one that `hf auth login` stored.
        revision: Branch, tag or commit of the repository.

    Raises:
        FileNotFoundError: If the file, the folder or the repository does not exist.
        ValueError: If a revision is given twice, or is empty.
    """
    names = (filenames,) if isinstance(filenames, str) else tuple(filenames)
    file = Path(path)
    if file.is_file():
        return file
    if file.is_dir():
        return _in_folder(file, names)
    repo_id, inline = split_revision(os.fspath(path))
    if inline is not None and revision is not None:
        raise ValueError(f"{os.fspath(path)!r} has a revision, and `revision` is {revision!r}; give one of them.")
    if file.suffix in (".safetensors", ".json") or not is_repo_id(repo_id):
        raise FileNotFoundError(f"No erasure at {path}: give its folder, its file, or the 'user/name' of a repository.")
    return download(repo_id, names, token=token, revision=inline if revision is None else revision)


def _in_folder(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    contents = sorted(path.name for path in folder.iterdir())
    shown = ", ".join(contents[:5]) + (", ..." if len(contents) > 5 else "")
    raise FileNotFoundError(
        f"No erasure at {folder}: this folder does not contain {' or '.join(names)}. It contains {shown or 'no files'}."
    )


def download(
    repo_id: str, filenames: Sequence[str], *, token: str | bool | None = None, revision: str | None = None
) -> Path:
    """A file of a repository: the first of several names that exists.

    Args:
        repo_id: `user/name`.
        filenames: The names, in order of preference.
        token: For a private repository; `None` means the one that `hf auth login` stored.
        revision: Branch, tag or commit.

    Raises:
        FileNotFoundError: If there is no such repository for this token, no such revision, or no such file in it.
    """
    missing: EntryNotFoundError | None = None
    with _clear_errors(repo_id, revision):
        for name in filenames:
            try:
                return Path(hf_hub_download(repo_id, name, token=token, revision=revision))
            except EntryNotFoundError as error:
                # Without a connection a name that is not cached may exist, and the next may be cached.
                missing = error if missing is None or isinstance(error, LocalEntryNotFoundError) else missing
        if isinstance(missing, LocalEntryNotFoundError):
            raise FileNotFoundError(f"There is no folder {repo_id!r}, and the Hub cannot be reached.") from missing
    raise FileNotFoundError(
        f"The repository {repo_id!r} does not contain {' or '.join(filenames)}: it is not an erasure."
    ) from missing


def commit_of(repo_id: str, *, token: str | bool | None = None, revision: str | None = None) -> str:
    """The commit that a branch or a tag of a repository has now.

    Args:
        repo_id: `user/name`.
        token: For a private repository; `None` means the one that `hf auth login` stored.
        revision: Branch, tag or commit; `None` means the main branch.

    Returns:
        The commit's hash, 40 hexadecimal digits.

    Raises:
        ValueError: If `repo_id` cannot be the id of a repository.
        FileNotFoundError: If there is no such repository for this token, or no such revision.
        ConnectionError: If the Hub cannot be reached.
    """
    check_repo_id(repo_id)
    with _clear_errors(repo_id, revision):
        try:
            return str(HfApi().model_info(repo_id, token=token, revision=revision).sha)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            raise
        # Connection errors are those of the HTTP library, which differs between versions of huggingface_hub.
        except Exception as error:
            raise ConnectionError(
                f"The Hub cannot be reached, so the commit of {repo_id!r} is unknown ({error})."
            ) from error


@contextmanager
def _clear_errors(repo_id: str, revision: str | None) -> Iterator[None]:
    """Say what is wrong with a repository, and what to do."""
    try:
        yield
    except GatedRepoError as error:
        raise FileNotFoundError(f"{repo_id!r} is gated: ask for access on its page, and log in.") from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"There is neither a folder nor a repository {repo_id!r}; a private one needs a token."
        ) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(f"The repository {repo_id!r} has no revision {revision!r}.") from error


def publish(folder: Path, repo_id: str, *, private: bool | None, token: str | bool | None, message: str) -> str:
    """Create the repository if need be and upload a folder in one commit, on top of the card that is there.

    Returns:
        The commit's address.

    Raises:
        ConnectionError: If the Hub cannot be reached.
    """
    card = folder / "README.md"
    published = _published_card(repo_id, token)
    create_repo(repo_id, private=private, token=token, exist_ok=True)
    if published is not None:
        card.write_text(update_card(published, card.read_text(encoding="utf-8")), encoding="utf-8")
    ModelCard.load(card).validate(repo_type="model")
    return str(
        upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            token=token,
            commit_message=message,
            delete_patterns=["images/*", "*.kohya.safetensors"],
        )
    )


def _published_card(repo_id: str, token: str | bool | None) -> str | None:
    """The card that a repository has now, past every cache; `None` if there is no card or no repository."""
    try:
        return Path(hf_hub_download(repo_id, "README.md", token=token, force_download=True)).read_text(encoding="utf-8")
    except (LocalEntryNotFoundError, ValueError) as error:  # the latter is raised from another error
        cause = error.__cause__
        if isinstance(cause, RepositoryNotFoundError) and not isinstance(cause, GatedRepoError):
            return None
        raise ConnectionError(
            f"The Hub cannot be reached, and nothing was published at {repo_id!r} ({cause})."
        ) from error
    except EntryNotFoundError:
        return None


def update_card(published: str, new: str) -> str:
    """A card with our part and our metadata replaced, and all that others wrote in it kept."""
    old_card, new_card = ModelCard(published), ModelCard(new)
    old, ours_data = (dict(card.data.to_dict()) for card in (old_card, new_card))  # type: ignore[no-untyped-call]
    old = {key: value for key, value in old.items() if key not in _OURS}
    data = {**old, **ours_data, "tags": list(dict.fromkeys([*old.get("tags", []), *ours_data["tags"]]))}
    ours = new_card.text[new_card.text.index(_BEGIN) : new_card.text.index(_END) + len(_END)]
    text = old_card.text
    if _BEGIN in text and _END in text:
        text = text[: text.index(_BEGIN)] + ours + text[text.index(_END) + len(_END) :]
    else:
        text = text.rstrip() + "\n\n" + ours + "\n"
    return _document(data, text)


def card(
    values: Mapping[str, Any],
    repo_id: str,
    *,
    kohya: str | None,
    pictures: Mapping[str, str],
    evaluation: str | None = None,
) -> str:
    """The card of an erasure.

    Args:
        values: `Erasure.to_dict()`.
        repo_id: The repository.
        kohya: Name of kohya's file, if there is one.
        pictures: File names by prompt.
        evaluation: A table in Markdown of what is gone and what stayed.
    """
    provenance, name = values["provenance"], values["name"]
    concepts = ", ".join(f"“{concept}”" for concept in provenance["concepts"])
    base = provenance["base_model"]
    data = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": list(TAGS),
        **({"base_model": base, "base_model_relation": "adapter"} if is_repo_id(base) else {}),
        **({"widget": [{"text": t, "output": {"url": url}} for t, url in pictures.items()]} if pictures else {}),
    }
    pipeline = f'DiffusionPipeline.from_pretrained("{base}")' if is_repo_id(base) else "...  # the base model"
    tools = f"For ComfyUI, Forge or A1111 put `{kohya}` among the LoRAs and load it at strength 1."
    how = _HOW[provenance["origin"]]
    lines = [
        _BEGIN,
        f"This adapter erases {concepts} from {base}. {how} {_PAPER}.",
        "\n| | |\n|---|---|",
        *[f"| {key} | {value} |" for key, value in _table(values).items()],
        *(["\n<Gallery />"] if pictures else []),
        *([f"\n## What is gone and what stayed\n\n{evaluation}"] if evaluation else []),
        _USE.format(pipeline=pipeline, repo_id=repo_id, name=name),
        *([tools, ""] if kohya else []),
        _LIMITS,
        _END,
    ]
    return _document(data, f"\n# {name}\n\n" + "\n".join(lines) + "\n")


def _table(values: Mapping[str, Any]) -> dict[str, str]:
    """The card's table: only what is true of this erasure."""
    config, provenance = values["config"], values["provenance"]
    table = {"concept": ", ".join(provenance["concepts"]), "base model": provenance["base_model"]}
    table |= {} if config is None else {"group": _group(config)}
    table["layers"] = f"{provenance['layers']}, rank {values['rank']}"
    if provenance["left_out"]:
        table["layers left out"] = "; ".join(
            f"{len(names)}: {reason}" for reason, names in provenance["left_out"].items()
        )
    table |= {} if config is None else _training(config, provenance)
    if provenance["origin"] == "merged":
        table["merged from"] = ", ".join(f"{part} x {scale:g}" for part, scale in provenance["parts"])
    if provenance["origin"] == "imported":
        table["imported from"] = ", ".join(f"`{part}`" for part, _ in provenance["parts"])
    if provenance["rank_error"]:
        table["error of the rank"] = f"{provenance['rank_error']:.1%}"
    return {key: value.replace("|", "\\|").replace("\n", " ") for key, value in table.items()}


def _group(config: Mapping[str, Any]) -> str:
    """The group, and what it comes to: the null space leaves queries and outputs alone."""
    if config["group"] != "esd-x":
        return f"`{config['group']}`"
    is_confined = config["null_space"] and len(config["preserve"]) > 0
    return "`esd-x`: the cross-attentions' " + ("keys and values" if is_confined else "queries, keys, values, outputs")


def _training(config: Mapping[str, Any], provenance: Mapping[str, Any]) -> dict[str, str]:
    """What was trained, and what it came to."""
    kept = "the text encoder's vocabulary" if config["preserve"] == "vocabulary" else ", ".join(config["preserve"])
    used = ", ".join(
        f"{provenance['preserved'][key]} {words}"
        for key, words in _PRESERVED.items()
        if provenance["preserved"].get(key)
    )
    table = {
        "strength": f"`eta={config['eta']:g}`",
        "preserved": (kept or "nothing") + (f" ({used})" if used else ""),
        "training": f"{provenance['iterations']} iterations of {config['batch_size']}, {provenance['seconds']:.0f} s, "
        f"learning rate {config['learning_rate']:g}" + ("" if provenance["complete"] else "; interrupted"),
    }
    if provenance["active"]:
        table["trained on top of"] = ", ".join(f"{name} x {scale:g}" for name, scale in provenance["active"].items())
    if provenance["beside"]:
        table["switched off while training"] = ", ".join(provenance["beside"])
    if provenance["alignment"] is not None:
        single = f"{provenance['alignment']:.2f} (1 intact, 0 as without the words, {-config['eta']:g} target)"
        drawn = {concept: value for concept, value in provenance["alignments"].items() if value is not None}
        several = ", ".join(f"{concept} {value:.2f}" for concept, value in drawn.items())
        table["alignment"] = single + (f"; {several}" if len(provenance["alignments"]) > 1 else "")
        table["alignment over training"] = f"`{curve([aligned for _, aligned in provenance['history']])}`"
    return table


def baked_card(base: str, erased: Sequence[Mapping[str, Any]]) -> str:
    """The card of a pipeline with erasures in its weights.

    Args:
        base: Name of the pipeline's model.
        erased: Concepts, name and scale of each erasure.
    """
    data = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": [tag for tag in TAGS if tag != "lora"],
        **({"base_model": base, "base_model_relation": "finetune"} if is_repo_id(base) else {}),
    }
    rows = [f"| {', '.join(part['concepts'])} | {part['name']} | {part['scale']:g} |" for part in erased]
    lines = [
        f"{base} with concepts erased from its weights by diffusers-esd, after {_PAPER}.",
        "",
        "| concept | erasure | scale |",
        "|---|---|---|",
        *rows,
        "",
        "Erasure is seldom complete, and what lies near a concept may have changed. The licence of the base model goes "
        "for this one.",
    ]
    return _document(data, "\n" + "\n".join(lines) + "\n")


def curve(values: Sequence[float], width: int = 32) -> str:
    """A course of numbers as a line of bars, each the mean of its share."""
    if not values:
        return ""
    width = min(width, len(values))
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    return "".join(_BARS[round((m - low) / ((high - low) or 1) * (len(_BARS) - 1))] for m in means)


def _document(data: Mapping[str, Any], text: str) -> str:
    return f"---\n{ModelCardData(**data).to_yaml()}\n---\n{text}"
