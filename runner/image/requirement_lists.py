"""What an image needs to know of the requirements, which are installed on another machine, for others."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..errors import SettingsError
from ..prepare.requirement_sources import (
    EDITABLE,
    FIND_LINKS,
    NESTED,
    VARIABLE,
    Requirements,
    local_path,
    name_of,
    requirement_lines,
    text_of,
    url_of,
)

#: Variables that have a value of their own in a build.
_OWN_VARIABLES = {"HOME", "PWD"}
#: The login in an address, and the host behind it.
_LOGIN = re.compile(r"([\w+.-]+)://([^/@\s\"']+)@([^/\s\"']+)")


class LocalSource(NamedTuple):
    """A file or folder on this machine that packages are installed from."""

    named: str  #: as the requirement names it
    path: str

    @property
    def is_relative(self) -> bool:
        """Whether it is found from the folder of the list."""
        return not self.named.startswith((os.sep, "file:/"))


def nested_lists(file: str) -> list[str]:
    """Return the file, and all lists that it names with -r and -c, as absolute paths.

    Raises SettingsError for one that would not be found in the image.
    """
    found = [os.path.abspath(file)]
    for one in found:  # it grows meanwhile
        folder = os.path.dirname(one)
        for line in requirement_lines(text_of(one)):
            nested = NESTED.match(line)
            if nested is None:
                continue
            named = nested[1].strip("'\"")
            if os.path.isabs(named):
                raise SettingsError(
                    f"{os.path.basename(one)} names {named}, which is elsewhere in the image: write"
                    f" {os.path.relpath(named, folder)}"
                )
            other = os.path.abspath(os.path.join(folder, named))
            if os.path.isfile(other) and other not in found:
                found.append(other)
    return found


def local_sources(requirements: Requirements) -> list[LocalSource]:
    """Return the files and folders that the requirements, of nested lists too, name on this machine."""
    top = requirements.folder
    if requirements.lines is not None:
        named = [(url_of(line), top) for line in requirements.lines]
    else:
        named = [pair for one in nested_lists(requirements.file) for pair in _named_in(one, top)]
    found = ((name, local_path(name, folder)) for name, folder in named)
    return [LocalSource(name, path) for name, path in found if path is not None]


def _named_in(file: str, top: str) -> Iterator[tuple[str, str]]:
    """Yield what each line installs or looks into, and the folder in which a relative path of it begins."""
    for line in requirement_lines(text_of(file)):
        # In the image too, pip runs in the folder of the list.
        line = line.replace("file://${PWD}/", "file:").replace("${PWD}/", "./")
        if editable := EDITABLE.match(line):
            yield os.path.join(name_of(editable[1]), ""), top
        elif links := FIND_LINKS.match(line):
            yield os.path.join(name_of(links[1]), ""), os.path.dirname(file)
        elif not line.startswith("-"):
            yield name_of(line), top


def with_places(requirements: Requirements, place: Callable[[str], str]) -> list[str]:
    """Return the lines of a table of requirements; `place` gives a local path its address in the image."""
    found = []
    for line in requirements.lines or ():
        url = url_of(line)
        path = local_path(url, requirements.folder)
        head, at, rest = line.partition("@")
        found.append(line if path is None else f"{head}{at}{rest.replace(url, place(path), 1)}")
    return found


def variables_in(requirements: Requirements) -> tuple[str, ...]:
    """Return the names of the ${VARIABLES} whose values pip takes from the environment of the build."""
    return tuple(sorted({*VARIABLE.findall("\n".join(requirements.content))} - _OWN_VARIABLES))


def hosts_with_login(requirements: Requirements) -> Iterator[str]:
    """Yield the host of each address that has a password or token in it."""
    for scheme, login, host in _LOGIN.findall("\n".join(requirements.content)):
        is_user_only = ":" not in login and (login == "git" or "ssh" in scheme)
        if not is_user_only and not VARIABLE.search(login):
            yield host


def check(requirements: Requirements) -> None:
    """Raise SettingsError for a list that is not there, and for an address with a password or token."""
    if requirements.absent_lists:
        raise SettingsError(
            f"{requirements.source} names {requirements.absent_lists[0]}, and there is no such file"
        )
    for host in hosts_with_login(requirements):
        raise SettingsError(
            f"{requirements.source} has a login in the address of {host}, which everyone who pulls the image"
            " could read: write the address without it, and give the build a pip.conf that has it:"
            " -- --secret id=pip.conf,src=FILE"
        )
