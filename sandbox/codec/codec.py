"""HKube's messages as bytes, on the child's side: a message is decoded once and an answer encoded once.

`json`, `bson` and `msgpack`, framed as HKube frames them (the bson document is `{data: message}`); and
`socket.io`, which is json with bytes (attachments.py).
msgspec does json and msgpack where it is installed (6 to 10 times faster than the standard library's
json, measured on 50,000 floats and 20,000 rows); without it json is the standard library's.

What a result may hold beyond the types of the encoding is converted where there is one honest way:

    numpy scalars and arrays, tensors, Arrow scalars   numbers and lists
    and arrays, pandas' and polars' Series, anything
    with tolist()
    tuple, set, frozenset, deque, range, a Sequence    list
    dataclass, attrs class, msgspec.Struct, Mapping,   object (a model of one root value: that value)
    pydantic model
    namedtuple                                         list (a row of sqlite3, a record of numpy: object)
    datetime, date, time, timedelta, UUID, Path,       text (Enum: its value); bson keeps datetimes
    Enum, Decimal, datetime64, timedelta64, Period,
    Interval
    pandas.NA, NaT                                     null
    bytes                                              base64 text under json; as they are otherwise
    NaN, Infinity                                      null under json; as they are otherwise
    int keys                                           text
    int                                                as it is; HKube's worker, being JavaScript, rounds
                                                       above 2**53 under json and msgpack

Anything else is a ResultInvalid that names the place, and the call that helps where one is certain to:
`result['a'][3]: pandas.DataFrame cannot be sent; use its .to_dict("records")`. A Series whose index has a
name, texts or times is one of these: a list would lose the index. Python 3.8 and newer.

msgspec and bson have conversions of their own for some of these, which differ from one another (a dataclass
without its private fields, a zone written as Z). So a value that holds more than JSON's own types goes the
second, slow way at once, which is the same for all: as far as a look at its first LOOKED_AT values tells.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import gc
import json
import os
from collections import abc
from typing import Any, Callable, Dict, List, Mapping, Optional, Union

from . import large_values, lean_msgspec
from .plain_values import DEPTH_MAX as DEPTH_MAX  # part of what this module offers
from .plain_values import LOOKED_AT as LOOKED_AT
from .plain_values import ResultInvalid as ResultInvalid
from .plain_values import has_too_many
from .plain_values import is_native as is_native
from .plain_values import plain as plain

Buffer = Union[bytes, bytearray, memoryview]
#: From this size on a message is worth the import of msgspec (as long as json.loads() of a megabyte).
LARGE = 256 * 1024
#: Up to this size a message has too few values for the garbage collector to matter.
SMALL = 4096
#: HKube's worker closes the connection and dies above this (WORKER_SOCKET_MAX_PAYLOAD_BYTES).
MESSAGE_LIMIT = 100_000_000
#: A message of socket.io is in an event, with its command's name.
_EVENT = 64


class ResultTooLarge(Exception):
    """The encoded message is above MESSAGE_LIMIT; the text names both numbers."""


def prepare(encoding: str, *, later: bool) -> bool:
    """Import what this encoding needs, before the user's code can replace a part of it.

    `later`: the user's files cannot replace any, so msgspec, which only makes it faster, may wait. Returns
    whether accelerate() is still to be called, in a pause.
    """
    waits = later and encoding != "msgpack"
    if not waits:
        accelerate()
    if encoding == "bson":
        with contextlib.suppress(ImportError):  # reported when the first message cannot be read
            _bson()
    elif encoding == "socket.io":
        from . import attachments  # noqa: F401
    return waits


def decode(encoding: str, data: Buffer) -> Any:
    """Return the message. Raises ValueError for bytes that are not in this encoding, and MemoryError.

    The garbage collector rests meanwhile: it is 40 % of the time of decoding records (measured).
    """
    collecting = len(data) > SMALL and gc.isenabled()
    if collecting:
        gc.disable()
    try:
        return _DECODERS[encoding](data)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except (ValueError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(_first_line(error)) from error
    finally:
        if collecting:
            gc.enable()


def encode(
    encoding: str, message: Dict[str, Any], *, name: str = "result", most: Optional[int] = MESSAGE_LIMIT
) -> bytes:
    """Return the message ready for the wire; `name` is what its data is called in an error.

    `most`: bytes, None for what is not sent to HKube's worker.

    Raises ResultInvalid or ResultTooLarge; nothing has been sent then.
    """
    if most is not None:
        _check_count(message.get("data"), encoding, name)
    return _encode(encoding, message, name, most, is_native(message.get("data"), encoding))


def encode_value(encoding: str, value: Any) -> bytes:
    """Return a value alone, as HKube's wrappers encode it between nodes. Raises ResultInvalid."""
    return b"".join(encode_value_pieces(encoding, value))


def encode_value_pieces(encoding: str, value: Any) -> List[Buffer]:
    """Return the same as encode_value(), in pieces: large binary values are not copied."""
    if is_native(value, encoding):
        with contextlib.suppress(Exception):  # many libraries, many types: the second way works or explains
            return _in_pieces(encoding, value) or [_ENCODERS[encoding](value)]
    try:
        return [_ENCODERS[encoding](plain(value, encoding, "message"))]
    except (MemoryError, ResultInvalid):
        raise
    except Exception as error:
        raise ResultInvalid(f"message cannot be sent as {encoding}: {_first_line(error)}") from error


def _encode(encoding: str, message: Dict[str, Any], name: str, most: Optional[int], native: bool) -> bytes:
    wire = None
    if native:
        try:
            wire = _ENCODERS[encoding](message)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - many libraries, many types: the second way either works or explains
            pass
    if wire is None:
        wire = _encode_slowly(encoding, message, name)
    if most is not None and len(wire) > MESSAGE_LIMIT - _EVENT:
        _check_size(len(wire), encoding, name)
    return wire


def _encode_slowly(encoding: str, message: Dict[str, Any], name: str) -> bytes:
    if "data" in message:
        message = {**message, "data": plain(message["data"], encoding, name)}
    try:
        return _SLOW_ENCODERS.get(encoding, _ENCODERS[encoding])(message)
    except (MemoryError, ResultInvalid):
        raise
    except Exception as error:
        raise ResultInvalid(f"{name} cannot be sent as {encoding}: {_first_line(error)}") from error


def encode_pieces(
    encoding: str, message: Dict[str, Any], *, name: str = "result", most: Optional[int] = MESSAGE_LIMIT
) -> List[Buffer]:
    """Return the same as encode(), in pieces: large binary values of the message's data are not copied."""
    value = message.get("data")
    if most is not None:
        _check_count(value, encoding, name)
    native = is_native(value, encoding)
    if native and encoding in large_values.WRITERS:
        found = None
        with contextlib.suppress(Exception):  # many libraries, many types: _encode() either works or explains
            found = _in_pieces(encoding, message)
        if found is not None:
            if most is not None:
                _check_size(large_values.size_of(found), encoding, name)
            return found
    return [_encode(encoding, message, name, most, native)]


def _in_pieces(encoding: str, value: Any) -> Optional[List[Buffer]]:
    encoders = {"msgpack": _ENCODERS["msgpack"], "bson": _bson_bytes, "socket.io": _foreign}
    return large_values.of(encoding, value, encoders[encoding]) if encoding in encoders else None


def _check_count(value: Any, encoding: str, name: str) -> None:
    """Raise ResultTooLarge for so many values that they cannot fit: to convert them would take minutes."""
    kind = type(value)
    try:
        if kind in _COUNTED:
            count = len(value)
        elif kind.__module__ == "numpy" and kind.__name__ == "ndarray":
            count = value.size
        else:
            return
    except OverflowError:  # a range may be longer than the largest number that len() returns
        raise ResultTooLarge(f"the {name} has more values than any memory can hold") from None
    least_bytes = 1 if encoding == "msgpack" else 2  # of a value: 0, or 0 and a comma
    if count * least_bytes > MESSAGE_LIMIT:
        raise ResultTooLarge(
            f"the {name} has {count:,} values: as {encoding} more than the {MESSAGE_LIMIT:,} bytes that"
            " HKube's worker takes at most"
        )


_COUNTED = frozenset((list, tuple, range, set, frozenset, collections.deque))


def _check_size(size: int, encoding: str, name: str) -> None:
    if size + (_EVENT if encoding == "socket.io" else 0) > MESSAGE_LIMIT:
        raise ResultTooLarge(
            f"the {name} is {size:,} bytes as {encoding}; HKube's worker takes at most {MESSAGE_LIMIT:,}"
        )


def _first_line(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}".partition("\n")[0][:300]
    except Exception:  # noqa: BLE001 - the user's own __str__
        return type(error).__name__


def _foreign(value: Any) -> Any:
    """Return what to encode for a value of a type that msgspec does not know; raises TypeError for others."""
    if callable(getattr(type(value), "tolist", None)):
        return value.tolist()
    if isinstance(value, (collections.deque, range)) and not has_too_many(value):
        return list(value)
    if isinstance(value, abc.Mapping):
        return dict(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(type(value).__name__)


def _json_decode(data: Buffer) -> Any:
    return _json_decoder.decode(str(data, "utf-8", "surrogatepass"))


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


# json.loads() and json.dumps() would make new ones each time, and ask for UTF-16 and UTF-32.
_json_decoder = json.JSONDecoder(parse_constant=_no_constant)
# With characters as they are, as msgspec writes them.
_json_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=False)
_ascii_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def _json_encode(message: Any) -> bytes:
    try:
        return _json_encoder.encode(message).encode()
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can express
        return _ascii_encoder.encode(message).encode()


def _bson() -> Any:
    import bson

    if not hasattr(bson, "BSON"):
        raise ImportError("the package `bson` is not the one of pymongo")
    return bson


def _bson_decode(data: Buffer) -> Any:
    # Not bytes(data): a copy of 99 MB into fresh memory was half of the time (measured).
    return _bson().decode(data, _bson_options())["data"]


@functools.lru_cache(maxsize=1)
def _bson_options() -> Any:
    """Return options that decode a date beyond Python's year 9999, which JavaScript has, as a DatetimeMS."""
    from bson import codec_options

    kinds = getattr(codec_options, "DatetimeConversion", None)  # pymongo 4.3
    if kinds is None:
        return codec_options.DEFAULT_CODEC_OPTIONS
    return codec_options.CodecOptions(datetime_conversion=kinds.DATETIME_AUTO)


def _bson_encode(message: Any) -> bytes:
    return _bson_bytes({"data": message})


def _bson_bytes(document: Any) -> bytes:
    return bytes(_bson().encode(document))


_DECODERS: Dict[str, Callable[[Buffer], Any]] = {"json": _json_decode, "bson": _bson_decode}
_ENCODERS: Dict[str, Callable[[Any], bytes]] = {"json": _json_encode, "bson": _bson_encode}
_SLOW_ENCODERS: Dict[str, Callable[[Any], bytes]] = {"json": _json_encode}


def _json_decode_first(data: Buffer) -> Any:
    """Decode before accelerate() was called, which a large message is worth."""
    if len(data) < LARGE:
        return _json_decode(data)
    accelerate()
    return (_json_decode if _DECODERS["json"] is _json_decode_first else _DECODERS["json"])(data)


def _needs_msgspec(codecs: Dict[str, Any]) -> Callable[[Any], Any]:
    def first(data: Any) -> Any:
        accelerate()
        if codecs["msgpack"] is first:
            raise ValueError("the encoding msgpack needs the package msgspec in the algorithm's environment")
        return codecs["msgpack"](data)

    return first


def _socketio_decode(data: Buffer) -> Any:
    from . import attachments

    return attachments.decode(data, _DECODERS["json"])


def _socketio_encode(message: Any) -> bytes:
    from . import attachments

    return b"".join(attachments.encode_pieces(message, _foreign))


_DECODERS["socket.io"], _ENCODERS["socket.io"] = _socketio_decode, _socketio_encode
_DECODERS["json"] = _json_decode_first
_DECODERS["msgpack"] = _needs_msgspec(_DECODERS)
_ENCODERS["msgpack"] = _needs_msgspec(_ENCODERS)


@functools.lru_cache(maxsize=1)
def accelerate() -> None:
    """Have msgspec do json and msgpack from now on, where it is installed: 15 to 30 ms, once."""
    try:
        msgspec = lean_msgspec.load()
    except ImportError:  # the user's own interpreter need not have it
        return
    if not hasattr(msgspec, "json"):  # one of the first versions, kept in the user's interpreter
        return
    decode_json = msgspec.json.Decoder().decode
    error = msgspec.DecodeError

    def json_decode(data: Buffer) -> Any:
        try:
            return decode_json(data)
        except error:
            return _json_decode(data)  # a number or a surrogate that only the standard library takes

    _DECODERS["json"] = json_decode
    _ENCODERS["json"] = msgspec.json.Encoder(enc_hook=_foreign).encode
    _DECODERS["msgpack"] = msgspec.msgpack.Decoder().decode
    _ENCODERS["msgpack"] = msgspec.msgpack.Encoder(enc_hook=_foreign).encode


def data_of(message: Any) -> Dict[str, Any]:
    """Return the data of an `initialize` message as a dict, with an input."""
    found = message.get("data") if isinstance(message, dict) else None
    if not isinstance(found, dict):
        found = {} if found is None else {"input": found}
    found.setdefault("input", [])
    return found


def ids_of(data: Mapping[str, Any]) -> Dict[str, Optional[str]]:
    """Return the ids in the data of an `initialize` message, as text or None each."""
    names = ("taskId", "jobId", "nodeName", "algorithmName", "pipelineName")
    values = {name: data.get(name) for name in names}
    return {name: None if value is None else str(value)[:1000] for name, value in values.items()}


def json_text(value: Any) -> Optional[bytes]:
    """Return a value as JSON for the task's folder, None if it has no JSON form."""
    try:
        return as_json(value, "value")
    except ResultInvalid:
        return None


def as_json(value: Any, name: str) -> bytes:
    """Return a value as JSON; raises ResultInvalid, with this name of the value."""
    try:
        if is_native(value, "json"):
            return _ENCODERS["json"](value)
    except Exception:  # noqa: BLE001 - whatever a library says of a foreign type: the slow way decides
        pass
    return _SLOW_ENCODERS["json"](plain(value, "json", name))
