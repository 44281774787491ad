"""Stands in for `typing` while our own modules are imported in the child and the warden.

Our annotations are never evaluated; what is left of typing at run time are a few aliases and NamedTuple. The
module itself costs 2 ms of each start, and 0.7 MB for as long as a process lives. start.py takes this one out
again before anything else is imported: whoever imports typing then gets the real one.
"""

from __future__ import annotations

import collections

TYPE_CHECKING = False


class _Kind(type):
    """The kind of a name that only says something to type checkers: `Union[int, str]` is one too."""

    def __getitem__(cls, what: object) -> type:
        return cls


def __getattr__(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    # A class of its own for each: they must not be taken for one another.
    found = globals()[name] = _Kind(name, (), {})
    return found


class _Named(type):
    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, object]) -> type:
        if not bases:
            return super().__new__(mcs, name, bases, namespace)
        annotations = namespace.get("__annotations__")
        fields = list(annotations) if isinstance(annotations, dict) else []
        defaults = [namespace[one] for one in fields if one in namespace]
        module = str(namespace["__module__"])
        made: type = collections.namedtuple(name, fields, defaults=defaults, module=module)  # type: ignore[misc]
        for key, value in namespace.items():
            if key not in fields and key not in ("__annotations__", "__module__", "__qualname__"):
                setattr(made, key, value)
        return made


class NamedTuple(metaclass=_Named):
    """As typing's: the annotations of a class made from it are its fields, their values the defaults."""
