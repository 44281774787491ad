"""Values of libraries: the one plain form of a value, or the call that makes one of the forms it could have.

No library is imported for that: a class is known by its name and its module's, or by the methods and
attributes that make it what it is. plain_values imports this module when the first such value comes, so that
plain results pay nothing. Python 3.8 and newer.
"""

from __future__ import annotations

import enum
import io
import os
import re
import sys
from collections import abc
from collections.abc import Callable
from typing import Any

#: Returned for a value that has no one form.
NO_FORM = object()


class ConversionFailed(Exception):
    """The value's own method raised; the text says which method, and what."""


def root_of(kind: type) -> str:
    """Return the name of the package that a class comes from, "" where it does not say."""
    return _module_of(kind).partition(".")[0]


def _module_of(kind: type) -> str:
    module = type.__dict__["__module__"].__get__(kind)
    return module if type(module) is str else ""


def name_of(kind: type) -> str:
    """Return a class's name with its module, as a message shows it."""
    module, name = type.__dict__["__module__"].__get__(kind), type.__dict__["__qualname__"].__get__(kind)
    return name if type(module) is not str or module == "builtins" else f"{module}.{name}"


def fields_of(kind: type) -> dict[str, str] | None:
    """Return the attributes of a class that is declared by its fields, with their names in the result.

    Of an attrs class as attrs.asdict() has them, of a msgspec.Struct as msgspec encodes it.
    """
    attributes = getattr(kind, "__attrs_attrs__", None)
    if isinstance(attributes, tuple):
        return {one.name: one.name for one in attributes}
    if root_of(type(kind)) == "msgspec" and not kind.__struct_config__.array_like:  # type: ignore[attr-defined]
        shown = kind.__struct_encode_fields__  # type: ignore[attr-defined]
        return {name: shown[at] for at, name in enumerate(kind.__struct_fields__)}  # type: ignore[attr-defined]
    return None


def tag_of(kind: type) -> dict[str, Any]:
    """Return what msgspec adds to the fields of a tagged Struct, {} for any other class."""
    config = getattr(kind, "__struct_config__", None)
    return {} if config is None or config.tag_field is None else {config.tag_field: config.tag}


def form_of(value: Any, encoding: str) -> Any:
    """Return a value that says the same in other types, one level of it; NO_FORM where there is none, or not
    one alone.

    Raises ConversionFailed.
    """
    kind = type(value)
    root, name = root_of(kind), kind.__name__
    if isinstance(value, type) or root == "unittest":  # a Mock has every method, and each returns a Mock
        return NO_FORM
    if root == "pandas":
        if name == "NAType":
            return None
        if is_labelled(value):
            return NO_FORM
    elif root == "polars":
        return _called(value, "to_list") if name == "Series" else NO_FORM
    elif root == "pyarrow":
        if name.endswith("Scalar"):
            return _called(value, "as_py")
        return _called(value, "to_pylist") if name.endswith("Array") else NO_FORM
    elif root == "torch" and (_is_sparse(value) or getattr(value, "is_quantized", False) is True):
        return NO_FORM
    elif root == "tensorflow" and callable(getattr(value, "numpy", None)):
        return _called(value, "to_list" if name == "RaggedTensor" else "numpy")
    dump = _dump_of(kind)
    if dump:
        return _called(value, dump)
    if isinstance(value, (abc.Sequence, abc.Set, abc.ValuesView)) and not isinstance(value, (str, bytes)):
        return NO_FORM if root == "collections" and name == "UserString" else list(value)
    if not callable(getattr(value, "tolist", None)):
        return NO_FORM
    times = _times(value, encoding)
    if times is not NO_FORM:
        return times
    converted = _called(value, "tolist")
    return NO_FORM if type(converted) is kind else converted  # numpy.longdouble has no other form


def _called(value: Any, method: str) -> Any:
    try:
        return getattr(value, method)()
    except MemoryError:
        raise
    except Exception as error:
        try:
            text = f": {error}".partition("\n")[0][:300]
        except Exception:  # noqa: BLE001 - the user's own __str__
            text = ""
        raise ConversionFailed(f"its {method}() raised {type(error).__name__}{text}") from error


def _dump_of(kind: type) -> str:
    """Return the method that makes a dict of a pydantic model, "" for another class: version 2 has the one,
    version 1 the other."""
    if hasattr(kind, "__pydantic_validator__") and callable(getattr(kind, "model_dump", None)):
        return "model_dump"
    if (
        hasattr(kind, "__validators__")
        and hasattr(kind, "__fields__")
        and callable(getattr(kind, "dict", None))
    ):
        return "dict"
    return ""


def is_labelled(value: Any) -> bool:
    """Whether it is a Series of pandas' whose index says more than the number of the row."""
    kind = type(value)
    if root_of(kind) != "pandas" or not hasattr(kind, "reset_index") or hasattr(kind, "columns"):
        return False
    index = value.index
    return getattr(index, "nlevels", 1) > 1 or getattr(index.dtype, "kind", "O") not in "iu"


# ---- times of numpy's, which tolist() gives as bare numbers where datetime has not their unit

#: A unit in seconds, or the digits after the second that it stands for.
_SECONDS = {"W": 604_800, "D": 86_400, "h": 3_600, "m": 60, "s": 1}
_DIGITS = {"ms": 3, "us": 6, "ns": 9, "ps": 12, "fs": 15, "as": 18}


def _times(value: Any, encoding: str) -> Any:
    """Return times or durations of numpy's, NO_FORM for anything else and for what tolist() does well."""
    text = getattr(getattr(value, "dtype", None), "str", None)
    unit = re.match(r"[<>=|]([mM])8\[(\d*)(\w+)\]\Z", text) if type(text) is str else None
    if unit is None:
        return NO_FORM
    plain = _called(value, "tolist")
    if getattr(value, "ndim", 1):
        coarse = unit[3] not in ("ns", "ps", "fs", "as") and (unit[1] == "M" or unit[3] not in "YM")
        return plain if coarse and not _has_number(plain) else list(value)
    if type(plain) is not int:
        return plain
    count = plain * int(unit[2] or 1)
    if unit[1] == "m":
        return _numpy_duration(count, unit[3])
    whole = value.astype("M8[us]")
    exact = whole.tolist() if encoding == "bson" or whole == value else None  # bson has milliseconds only
    return exact if exact is not None and type(exact) is not int else str(value)


def _has_number(plain: Any) -> bool:
    """Whether a time is left that datetime does not have, such as one before the year 1."""
    return any(_has_number(one) if type(one) is list else type(one) is int for one in plain)


def _numpy_duration(count: int, unit: str) -> str:
    if unit in ("Y", "M"):  # of no certain length
        return f"{'-' if count < 0 else ''}P{abs(count)}{unit}"
    if unit in _DIGITS:
        return duration(count, _DIGITS[unit])
    return duration(count * _SECONDS[unit], 0)


def duration(count: int, digits: int) -> str:
    """Return a count of 10**-digits seconds as ISO 8601 has it, in days and seconds: P1DT5S."""
    seconds, fraction = divmod(abs(count), 10**digits)
    days, seconds = divmod(seconds, 86_400)
    text = f"{seconds}.{fraction:0{digits}}".rstrip("0").rstrip(".") if fraction else str(seconds)
    parts = [f"{days}D" if days else "", f"T{text}S" if text != "0" else ""]
    return f"{'-' if count < 0 else ''}P{''.join(parts) or '0D'}"


# ---- what to call, for a value without one form

#: By the package and name of the class.
_CALLS: dict[tuple[str, str], str] = {
    ("builtins", "complex"): "[it.real, it.imag]",
    ("numpy", "complex64"): "[it.real, it.imag]",
    ("numpy", "complex128"): "[it.real, it.imag]",
    ("numpy", "clongdouble"): "[it.real, it.imag]",
    ("numpy", "longdouble"): "float(...) of it",
    ("fractions", "Fraction"): "str(...) of it",
    ("types", "SimpleNamespace"): "vars(...) of it",
    ("argparse", "Namespace"): "vars(...) of it",
    ("re", "Pattern"): "its .pattern",
    ("re", "Match"): "its .group()",
    ("concurrent", "Future"): "its .result()",
    ("collections", "UserString"): "str(...) of it",
    ("bson", "ObjectId"): "str(...) of it",
    ("bson", "Decimal128"): "str(...) of it",
    ("datetime", "timezone"): "str(...) of it",
    ("zoneinfo", "ZoneInfo"): "str(...) of it",
    ("pandas", "Interval"): "str(...) of it",
    ("pandas", "Period"): "str(...) of it",
    ("polars", "DataFrame"): "its .to_dicts()",
    ("polars", "LazyFrame"): "its .collect().to_dicts()",
    ("pyarrow", "Table"): "its .to_pylist()",
    ("pyarrow", "RecordBatch"): "its .to_pylist()",
    ("pyarrow", "Buffer"): "its .to_pybytes()",
    ("pyarrow", "Tensor"): "its .to_numpy()",
    ("pyarrow", "Schema"): "str(...) of it",
    ("tensorflow", "SparseTensor"): "tf.sparse.to_dense(...) of it",
    ("torch", "dtype"): "str(...) of it",
    ("torch", "device"): "str(...) of it",
}
#: Methods without an argument that make a plain value of an object of any library.
_METHODS = ("to_dict", "as_dict", "asdict", "to_list", "get_secret_value", "isoformat")
_PLAIN = frozenset((str, int, float, bool, type(None), bytes, list, tuple, dict))
_ENDLESS = ("count", "cycle", "repeat")


def call_for(value: Any, key_of: Callable[[Any], str | None]) -> str:
    """Return what to write instead of a value without one form, "" where nothing is certain to help.

    `key_of` returns a value as the key of an object, None where it can be none.
    """
    kind = type(value)
    root, name = root_of(kind), kind.__name__
    if isinstance(value, type):
        return "list(...) of it" if isinstance(value, enum.EnumMeta) else ""
    known = _CALLS.get((root, name))
    if known is not None:
        return known
    if root == "pandas":
        return _call_for_pandas(value, key_of)
    if root == "torch":
        return _call_for_tensor(value)
    if isinstance(value, io.IOBase):
        return _call_for_stream(value)
    if isinstance(value, abc.AsyncIterator):
        return "[one async for one in it]"
    if isinstance(value, abc.Iterator):
        return "" if root == "itertools" and name in _ENDLESS else "list(...) of it"
    if isinstance(value, BaseException) or root == "ipaddress" or name == "dtype" or name.endswith("DType"):
        return "str(...) of it"
    if root == "scipy" and callable(getattr(kind, "toarray", None)):
        return "its .toarray()"
    if hasattr(kind, "DESCRIPTOR") and hasattr(kind, "ListFields"):
        return "google.protobuf.json_format.MessageToDict(...) of it"
    if root_of(type(kind)) == "msgspec":
        return "msgspec.to_builtins(...) of it"
    model = _call_for_model(kind)
    if model:
        return model
    for method in _METHODS:
        if _takes_nothing(getattr(kind, method, None)):
            return f"its .{method}()"
    if root in ("pydantic", "pydantic_core") and name.endswith("Url"):
        return "str(...) of it"
    attributes = getattr(value, "__dict__", None)
    if (
        type(attributes) is dict
        and attributes
        and _PLAIN.issuperset(map(type, attributes.values()))
        and not any(map(_is_of_library, kind.__mro__[:-1]))
    ):
        return "vars(...) of it"
    return ""


def shown(value: Any) -> str:
    """Return the name of a value's class for a message, with what the value most likely is by mistake."""
    if isinstance(value, type):
        return f"class {name_of(value)} (itself, not an instance of it)"
    name = name_of(type(value))
    if isinstance(value, abc.Coroutine):
        return f"{name} (a coroutine that was never awaited)"
    if isinstance(value, abc.Awaitable):
        return f"{name} (it was never awaited)"
    if name in ("function", "method", "builtin_function_or_method", "method-wrapper"):
        return f"{name} {getattr(value, '__name__', '')} (it was not called)"
    return name


def _call_for_pandas(value: Any, key_of: Callable[[Any], str | None]) -> str:
    kind = type(value)
    if hasattr(kind, "to_dict") and hasattr(kind, "columns"):
        # Of two columns of one name, records would keep one; names of several levels are no keys.
        return f'its .to_dict("{"records" if _are_keys(value.columns, key_of) else "split"}")'
    if is_labelled(value):
        return "its .to_dict()" if _are_keys(value.index, key_of) else "its .tolist()"
    return "its .isoformat()" if callable(getattr(kind, "isoformat", None)) else ""


def _are_keys(values: Any, key_of: Callable[[Any], str | None]) -> bool:
    """Whether the values can be the keys of one object: two of them may become the same text."""
    keys: list[str | None] = [key_of(one) for one in values]
    return None not in keys and len(set(keys)) == len(keys)


def _call_for_model(kind: type) -> str:
    """Return what to send instead of a model of scikit-learn or a library like it, "" for anything else."""
    if not callable(getattr(kind, "fit", None)) or not callable(getattr(kind, "get_params", None)):
        return ""
    found = "predictions" if callable(getattr(kind, "predict", None)) else "output"
    return f"its {found}, or joblib.dump(...) it to a file and return the path"


def _is_of_library(kind: type) -> bool:
    """Whether a class is of an installed package or of the standard library: what its attributes are for is
    its library's own business."""
    file = getattr(sys.modules.get(_module_of(kind)), "__file__", None)
    if type(file) is not str:
        return False
    installed = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)
    return file.startswith(os.path.dirname(os.__file__) + os.sep) or any(one in file for one in installed)


def _call_for_tensor(value: Any) -> str:
    if getattr(value, "is_quantized", False) is True:
        return "its .dequantize()"
    return "its .to_dense()" if _is_sparse(value) else ""


def _is_sparse(value: Any) -> bool:
    return str(getattr(value, "layout", "torch.strided")) != "torch.strided"


def _call_for_stream(value: Any) -> str:
    if value.closed:
        return ""
    if callable(getattr(value, "getvalue", None)):
        return "its .getvalue()"
    return "its .read()" if value.readable() else ""


def _takes_nothing(method: Any) -> bool:
    """Whether it is a function in Python that can be called with the object alone."""
    code = getattr(method, "__code__", None)
    if code is None:
        return False
    required = code.co_argcount - len(getattr(method, "__defaults__", None) or ())
    wanted = code.co_kwonlyargcount - len(getattr(method, "__kwdefaults__", None) or ())
    return bool(required == 1 and wanted == 0)
