"""Exceptions whose class lies, raises or exits: each is described, and nothing of theirs is raised."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hkrunner.sandbox.child.exception_report import DETAILS_MAX, MESSAGE_MAX, describe
from hypothesis import given
from hypothesis import strategies as st
from support.raising import caught

HERE = str(Path(__file__).parent)
FILE = Path(__file__).name


def raise_(error: BaseException) -> None:
    raise error


class LyingText(str):
    """A text whose own methods all raise, or say something else."""

    def __str__(self) -> str:
        raise SystemExit("no text")

    __repr__ = __str__

    def __len__(self) -> int:
        return -1

    def __format__(self, _form: str) -> str:
        raise KeyboardInterrupt

    def __getitem__(self, _at: object) -> str:
        raise LookupError("no piece")

    def __int__(self) -> int:
        raise ValueError("no number")

    def __eq__(self, _other: object) -> bool:
        raise TypeError("not to be compared")

    __hash__ = str.__hash__
    startswith = rstrip = strip = partition = replace = encode = splitlines = None  # type: ignore[assignment]


class Hostile:
    """An object of which nothing can be asked."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(f"no {name}")

    def __repr__(self) -> str:
        raise KeyboardInterrupt

    def __eq__(self, _other: object) -> bool:
        raise GeneratorExit

    def __bool__(self) -> bool:
        raise MemoryError

    __str__ = __repr__
    __hash__ = None  # type: ignore[assignment]


def raises(error: BaseException) -> Callable[..., Any]:
    def method(*_args: object, **_kwargs: object) -> Any:
        raise error

    return method


#: What a metaclass puts in front of a class's own.
OF_METACLASSES = [
    "__name__", "__module__", "__repr__", "__str__", "__mro__", "__class__", "__dict__",
    "__doc__", "__instancecheck__", "__subclasscheck__", "__getattribute__",
]  # fmt: skip
RAISED = [
    ValueError("v"),
    AttributeError("a"),
    SystemExit(3),
    KeyboardInterrupt(),
    RecursionError(),
    MemoryError(),
]
ODD_VALUES: list[Any] = [
    None, 0, 1, -5, 2**70, True, 1.5,
    "", "12", "a text", "\udcff\0", LyingText("12"), LyingText("its text"),
    "x" * 100_000, b"bytes\xff", bytearray(b"y"), (), [1], {}, object(), Hostile(),
    ValueError, ValueError("v"),
]  # fmt: skip
NAMES = [
    "__str__", "__repr__", "__module__", "__class__", "__cause__", "__context__", "__traceback__",
    "__notes__", "__suppress_context__", "__dict__", "__getattribute__", "__getattr__", "__eq__", "__hash__",
    "__bool__", "__doc__", "__dir__", "__format__", "args", "filename", "filename2", "lineno", "offset",
    "text", "msg",
    "end_lineno", "end_offset", "print_file_and_line", "errno", "strerror", "code", "name", "path", "obj",
    "exceptions", "message", "add_note", "split", "response",
]  # fmt: skip
BASES = [
    getattr(builtins, name)
    for name in dir(builtins)
    if isinstance(getattr(builtins, name), type) and issubclass(getattr(builtins, name), BaseException)
]
FIELDS = {
    SyntaxError: (
        "msg",
        "filename",
        "lineno",
        "offset",
        "text",
        "end_lineno",
        "end_offset",
        "print_file_and_line",
    ),
    OSError: ("errno", "strerror", "filename", "filename2"),
    ImportError: ("msg", "name", "path"),
    SystemExit: ("code",),
    AttributeError: ("name", "obj"),
    NameError: ("name",),
}


def one_of(values: list[Any]) -> st.SearchStrategy[Any]:
    """As st.sampled_from(), which asks its values questions that these do not answer."""
    return st.integers(0, len(values) - 1).map(lambda at: values[at])


odd_values = one_of(ODD_VALUES)
members = st.one_of(
    odd_values,
    one_of(RAISED).map(raises),
    one_of(RAISED).map(lambda error: property(raises(error))),
    odd_values.map(lambda value: lambda *_args, **_kwargs: value),
    odd_values.map(lambda value: property(lambda _self: value)),
)
class_names = st.one_of(
    st.text(min_size=1, max_size=20).filter(lambda name: "\0" not in name and name.isprintable()),
    one_of([LyingText("Named"), "N" * 5000]),
)


@st.composite
def errors(draw: Callable[..., Any]) -> BaseException:
    """An exception of a generated class, with any arguments, fields, notes, cause and context."""
    bases: Any = draw(st.sampled_from(BASES))
    meta: Any = type
    if draw(st.booleans()):
        body = draw(st.dictionaries(st.sampled_from(OF_METACLASSES), members, max_size=4))
        with contextlib.suppress(UnicodeEncodeError):  # Python 3.10 refuses some texts as __doc__
            meta = type("Meta", (type,), body)
    body = draw(st.dictionaries(st.sampled_from(NAMES), members, max_size=6))
    try:
        made = meta(draw(class_names), (bases,), body)
    except BaseException:  # noqa: BLE001 - Python itself refuses this one
        made = bases
    arguments = draw(st.lists(odd_values, max_size=6))
    error: BaseException
    try:
        error = made(*arguments)
    except BaseException:  # noqa: BLE001 - another number of arguments is needed, or a member is in the way
        try:
            error = bases.__new__(made)
        except BaseException:  # noqa: BLE001
            error = Exception(*arguments)
    for kind, names in FIELDS.items():
        if issubclass(type(error), kind):
            for name in draw(st.sets(st.sampled_from(names))):
                if name in kind.__dict__:
                    kind.__dict__[name].__set__(error, draw(odd_values))
    if draw(st.booleans()):
        BaseException.__dict__["__dict__"].__get__(error)["__notes__"] = draw(
            st.one_of(odd_values, st.lists(odd_values))
        )
    return error


@st.composite
def related_errors(draw: Callable[..., Any]) -> Callable[[], BaseException]:
    """Returns one of some errors: each other's cause and context, in circles too, or a group."""
    made = draw(st.lists(errors(), min_size=1, max_size=4))
    group = getattr(builtins, "BaseExceptionGroup", None)
    if group is not None and len(made) > 1 and draw(st.booleans()):
        with contextlib.suppress(BaseException):  # it does not accept an error whose __class__ lies
            made[0] = group("some failed", made[1:])
            for _ in range(draw(st.sampled_from([0, 1, 3, 300]))):
                made[0] = group("in it others failed", [made[0], made[0]][: draw(st.integers(1, 2))])
    for name in ("__cause__", "__context__"):
        for one in made:
            if draw(st.booleans()):
                BaseException.__dict__[name].__set__(one, draw(one_of(made)))
    return lambda: made[0]  # which hypothesis can print


@given(related_errors(), st.booleans())
def test_an_error_of_any_class_is_described_and_nothing_is_raised(
    generated: Callable[[], BaseException], is_raised: bool
) -> None:
    error = generated()
    if is_raised:
        try:
            raise error
        except BaseException as raised:  # noqa: BLE001 - of any kind
            error = raised  # another one, if the metaclass denies that it is of its class
    report = describe(error, HERE)
    assert {type(value) for value in report.values()} == {str}
    assert set(report) == {"code", "message", "details", "type", "line"}
    # The last resort is for a lack of memory: no class of the user's leads to it.
    assert "describing it raised" not in report["message"]
    assert "notes cannot be shown" not in report["message"]
    assert report["message"].startswith(f"{report['code']}: ")
    assert len(report["message"]) < MESSAGE_MAX + 100 and len(report["details"]) < DETAILS_MAX + 100
    is_exit = issubclass(type(error), SystemExit)
    assert (report["code"] == "EXITED") == is_exit
    assert report["type"] in report["message"] or is_exit
    if is_raised and not issubclass(type(error), SyntaxError):
        assert report["line"].startswith(f"{FILE}:"), report["message"]


@pytest.mark.parametrize("lineno", [12, "12", LyingText("12")], ids=["int", "text", "lie"])
@pytest.mark.parametrize("filename", ["f.cfg", b"f.cfg", LyingText("f.cfg")], ids=["text", "bytes", "lie"])
def test_a_syntax_error_of_a_users_parser_is_placed_where_it_says(filename: object, lineno: object) -> None:
    error = SyntaxError("bad")
    error.filename, error.lineno, error.offset, error.text = filename, lineno, "3", b"x = \xff"  # type: ignore[assignment]
    report = describe(caught(lambda: raise_(error)), HERE)
    assert report["line"] == "f.cfg:12"
    assert report["message"].startswith(
        "ALGORITHM_ERROR: SyntaxError: bad (f.cfg:12)\n    x = \ufffd\n      ^"
    )
    assert f"{FILE}:{raise_.__code__.co_firstlineno + 1} in raise_" in report["message"]


@pytest.mark.parametrize("lineno", [None, 0, -1, "no number", 1.5, b"12", object()])
def test_a_syntax_error_without_a_line_is_placed_where_it_was_raised(lineno: object) -> None:
    error = SyntaxError("bad")
    error.filename, error.lineno = "f.cfg", lineno  # type: ignore[assignment]
    report = describe(caught(lambda: raise_(error)), HERE)
    assert report["message"].startswith("ALGORITHM_ERROR: SyntaxError: ")
    assert report["line"] == f"{FILE}:{raise_.__code__.co_firstlineno + 1} in raise_"


def test_details_have_the_frames_when_python_cannot_format_the_error() -> None:
    class WithNotes(Exception):
        @property
        def __notes__(self) -> object:
            raise SystemExit("no notes")

        @property
        def __cause__(self) -> BaseException | None:  # type: ignore[override]
            raise SystemExit("no cause")

    details = describe(caught(lambda: raise_(WithNotes("its text"))), HERE)["details"]
    assert "Traceback (most recent call last)" in details and "in raise_" in details
    assert "WithNotes: its text\n" in details
    assert "cannot be shown: SystemExit" in details


def test_an_error_whose_class_cannot_be_compared_or_hashed_is_described() -> None:
    meta = type("Meta", (type,), {"__eq__": raises(SystemExit(1)), "__hash__": raises(ValueError())})
    error = caught(lambda: raise_(meta("Odd", (Exception,), {})("its text")))
    report = describe(error, HERE)
    assert report["message"].startswith(f"ALGORITHM_ERROR: {__name__}.Odd: its text (")
    assert "its text" in report["details"]
