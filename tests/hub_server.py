"""A small Hugging Face hub on this machine, for the real clients: `HF_ENDPOINT` is its address.

It speaks what huggingface_hub, transformers and datasets ask of a hub when they read a model or a data set, and when
they publish one: information, trees, files with ranges, commits of files that are not in Git LFS.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_tests"
_KIND = r"(?P<kind>models|datasets)"
_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_FILE = re.compile(rf"/(?:(?P<kind>datasets)/)?{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_API = re.compile(rf"/api/{_KIND}/{_REPO}(?:/(?P<what>[\w-]+)(?:/(?P<revision>[^/]+)(?:/(?P<path>.+))?)?)?")


@dataclass
class Repository:
    """What a repository holds.

    Attributes:
        files: path to content.
        gated: who reads it must have accepted a licence: nobody has.
        private: only who has the token sees it.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    @property
    def commit(self) -> str:
        """What stands for its content."""
        content = "".join(f"{path} {_oid(self.files[path])}\n" for path in sorted(self.files))
        return hashlib.sha1(content.encode()).hexdigest()


@dataclass
class Hub:
    """The hub's repositories by ("models" or "datasets", name), and what was asked of it.

    Attributes:
        address: what HF_ENDPOINT is set to.
        cut: a file whose bytes end at half of it.
        cuts: how often they still will.
        ranges: the ranges of files that were asked for.
    """

    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    address: str = ""
    cut: str = ""
    cuts: int = 0
    ranges: list[str] = field(default_factory=list)

    def put(self, kind: str, name: str, folder: Path, **more: bool) -> None:
        """Put a folder's files into a repository."""
        files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        self.repositories[kind, name] = Repository(files, **more)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._file_or_answer()

    def do_GET(self) -> None:
        self._file_or_answer()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        where = unquote(urlsplit(self.path).path)
        if where == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif where == "/api/repos/create":
            self._create(json.loads(body))
        elif (asked := _API.fullmatch(where)) and (found := self._repository(asked["kind"], asked["repo"])):
            if asked["what"] == "paths-info":
                self._json([entry for entry in _tree(found) if entry["path"] in json.loads(body)["paths"]])
            elif not self._known():
                self._error(401, "", "Invalid username or password.")
            elif asked["what"] == "preupload":
                files = [{"path": one["path"], "uploadMode": "regular"} for one in json.loads(body)["files"]]
                self._json({"files": [{**one, "shouldIgnore": False, "oid": None} for one in files]})
            elif asked["what"] == "commit":
                self._commit(found, body, asked["repo"])
            else:
                self._error(404, "", "Not Found")

    def _file_or_answer(self) -> None:
        where = unquote(urlsplit(self.path).path)
        if where == "/api/whoami-v2":
            self._json({"name": "me"}) if self._known() else self._error(401, "", "Invalid username or password.")
        elif asked := _FILE.fullmatch(where):
            if found := self._repository(asked["kind"] or "models", asked["repo"], asked["revision"], reads=True):
                self._file(found, asked["path"])
        elif asked := _API.fullmatch(where):
            reads = asked["what"] == "auth-check"
            if found := self._repository(asked["kind"], asked["repo"], asked["revision"], reads=reads):
                self._about(found, asked["repo"], asked["what"], asked["path"] or "")
        else:
            self._error(404, "", "Not Found")

    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, kind: str, name: str, revision: str | None = None, reads: bool = False) -> Repository | None:
        """A repository that the asker may see; None where the answer has been given: there is none."""
        found = self.hub.repositories.get((kind, name))
        if found is None or (found.private and not self._known()):
            self._error(404 if self._known() else 401, "RepoNotFound", "Repository not found")
        elif revision not in (None, "main", found.commit):
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif reads and found.gated:
            self._error(403 if self._known() else 401, "GatedRepo", f"Access to model {name} is restricted.")
        else:
            return found
        return None

    def _about(self, found: Repository, name: str, what: str | None, path: str) -> None:
        if what == "tree":
            inside = [entry for entry in _tree(found) if not path or entry["path"].startswith(f"{path}/")]
            if path and not inside:
                self._error(404, "EntryNotFound", f"{path} does not exist")
            else:
                self._json(inside)
        elif what in (None, "revision", "auth-check"):
            self._json(
                {
                    "id": name,
                    "modelId": name,
                    "sha": found.commit,
                    "private": found.private,
                    "gated": "auto" if found.gated else False,
                    "disabled": False,
                    "downloads": 0,
                    "likes": 0,
                    "tags": [],
                    "siblings": [{"rfilename": path} for path in sorted(found.files)],
                }
            )
        else:
            self._error(404, "", "Not Found")

    def _file(self, found: Repository, path: str) -> None:
        content = found.files.get(path)
        if content is None:
            self._error(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": found.commit})
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        begin = int(wanted[1]) if wanted else 0
        end = int(wanted[2]) + 1 if wanted and wanted[2] else len(content)
        part = content[begin:end]
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{_oid(content)}"')
        self.send_header("X-Repo-Commit", found.commit)
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Accept-Ranges", "bytes")
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if wanted:
            self.hub.ranges.append(f"{path} {begin}")
        if self.hub.cuts and path == self.hub.cut:
            self.hub.cuts -= 1
            part = content[begin : len(content) // 2]
            self.close_connection = True
        self.wfile.write(part)

    def _create(self, asked: dict[str, Any]) -> None:
        owner = asked.get("organization") or "me"
        kind, name = f"{asked.get('type') or 'model'}s", f"{owner}/{asked['name']}"
        if not self._known():
            self._error(401, "", "Invalid username or password.")
        elif owner != "me":
            self._error(403, "", f'You don\'t have the rights to create a model under the namespace "{owner}"')
        elif (kind, name) in self.hub.repositories:
            self._json({"url": f"{self.hub.address}/{name}", "error": "You already created this model repo"}, 409)
        else:
            private = asked.get("private", False) or asked.get("visibility") == "private"
            self.hub.repositories[kind, name] = Repository(private=private)
            self._json({"url": f"{self.hub.address}/{name}", "name": name})

    def _commit(self, found: Repository, body: bytes, name: str) -> None:
        for line in filter(None, body.splitlines()):
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                found.files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "deletedFile":
                del found.files[value["path"]]
        self._json({"commitUrl": f"{self.hub.address}/{name}/commit/{found.commit}", "commitOid": found.commit})

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for header, content in {"Content-Type": "application/json", **headers}.items():
            self.send_header(header, content)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str, message: str, **headers: str) -> None:
        own = {"X-Error-Code": code, "X-Error-Message": message} if code else {"X-Error-Message": message}
        self._json({"error": message}, status, **own, **headers)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a test shows what it looks at."""


def _oid(content: bytes) -> str:
    """What Git calls a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _tree(found: Repository) -> list[dict[str, Any]]:
    return [
        {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
        for path, content in sorted(found.files.items())
    ]
