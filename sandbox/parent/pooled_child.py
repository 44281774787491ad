"""A worker of hkrunner.Pool: once its code is loaded, the user's process itself talks to it about tasks."""

from __future__ import annotations

from .warded_child import WardedChild


class PooledChild(WardedChild):
    """A warded child whose task socket goes to another process after Loaded."""

    def hand_over(self) -> tuple[int, int]:
        """Read its messages no longer; return the task socket, and the file with its TaskMarks.

        Both stay open here: the socket is ended by exit(), and the file has the stacks of a crash.
        """
        self._said.close()
        return self._tasks.fileno(), self._fault
