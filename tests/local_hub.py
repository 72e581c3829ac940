"""A hub of our own: the endpoints that `huggingface_hub` uses for small files, over HTTP on loopback."""

from __future__ import annotations

import atexit
import base64
import hashlib
import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

TOKEN = "hf_local"


class Hub:
    """What is stored.

    Attributes:
        repositories: Files by path, by repository.
        private: Repositories that only the token sees.
        gated: Repositories that everyone sees, and whose files only the token gets.
        commits: How many commits each repository has had.
        former: Files by the hash of a commit, by repository; the newest commit is in `repositories`.
        tags: Hash of a commit by tag, by repository.
        fail_next_commit: Break off the next commit, as a lost connection does.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.commits: dict[str, int] = {}
        self.former: dict[str, dict[str, dict[str, bytes]]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.fail_next_commit = False
        self.url = ""


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that answers at `hub.url`."""
    hub = Hub()
    server = ThreadingHTTPServer(_address().getsockname(), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = _url()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def client(hub: Hub, home: Path, code: str, token: str | None = TOKEN) -> str:
    """Run code in a process whose hub is ours. It is forked from one that has imported everything.

    Args:
        hub: The hub; of all hubs of a process, one runs at a time.
        home: The folder of the client's cache.
        code: Python code.
        token: The token of the client, or `None`.

    Returns:
        What the code printed.
    """
    assert hub.url == _url(), "the client reads the address of its hub when it is imported"
    parent, link = _parent()
    home.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(home)
    assert parent.stdin is not None
    assert parent.stdout is not None
    parent.stdin.write(json.dumps({"code": code, "token": token}) + "\n")
    parent.stdin.flush()
    done = json.loads(parent.stdout.readline())
    assert done["status"] == 0, done["errors"][-2000:]
    return done["output"]


def new_client(hub: Hub, home: Path, code: str, token: str | None = TOKEN) -> str:
    """The same in a new process, which imports what it needs: for code that changes the environment first."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=_environment(hub.url, home, token), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def _environment(url: str, home: Path, token: str | None = None) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0"}
    return environment if token is None else {**environment, "HF_TOKEN": token}


@cache
def _address() -> socket.socket:
    """A port of this process. It is bound and nobody listens, until a hub does."""
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


def _url() -> str:
    return f"http://127.0.0.1:{_address().getsockname()[1]}"


@cache
def _parent() -> tuple[subprocess.Popen[str], Path]:
    """The process from which clients are forked, and the link that is their home. It ends when this process does."""
    link = Path(tempfile.mkdtemp()) / "home"
    atexit.register(shutil.rmtree, link.parent)
    command = [sys.executable, "-c", "import local_hub; local_hub.serve()"]
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=_environment(_url(), link), **options), link


def serve() -> None:
    """What the parent of clients does."""
    for name in ("diffusers", "peft", "tiny", "diffusers_esd.cli.erase", "diffusers_esd.cli.model"):
        importlib.import_module(name)
    for line in sys.stdin:
        asked = json.loads(line)
        with tempfile.TemporaryDirectory() as folder:
            files = {name: Path(folder, name) for name in ("output", "errors")}
            child = os.fork()
            if not child:
                _run(files, **asked)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            print(json.dumps({"status": status, **{k: p.read_text() for k, p in files.items()}}), flush=True)


def _run(files: dict[str, Path], code: str, token: str | None) -> None:
    """Run code as Python runs a script, and end the process."""
    status = 1
    try:
        for number, file in enumerate(files.values(), start=1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
        if token is not None:
            os.environ["HF_TOKEN"] = token
        try:
            exec(compile(code, "client", "exec"), {"__name__": "__main__"})
            status = 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Silence."""

    def _answer(self, status: int, body: Any = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _visible(self, repo: str) -> bool:
        return repo in self.hub.repositories and (repo not in self.hub.private or self._has_token())

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _head(self, repo: str) -> str:
        return f"{self.hub.commits.get(repo, 0):040x}"

    def _at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Hash and files of a branch, a tag or a commit; `None` if it does not exist."""
        commit = self.hub.tags.get(repo, {}).get(revision, revision)
        if commit in ("main", self._head(repo)):
            return self._head(repo), self.hub.repositories[repo]
        files = self.hub.former.get(repo, {}).get(commit)
        return None if files is None else (commit, files)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlparse(self.path).path
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/([^/]+))?", path):
            repo = match[1]
            if not self._visible(repo):
                return self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            if (at := self._at(repo, match[2] or "main")) is None:
                return self._answer(404, {"error": "Revision not found"}, X_Error_Code="RevisionNotFound")
            siblings = [{"rfilename": name} for name in at[1]]
            return self._answer(200, {"id": repo, "modelId": repo, "sha": at[0], "siblings": siblings})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            files = self.hub.repositories[found[1]] if self._visible(found[1]) else {}
            listed = [{"type": "file", "path": p, "oid": "0" * 40, "size": len(c)} for p, c in files.items()]
            return self._answer(200, listed)
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not found or not self._visible(found[1]):
            return self._answer(404, b"", X_Error_Code="RepoNotFound")
        if found[1] in self.hub.gated and not self._has_token():
            return self._answer(401, b"", X_Error_Code="GatedRepo")
        if (at := self._at(found[1], found[2])) is None:
            return self._answer(404, b"", X_Error_Code="RevisionNotFound")
        commit, files = at
        if found[3] not in files:
            return self._answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        content = files[found[3]]
        return self._answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=commit)

    def do_POST(self) -> None:
        path, body = urlparse(self.path).path, self._body()
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if not self._has_token():
            return self._answer(401, {"error": "Invalid credentials"})
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
            answer = {"url": f"{self.hub.url}/{repo}", "name": repo, "id": repo}
            if repo in self.hub.repositories:
                return self._answer(409, {**answer, "error": "You already created this model repo"})
            self.hub.repositories[repo] = {}
            if asked.get("private") or asked.get("visibility") == "private":
                self.hub.private.add(repo)
            return self._answer(200, answer)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/[^/]+", path):
            files = self.hub.repositories[found[1]]
            answers = []
            for file in json.loads(body)["files"]:
                there = files.get(file["path"])
                oid = None if there is None else hashlib.sha1(b"blob %d\0" % len(there) + there).hexdigest()
                answers.append({"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": oid})
            return self._answer(200, {"files": answers})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/[^/]+", path):
            if self.hub.fail_next_commit:
                self.hub.fail_next_commit = False
                return self._answer(400, {"error": "connection lost"})
            repo = found[1]
            self.hub.former.setdefault(repo, {})[self._head(repo)] = dict(self.hub.repositories[repo])
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.hub.repositories[repo][entry["value"]["path"]] = content
                elif entry["key"] == "deletedFile":
                    del self.hub.repositories[repo][entry["value"]["path"]]
            self.hub.commits[repo] = self.hub.commits.get(repo, 0) + 1
            head = self._head(repo)
            return self._answer(200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{head}", "commitOid": head})
        return self._answer(404, {"error": path})
