"""A Hugging Face Hub on the loopback: enough of it to load models by id and to push them.

A repository is a folder; any change to it makes a new commit id, and only the newest commit is kept.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from processes import PATIENCE

ROOT = Path(__file__).parents[1]
INFO = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")
TREE = re.compile(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)")
RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
PREUPLOAD = re.compile(r"/api/models/([^/]+/[^/]+)/preupload/main")
COMMIT = re.compile(r"/api/models/([^/]+/[^/]+)/commit/main")
TOKEN = "hf_fake"


def git_id(content: bytes) -> str:
    """Git's id of a file, which the Hub gives as ETag."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class FakeHub:
    """Repositories are the folders owner/name below `root`.

    Attributes:
        url: Value for HF_ENDPOINT.
        root: Where the repositories lie.
        log: Requests so far, as "GET /api/models/owner/name"; from all clients.
    """

    def __init__(self, root: Path, url: str) -> None:
        self.root, self.url, self.log = root, url, []
        self._known: dict[Path, tuple[tuple[int, int], bytes, str]] = {}

    def environment(self, home: Path) -> dict[str, str]:
        """Environment of a process that uses this Hub, with caches of its own below `home`."""
        theirs = ("HF_", "HUGGING", "DIFFUSERS_")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(theirs)}
        return inherited | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def files(self, repo: str) -> dict[str, bytes]:
        """Path -> content of a repository."""
        return {path: content for path, (content, _) in self._read(repo).items()}

    def ids(self, repo: str) -> dict[str, str]:
        """Path -> git's id of a file."""
        return {path: id_ for path, (_, id_) in self._read(repo).items()}

    def commit(self, repo: str) -> str:
        """Id of the newest commit, 40 hex digits; it follows the content."""
        return hashlib.sha1("".join(f"{path} {id_}\n" for path, id_ in self.ids(repo).items()).encode()).hexdigest()

    def _read(self, repo: str) -> dict[str, tuple[bytes, str]]:
        """Path -> content and id; a file is read once, and again when it has changed."""
        folder, found = self.root / repo, {}
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                stamp = path.stat().st_mtime_ns, path.stat().st_size
                if path not in self._known or self._known[path][0] != stamp:
                    content = path.read_bytes()
                    self._known[path] = stamp, content, git_id(content)
                found[path.relative_to(folder).as_posix()] = self._known[path][1:]
        return found

    def has(self, repo: str, revision: str | None) -> bool:
        """Whether there is such a revision: main or the newest commit."""
        return (self.root / repo).is_dir() and revision in (None, "main", self.commit(repo))


@contextmanager
def serve(root: Path) -> Iterator[FakeHub]:
    """Run a Hub over the folder `root` in a thread."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = FakeHub(root, f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Child:
    """A Python of its own, as huggingface_hub reads its settings on import; works while we do."""

    def __init__(self, hub: FakeHub, folder: Path, code: str, *arguments: str) -> None:
        environment = {**hub.environment(folder / "home"), "PYTHONPATH": str(ROOT)}
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    @cached_property
    def output(self) -> str:
        """What it printed, once it has ended well."""
        printed = self.process.communicate(timeout=PATIENCE)[0]
        assert self.process.returncode == 0, printed
        return printed

    def picture(self, name: str) -> np.ndarray:
        """A picture that it saved."""
        assert self.output
        return np.load(self.folder / name)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> FakeHub:
        return self.server.hub

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        path = self._path()
        if match := RESOLVE.fullmatch(path):
            self._resolve(*match.groups())
        elif match := TREE.fullmatch(path):
            self._tree(*match.groups())
        elif match := INFO.fullmatch(path):
            self._info(*match.groups())
        else:
            self._missing("EntryNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path, body = self._path(), self.rfile.read(int(self.headers["Content-Length"]))
        if path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._send(401, b"{}")
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := PREUPLOAD.fullmatch(path):
            self._preupload(json.loads(body), match[1])
        elif match := COMMIT.fullmatch(path):
            self._commit([json.loads(line) for line in body.splitlines()], match[1])
        else:
            self._missing("EntryNotFound")

    def _path(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.hub.log.append(f"{self.command} {path}")
        return path

    def _info(self, repo: str, revision: str | None) -> None:
        if self._exists(repo, revision):
            siblings = [{"rfilename": path} for path in self.hub.files(repo)]
            self._json({"id": repo, "sha": self.hub.commit(repo), "siblings": siblings, "tags": []})

    def _tree(self, repo: str, revision: str) -> None:
        if self._exists(repo, revision):
            files, ids = self.hub.files(repo).items(), self.hub.ids(repo)
            self._json([{"type": "file", "path": path, "size": len(c), "oid": ids[path]} for path, c in files])

    def _resolve(self, repo: str, revision: str, path: str) -> None:
        if not self._exists(repo, revision):
            return
        content, commit = self.hub.files(repo).get(path), {"X-Repo-Commit": self.hub.commit(repo)}
        if content is None:
            self._missing("EntryNotFound", commit)
        else:
            self._send(200, content, {"ETag": f'"{self.hub.ids(repo)[path]}"', **commit})

    def _create(self, body: dict[str, Any]) -> None:
        repo = f"{body['organization']}/{body['name']}"
        (self.hub.root / repo).mkdir(parents=True, exist_ok=True)
        self._json({"url": f"{self.hub.url}/{repo}", "name": repo})

    def _preupload(self, body: dict[str, Any], repo: str) -> None:
        if self._exists(repo, "main"):
            answer = {"uploadMode": "regular", "shouldIgnore": False}
            self._json({"files": [{"path": file["path"], **answer} for file in body["files"]]})

    def _commit(self, lines: list[dict[str, Any]], repo: str) -> None:
        for line in lines:
            if line["key"] == "file":
                target = self.hub.root / repo / line["value"]["path"]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(base64.b64decode(line["value"]["content"]))
        commit = self.hub.commit(repo)
        self._json({"commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit})

    def _exists(self, repo: str, revision: str | None) -> bool:
        if not self.hub.has(repo, None):
            self._missing("RepoNotFound")
        elif not self.hub.has(repo, revision):
            self._missing("RevisionNotFound")
        return self.hub.has(repo, revision)

    def _missing(self, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(404, b"{}", {"X-Error-Code": code, **(headers or {})})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
