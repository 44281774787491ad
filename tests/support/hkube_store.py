"""The part of HKube's api-server that stores algorithms, for tests: apply, builds, versions.

What it answers, and what it keeps silent about, was recorded from the real api-server 2.11 and its builder.
"""

from __future__ import annotations

import contextlib
import email
import email.policy
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

#: The states that a build goes through, one at each question: status, progress, what it has printed so far.
BUILT = [("active", 60, "step 1\nstep 2\n"), ("completed", 100, "step 1\nstep 2\nstep 3\n")]


@dataclass
class Part:
    """One field of a form."""

    name: str
    content_type: str | None
    content: bytes


@dataclass
class HkubeStore:
    """The server's state. `is_busy`: jobs of the algorithms run."""

    algorithms: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    builds: list[dict[str, Any]] = field(default_factory=list)
    forms: list[list[Part]] = field(default_factory=list)
    states: list[tuple[str, int, str]] = field(default_factory=lambda: list(BUILT))
    is_busy: bool = False
    url: str = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[HkubeStore]:
        store, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with lock:
                    status, answer = store.answer(self, body)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_DELETE = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                """Print nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def members(self) -> list[list[Any]]:
        """Return name, mode and size of each member of the last package."""
        package = next(part.content for part in self.forms[-1] if part.name == "file")
        with zipfile.ZipFile(io.BytesIO(package)) as archive:
            return [[one.filename, one.external_attr >> 16, one.file_size] for one in archive.infolist()]

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, Any]:
        url = urlsplit(request.path)
        words = url.path.removeprefix("/api/v1/").split("/")
        if not url.path.startswith("/api/v1/"):
            return 404, b"<html>Cannot GET</html>"
        if words[0] == "storage":
            return 200, {"type": "fs", "encoding": "msgpack", "clusterName": "local"}
        if words == ["store", "algorithms", "apply"]:
            return 200, self._apply(request.headers["Content-Type"], body)
        if words == ["store", "algorithms"]:
            return 200, list(self.algorithms.values())
        if words[:2] == ["store", "algorithms"]:
            return self._algorithm(request.command, words[2], parse_qs(url.query))
        if words == ["versions", "algorithms", "apply"]:
            return self._make_current(json.loads(body))
        if words[0] == "versions":
            return 200, self.versions.get(words[2], [])
        if words[:2] == ["builds", "list"]:
            return 200, [one for one in reversed(self.builds) if one["algorithmName"] == words[2]][:1]
        return 200, self._build(words[2])

    def _apply(self, content_type: str, body: bytes) -> dict[str, Any]:
        message = email.message_from_bytes(
            b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body, policy=email.policy.HTTP
        )
        parts = [
            Part(
                str(one.get_param("name", header="content-disposition")),
                one["Content-Type"],
                bytes(one.get_payload(decode=True) or b""),  # type: ignore[arg-type]
            )
            for one in message.iter_parts()  # type: ignore[attr-defined]
        ]
        self.forms.append(parts)
        form = {part.name: part.content for part in parts}
        payload, options = json.loads(form["payload"]), json.loads(form.get("options", b"{}"))
        name, stored = payload["name"], self.algorithms.get(payload["name"])
        new = {**(stored or {}), **payload}
        checksum = hashlib.sha1(form.get("file", b"")).hexdigest()
        if "file" in form and (
            stored is None or stored["fileInfo"]["checksum"] != checksum or options.get("forceBuild")
        ):
            new["fileInfo"] = {"checksum": checksum}
            build: dict[str, Any] = {
                "buildId": f"{name}-{len(self.builds):06}",
                "algorithmName": name,
                "status": "pending",
            }
            image = f"registry/{name}:v{len(self.builds)}"
            self.builds.append(
                {**build, "algorithmImage": image, "algorithm": new, "result": None, "polls": 0}
            )
            if stored is None:
                self.algorithms[name] = {**new, "type": "Code", "options": {"pending": True}}
            return {
                "buildId": build["buildId"],
                "messages": ["a build was triggered"],
                "messagesCode": [1022],
                "algorithm": new,
            }
        if stored is not None and stored["options"]["pending"]:
            return {"messages": [None], "messagesCode": [None], "algorithm": new}  # and nothing is stored
        new.setdefault("options", {"pending": False})
        version = self._add_version(name, new)
        if stored is None:
            self.algorithms[name] = {**new, "version": version}
        text = f"a new version of algorithm {name} has been created"
        return {"messages": [text], "messagesCode": [1024], "algorithm": new}

    def _add_version(self, name: str, algorithm: dict[str, Any]) -> str:
        found = self.versions.setdefault(name, [])
        version = f"version{len(found):03}"
        found.append(
            {
                "version": version,
                "semver": f"1.0.{len(found)}",
                "created": 1_700_000_000_000 + len(found),
                "name": name,
                "algorithm": {**algorithm, "version": version},
            }
        )
        return version

    def _build(self, build_id: str) -> dict[str, Any]:
        build = next(one for one in self.builds if one["buildId"] == build_id)
        status, progress, data = self.states[min(build["polls"], len(self.states) - 1)]
        build["polls"] += 1
        build.update(status=status, progress=progress, result={"data": data, "errors": None})
        if status == "failed":
            build["result"]["errors"] = "error: no such package\nExit with code 1"
        name = build["algorithmName"]
        if status == "completed" and not build.get("isDone"):
            build["isDone"] = True
            done = {
                **build["algorithm"],
                "algorithmImage": build["algorithmImage"],
                "options": {"pending": False},
            }
            version = self._add_version(name, done)
            if len(self.versions[name]) == 1 or not self.is_busy:
                self.algorithms[name] = {**done, "type": "Code", "version": version}
            else:
                self.algorithms[name].setdefault("errors", []).append(901)
        return build

    def _make_current(self, value: dict[str, Any]) -> tuple[int, Any]:
        if self.is_busy and not value["force"]:
            error = {"code": 400, "message": "there are running pipelines", "details": ["job1"]}
            return 400, {"error": error}
        name = value["name"]
        found = next(one for one in self.versions[name] if one["version"] == value["version"])
        self.algorithms[name] = dict(found["algorithm"])
        return 201, self.algorithms[name]

    def _algorithm(self, method: str, name: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        if name not in self.algorithms:
            return 404, {"error": {"code": 404, "message": f"algorithm {name} Not Found"}}
        if method == "GET":
            return 200, self.algorithms[name]
        if query["force"] == ["false"] and self.is_busy:
            text = f"algorithm {name} is stored in 1 executions (job1)"
            return 400, {"error": {"code": 400, "message": text}}
        del self.algorithms[name]
        if query["keepOldVersions"] == ["false"]:
            del self.versions[name]
        text = f"algorithm {name} successfully deleted from store. related data deleted: "
        return 200, {"message": text}
