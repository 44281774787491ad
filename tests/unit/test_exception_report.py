"""An exception of any kind becomes one bounded answer, most important first."""

from __future__ import annotations

import builtins
import contextlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hkrunner.sandbox.child.api_call import AlgorithmExecutionError
from hkrunner.sandbox.child.exception_report import DETAILS_MAX, MESSAGE_MAX, TEXT_MAX, cut, describe, text_of
from hypothesis import given, settings
from hypothesis import strategies as st

HERE = str(Path(__file__).parent)
FILE = Path(__file__).name


def caught(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as error:  # noqa: BLE001 - of any kind
        return error
    raise AssertionError("nothing was raised")


def raise_(error: BaseException) -> None:
    raise error


class Silent(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


@given(st.text(max_size=300), st.integers(10, 200))
def test_a_cut_text_keeps_its_ends_and_says_what_is_missing(text: str, most: int) -> None:
    short = cut(text, most)
    if len(text) <= most:
        assert short == text
    else:
        assert short.startswith(text[: most * 2 // 3]) and short.endswith(text[-3:])
        assert f"{len(text) - most:,} characters left out" in short


def test_the_code_type_text_and_place_come_first() -> None:
    told = describe(caught(lambda: raise_(ValueError("no such column"))), HERE)
    line = raise_.__code__.co_firstlineno + 1
    assert told["message"].startswith(
        f"ALGORITHM_ERROR: ValueError: no such column ({FILE}:{line} in raise_)\n"
    )
    assert (told["code"], told["type"], told["line"]) == (
        "ALGORITHM_ERROR",
        "ValueError",
        f"{FILE}:{line} in raise_",
    )
    assert "Traceback (most recent call last)" in told["details"]


def test_a_class_of_the_users_is_named_with_its_module() -> None:
    told = describe(caught(lambda: raise_(Silent())), HERE)
    assert f"{__name__}.Silent: <its text cannot be shown: __str__ raised SystemExit>" in told["message"]


def test_an_error_of_the_code_api_is_named_as_users_know_it() -> None:
    error = AlgorithmExecutionError("square: it failed")
    told = describe(caught(lambda: raise_(error)), HERE)
    assert told["message"].startswith("ALGORITHM_ERROR: AlgorithmExecutionError: square: it failed (")
    assert "\nAlgorithmExecutionError: square: it failed" in told["details"]
    assert str(pickle.loads(pickle.dumps(error))) == "square: it failed"


def test_a_read_of_stdin_is_told_what_there_is_instead() -> None:
    message = describe(caught(lambda: raise_(EOFError("EOF when reading a line"))), HERE)["message"]
    assert (
        "EOFError: EOF when reading a line (" in message
        and "; its stdin is empty: values come by --input" in message
    )


def test_an_error_without_a_text_says_so() -> None:
    message = describe(caught(lambda: raise_(AssertionError())), HERE)["message"]
    assert message.startswith("ALGORITHM_ERROR: AssertionError") and "(without a text)" in message


def test_the_function_is_named_when_it_is_not_start() -> None:
    told = describe(caught(lambda: raise_(OSError("gone"))), HERE, during=" in stop()")
    assert "OSError: gone in stop()" in told["message"]


@pytest.mark.parametrize("code", [0, 3, None, "a text", object()])
def test_an_exit_is_reported_with_what_it_was_given(code: object) -> None:
    told = describe(caught(lambda: raise_(SystemExit(code))), HERE)
    shown = "" if code is None else repr(code)
    assert told["code"] == "EXITED"
    assert told["message"].startswith(f"EXITED: sys.exit({shown}) ended the algorithm before it answered")


def test_a_syntax_error_shows_the_line_with_a_caret() -> None:
    source = "x = 1\nif x = 2:\n    pass\n"
    error = caught(lambda: compile(source, os.path.join(HERE, "their.py"), "exec"))
    told = describe(error, HERE, code="IMPORT_FAILED")
    assert told["line"] == "their.py:2"
    lines = told["message"].splitlines()
    assert lines[0].startswith("IMPORT_FAILED: SyntaxError: ")
    assert lines[1] == "    if x = 2:" and lines[2].strip().startswith("^")
    assert "(their.py:2)" in told["message"]


def test_no_memory_has_a_code_of_its_own() -> None:
    assert describe(caught(lambda: raise_(MemoryError())), HERE)["code"] == "MEMORY_ERROR"


def test_the_last_frame_of_the_users_own_code_is_the_place() -> None:
    import json

    def parse() -> None:
        json.loads("{")

    told = describe(caught(parse), HERE)
    assert told["line"].startswith(FILE) and told["line"].endswith("in parse")


def deeper(level: int) -> None:
    deeper(level + 1)


def test_a_recursion_is_shown_by_its_two_ends() -> None:
    told = describe(caught(lambda: deeper(0)), HERE)
    assert "more calls" in told["message"]
    assert told["message"].count("in deeper") <= 20


@pytest.mark.parametrize("size", [TEXT_MAX, 10_000_000])
def test_what_is_told_is_bounded(size: int) -> None:
    told = describe(caught(lambda: raise_(ValueError("x" * size))), HERE)
    assert len(told["message"]) < MESSAGE_MAX + 100
    assert len(told["details"]) < DETAILS_MAX + 100


def test_a_text_that_never_ends_is_no_text() -> None:
    class Mirror(Exception):
        def __str__(self) -> str:
            return f"[{self}]"

    assert "__str__ raised RecursionError" in text_of(Mirror())


def test_a_chain_of_1000_causes_is_bounded() -> None:
    error: Exception = ValueError("first")
    for number in range(1000):
        following = KeyError(number)
        following.__cause__ = error
        error = following
    told = describe(caught(lambda: raise_(error)), HERE)
    assert len(told["details"]) < DETAILS_MAX + 100


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
        meta = type(
            "Meta", (type,), draw(st.dictionaries(st.sampled_from(["__name__", "__repr__"]), members))
        )
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
        with contextlib.suppress(BaseException):  # an error whose __class__ lies is none for it
            made[0] = group("some failed", made[1:])
    for name in ("__cause__", "__context__"):
        for one in made:
            if draw(st.booleans()):
                BaseException.__dict__[name].__set__(one, draw(one_of(made)))
    return lambda: made[0]  # which hypothesis can print


@settings(max_examples=200, deadline=None)
@given(related_errors(), st.booleans())
def test_an_error_of_any_class_is_described_and_nothing_is_raised(
    generated: Callable[[], BaseException], is_raised: bool
) -> None:
    error = generated()
    if is_raised:
        try:
            raise error
        except BaseException:  # noqa: BLE001 - of any kind
            pass
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
        assert report["line"].startswith(f"{FILE}:")


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


def with_notes(error: BaseException, *notes: object) -> BaseException:
    error.__dict__["__notes__"] = list(notes)  # as add_note(), which Python 3.10 has not
    return error


def test_notes_of_an_error_stand_below_its_text() -> None:
    error = with_notes(ValueError("bad row"), "file a.csv\nline 3", 4, Silent())
    lines = describe(caught(lambda: raise_(error)), HERE)["message"].split("\n")
    assert lines[0].startswith("ALGORITHM_ERROR: ValueError: bad row (")
    assert lines[1:5] == [
        "  • file a.csv",
        "    line 3",
        "  • 4",
        "  • <its text cannot be shown: __str__ raised SystemExit>",
    ]


def test_notes_are_bounded_in_number_and_length() -> None:
    message = describe(with_notes(ValueError(), *["x" * 5000] * 1_000), HERE)["message"]
    assert message.count("  • ") == 11 and message.endswith("\n  • … 990 more") and len(message) < 7_000


GROUP: Any = getattr(builtins, "ExceptionGroup", None)
if GROUP is not None:

    def test_each_error_of_a_group_is_named_with_its_text_and_place() -> None:
        members: list[Exception] = [
            OSError("no disk"),
            GROUP("inner", [ValueError("a"), KeyError("b")]),
        ]
        members.append(caught(lambda: raise_(ValueError("raised"))))  # type: ignore[arg-type]
        message = describe(GROUP("three failed", members), HERE)["message"]
        line = raise_.__code__.co_firstlineno + 1
        assert message.split("\n") == [
            "ALGORITHM_ERROR: ExceptionGroup: three failed (3 sub-exceptions)",
            "  • OSError: no disk",
            "  • ExceptionGroup: inner (2 sub-exceptions)",
            f"  • ValueError: raised ({FILE}:{line} in raise_)",
        ]

    def test_a_group_of_200_errors_names_the_first_and_says_how_many_more() -> None:
        group = GROUP("many", [ValueError(f"page {number}") for number in range(200)])
        message = describe(group, HERE)["message"]
        assert "  • ValueError: page 9\n  • … 190 more" in message and "page 10" not in message

    def test_a_group_with_a_failed_allocation_is_about_memory() -> None:
        inner = GROUP("inner", [MemoryError()])
        assert describe(GROUP("some", [ValueError(), inner]), HERE)["code"] == "MEMORY_ERROR"
