"""What --algorithm, --pipeline and --datasource name, checked before the run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...sandbox.entry import EntryError, Location, locate
from ..errors import EntryNotFound, SettingsError
from ..loop import Loop
from ..output import Output
from ..settings import Settings
from .algorithms import Algorithms


def algorithms_of(
    loop: Loop, settings: Settings, output: Output, on_problem: Callable[[str], None]
) -> Algorithms:
    """Return the algorithms, their `offer` complete. Raises SettingsError, EntryNotFound."""
    locations = {name: _located(name, path, settings.cwd) for name, path in settings.algorithms.items()}
    algorithms = Algorithms(loop, settings, output, locations, on_problem)
    told: set[str] = set()

    def lacks(text: str) -> None:
        if text not in told:
            told.add(text)
            output.say(f"◌ {text}")

    algorithms.offer = replace(
        algorithms.offer,
        pipelines={name: _pipeline(name, path, settings.cwd) for name, path in settings.pipelines.items()},
        sources={name: _folder(name, path, settings.cwd) for name, path in settings.sources.items()},
        on_lack=lacks,
    )
    return algorithms


def _located(name: str, path: str, cwd: str) -> Location:
    try:
        return locate(path, None, cwd)
    except EntryError as error:
        raise EntryNotFound(f"--algorithm {name}: {error.code}: {error}") from None


def _folder(name: str, path: str, cwd: str) -> str:
    folder = os.path.abspath(os.path.join(cwd, os.path.expanduser(path)))
    if not os.path.isdir(folder):
        raise SettingsError(f"--datasource {name}: there is no folder {folder}")
    return folder


def _pipeline(name: str, path: str, cwd: str) -> dict[str, Any]:
    place = os.path.join(cwd, os.path.expanduser(path))
    try:
        with open(place, encoding="utf-8-sig") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--pipeline {name}: cannot read {path}: {error}") from None
    try:
        value = _yaml(text) if place.endswith((".yml", ".yaml")) else json.loads(text)
    except ValueError as error:
        raise SettingsError(f"--pipeline {name}: {path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise SettingsError(f"--pipeline {name}: {path} holds no object with nodes")
    return value


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
