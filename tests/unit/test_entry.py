"""Where an entry lies and how its functions are called."""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hkrunner.sandbox.shared import entry
from hkrunner.sandbox.shared.entry import EntryError, Location, call_with, entry_of, locate


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an algorithm in each of the usual places."""
    monkeypatch.delenv("ALGORITHM_ENTRY_POINT", raising=False)
    for name in (
        "main.py",
        "my_alg.py",
        "my-alg.py",
        "sub/main.py",
        "sub/deep.py",
        "named/named.py",
        "pack/__init__.py",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("def start(args): pass\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("entry", "path", "folder", "module", "function"),
    [
        (None, None, "", "main", "start"),
        ("my_alg.py", None, "", "my_alg", "start"),
        ("my_alg", None, "", "my_alg", "start"),
        ("./my_alg.py", None, "", "my_alg", "start"),
        ("my_alg.py:train", None, "", "my_alg", "train"),
        ("my_alg:train", None, "", "my_alg", "train"),
        ("my-alg.py", None, "", "my-alg", "start"),
        ("sub", None, "sub", "main", "start"),
        ("sub/", None, "sub", "main", "start"),
        ("sub:train", None, "sub", "main", "train"),
        ("sub/deep.py", None, "sub", "deep", "start"),
        ("sub/deep.py", ".", "", "sub.deep", "start"),
        ("sub.deep", None, "", "sub.deep", "start"),
        ("sub.deep:train", None, "", "sub.deep", "train"),
        ("deep.py", "sub", "sub", "deep", "start"),
        ("deep", "sub", "sub", "deep", "start"),
        (None, "sub", "sub", "main", "start"),
        ("sub/deep.py", "sub", "sub", "deep", "start"),
        ("my_alg.py", "sub", "", "my_alg", "start"),
        ("named", None, "named", "named", "start"),
    ],
)
def test_an_entry_is_found(
    entry: str | None, path: str | None, folder: str, module: str, function: str, code: Path
) -> None:
    where = locate(entry, path, str(code))
    assert (Path(where.folder), where.module, where.function) == (code / folder, module, function)
    assert Path(where.file).is_file()


def test_an_absolute_entry_is_found_from_anywhere(code: Path) -> None:
    where = locate(str(code / "sub" / "deep.py"), None, "/")
    assert (where.folder, where.shown) == (str(code / "sub"), "deep.py")


def test_an_installed_module_is_left_to_the_import(code: Path) -> None:
    assert locate("json.tool", None, str(code)) == Location(str(code), "json.tool", "start", "")


def test_the_entry_of_a_folder_may_stand_in_a_variable(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALGORITHM_ENTRY_POINT", "deep.py")
    assert locate("sub", None, str(code)).module == "deep"


@pytest.mark.parametrize(
    ("entry", "path", "sentence"),
    [
        ("missing.py", None, "no file missing.py in "),
        ("missing.py", None, "there is: main.py, my-alg.py, my_alg.py"),
        ("sub/missing.py", None, "there is: deep.py, main.py"),
        ("no/where/missing.py", None, "no file missing.py in "),
        ("missing.py", "nowhere", "no folder nowhere in "),
        ("my_alg.train", None, "; a function of my_alg.py is my_alg.py:train"),
        ("sub.deep.train", None, "; a function of sub/deep.py is sub/deep.py:train"),
        ("empty", None, "it holds no Python file"),
        ("package", None, "there is: __main__.py, __init__.py: name one with --entry"),
        ("notes.txt", None, "is no Python file: its name must end in .py"),
        ("notes.ipynb", None, "notes.ipynb is a notebook; save its code as a .py file"),
    ],
)
def test_an_entry_that_is_not_there_is_reported(
    entry: str, path: str | None, sentence: str, code: Path
) -> None:
    (code / "package").mkdir()
    for name in ("__main__.py", "__init__.py"):
        (code / "package" / name).write_text("")
    with pytest.raises(EntryError) as caught:
        locate(entry, path, str(code))
    assert caught.value.code == "ENTRY_NOT_FOUND"
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [
        ("empty", "name a file (hkrunner FILE.py), or make an algorithm (hkrunner init NAME)"),
        ("named", "there is: named.py: name one (hkrunner named.py)"),
    ],
)
def test_without_an_entry_and_main_py_it_is_said_how_to_name_one(
    folder: str, sentence: str, code: Path
) -> None:
    with pytest.raises(EntryError, match=r"^no algorithm was named, and \S+ has no main\.py[:;] ") as caught:
        locate(None, None, str(code / folder))
    assert str(caught.value).endswith(sentence)


class Algorithm:
    def method(self, args: Any, api: Any) -> None: ...

    @staticmethod
    def static(args: Any) -> None: ...

    @classmethod
    def of_class(cls, args: Any, api: Any = None) -> None: ...

    def __call__(self, args: Any) -> None: ...


def takes_two(args: Any, api: Any) -> None: ...
def takes_one(args: Any) -> None: ...
def takes_none() -> None: ...
def takes_default(args: Any, hkubeApi: Any = None, more: int = 3) -> None: ...
def takes_all(*args: Any, **more: Any) -> None: ...
def takes_keyword(args: Any, *, api: Any) -> None: ...
def takes_other_default(args: Any, *, model: str = "m") -> None: ...
def takes_places(args: Any, api: Any, /) -> None: ...
async def takes_async(args: Any, api: Any) -> None: ...


@pytest.mark.parametrize(
    ("function", "called"),
    [
        (takes_two, (2, None)),
        (takes_one, (1, None)),
        (takes_none, (0, None)),
        (takes_default, (2, None)),
        (takes_all, (2, None)),
        (takes_keyword, (1, "api")),
        (takes_other_default, (1, None)),
        (takes_places, (2, None)),
        (takes_async, (2, None)),
        (Algorithm().method, (2, None)),
        (Algorithm.static, (1, None)),
        (Algorithm.of_class, (2, None)),
        (Algorithm(), (1, None)),
        (functools.partial(lambda model, args, api: None, "model"), (2, None)),
        (functools.partial(takes_default, more=1), (2, None)),
        (functools.lru_cache(takes_one), (1, None)),
        (len, (1, None)),
        # Before Python 3.11 print tells no signature; then it gets one argument.
        (print, (2, None) if sys.version_info >= (3, 11) else (1, None)),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__),
)
def test_a_function_is_called_with_what_it_takes(
    function: Callable[..., Any], called: tuple[int, str | None]
) -> None:
    assert call_with(function, "start", "alg.py", 2) == called


def test_stop_gets_one_argument_at_most() -> None:
    assert call_with(takes_default, "stop", "alg.py", 1) == (1, None)
    assert call_with(takes_none, "stop", "alg.py", 1) == (0, None)
    assert call_with(takes_all, "stop", "alg.py", 1) == (1, None)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (
            lambda args, api, model: None,
            "start in alg.py wants (args, api, model); it is called with (args, api)",
        ),
        (
            lambda args, *, model: None,
            "start in alg.py wants (args, *, model); it is called with (args, api)",
        ),
    ],
)
def test_a_function_with_an_unusable_signature_is_reported(
    function: Callable[..., Any], sentence: str
) -> None:
    with pytest.raises(EntryError, match="^" + re.escape(sentence)) as caught:
        call_with(function, "start", "alg.py", 2)
    assert caught.value.code == "ENTRY_INVALID"


WHERE = Location("/code", "alg", "start", "/code/alg.py")


def test_init_and_initialize_are_one_function_and_init_has_precedence() -> None:
    both = SimpleNamespace(start=takes_two, init=takes_one, initialize=takes_none)
    assert entry_of(both, WHERE).init is takes_one
    del both.init
    assert entry_of(both, WHERE).init is takes_none


def test_missing_functions_are_None() -> None:
    found = entry_of(SimpleNamespace(start=takes_two), WHERE)
    assert (found.start, found.init, found.stop, found.exit) == (takes_two, None, None, None)


class HasStart:
    def start(self, args: Any) -> None: ...


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (
            SimpleNamespace(__name__="alg"),
            "alg.py has no function start(args, api); it has no functions: put its code into this one, "
            "which returns the result",
        ),
        (
            SimpleNamespace(__name__=__name__, main=takes_two, other=takes_two),
            "alg.py has no function start(args, api); it has: main, other; to run one: --entry alg.py:main",
        ),
        (
            SimpleNamespace(__name__=__name__, main=takes_two, Alg=HasStart),
            "alg.py has no function start(args, api); its class Alg has one; to use it, add a last line: "
            "start = Alg().start",
        ),
        (SimpleNamespace(__name__="alg", start=42), "start in alg.py is no function but int"),
        (
            SimpleNamespace(__name__="alg", start=takes_two, stop="now"),
            "stop in alg.py is no function but str",
        ),
    ],
)
def test_a_module_that_cannot_be_an_entry_is_reported(module: Any, sentence: str) -> None:
    with pytest.raises(EntryError) as caught:
        entry_of(module, WHERE)
    assert (caught.value.code, str(caught.value)) == ("ENTRY_INVALID", sentence)


def plain_one(args: Any, api: Any = 1, *rest: Any, model: str, size: int = 3, **more: Any) -> None: ...
def plain_two(first: Any, second: Any = 2, /, third: Any = 3, *, last: Any = 4) -> None: ...


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **more: Any) -> Any:
        return function(*args, **more)

    return wrapper


class Model:
    def __call__(self, args: Any, api: Any = None) -> None: ...

    def method(self, args: Any, *, api: Any) -> None: ...

    @decorated
    def decorated_method(self, args: Any, /, api: Any) -> None: ...

    def takes_any(*args: Any) -> None: ...  # type: ignore[misc]

    @classmethod
    def of_class(cls, args: Any) -> None: ...

    @staticmethod
    def of_none(args: Any) -> None: ...


class Plain:
    @staticmethod
    def __call__(args: Any, api: Any = None) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        takes_two,
        decorated(plain_one),
        decorated(decorated(plain_two)),
        decorated(functools.partial(plain_one, 1)),
        functools.partial(plain_one, 1, 2, 3, model="m"),
        functools.partial(plain_two, 1),
        functools.partial(plain_two, third=5),
        functools.partial(plain_one, api=5),
        functools.partial(functools.partial(plain_one, 1), size=5, other=6),
        Model().method,
        Model().decorated_method,
        Model().takes_any,
        Model.of_class,
        Model.of_none,
        Model(),
        functools.partial(Model(), 1),
        Plain(),
        takes_none,
        takes_default,
        takes_all,
        takes_keyword,
        takes_places,
        takes_async,
        plain_one,
        plain_two,
    ],
    ids=lambda function: getattr(function, "__name__", "partial"),
)
def test_what_start_may_be_is_read_as_inspect_reads_it(function: Callable[..., Any]) -> None:
    kinds = {
        inspect.Parameter.VAR_POSITIONAL: "rest",
        inspect.Parameter.KEYWORD_ONLY: "keyword",
        inspect.Parameter.VAR_KEYWORD: "other keywords",
    }
    told = inspect.signature(function).parameters.values()
    assert entry._signature(function) == [
        (one.name, kinds.get(one.kind, "place"), one.default is not one.empty) for one in told
    ]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (decorated(decorated(plain_two)), ["first", "second", "third", "last"]),
        (Model().method, ["args", "api"]),
        (Model(), ["args", "api"]),
        (functools.partial(plain_two, 1, third=2), ["second", "third", "last"]),
    ],
    ids=["decorated", "method", "object", "partial"],
)
def test_what_is_no_class_is_read_without_inspect(
    monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], expected: list[str]
) -> None:
    """The user may have a file of that name."""
    monkeypatch.setitem(sys.modules, "inspect", None)
    assert [one.name for one in entry._signature(function) or ()] == expected


def test_a_decorated_function_that_wraps_itself_is_called_as_any_other() -> None:
    circle = decorated(plain_two)
    circle.__wrapped__ = circle  # type: ignore[attr-defined]
    assert entry._signature(circle) is None


def gives_a_database(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **more: Any) -> Any:
        return function(*args, **more, database=1)

    return wrapper


def gives_a_database_itself(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(args: Any) -> Any:
        return function(args, None, database=1)

    return wrapper


@pytest.mark.parametrize(
    ("decorator", "call"), [(gives_a_database, (2, None)), (gives_a_database_itself, (1, None))]
)
def test_a_decorated_function_may_need_what_its_decorator_gives_it(
    decorator: Callable[..., Any], call: tuple[int, str | None]
) -> None:
    def start(args: Any, api: Any, *, database: Any) -> Any: ...

    assert call_with(decorator(start), "start", "alg.py", 2) == call


def test_a_wrapper_without_a_star_is_refused_for_its_own_parameters() -> None:
    @functools.wraps(takes_two)
    def start(args: Any, api: Any, model: Any) -> Any: ...

    with pytest.raises(EntryError, match=r"wants \(args, api, model\)"):
        call_with(start, "start", "alg.py", 2)


def test_what_is_there_and_is_no_file_is_told_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "dangling.py").symlink_to("/nowhere/alg.py")
    (tmp_path / "loop.py").symlink_to("loop.py")
    os.mkfifo(tmp_path / "pipe.py")
    for name, said in (
        ("dangling.py", "dangling.py is a link to /nowhere/alg.py, which does not exist"),
        ("loop.py", "loop.py cannot be read: Too many levels of symbolic links"),
        ("pipe.py", "pipe.py is no regular file"),
        ("other.py", "no file other.py in "),
        ("pipe.py/other.py", "no file other.py in "),
    ):
        with pytest.raises(EntryError) as caught:
            locate(name, None, str(tmp_path))
        assert said in str(caught.value)
        assert "there is" not in str(caught.value), "none of these can be run"
