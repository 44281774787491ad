"""What is sent to HKube about an algorithm: the fields of its descriptor, as hkubectl sends them."""

from __future__ import annotations

import json
import os
import pwd
import socket
import sys
from collections.abc import Mapping
from typing import Any

from ..protocol.messages import printable
from .job_answers import finite

#: Fields that the cluster sets, or that say who has sent the others.
_OWN = {"userInfo", "name"}
#: Fields with passwords and tokens in them: of a change, the names are shown and not the values.
_MAY_HAVE_SECRETS = {"algorithmEnv", "workerEnv", "gitRepository"}
#: Fields that are not copied from the descriptor.
_FROM_ELSEWHERE = {"image", "algorithmImage", "entryPoint"}


def algorithm_payload(
    name: str,
    fields: Mapping[str, Any],
    *,
    removed: tuple[str, ...] = (),
    entry: str | None,
    image: str | None,
    user: str,
) -> dict[str, Any]:
    """Return the object `payload` of an apply request.

    `fields` are a descriptor's. `removed` are those that are null in it: the cluster removes them. hkubectl
    takes `image` for `algorithmImage`, and drops an entry point that is not below `code:`; here it is sent.
    """
    payload = {key: finite(value) for key, value in fields.items() if key not in _FROM_ELSEWHERE}
    payload.update(dict.fromkeys(removed))
    payload["name"] = name
    if image is not None:
        payload["algorithmImage"] = image
    if entry is not None:
        payload["entryPoint"] = entry
    payload["userInfo"] = {"platform": sys.platform, "hostname": socket.gethostname(), "username": user}
    return payload


def image_of(fields: Mapping[str, Any]) -> str | None:
    """Return the image that a descriptor names, None if it names none."""
    image = fields.get("image") or fields.get("algorithmImage")
    return None if image is None else str(image)


def changes(stored: Mapping[str, Any] | None, payload: Mapping[str, Any]) -> list[str]:
    """Return what the payload changes in the stored algorithm, a line for each field; [] if nothing."""
    found = []
    for key, value in payload.items():
        if key in _OWN:
            continue
        before = None if stored is None else stored.get(key)
        if _is_same(before, value):
            continue
        if key in _MAY_HAVE_SECRETS:
            names = _differing(before, value)
            found.append(f"{key}: {'removed' if value is None else _shown(', '.join(names))}")
        elif before is None:
            found.append(f"{key}: {_shown(value)}")
        else:
            found.append(f"{key}: {_shown(before)} → {'removed' if value is None else _shown(value)}")
    return found


def _differing(stored: Any, sent: Any) -> list[str]:
    """Return the keys of the sent object that the stored one has otherwise."""
    have = stored if isinstance(stored, Mapping) else {}
    return [
        str(key)
        for key, value in (sent.items() if isinstance(sent, Mapping) else ())
        if not _is_same(have.get(key), value)
    ]


def not_stored(stored: Mapping[str, Any], payload: Mapping[str, Any]) -> list[str]:
    """Return the fields of the payload that the stored algorithm has otherwise."""
    return [key for key, value in payload.items() if key not in _OWN and not _is_same(stored.get(key), value)]


def _is_same(stored: Any, sent: Any) -> bool:
    """Whether the cluster has this value. It merges objects, so it may have more keys than were sent."""
    if isinstance(sent, Mapping):
        have = stored if isinstance(stored, Mapping) else {}
        return all(_is_same(have.get(key), value) for key, value in sent.items())
    if isinstance(sent, (int, float)) and not isinstance(sent, bool) and isinstance(stored, str):
        return stored == f"{sent:g}"  # the cluster makes a text of it where its schema wants one
    if isinstance(sent, str) and isinstance(stored, (int, float)) and not isinstance(stored, bool):
        return _is_same(sent, stored)
    return bool(stored == sent)


def _shown(value: Any) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value), 80)


def user_name(environ: Mapping[str, str]) -> str:
    """Return the name of the user, which HKube shows beside the algorithm."""
    try:
        return environ.get("LOGNAME") or environ.get("USER") or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())  # a container may have no entry for its user
