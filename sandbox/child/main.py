"""The child's main: takes its channel out of the user's reach, loads the entry, serves task after task.

Theory of operation
-------------------
The main thread reads the *task socket* and runs the user's init and start (task_server.py): signals, plotting
and deep-learning libraries want the main thread. The control thread reads the *control socket*, so a stop is
heard while start() runs; the user's stop() has a thread of its own (stop_control.py). Everything goes back
over the task socket, whole frames under one lock (frame_socket.py). What is said is in shared/messages.py.

Descriptors: 0 is empty, 1 and 2 are pipes to the parent, the two sockets, the file for faulthandler and the
kernel's list of our children are above 100 and closed on exec, so programs started by the user never see
them. A process that the user's code forks has them: it never writes, because every frame checks the pid.

The order at the end of a task: the user's output is flushed, the result is kept in the task's folder,
then Done or Failed goes out. No time limit of a task is enforced here: the parent has the timers, and kills.

Runs on Python 3.8 and newer; imports the standard library and our own few modules only.
"""

from __future__ import annotations

import _socket
import faulthandler
import gc
import os
import sys
from typing import FrozenSet, NoReturn

from ..shared.channel import LAST_STACK_SIGNAL, STACK_SIGNAL
from ..shared.import_messages import DeepImport
from .await_stacks import write_await_stacks
from .deep_imports import DeepImports
from .exit_stack import write_exit_stack
from .frame_socket import FrameSocket, move_high, receive_setup
from .memory_reserve import notice_lost_threads, report_threads_without_memory
from .own_modules import keep_own_modules
from .shared_memory_reports import report_shared_memory
from .task_server import TaskServer
from .whole_messages import keep_messages_whole


def main(bare: FrozenSet[str], collects: bool) -> NoReturn:
    """Run as the child; argv: role, task socket, control socket, file for faulthandler's stacks, and the pipe
    in which to report what it makes of shared memory, if there is one.

    `bare`: the modules that the interpreter came up with. `collects`: whether garbage is collected once our
    own modules are imported, as when the interpreter came up.
    """
    tasks, control, fault = (move_high(int(number)) for number in sys.argv[2:5])
    faulthandler.enable(fault, all_threads=True)
    write_exit_stack(fault)
    write_await_stacks(STACK_SIGNAL, fault)
    faulthandler.register(STACK_SIGNAL, fault, all_threads=True, chain=True)
    # Chained to the signal's default action, which ends the process.
    faulthandler.register(LAST_STACK_SIGNAL, fault, all_threads=True, chain=True)
    for number in sys.argv[5:6]:
        report_shared_memory(move_high(int(number)))
    try:
        server = _server(tasks, control, fault)
    except (MemoryError, SystemError):  # see start.py
        os._exit(1)  # the warden knows of the limit, which leaves no room for any code of the user's
    keep_own_modules()
    # As for a script: an argparse of the user's must not meet our arguments.
    sys.argv[:] = [server.program]
    if collects:
        gc.enable()
    server.run(bare)


def _server(tasks: int, control: int, fault: int) -> TaskServer:
    channel = FrameSocket(tasks)
    setup = receive_setup(channel)
    if setup is None:
        sys.exit(0)
    keep_messages_whole()
    notice_lost_threads(stacks_count=setup.brake_bytes is not None)
    if setup.is_pooled:
        from .pool_task_server import PoolTaskServer

        server: TaskServer = PoolTaskServer(channel, _socket.socket(fileno=control), setup, fault)
    else:
        server = TaskServer(channel, _socket.socket(fileno=control), setup)
    report_threads_without_memory(server.reserve, server.thread_lost)
    # Before the finders that find modules.
    sys.meta_path.insert(0, DeepImports(lambda place: channel.send(0, DeepImport(place))))
    return server
