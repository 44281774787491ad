"""Makes a virtual environment with uv where it is on PATH, else with venv and pip, and installs into it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO

from ..errors import InstallFailed
from ..settings.cluster_options import SECRET_VARIABLES
from .interpreter import ANSWER_S, Interpreter
from .requirement_sources import Requirements, without_login

#: What the system says when a host cannot be reached, in the messages of pip and uv.
_OFFLINE = re.compile(
    "Connection refused|Network is unreachable|No route to host|Name or service not known"
    "|Temporary failure in name resolution|[Tt]imed out"
)
#: Lines of the installer's output that are searched for the reason of a failure, and that are shown.
_LINES_KEPT = 200
_LINES_SHOWN = 6
_LINE_MAX = 400
#: Bytes of a line that are read at once: a build may print without end.
_READ_MAX = 64 * 1024
_PIP_OPTIONS = ("--no-input", "--progress-bar", "off")
_PIP_WITH_PYTHON = [22, 3]
#: How long the installer may take to clean up when it is interrupted.
_INTERRUPTED_S = 3.0
#: What would make pip or uv install elsewhere, or take packages of other places for installed; and the login
#: of a cluster, which is no business of the code that builds a package.
_LEFT_OUT = (
    *SECRET_VARIABLES,
    *("PYTHONPATH", "PYTHONHOME", "PYTHONINSPECT", "VIRTUAL_ENV", "CONDA_PREFIX", "__PYVENV_LAUNCHER__"),
    *("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "UV_PYTHON", "UV_TARGET", "UV_PREFIX"),
    *("UV_SYSTEM_PYTHON", "UV_PROJECT_ENVIRONMENT"),
)
#: uv does not read pip's variables. These mean the same in both.
_FOR_UV = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_NO_INDEX": "UV_NO_INDEX",
    "PIP_CONSTRAINT": "UV_CONSTRAINT",
    "PIP_CERT": "SSL_CERT_FILE",
}
#: Runs the installer in its own process group, which it kills when hkrunner ends, whatever ends that. A death
#: signal for pip alone would not do: it runs itself again in the new environment, and builds packages there.
_STARTER = (
    "import ctypes, os, signal, subprocess, sys\n"
    "signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))\n"
    "signal.signal(signal.SIGINT, lambda *_: None)\n"  # the installer gets it too, and cleans up
    f"ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)}, 0, 0, 0)\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(143)\n"
    "status = subprocess.call(sys.argv[2:])\n"
    "if status < 0:\n"
    "    if -status != signal.SIGKILL: signal.signal(-status, signal.SIG_DFL)\n"
    "    os.kill(os.getpid(), -status)\n"
    "sys.exit(status)\n"
)


def installer_name(environ: Mapping[str, str]) -> str:
    """Return the installer that would be used: uv or pip."""
    return "uv" if shutil.which("uv", path=environ.get("PATH")) else "pip"


def install(
    folder: str,
    base: Interpreter,
    requirements: Requirements,
    packages: Sequence[str],
    environ: Mapping[str, str],
    on_line: Callable[[str], None],
) -> None:
    """Make an environment in the folder, of the base interpreter, with the requirements and packages in it.

    `on_line` is called with each line that the installer prints. Raises InstallFailed. An exception that a
    signal raises ends the installer first.
    """
    temporary = f"{folder}.tmp"  # not TMPDIR, which is often small: packages are unpacked there
    os.makedirs(temporary, mode=0o700)
    try:
        env = _environment(environ, temporary)
        listed = requirements.file
        if requirements.lines is not None:
            listed = os.path.join(temporary, "requirements.txt")
            with open(listed, "w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in requirements.lines)
        python = os.path.join(folder, "bin", "python")
        uv = shutil.which("uv", path=environ.get("PATH"))
        if uv is not None:
            make = [uv, "venv", "--no-project", "--python", base.path, folder]
            fill = [uv, "pip", "install", "--python", python]
        elif _pip_installs_elsewhere(base):
            make = [base.path, "-I", "-m", "venv", "--without-pip", folder]
            fill = [base.path, "-I", "-u", "-m", "pip", "--python", python, "install", *_PIP_OPTIONS]
        else:
            make = [base.path, "-I", "-m", "venv", folder]
            fill = [python, "-I", "-u", "-m", "pip", "install", *_PIP_OPTIONS]
        name = installer_name(environ)
        _run(make, requirements, f"{name} could not make an environment of {base.path}", env, on_line)
        if requirements.content:
            words = [*fill, "-r", listed]
            _run(words, requirements, f"{name} could not install {requirements.source}", env, on_line)
        if packages:  # apart: if the requirements have hashes, all that is installed with them needs one
            words = [*fill, *packages]
            _run(words, requirements, f"{name} could not install {' '.join(packages)}", env, on_line)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _pip_installs_elsewhere(base: Interpreter) -> bool:
    """Whether this Python has a pip that installs into another environment (pip 22.3), and says so in time.

    A pip of the new environment's own takes seconds to install, and Debian's Python has none to install.
    """
    code = "import pip; print(*pip.__version__.split('.')[:2])"
    words = [base.path, "-I", "-c", code]
    try:
        asked = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=ANSWER_S)
    except subprocess.TimeoutExpired:
        return False
    version = [int(part) for part in asked.stdout.split() if part.isdigit()]
    return asked.returncode == 0 and version >= _PIP_WITH_PYTHON


def _environment(environ: Mapping[str, str], temporary: str) -> dict[str, str]:
    env = {name: value for name, value in environ.items() if name not in _LEFT_OUT}
    for pips, uvs in _FOR_UV.items():
        if env.get(pips):
            value = env[pips]
            env.setdefault(uvs, ",".join(value.split()) if pips == "PIP_FIND_LINKS" else value)
    return {
        **env,
        "TMPDIR": temporary,
        "PIP_USER": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "NO_COLOR": "1",
        "UV_NO_PROGRESS": "1",
    }


def _run(
    words: Sequence[str],
    requirements: Requirements,
    failure: str,
    env: Mapping[str, str],
    on_line: Callable[[str], None],
) -> None:
    """Run an installer until it has ended. Raises InstallFailed if it fails."""
    kept: deque[str] = deque(maxlen=_LINES_KEPT)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _STARTER, str(os.getpid()), *words],
        cwd=requirements.folder,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None, "it is a pipe"
    try:
        for line in _lines(process.stdout):
            kept.append(line)
            on_line(line)
        status = process.wait()
    except BaseException:
        _end(process)
        raise
    finally:
        process.stdout.close()
    if status != 0:
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        if offline := _why_offline(kept):
            how += f", since a package index cannot be reached ({offline})"
        raise InstallFailed("\n  ".join([f"--install: {failure}; it ended {how}:", *_reason(list(kept))]))


def _lines(stream: IO[bytes]) -> Iterator[str]:
    for data in iter(lambda: stream.readline(_READ_MAX), b""):
        line = data.decode("utf-8", "replace").rstrip().rpartition("\r")[2]
        shown = "".join(one if one.isprintable() else " " for one in without_login(line)).rstrip()
        if shown:
            yield shown[:_LINE_MAX]


def _reason(lines: list[str]) -> list[str]:
    """Return the lines that say why the installer failed."""
    if not lines:
        return ["it printed nothing"]
    if (build := _build_output(lines)) is not None:
        return build
    errors = [at for at, line in enumerate(lines) if re.match(r"\s*(error\b|\u00d7 )", line, re.IGNORECASE)]
    shown = lines[errors[0] :] if errors else lines
    return shown[-_LINES_SHOWN:]


def _build_output(lines: list[str]) -> list[str] | None:
    """Return what pip could not do, and the end of what the build of a package printed; None without one.

    pip shows that in the middle of its output, and at the end only that it is above.
    """
    ends = [at for at, line in enumerate(lines) if line.strip() == "[end of output]"]
    begins = [at for at, line in enumerate(lines[: ends[-1]]) if "\u2570\u2500> [" in line] if ends else []
    if not begins:
        return None
    what = [line.strip() for line in lines[: begins[-1]] if line.lstrip().startswith("\u00d7 ")]
    return [*what[-1:], *lines[begins[-1] + 1 : ends[-1]][1 - _LINES_SHOWN :]]


def _why_offline(lines: Iterable[str]) -> str | None:
    """Return why the installer could not reach a package index; None if it could.

    pip's own last lines do not say so: "Could not find a version that satisfies the requirement".
    """
    found = [match.group() for line in lines if (match := _OFFLINE.search(line))]
    return found[-1] if found else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the installer with all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_INTERRUPTED_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
