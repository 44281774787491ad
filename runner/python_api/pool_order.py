"""The order with which the supervising process of a Pool begins; see pool_begin.py."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ...sandbox.shared.message_format import PROTOCOL_VERSION
from ...sandbox.shared.supervision_messages import Supervise
from ..errors import SettingsError
from .keywords import POOL_KEYWORDS, arguments, check_variables
from .pool_coding import ENCODING, FileCoding, FunctionCoding

#: Paths of this machine, which a relative path names.
_PATHS = ("python", "path", "file")


def order_of(
    coding: FunctionCoding | FileCoding, options: Mapping[str, Any], *, processes: int, records: bool | None
) -> Supervise:
    """Return the order for a Pool with these options; raises SettingsError, TypeError for unknown ones."""
    is_function = isinstance(coding, FunctionCoding)
    try:
        os.getcwd()
    except OSError as error:
        raise SettingsError(f"the working folder, in which the tasks would run: {error.strerror}") from None
    words = list(arguments(options, POOL_KEYWORDS, of="Pool"))
    if isinstance(coding, FunctionCoding):
        for name in _PATHS:
            if options.get(name) is not None:
                raise SettingsError(f"{name} is for a Pool of a file; a function runs as it does here")
    else:
        words.append(f"--entry={coding.entry}")
    if records is None:
        records = not is_function or options.get("state_dir") is not None
    if not records:
        words.append("--no-state")
    words += ["--tasks=-", f"--encoding={ENCODING}", f"--parallel={processes}"]
    env = options.get("env") or {}
    check_variables(env)
    words += [f"--env={name}={value}" for name, value in env.items()]
    return Supervise(PROTOCOL_VERSION, words, is_function, processes)


def order_on_executor(
    coding: FunctionCoding | FileCoding, options: Mapping[str, Any], *, processes: int, records: bool | None
) -> Supervise:
    """Return the order for the workers that an executor's machines start for one task at a time."""
    if records or options.get("state_dir") is not None:
        raise SettingsError("the tasks of a Pool with an executor have no records")
    for name in ("total_mem", "total_cpu"):
        if options.get(name) is not None:
            raise SettingsError(
                f"{name} is for a Pool with workers of its own; with an executor use {name[6:]}"
            )
    there = dict(options)
    for name in _PATHS:
        # A command such as python3.12 is searched there.
        if (value := there.get(name)) is not None and os.sep in os.fspath(value):
            there[name] = os.path.abspath(value)
    if isinstance(coding, FileCoding):
        coding.make_path_absolute()
    return order_of(coding, there, processes=processes, records=False)
