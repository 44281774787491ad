"""Turns each answer that refuses a request into one sentence, with an exit status; knows gateways."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ..errors import ClusterError, EntryNotFound, HkrunnerError
from ..protocol.messages import printable
from .transport import HttpAnswer

#: Characters of the server's own text that a message shows; what matters of a longer one is at its beginning.
_TEXT_MAX = 500
_MISSING_ALGORITHM = re.compile(r"algorithm (\S+) Not Found")
_MISSING_IMAGE = re.compile(r"missing image for algorithm (\S+)")
#: What the api-server's Keycloak adapter answers to a token without the role that a route wants.
_ACCESS_DENIED = "Access denied"
#: The roles of HKube's API.
ROLES = "view, edit, execute, delete"
_MEANINGS = {
    403: "access is forbidden",
    404: "there is no such route; is this the address of HKube's api-server?",
    413: "the request is too large",
    502: "the gateway got no answer from the api-server",
    503: "the api-server is not available",
    504: "the gateway waited too long for the api-server",
}


class RequestRefused(ClusterError):
    """The API has refused a request. `status` is that of HTTP, `text` the API's own words."""

    def __init__(self, sentence: str, status: int, text: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.text = text


class AlgorithmMissing(EntryNotFound):
    """The cluster has no algorithm of this name."""


def error_of(cluster: str, status: int, body: bytes) -> HkrunnerError:
    """Return the error for an answer of this status. `cluster` is the name that the sentence has for it."""
    text = words_of(body)
    if status == 404 and (found := _MISSING_ALGORITHM.fullmatch(text)) is not None:
        name = found[1]
        return AlgorithmMissing(
            f"{cluster} has no algorithm {name}: send it there with `hkrunner apply --on {cluster}`, or give"
            " --algorithm NAME"
        )
    if status == 400 and (found := _MISSING_IMAGE.fullmatch(text)) is not None:
        text = f"the algorithm {found[1]} has no image: its build is not over, or it has failed"
    if status == 403 and text == _ACCESS_DENIED:
        text = f"the user may lack a role ({ROLES})"
    shown = text or _MEANINGS.get(status) or _title_of(body) or "the answer has no text"
    return RequestRefused(f"{cluster} refused the request: {shown} (HTTP {status})", status, text)


def words_of(body: bytes) -> str:
    """Return the text of an error's body, on one line; "" if there is none but HTML.

    The shapes are {"error": {"code", "message"[, "details"]}}, {"error": "Unauthorized"} and pages of HTML.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace")
        return "" if "<" in text[:1000] else _line(text)
    error = content.get("error", content) if isinstance(content, dict) else content
    if isinstance(error, Mapping):
        message = error.get("message")
        words = message if isinstance(message, str) else json.dumps(error)
        return _line("; ".join([words, *_details(error.get("details"))]))
    return _line(error if isinstance(error, str) else json.dumps(error))


def is_of_gateway(answer: HttpAnswer) -> bool:
    """Whether the answer cannot be the API's: it redirects nobody, and its errors are JSON.

    It has a page of HTML for one thing, a route that it does not know: "Cannot GET /x".
    """
    if answer.status == 404:
        return bool(answer.body.strip()) and not _is_json(answer.body) and b"Cannot " not in answer.body
    is_page = answer.status < 300 and answer.headers.get_content_type() == "text/html"
    return is_page or 300 <= answer.status < 400


def words_of_gateway(answer: HttpAnswer) -> str:
    """Return what a message says about an answer that is not the API's."""
    title = _title_of(answer.body)
    return f"something else answers in its place ({f'{title}, ' if title else ''}HTTP {answer.status})"


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _title_of(page: bytes) -> str:
    """Return the title of a page of HTML: what a gateway says about http at a port of https, for example."""
    found = re.search(r"(?is)<title>(.{1,1000}?)</title>", page.decode("utf-8", "replace"))
    return "" if found is None else _line(found[1])


def _details(details: Any) -> list[str]:
    if details is None or details in ("", []):
        return []
    each = details if isinstance(details, list) else [details]
    return [one if isinstance(one, str) else json.dumps(one) for one in each]


def _line(text: str) -> str:
    return printable(" ".join(text.split()), _TEXT_MAX)
