"""The dependencies of Poetry's own table in pyproject.toml, as requirements that pip and uv read.

Poetry 2 also reads the standard table [project], which comes first here. The notation of versions:
https://python-poetry.org/docs/dependency-specification/
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

#: One condition on a version: `^1.2`, `>= 1.2`, `1.2.*`.
_CONDITION = re.compile(r"(\^|~=|~|===?|!=|>=|<=|>|<|=)?\s*([^\s,^~=!<>|]+)")
_CONDITIONS = re.compile(rf"\s*{_CONDITION.pattern}(\s*[\s,]\s*{_CONDITION.pattern})*\s*")
_SCP_LIKE = re.compile(r"([\w.-]+@[\w.-]+):(?!//)(.+)")
_GIT_PLACES = ("rev", "tag", "branch")


def poetry_requirements(table: Mapping[str, Any], folder: str) -> tuple[list[str], str]:
    """Return the requirements in [tool.poetry.dependencies], and the versions of Python that it asks for.

    folder: to which its paths are relative. Optional dependencies are left out. Raises ValueError with a
    sentence for what pip has no equivalent of.
    """
    lines: list[str] = []
    python = ""
    for name, value in table.items():
        if name == "python":
            python = ",".join(_conditions(_typed(value, str, name), name))
            continue
        for one in value if isinstance(value, list) else [value]:
            facts = {"version": one} if isinstance(one, str) else _typed(one, dict, name)
            if facts.get("optional") is not True:
                lines.append(_requirement(name, facts, folder))
    return lines, python


def _requirement(name: str, facts: Mapping[str, Any], folder: str) -> str:
    if "source" in facts:
        raise ValueError(
            f"{name} comes from the index {facts['source']!r}, which only Poetry knows: list it in"
            " requirements.txt, with --index-url or --extra-index-url"
        )
    extras = ",".join(_typed(facts.get("extras", []), list, name))
    head = f"{name}[{extras}]" if extras else name
    markers = [f"({marker})" for marker in _markers(name, facts)]
    behind = f" ; {' and '.join(markers)}" if markers else ""
    if (place := _place(name, facts, folder)) is not None:
        return f"{head} @ {place}{behind}"
    return f"{head}{','.join(_conditions(_typed(facts.get('version', '*'), str, name), name))}{behind}"


def _place(name: str, facts: Mapping[str, Any], folder: str) -> str | None:
    """Return the address from which the package is installed; None for a package index."""
    below = f"#subdirectory={facts['subdirectory']}" if "subdirectory" in facts else ""
    if "git" in facts:
        place = _SCP_LIKE.sub(r"ssh://\1/\2", _typed(facts["git"], str, name))
        asked = next((f"@{facts[key]}" for key in _GIT_PLACES if key in facts), "")
        return f"git+{place}{asked}{below}"
    if "path" in facts:
        path = os.path.normpath(os.path.join(folder, _typed(facts["path"], str, name)))
        return f"{Path(path).as_uri()}{below}"
    return f"{_typed(facts['url'], str, name)}{below}" if "url" in facts else None


def _markers(name: str, facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the conditions on the machine and its Python, as in PEP 508."""
    if "markers" in facts:
        yield _typed(facts["markers"], str, name)
    if "platform" in facts:
        yield f'sys_platform == "{_typed(facts["platform"], str, name)}"'
    for condition in _conditions(_typed(facts.get("python", "*"), str, name), name):
        found = _CONDITION.fullmatch(condition)
        assert found is not None, "it was made of one"
        variable = (
            "python_full_version" if found[2].count(".") > 1 and "*" not in found[2] else "python_version"
        )
        yield f'{variable} {found[1]} "{found[2]}"'


def _conditions(text: str, name: str) -> Iterator[str]:
    """Yield the conditions on a version as in PEP 440."""
    if text.strip() == "*":
        return
    if not _CONDITIONS.fullmatch(text):
        reason = "pip has no 'or' between versions" if "|" in text else "it is no condition on a version"
        raise ValueError(f"{name} = {text!r}: {reason}: list it in requirements.txt")
    for sign, version in _CONDITION.findall(text):
        if sign in ("^", "~"):
            yield f">={version}"
            yield f"<{_next(version, sign, name)}"
        elif version != "*":
            yield f"{'==' if sign in ('', '=') else sign}{version}"


def _next(version: str, sign: str, name: str) -> str:
    """Return the first version that `^1.2` or `~1.2` excludes."""
    from packaging.version import InvalidVersion, Version  # late: only with --install

    try:
        parts = Version(version).release
    except InvalidVersion:
        raise ValueError(f"{name} = '{sign}{version}': it is no version") from None
    if sign == "~":
        last = min(1, len(parts) - 1)
    else:  # the first part that is not 0 may not change
        last = next((at for at, part in enumerate(parts) if part), len(parts) - 1)
    return ".".join(map(str, (*parts[:last], parts[last] + 1)))


def _typed(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{name}: expected {_KINDS[kind]}, found {value!r}")
    return value


_KINDS: dict[type, str] = {str: "a string", list: "a list", dict: "a version or a table"}
