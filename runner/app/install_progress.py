"""Chooses what shows the progress of --install."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..settings.settings import Settings

if TYPE_CHECKING:
    from ..console.live_line import LiveLine


def install_progress(settings: Settings) -> LiveLine | None:
    """Return what shows that something is installed; None without --install."""
    if not settings.code.install:
        return None
    from ..console.live_line import LiveLine  # late: most runs install nothing

    return LiveLine(settings.console)
