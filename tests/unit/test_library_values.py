"""Values of libraries have one form in every encoding, or are refused with the call that makes them plain.

numpy, attrs, msgspec, bson and protobuf are real here. The heavy libraries are stood in for by classes of the
same module, name and methods. Each of those was also tried for real, each hint by doing what it says, on
Python 3.12 with pydantic 2.14, pandas 3.1, polars 2.1, pyarrow 26.0, torch 2.13, jax 0.12, tensorflow 2.21,
scipy 1.18 and xarray 2026.9.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import datetime
import decimal
import email.message
import enum
import fractions
import io
import ipaddress
import itertools
import re
import sqlite3
import subprocess
import sys
import textwrap
import types
import unittest.mock
import xml.etree.ElementTree
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import bson
import google.protobuf.json_format
import google.protobuf.struct_pb2
import hkrunner
import msgspec
import numpy
import pytest
from hkrunner.sandbox.codec import ENCODINGS, codec

codec.accelerate()


def stand_in(module: str, name: str, **members: Any) -> Any:
    """Return an object of a class that says it is another library's."""
    return type(name, (), {"__module__": module, **members})()


def returning(value: Any) -> Callable[..., Any]:
    return lambda *_args: value


def raising(_self: object) -> Any:
    raise RuntimeError("no data\nand more")


class Index(list[Any]):
    """An index or the columns of pandas."""

    def __init__(self, labels: Any, kind: str, names: Any = (None,)) -> None:
        super().__init__(labels)
        self.names, self.nlevels = names, len(names)
        self.name = names[0] if len(names) == 1 else None
        self.dtype = types.SimpleNamespace(kind=kind)
        self.is_unique = len(set(labels)) == len(labels)
        self.is_monotonic_increasing = self == sorted(self) if kind in "iu" else False
        self.hasnans = None in self


def series(labels: Any, kind: str, values: list[Any], names: Any = (None,)) -> Any:
    return stand_in(
        "pandas",
        "Series",
        index=Index(labels, kind, names),
        items=returning(zip(labels, values, strict=True)),
        dtype=numpy.dtype("O"),
        reset_index=None,
        tolist=returning(values),
        to_dict=returning(dict(zip(labels, values, strict=True))),
    )


def frame(columns: Any, index: Any = None) -> Any:
    def to_dict(_self: object, how: str) -> Any:
        rows = [[1] * len(columns)]
        if how == "split":
            return {"columns": columns, "data": rows}
        return [dict(zip(columns, row, strict=True)) for row in rows]

    index = Index([0], "i") if index is None else index
    return stand_in(
        "pandas",
        "DataFrame",
        columns=Index(columns, "O"),
        index=index,
        reset_index=lambda _self: frame([*index.names, *columns]),
        to_dict=to_dict,
    )


NA = stand_in("pandas.api.typing", "NAType")


def polars(values: list[Any], kind: str, shown: str = "", counts: Any = None, **members: Any) -> Any:
    """Return a Series of polars'; `counts`: its times in their unit. Iterating it gives `members["rows"]`."""
    rows = members.pop("rows", values)
    return stand_in(
        "polars.series.series",
        "Series",
        dtype=stand_in("polars.datatypes", kind, __str__=returning(shown or kind), **members.pop("type", {})),
        to_list=returning(values),
        to_physical=returning(types.SimpleNamespace(to_list=lambda: counts)),
        __iter__=lambda _self: iter(rows),
        **members,
    )


def polars_times(values: list[Any], kind: str, counts: list[Any]) -> Any:
    return polars(values, kind, f"{kind}(time_unit='ns')", counts, type={"time_unit": "ns"})


SHORT = polars_times([datetime.timedelta(0), None], "Duration", [1, None])


class Proxy:
    """It has any method, as far as it knows."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_args: 5


class StandsFor:
    """A proxy as those of wrapt: an instance of what it stands for, by what it says."""

    def __init__(self, value: Any) -> None:
        self.value = value

    @property  # type: ignore[misc]  # it lies
    def __class__(self) -> Any:
        return type(self.value)

    def __str__(self) -> str:
        return str(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __float__(self) -> float:
        return float(self.value)


@attrs.define
class Attrs:
    x: Any = 1
    _hidden: int = 2


@attrs.define
class Unset:
    never: int = attrs.field(init=False)


class Struct(msgspec.Struct, tag="point", rename="camel"):
    first_name: str = "a"
    inner: Any = None


class WithUnset(msgspec.Struct):
    x: int = 1
    y: int | msgspec.UnsetType = msgspec.UNSET


class AsList(msgspec.Struct, array_like=True):
    x: int = 1


class Colour(enum.Enum):
    RED = "red"


class Plain:
    def __init__(self) -> None:
        self.x, self.y = 1, [2]


class Opaque:
    pass


def zarr_group() -> object:
    kind = dataclasses.make_dataclass("Group", ["_store"])
    kind.__module__ = "zarr.core"  # Python 3.12 sets another one itself
    return kind(Opaque())


class WithToDict:
    __slots__ = ()

    def to_dict(self, deep: bool = True) -> dict[str, bool]:
        return {"deep": deep}


class Wrapper(textwrap.TextWrapper):
    pass


class NeedsMore:
    __slots__ = ()

    def to_dict(self, how: str) -> str:
        return how


async def coroutine() -> None: ...


async def async_generator() -> Any:
    yield 1


def sqlite_row(query: str) -> sqlite3.Row:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.row_factory = sqlite3.Row
        row: sqlite3.Row = connection.execute(query).fetchone()
        return row


FORMS: list[tuple[str, Any, Any]] = [
    ("numpy datetime64", numpy.datetime64("2024-01-01T00:00:00.000000001"), "2024-01-01T00:00:00.000000001"),
    ("numpy date", numpy.datetime64("2024-01-01"), "2024-01-01"),
    ("numpy time before the year 1", numpy.datetime64("-0044-03-15"), "-044-03-15"),
    ("numpy not a time", numpy.datetime64("NaT", "ns"), None),
    ("numpy nanoseconds", numpy.timedelta64(-1_500_000_001, "ns"), "-PT1.500000001S"),
    ("numpy years", numpy.timedelta64(5, "Y"), "P5Y"),
    ("numpy steps of ten minutes", numpy.timedelta64(18, "h").astype("m8[10m]"), "PT64800S"),
    ("numpy days beyond timedelta", numpy.timedelta64(10**12, "D"), "P1000000000000D"),
    ("numpy durations", numpy.array([[1], [2]], "m8[ns]"), [["PT0.000000001S"], ["PT0.000000002S"]]),
    ("numpy not a duration", numpy.array(["NaT"], "m8[ns]"), [None]),
    ("numpy masked", numpy.ma.array([1, 2], mask=[0, 1]), [1, None]),
    ("numpy records", numpy.array([(1, "a")], [("n", "i4"), ("t", "U3")]), [{"n": 1, "t": "a"}]),
    ("numpy objects", numpy.array([1, None, decimal.Decimal("1.5")], object), [1, None, "1.5"]),
    ("memory view of numbers", memoryview(numpy.arange(4)).cast("B").cast("q", (2, 2)), [[0, 1], [2, 3]]),
    ("proxies", [StandsFor(True), StandsFor("a"), StandsFor(1.5)], [True, "a", 1.5]),
    ("pandas NA", NA, None),
    ("pandas NA in an array", stand_in("pandas", "IntegerArray", tolist=returning([1, NA])), [1, None]),
    ("pandas Series", series(range(2), "i", [1, NA]), [1, None]),
    ("pandas Series without a row", series([], "i", []), []),
    ("pandas Index", stand_in("pandas", "Index", dtype=numpy.dtype("O"), tolist=returning(["a"])), ["a"]),
    ("polars Series", polars([1, None], "Int64"), [1, None]),
    ("polars duration in nanoseconds", SHORT, ["PT0.000000001S", None]),
    (
        "polars time of day",
        polars([datetime.time(1)], "Time", counts=[3600000000001]),
        ["01:00:00.000000001"],
    ),
    (
        "polars lists of times",
        polars([[], None], "List", "List(Datetime(time_unit='ns'))", rows=[SHORT, None]),
        [["PT0.000000001S", None], None],
    ),
    (
        "polars structs of times",
        polars(
            [{"a": 1}, None],
            "Struct",
            "Struct({'a': Duration(time_unit='ns')})",
            struct=types.SimpleNamespace(fields=["a"], field=returning(SHORT)),
        ),
        [{"a": "PT0.000000001S"}, None],
    ),
    (
        "Arrow time of day",
        stand_in(
            "pyarrow.lib",
            "Time64Array",
            type="time64[ns]",
            to_pylist=returning([datetime.time(1), None]),
            cast=returning(types.SimpleNamespace(to_pylist=lambda: [3600000000001, None])),
        ),
        ["01:00:00.000000001", None],
    ),
    ("scipy result", type("OptimizeResult", (dict,), {"__module__": "scipy.optimize"})(x=1), {"x": 1}),
    ("Struct with a field that is not set", WithUnset(x=2), {"x": 2}),
    ("Arrow scalar", stand_in("pyarrow.lib", "Int64Scalar", as_py=returning(5)), 5),
    ("Arrow array", stand_in("pyarrow.lib", "Int64Array", to_pylist=returning([1, None])), [1, None]),
    ("Arrow chunked array", stand_in("pyarrow.lib", "ChunkedArray", to_pylist=returning([1])), [1]),
    ("torch tensor", stand_in("torch", "Tensor", tolist=returning([1.5]), layout="torch.strided"), [1.5]),
    ("jax array", stand_in("jaxlib", "ArrayImpl", dtype=numpy.dtype("f4"), tolist=returning([1.5])), [1.5]),
    (
        "tensorflow tensor",
        stand_in("tensorflow.python", "EagerTensor", numpy=returning(numpy.ones(1))),
        [1.0],
    ),
    (
        "tensorflow ragged tensor",
        stand_in("tensorflow.python", "RaggedTensor", numpy=raising, to_list=returning([[1], []])),
        [[1], []],
    ),
    (
        "pydantic model",
        stand_in(
            "alg", "Model", __pydantic_validator__=0, model_dump=returning({"a": datetime.date(2024, 2, 29)})
        ),
        {"a": "2024-02-29"},
    ),
    (
        "pydantic model of version 1",
        stand_in("alg", "Model", __validators__={}, __fields__={}, dict=returning({"a": 1})),
        {"a": 1},
    ),
    (
        "pydantic model of version 1 with one root value",
        stand_in(
            "alg",
            "Model",
            __custom_root_type__=True,
            __validators__={},
            __fields__={},
            dict=returning({"__root__": [1]}),
        ),
        [1],
    ),
    ("row of sqlite3", sqlite_row("select 1 as a, 'x' as b"), {"a": 1, "b": "x"}),
    ("pandas Period", stand_in("pandas", "Period", __str__=lambda _self: "2024-01"), "2024-01"),
    (
        "pandas Interval as a key",
        {stand_in("pandas", "Interval", __str__=lambda _self: "(0, 1]"): 1},
        {"(0, 1]": 1},
    ),
    ("integer of a library", stand_in("sympy", "Integer", __index__=returning(2**63 - 1)), 2**63 - 1),
    ("duration as a key", {datetime.timedelta(days=1): 1}, {"P1D": 1}),
    ("attrs", Attrs(Attrs()), {"x": {"x": 1, "_hidden": 2}, "_hidden": 2}),
    (
        "msgspec Struct",
        Struct(inner=Attrs()),
        {"type": "point", "firstName": "a", "inner": {"x": 1, "_hidden": 2}},
    ),
    ("UserList", collections.UserList([1]), [1]),
    ("keys", {"a": 1}.keys(), ["a"]),
    ("values", {"a": 1}.values(), [1]),
    ("items", {"a": 1}.items(), [["a", 1]]),
    ("duration", datetime.timedelta(days=-1, microseconds=5), "-PT86399.999995S"),
    (
        "duration of pandas",
        type("Timedelta", (datetime.timedelta,), {"nanoseconds": 7})(0, 1),
        "PT1.000000007S",
    ),
    ("path in an object", {"a": Path("/a")}, {"a": "/a"}),
    ("numpy time as a key", {numpy.datetime64("2024-01-01", "ns"): 1}, {"2024-01-01T00:00:00": 1}),
]


def mail() -> email.message.Message:
    message = email.message.Message()
    message["To"] = "a"
    message.set_payload("b")
    return message


#: name, value, what the message says of it, the value made plain by what the message says, as "json" has it.
REFUSED: list[tuple[str, Callable[[], Any], str, Any]] = [
    ("frame", lambda: frame(["a", 1]), "pandas.DataFrame", [{"a": 1, "1": 1}]),
    (
        "frame with two columns of a name",
        lambda: frame(["a", "a"]),
        "pandas.DataFrame",
        {"columns": ["a", "a"], "data": [[1, 1]]},
    ),
    (
        "frame with columns of one text",
        lambda: frame([1, "1"]),
        "pandas.DataFrame",
        {"columns": [1, "1"], "data": [[1, 1]]},
    ),
    (
        "frame with levels",
        lambda: frame([("a", "b")]),
        "pandas.DataFrame",
        {"columns": [["a", "b"]], "data": [[1]]},
    ),
    (
        "frame with labels",
        lambda: frame(["a"], Index(["x"], "O", ["label"])),
        "pandas.DataFrame",
        [{"label": 1, "a": 1}],
    ),
    (
        "frame with a label called as a column",
        lambda: frame(["a"], Index([5], "i", ["a"])),
        "pandas.DataFrame",
        {"columns": ["a"], "data": [[1]]},
    ),
    ("series of groups", lambda: series([7, 3], "i", [1, 2], ["user"]), "pandas.Series", {"7": 1, "3": 2}),
    ("series that was filtered", lambda: series([1, 4], "i", [1, 2]), "pandas.Series", {"1": 1, "4": 2}),
    ("series that was sorted", lambda: series([1, 0], "i", [1, 2]), "pandas.Series", {"1": 1, "0": 2}),
    ("labelled series", lambda: series(["a", "b"], "O", [1, 2]), "pandas.Series", {"a": 1, "b": 2}),
    (
        "series with a label twice",
        lambda: series(["a", "a"], "O", [1, 2]),
        "pandas.Series",
        [["a", 1], ["a", 2]],
    ),
    ("series with levels", lambda: series([("a", 1)], "O", [1], "pq"), "pandas.Series", [[["a", 1], 1]]),
    ("offset of pandas", lambda: stand_in("pandas", "Day", freqstr="2D"), "pandas.Day", "2D"),
    (
        "type of pandas",
        lambda: stand_in("pandas", "CategoricalDtype", __str__=returning("category")),
        "pandas.CategoricalDtype",
        "category",
    ),
    (
        "degrees of a graph",
        lambda: stand_in("networkx.classes.reportviews", "DegreeView", __iter__=lambda _self: iter([(1, 2)])),
        "networkx.classes.reportviews.DegreeView",
        [[1, 2]],
    ),
    (
        "summary",
        lambda: stand_in("statsmodels", "Summary", as_text=lambda _self: "OLS"),
        "statsmodels.Summary",
        "OLS",
    ),
    (
        "data set of a file",
        lambda: stand_in("h5py", "Dataset", __array__=lambda *_args, **_how: numpy.ones(1)),
        "h5py.Dataset",
        [1.0],
    ),
    (
        "polars frame",
        lambda: stand_in("polars.dataframe.frame", "DataFrame", to_dicts=returning([{"a": 1}])),
        "polars.dataframe.frame.DataFrame",
        [{"a": 1}],
    ),
    (
        "Arrow table",
        lambda: stand_in(
            "pyarrow.lib",
            "Table",
            schema=types.SimpleNamespace(names=["a"]),
            to_pylist=returning([{"a": 1}]),
        ),
        "pyarrow.lib.Table",
        [{"a": 1}],
    ),
    (
        "Arrow table with two columns of a name",
        lambda: stand_in(
            "pyarrow.lib",
            "Table",
            schema=types.SimpleNamespace(names=["a", "a"]),
            columns=[stand_in("pyarrow.lib", "ChunkedArray", to_pylist=returning([at])) for at in (1, 2)],
        ),
        "pyarrow.lib.Table",
        [[1], [2]],
    ),
    (
        "sparse matrix that is a dict of places",
        lambda: type("dok_matrix", (dict,), {"__module__": "scipy.sparse._dok", "toarray": returning([[1]])})(
            {(0, 0): 1}
        ),
        "scipy.sparse._dok.dok_matrix",
        [[1]],
    ),
    (
        "Dataset of xarray",
        lambda: type(
            "Dataset", (dict,), {"__module__": "xarray.core.dataset", "to_dict": lambda self: {"coords": {}}}
        )(a=1),
        "xarray.core.dataset.Dataset",
        {"coords": {}},
    ),
    ("row with two columns of a name", lambda: sqlite_row("select 1 as a, 2 as a"), "sqlite3.Row", [1, 2]),
    (
        "element of XML",
        lambda: xml.etree.ElementTree.fromstring("<a/>"),
        "xml.etree.ElementTree.Element",
        "<a />",
    ),
    (
        "tree of XML",
        lambda: xml.etree.ElementTree.ElementTree(xml.etree.ElementTree.fromstring("<a/>")),
        "xml.etree.ElementTree.ElementTree",
        "<a />",
    ),
    (
        "rational of sympy",
        lambda: stand_in("sympy", "Half", __str__=lambda _self: "1/2"),
        "sympy.Half",
        "1/2",
    ),
    ("mail", mail, "email.message.Message", "To: a\n\nb"),
    (
        "Arrow buffer",
        lambda: stand_in("pyarrow.lib", "Buffer", to_pybytes=returning(b"x")),
        "pyarrow.lib.Buffer",
        "eA==",
    ),
    (
        "sparse tensor",
        lambda: stand_in(
            "torch", "Tensor", tolist=raising, layout="torch.sparse_coo", to_dense=returning([1])
        ),
        "torch.Tensor",
        [1],
    ),
    (
        "sparse matrix",
        lambda: stand_in("scipy.sparse", "csr_array", toarray=returning([1])),
        "scipy.sparse.csr_array",
        [1],
    ),
    (
        "secret",
        lambda: stand_in("pydantic.types", "SecretStr", get_secret_value=lambda self: "x"),
        "pydantic.types.SecretStr",
        "x",
    ),
    ("BytesIO", lambda: io.BytesIO(b"x"), "_io.BytesIO", "eA=="),
    ("StringIO", lambda: io.StringIO("x"), "_io.StringIO", "x"),
    ("file", lambda: open("/dev/null"), "_io.TextIOWrapper", ""),  # noqa: SIM115 - the hint reads it
    ("complex", lambda: 1 + 2j, "complex", [1.0, 2.0]),
    ("numpy complex", lambda: numpy.complex64(1 + 2j), "complex", [1.0, 2.0]),
    ("numpy longdouble", lambda: numpy.longdouble(1), "numpy.longdouble", 1.0),
    ("complex numbers", lambda: numpy.array([1 + 2j]), "numpy.ndarray", [[1.0], [2.0]]),
    ("longdouble numbers", lambda: numpy.array([1.5], numpy.longdouble), "numpy.ndarray", [1.5]),
    ("numpy dtype", lambda: numpy.dtype("i4"), "numpy.dtypes.Int32DType", "int32"),
    ("Fraction", lambda: fractions.Fraction(1, 3), "fractions.Fraction", "1/3"),
    ("SimpleNamespace", lambda: types.SimpleNamespace(a=1), "types.SimpleNamespace", {"a": 1}),
    ("Namespace", lambda: argparse.Namespace(a=1), "argparse.Namespace", {"a": 1}),
    ("error", lambda: ValueError("no"), "ValueError", "no"),
    ("iterator", lambda: zip([1], [2], strict=True), "zip", [[1, 2]]),
    ("enum class", lambda: Colour, f"class {__name__}.Colour (itself, not an instance of it)", ["red"]),
    ("address", lambda: ipaddress.ip_address("::1"), "ipaddress.IPv6Address", "::1"),
    ("zone", lambda: zoneinfo.ZoneInfo("UTC"), "zoneinfo.ZoneInfo", "UTC"),
    ("pattern", lambda: re.compile("a"), "re.Pattern", "a"),
    ("match", lambda: re.match("a", "a"), "re.Match", "a"),
    ("UserString", lambda: collections.UserString("a"), "collections.UserString", "a"),
    (
        "protobuf",
        lambda: google.protobuf.struct_pb2.Value(string_value="a"),
        "google.protobuf.struct_pb2.Value",
        "a",
    ),
    ("Struct that is a list", AsList, f"{__name__}.AsList", [1]),
    ("object with attributes", Plain, f"{__name__}.Plain", {"x": 1, "y": [2]}),
    ("object with to_dict", WithToDict, f"{__name__}.WithToDict", {"deep": True}),
]

#: What nothing is certain to help with, and the end of its sentence.
HELPLESS: list[tuple[str, Callable[[], Any], str]] = [
    (
        "object",
        Opaque,
        f"{__name__}.Opaque cannot be sent; numbers, texts, lists, dicts and None can",
    ),
    (
        "to_dict that wants more",
        NeedsMore,
        "NeedsMore cannot be sent; numbers, texts, lists, dicts and None can",
    ),
    (
        "class",
        lambda: Plain,
        f"class {__name__}.Plain (itself, not an instance of it) cannot be sent; n",
    ),
    ("function", lambda: stand_in, "function stand_in (it was not called) cannot be sent; numbers, "),
    ("endless iterator", itertools.count, "itertools.count cannot be sent; numbers, "),
    ("closed file", lambda: closed(io.BytesIO()), "_io.BytesIO cannot be sent; numbers, "),
    ("file to write to", lambda: open("/dev/null", "w"), "_io.TextIOWrapper cannot be sent; numbers, "),  # noqa: SIM115
    ("async generator", async_generator, "async_generator cannot be sent; use [one async for one in it]"),
    (
        "future",
        concurrent.futures.Future,
        "concurrent.futures._base.Future cannot be sent; use its .result()",
    ),
    (
        "model",
        lambda: stand_in("sklearn.svm", "SVC", fit=raising, predict=raising, get_params=raising),
        "sklearn.svm.SVC cannot be sent; use its predictions, or joblib.dump(...) it to a file",
    ),
    (
        "picture",
        lambda: stand_in("PIL.Image", "Image", thumbnail=raising, save=raising),
        "PIL.Image.Image cannot be sent; use its .save(...) to a file, and return the path",
    ),
    (
        "figure",
        lambda: stand_in("matplotlib.figure", "Figure", savefig=raising),
        "matplotlib.figure.Figure cannot be sent; use its .savefig(...) to a file, and return the path",
    ),
    (
        "transformer",
        lambda: stand_in("sklearn.base", "Scaler", fit=raising, transform=raising, get_params=raising),
        "sklearn.base.Scaler cannot be sent; use its output, or joblib.dump(...) it to a file",
    ),
    ("proxy", Proxy, "Proxy cannot be sent; numbers, texts, "),
    ("proxy as a key", lambda: {StandsFor("a"): 1}, "StandsFor; keys must be text; use str(...) of it"),
    (
        "group of zarr",
        zarr_group,
        "result['a'][3]: zarr.core.Group cannot be sent; numbers, texts, ",
    ),
    ("object of a library", textwrap.TextWrapper, "textwrap.TextWrapper cannot be sent; numbers, texts, "),
    ("object made from a library's", Wrapper, "Wrapper cannot be sent; numbers, texts, "),
    (
        "what only looks like a frame",
        lambda: stand_in("pandas", "DataFrame", to_dict=raising, columns=None),
        "pandas.DataFrame cannot be sent; n",
    ),
    (
        "pandas group",
        lambda: stand_in("pandas", "DataFrameGroupBy"),
        "pandas.DataFrameGroupBy cannot be sent; n",
    ),
    (
        "tensor without data",
        lambda: stand_in("torch", "Tensor", tolist=raising),
        "torch.Tensor cannot be sent: its tolist() raised RuntimeError: no data",
    ),
    ("field that was never set", Unset, "result['a'][3].never cannot be read: AttributeError: "),
]


def closed(file: Any) -> Any:
    file.close()
    return file


def sent(value: Any, encoding: str) -> Any:
    """Return a result as the worker reads it, sent in pieces as the child does."""
    wire = b"".join(map(bytes, codec.encode_pieces(encoding, {"data": value})))
    return codec.decode(encoding, wire)["data"]


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@pytest.mark.parametrize(("value", "form"), [row[1:] for row in FORMS], ids=[row[0] for row in FORMS])
def test_a_value_of_a_library_has_one_form(value: Any, form: Any, encoding: str) -> None:
    assert sent(value, encoding) == form
    assert sent({"a": [value]}, encoding) == {"a": [form]}


@pytest.mark.parametrize(("value", "form"), [row[1:] for row in FORMS], ids=[row[0] for row in FORMS])
def test_bson_has_the_same_forms_and_keeps_times(value: Any, form: Any) -> None:
    found = sent({"a": value}, "bson")["a"]
    assert found == form or isinstance(found, datetime.datetime)


def test_bson_gets_times_of_numpy_as_its_own() -> None:
    times = numpy.array(["2024-01-01T00:00:00.123456789", "NaT"], "M8[ns]")
    assert sent(times, "bson") == [datetime.datetime(2024, 1, 1, 0, 0, 0, 123_000), None]
    assert sent(bson.ObjectId("0" * 24), "bson") == bson.ObjectId("0" * 24)


def test_times_of_polars_keep_their_nanoseconds_where_the_encoding_has_no_times() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    exact, whole = datetime.datetime(2024, 1, 1, 0, 0, 0, 123_456, zone), datetime.datetime(2024, 1, 1)
    counts = [1704060000123456789, 1704067200000000000, None]
    times = polars_times([exact, whole, None], "Datetime", counts)
    assert sent(times, "json") == ["2024-01-01T00:00:00.123456789+02:00", "2024-01-01T00:00:00", None]
    assert sent(times, "bson")[1:] == [whole, None]


def mended(value: Any, call: str) -> Any:
    """Do to a value what the message says: 'its .tolist()', 'str(...) of it'."""
    code = re.sub(r"([\w.]+)\(\.\.\.\) of it", r"\1(it)", call).replace("its .", "it.")
    return eval(code, {"it": value, "google": google, "msgspec": msgspec, "numpy": numpy, "xml": xml})


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("make", "name", "plain"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_the_call_that_a_refusal_names_makes_the_value_plain(
    make: Callable[[], Any], name: str, plain: Any, encoding: str
) -> None:
    value = make()
    try:
        with pytest.raises(codec.ResultInvalid) as caught:
            sent({"a": [0, 0, 0, value]}, encoding)
        message = str(caught.value)
        result = mended(value, message.partition("; use ")[2])
    finally:
        if isinstance(value, io.IOBase):
            value.close()
    assert message.startswith(f"result['a'][3]: {name} cannot be sent; use ")
    sent(result, encoding)
    assert sent(result, "json") == plain


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_dict_with_tuples_as_keys_is_sent_as_pairs_as_its_refusal_says(encoding: str) -> None:
    value = {("a", 1): 2}
    with pytest.raises(codec.ResultInvalid) as caught:
        sent({"counts": value}, encoding)
    message = str(caught.value)
    assert message == "result['counts']: a key of type tuple; keys must be text; use list(its .items())"
    assert sent(mended(value, message.partition("; use ")[2]), encoding) == [[["a", 1], 2]]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        (b"a", "; use list(its .items())"),
        (frozenset("a"), "; use list(its .items())"),
        (fractions.Fraction(1, 2), "; use str(...) of it"),
        (1j, ""),
    ],
)
def test_a_key_without_a_text_is_refused_with_what_helps(key: object, hint: str) -> None:
    with pytest.raises(codec.ResultInvalid) as caught:
        sent({key: 1}, "json")
    assert str(caught.value).endswith(f"{type(key).__qualname__}; keys must be text{hint}")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("make", "end"), [row[1:] for row in HELPLESS], ids=[row[0] for row in HELPLESS])
def test_no_call_is_named_where_none_is_certain_to_help(
    make: Callable[[], Any], end: str, encoding: str
) -> None:
    value = make()
    try:
        with pytest.raises(codec.ResultInvalid) as caught:
            sent({"a": [0, 0, 0, value]}, encoding)
    finally:
        if isinstance(value, io.IOBase):
            value.close()
    assert str(caught.value).startswith("result['a'][3]") and end in str(caught.value)


def test_a_coroutine_that_was_not_awaited_is_reported_as_such() -> None:
    made = coroutine()
    with pytest.raises(
        codec.ResultInvalid,
        match=r"^result\[0\]: coroutine \(a coroutine that was never awaited\) cannot be sent; "
        r"use await on it, in `async def start`$",
    ):
        sent([made], "json")
    made.close()
    loop = asyncio.new_event_loop()
    with pytest.raises(codec.ResultInvalid, match=r"Future \(it was never awaited\)"):
        sent([loop.create_future()], "json")
    loop.close()


@pytest.mark.parametrize("module", [None, ["no", "name"], 5])
def test_a_class_whose_module_is_no_name_is_refused_by_its_place(module: Any) -> None:
    odd = type("Odd", (), {"__module__": module})()
    for encoding in ENCODINGS:
        with pytest.raises(codec.ResultInvalid, match=r"^result\[1\]: Odd cannot be sent"):
            sent([0, odd], encoding)


def test_a_mock_that_can_be_a_path_is_refused() -> None:
    with pytest.raises(
        codec.ResultInvalid, match=r"^result: unittest\.mock\.MagicMock cannot be sent; numbers, "
    ):
        sent(unittest.mock.MagicMock(), "json")


def test_the_record_of_a_result_has_the_same_forms() -> None:
    moment = datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)
    assert codec.json_text([moment, Attrs(), NA]) == b'["2024-01-01T00:00:00+00:00",{"x":1,"_hidden":2},null]'


def test_plain_results_do_not_load_what_is_for_libraries() -> None:
    check = (
        "import sys; from hkrunner.sandbox.codec import ENCODINGS, codec; codec.accelerate()\n"
        "for encoding in ENCODINGS:\n"
        "    codec.encode_pieces(encoding, {'data': {'a': [1, 2.5, 'x', None, b'y', (1, {2})]}})\n"
        "sys.exit('hkrunner.sandbox.codec.library_values' in sys.modules)"
    )
    folder = Path(hkrunner.__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", check], cwd=folder, timeout=30).returncode == 0
