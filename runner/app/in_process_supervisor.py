"""The supervisor of --in-process: gets its settings from the user's process, which is the child."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
from typing import NoReturn

from ...sandbox.linux.kernel import hide_from_same_user
from ...sandbox.linux.remove_tree import remove_tree
from ..errors import HkrunnerError
from ..io.standard_streams import fill_standard_streams, write_to_stderr
from .in_process import UserProcessAttachment
from .run import run_with


def begin() -> NoReturn:
    """Run the supervisor, and exit with its status.

    sys.argv holds the pid of the process above, and five descriptors: its three sockets, the file for the
    stack of a crash, and the file with the pickled settings.
    """
    pid, tasks, control, news, fault, order = map(int, sys.argv[1:7])
    with os.fdopen(order, "rb") as file:
        settings, where = pickle.load(file)
    for fd in (tasks, control, news, fault):
        os.set_inheritable(fd, False)
    with contextlib.suppress(OSError):
        hide_from_same_user()
    fds = {"tasks": tasks, "control": control, "news": news, "fault": fault}
    fill_standard_streams()
    has_failed = False
    try:
        status = run_with(settings, where, UserProcessAttachment(pid, fds))
    except HkrunnerError as error:
        write_to_stderr(f"hkrunner: {error}\n")
        status = error.exit_status
    except (OSError, RuntimeError, MemoryError, SystemError) as error:
        from .surroundings import explain

        sentence = explain(error)
        if sentence is None:
            raise
        write_to_stderr(f"hkrunner: {sentence}\n")
        status, has_failed = 1, True
    if has_failed or os.getppid() != pid:  # the user's process ends without removing its folders
        for folder in settings.code.temporary_folders:
            remove_tree(folder)
    sys.exit(status)
