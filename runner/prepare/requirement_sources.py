"""Finds what the code requires: inline metadata (PEP 723), requirements.txt or pyproject.toml."""

from __future__ import annotations

import codecs
import itertools
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from ...sandbox.linux.walk_tree import walk_tree
from ...sandbox.shared.entry import Location
from ..errors import SettingsError
from ..settings.descriptor_search import is_below
from .poetry_dependencies import poetry_requirements

#: The block of comments that PEP 723 defines, with the expression that it gives.
_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
#: A line that was meant to begin one.
_BLOCK_BEGIN = re.compile(r"(?m)^#[ \t]*///[ \t]*script[ \t]*$")
#: Options of requirements.txt that read another file, install a folder in place, and look into a folder.
NESTED = re.compile(r"(?:-r|-c|--requirement|--constraint)(?:\s+|\s*=\s*|(?=[^-\s]))(.+)")
EDITABLE = re.compile(r"(?:-e|--editable)(?:\s+|\s*=\s*)(.+)")
FIND_LINKS = re.compile(r"(?:-f|--find-links)(?:\s+|\s*=\s*)(.+)")
#: The login in an address; `git` alone is none.
_LOGIN = re.compile(r"(?<=://)(?!git@)[^/@\s]+@")
#: What pip and uv replace by the value of a variable.
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
#: Files that say how a local folder is built, and the suffixes of code in it.
_BUILD_FILES = ("pyproject.toml", "setup.cfg", "setup.py")
_CODE_SUFFIXES = (".py", ".pyi", ".pyx", ".c", ".cc", ".cpp", ".h", ".rs")
#: Files of other tools that say what code requires.
_OTHER_LISTS = re.compile(
    r"setup\.py|setup\.cfg|Pipfile|(environment|conda)\.ya?ml|requirements.+\.(txt|in)|requirements\.in|requirements|pixi\.toml"
)
_CODE_FILES_MAX = 10_000


class Requirements(NamedTuple):
    """What the code requires, and the file that lists it."""

    source: str  #: the file as messages name it
    file: str  #: absolute path
    shown: tuple[str, ...]  #: each requirement, for messages
    content: tuple[str, ...]  #: all that decides what is installed: if it is equal, so is that
    lines: tuple[str, ...] | None = None  #: the requirements; None: installers read `file` itself
    requires_python: str = ""  #: the versions of Python that the code supports; "": all
    marked: tuple[str, ...] = ()  #: each requirement, with its marker if it has one
    absent_lists: tuple[str, ...] = ()  #: files that `file` names with -r or -c, and that are not there

    def variables(self, environ: Mapping[str, str]) -> list[str]:
        """Return the values of ${VARIABLES} in the requirements; those of options are tokens for an index."""
        named = "\n".join(one for one in self.content if one[:1] != "-" or EDITABLE.match(one))
        return [f"{name}={environ.get(name)}" for name in sorted(set(VARIABLE.findall(named)))]

    @property
    def folder(self) -> str:
        """The folder in which relative paths of the requirements start."""
        return os.path.dirname(self.file)

    def accepts(self, version: tuple[int, int, int]) -> bool:
        """Whether the code supports this version of Python. Raises SettingsError for bad metadata."""
        if not self.requires_python:
            return True
        from packaging.specifiers import InvalidSpecifier, SpecifierSet  # late: only with --install

        try:
            supported = SpecifierSet(self.requires_python)
        except InvalidSpecifier:
            raise SettingsError(
                f"{self.source}: requires-python: no versions: {self.requires_python}"
            ) from None
        return supported.contains(".".join(map(str, version)), prereleases=True)


def find_requirements(where: Location, cwd: str) -> Requirements | None:
    """Return what the code requires; None if nothing says so. Raises SettingsError for a file that is wrong.

    Inline metadata of the entry's file comes first. Then requirements.txt and pyproject.toml are searched,
    in this order, next to the entry, in the folder of the code, and in the working folder if the code is
    below it.
    """
    if where.file and (found := _inline(where.file, where.shown)) is not None:
        return found
    for folder in _searched(where, cwd):
        for name, read in (("requirements.txt", listed_in), ("pyproject.toml", _project)):
            file = os.path.join(folder, name)
            if os.path.isfile(file) and (found := read(file)) is not None:
                return found
    return None


def _searched(where: Location, cwd: str) -> list[str]:
    folders = [os.path.dirname(where.file)] if where.file else []
    folders.append(where.folder)
    if is_below(where.folder, cwd):
        folders.append(cwd)
    return list(dict.fromkeys(os.path.abspath(one) for one in folders))


def not_read(where: Location, cwd: str) -> list[str]:
    """Return what else lists requirements, and is not read, where find_requirements found nothing."""
    found = []
    for folder in _searched(where, cwd):
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        found += [name for name in names if _OTHER_LISTS.fullmatch(name)]
        if "pyproject.toml" in names:
            content = _toml(text_of(os.path.join(folder, "pyproject.toml")), "pyproject.toml")
            tables = (
                ("dependency-groups",),
                ("project", "optional-dependencies"),
                ("tool", "poetry", "group"),
            )
            found += [f"[{'.'.join(keys)}] in pyproject.toml" for keys in tables if _at(content, *keys)]
    return list(dict.fromkeys(found))


def watched_files(where: Location, cwd: str) -> list[str]:
    """Return the files in which requirements are found, or would be, besides the entry itself."""
    folders = dict.fromkeys((where.folder, cwd) if is_below(where.folder, cwd) else (where.folder,))
    return [
        os.path.join(folder, name) for folder in folders for name in ("requirements.txt", "pyproject.toml")
    ]


def text_of(file: str) -> str:
    """Return the text; in UTF-16 if it begins so, as a list does that PowerShell has written."""
    try:
        with open(file, "rb") as stream:
            encoding = (
                "utf-16" if stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
            )
        with open(file, encoding=encoding, errors="replace") as stream:
            return stream.read()
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}") from None


# ---- inline metadata and pyproject.toml


def _inline(file: str, shown: str) -> Requirements | None:
    """Return what the comments in this file require, None if it has no such block."""
    content = text_of(file)
    blocks = [one for one in _BLOCK.finditer(content) if one["type"] == "script"]
    source = f"inline metadata in {shown}"
    if not blocks:
        if (begin := _BLOCK_BEGIN.search(content)) is None:
            return None
        line = content.count("\n", 0, begin.start()) + 1
        raise SettingsError(
            f"{source}: the block in line {line} has not the form of PEP 723: '# /// script', then lines that"
            " begin with '# ', then '# ///'"
        )
    if len(blocks) > 1:
        raise SettingsError(f"{source}: there are {len(blocks)} blocks of type script; PEP 723 allows one")
    lines = blocks[0]["content"].splitlines()
    text = "\n".join(line[2:] if line.startswith("# ") else line[1:] for line in lines)
    return _of_table(_toml(text, source), source, file)


def _project(file: str) -> Requirements | None:
    """Return the dependencies of the project, None where pyproject.toml has none."""
    source = os.path.basename(file)
    content = _toml(text_of(file), source)
    project, poetry = content.get("project"), _at(content, "tool", "poetry", "dependencies")
    if not isinstance(project, dict):
        project = {}
    if "dependencies" not in project and isinstance(poetry, dict):
        try:
            lines, python = poetry_requirements(poetry, os.path.dirname(file))
        except ValueError as error:
            raise SettingsError(f"{source}: tool.poetry.dependencies: {error}") from None
        return _of_table({"requires-python": python, **project, "dependencies": lines}, source, file)
    dynamic = project.get("dynamic")
    if isinstance(dynamic, (list, str)) and "dependencies" in dynamic:
        raise SettingsError(
            f"{source}: its dependencies are dynamic, so only its build backend knows them: list them in"
            " requirements.txt"
        )
    return _of_table(project, source, file) if "dependencies" in project else None


def _at(table: Any, *keys: str) -> Any:
    """Return the value at this path of tables, None if there is none."""
    for key in keys:
        table = table.get(key) if isinstance(table, dict) else None
    return table


def _of_table(table: dict[str, Any], source: str, file: str) -> Requirements:
    from packaging.requirements import InvalidRequirement, Requirement  # late: only with --install

    lines, python = table.get("dependencies", []), table.get("requires-python", "")
    if not isinstance(lines, list) or not all(isinstance(one, str) for one in lines):
        raise SettingsError(f"{source}: dependencies must be a list of strings")
    if not isinstance(python, str):
        raise SettingsError(f"{source}: requires-python must be a string")
    for line in lines:
        try:
            Requirement(line)
        except InvalidRequirement as error:
            reason = str(error).partition("\n")[0]
            wrong = without_login(repr(line))
            raise SettingsError(f"{source}: dependencies: {wrong} is no requirement: {reason}") from None
    local = [one for line in lines for one in _of_local(url_of(line), os.path.dirname(file))]
    shown, marked = tuple(map(without_login, lines)), tuple(lines)
    return Requirements(source, file, shown, (*lines, *local), marked, python, marked)


def without_login(text: str) -> str:
    """Return the text as it may be shown and recorded."""
    return _LOGIN.sub("****@", text)


def url_of(line: str) -> str:
    """Return what a requirement of a table names behind its @."""
    return re.split(r"\s;", line.partition("@")[2])[0].strip()


def _toml(text: str, source: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        loaded: dict[str, Any] = tomllib.loads(text)
    except ValueError as error:  # as TOMLDecodeError is, and what int() raises for thousands of digits
        raise SettingsError(f"{source}: it is no TOML: {error}") from None
    except RecursionError:
        raise SettingsError(f"{source}: it is no TOML: nested too deeply") from None
    return loaded


# ---- requirements.txt


def listed_in(file: str) -> Requirements:
    """Return what a requirements.txt lists. Raises SettingsError for lists that name each other."""
    content: list[str] = []
    marked: list[str] = []
    absent: list[str] = []
    _read_list(file, content, marked, absent, set(), (file,))
    shown = tuple(
        without_login(line if EDITABLE.match(line) else re.split(r"\s+--|\s*;", line)[0]) for line in marked
    )
    source = os.path.basename(file)
    return Requirements(source, file, shown, tuple(content), marked=tuple(marked), absent_lists=tuple(absent))


def _read_list(
    file: str, content: list[str], marked: list[str], absent: list[str], seen: set[str], way: tuple[str, ...]
) -> None:
    """Append what this file and the files that it names say. `way`: the lists that lead to it, the top first.

    Raises SettingsError for lists that name each other: pip would follow them until its stack is full.
    """
    seen.add(os.path.realpath(file))
    folder, top = os.path.dirname(file), os.path.dirname(way[0])
    for line in requirement_lines(text_of(file)):
        content.append(line)
        nested, editable = NESTED.match(line), EDITABLE.match(line)
        if nested:
            named = nested[1].strip("'\"")
            other = os.path.join(folder, named)
            if not os.path.isfile(other):
                if "://" not in named:  # with --install, the installer reports it
                    absent.append(named)
            elif any(os.path.samefile(other, one) for one in way):
                first, *others = (os.path.relpath(one, top) for one in (*way, other))
                raise SettingsError(
                    f"{first} names {', which names '.join(others)}, and pip reads no lists in a circle:"
                    " remove one of these lines"
                )
            elif os.path.realpath(other) not in seen:
                is_constraint = line[:2] == "-c" or "--c" in line
                _read_list(other, content, [] if is_constraint else marked, absent, seen, (*way, other))
        elif editable:
            marked.append(line)
            content += _of_local(os.path.join(name_of(editable[1]), ""), top, in_place=True)
        elif line.startswith("-"):
            content.append(folder)  # it may be the path of a folder, as in --find-links
        else:
            marked.append(line)
            content += _of_local(name_of(line), top)


def name_of(line: str) -> str:
    """Return the requirement of a line without its options, marker, and the name before `@`."""
    named = re.split(r"\s+--|\s;" if "://" in line else r"\s+--|;", line)[0]
    return re.sub(r"^[\w.\[\], -]+@\s*", "", named).strip().strip("'\"")


def requirement_lines(text: str) -> Iterator[str]:
    """Yield the lines without comments; a backslash continues a line."""
    for line in re.sub(r"\\\r?\n", "", text).splitlines():
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if line:
            yield line


def _of_local(name: str, folder: str, *, in_place: bool = False) -> list[str]:
    """Return what identifies the state of a local file or folder; nothing for another kind of requirement.

    in_place: code that is changed later is used, so only the files that say how it is built matter.
    """
    path = local_path(name, folder)
    if path is None:
        return []
    if not os.path.isdir(path):
        return [_state(path)]
    files = (os.path.join(path, name) for name in _BUILD_FILES) if in_place else _code_files(path)
    return [
        path,
        *(_state(file) for file in itertools.islice(files, _CODE_FILES_MAX) if os.path.exists(file)),
    ]


def local_path(name: str, folder: str) -> str | None:
    """Return the file or folder that a requirement names, None if it names something else.

    A relative path starts at `folder`, where the installer runs, in whichever list it is.
    """
    path, is_path = name, os.sep in name or name.startswith(".")
    if name.startswith("file:"):
        path, is_path = unquote(re.sub(r"^file:(//(localhost)?)?|#.*", "", name)), True
    path = os.path.join(folder, path.partition("[")[0])
    return os.path.realpath(path) if is_path and os.path.exists(path) else None


def _code_files(folder: str) -> Iterator[str]:
    """Yield the files of a package's source, without what a build leaves there."""
    for root, folders, names in walk_tree(folder):
        folders[:] = sorted(
            one
            for one in folders
            if one not in ("__pycache__", "build", "dist")
            and not one.startswith(".")
            and "egg-info" not in one
        )
        for name in sorted(names):
            if name in _BUILD_FILES or name.endswith(_CODE_SUFFIXES):
                yield os.path.join(root, name)


def _state(file: str) -> str:
    found = os.stat(file)
    return f"{file} {found.st_size} {found.st_mtime_ns}"
