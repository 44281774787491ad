"""An HKube api-server for tests: jobs that run at once, and faults on demand.

Its routes and their schemas come from HKube's own OpenAPI file, of which data/ has the routes that hkrunner
calls. A request that the schema refuses, or that has a property which it does not know, is answered with 400,
and noted in `problems`; each of its own answers is checked as well. The shapes of what the file says nothing
about (errors, results of a batch, graphs) were recorded from the real api-server 2.11.
"""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import jsonschema

OPENAPI: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "integration" / "data" / "hkube-api-server.openapi.json").read_text()
)
#: Values of this size on are stored, and not part of the results.
THRESHOLD = 102_400


@dataclass
class Stored:
    """What an algorithm returns that is to be stored in this form, whatever its size."""

    data: bytes


class Failed(Exception):
    """The algorithm has failed, with this text."""


@dataclass
class Fault:
    """What happens to the next request that matches, instead of or after what it asks for."""

    route: str  #: a regular expression for "METHOD path"
    status: int = 0  #: answered with this and `body`; 0: not answered so
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    is_done: bool = False  #: whether the request is carried out nevertheless
    close: str = ""  #: "before" the answer, or "within" it


@dataclass
class FakeJob:
    """A job: its pipeline, and what became of each task."""

    id: str
    pipeline: dict[str, Any]
    tasks: list[dict[str, Any]] = field(default_factory=list)  #: as the graph has them, with "nodeName"
    items: list[dict[str, Any]] = field(default_factory=list)  #: of the result
    status: str = "completed"
    error: str | None = None
    reason: str | None = None
    polls: int = 0  #: how often its status was asked for


def at_any_rate(folder: Path) -> dict[str, str]:
    """Return variables by which hkrunner pauses between no requests, for tests of other things than its rate.

    They are for commands that start no algorithm.
    """
    place = folder / "at_any_rate"
    place.mkdir(exist_ok=True)
    patch = "from hkrunner.runner.cluster import pace\npace.REQUESTS = 1_000\n"
    (place / "sitecustomize.py").write_text(patch)
    return {"PYTHONPATH": str(place)}


class HkubeApi:
    """The server. `algorithm` gets the input of a task; it returns the result, or raises Failed."""

    #: Each route that is served, and the method that answers.
    routes: ClassVar[dict[str, str]] = {
        "/auth/login": "log_in",
        "/storage/info": "info",
        "/storage/stream/{path}": "stream",
        "/exec/raw": "run_raw",
        "/exec/stop": "stop",
        "/exec/search": "search",
        "/exec/status/{jobId}": "status",
        "/exec/results/{jobId}": "results",
        "/graph/parsed/{jobId}": "graph",
    }

    def __init__(
        self,
        algorithm: Callable[[list[Any]], Any],
        *,
        prefix: str = "",
        name: str = "sq",
        per_second: int = 5,
        login: tuple[str, str] | None = None,
        token_s: float = 300.0,
        encode: Callable[[Any], bytes] = lambda value: json.dumps(value).encode(),
        encoding: str = "json",
        active_polls: int = 1,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """active_polls: for how many requests a job's status is "active"; token_s: how long a token lives."""
        self.algorithm = algorithm
        self.prefix = f"{prefix}/api/v1"
        self.name = name
        self.per_second = per_second
        self.login = login
        self.token_s = token_s
        self.encode = encode
        self.encoding = encoding
        self.active_polls = active_polls
        self.faults: list[Fault] = []
        self.jobs: dict[str, FakeJob] = {}
        self.stored: dict[str, bytes] = {}
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.bodies: list[tuple[str, Any]] = []
        self.refused_by_rate = 0
        self.waiting = 0  #: requests that are answered as soon as the lock is free
        self.tokens = 0
        self._window = (0.0, 0)
        self._token_until = 0.0
        self._lock = threading.RLock()
        self._counting = threading.Lock()
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                api.handle(self)

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        scheme = "http" if tls is None else "https"
        self.port = self._server.server_address[1]
        self.url = f"{scheme}://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def running(self) -> Iterator[HkubeApi]:
        """Serve; afterwards no request may have been wrong."""
        self._thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
        assert not self.problems, self.problems

    def expect_another_client(self) -> None:
        """Count the requests of a second anew: HKube's limit is one for each client."""
        with self._lock:
            self._window = (0.0, 0)

    # ---- requests

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers.get("Content-Length") or 0)
        data = request.rfile.read(length)
        path = request.path
        if path.startswith("http://"):  # as a proxy gets it
            path = "/" + path.split("/", 3)[3]
        line = f"{request.command} {path}"
        with self._counting:
            self.waiting += 1
        with self._lock:
            with self._counting:
                self.waiting -= 1
            self.requests.append(line)
            fault = next((one for one in self.faults if re.search(one.route, line)), None)
            if fault is not None:
                self.faults.remove(fault)
            if fault is None or fault.is_done:
                status, body, kind = self._answer(request, line, data)
            if fault is not None and fault.status:
                status, body, kind = fault.status, fault.body, fault.content_type
        if fault is not None and fault.close == "before":
            request.close_connection = True
            return
        request.send_response(status)
        for name, value in (fault.headers if fault is not None else {}).items():
            request.send_header(name, value)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if fault is not None and fault.close == "within":
            body = body[: len(body) // 2]
            request.close_connection = True
        with contextlib.suppress(ConnectionError):
            request.wfile.write(body)

    def _answer(self, request: BaseHTTPRequestHandler, line: str, data: bytes) -> tuple[int, bytes, str]:
        now = time.monotonic()
        start, count = self._window
        self._window = (start, count + 1) if now - start < 1 else (now, 1)
        if self._window[1] > self.per_second:
            self.refused_by_rate += 1
            return _json(429, {"error": {"code": 429, "message": "Too Many Requests"}})
        method, _, path = line.partition(" ")
        route, parameter = self._route(method, path)
        if route is None:
            page = f"<!DOCTYPE html>\n<html>\n<body>\n<pre>Cannot {line}</pre>\n</body>\n</html>\n"
            return 404, page.encode(), "text/html; charset=utf-8"
        if self.login is not None and route != "/auth/login" and not self._is_authorized(request, now):
            return _json(401, {"error": "Unauthorized"})
        value: Any = None
        schema = OPENAPI["paths"][route][method.lower()].get("requestBody")
        if schema is not None:
            try:
                value = json.loads(data)
                jsonschema.validate(value, _strict(schema["content"]["application/json"]["schema"]))
            except (ValueError, jsonschema.ValidationError) as error:
                self.problems.append(f"{line}: {error}")
                return _error(400, str(error))
            self.bodies.append((route, value))
        answer = getattr(self, self.routes[route])(value, parameter)
        if isinstance(answer, bytes):
            return 200, answer, "application/octet-stream"
        status, body = answer
        if status == 200:
            shape = OPENAPI["paths"][route][method.lower()]["responses"]["200"]["content"]["application/json"]
            jsonschema.validate(body, _lenient(shape["schema"]))
        return _json(status, body)

    def _route(self, method: str, path: str) -> tuple[str | None, str]:
        if not path.startswith(f"{self.prefix}/"):
            return None, ""
        own = path.removeprefix(self.prefix)
        for route, methods in OPENAPI["paths"].items():
            pattern = re.sub(r"\{\w+\}", "(.+)", route)
            found = re.fullmatch(pattern, own)
            if found is not None and method.lower() in methods:
                return route, found[1] if found.groups() else ""
        return None, ""

    def _is_authorized(self, request: BaseHTTPRequestHandler, now: float) -> bool:
        is_last = request.headers.get("Authorization") == f"Bearer token-{self.tokens}"
        return is_last and self.tokens > 0 and now < self._token_until

    # ---- routes

    def log_in(self, value: Any, _: str) -> tuple[int, Any]:
        if (value["username"], value["password"]) != self.login:
            return 500, {"error": {"code": 500, "message": "Request failed with status code 401"}}
        self.tokens += 1
        self._token_until = time.monotonic() + self.token_s
        token = {"access_token": f"token-{self.tokens}", "token_type": "Bearer"}
        return 200, {"data": {**token, "expires_in": int(self.token_s)}}

    def info(self, _: Any, __: str) -> tuple[int, Any]:
        facts = {"type": "fs", "encoding": self.encoding, "clusterName": "local"}
        return 200, {**facts, "moduleName": "@hkube/fs-adapter", "storageResultsThreshold": "100Ki"}

    def run_raw(self, pipeline: dict[str, Any], _: str) -> tuple[int, Any]:
        for node in pipeline["nodes"]:
            if node["algorithmName"] != self.name:
                return 404, {
                    "error": {"code": 404, "message": f"algorithm {node['algorithmName']} Not Found"}
                }
        job = FakeJob(f"job{len(self.jobs) + 1:09}", pipeline)
        self.jobs[job.id] = job
        for node in pipeline["nodes"]:
            self._run_node(job, node, pipeline.get("flowInput") or {})
        if job.tasks and all(task["status"] == "failed" for task in job.tasks):
            count, first = len(job.tasks), job.tasks[0]["error"]
            job.status, job.items = "failed", []
            job.error = f"{count}/{count} (100%) failed tasks, batch tolerance is 100%, error: {first}"
        return 200, {"jobId": job.id}

    def _run_node(self, job: FakeJob, node: dict[str, Any], flow_input: dict[str, Any]) -> None:
        columns = [flow_input[one.removeprefix("#@flowInput.")] for one in node["input"]]
        rows = [list(row) for row in zip(*columns, strict=True)] if columns else [[]]
        for index, row in enumerate(rows, 1):
            batch = {"batchIndex": index} if columns else {}
            now = round(time.time() * 1000)
            task = {"taskId": f"task{len(job.tasks) + 1:04}", "nodeName": node["nodeName"], **batch}
            task.update({"status": "succeed", "startTime": now, "endTime": now + 7})
            item = {"nodeName": node["nodeName"], **batch, "algorithmName": self.name}
            try:
                result = self.algorithm(row)
            except Failed as error:
                task.update({"status": "failed", "error": str(error)})
                item["error"] = str(error)
            else:
                stored = result.data if isinstance(result, Stored) else self.encode(result)
                if isinstance(result, Stored) or len(stored) >= THRESHOLD:
                    path = f"local-hkube/{job.id}/{task['taskId']}"
                    self.stored[path] = stored
                    message = "data too large, use the stream api"
                    item["info"] = {"path": path, "size": len(stored), "isBigData": True, "message": message}
                else:
                    item["result"] = result
            job.tasks.append(task)
            job.items.append(item)

    def stop(self, value: Any, _: str) -> tuple[int, Any]:
        job = next((one for one in self.jobs.values() if _names(one, value)), None)
        if job is None or job.polls >= self.active_polls:
            return 404, {"error": {"code": 404, "message": "No jobs found matching criteria (…)"}}
        job.status, job.reason, job.items = "stopped", value.get("reason"), []
        job.polls = self.active_polls
        return 200, {"stoppedJobIds": [job.id]}

    def search(self, value: Any, _: str) -> tuple[int, Any]:
        name = value["query"]["pipelineName"]
        found = [job for job in self.jobs.values() if name in (job.id, job.pipeline["name"])]
        return 200, {"hits": [{"jobId": job.id} for job in found], "cursor": "c", "timeTook": "1ms"}

    def status(self, _: Any, job_id: str) -> tuple[int, Any]:
        job = self.jobs.get(job_id)
        if job is None:
            return 404, {"error": {"code": 404, "message": f"status {job_id} Not Found"}}
        head = {"jobId": job_id, "timestamp": 1, "pipeline": job.pipeline["name"], "level": "info"}
        job.polls += 1
        if job.polls <= self.active_polls:
            states = {"creating": len(job.tasks)}
            data = {"progress": 0, "states": states, "details": f"0% completed, {len(job.tasks)} creating"}
            return 200, {**head, "status": "active", "data": data}
        done = {"progress": 100, "states": {}, "details": "100% completed"}
        more = {"error": job.error} if job.error else {"reason": job.reason} if job.reason else {}
        return 200, {**head, "status": job.status, "data": done, "grossTimeTook": 0.5, **more}

    def results(self, _: Any, job_id: str) -> tuple[int, Any]:
        job = self.jobs[job_id]
        if job.polls <= self.active_polls and job.status == "completed":
            text = f"unable to get results for pipeline {job.pipeline['name']} because its in active status"
            return 400, {"error": {"code": 400, "message": text}}
        more: dict[str, Any] = {"data": job.items} if job.status == "completed" else {}
        if job.error:
            more["error"] = job.error
        return 200, {
            "jobId": job_id,
            "pipeline": job.pipeline["name"],
            "status": job.status,
            "timeTook": 0.5,
            **more,
        }

    def graph(self, _: Any, job_id: str) -> tuple[int, Any]:
        job = self.jobs[job_id]
        nodes: dict[str, dict[str, Any]] = {}
        for task in job.tasks:
            own = {key: value for key, value in task.items() if key != "nodeName"}
            node = nodes.setdefault(
                task["nodeName"], {"nodeName": task["nodeName"], "algorithmName": self.name}
            )
            if "batchIndex" in own:
                node.setdefault("batch", []).append(own)
            else:
                node.update(own)
        return 200, {"jobId": job_id, "timestamp": "1", "edges": [], "nodes": list(nodes.values())}

    def stream(self, _: Any, path: str) -> bytes | tuple[int, Any]:
        found = self.stored.get(path)
        if found is None:
            return 404, {"error": {"code": 404, "message": f"{path} Not Found"}}
        return found


def _names(job: FakeJob, value: dict[str, Any]) -> bool:
    return value.get("jobId") == job.id or value.get("pipelineName") in (job.id, job.pipeline["name"])


def _strict(schema: Any) -> Any:
    """Return the schema, which refuses properties that it does not name."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if strict.get("type") == "object" and strict.get("properties"):
        strict.setdefault("additionalProperties", False)
    return strict


def _lenient(schema: Any) -> Any:
    """Return the schema without types that the real server does not keep to: it sends times as numbers."""
    if isinstance(schema, list):
        return [_lenient(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("nullable") is True:  # OpenAPI 3.0 has no other way to say it
        return {**schema, "type": [schema["type"], "null"]}
    return {
        key: _lenient(value)
        for key, value in schema.items()
        if not (key in ("startTime", "endTime", "timestamp") and value == {"type": "string"})
    }


def _json(status: int, value: Any) -> tuple[int, bytes, str]:
    return status, json.dumps(value).encode(), "application/json; charset=utf-8"


def _error(status: int, text: str) -> tuple[int, bytes, str]:
    return _json(status, {"error": {"code": status, "message": text}})
