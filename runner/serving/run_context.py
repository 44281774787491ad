"""What the parts of one run share: a local run, or the serving of a worker."""

from __future__ import annotations

from typing import NamedTuple

from ...boards.runs.store import Store
from ...sandbox.shared.entry import Location
from ..console.terminal import Output
from ..io.loop import Loop
from ..settings.settings import Settings
from .child_pool import Attach, ChildPool


class RunContext(NamedTuple):
    """One algorithm with its settings, and the loop, the terminal and the records that its run uses."""

    loop: Loop
    settings: Settings
    where: Location  #: the code
    output: Output
    store: Store | None  #: None: no records

    def with_new_store(self) -> RunContext:
        """Return the same with another store of the same folders: each supervisor closes its own."""
        if self.store is None:
            return self
        return self._replace(store=Store(self.store.root_text, metrics_root=self.store.metrics_root))

    def child_pool(self, attach: Attach | None = None) -> ChildPool:
        """Return a pool for the algorithm's processes, none of which is started yet.

        `attach`: see ChildPool.
        """
        if self.store is not None and self.settings.sandbox is not None:
            self.store.keep_metrics_apart()
        env = self.store.environment() if self.store is not None else {}
        return ChildPool(self.loop, self.settings, self.where, env, attach)
