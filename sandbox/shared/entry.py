"""Locates the user's code, finds its functions, and decides with which arguments they are called.

`locate` runs in the parent, before anything is started. Python 3.8 and newer.
"""

from __future__ import annotations

import errno
import os
import re
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

DEFAULT_ENTRY = "main.py"
METHODS = ("start", "init", "stop", "exit")


class EntryError(Exception):
    """The entry cannot be used. `code`: hkrunner's error code; the text is one sentence."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class Location(NamedTuple):
    """Location of the code. `folder`: the working folder; `module`: the dotted name below it; `function`: the
    function called as `start`; `file`: absolute path, "" for a module of which only the name is known."""

    folder: str
    module: str
    function: str
    file: str

    @property
    def shown(self) -> str:
        """The name of the code as the user knows it."""
        return os.path.relpath(self.file, self.folder) if self.file else self.module


def locate(entry: Optional[str], path: Optional[str], cwd: str) -> Location:
    """Return the location of the entry. Raises EntryError(ENTRY_NOT_FOUND) if there is no such code.

    `entry`: a file, `file.py:function`, a folder, or a dotted module; None means main.py.
    `path`: the folder of the code; None means the folder of the entry's file, else `cwd`.
    """
    name, function = _split_function(entry or DEFAULT_ENTRY)
    if name.endswith(".ipynb"):
        raise EntryError("ENTRY_NOT_FOUND", f"{name} is a notebook; save its code as a .py file")
    folder = os.path.abspath(os.path.join(cwd, os.path.expanduser(path))) if path else None
    if folder is not None and not os.path.isdir(folder):
        raise EntryError("ENTRY_NOT_FOUND", f"no folder {path} in {cwd} (--path)")
    for base in [folder or cwd] if folder in (None, cwd) else [folder or cwd, cwd]:
        found = os.path.abspath(os.path.join(base, os.path.expanduser(name)))
        if os.path.isdir(found):
            return _in_folder(found, function)
        if os.path.isfile(found):
            return _of_file(found, folder, function)
        if not name.endswith(".py") and os.path.isfile(found + ".py"):
            return _of_file(found + ".py", folder, function)
    if not name.endswith(".py") and re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        base = folder or cwd
        parts = name.split(".")
        for tail in (os.path.join(*parts) + ".py", os.path.join(*parts, "__init__.py")):
            if os.path.isfile(os.path.join(base, tail)):
                return Location(base, name, function, os.path.join(base, tail))
        file = os.sep.join(parts[:-1]) + ".py"
        if os.path.isfile(os.path.join(base, file)):
            raise EntryError(
                "ENTRY_NOT_FOUND", f"no module {name} in {base}; a function of {file} is {file}:{parts[-1]}"
            )
        if len(parts) > 1:
            return Location(base, name, function, "")  # maybe an installed package: the import will show it
    unusable = _unusable(os.path.abspath(os.path.join(folder or cwd, os.path.expanduser(name))))
    if unusable:
        raise EntryError("ENTRY_NOT_FOUND", unusable)
    base = folder or os.path.dirname(os.path.normpath(os.path.join(cwd, name)))
    hint = _python_files(base)
    if entry is None:
        raise EntryError("ENTRY_NOT_FOUND", f"no algorithm was named, and {_without_default(base, hint)}")
    there = "" if base == cwd else f" (working folder: {cwd})"
    raise EntryError(
        "ENTRY_NOT_FOUND",
        f"no file {os.path.basename(name)} in {base}{there}"
        + (f"; there is: {', '.join(hint)}" if hint else ""),
    )


def _without_default(folder: str, files: List[str]) -> str:
    found = f"{folder} has no {DEFAULT_ENTRY}"
    if not files:
        return f"{found}: name a file (hkrunner FILE.py), or make an algorithm (hkrunner init NAME)"
    return f"{found}; there is: {', '.join(files)}: name one (hkrunner {files[0]})"


def _split_function(entry: str) -> Tuple[str, str]:
    name, colon, function = entry.rpartition(":")
    if colon and function.isidentifier():
        return name, function
    return entry, "start"


def _in_folder(folder: str, function: str) -> Location:
    for name in (os.environ.get("ALGORITHM_ENTRY_POINT") or DEFAULT_ENTRY, os.path.basename(folder) + ".py"):
        if os.path.isfile(os.path.join(folder, name)):
            return _of_file(os.path.join(folder, name), folder, function)
    if not os.access(folder, os.R_OK | os.X_OK):
        raise EntryError(
            "ENTRY_NOT_FOUND", f"the folder {folder} cannot be read: {os.strerror(errno.EACCES)}"
        )
    files = _python_files(folder) or [
        name for name in ("__main__.py", "__init__.py") if os.path.isfile(os.path.join(folder, name))
    ]
    raise EntryError(
        "ENTRY_NOT_FOUND",
        f"no {DEFAULT_ENTRY} in the folder {folder}"
        + (
            f"; there is: {', '.join(files)}: name one with --entry" if files else "; it holds no Python file"
        ),
    )


def _of_file(file: str, folder: Optional[str], function: str) -> Location:
    if not file.endswith(".py"):
        raise EntryError("ENTRY_NOT_FOUND", f"{file} is no Python file: its name must end in .py")
    inside = os.path.relpath(file, folder) if folder else os.path.basename(file)
    if folder is None or inside.startswith(os.pardir):
        folder, inside = os.path.dirname(file), os.path.basename(file)
    module = inside[:-3].replace(os.sep, ".")
    return Location(folder, module, function, file)


def _unusable(path: str) -> str:
    """Return why what is at this path is no file that can be read; "" if there is nothing."""
    try:
        os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            return f"{path} is a link to {os.readlink(path)}, which does not exist"
        return ""
    except OSError as error:
        return "" if error.errno == errno.ENOTDIR else f"{path} cannot be read: {error.strerror}"
    return f"{path} is no regular file"


def _python_files(folder: str) -> List[str]:
    try:
        with os.scandir(folder) as entries:
            found = [one.name for one in entries if one.name.endswith(".py") and one.is_file()]
    except OSError:
        return []
    names = sorted(name for name in found if name[:2] != "__")
    return names[:8] + (["…"] if len(names) > 8 else [])


class Entry(NamedTuple):
    """The user's functions; None for each that the code does not have."""

    start: Callable[..., Any]
    init: Optional[Callable[..., Any]]
    stop: Optional[Callable[..., Any]]
    exit: Optional[Callable[..., Any]]


def entry_of(module: Any, where: Location) -> Entry:
    """Return the functions of an imported entry; raises EntryError(ENTRY_INVALID) if it has no start."""
    found: Dict[str, Any] = {}
    for method in METHODS:
        name = where.function if method == "start" else method
        value = getattr(module, name, None)
        if value is None and method == "init":
            value = getattr(module, "initialize", None)
        if value is not None and not callable(value):
            raise EntryError(
                "ENTRY_INVALID", f"{name} in {where.shown} is no function but {type(value).__name__}"
            )
        found[method] = value
    if found["start"] is None:
        has = _what_is_there(module, where)
        raise EntryError("ENTRY_INVALID", f"{where.shown} has no function {where.function}(args, api); {has}")
    call_with(found["start"], where.function, where.shown, 2)
    return Entry(**found)


def _what_is_there(module: Any, where: Location) -> str:
    """Return which functions or classes an entry has that lacks its function."""
    names, holders = [], []
    for name, value in vars(module).items():
        is_class = issubclass(type(value), type)  # isinstance() would ask the user's class
        if isinstance(value, FunctionType) and value.__module__ == module.__name__:
            names.append(name)
        elif is_class and value.__module__ == module.__name__ and where.function in vars(value):
            holders.append(name)
    if holders:
        start = where.function
        return f"its class {holders[0]} has one; to use it, add a last line: {start} = {holders[0]}().{start}"
    if names:
        return f"it has: {', '.join(names[:12])}; to run one: --entry {where.shown}:{names[0]}"
    return "it has no functions: put its code into this one, which returns the result"


#: Number of arguments for each method: (args, api), (args), (options), (options).
GIVEN = {"start": 2, "init": 1, "stop": 1, "exit": 1}


def calls_of(entry: Entry, where: Location) -> Dict[str, Dict[str, Any]]:
    """Return the parameters of each method, and the arguments of its call or the reason why no call fits."""
    found: Dict[str, Dict[str, Any]] = {}
    for method in METHODS:
        function = getattr(entry, method)
        if function is None:
            continue
        name = where.function if method == "start" else method
        told: Dict[str, Any] = {"function": name, "parameters": _parameters(function)}
        try:
            places, keyword = call_with(function, name, where.shown, GIVEN[method])
        except EntryError as error:
            told["problem"] = str(error)
        else:
            words = ("args", "api") if GIVEN[method] == 2 or method == "init" else ("options",)
            told["given"] = [*words[:places], *([f"{keyword}=api"] if keyword else [])]
        found[method] = told
    return found


def _parameters(function: Callable[..., Any]) -> Optional[str]:
    """Return the parameters as written, without values of defaults; None if they are unknown."""
    parameters = _signature(function)
    if parameters is None:
        return None
    shown = []
    for one in parameters:
        stars = "*" if one.kind == "rest" else "**" if one.kind == "other keywords" else ""
        shown.append(stars + one.name + ("=…" if one.has_default else ""))
    return ", ".join(shown)[:1000]


def call_with(function: Callable[..., Any], name: str, shown: str, most: int) -> Tuple[int, Optional[str]]:
    """Return how to call: the number of positional arguments, and a keyword for the code API or None.

    `most` is the number of arguments that hkrunner has. Bound methods, partials and callable objects
    are treated as by inspect.signature. Raises EntryError(ENTRY_INVALID) if no call fits.
    """
    parameters = _signature(function)
    if parameters is None:
        return 1, None  # a builtin without a known signature
    places = [one for one in parameters if one.kind == "place"]
    needed = [one for one in places if not one.has_default]
    keywords = [one for one in parameters if one.kind == "keyword"]
    keyword = next((one.name for one in keywords if one.name in API_NAMES), None)
    unknown = [one.name for one in keywords if not one.has_default and one.name != keyword]
    # What is wrapped may need more than we have: only the wrapper knows what it adds.
    if (len(needed) > most or unknown) and not _forwards(function):
        star = ["*"] if unknown else []
        wants = ", ".join([one.name for one in needed] + star + unknown)
        gives = "args, api" if most == 2 else "args"
        raise EntryError("ENTRY_INVALID", f"{name} in {shown} wants ({wants}); it is called with ({gives})")
    if any(one.kind == "rest" for one in parameters):
        return most, keyword if len(places) < most and most != 2 else None
    return min(len(places), most), keyword


def _forwards(function: Any) -> bool:
    """Whether it is a wrapper that passes on all it gets. One without a star takes its own parameters."""
    if type(function) is MethodType:
        function = function.__func__
    return (
        type(function) is FunctionType
        and "__wrapped__" in function.__dict__
        and bool(function.__code__.co_flags & (_VARARGS | _VARKEYWORDS))
    )


class Parameter(NamedTuple):
    """One parameter; kind: place, rest (*args), keyword (after the star), other keywords (**kwargs)."""

    name: str
    kind: str
    has_default: bool


def _signature(function: Callable[..., Any]) -> Optional[List[Parameter]]:
    """Return the parameters as by inspect.signature; None for a builtin without a known signature.

    Most are read without inspect, whose import takes a fifth of the child's start and may find an inspect.py
    of the user's.
    """
    found = _without_inspect(function, _WRAPPERS_MAX)
    if found is not None:
        return found
    import inspect

    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    kinds: Dict[Any, str] = {
        inspect.Parameter.VAR_POSITIONAL: "rest",
        inspect.Parameter.KEYWORD_ONLY: "keyword",
        inspect.Parameter.VAR_KEYWORD: "other keywords",
    }
    return [
        Parameter(one.name, kinds.get(one.kind, "place"), one.default is not one.empty) for one in parameters
    ]


def _without_inspect(function: Any, most: int) -> Optional[List[Parameter]]:
    """Return the parameters of a function, a method, a partial or an object with __call__; None for anything
    else, such as a class. Each may be a wrapper of another, up to so many."""
    if not most:
        return None
    if type(function) is MethodType:
        return _bound(_without_inspect(function.__func__, most - 1))
    if hasattr(function, "__signature__"):
        return None
    if type(function) is FunctionType and not _forwards(function):
        return _plain_signature(function)
    if hasattr(function, "__wrapped__"):
        return _without_inspect(function.__wrapped__, most - 1)
    if type(function) is partial:
        inner = _without_inspect(function.func, most - 1)
        return None if inner is None else _left_by_partial(inner, len(function.args), function.keywords)
    # As the class has it: a staticmethod is no function there, and has no parameter for the object.
    found = (vars(one)["__call__"] for one in type(function).__mro__ if "__call__" in vars(one))
    call = next(found, None)
    return _bound(_without_inspect(call, most - 1)) if type(call) is FunctionType else None


def _bound(parameters: Optional[List[Parameter]]) -> Optional[List[Parameter]]:
    """Return the parameters without that of the object itself."""
    return parameters[1:] if parameters and parameters[0].kind == "place" else parameters


def _left_by_partial(parameters: List[Parameter], given: int, keywords: Any) -> List[Parameter]:
    """Return the parameters that functools.partial leaves; what follows one that it names needs its name."""
    left: List[Parameter] = []
    needs_name = False
    for one in parameters[min(given, sum(one.kind == "place" for one in parameters)) :]:
        is_given = one.name in keywords
        needs_name = needs_name or (is_given and one.kind == "place")
        if one.kind == "place" and needs_name:
            one = one._replace(kind="keyword")
        if one.kind != "rest" or not needs_name:
            left.append(one._replace(has_default=one.has_default or is_given))
    return left


def _plain_signature(function: FunctionType) -> List[Parameter]:
    code = function.__code__
    count, after = code.co_argcount, code.co_argcount + code.co_kwonlyargcount
    names = code.co_varnames
    first_default = count - len(function.__defaults__ or ())
    found = [Parameter(name, "place", at >= first_default) for at, name in enumerate(names[:count])]
    rest = bool(code.co_flags & _VARARGS)
    if rest:
        found.append(Parameter(names[after], "rest", False))
    defaults = function.__kwdefaults__ or {}
    found += [Parameter(name, "keyword", name in defaults) for name in names[count:after]]
    if code.co_flags & _VARKEYWORDS:
        found.append(Parameter(names[after + rest], "other keywords", False))
    return found


#: Flags of a code object (inspect.CO_VARARGS, CO_VARKEYWORDS).
_VARARGS = 0x04
_VARKEYWORDS = 0x08
#: Wrappers of a function that are looked into.
_WRAPPERS_MAX = 50
#: Names of a keyword-only parameter of start() that gets the code API.
API_NAMES = ("api", "hkube_api", "hkubeApi", "hkubeapi")
