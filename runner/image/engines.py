"""docker, podman and buildah: which of them works here, and the commands with which it builds and pushes.

Whether one works is found by asking it: a docker client without a daemon is installed on many machines.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import HkrunnerError, SettingsError
from ..io.signals import signals_wait

#: Command that an engine answers only if it could build, in the order in which the engines are tried.
_PROBES = {
    "docker": ("version", "--format", "{{.Server.Version}}"),
    "podman": ("info", "--format", "{{.Host.Arch}}"),
    "buildah": ("info",),
}
ENGINES = tuple(_PROBES)
#: Seconds within which a daemon on a busy machine answers.
ANSWER_S = 20.0
#: Seconds for an engine to clean up after it was interrupted.
_END_S = 10.0
#: Becomes the engine, after it has asked the kernel for SIGTERM at the end of hkrunner: if that was killed by
#: SIGKILL, the engine would build on for minutes, for nobody. Python itself ignores SIGPIPE and SIGXFSZ, and
#: tells of a Ctrl-C with a traceback.
_STARTER = (
    "import signal\n"
    "for one in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ): signal.signal(one, signal.SIG_DFL)\n"
    "import ctypes, os, sys\n"
    f"ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)}, 0, 0, 0)\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(143)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


class Engine(NamedTuple):
    """An engine that works here."""

    name: str
    path: str

    def build(self, tag: str, context: str, more: Sequence[str]) -> list[str]:
        """Return the command that builds the image."""
        words = [self.path, "build"]
        if self.name != "docker":
            # buildah keeps layers only when asked; for podman it is the default.
            words.append("--layers")
        return [*words, "--tag", tag, "--file", os.path.join(context, "Containerfile"), *more, context]

    def push(self, tag: str) -> list[str]:
        """Return the command that pushes the image."""
        words = [self.path, "push"]
        if self.name != "docker" and is_loopback(tag):
            words.append(
                "--tls-verify=false"
            )  # as docker does: a registry on this machine has no certificate
        return [*words, tag]


def find_engine(wanted: str | None) -> Engine:
    """Return the wanted engine, or the first that works. Raises HkrunnerError with the reasons."""
    reasons = []
    for name in ENGINES if wanted is None else (wanted,):
        path = shutil.which(name)
        reason = "not installed" if path is None else _refusal(path, _PROBES[name])
        if path is not None and reason is None:
            return Engine(name, path)
        reasons.append(f"{name}: {reason}")
    raise HkrunnerError(
        f"no engine can build the image here ({'; '.join(reasons)}): install docker, podman or buildah, or"
        " write the build context with --context DIR for another builder"
    )


def carry_out(words: Sequence[str], what: str) -> None:
    """Run the engine, with its output on stderr. Raises HkrunnerError if it fails."""
    process = None
    starter = [sys.executable, "-I", "-S", "-c", _STARTER, str(os.getpid())]
    try:
        with signals_wait():
            process = subprocess.Popen(
                [*starter, *words], stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno()
            )
        status = process.wait()
    except BaseException:
        if process is None:
            raise
        process.terminate()  # only a terminal's Ctrl-C reaches it, too; it removes the container of the build
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    if status:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        raise HkrunnerError(f"{what} failed: {os.path.basename(words[0])} {how}, for the reason above")


def option_values(arguments: Sequence[str], option: str) -> list[str]:
    """Return the values that the engine's own arguments have for this option, as two words or one."""
    behind = [value for word, value in itertools.pairwise(arguments) if word == option]
    return behind + [word[len(option) + 1 :] for word in arguments if word.startswith(f"{option}=")]


def secret_files(arguments: Sequence[str]) -> list[str]:
    """Return the paths of the files that the engine's own arguments name as secrets of the build."""
    found = []
    for one in option_values(arguments, "--secret"):
        fields = dict(field.partition("=")[::2] for field in one.split(","))
        # The engines take the id for the path if there is no other.
        path = fields.get("src") or fields.get("source") or ("" if "env" in fields else fields.get("id"))
        if path:
            found.append(os.path.abspath(path))
    return found


def full_tag(tag: str, digest: str) -> str:
    """Return the tag; without a version, it gets the digest of the content. Raises SettingsError."""
    if "@" in tag or not tag or tag != tag.strip() or tag.endswith(":"):
        raise SettingsError(
            f"--tag wants the name of an image, such as registry.example/team/alg:1.0; got {tag!r}"
        )
    return tag if ":" in tag.rpartition("/")[2] else f"{tag}:{digest}"


def is_loopback(tag: str) -> bool:
    """Whether the image's registry is on this machine."""
    host, slash, _ = tag.partition("/")
    name = host.rpartition(":")[0] or host
    if not slash:
        return False
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name == "localhost" and ":" in host


def _refusal(path: str, probe: Sequence[str]) -> str | None:
    """Return why the engine does not work, None if it does."""
    try:
        found = subprocess.run(
            [path, *probe], stdin=subprocess.DEVNULL, capture_output=True, timeout=ANSWER_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {ANSWER_S:g} s"
    except OSError as error:
        return str(error.strerror)
    if found.returncode == 0:
        return None
    lines = [line.strip() for line in found.stderr.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else f"it ended with status {found.returncode}"
