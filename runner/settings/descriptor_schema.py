"""The fields of a descriptor: HKube's schema, its server's messages for violations, the checked value."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...sandbox.shared.limits import parse_cpu, parse_memory
from ..errors import SettingsError
from .js_values import escaped, number_of, short, text_of

DEFAULT_ENV = "python"
JVM_ENV = "java"
#: What HKube's documentation calls it; its server takes only the other name.
OTHER_JVM_ENV = "jvm"

#: HKube core/api-server swagger.json, schema `algorithm`. Each accepts null, which means "absent".
_SCHEMA: dict[str, str] = {
    **dict.fromkeys(("name", "kind", "env", "algorithmImage", "mem", "version"), "string"),
    **dict.fromkeys(("reservedMemory", "entryPoint", "dependencyInstallCmd", "baseImage"), "string"),
    **dict.fromkeys(("stateType", "type", "downloadFileExt"), "string"),
    **dict.fromkeys(("cpu", "gpu"), "number"),
    **dict.fromkeys(("minHotWorkers", "maxWorkers", "quotaGuarantee"), "integer"),
    "applyCpuLimits": "boolean",
    **dict.fromkeys(("algorithmEnv", "workerEnv", "gitRepository", "kaiObject", "nodeSelector"), "object"),
    **dict.fromkeys(("labels", "annotations", "options", "workerCustomResources"), "object"),
    "securityContext": "object",
    **dict.fromkeys(("mounts", "sideCars", "volumes", "volumeMounts"), "array"),
}
ONE_OF = {
    "env": ("nodejs", "python", "java"),
    "kind": ("batch", "stream"),
    "stateType": ("stateless", "stateful"),
    "type": ("Git", "Code", "Image"),
}
_NAME = re.compile(r"[a-z0-9][-a-z0-9.]*[a-z0-9]")
#: Kubernetes' references to values that are stored elsewhere (valueFrom).
_REFERENCES = ("fieldRef", "configMapKeyRef", "resourceFieldRef", "secretKeyRef")
_HKUBECTL_KEYS = ("code", "resources")
#: The keys that a run uses, by the place where they are written: a key that is close to one is a mistake.
_USED = {
    "": ("name", "env", "cpu", "gpu", "mem", "entryPoint", "algorithmEnv", *_HKUBECTL_KEYS),
    "resources": ("cpu", "gpu", "mem", "reservedMemory"),
    "code": ("path", "entryPoint"),
}


@dataclass(frozen=True)
class Descriptor:
    """One descriptor, checked. `fields` are those that the API stores: no `resources`, no `code`."""

    file: str
    fields: Mapping[str, Any]
    entry: str | None = None
    code_path: str | None = None  #: absolute; a folder or an archive; None: the folder of the file
    variables: Mapping[str, str] = field(default_factory=dict)  #: algorithmEnv, as text
    references: tuple[str, ...] = ()  #: variables of algorithmEnv that only the cluster can fill in
    notes: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()  #: fields that are null: the cluster is to remove them
    #: JSON pointer -> line
    lines: Mapping[str, int] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """The name of the file, for messages."""
        return os.path.basename(self.file)

    @property
    def folder(self) -> str:
        """The folder of the file."""
        return os.path.dirname(self.file)

    @property
    def name(self) -> str | None:
        """The algorithm's name."""
        return self.fields.get("name")

    @property
    def env(self) -> str:
        """What the code is written for: python, nodejs or java."""
        value = self.fields.get("env") or DEFAULT_ENV
        return JVM_ENV if value == OTHER_JVM_ENV else str(value)

    @property
    def cpu(self) -> str | None:
        """CPU cores as text; None: not limited."""
        value = self.fields.get("cpu")
        if value is None or float(value) == 0 or self.fields.get("applyCpuLimits") is False:
            return None
        return text_of(value)

    @property
    def mem(self) -> str | None:
        """Memory limit as written; None: not limited."""
        value = self.fields.get("mem")
        return None if value is None else text_of(value)

    @property
    def gpus(self) -> int:
        """Number of GPUs, rounded up: Kubernetes assigns whole devices only."""
        return math.ceil(float(self.fields.get("gpu") or 0))

    def at(self, *pointers: str) -> str:
        """Return `algorithm.yml:5`, the line of the first of these JSON pointers that is in the file."""
        line = next((self.lines[one] for one in pointers if one in self.lines), None)
        return self.shown if line is None else f"{self.shown}:{line}"


class Checker:
    """Checks the content of one file, and makes a Descriptor of it."""

    def __init__(self, file: str, value: dict[str, Any], lines: dict[str, int]) -> None:
        self._file = file
        self._shown = os.path.basename(file)
        self._value = value
        self._lines = lines

    def _wrong(self, pointer: str, text: str) -> SettingsError:
        at, line = pointer, None
        while line is None and at:
            line, at = self._lines.get(at), at.rpartition("/")[0]
        key = pointer.lstrip("/").replace("/", ".").replace("~1", "/").replace("~0", "~")
        return SettingsError(f"{self._shown}:{line or 1}: {text}" + (f" ({key})" if key else ""))

    def descriptor(self) -> Descriptor:
        """Return the descriptor. Raises SettingsError for the first violation, in the file's order."""
        value = self._value
        for key in _HKUBECTL_KEYS:
            if value.get(key) is not None and not isinstance(value[key], dict):
                raise self._wrong(f"/{key}", f"data.{key} should be object")
        fields = {key: one for key, one in value.items() if key not in _HKUBECTL_KEYS}
        places = {key: f"/{escaped(key)}" for key in fields}
        for key, one in (value.get("resources") or {}).items():
            fields[key], places[key] = one, f"/resources/{escaped(key)}"
        for key, one in fields.items():
            self._check_type(key, one, places[key])
        self._check_rules(fields, places)
        entry, notes = self._entry(fields)
        if fields.get("env") == OTHER_JVM_ENV:
            line = self._lines.get("/env", 1)
            notes = (
                *notes,
                f"{self._shown}:{line}: env: HKube's server takes {JVM_ENV}, not {OTHER_JVM_ENV}",
            )
        variables, references = self._variables(fields.get("algorithmEnv") or {})
        return Descriptor(
            self._file,
            {key: one for key, one in fields.items() if one is not None},
            entry=entry,
            code_path=self._code_path(),
            variables=variables,
            references=references,
            notes=(*notes, *self._mistyped()),
            removed=tuple(key for key, one in fields.items() if one is None),
            lines=self._lines,
        )

    def _check_type(self, key: str, value: Any, pointer: str) -> None:
        if key not in _SCHEMA or value is None:
            return
        wanted = _SCHEMA[key]
        number = number_of(value)
        if wanted == "string":
            right = isinstance(value, (str, int, float))  # the server converts a scalar to text
        elif wanted in ("number", "integer"):
            right = number is not None and (wanted == "number" or number == int(number))
        elif wanted == "boolean":
            right = isinstance(value, bool) or value in ("true", "false")
        else:
            right = isinstance(value, dict if wanted == "object" else list)
        if not right:
            raise self._wrong(pointer, f"data.{key} should be {wanted}; got {short(value)}")
        if wanted in ("number", "integer") and number is not None and number < 0:
            raise self._wrong(pointer, f"data.{key} should be >= 0")
        allowed = ONE_OF.get(key)
        if allowed is not None and value not in allowed and (key, value) != ("env", OTHER_JVM_ENV):
            named = ",".join(allowed)
            raise self._wrong(
                pointer, f"data.{key} should be equal to one of the allowed values ({named}); got {value}"
            )

    def _check_rules(self, fields: dict[str, Any], places: dict[str, str]) -> None:
        name = fields.get("name")
        if name is not None:
            self._check_name(text_of(name), places["name"])
        for key in ("mem", "reservedMemory"):
            if fields.get(key) is None:
                continue
            try:
                parse_memory(text_of(fields[key]))
            except ValueError as error:
                if key == "mem" or "at least" not in str(error):
                    raise self._wrong(places[key], f"{error}; got {short(fields[key])}") from None
        if fields.get("cpu") is not None and float(fields["cpu"]) != 0:
            try:
                parse_cpu(text_of(fields["cpu"]))
            except ValueError as error:
                raise self._wrong(places["cpu"], str(error)) from None
        custom = fields.get("workerCustomResources") or {}
        for part in ("requests", "limits") if custom else ():
            given = custom.get(part)
            for one in ("cpu", "memory"):
                if not isinstance(given, dict) or given.get(one) is None:
                    raise self._wrong(
                        places["workerCustomResources"],
                        f"algorithm has invalid workerCustomResources: {part}.{one} must be defined",
                    )

    def _check_name(self, name: str, pointer: str) -> None:
        if not name:
            raise self._wrong(pointer, "data.name should NOT be shorter than 1 characters")
        if len(name) > 32:
            raise self._wrong(pointer, f"data.name should NOT be longer than 32 characters; got {len(name)}")
        if not _NAME.fullmatch(name):
            raise self._wrong(
                pointer,
                "algorithm name must contain only lower-case alphanumeric, dash or dot; got"
                f" {name!r}" + (" (at least two characters)" if len(name) == 1 else ""),
            )

    def _entry(self, fields: dict[str, Any]) -> tuple[str | None, tuple[str, ...]]:
        code = self._value.get("code") or {}
        entry, top = code.get("entryPoint"), fields.get("entryPoint")
        if entry is not None and not isinstance(entry, str):
            raise self._wrong("/code/entryPoint", f"data.entryPoint should be string; got {short(entry)}")
        if any(key in self._value for key in _HKUBECTL_KEYS):
            if top is not None and entry != top:
                line = self._lines.get("/entryPoint", 1)
                return entry, (
                    f"{self._shown}:{line}: a top-level entryPoint is left out, as hkubectl leaves it out;"
                    " write it below code:",
                )
            return entry, ()
        return (None if top is None else text_of(top)), ()

    def _mistyped(self) -> list[str]:
        """Return a note for each key that HKube does not know and that resembles one that a run uses."""
        notes = []
        for place, used in _USED.items():
            for key in (self._value.get(place) or {}) if place else self._value:
                if key in used or key in _SCHEMA:
                    continue
                from difflib import get_close_matches  # late: few descriptors have such a key

                close = get_close_matches(key.lower(), [one.lower() for one in used], 1, 0.65)
                if close:
                    meant = next(one for one in used if one.lower() == close[0])
                    pointer = f"/{place}/{escaped(key)}" if place else f"/{escaped(key)}"
                    shown = f"{place}.{key}" if place else key
                    line = self._lines.get(pointer, 1)
                    notes.append(f"{self._shown}:{line}: {shown} is ignored; did you mean {meant}?")
        return notes

    def _code_path(self) -> str | None:
        path = (self._value.get("code") or {}).get("path")
        if path is None:
            return None
        if not isinstance(path, str) or not path:
            raise self._wrong("/code/path", f"code.path should be string; got {short(path)}")
        return os.path.abspath(os.path.join(os.path.dirname(self._file), os.path.expanduser(path)))

    def _variables(self, given: dict[str, Any]) -> tuple[dict[str, str], tuple[str, ...]]:
        variables, references = {}, []
        for name, value in given.items():
            pointer = f"/algorithmEnv/{escaped(name)}"
            if not name or "=" in name or "\0" in name:
                raise self._wrong(pointer, f"{name!r} is no name of a variable")
            if isinstance(value, dict):
                if not any(one in value for one in _REFERENCES):
                    raise self._wrong(
                        pointer,
                        f"data.algorithmEnv.{name} should be a value or one of {','.join(_REFERENCES)}",
                    )
                references.append(name)
            elif isinstance(value, list):
                raise self._wrong(pointer, f"data.algorithmEnv.{name} should be a value; got {short(value)}")
            elif value is not None:
                text = text_of(value)
                if "\0" in text:
                    raise self._wrong(pointer, "a variable cannot hold a null character")
                variables[name] = text
        return variables, tuple(references)
