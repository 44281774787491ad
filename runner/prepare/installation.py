"""What --install does for one algorithm: which requirements, of which Python, into which environment."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ...sandbox.shared.entry import Location
from ..errors import SettingsError
from ..io.signals import signals_raise
from ..settings.settings import CodeSource
from .environments import Environment, EnvironmentCache, cache_folder, name_of
from .installers import install, installer_name
from .interpreter import ENCODING_PACKAGES, Interpreter, probe
from .requirement_sources import Requirements, find_requirements

#: Names on PATH that are searched for a Python that the code supports: 3.8 to this minor version.
_NEWEST_MINOR = 30
#: Requirements that are named in one line.
_NAMED = 4


class InstallProgress(Protocol):
    """Shows that something is installed, which may take minutes."""

    def begin(self, text: str) -> None:
        """Show what is done from now on."""

    def line(self, text: str) -> None:
        """Show the latest line of the installer."""

    def end(self, text: str) -> None:
        """Show that it is done; "" after a failure."""


class Installation(NamedTuple):
    """The environment that --install makes or has made."""

    requirements: Requirements
    base: Interpreter
    packages: tuple[str, ...]  #: those that the encoding of messages needs there
    cache: EnvironmentCache
    variables: tuple[str, ...] = ()  #: the values of those that the requirements name

    @property
    def name(self) -> str:
        """The name of the environment."""
        base = (self.base.shown_version, self.base.build, *self.packages, *self.variables, "")
        return name_of((*base, *self.requirements.content))

    @property
    def existing(self) -> Environment | None:
        """The environment if it was made already."""
        return self.cache.find(self.name)

    def facts(self, environ: Mapping[str, str]) -> dict[str, Any]:
        """Return the fields of `install` in the JSON of a dry run and of `hkrunner validate`."""
        found = self.existing
        return {
            "source": self.requirements.source,
            "file": self.requirements.file,
            "requirements": list(self.requirements.shown),
            "requiresPython": self.requirements.requires_python or None,
            "python": self.base.path,
            "pythonVersion": self.base.shown_version,
            "installer": installer_name(environ),
            "environment": None if found is None else found.folder,
        }

    def environment(
        self, environ: Mapping[str, str], stack: contextlib.ExitStack, progress: InstallProgress
    ) -> Environment:
        """Return the environment, made if it is not there; it is kept until `stack` is closed.

        Raises InstallFailed.
        """
        requirements = self.requirements

        def make(folder: str) -> Mapping[str, Any]:
            installer = installer_name(environ)
            progress.begin(f"installing {requirements.source} ({named(requirements.shown)}) with {installer}")
            done = ""
            try:
                install(folder, self.base, requirements, self.packages, environ, progress.line)
                done = f"installed in {folder}, which later runs use too"
            finally:
                progress.end(done)
            return {
                "source": requirements.source,
                "file": requirements.file,
                "requirements": [*requirements.shown, *self.packages],
                "pythonVersion": self.base.shown_version,
                "installer": installer,
            }

        def wait() -> None:
            progress.begin("waiting for another run, which makes or removes the same environment")

        with signals_raise():
            return self.cache.use(self.name, make, wait, stack)


def install_line(facts: Mapping[str, Any]) -> str:
    """Return the facts of an Installation as one line."""
    shown = f"{facts['source']} ({named(facts['requirements'])})"
    if facts["environment"] is not None:
        return f"{shown}: installed in {facts['environment']}"
    return (
        f"{shown}: not installed yet; {facts['installer']} would do it, for Python {facts['pythonVersion']}"
    )


def named(requirements: Sequence[str]) -> str:
    """Return the requirements as words of a sentence, only the first ones of many."""
    more = len(requirements) - _NAMED
    shown = ", ".join(requirements[:_NAMED]) or "no packages"
    return f"{shown} and {more} more" if more > 0 else shown


def installation_for(
    code: CodeSource, where: Location, encoding: str, environ: Mapping[str, str]
) -> Installation | None:
    """Return what --install does for this code; None if nothing says what the code requires.

    Raises SettingsError for requirements that cannot be read, and for a Python that they exclude.
    """
    requirements = find_requirements(where, code.cwd)
    if requirements is None:
        return None
    asked = code.base_python or code.python
    base = _supported(asked, requirements, code.cwd, environ)
    # Our own environment has it already, in another version perhaps: that one is not the algorithm's.
    packages = ENCODING_PACKAGES.get(encoding, ())
    variables = tuple(requirements.variables(environ))
    return Installation(requirements, base, packages, EnvironmentCache(cache_folder(environ)), variables)


def _supported(asked: str, requirements: Requirements, cwd: str, environ: Mapping[str, str]) -> Interpreter:
    """Return the asked Python, or another one on PATH if none was asked for and this one is not supported."""
    base = probe(asked, cwd)
    if requirements.accepts(base.version):
        return base
    if asked == sys.executable:
        for minor in range(_NEWEST_MINOR, 7, -1):
            path = shutil.which(f"python3.{minor}", path=environ.get("PATH"))
            if path is None:
                continue
            with contextlib.suppress(SettingsError):  # a shim of pyenv, for a version that is not there
                other = probe(path, cwd)
                if requirements.accepts(other.version):
                    return other
    raise SettingsError(
        f"{requirements.source} requires Python {requirements.requires_python}, and {base.path} is"
        f" {base.shown_version}: name another with --python"
    )
