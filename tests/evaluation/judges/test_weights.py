"""Weights: where they are looked for, in which order, and what happens if they are nowhere."""

from __future__ import annotations

import hashlib
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from controls import must_fail

from diffusers_esd.evaluation.judges.weights import (
    FOLDER,
    MissingWeightsError,
    Weights,
    load_tensors,
    sha256,
    sha256_of_tensors,
)

CONTENT = b"weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def weights(url: str = "", digest: str = DIGEST[:8]) -> Weights:
    return Weights(
        file="net.pth", publisher="the net project", licence="MIT", sha256=digest, url=url, argument="weights"
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of PyTorch's hub, empty; no folder of weights is set, and the network must not be asked."""

    def refuse(url: str, **options: object) -> None:
        raise AssertionError(f"asked for {url}")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return tmp_path / "torch" / "hub" / "checkpoints"


def write(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_path_is_before_the_folder_and_the_folder_before_the_cache(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_cache = write(cache / "net.pth")
    assert weights().find() == in_cache
    monkeypatch.setenv(FOLDER, str(tmp_path / "own"))
    assert weights().find() == in_cache, "the folder has no such file"
    in_folder = write(tmp_path / "own" / "net.pth")
    assert weights().find() == in_folder
    passed = write(tmp_path / "else" / "other.pth", b"other")
    assert weights().find(passed) == weights().find(str(passed)) == passed


def test_missing_weights_name_all_that_is_needed_to_get_them(cache: Path) -> None:
    with pytest.raises(MissingWeightsError) as caught:
        weights(url="https://example.org/net.pth").find()
    assert str(caught.value) == (
        f"The weights net.pth are not in {cache}. Get net.pth from the net project (https://example.org/net.pth), "
        f"licence: MIT, SHA-256 {DIGEST[:8]}...; then pass its path as `weights`, or put it into the folder that the "
        "environment variable DIFFUSERS_ESD_WEIGHTS names; or pass `allow_download=True`."
    )
    assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(MissingWeightsError, match=r"^`weights`: there is no file nowhere\.pth\. Get net\.pth from "):
        weights().find("nowhere.pth", allow_download=True)


def test_a_download_is_kept_and_not_repeated(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = write(tmp_path / "server" / "net.pth").as_uri()
    with pytest.raises(AssertionError, match="asked for"):
        weights(url).find(allow_download=True)
    monkeypatch.undo()
    monkeypatch.setenv(FOLDER, str(tmp_path / "own"))
    assert weights(url).find(allow_download=True) == tmp_path / "own" / "net.pth"
    assert (tmp_path / "own" / "net.pth").read_bytes() == CONTENT
    assert weights().find() == tmp_path / "own" / "net.pth"


@pytest.mark.parametrize(
    ("served", "reason"),
    [(b"damaged", rf"its SHA-256 is [0-9a-f]{{64}}, and must begin with {DIGEST[:8]}"), (None, "No such file")],
    ids=["damaged", "not there"],
)
def test_what_does_not_arrive_leaves_nothing(
    served: bytes | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path / "own"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    server = tmp_path / "server" / "net.pth"
    if served is not None:
        write(server, served)
    with pytest.raises(
        MissingWeightsError, match=rf"^The weights net\.pth were not downloaded: .*{reason}.* Get net\.pth"
    ):
        weights(server.as_uri()).find(allow_download=True)
    assert not list((tmp_path / "own").glob("*"))


class Broken(BaseHTTPRequestHandler):
    """Promises 100 bytes, in one part or in chunks, and ends the connection after a few."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        chunked = self.path.startswith("/chunked")
        self.send_response(200)
        self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "100")))
        self.end_headers()
        self.wfile.write(b"64\r\n" * chunked + CONTENT)
        self.close_connection = True

    def log_message(self, format: str, *values: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def broken() -> Iterator[str]:
    """The address of a server whose connections break."""
    with HTTPServer(("127.0.0.1", 0), Broken) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("page", "reason"),
    [("whole", "the connection ended after 7 of 100 bytes"), ("chunked", r"IncompleteRead\(")],
)
def test_a_connection_that_breaks_is_missing_weights(
    broken: str, page: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    with pytest.raises(MissingWeightsError, match=rf"^The weights net\.pth were not downloaded: {reason}"):
        weights(f"{broken}/{page}", digest="").find(allow_download=True)
    assert not list(tmp_path.glob("*"))


def test_what_has_no_address_cannot_be_downloaded(cache: Path) -> None:
    with pytest.raises(
        MissingWeightsError, match=r"^The weights net\.pth cannot be downloaded from here\. Get "
    ) as caught:
        weights().find(allow_download=True)
    assert "allow_download" not in str(caught.value)


def test_a_file_is_the_publishers_if_its_digest_is(tmp_path: Path) -> None:
    own, other = write(tmp_path / "a.pth"), write(tmp_path / "b.pth", b"other")
    assert sha256(own) == DIGEST
    assert weights().is_own(own)
    assert not weights().is_own(other)
    assert not weights(digest="").is_own(own), "nothing is known"
    assert weights().record(own) == {"file": "a.pth", "sha256": DIGEST}


def test_the_digest_of_tensors_is_that_of_their_contents() -> None:
    one = {"a": torch.ones(2, 3), "b": torch.tensor(1.0)}
    assert sha256_of_tensors(one) == sha256_of_tensors({"b": one["b"], "a": one["a"].T.clone().T})
    for name, changed in (("a", torch.zeros(2, 3)), ("a", torch.ones(3, 2)), ("a", torch.ones(2, 3).int())):
        assert sha256_of_tensors({**one, name: changed}) != sha256_of_tensors(one)
    assert sha256_of_tensors({"a": one["a"], "c": one["b"]}) != sha256_of_tensors(one)


class Harmful:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def test_only_tensors_are_read(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(2)}, tmp_path / "good.pth")
    assert torch.equal(load_tensors(tmp_path / "good.pth")["x"], torch.ones(2))
    torch.save(Harmful(tmp_path / "ran"), tmp_path / "bad.pth")
    for content in ((tmp_path / "bad.pth").read_bytes(), b"", b"text", (tmp_path / "good.pth").read_bytes()[:200]):
        file = write(tmp_path / "file.pth", content)
        with pytest.raises(ValueError, match=r"file\.pth is damaged, or is not a file of tensors "):
            load_tensors(file)
    assert not (tmp_path / "ran").exists()
    with must_fail("pickle itself runs the code"):
        torch.load(tmp_path / "bad.pth", weights_only=False)
        assert not (tmp_path / "ran").exists()
