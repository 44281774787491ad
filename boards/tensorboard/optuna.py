"""Boards of optuna studies; they need the package optuna-dashboard.

A study is found as an SQLite file among the metrics of the job's tasks: `sqlite:///$ALGO_METRICS_DIR/study.db`
is the storage to give to optuna.create_study. The dashboard's pages ask for /api and /static at the root, so
its address cannot carry the board's secret with each request. The first request does
(/hkube/board/<reference>/dashboard), gets it as a cookie, and is sent to /dashboard.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from hmac import compare_digest
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any

from ..board_record import OPTUNA
from ..errors import NotFound
from ..runs.folders import files_below, open_plain
from ..targets import Target, nodes_of_job
from .host_check import Application, Environ, StartResponse, refuse

_SQLITE = b"SQLite format 3\x00"
_COOKIE = "hkrunner-board"


def is_installed() -> bool:
    """Whether the package optuna-dashboard is installed."""
    return importlib.util.find_spec("optuna_dashboard") is not None


def optuna_target(root: Path, job: str) -> Target:
    """Return the board of a job's study. Raises NotFound."""
    nodes = nodes_of_job(root, job)
    if not nodes:
        raise NotFound(f"pipeline {job} Not Found")
    for found in nodes:
        for path in sorted(Path(entry.path) for entry in files_below(str(found.folder))):
            if _is_sqlite(path):
                return Target(job, OPTUNA, path, job=job, node=found.node, pipeline=found.pipeline)
    raise NotFound(
        f"job {job} has no optuna study",
        hint="in the algorithm, use sqlite:///$ALGO_METRICS_DIR/study.db as the study's storage",
    )


def storage_of(target: Target) -> str:
    """Return optuna's URL of the target's study."""
    return f"sqlite:///{target.log_dir}"


def dashboard(storage: str) -> Application:
    """Return the dashboard's own application. Raises ImportError where it is not installed."""
    from optuna_dashboard import wsgi

    application: Any = wsgi(storage)
    return application  # type: ignore[no-any-return]


def cookie(reference: str) -> str:
    """Return the cookie of a visitor who has used the board's address."""
    return f"{_COOKIE}={reference}"


class CookieCheck:
    """Passes requests of visitors on who have used the board's address once."""

    def __init__(self, application: Application, prefix: str) -> None:
        self._application = application
        self._prefix = prefix
        self._reference = prefix.split("/")[3]

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == self._prefix or path.startswith(self._prefix + "/"):
            value = f"{cookie(self._reference)}; Path=/; HttpOnly; SameSite=Strict"
            start_response(
                "302 Found", [("Location", "/dashboard/"), ("Set-Cookie", value), ("Content-Length", "0")]
            )
            return [b""]
        if not self._has_cookie(environ.get("HTTP_COOKIE", "")):
            return refuse(start_response, b"Open this board by its own address.\n")
        return self._application(environ, start_response)

    def _has_cookie(self, header: str) -> bool:
        try:
            morsel = SimpleCookie(header).get(_COOKIE)
        except CookieError:
            return False
        return morsel is not None and compare_digest(morsel.value.encode(), self._reference.encode())


def _is_sqlite(path: Path) -> bool:
    try:
        with open_plain(path) as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False
