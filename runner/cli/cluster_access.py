"""Opens the cluster that --on names, for the commands that work in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import SettingsError
from ..settings.cluster_options import CLUSTER_VARIABLE

if TYPE_CHECKING:
    from ..cluster.algorithm_store import AlgorithmStore


def store_of(on: str | None, tell: Callable[[str], None]) -> tuple[AlgorithmStore, str]:
    """Return the algorithms of the cluster, and the cluster's name. Raises SettingsError."""
    # Imported here to keep --help fast.
    from ..cluster.address import cluster_of
    from ..cluster.algorithm_store import AlgorithmStore
    from ..cluster.api import ClusterApi

    if on is None:
        raise SettingsError(f"which cluster? Give --on CLUSTER, or set {CLUSTER_VARIABLE}")
    cluster = cluster_of(on, os.environ, os.getcwd())
    return AlgorithmStore(ClusterApi(cluster, on_trouble=tell)), cluster.name
