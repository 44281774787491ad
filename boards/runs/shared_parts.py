"""What the records of one store have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .layout import Layout
from .task_metrics import EarlierMetrics, MetricsPlaces

if TYPE_CHECKING:
    from .journal import Journal


@dataclass
class SharedParts:
    """The parts that a store hands to each of its records."""

    layout: Layout
    metrics: MetricsPlaces
    earlier: EarlierMetrics
    stream_limit_bytes: int
    journal: Journal | None  #: None: each task has a folder
