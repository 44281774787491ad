"""Starts a program as a child: the same warden, limits and ends as those of our own, with another channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...sandbox.codec.codec import MESSAGE_LIMIT
from ...sandbox.parent.child_handle import ChildListener
from ...sandbox.parent.warded_child import WardedChild
from ...sandbox.shared.limits import Limits
from ..io.loop import Loop
from ..link.frames import MESSAGE_MAX
from .channel import ProgramChannel


def start_program(
    loop: Loop,
    listener: ChildListener | None,
    *,
    command: Sequence[str],
    cwd: str,
    env: Mapping[str, str],
    encoding: str,
    limits: Limits,
    folders: Sequence[str],
    temporary_folders: Sequence[str],
    reported: set[str],
    is_unlimited: bool,
) -> WardedChild:
    """Return the handle of a program that is being started.

    The arguments are those of WardedChild, Conversation and Setup. Raises OSError when no port is free, or
    the warden could not be executed.
    """
    channel = ProgramChannel(
        loop,
        encoding,
        reported,
        message_s=limits.task_timeout_s if limits.enforced else None,
        most_bytes=MESSAGE_MAX if is_unlimited else MESSAGE_LIMIT,
    )
    try:
        child = WardedChild(
            loop,
            listener,
            argv=command,
            cwd=cwd,
            env={**env, **channel.variables},
            setup=None,
            limits=limits,
            channel=channel,
            folders=folders,
            temporary_folders=temporary_folders,
        )
    except OSError:
        channel.close()
        raise
    channel.pids = child.pids
    return child
