"""The files of an algorithm's folder that go to a cluster or into an image, and those that are left out.

.hkubeignore has the meaning that hkubectl gives it, in every folder. Files that are generated from the code,
or by hkrunner, are left out, too: a change of these alone would have HKube build the algorithm again.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from typing import NamedTuple

from ...sandbox.shared.limits import format_bytes
from ..errors import SettingsError
from .ignore_file import IGNORE_FILE, IgnoreRule, read_rules, rule_files_of

#: Names of folders and files that are never part of the code.
_NEVER_FOLDERS = {
    "__pycache__",
    ".ipynb_checkpoints",
    ".hkrunner",
    ".git",
    ".hg",
    ".svn",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
}
_NEVER_SUFFIXES = (".pyc", ".pyo")
#: What every environment of venv and virtualenv has, and every one of conda.
_OF_ENVIRONMENTS = ("pyvenv.cfg", "conda-meta")
#: A submodule and a second work tree have a file where a clone has a folder.
_NEVER_FILES = {".git"}
#: Folders and files in which programs keep passwords and keys: whoever runs the image could read them, and
#: the package goes through the cluster's storage. A line such as !.env in .hkubeignore includes one.
_SECRET_FOLDERS = {".aws", ".azure", ".docker", ".gnupg", ".hkube", ".kube", ".ssh"}
_SECRET_FILES = {".env", ".git-credentials", ".hkuberc", ".netrc", ".pgpass", ".pypirc", "pip.conf"}
_SECRET_BEGINNING = ".env."
#: Suffixes of an example, which has no secrets.
_EXAMPLES = (".dist", ".example", ".sample", ".template")
#: Reasons for which something is left out.
BY_RULE = ".hkubeignore"
GENERATED = "never part of the code"
SECRET = "it may have secrets; a line !NAME in .hkubeignore includes it"
ENVIRONMENT = "a virtual environment"
OUTSIDE = "a link that leads outside the folder"
SPECIAL = "neither a file nor a link"
#: Most names in one line.
_NAMED = 4

#: The rules of some folders, each with the folder's path from the folder of the code.
_Rules = list[tuple[str, list[IgnoreRule]]]


class CodeFile(NamedTuple):
    """One file. `link`: what a symbolic link points to; None: a regular file."""

    name: str  #: relative to the folder of the code
    path: str  #: absolute
    size: int
    executable: bool
    link: str | None = None


class LeftOut(NamedTuple):
    """A file or folder that is not part of the code. `name`: relative, a folder's with a slash at its end."""

    name: str
    reason: str


class CodeFiles(NamedTuple):
    """What belongs to the code of an algorithm."""

    folder: str
    files: tuple[CodeFile, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(one.size for one in self.files)

    def lines(self) -> list[str]:
        """Return lines to show: number and size of the files, the largest one, what is left out and why."""
        count = len(self.files)
        text = f"{count:,} {'file' if count == 1 else 'files'}, {format_bytes(self.size)}"
        largest = max(self.files, key=lambda one: one.size)
        if count > 1 and largest.size * 2 > self.size:
            text += f", of which {largest.name} is {format_bytes(largest.size)}"
        found = [text]
        for reason in Counter(one.reason for one in self.left_out):
            names = [one.name for one in self.left_out if one.reason == reason]
            more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
            found.append(f"left out ({reason}): {', '.join(names[:_NAMED])}{more}")
        return found


def code_files(folder: str, *, without: tuple[str, ...] = ()) -> CodeFiles:
    """Return the files of the folder, in the order of their names. Raises SettingsError if there is none.

    `without`: paths of files that are neither included nor listed as left out, nor is a link to one of them.
    """
    known = (_identity(one) for one in without)
    walk = _Walk(os.path.abspath(folder), {one for one in known if one is not None})
    walk.visit_all()
    if not walk.files:
        is_by_rule = any(one.reason == BY_RULE for one in walk.left_out)
        why = ": its .hkubeignore leaves every file out" if is_by_rule else ""
        raise SettingsError(f"there is no code in {folder}{why}")
    return CodeFiles(walk.folder, tuple(sorted(walk.files)), tuple(sorted(walk.left_out)))


class _Walk:
    """Collects the files of a folder."""

    def __init__(self, folder: str, without: set[tuple[int, int]]) -> None:
        self.folder = folder
        self.files: list[CodeFile] = []
        self.left_out: list[LeftOut] = []
        self._without = without
        self._real = os.path.realpath(folder)

    def visit_all(self) -> None:
        """Collect all files. Not recursive: folders may be nested deeper than Python's limit on recursion."""
        waiting: list[tuple[str, _Rules]] = [("", [])]
        while waiting:
            waiting += self._visit(*waiting.pop())

    def _visit(self, inside: str, rules: _Rules) -> list[tuple[str, _Rules]]:
        """Collect the files of one folder; return the folders in it, with the rules that hold there.

        `rules`: those of the folders above, each with its folder.
        """
        path = os.path.join(self.folder, inside)
        if (file := rule_files_of(path)) is not None:
            rules = [*rules, (inside, read_rules(file))]
        try:
            with os.scandir(path) as entries:
                found = sorted(entries, key=lambda one: one.name)
        except OSError as error:
            raise SettingsError(
                f"{path} cannot be read: {error.strerror}; {IGNORE_FILE} can leave it out"
            ) from None
        folders = []
        for entry in found:
            name = os.path.join(inside, entry.name)
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                if _identity(entry.path) not in self._without and self._add(entry, name, rules):
                    folders.append((name, rules))
        return folders

    def _add(self, entry: os.DirEntry[str], name: str, rules: _Rules) -> bool:
        """Add a file or what is left out; return whether it is a folder that belongs to the code."""
        is_folder = entry.is_dir(follow_symlinks=False)
        shown = f"{name}/" if is_folder else name
        reason = self._reason(entry, is_folder=is_folder)
        if reason is None and _is_ignored(name, rules, is_folder=is_folder):
            reason = BY_RULE
        if reason is None and _is_secret(entry.name, is_folder=is_folder):
            reason = None if _is_included(shown, rules) else SECRET
        if reason is not None:
            self.left_out.append(LeftOut(shown, reason))
        elif not is_folder:
            status = entry.stat(follow_symlinks=False)
            link = os.readlink(entry.path) if entry.is_symlink() else None
            size = 0 if link is not None else status.st_size
            self.files.append(CodeFile(name, entry.path, size, bool(status.st_mode & stat.S_IXUSR), link))
        return is_folder and reason is None

    def _reason(self, entry: os.DirEntry[str], *, is_folder: bool) -> str | None:
        if is_folder:
            if entry.name in _NEVER_FOLDERS:
                return GENERATED
            is_environment = any(os.path.exists(os.path.join(entry.path, one)) for one in _OF_ENVIRONMENTS)
            return ENVIRONMENT if is_environment else None
        if entry.is_symlink():
            target = os.readlink(entry.path)
            real = os.path.relpath(os.path.realpath(entry.path), self._real)
            depth = os.path.relpath(entry.path, self.folder).count(os.sep)
            is_inside = real.split(os.sep)[0] != os.pardir and not _goes_above(target, depth)
            return None if is_inside and not os.path.isabs(target) else OUTSIDE
        if not entry.is_file():
            return SPECIAL
        is_generated = entry.name.endswith(_NEVER_SUFFIXES) or entry.name in _NEVER_FILES
        return GENERATED if is_generated else None


def _identity(path: str) -> tuple[int, int] | None:
    """Return what is the same for each path of a file, also through links; None if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _goes_above(target: str, depth: int) -> bool:
    """Whether a link in a folder of this depth leads above the top folder, even if it leads back into it.

    It would lead back by the top folder's name, which is another one in the cluster.
    """
    for part in target.split(os.sep):
        depth += -1 if part == os.pardir else part not in ("", os.curdir)
        if depth < 0:
            return True
    return False


def _is_secret(name: str, *, is_folder: bool) -> bool:
    if is_folder:
        return name in _SECRET_FOLDERS
    return name in _SECRET_FILES or (name.startswith(_SECRET_BEGINNING) and not name.endswith(_EXAMPLES))


def _is_included(shown: str, rules: _Rules) -> bool:
    """Whether a line with ! names it; one that names a file in a folder does not include the whole folder."""
    for folder, of_folder in rules:
        path = shown[len(folder) + 1 :] if folder else shown
        if any(
            rule.includes and any(rule.applies(one, to_folder=False) for one in (path, path.rstrip("/")))
            for rule in of_folder
        ):
            return True
    return False


def _is_ignored(name: str, rules: _Rules, *, is_folder: bool) -> bool:
    """Whether the rules leave the file out: the last one that applies decides."""
    ignored = False
    for folder, of_folder in rules:
        path = os.path.relpath(name, folder) if folder else name
        for rule in of_folder:
            if rule.includes == ignored and rule.applies(path, to_folder=is_folder):
                ignored = not rule.includes
    return ignored


__all__ = ["CodeFile", "CodeFiles", "LeftOut", "code_files"]
