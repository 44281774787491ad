"""The supervising process of an hkrunner.Pool begins here: it reads its settings, and serves the Pool."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from ..io.signals import reset_inherited_signals

if TYPE_CHECKING:
    from ...sandbox.shared.supervision_messages import Supervise

#: Argument of `python -c`; see begin.py.
PROGRAM = (
    "import sys; sys.path[:] = filter(None, sys.path);"
    "from hkrunner.runner.entry_point import look_last_in_python_path; look_last_in_python_path();"
    "from hkrunner.runner.python_api.pool_begin import begin; begin()"
)
#: Open files for each worker: 10 measured, more while one is replaced.
OPEN_FILES_OF_A_WORKER = 14


def begin() -> NoReturn:
    """Supervise workers until the Pool ends; sys.argv holds the caller's pid and the number of the socket."""
    from .begin import end_with_caller

    end_with_caller(int(sys.argv[1]))
    reset_inherited_signals()
    from ..entry_point import leave
    from ..errors import HkrunnerError
    from ..io.standard_streams import fill_standard_streams

    fill_standard_streams()
    pool = socket.socket(fileno=int(sys.argv[2]))
    pool.set_inheritable(False)
    from ...sandbox.parent import warden_launch

    warden_launch.prepare()
    try:
        _, fds, _, _ = socket.recv_fds(pool, 1, 2, socket.MSG_CMSG_CLOEXEC)
        if fds:
            _supervise(pool, _read_order(fds[0]), fds[1] if len(fds) > 1 else None)
    except HkrunnerError as error:
        _refuse(pool, error.exit_status, str(error))
    except Exception as error:
        _refuse(pool, 1, f"hkrunner's supervising process has ended: {type(error).__name__}: {error}")
        raise
    leave(SystemExit(0))


def _refuse(pool: socket.socket, status: int, message: str) -> None:
    """Tell the Pool why this process cannot go on; `status`: the exit status of a command with this error."""
    from ...sandbox.shared.datagrams import DATAGRAM_MAX, cut, datagram_of
    from ...sandbox.shared.supervision_messages import PoolRefused

    refusal = PoolRefused(status, cut(message, DATAGRAM_MAX // 2))
    with contextlib.suppress(OSError):  # the Pool is gone
        pool.sendmsg([datagram_of(refusal)])


def _read_order(fd: int) -> Supervise:
    from ...sandbox.shared.channel import Frame
    from ...sandbox.shared.message_format import decode
    from ...sandbox.shared.supervision_messages import TO_SUPERVISOR, Supervise

    with open(fd, "rb") as file:
        order = decode(Frame(Supervise.kind, 0, file.read()), TO_SUPERVISOR)
    assert isinstance(order, Supervise), "its kind is declared so"
    return order


def _supervise(pool: socket.socket, order: Supervise, function: int | None) -> None:
    """Supervise; `function`: the file with the pickled function of the Pool, if it has one."""
    from ...sandbox.linux.kernel import hide_from_same_user
    from ...sandbox.shared.entry import Location
    from ...sandbox.shared.message_format import PROTOCOL_VERSION, Memfd
    from ...sandbox.shared.supervision_messages import TO_SUPERVISOR, PoolReady
    from ..app.pool_supervisor import PoolSupervisor
    from ..app.run_signals import obey_signals
    from ..console.terminal import Output
    from ..io.loop import Loop
    from ..io.message_socket import MessageSocket
    from ..prepare.prepare import prepare
    from ..settings.open_files import check_open_files

    with contextlib.suppress(OSError):
        hide_from_same_user()
    with contextlib.ExitStack() as stack:
        settings = _settings(order)
        check_open_files(f"{order.processes} processes need", order.processes, OPEN_FILES_OF_A_WORKER)
        own = Location(os.getcwd(), "", "function", "") if function is not None else None
        settings, where = prepare(settings, os.environ, stack, where=own)
        loop = Loop()
        stack.callback(loop.close)
        output = Output(
            loop, local=False, quiet=True, encoding=getattr(sys.stderr, "encoding", None) or "utf-8"
        )
        stack.callback(output.close)
        pickled = Memfd(function, os.fstat(function).st_size) if function is not None else None
        supervisor = PoolSupervisor(loop, settings, where, output, pickled)
        supervisor.channel = MessageSocket(
            loop, pool, TO_SUPERVISOR, supervisor.on_message, lambda error: supervisor.end(now=True)
        )
        stack.callback(supervisor.channel.close)
        obey_signals(loop, lambda status: supervisor.end(now=True))
        limits = settings.limits
        timeout_s = limits.task_timeout_s if limits.enforced else None
        records = _records(settings, where.shown if own is None else "")
        supervisor.channel.send(PoolReady(PROTOCOL_VERSION, limits.to_json(), timeout_s, records))
        loop.run()


def _settings(order: Supervise) -> Any:
    """Return the settings for the options of the Pool, with those that variables and a descriptor set."""
    from ..cli.run import values_of
    from ..settings.from_options import settings_of

    values = values_of(order.arguments)
    if order.is_function:
        # The variables and files that say where an algorithm is have nothing to do with a function.
        values.update(entry=None, path=None, file=None)
    return settings_of(values, os.environ, finds_descriptor=not order.is_function)


def _records(settings: Any, entry: str) -> dict[str, Any] | None:
    """Return what the Pool needs to record its tasks; None: it does not. `entry`: empty for a function."""
    records = settings.records
    if records.state_dir is None:
        return None
    return {
        "folder": records.state_dir,
        "entry": entry,
        # Variables may be secrets: those that hkrunner.run() gets are not recorded either.
        "settings": {name: value for name, value in records.options.items() if entry and name != "env"},
        "valuesBytes": records.keep_values_bytes,
        "keep": records.keep,
    }
