"""A client of HKube's board routes that compares every answer with HKube's OpenAPI description."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

import jsonschema

from .boards import BOARD_DEADLINE_S
from .waiting import wait_until

OPENAPI = json.loads(
    (Path(__file__).parents[1] / "integration" / "data" / "hkube-boards.openapi.json").read_text()
)
# The description has a mistake here: an object instead of the string that the server means to send.
OPENAPI["paths"]["/boards/optunas"]["post"]["responses"]["200"]["content"]["application/json"]["schema"][
    "properties"
]["boardUrl"] = {"type": "string"}


class Client:
    """A client of the routes; it checks every answer against the description."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._host, _, self._base = url.removeprefix("http://").partition("/")

    def __call__(
        self, method: str, path: str, body: object = None, *, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self._host, timeout=30)
        sent = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        try:
            connection.request(
                method, f"/{self._base}{path}", sent, {"Content-Type": "application/json", **(headers or {})}
            )
            response = connection.getresponse()
            value = json.loads(response.read())
        finally:
            connection.close()
        check(method, path, response.status, value)
        return response.status, value


def check(method: str, path: str, status: int, value: object) -> None:
    """Check that the answer has the form that HKube's description gives."""
    parts = path.strip("/").split("/")
    if len(parts) == 2:
        place = f"/boards/{parts[0]}/{{id}}"
    else:
        place = f"/boards/{parts[0]}" + ("/" if method == "GET" else "")
    operation = OPENAPI["paths"].get(place, {}).get(method.lower())
    if operation is None:
        return
    responses = operation["responses"]
    schema = responses.get(str(status), responses["default"])["content"]["application/json"]["schema"]
    jsonschema.validate(value, as_json_schema(schema))


def as_json_schema(schema: Any) -> Any:
    """Convert OpenAPI 3.0 to JSON Schema: `nullable` becomes a list of types; all fields are required."""
    if isinstance(schema, list):
        return [as_json_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    converted = {
        key: as_json_schema(value) for key, value in schema.items() if key not in ("nullable", "example")
    }
    if schema.get("nullable"):
        converted["type"] = [schema["type"], "null"]
    return converted


def running(client: Client, id: str) -> dict[str, Any]:
    def board() -> dict[str, Any] | None:
        status, value = client("GET", f"/tensors/{id.replace(':', '%3A')}")
        assert status == 200 and value["status"] != "failed", value
        return value if value["status"] == "running" else None

    found = wait_until(board, deadline_s=BOARD_DEADLINE_S, what=f"board {id} running")
    assert found is not None
    return found
