"""What the Hub's errors mean. `test_hub` and `cli/test_model` meet them on a hub of our own."""

from __future__ import annotations

from importlib import import_module

import pytest
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from diffusers_esd.hub_errors import clear_errors

HTTP = import_module(HTTPError.__module__.partition(".")[0])  # httpx, or in later versions httpx2
MISSING = RepositoryNotFoundError("404", response=HTTP.Response(404, request=HTTP.Request("GET", "http://hub")))


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (
            MISSING,
            FileNotFoundError,
            r"^There is neither a folder nor a repository 'me/model'; a private one needs a t",
        ),
        (OfflineModeIsEnabled("offline"), ConnectionError, r"^The Hub cannot be reached, and 'me/model' is not stored"),
        (
            HTTP.ConnectTimeout("late"),
            ConnectionError,
            r"^The Hub cannot be reached, and .* on this computer \(late\).$",
        ),
    ],
)
def test_what_diffusers_hides_is_found(answer: Exception, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message), clear_errors("me/model"):
        raise answer
    with pytest.raises(kind, match=message), clear_errors("me/model"):
        raise OSError("Please check out the root cause in the stacktrace above.") from answer


@pytest.mark.parametrize("error", [OSError("disk full"), ConnectionError("explained"), ValueError("other")])
def test_other_errors_stay(error: Exception) -> None:
    error.__cause__ = HTTP.ConnectError("gone") if isinstance(error, ConnectionError) else None
    with pytest.raises(type(error)) as caught, clear_errors("me/model"):
        raise error
    assert caught.value is error
