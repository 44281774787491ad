"""A worker of hkrunner.Pool: once its code is loaded, the user's process itself talks to it about tasks."""

from __future__ import annotations

from ..shared.task_marks import TaskMarks
from .child_channel import FramedChannel
from .warded_child import WardedChild


class PooledChild(WardedChild):
    """A warded child whose task socket goes to another process after Loaded."""

    def hand_over(self) -> tuple[int, int]:
        """Read its messages no longer; return the task socket, and the file with its TaskMarks.

        Both stay open here: the socket is ended by exit(), and the file has the stacks of a crash.
        """
        assert isinstance(self._channel, FramedChannel), "it is our own child"
        return self._channel.leave_to_another(), self._fault

    def running(self) -> tuple[int, float]:
        """Return TaskMarks.running() of a worker that was handed over."""
        return TaskMarks(self._fault).running()

    def _task_began_at(self) -> float:
        return self.running()[1]
