"""algorithm.yml: what hkubectl reads, checked with the texts of HKube's server, and the line it is about.

Two forms are read: hkubectl's (`resources: {cpu, gpu, mem}`, `code: {path, entryPoint}`), and the flat one
that the API stores (`cpu`, `gpu`, `mem`, `entryPoint` at the top). Unknown keys are kept, as hkubectl sends
them on. A top-level `entryPoint` beside `code:` or `resources:` is what hkubectl leaves out; so do we, and
say so.

What is enforced is the number that is written down: `mem` and `cpu` as they stand. The cluster adds
`reservedMemory` for the data cache of HKube's wrapper, which hkrunner has not, and kills, by default, only
beyond twice the sum. A limit that is kept here is kept there.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..sandbox.limits import parse_cpu, parse_memory
from .errors import SettingsError

NAMES = ("algorithm.yml", "algorithm.yaml", "algorithm.json")
DEFAULT_ENV = "python"
#: A descriptor is a page of text; more is another file.
SIZE_MAX = 1024 * 1024
DEPTH_MAX = 50

#: HKube core/api-server swagger.json, schema `algorithm`. null is taken for each: it means "without".
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
_ONE_OF = {
    "env": ("nodejs", "python", "java"),
    "kind": ("batch", "stream"),
    "stateType": ("stateless", "stateful"),
    "type": ("Git", "Code", "Image"),
}
_NAME = re.compile(r"[a-z0-9][-a-z0-9.]*[a-z0-9]")
#: What Kubernetes fills in from elsewhere (valueFrom).
_REFERENCES = ("fieldRef", "configMapKeyRef", "resourceFieldRef", "secretKeyRef")
_HKUBECTL_KEYS = ("code", "resources")


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
    #: JSON pointer -> line
    lines: Mapping[str, int] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """What messages call it."""
        return os.path.basename(self.file)

    @property
    def folder(self) -> str:
        """The folder it lies in."""
        return os.path.dirname(self.file)

    @property
    def name(self) -> str | None:
        """The algorithm's name."""
        return self.fields.get("name")

    @property
    def cpu(self) -> str | None:
        """Cores as text; None: not limited."""
        value = self.fields.get("cpu")
        if value is None or float(value) == 0 or self.fields.get("applyCpuLimits") is False:
            return None
        return _text(value)

    @property
    def mem(self) -> str | None:
        """Memory as it is written."""
        value = self.fields.get("mem")
        return None if value is None else _text(value)

    @property
    def gpus(self) -> int:
        """Whole devices; Kubernetes divides none."""
        return math.ceil(float(self.fields.get("gpu") or 0))

    def at(self, *pointers: str) -> str:
        """Return `algorithm.yml:5` for the first of these places that is in the file."""
        line = next((self.lines[one] for one in pointers if one in self.lines), None)
        return self.shown if line is None else f"{self.shown}:{line}"


# ---- finding it


def find(entry: str | None, path: str | None, cwd: str) -> str | None:
    """Return the descriptor that goes without saying, None when there is none.

    Beside the entry: `<entry>.yaml` (the name hkubectl's template gives) if that is what it is, then
    algorithm.yml, .yaml and .json; then in --path; then in the working folder, if the code is in there.
    """
    for folder, stem in _places(entry, path, cwd):
        for name in (f"{stem}.yaml", f"{stem}.yml") if stem else ():
            file = os.path.join(folder, name)
            # train.yaml beside train.py may be anything.
            if name not in NAMES and os.path.isfile(file) and _looks_like_one(file):
                return file
        for name in NAMES:
            file = os.path.join(folder, name)
            if os.path.isfile(file):
                return file
    return None


def _places(entry: str | None, path: str | None, cwd: str) -> Iterator[tuple[str, str]]:
    base = os.path.join(cwd, os.path.expanduser(path)) if path else cwd
    inside = True
    if entry is not None:
        name = without_function(entry)
        for folder in (base, cwd):
            found = os.path.join(folder, os.path.expanduser(name))
            if os.path.isdir(found):
                yield found, ""
            elif os.path.isfile(found) or os.path.isfile(found + ".py"):
                yield os.path.dirname(found), os.path.splitext(os.path.basename(found))[0]
            else:
                continue
            inside = is_below(found, cwd)
            break
    if path:
        yield base, ""
    if inside:
        yield cwd, ""


def without_function(entry: str) -> str:
    """Return `file.py` of `file.py:function`."""
    name, colon, function = entry.rpartition(":")
    return name if colon and function.isidentifier() else entry


def is_below(path: str, folder: str) -> bool:
    """The path is the folder, or in it."""
    inside = os.path.relpath(os.path.realpath(path), os.path.realpath(folder))
    return inside != os.pardir and not inside.startswith(os.pardir + os.sep)


def _looks_like_one(file: str) -> bool:
    try:
        value, _ = _parse(file, os.path.basename(file))
    except SettingsError:
        return False
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return False
    return value.get("env") in _ONE_OF["env"] or any(
        key in value for key in ("code", "resources", "entryPoint", "algorithmImage", "mem")
    )


# ---- reading it


def read(file: str) -> Descriptor:
    """Return the descriptor in this file; raises SettingsError with the line and HKube's text."""
    file = os.path.abspath(os.path.expanduser(file))
    shown = os.path.basename(file)
    value, lines = _parse(file, shown)
    if not isinstance(value, dict):
        raise SettingsError(f"{shown}:1: a descriptor is an object with a name, not {_kind(value)}")
    return _Checker(file, value, lines).descriptor()


class _Checker:
    """One file's content, on its way to a Descriptor."""

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
        """Check in the order of the file's own keys: hkubectl's two first."""
        value = self._value
        for key in _HKUBECTL_KEYS:
            if value.get(key) is not None and not isinstance(value[key], dict):
                raise self._wrong(f"/{key}", f"data.{key} should be object")
        fields = {key: one for key, one in value.items() if key not in _HKUBECTL_KEYS}
        places = {key: f"/{_escaped(key)}" for key in fields}
        for key, one in (value.get("resources") or {}).items():
            fields[key], places[key] = one, f"/resources/{_escaped(key)}"
        for key, one in fields.items():
            self._check_type(key, one, places[key])
        self._check_rules(fields, places)
        entry, notes = self._entry(fields)
        variables, references = self._variables(fields.get("algorithmEnv") or {})
        return Descriptor(
            self._file,
            # null on apply takes the property out.
            {key: one for key, one in fields.items() if one is not None},
            entry=entry,
            code_path=self._code_path(),
            variables=variables,
            references=references,
            notes=notes,
            lines=self._lines,
        )

    def _check_type(self, key: str, value: Any, pointer: str) -> None:
        if key not in _SCHEMA or value is None:
            return
        wanted = _SCHEMA[key]
        number = _number(value)
        if wanted == "string":
            right = isinstance(value, (str, int, float))  # the server makes text of a scalar
        elif wanted in ("number", "integer"):
            right = number is not None and (wanted == "number" or number == int(number))
        elif wanted == "boolean":
            right = isinstance(value, bool) or value in ("true", "false")
        else:
            right = isinstance(value, dict if wanted == "object" else list)
        if not right:
            raise self._wrong(pointer, f"data.{key} should be {wanted}; got {_short(value)}")
        if wanted in ("number", "integer") and number is not None and number < 0:
            raise self._wrong(pointer, f"data.{key} should be >= 0")
        allowed = _ONE_OF.get(key)
        if allowed is not None and value not in allowed:
            named = ",".join(allowed)
            raise self._wrong(
                pointer, f"data.{key} should be equal to one of the allowed values ({named}); got {value}"
            )

    def _check_rules(self, fields: dict[str, Any], places: dict[str, str]) -> None:
        name = fields.get("name")
        if name is not None:
            self._check_name(_text(name), places["name"])
        if fields.get("env") not in (None, DEFAULT_ENV):
            raise self._wrong(
                places["env"],
                f"env is {fields['env']}, and hkrunner runs Python; hkrunner worker stands in for the worker"
                " that its own wrapper connects to",
            )
        for key in ("mem", "reservedMemory"):
            if fields.get(key) is None:
                continue
            try:
                parse_memory(_text(fields[key]))
            except ValueError as error:
                if key == "mem" or "at least" not in str(error):
                    raise self._wrong(places[key], f"{error}; got {_short(fields[key])}") from None
        if fields.get("cpu") is not None and float(fields["cpu"]) != 0:
            try:
                parse_cpu(_text(fields["cpu"]))
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
            raise self._wrong("/code/entryPoint", f"data.entryPoint should be string; got {_short(entry)}")
        if any(key in self._value for key in _HKUBECTL_KEYS):
            if top is not None and entry != top:
                line = self._lines.get("/entryPoint", 1)
                return entry, (
                    f"{self._shown}:{line}: a top-level entryPoint is left out, as hkubectl leaves it out;"
                    " write it below code:",
                )
            return entry, ()
        return (None if top is None else _text(top)), ()

    def _code_path(self) -> str | None:
        path = (self._value.get("code") or {}).get("path")
        if path is None:
            return None
        if not isinstance(path, str) or not path:
            raise self._wrong("/code/path", f"code.path should be string; got {_short(path)}")
        return os.path.abspath(os.path.join(os.path.dirname(self._file), os.path.expanduser(path)))

    def _variables(self, given: dict[str, Any]) -> tuple[dict[str, str], tuple[str, ...]]:
        variables, references = {}, []
        for name, value in given.items():
            pointer = f"/algorithmEnv/{_escaped(name)}"
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
                raise self._wrong(pointer, f"data.algorithmEnv.{name} should be a value; got {_short(value)}")
            elif value is not None:
                text = _text(value)
                if "\0" in text:
                    raise self._wrong(pointer, "a variable cannot hold a null character")
                variables[name] = text
        return variables, tuple(references)


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        # The server takes a numeric string for a number.
        if not re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", value):
            return None
        value = float(value)
    if not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < 1e300 else None


def _text(value: Any) -> str:
    """Return a scalar as JavaScript, in which HKube is written, makes text of it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # Its numbers are doubles, and plain digits below 10**21.
        return str(value) if abs(value) < 2**53 else _text(float(value))
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        if value == int(value) and abs(value) < 1e21:
            return str(int(value))
        text = repr(value)
        if 1e-6 <= abs(value) < 1e-4:
            return _plain(text)
        return re.sub(r"e([-+])0+", r"e\1", text)
    return str(value)


def _plain(text: str) -> str:
    """Return 0.00001 for 1e-05: Python writes exponents sooner."""
    digits, _, exponent = text.partition("e")
    if not exponent:
        return text
    sign = "-" if digits.startswith("-") else ""
    return f"{sign}0.{'0' * (-int(exponent) - 1)}{digits.lstrip('-').replace('.', '')}"


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    names = {list: "a list", bool: "true or false", str: "text"}
    return names.get(type(value), "a number")


def _short(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "…"


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


# ---- the two languages


def _parse(file: str, shown: str) -> tuple[Any, dict[str, int]]:
    """Return the content of the file, and the line of each JSON pointer in it."""
    try:
        with open(file, "rb") as stream:
            data = stream.read(SIZE_MAX + 1)
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror}") from None
    if len(data) > SIZE_MAX:
        raise SettingsError(f"{shown} has more than {SIZE_MAX:,} bytes: it is no descriptor")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise SettingsError(f"{shown}:{line}: not UTF-8 text") from None
    if shown.endswith(".json"):
        return _parse_json(text, shown)
    return _parse_yaml(text, shown)


def _parse_json(text: str, shown: str) -> tuple[Any, dict[str, int]]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise SettingsError(f"{shown}:{error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise SettingsError(f"{shown}: nested too deeply") from None
    except ValueError as error:
        raise SettingsError(f"{shown}: not JSON: {error}") from None  # a number of thousands of digits
    lines: dict[str, int] = {}
    _JsonLines(text, lines).walk(0, "", 0)
    return value, lines


class _JsonLines:
    """Finds the line of each key in text that is known to be JSON."""

    def __init__(self, text: str, lines: dict[str, int]) -> None:
        self._text = text
        self._lines = lines
        self._decoder = json.JSONDecoder()
        self._ends = [match.start() for match in re.finditer("\n", text)]

    def walk(self, at: int, pointer: str, depth: int) -> int:
        """Take the value that begins here; return where it ends."""
        at = self._next(at)
        opening = self._text[at]
        if opening not in "{[" or depth > DEPTH_MAX:
            return self._decoder.raw_decode(self._text, at)[1]
        closing = {"{": "}", "[": "]"}[opening]
        at, index = self._next(at + 1), 0
        while self._text[at] != closing:
            name, begin = str(index), at
            if opening == "{":
                name, at = self._decoder.raw_decode(self._text, at)
                at = self._next(at) + 1
            inner = f"{pointer}/{_escaped(name)}"
            self._lines[inner] = self._line(begin)
            at = self._next(self.walk(at, inner, depth + 1))
            if self._text[at] == ",":
                at = self._next(at + 1)
            index += 1
        return at + 1

    def _next(self, at: int) -> int:
        while self._text[at] in " \t\r\n":
            at += 1
        return at

    def _line(self, at: int) -> int:
        import bisect

        return bisect.bisect_left(self._ends, at) + 1


def _parse_yaml(text: str, shown: str) -> tuple[Any, dict[str, int]]:
    import yaml  # 15 ms that runs without a descriptor need not pay

    loader = _yaml_loader(yaml)
    try:
        node = yaml.compose(text, Loader=loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = mark.line + 1 if mark is not None else text.count("\n", 0, getattr(error, "position", 0)) + 1
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        if "expected a single document" in str(getattr(error, "context", "")):
            problem = "two documents in one file"
        raise SettingsError(f"{shown}:{line}: not YAML: {problem}") from None
    except RecursionError:
        raise SettingsError(f"{shown}: nested too deeply") from None
    lines: dict[str, int] = {}
    return _YamlValues(shown, lines).value(node, "", 0) if node is not None else None, lines


#: YAML 1.2's core schema, which JavaScript's parsers follow: `yes`, `010` and `12:30` are no booleans,
#: octals and minutes there, as they are for PyYAML.
_RESOLVERS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("merge", r"<<", "<"),
)
_TAG = "tag:yaml.org,2002:"


def _yaml_loader(yaml: Any) -> Any:
    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - PyYAML's own way

    for name, pattern, first in _RESOLVERS:
        Loader.add_implicit_resolver(_TAG + name, re.compile(f"(?:{pattern})\\Z"), list(first))
    return Loader


class _YamlValues:
    """Makes values of PyYAML's nodes; PyYAML's own constructor forgets the lines."""

    def __init__(self, shown: str, lines: dict[str, int]) -> None:
        self._shown = shown
        self._lines = lines
        self._known: dict[int, Any] = {}

    def value(self, node: Any, pointer: str, depth: int) -> Any:
        """Return the value of this node; the same object for each alias of it."""
        if id(node) not in self._known:
            if depth > DEPTH_MAX:
                raise self._wrong(node, "nested too deeply, or it contains itself")
            kind = node.id
            if kind == "mapping":
                self._known[id(node)] = self._mapping(node, pointer, depth)
            elif kind == "sequence":
                items = []
                for index, one in enumerate(node.value):
                    inner = f"{pointer}/{index}"
                    self._lines[inner] = one.start_mark.line + 1
                    items.append(self.value(one, inner, depth + 1))
                self._known[id(node)] = items
            else:
                self._known[id(node)] = self._scalar(node)
        return self._known[id(node)]

    def _mapping(self, node: Any, pointer: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                inner = self.value(value_node, pointer, depth + 1)
                for one in inner if isinstance(inner, list) else [inner]:
                    if not isinstance(one, dict):
                        raise self._wrong(key_node, "<< wants an object")
                    merged = {**one, **merged}
                continue
            key = self.value(key_node, pointer, depth + 1)
            if isinstance(key, (dict, list)):
                raise self._wrong(key_node, "a key must be text")
            name = "null" if key is None else _text(key)
            if name in found:
                raise self._wrong(key_node, f"duplicated mapping key ({name})")
            inner_pointer = f"{pointer}/{_escaped(name)}"
            self._lines[inner_pointer] = key_node.start_mark.line + 1
            found[name] = self.value(value_node, inner_pointer, depth + 1)
        return {**merged, **found}

    def _scalar(self, node: Any) -> Any:
        text: str = node.value
        kind = node.tag.removeprefix(_TAG)
        try:
            if kind == "bool":
                return text.lower() == "true"
            if kind == "null":
                return None
            if kind == "int":
                return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
            if kind == "float":
                lowered = text.lower().replace(".inf", "inf").replace(".nan", "nan")
                return float(lowered)
        except ValueError:
            raise self._wrong(node, f"{_short(text)} is no {kind}") from None
        return text

    def _wrong(self, node: Any, problem: str) -> SettingsError:
        return SettingsError(f"{self._shown}:{node.start_mark.line + 1}: not YAML: {problem}")
