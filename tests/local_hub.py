"""A hub of our own: the endpoints that `huggingface_hub` uses for small files, over HTTP on loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlparse

TOKEN = "hf_local"


class Hub:
    """What is stored.

    Attributes:
        repositories: Files by path, by repository.
        private: Repositories that only the token sees.
        commits: How many commits each repository has had.
        fail_next_commit: Break off the next commit, as a lost connection does.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.commits: dict[str, int] = {}
        self.fail_next_commit = False
        self.url = ""


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that answers at `hub.url`."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


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
        allowed = repo not in self.hub.private or self.headers.get("Authorization") == f"Bearer {TOKEN}"
        return repo in self.hub.repositories and allowed

    def _head(self, repo: str) -> str:
        return f"{self.hub.commits.get(repo, 0):040x}"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlparse(self.path).path
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?", path):
            repo = found[1]
            if not self._visible(repo):
                return self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            siblings = [{"rfilename": name} for name in self.hub.repositories[repo]]
            return self._answer(200, {"id": repo, "modelId": repo, "sha": self._head(repo), "siblings": siblings})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            files = self.hub.repositories[found[1]] if self._visible(found[1]) else {}
            listed = [{"type": "file", "path": p, "oid": "0" * 40, "size": len(c)} for p, c in files.items()]
            return self._answer(200, listed)
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not found or not self._visible(found[1]):
            return self._answer(404, b"", X_Error_Code="RepoNotFound")
        content = self.hub.repositories[found[1]].get(found[3])
        if content is None:
            return self._answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=self._head(found[1]))
        digest = hashlib.sha1(content).hexdigest()
        return self._answer(200, content, ETag=f'"{digest}"', X_Repo_Commit=self._head(found[1]))

    def do_POST(self) -> None:
        path, body = urlparse(self.path).path, self._body()
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
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
