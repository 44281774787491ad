"""TensorBoard's application over data of our own.

TensorBoard makes its data provider itself and takes none from outside. So it is configured with plugins that
do not load, but keep what they would be loaded with. The application that serves is made of the real plugins.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from tensorboard.backend import application
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams.hparams_plugin import HParamsPlugin

from .run_data import RunData
from .run_view import ShownRuns


class UnloadedPlugin(base_plugin.TBLoader):  # type: ignore[misc]
    """A plugin that defines its flags and does not load."""

    def __init__(self, plugin: Any, contexts: list[Any]) -> None:
        """plugin: as TensorBoard takes it. contexts: gets what the plugin would be loaded with."""
        self._loader = application.make_plugin_loader(plugin)
        self._contexts = contexts

    def define_flags(self, parser: Any) -> None:
        """Define the plugin's flags."""
        self._loader.define_flags(parser)

    def fix_flags(self, flags: Any) -> None:
        """Check the plugin's flags."""
        self._loader.fix_flags(flags)

    def load(self, context: Any) -> None:
        """Keep the context."""
        self._contexts.append(context)


class HParamsLoader(base_plugin.TBLoader):  # type: ignore[misc]
    """Loads the HParams tab with data of its own."""

    def __init__(self, data: RunData) -> None:
        """data: what the tab reads."""
        self._data = data

    def load(self, context: Any) -> Any:
        """Return the plugin."""
        own = copy.copy(context)
        own.data_provider = self._data
        return HParamsPlugin(own)


class TaskApplication:
    """Makes TensorBoard's application for the tasks of one board."""

    def __init__(self, plugins: list[Any], shown: Callable[[], ShownRuns]) -> None:
        """plugins: TensorBoard's own and the installed ones. shown: what the board shows now."""
        self._plugins = plugins
        self._shown = shown
        self._contexts: list[Any] = []

    def unloaded_plugins(self) -> list[Any]:
        """Return the plugins to configure TensorBoard with."""
        return [UnloadedPlugin(plugin, self._contexts) for plugin in self._plugins]

    def make(self) -> Any:
        """Return the application, once TensorBoard has made its own."""
        context = self._contexts[0]
        source = context.data_provider
        hparams = HParamsLoader(RunData(source, self._shown, has_resources=False))
        return application.TensorBoardWSGIApp(
            context.flags,
            [hparams if plugin is HParamsPlugin else plugin for plugin in self._plugins],
            RunData(source, self._shown),
            context.assets_zip_provider,
            context.multiplexer,
        )
