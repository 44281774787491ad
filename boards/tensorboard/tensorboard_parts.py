"""What TensorBoard is made of in a board: its plugins, and the files of its page."""

from __future__ import annotations

import contextlib
import importlib.metadata
import mimetypes
import sys
import zipfile
from collections.abc import Iterator
from typing import Any

from .assets import Assets


def load_plugins() -> tuple[list[Any], list[str]]:
    """Return TensorBoard's plugins and the installed ones, and a note for each that does not load."""
    from tensorboard import default

    plugins, notes = list(default.get_static_plugins()), []
    for entry in importlib.metadata.entry_points(group="tensorboard_plugins"):
        try:
            plugins.append(entry.load())
        except Exception as error:  # noqa: BLE001 - foreign code; the board serves without it
            notes.append(f"the plugin {entry.name} does not load: {type(error).__name__}: {error}")
    return plugins, notes


@contextlib.contextmanager
def without_remote_files() -> Iterator[None]:
    """TensorBoard, imported in this context, does not import the libraries for files on other machines.

    A board's files are on this one, and importing boto3, where it is installed, adds a fifth to the time that
    TensorBoard takes. The plugins that are loaded afterwards find these libraries.
    """
    hidden = [name for name in ("boto3", "fsspec") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not to be found
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


def shipped_assets() -> Assets | None:
    """Return TensorBoard's files; None in a version that keeps them elsewhere, and serves them itself."""
    try:
        from tensorboard.assets import get_default_assets_zip_provider

        provider = get_default_assets_zip_provider()
        # Types that a system's own table gets wrong (TensorBoard's program.py has the reports).
        mimetypes.add_type("text/javascript", ".js")
        mimetypes.add_type("font/woff2", ".woff2")
        return Assets(provider) if provider else None
    except (ImportError, OSError, zipfile.BadZipFile):
        return None
