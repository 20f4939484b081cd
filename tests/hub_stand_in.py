"""A small Hugging Face Hub on this machine: repositories of models that are made, listed, written to and read."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c" * 40


class Hub:
    """What is in the repositories, by name, and what was asked for.

    Attributes:
        repositories: Files by path, by the name of the repository.
        private: Whether each was made private.
        messages: Messages of the commits.
        refuses: Whether everything is answered by 403.
        tokens: Tokens that came with requests.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, Any] = {}
        self.messages: list[str] = []
        self.refuses = False
        self.tokens: set[str | None] = set()


@contextlib.contextmanager
def running() -> Iterator[tuple[Hub, str]]:
    """Yield a hub and its address."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, content: Any, status: int = 200, **headers: str) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def refused(self) -> bool:
            hub.tokens.add(self.headers.get("Authorization"))
            if hub.refuses:
                self.answer({"error": "no right to write here"}, 403)
            return hub.refuses

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.refused():
                return
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
                is_new = name not in hub.repositories
                if is_new:
                    hub.repositories[name] = {".gitattributes": b""}
                    hub.private[name] = asked.get("private", asked.get("visibility") == "private")
                self.answer({"url": f"{address}/{name}", "name": name, "id": name}, 200 if is_new else 409)
            elif path.endswith("/preupload/main"):
                files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
                self.answer({"files": [{**file, "shouldIgnore": False, "oid": None} for file in files]})
            elif path.endswith("/commit/main"):
                repository = hub.repositories[path.removeprefix("/api/models/").removesuffix("/commit/main")]
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        repository[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                    elif line["key"] == "header":
                        hub.messages.append(line["value"]["summary"])
                self.answer({"success": True, "commitOid": COMMIT, "commitUrl": f"{address}/x/y/commit/{COMMIT}"})
            else:
                self.answer({"warnings": [], "errors": []})

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            if self.refused():
                return
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            name = "/".join(path.removeprefix("/api/models").split("/")[1:3])
            if name not in hub.repositories:
                self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
                return
            files = hub.repositories[name]
            if "/tree/" in path:
                self.answer([{"type": "file", "path": file, "size": len(files[file]), "oid": "0"} for file in files])
            elif path.startswith("/api/"):
                self.answer({"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]})
            else:
                content = files.get(path.split("/", 5)[5])
                if content is None:
                    self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
                    return
                etag = f'"{hashlib.sha256(content).hexdigest()}"'
                self.answer(content, ETag=etag, X_Repo_Commit=COMMIT)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
