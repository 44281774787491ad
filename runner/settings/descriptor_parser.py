"""Parses a descriptor, YAML or JSON, into its value and the line number of each JSON pointer in it."""

from __future__ import annotations

import json
import re
from typing import Any

from ...sandbox.codec import unreadable
from ..errors import SettingsError
from ..protocol.yaml_errors import yaml_fault
from .js_values import escaped, short, text_of

#: Size limit: a descriptor is a page of text, and a larger file is something else.
SIZE_MAX = 1024 * 1024
DEPTH_MAX = 50


def parse(file: str, shown: str) -> tuple[Any, dict[str, int]]:
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
    return parse_yaml(text, shown)


def _parse_json(text: str, shown: str) -> tuple[Any, dict[str, int]]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise SettingsError(f"{shown}:{error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise SettingsError(f"{shown}: nested too deeply") from None
    except ValueError as error:
        raise SettingsError(f"{shown} {unreadable.why(error, 'is not JSON')}") from None
    lines: dict[str, int] = {}
    _JsonLines(text, lines).walk(0, "", 0)
    return value, lines


class _JsonLines:
    """Finds the line of each key in valid JSON text."""

    def __init__(self, text: str, lines: dict[str, int]) -> None:
        self._text = text
        self._lines = lines
        self._decoder = json.JSONDecoder()
        self._ends = [match.start() for match in re.finditer("\n", text)]

    def walk(self, at: int, pointer: str, depth: int) -> int:
        """Scan the value that begins here; return the position of its end."""
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
            inner = f"{pointer}/{escaped(name)}"
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


def parse_yaml(text: str, shown: str) -> tuple[Any, dict[str, int]]:
    """Return the value of the text, and the line of each JSON pointer in it. Raises SettingsError.

    Types are those of YAML 1.2, as in HKube: a date, 12:30 and yes are text. `shown`: the file, for messages.
    """
    import yaml  # late: it takes 15 ms, and most runs read no YAML

    loader = _yaml_loader(yaml)
    try:
        node = yaml.compose(text, Loader=loader)
    except yaml.YAMLError as error:
        line, fault = yaml_fault(error, text)
        spaces = "; indent with spaces" if r"found character '\t'" in fault else ""
        raise SettingsError(f"{shown}:{line}: not YAML: {fault}{spaces}") from None
    except RecursionError:
        raise SettingsError(f"{shown}: nested too deeply") from None
    lines: dict[str, int] = {}
    return _YamlValues(shown, lines).value(node, "", 0) if node is not None else None, lines


#: YAML 1.2's core schema, as JavaScript's parsers have it. PyYAML follows YAML 1.1, where `yes` is a boolean,
#: `010` an octal number and `12:30` a number of minutes.
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
        yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - PyYAML declares it so

    for name, pattern, first in _RESOLVERS:
        Loader.add_implicit_resolver(_TAG + name, re.compile(f"(?:{pattern})\\Z"), list(first))
    return Loader


class _YamlValues:
    """Converts PyYAML's nodes to values with line numbers, which PyYAML's own constructor drops."""

    def __init__(self, shown: str, lines: dict[str, int]) -> None:
        self._shown = shown
        self._lines = lines
        self._known: dict[int, Any] = {}

    def value(self, node: Any, pointer: str, depth: int) -> Any:
        """Return the value of this node, the same object for each of its aliases."""
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
            name = "null" if key is None else text_of(key)
            if name in found:
                raise self._wrong(key_node, f"duplicated mapping key ({name})")
            inner_pointer = f"{pointer}/{escaped(name)}"
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
            raise self._wrong(node, f"{short(text)} is no {kind}") from None
        return text

    def _wrong(self, node: Any, problem: str) -> SettingsError:
        return SettingsError(f"{self._shown}:{node.start_mark.line + 1}: not YAML: {problem}")
