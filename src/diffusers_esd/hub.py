"""The Hugging Face Hub: where a source is located, downloads, uploads, revisions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, create_repo, file_exists, hf_hub_download, upload_folder
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .card import is_repo_id as is_repo_id
from .card import update_card
from .hub_errors import clear_errors


def check_repo_id(repo_id: str) -> None:
    """Refuse what cannot be the id of a repository.

    Raises:
        ValueError: If it is not `user/name`.
    """
    if not is_repo_id(repo_id):
        raise ValueError(f"`repo_id` must be 'user/name', got {repo_id!r}.")


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
        ValueError: If a revision is given twice, is empty, or is given for a local path.
    """
    names = (filenames,) if isinstance(filenames, str) else tuple(filenames)
    file = Path(path)
    if file.exists() and revision is not None:
        raise ValueError(f"`revision` is for a repository on the Hub, got {revision!r} for the local path {path}.")
    if file.is_file():
        return file
    if file.is_dir():
        return _in_folder(file, names)
    repo_id, inline = split_revision(os.fspath(path))
    if inline is not None and revision is not None:
        raise ValueError(f"{os.fspath(path)!r} has a revision, and `revision` is {revision!r}; give one of them.")
    if file.suffix in (".safetensors", ".json") or not is_repo_id(repo_id):
        raise FileNotFoundError(
            f"Nothing to read at {path}: give a folder, a file, or the 'user/name' of a repository."
        )
    return download(repo_id, names, token=token, revision=inline if revision is None else revision)


def _in_folder(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    contents = sorted(path.name for path in folder.iterdir())
    shown = ", ".join(contents[:5]) + (", ..." if len(contents) > 5 else "")
    raise FileNotFoundError(
        f"Nothing to read at {folder}: it does not contain {' or '.join(names)}; it contains {shown or 'no files'}."
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
    with clear_errors(repo_id, revision):
        for name in filenames:
            try:
                return Path(hf_hub_download(repo_id, name, token=token, revision=revision))
            except EntryNotFoundError as error:
                # Without a connection a name that is not cached may exist, and the next may be cached.
                missing = error if missing is None or isinstance(error, LocalEntryNotFoundError) else missing
        if isinstance(missing, LocalEntryNotFoundError):
            raise FileNotFoundError(f"There is no folder {repo_id!r}, and the Hub cannot be reached.") from missing
    raise FileNotFoundError(
        f"The repository {repo_id!r} does not contain {' or '.join(filenames)}; give another repository or revision."
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
    with clear_errors(repo_id, revision):
        try:
            return str(HfApi().model_info(repo_id, token=token, revision=revision).sha)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            raise
        # Connection errors are those of the HTTP library, which differs between versions of huggingface_hub.
        except Exception as error:
            raise ConnectionError(
                f"The Hub cannot be reached, so the commit of {repo_id!r} is unknown ({error})."
            ) from error


def contains(repo_id: str, filename: str, *, token: str | bool | None = None) -> bool:
    """Whether a repository exists for this token and contains a file.

    Raises:
        ConnectionError: If the Hub cannot be reached.
    """
    try:
        return file_exists(repo_id, filename, token=token)
    # Connection errors are those of the HTTP library, which differs between versions of huggingface_hub.
    except Exception as error:
        raise ConnectionError(f"The Hub cannot be reached; nothing was published at {repo_id!r} ({error}).") from error


def publish(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    message: str,
) -> str:
    """Upload a folder in one commit. The repository is created if it does not exist.

    Images, reports and files in kohya's names that an earlier upload left behind are deleted.

    Args:
        folder: The files, with a card, `README.md`. If the repository has a card, ours replaces only our part of it,
            see `update_card`.
        repo_id: `user/name`.
        private: Whether a new repository is private; `None` means the account's default.
        token: Of the account; `None` means the one that `hf auth login` stored.
        message: Of the commit.

    Returns:
        The address of the commit.

    Raises:
        ValueError: If `repo_id` cannot be the id of a repository.
        ConnectionError: If the Hub cannot be reached.
    """
    check_repo_id(repo_id)
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
            delete_patterns=["images/*", "*.kohya.safetensors", "report.*"],
        )
    )


def _published_card(repo_id: str, token: str | bool | None) -> str | None:
    """The card that a repository has now, never from a cache; `None` if the card or the repository does not exist."""
    try:
        return Path(hf_hub_download(repo_id, "README.md", token=token, force_download=True)).read_text(encoding="utf-8")
    # With force_download, huggingface_hub raises a ValueError from the error that it met.
    except (LocalEntryNotFoundError, ValueError) as error:
        cause = error.__cause__
        if isinstance(cause, RepositoryNotFoundError) and not isinstance(cause, GatedRepoError):
            return None
        raise ConnectionError(f"The Hub cannot be reached; nothing was published at {repo_id!r} ({cause}).") from error
    except EntryNotFoundError:
        return None
