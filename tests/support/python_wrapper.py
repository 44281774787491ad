"""Install HKube's own wrapper for Python in a virtual environment; uses the standard library only.

It installs on Python 3.8 to 3.10. The environment is made once, below build/ of the checkout.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAIN = Path(__file__).with_name("wrapper_main.py")
#: The version that HKube's image builder installs, then the newest stable one.
VERSIONS = ("2.6.0.dev27", "2.4.2")
PYTHONS = ("3.8", "3.9", "3.10")
ABSENT = "hkube-python-wrapper needs Python 3.8, 3.9 or 3.10, and there is none on PATH or in PYENV_ROOT"


class WrapperNotInstalled(Exception):
    """pip could not install the wrapper; the text is pip's."""


def find_python() -> str | None:
    """Return an interpreter that the wrapper supports."""
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    for version in PYTHONS:
        on_path = shutil.which(f"python{version}")
        for candidate in (on_path, *sorted(glob.glob(f"{pyenv}/versions/{version}.*/bin/python"))):
            if candidate and _ok([candidate, "-I", "-c", f"import ensurepip, sys; {_IS.format(version)}"]):
                return candidate
    return None


# pyenv puts shims on PATH also for versions that are not selected, and such a shim fails.
_IS = "sys.exit('%d.%d' % sys.version_info[:2] != '{}')"


def environment(python: str) -> tuple[Path, str]:
    """Return (interpreter with the wrapper, its version); install it on first use.

    Two runs at a time: the second one waits. Raises WrapperNotInstalled.
    """
    venv = ROOT / "build" / "hkube-python-wrapper"
    venv.parent.mkdir(exist_ok=True)
    with open(venv.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = venv / "made"
        if not made.exists():
            made_of = _make(python, venv)
            made.write_text(made_of)
    return venv / "bin" / "python", made.read_text()


def _make(python: str, venv: Path) -> str:
    shutil.rmtree(venv, ignore_errors=True)
    _run([python, "-I", "-m", "venv", venv])
    # Its old requirements have setup.py files that newer setuptools refuse.
    _pip(venv, "setuptools<60", "wheel")
    said = ""
    for version in VERSIONS:
        wanted = f"hkube-python-wrapper=={version}"
        for install in (_install, _install_without_accelerator):
            try:
                install(venv, wanted)
            except WrapperNotInstalled as error:
                said += f"{error}\n"
            else:
                return version
    raise WrapperNotInstalled(said)


def _install(venv: Path, wanted: str) -> None:
    _pip(venv, wanted)


def _install_without_accelerator(venv: Path, wanted: str) -> None:
    """Install all requirements but wsaccel, which needs a C compiler and only makes the wrapper faster."""
    _pip(venv, "--no-deps", wanted)
    told = _run(
        [
            *(venv / "bin" / "python", "-I", "-c"),
            "import importlib.metadata as m; print('\\n'.join(m.requires('hkube-python-wrapper')))",
        ]
    )
    needs = [line.partition(";")[0].replace(" (", "").replace(")", "").strip() for line in told.splitlines()]
    _pip(venv, *(need for need in needs if not need.startswith("wsaccel")))


def _pip(venv: Path, *what: str) -> None:
    _run(
        [
            venv / "bin" / "python",
            "-I",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-compile",  # most is never imported
            *what,
        ]
    )


def _run(command: list[str | Path]) -> str:
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if ended.returncode:
        shown = " ".join(map(str, command))
        raise WrapperNotInstalled(f"{shown} failed:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return ended.stdout


def _ok(command: list[str]) -> bool:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


def variables(port: int, encoding: str) -> dict[str, str | None]:
    """Return the wrapper's environment: this worker, storage v1, no data server for other algorithms."""
    return {
        "WORKER_SOCKET_URL": None,
        "WORKER_SOCKET_PROTOCOL": "ws",
        "WORKER_SOCKET_HOST": "127.0.0.1",
        "WORKER_SOCKET_PORT": str(port),
        "WORKER_ALGORITHM_ENCODING": encoding,
        "STORAGE_PROTOCOL": "v1",
        "DISCOVERY_ENABLE": "False",
    }
