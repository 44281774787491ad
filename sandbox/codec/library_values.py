"""Values of libraries: the one plain form of a value. For a value without one, conversion_hints names a call.

No library is imported for that: a class is recognized by its name and its module's, or by its methods and
attributes. plain_values imports this module when the first such value comes, so that plain results pay
nothing. Python 3.8 and newer.
"""

from __future__ import annotations

import re
from collections import abc
from typing import Any

#: Returned for a value that has no one form.
NO_FORM = object()


class ConversionFailed(Exception):
    """The value's own method raised; the text says which method, and what."""


def root_of(kind: type) -> str:
    """Return the name of the package that a class comes from, "" where it does not say."""
    return module_of(kind).partition(".")[0]


def module_of(kind: type) -> str:
    module = type.__dict__["__module__"].__get__(kind)
    return module if type(module) is str else ""


def name_of(kind: type) -> str:
    """Return a class's name with its module, as a message shows it."""
    module, name = type.__dict__["__module__"].__get__(kind), type.__dict__["__qualname__"].__get__(kind)
    return name if type(module) is not str or module == "builtins" else f"{module}.{name}"


def fields_of(value: Any) -> dict[str, str] | None:
    """Return the attributes of an object whose class declares its fields, with their names in the result.

    Of an attrs class as attrs.asdict() has them, of a msgspec.Struct as msgspec encodes it: without those
    that are msgspec.UNSET.
    """
    kind = type(value)
    attributes = getattr(kind, "__attrs_attrs__", None)
    if isinstance(attributes, tuple):
        return {one.name: one.name for one in attributes}
    if root_of(type(kind)) == "msgspec" and not kind.__struct_config__.array_like:
        shown = kind.__struct_encode_fields__
        names = zip(kind.__struct_fields__, shown)
        return {name: one for name, one in names if type(getattr(value, name, None)).__name__ != "UnsetType"}
    return None


def tag_of(kind: type) -> dict[str, Any]:
    """Return what msgspec adds to the fields of a tagged Struct, {} for any other class."""
    config = getattr(kind, "__struct_config__", None)
    return {} if config is None or config.tag_field is None else {config.tag_field: config.tag}


def form_of(value: Any, encoding: str) -> Any:
    """Return the value in other types, one level of it; NO_FORM if there is no such form, or more than one.

    Raises ConversionFailed.
    """
    kind = type(value)
    root, name = root_of(kind), kind.__name__
    if isinstance(value, type) or root == "unittest":  # a Mock has every method, and each returns a Mock
        return NO_FORM
    if value.__class__ is not kind and value.__class__ in (bool, int, float, str):
        return value.__class__(value)  # a proxy, as wrapt makes it
    if root == "pandas":
        if name == "NAType":
            return None
        if name in ("Period", "Interval"):
            return str(value)
        if is_labelled(value):
            return NO_FORM
    elif root == "sqlite3" and name == "Row":
        names = _called(value, "keys")
        return dict(zip(names, value)) if len(set(names)) == len(names) else NO_FORM
    elif root == "polars":
        return _list_of_series(value, encoding) if name == "Series" else NO_FORM
    elif root == "pyarrow":
        if name.endswith("Scalar"):
            return _called(value, "as_py")
        if name == "Time64Array":
            counts = value.cast("int64").to_pylist() if str(value.type) == "time64[ns]" else ()
            return _with_nanoseconds(_called(value, "to_pylist"), counts)
        return _called(value, "to_pylist") if name.endswith("Array") else NO_FORM
    elif root == "torch" and (is_sparse(value) or is_any(value, "is_quantized", "is_nested")):
        return NO_FORM
    elif root == "numpy" and getattr(getattr(value, "dtype", None), "names", None):
        # Records: tolist() would lose the names of their fields.
        return list(value) if value.ndim else {name: value[name] for name in value.dtype.names}
    elif root == "tensorflow" and callable(getattr(value, "numpy", None)):
        return _called(value, "to_list" if name == "RaggedTensor" else "numpy")
    dump = _dump_of(kind)
    if dump:
        dumped = _called(value, dump)
        # Of a model of one root value, version 1 makes an object.
        return dumped["__root__"] if getattr(kind, "__custom_root_type__", False) is True else dumped
    if isinstance(value, (abc.Sequence, abc.Set, abc.ValuesView)) and not isinstance(value, (str, bytes)):
        return NO_FORM if root == "collections" and name == "UserString" else list(value)
    # Asked of the class: a proxy for something elsewhere may say that it has any method.
    if not callable(getattr(kind, "tolist", None)):
        # What has __index__ is an integer, of sympy or gmpy2.
        return _called(value, "__index__") if callable(getattr(kind, "__index__", None)) else NO_FORM
    if part_of_array(value):
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


def is_sparse(value: Any) -> bool:
    return str(getattr(value, "layout", "torch.strided")) != "torch.strided"


def is_any(value: Any, *properties: str) -> bool:
    """Whether one of these properties is true of a tensor."""
    return any(getattr(value, one, False) is True for one in properties)


def part_of_array(value: Any) -> str:
    """Return "complex" or "longdouble" for an array of such numbers, which no encoding has; else ""."""
    dtype = getattr(value, "dtype", None)
    if not getattr(value, "ndim", 0) or root_of(type(value)) in ("pandas", "polars"):
        return ""
    if getattr(dtype, "kind", "") == "c" or "complex" in str(dtype):
        return "complex"
    return "longdouble" if getattr(dtype, "char", "") == "g" else ""


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
    return has_labels(value.index)


def has_labels(index: Any) -> bool:
    """Whether an index of pandas' has several levels, a name as after groupby(), or anything but 0 to n-1."""
    if getattr(index, "nlevels", 1) > 1 or getattr(index, "name", None) is not None:
        return True
    if getattr(index.dtype, "kind", "O") not in "iu" or index.hasnans:
        return True
    # Integers that increase from 0 to n-1 are all of them.
    return len(index) > 0 and not (
        index[0] == 0 and index[-1] == len(index) - 1 and index.is_monotonic_increasing and index.is_unique
    )


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


# ---- times in nanoseconds, of which Python's own types lose the last three digits: of polars and Arrow


def _list_of_series(series: Any, encoding: str) -> Any:
    """Return the values of a Series of polars'; of one of lists, a Series for each."""
    kind, shown = type(series.dtype).__name__, str(series.dtype)
    values = _called(series, "to_list")
    if ("'ns'" not in shown and "Time" not in shown) or (kind, encoding) == ("Datetime", "bson"):
        return values  # bson's own times have milliseconds only
    if kind in ("List", "Array"):
        return list(series)
    if kind == "Struct":
        names = series.struct.fields
        rows = zip(*(_list_of_series(series.struct.field(one), encoding) for one in names))
        return [None if one is None else dict(zip(names, row)) for one, row in zip(values, rows)]
    is_in_ns = kind in ("Datetime", "Duration", "Time") and getattr(series.dtype, "time_unit", "ns") == "ns"
    return _with_nanoseconds(values, series.to_physical().to_list() if is_in_ns else ())


def _with_nanoseconds(values: Any, counts: Any) -> Any:
    """Return the times as they are, but as text those whose count of nanoseconds is no whole microsecond."""
    if not any(one is not None and one % 1000 for one in counts):
        return values
    return [
        one if count is None or not count % 1000 else _in_nanoseconds(one, count)
        for one, count in zip(values, counts)
    ]


def _in_nanoseconds(time: Any, count: int) -> str:
    if not hasattr(time, "isoformat"):
        return duration(count, 9)
    text = time.isoformat(timespec="microseconds")
    end = text.index(".") + 7
    return f"{text[:end]}{count % 1000:03}{text[end:]}"
