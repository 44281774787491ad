"""The call that makes a plain value of a value without one plain form, where a call is certain to help.

Like library_values, which knows the plain forms, it imports no library. Python 3.8 and newer.
"""

from __future__ import annotations

import enum
import io
import os
import sys
from collections import abc
from collections.abc import Callable
from typing import Any

from .library_values import (
    has_labels,
    is_any,
    is_labelled,
    is_sparse,
    module_of,
    name_of,
    part_of_array,
    root_of,
)

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
    ("sqlite3", "Row"): "tuple(...) of it",
    ("bson", "ObjectId"): "str(...) of it",
    ("bson", "Decimal128"): "str(...) of it",
    ("datetime", "timezone"): "str(...) of it",
    ("zoneinfo", "ZoneInfo"): "str(...) of it",
    ("polars", "DataFrame"): "its .to_dicts()",
    ("polars", "LazyFrame"): "its .collect().to_dicts()",
    ("pyarrow", "Buffer"): "its .to_pybytes()",
    ("pyarrow", "Tensor"): "its .to_numpy()",
    ("pyarrow", "Schema"): "str(...) of it",
    ("pyarrow", "Field"): "str(...) of it",
    ("pyarrow", "DataType"): "str(...) of it",
    ("h5py", "Dataset"): "numpy.asarray(...) of it",
    ("zarr", "Array"): "numpy.asarray(...) of it",
    ("numpy", "poly1d"): "its .coef",
    ("numpy", "Polynomial"): "its .coef",
    ("mpmath", "mpf"): "float(...) of it",
    ("lxml", "_Element"): 'lxml.etree.tostring(it, encoding="unicode")',
    ("lxml", "_ElementTree"): 'lxml.etree.tostring(it, encoding="unicode")',
    ("xml", "Element"): 'xml.etree.ElementTree.tostring(it, encoding="unicode")',
    ("xml", "ElementTree"): 'xml.etree.ElementTree.tostring(its .getroot(), encoding="unicode")',
    ("duckdb", "DuckDBPyRelation"): "its .fetchall()",
    ("tensorflow", "SparseTensor"): "tf.sparse.to_dense(...) of it",
    ("torch", "dtype"): "str(...) of it",
    ("torch", "device"): "str(...) of it",
}
#: Methods without an argument that make a plain value of an object of any library.
_METHODS = (
    "to_dict",
    "as_dict",
    "asdict",
    "to_list",
    "get_secret_value",
    "isoformat",
    "as_string",
    "as_text",
)
_PLAIN = frozenset((str, int, float, bool, type(None), bytes, list, tuple, dict))
_ENDLESS = ("count", "cycle", "repeat")


def call_for(value: Any, key_of: Callable[[Any], str | None]) -> str:
    """Return what to write instead of a value without one plain form, "" where nothing is certain to help.

    `key_of` returns a value as the key of an object, None where it can be none.
    """
    kind = type(value)
    root, name = root_of(kind), kind.__name__
    if isinstance(value, type):
        return "list(...) of it" if isinstance(value, enum.EnumMeta) else ""
    known = _CALLS.get((root, name))
    if known is not None:
        return known
    if root == "unittest":
        return ""  # a Mock has every method, and each returns a Mock
    if value.__class__ is not kind and value.__class__ in (int, float, str, bytes):  # a proxy
        return f"{value.__class__.__name__}(...) of it"
    part = part_of_array(value)
    if part:
        return "[it.real, it.imag]" if part == "complex" else "its .astype(float)"
    if root == "pandas":
        return _call_for_pandas(value, key_of)
    if root == "torch":
        return _call_for_tensor(value)
    if root == "pyarrow" and name in ("Table", "RecordBatch"):
        # A dict cannot have two columns of one name.
        names = value.schema.names
        return (
            "its .to_pylist()"
            if len(set(names)) == len(names)
            else "[one.to_pylist() for one in its .columns]"
        )
    if root == "sympy":
        return "float(...) of it" if name == "Float" else "str(...) of it"
    if root == "networkx" and hasattr(kind, "adjacency"):
        return "networkx.node_link_data(...) of it"
    if module_of(kind) == "networkx.classes.reportviews":  # pairs, or edges
        return "list(...) of it"
    if root in ("PIL", "matplotlib") and (hasattr(kind, "savefig") or hasattr(kind, "thumbnail")):
        save = "savefig" if hasattr(kind, "savefig") else "save"
        return f"its .{save}(...) to a file, and return the path"
    if isinstance(value, io.IOBase):
        return _call_for_stream(value)
    if isinstance(value, abc.Awaitable):
        return "await on it, in `async def start`"
    if isinstance(value, abc.AsyncIterator):
        return "[one async for one in it]"
    if isinstance(value, abc.Iterator):
        return "" if root == "itertools" and name in _ENDLESS else "list(...) of it"
    if isinstance(value, BaseException) or root == "ipaddress" or name.endswith(("dtype", "DType")):
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
    if hasattr(kind, "__geo_interface__"):  # shapely and libraries like it
        return "its .__geo_interface__"
    attributes = getattr(value, "__dict__", None)
    if (
        type(attributes) is dict
        and attributes
        and _PLAIN.issuperset(map(type, attributes.values()))
        and not any(map(_is_of_library, kind.__mro__[:-1]))
    ):
        return "vars(...) of it"
    return ""


def call_for_key(key: Any, key_of: Callable[[Any], str | None]) -> str:
    """Return what to write instead of a key that has no text, or of its dict; "" where nothing helps."""
    if isinstance(key, (tuple, frozenset, bytes)):
        # As pairs nothing is lost; a text made of a tuple would have to be taken apart again.
        return "list(its .items())"
    if callable(getattr(type(key), "item", None)) and getattr(key, "ndim", 1) == 0:
        return "its .item()"  # a tensor: two equal ones are two keys
    call = call_for(key, key_of)
    return call if call.startswith("str(") else ""


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
        return _call_for_frame(value, key_of)
    if is_labelled(value):
        return "its .to_dict()" if _are_keys(value.index, key_of) else "list(its .items())"
    if callable(getattr(kind, "isoformat", None)):
        return "its .isoformat()"
    if isinstance(getattr(value, "freqstr", None), str):  # an offset
        return "its .freqstr"
    return "str(...) of it" if kind.__name__.endswith("Dtype") else ""


def _call_for_frame(value: Any, key_of: Callable[[Any], str | None]) -> str:
    names = list(value.columns)
    labels = ""
    if has_labels(value.index):  # records would lose them
        labels = ".reset_index()"
        unnamed = "index" if value.index.nlevels == 1 else "level_{}"  # as reset_index() calls them
        names += [unnamed.format(at) if name is None else name for at, name in enumerate(value.index.names)]
    # Of two columns of one name, records would keep one; names of several levels are no keys.
    return f'its {labels}.to_dict("records")' if _are_keys(names, key_of) else 'its .to_dict("split")'


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
    file = getattr(sys.modules.get(module_of(kind)), "__file__", None)
    if type(file) is not str:
        return False
    installed = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)
    return file.startswith(os.path.dirname(os.__file__) + os.sep) or any(one in file for one in installed)


def _call_for_tensor(value: Any) -> str:
    if is_any(value, "is_quantized"):
        return "its .dequantize()"
    if is_any(value, "is_nested"):
        return "its .unbind()"
    return "its .to_dense()" if is_sparse(value) else ""


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
