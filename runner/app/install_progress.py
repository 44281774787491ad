"""Chooses what shows the progress of --install."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..settings.settings import Settings

if TYPE_CHECKING:
    from ..console.install_line import InstallLine


def install_progress(settings: Settings) -> InstallLine | None:
    """Return what shows that something is installed; None without --install."""
    if not settings.code.install:
        return None
    from ..console.install_line import InstallLine  # late: most runs install nothing

    return InstallLine(settings.console)
