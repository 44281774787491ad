"""What the algorithm may read, write and reach with --sandbox strict, by the settings and this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ...sandbox.parent import thread_variables
from ...sandbox.shared.entry import Location
from ...sandbox.shared.isolation_policy import Isolation, is_below, levels_from
from ..errors import SettingsError
from ..settings.settings import Settings

#: hkrunner's own code, which the child and the workers that it spawns import.
_OWN_CODE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/sys/devices/system")
#: Where Nix and Guix keep all programs, such as a Python.
_STORES = ("/nix/store", "/gnu/store")
#: Of /etc only this: its other files may hold secrets.
_ETC = [
    "alternatives",
    "bash.bashrc",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "fonts",
    "gai.conf",
    "gnutls",
    "group",
    "host.conf",
    "glvnd",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "ld.so.preload",
    "libnl-3",
    "locale.alias",
    "locale.conf",
    "localtime",
    "lsb-release",
    "magic",
    "mailcap",
    "matplotlibrc",
    "mime.types",
    "nsswitch.conf",
    "OpenCL",
    "openmpi",
    "os-release",
    "passwd",
    "perl",
    "pki",
    "profile",
    "protocols",
    "R",
    "services",
    "shells",
    "ssl",
    "terminfo",
    "timezone",
    "vulkan",
]
#: Beginnings of further names in /etc: distributions append versions.
_ETC_BEGINNINGS = ("ImageMagick-", "java", "python3")
_ETC_WITH_NETWORK = ("hosts", "resolv.conf", "netconfig", "networks")
#: Where resolv.conf leads to on systems with systemd.
_RESOLVERS = ("/run/systemd/resolve", "/run/NetworkManager/resolv.conf", "/run/resolvconf")

#: Variables of hkrunner's own environment that the algorithm gets, besides those of _BEGINNINGS.
_VARIABLES = frozenset(
    [
        "PATH",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TERM",
        "COLUMNS",
        "LINES",
        "NO_COLOR",
        "FORCE_COLOR",
        "USER",
        "LOGNAME",
        "SHELL",
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "MALLOC_ARENA_MAX",
        "CUDA_VISIBLE_DEVICES",
        "CUDA_HOME",
        "NVIDIA_VISIBLE_DEVICES",
        "JOB_ID",
        "TASK_ID",
        "NODE_NAME",
        "POD_NAME",
        "NAMESPACE",
        "ALGO_METRICS_DIR",
        "SOURCE_DATE_EPOCH",
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONHASHSEED",
        "PYTHONUNBUFFERED",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONUTF8",
        "PYTHONIOENCODING",
        "PYTHONWARNINGS",
        "PYTHONOPTIMIZE",
        "PYTHONFAULTHANDLER",
        "PYTHONNOUSERSITE",
        "PYTHONUSERBASE",
        "PYTHONMALLOC",
        "PYTHONDEVMODE",
        "PYTHONTRACEMALLOC",
        "PYTHONCOERCECLOCALE",
        "PYTHON_GIL",
        "REQUESTS_CA_BUNDLE",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        *thread_variables.NAMES,
    ]
)
#: Beginnings of the names of further variables that the algorithm gets.
_BEGINNINGS = ("LC_", "HKUBE_", "ALGORITHM_", "OMP_", "KMP_")
_USER_SITE = "PYTHONUSERBASE"


class PathRule(NamedTuple):
    """A path that the algorithm may read with what is below it, and the reason."""

    path: str
    reason: str


def check_sandbox(settings: Settings, where: Location, *, is_program: bool) -> None:
    """Raise SettingsError for what cannot be isolated, and for code whose folder is or contains the home."""
    if is_program:
        raise SettingsError(
            "--sandbox strict is for algorithms in Python: a program reaches hkrunner by the network"
        )
    if settings.gpus.number and not settings.gpus.none:
        raise SettingsError(
            f"--sandbox strict has no GPUs ({settings.gpus.set_by}): give --no-gpu to run without them"
        )
    sandbox = settings.sandbox
    home = os.path.expanduser("~")
    folder = os.path.realpath(where.folder)
    # A user whom the system does not know, as in many containers, has no home: "~" stays as it is.
    if sandbox is None or not os.path.isabs(home) or is_below(folder, sandbox.readable):
        return
    if not is_below(os.path.realpath(home), [folder]):
        return
    raise SettingsError(
        f"--sandbox strict: the code lies in {where.folder} itself, all of which it could then read. Move it"
        f" to a folder of its own, or allow that: --read {where.folder}"
    )


def environment_of(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the algorithm gets of these variables."""
    found = {
        name: value for name, value in environ.items() if name in _VARIABLES or name.startswith(_BEGINNINGS)
    }
    # With another HOME, Python would not find what the user has installed.
    base = environ.get(_USER_SITE) or os.path.expanduser("~/.local")
    if os.path.isdir(base):
        found[_USER_SITE] = base
    return found


def isolation_of(
    settings: Settings,
    where: Location,
    env: Mapping[str, str],
    *,
    temporary: str = "",
    shared_memory: str = "",
    new_root: str = "",
    records: str | None = None,
) -> Isolation:
    """Return what the algorithm may do; `env`: its variables. The other arguments are its own folders."""
    sandbox = settings.sandbox
    assert sandbox is not None, "the caller has looked"
    metrics = env.get("ALGO_METRICS_DIR")
    own = [path for path in (metrics, records, temporary) if path]
    state_dir = settings.records.state_dir
    return Isolation(
        levels=levels_from(sandbox.least),
        readable=_unique(rule.path for rule in readable_paths(settings, where, env)),
        writable=_unique(os.path.realpath(one) for one in (*own, *sandbox.writable)),
        # Other tasks' inputs and results are in the records.
        hidden=[os.path.realpath(state_dir)] if state_dir is not None else [],
        network=sandbox.network,
        temporary=temporary,
        shared_memory=shared_memory,
        new_root=new_root,
        targets=list(sandbox.targets),
    )


def readable_paths(settings: Settings, where: Location, env: Mapping[str, str]) -> list[PathRule]:
    """Return what the algorithm may read, but for what it may write; `env`: its variables."""
    sandbox = settings.sandbox
    assert sandbox is not None, "the caller has looked"
    etc = [*_ETC, *(_ETC_WITH_NETWORK if sandbox.network else ()), *_versions_in_etc()]
    by_reason = {
        "programs and libraries of the system": _SYSTEM,
        "the files of /etc that libraries need": [f"/etc/{name}" for name in etc],
        "--net all": _RESOLVERS if sandbox.network else (),
        "hkrunner's own code": [_OWN_CODE],
        "the Python that runs the code": interpreter_paths(settings),
        "the variable PYTHONPATH": _split(env.get("PYTHONPATH")),
        "the variable LD_LIBRARY_PATH": _split(env.get("LD_LIBRARY_PATH")),
        "the folder of the code": [where.folder, *((where.file,) if where.file else ())],
        "--read": sandbox.readable,
    }
    named = [path for paths in by_reason.values() for path in paths]
    by_reason["the store of this system's programs"] = [
        store for store in _STORES if any(is_below(os.path.realpath(one), [store]) for one in named)
    ]
    return [PathRule(path, reason) for reason, paths in by_reason.items() for path in _both(paths)]


def _versions_in_etc() -> list[str]:
    try:
        return [name for name in sorted(os.listdir("/etc")) if name.startswith(_ETC_BEGINNINGS)]
    except OSError:
        return []


def interpreter_paths(settings: Settings) -> list[str]:
    """Return where the algorithm's Python and its packages lie."""
    if settings.code.python != sys.executable:
        return [os.path.dirname(settings.code.python), *settings.code.python_paths]
    # The first entry is the folder of the script, or of `-m`: nothing of Python's.
    found = [sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path[1:], os.path.dirname(sys.executable)]
    for name, module in list(sys.modules.items()):
        if name.startswith("__editable__"):  # how setuptools makes an installed package lead to its sources
            found += [os.path.dirname(one) for one in getattr(module, "MAPPING", {}).values()]
    return found


def _split(paths: str | None) -> list[str]:
    return [os.path.abspath(one) for one in (paths or "").split(os.pathsep) if one]


def _both(paths: Iterable[str]) -> list[str]:
    """Return each path as it is named, and where it leads to."""
    found = []
    for path in paths:
        if path and path != "/" and os.path.lexists(path):
            found += [os.path.abspath(path), os.path.realpath(path)]
    return _unique(one for one in found if one != "/")


def _unique(paths: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(paths))
