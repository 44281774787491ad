"""What the kernel enforces on the child and its descendants by itself: control group, rlimits, Landlock.

All of it is made before the child is executed, and every process that the child starts inherits it.
"""

from __future__ import annotations

import contextlib
import os

from ..linux import cgroup, kernel, landlock, scheduling
from ..shared.isolation_policy import Isolation
from ..shared.limits import Limits
from ..shared.messages import Protection
from .rlimits import count_user_tasks, leave_no_core_file, rlimits_of, set_rlimits

#: When the machine runs out of memory, the kernel kills the algorithm before hkrunner.
OOM_SCORE = 500


class Confinement:
    """Made in the warden before the fork, entered between fork and exec, removed after the last process."""

    def __init__(self, limits: Limits, *, ours: list[int]) -> None:
        """Make the control group, where possible. `ours`: the pids of hkrunner's own processes."""
        self._limits = limits
        self._group: cgroup.Cgroup | None = None
        self._join = -1  #: descriptor by which the child joins the group
        self._refusal: cgroup.Refusal | None = None
        if limits.enforced and (limits.memory_bytes or limits.cpu_cores or limits.pids):
            self._make_group(ours)
        tasks = count_user_tasks() if limits.pids is not None and os.getuid() != 0 else None
        self._rlimits = rlimits_of(limits, user_tasks=tasks)

    def _make_group(self, ours: list[int]) -> None:
        place = cgroup.find(may_move=ours)
        if isinstance(place, cgroup.Refusal):
            self._refusal = place
            return
        try:
            self._group = cgroup.Cgroup(place, self._limits)
            self._join = self._group.open_for_join()
        except OSError as error:
            self._refusal = cgroup.Refusal(f"the kernel refused a cgroup: {error.strerror}")

    @property
    def holds_cpu(self) -> bool:
        """Whether the kernel enforces the CPU limit."""
        return self._group is not None and self._group.holds("cpu")

    def describe(self, sandbox: str = "", isolation: Isolation | None = None) -> Protection:
        """Return which limits are enforced, and how, for `-v` and --json.

        `sandbox`: the level of the isolation; "": there is none.
        """
        abi = landlock.abi()
        signals = abi >= landlock.SCOPES_SINCE_ABI or sandbox == "full"
        level = "cgroup" if self._group is not None else "sampling"
        line = cgroup.describe(self._limits, self._group, self._refusal)
        if not sandbox or isolation is None:
            return Protection(line, level, signals)
        from ..isolation.remedies import not_prevented  # late: most have none

        open_to_it = not_prevented(sandbox, abi, network=isolation.network)
        return Protection(line, level, signals, sandbox=sandbox, not_prevented=open_to_it)

    def enter(self, *, is_isolated: bool = False) -> None:
        """Confine this process; called in the child, between fork and exec.

        `is_isolated`: it is going to be isolated, with a ruleset of Landlock that has more.
        """
        if self._join >= 0:
            cgroup.Cgroup.join(self._join)
        with contextlib.suppress(OSError):
            kernel.show_to_same_user()
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(OOM_SCORE))
        if self._limits.enforced and self._limits.memory_bytes is not None:
            scheduling.step_back()
        set_rlimits(self._rlimits)
        if self._limits.enforced:
            leave_no_core_file()
        if is_isolated:
            return
        if self._group is not None or cgroup.is_ours_to_write():
            # Else it could raise its limits there, leave its group, or kill hkrunner by cgroup.kill.
            handled = landlock.WRITE_FILE | landlock.REFER
            landlock.confine(handled_fs=handled, rules=landlock.all_but_sys())
        else:
            landlock.confine()

    def entered(self) -> None:
        """Close what only the child needed; called in the warden, after the fork."""
        if self._join >= 0:
            os.close(self._join)
            self._join = -1

    def kill(self) -> None:
        """Have the kernel kill the whole group, where there is one."""
        if self._group is not None:
            self._group.kill()

    def events(self) -> cgroup.Events | None:
        """Return what the kernel has counted in the group; None without a group."""
        return self._group.read() if self._group is not None else None

    def remove(self) -> None:
        """Remove the group; called after its last process has ended."""
        if self._group is not None:
            self._group.remove()
