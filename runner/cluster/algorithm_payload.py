"""What is sent to HKube about an algorithm: the fields of its descriptor, as hkubectl sends them."""

from __future__ import annotations

import json
import os
import pwd
import socket
import sys
from collections.abc import Mapping
from typing import Any

from ..prepare.requirement_sources import without_login
from ..protocol.messages import printable
from ..settings.js_values import text_of
from .job_answers import finite

#: Fields that the cluster sets, or that say who has sent the others.
_OWN = {"userInfo", "name", "version"}
#: Objects to which the cluster adds keys of its own. Any other object is replaced by the one that is sent.
_ADDED_TO = {"gitRepository", "options"}
#: What the cluster has for a field that is removed: the default of its schema, or what it computes.
_DEFAULTS = {"cpu": 0.1, "mem": "256Mi", "minHotWorkers": 0}
_COMPUTED = {"reservedMemory"}
#: Fields with passwords and tokens in them: of a change, the names are shown and not the values.
_MAY_HAVE_SECRETS = {"algorithmEnv", "workerEnv", "gitRepository"}
#: Objects with a value for each variable; the last one is a side car's.
_VARIABLES = {"algorithmEnv", "workerEnv", "environments"}
#: Stands for a value that may be secret.
HIDDEN = "(hidden)"
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


def without_secrets(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return an algorithm's fields for a person: without the values of variables, tokens and logins."""
    return {str(key): _without_secrets(str(key), value) for key, value in fields.items()}


def _without_secrets(key: str, value: Any) -> Any:
    if key == "token":
        return HIDDEN
    if isinstance(value, str):
        return without_login(value)
    if isinstance(value, Mapping):
        if key in _VARIABLES:  # a reference to a secret of the cluster's is none itself
            return {name: one if isinstance(one, Mapping) else HIDDEN for name, one in value.items()}
        return {name: _without_secrets(name, one) for name, one in value.items()}
    if isinstance(value, list):
        if key == "env":  # of a container, in Kubernetes' words
            return [
                {name: HIDDEN if name == "value" else part for name, part in one.items()}
                if isinstance(one, Mapping)
                else HIDDEN
                for one in value
            ]
        return [_without_secrets(key, one) for one in value]
    return value


def changes(stored: Mapping[str, Any] | None, payload: Mapping[str, Any]) -> list[str]:
    """Return what the payload changes in the stored algorithm, a line for each field; [] if nothing."""
    found = []
    have = {} if stored is None else stored
    for key, value in payload.items():
        before = have.get(key)
        if _has(key, before, value):
            continue
        after = "removed" if value is None else _shown(without_secrets({key: value})[key])
        if key in _MAY_HAVE_SECRETS and value is not None:
            after = _shown(", ".join(_differing(before, value)))
        if before is None or key in _MAY_HAVE_SECRETS:
            found.append(f"{key}: {after}")
        else:
            found.append(f"{key}: {_shown(without_secrets({key: before})[key])} → {after}")
    return found


def _differing(stored: Any, sent: Any) -> list[str]:
    """Return the keys of the sent object that the stored one has otherwise, and those that it has alone."""
    have = stored if isinstance(stored, Mapping) else {}
    given = sent if isinstance(sent, Mapping) else {}
    return [str(key) for key in {**given, **have} if not _is_same(have.get(key), given.get(key))]


def not_stored(stored: Mapping[str, Any], payload: Mapping[str, Any]) -> list[str]:
    """Return the fields of the payload that the stored algorithm has otherwise."""
    return [key for key, value in payload.items() if not _has(key, stored.get(key), value)]


def _has(key: str, stored: Any, sent: Any) -> bool:
    """Whether the cluster has in this field what was sent, or does not take it from a descriptor."""
    if sent is None:
        is_default = key in _DEFAULTS and stored == _DEFAULTS[key]
        return stored is None or is_default or key in _COMPUTED
    return key in _OWN or _is_same(stored, sent, adds=key in _ADDED_TO)


def _is_same(stored: Any, sent: Any, *, adds: bool = False) -> bool:
    """Whether the two values are equal; adds: the stored one may have more keys."""
    if isinstance(sent, Mapping):
        have = stored if isinstance(stored, Mapping) else {}
        return (adds or have.keys() <= sent.keys()) and all(
            _is_same(have.get(key), value, adds=adds) for key, value in sent.items()
        )
    if isinstance(sent, (int, float)) and not isinstance(sent, bool) and isinstance(stored, str):
        return stored == text_of(sent)  # the cluster makes a text of it where its schema wants one
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
