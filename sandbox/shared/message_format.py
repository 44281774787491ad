"""Declares messages, and converts them to frames and back by their declared fields.

The fields of a message are a JSON object, without those that have their default value. A field `wire` holds
the bytes of one of HKube's messages, unchanged: they follow after a line feed, or are the whole body if there
is no other field. The child may send anything: decode() checks its messages against the declared fields, and
raises ChannelError for anything else.

The classes are frozen dataclasses to a type checker. They are not made by `dataclasses`, for which every
child and warden would wait: its import takes 9 to 16 ms of a start of 30 ms, and each class 0.4 ms more
(a NamedTuple 0.05 ms). The metaclass below takes 0.01 ms a class.

This module also runs inside the child, on Python 3.8 and newer.
"""

from __future__ import annotations

import json
import os
import sys
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    FrozenSet,
    Mapping,
    NamedTuple,
    Optional,
    Tuple,
    Type,
    Union,
)

from .channel import HEADER, INLINE_LIMIT, VERSION, ChannelError, Frame

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**options):
        """Return the class unchanged: only type checkers need the decorator."""
        return lambda decorated: decorated


#: Version of messages.py, increased whenever a message changes.
PROTOCOL_VERSION = 8


class Memfd(NamedTuple):
    """The bytes of a large message in a memfd; the receiver of the message closes the descriptor."""

    fd: int
    size: int


Wire = Union[bytes, Memfd]
_WIRE = frozenset(("wire",))


@dataclass_transform(frozen_default=True)
class _MessageType(type):
    """Collects the annotated fields of a class and its bases; default values stay attributes of the class."""

    #: The annotation of each field, as written.
    fields: Dict[str, str]
    defaults: Dict[str, Any]
    required: FrozenSet[str]  #: the fields without a default
    is_wire: bool  #: whether `wire` is the only field

    def __new__(mcs, name: str, bases: Tuple[Any, ...], namespace: Dict[str, Any]) -> Any:
        fields: Dict[str, str] = {}
        defaults: Dict[str, Any] = {}
        for base in bases:
            fields.update(base.fields)
            defaults.update(base.defaults)
        own = namespace.get("__annotations__", {})
        fields.update(own)
        defaults.update({field: namespace[field] for field in own if field in namespace})
        namespace.update(fields=fields, defaults=defaults, required=frozenset(fields.keys() - defaults))
        namespace["is_wire"] = list(fields) == ["wire"]
        return super().__new__(mcs, name, bases, namespace)


class ProcessMessage(metaclass=_MessageType):
    """Base of all messages, and of the records inside them."""

    #: Number of the message in the header of its frame; 0 for a record inside a message.
    kind = 0

    def __init__(self, *values: Any, **named: Any) -> None:
        # Only what is given: each task makes several messages, and most fields have their defaults.
        cls, given = type(self), self.__dict__
        if values:
            given.update(zip(cls.fields, values))
        if named:
            given.update(named)
        if named or not values:
            assert cls.required <= given.keys() <= cls.fields.keys(), f"{cls.__name__}: {list(given)}"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash((type(self), repr(self)))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.as_dict().items())
        return f"{type(self).__name__}({shown})"

    def as_dict(self) -> Dict[str, Any]:
        """Return the fields by name."""
        cls = type(self)
        return {**cls.fields, **cls.defaults, **vars(self)}  # in the order of the fields

    def replace(self, **changes: Any) -> Any:
        """Return a copy with other values for these fields."""
        return type(self)(**{**self.as_dict(), **changes})


# ---- to frames and back


def encode(task: int, message: ProcessMessage) -> bytes:
    """Return the frame of a message whose bytes travel in the stream."""
    body = body_of(message)
    assert len(body) <= INLINE_LIMIT, "a larger body goes into a memfd"
    return HEADER.pack(VERSION, message.kind, 0, task, len(body)) + body


def body_of(message: ProcessMessage) -> bytes:
    """Return the body of a message's frame, for one whose `wire` is not in a memfd."""
    given = message.__dict__
    if not given:
        return b""
    cls = type(message)
    if cls.is_wire:
        wire_only: bytes = given["wire"]
        return wire_only
    defaults = cls.defaults
    told = {}
    wire: Optional[bytes] = None
    for name, value in given.items():
        if name == "wire":
            wire = value
        elif name not in defaults or value != defaults[name]:
            told[name] = _plain(value)
    # Text from user code may hold lone surrogates: ASCII JSON carries them.
    text = json.dumps(told).encode() if told else b""
    return text if wire is None else b"%b\n%b" % (text, wire)


def _plain(value: Any) -> Any:
    if isinstance(value, ProcessMessage):
        return {name: _plain(one) for name, one in value.as_dict().items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


def decode(frame: Frame, known: Mapping[int, Type[ProcessMessage]]) -> ProcessMessage:
    """Return the message in a frame; its descriptor, if any, is the message's from here on.

    Raises ChannelError when it is none of the known kinds, or not of its declared shape; the descriptor is
    closed then.
    """
    cls = known.get(frame.kind)
    try:
        if cls is None:
            raise ValueError("a kind nobody sends")
        if frame.fd is not None:
            if not cls.is_wire or cls.fields["wire"] != "Wire":
                raise ValueError("a descriptor nobody asked for")
            return cls(Memfd(frame.fd, frame.size))
        return _from_body(cls, frame.body)
    except (ValueError, RecursionError) as error:
        if frame.fd is not None:
            os.close(frame.fd)
        raise ChannelError(f"frame {frame.kind} with a bad body: {error}") from None


def _from_body(cls: Type[ProcessMessage], body: bytes) -> ProcessMessage:
    if cls.is_wire:
        return cls(body)
    if not cls.fields:
        return cls()
    if "wire" not in cls.fields:
        return cls(**_read_fields(cls, body))
    text, _, wire = body.partition(b"\n")
    return cls(wire, **_read_fields(cls, text))


def _read_fields(cls: Type[ProcessMessage], text: bytes) -> Dict[str, Any]:
    if not text and cls.required <= _WIRE:
        return {}
    told = json.loads(text) if text else {}
    if type(told) is not dict:
        raise ValueError(f"{type(told).__name__} instead of an object")
    # Before anything else: another version may have other fields.
    if "version" in cls.fields and told.get("version") != PROTOCOL_VERSION:
        raise ValueError(
            f"version {told.get('version')!r} of hkrunner's own protocol instead of {PROTOCOL_VERSION}: was "
            "hkrunner replaced while it ran? Start it again"
        )
    return _checked(cls, told, cls.__name__)


def _checked(cls: Type[ProcessMessage], told: Dict[str, Any], where: str) -> Dict[str, Any]:
    readers = _READERS.get(cls)
    if readers is None:
        __import__(cls.__module__)  # the user's code may have emptied sys.modules
        readers = _READERS[cls] = {
            name: _reader(text, sys.modules[cls.__module__])
            for name, text in cls.fields.items()
            if name != "wire"
        }
    missing = [name for name in readers if name not in told and name not in cls.defaults]
    unknown = [name for name in told if name not in readers]
    if missing or unknown:
        raise ValueError(
            f"{where} without {missing[0]}" if missing else f"{where} has no {unknown[0][:80]!r}"
        )
    return {name: readers[name](value, f"{where}.{name}") for name, value in told.items()}


_Reader = Callable[[Any, str], Any]
#: The readers of a class's fields, made when its first message comes.
_READERS: Dict[Type[ProcessMessage], Dict[str, _Reader]] = {}
_INT_MAX = 2**64
_PLAIN: Dict[str, Tuple[type, ...]] = {"int": (int,), "float": (float, int), "str": (str,), "bool": (bool,)}


def _reader(annotation: str, module: Any) -> _Reader:
    """Return what checks a value against a field's annotation, and turns it into the declared type.

    `module`: where the classes of records that the annotation names are declared. Files that do not run in
    the child have the notation of Python 3.10."""
    if annotation == "Any":
        return lambda value, where: value
    if annotation.endswith(" | None"):
        annotation = f"Optional[{annotation[: -len(' | None')]}]"
    if annotation in _PLAIN:
        return _plain_reader(annotation, _PLAIN[annotation])
    outer, _, inner = annotation.partition("[")
    inner = inner[:-1]
    if outer == "Optional":
        read = _reader(inner, module)
        return lambda value, where: None if value is None else read(value, where)
    if outer in ("List", "list"):
        return _list_reader(_reader(inner, module))
    if outer in ("Dict", "dict"):
        return _dict_reader(_reader(inner.partition(", ")[2], module))
    return _record_reader(vars(module)[annotation])


def _plain_reader(name: str, types: Tuple[type, ...]) -> _Reader:
    def read(value: Any, where: str) -> Any:
        if type(value) not in types:  # not isinstance: True is an int
            raise ValueError(f"{where} is {type(value).__name__} instead of {name}")
        # A larger one would raise OverflowError wherever it meets a float.
        if type(value) is int and abs(value) > _INT_MAX:
            raise ValueError(f"{where} has more than 64 bits")
        return value

    return read


def _list_reader(read_one: _Reader) -> _Reader:
    def read(value: Any, where: str) -> Any:
        if type(value) is not list:
            raise ValueError(f"{where} is {type(value).__name__} instead of a list")
        return [read_one(one, where) for one in value]

    return read


def _dict_reader(read_one: _Reader) -> _Reader:
    def read(value: Any, where: str) -> Any:
        if type(value) is not dict:
            raise ValueError(f"{where} is {type(value).__name__} instead of an object")
        return {name: read_one(one, where) for name, one in value.items()}

    return read


def _record_reader(record: Type[ProcessMessage]) -> _Reader:
    def read(value: Any, where: str) -> Any:
        if type(value) is not dict:
            raise ValueError(f"{where} is {type(value).__name__} instead of an object")
        return record(**_checked(record, value, where))

    return read
