"""What an error of the Hugging Face Hub means for the user: a missing repository, a gated one, no connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError, of the HTTP library
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


@contextmanager
def clear_errors(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Say what is wrong with a repository, and what to do. Errors of another kind are raised as they are.

    Args:
        repo_id: `user/name`.
        revision: Branch, tag or commit.

    Raises:
        FileNotFoundError: If there is no such repository for this token, or no such revision.
        ConnectionError: If the Hub cannot be reached.
    """
    try:
        yield
    except (OSError, HTTPError) as error:
        explained = _explained(_answer(error), repo_id, revision)
        if explained is None:
            raise
        raise explained from error


def _answer(error: Exception) -> BaseException:
    """What the Hub answered: diffusers hides it behind an error that refers to a traceback."""
    is_plain = not isinstance(error, ConnectionError | HTTPError)
    return error.__cause__ if is_plain and error.__cause__ is not None else error


def _explained(error: BaseException, repo_id: str, revision: str | None) -> OSError | None:
    if isinstance(error, GatedRepoError):
        return FileNotFoundError(f"{repo_id!r} is gated: ask for access on its page, then log in with `hf auth login`.")
    if isinstance(error, RepositoryNotFoundError):
        return FileNotFoundError(
            f"There is neither a folder nor a repository {repo_id!r}; a private one needs a token."
        )
    if isinstance(error, RevisionNotFoundError):
        return FileNotFoundError(f"The repository {repo_id!r} has no revision {revision!r}.")
    # What the HTTP library raises by itself is about the connection. The library differs between versions.
    if isinstance(error, OfflineModeIsEnabled | HTTPError) and not isinstance(error, HfHubHTTPError):
        return ConnectionError(f"The Hub cannot be reached, and {repo_id!r} is not stored on this computer ({error}).")
    return None
