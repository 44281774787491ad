"""The parts of the reference that are made from the code: options, variables, JSON fields, codes, states.

When the documentation is built, conf.py replaces a line `<!-- here: options -->` by the Markdown that
PARTS["options"] returns, so that the reference always matches the code.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import diagrams
from hkrunner.runner.cli.click_options import Sections
from hkrunner.runner.cli.main import COMMANDS, DEFAULT, DefaultGroup
from hkrunner.runner.cli.main import command as group
from hkrunner.runner.cli.worker import command as worker_command
from hkrunner.runner.console.json_events import _ENDED
from hkrunner.runner.protocol.error_codes import CODES, EXIT_STATUSES, SIGNAL_STATUS, limit_of
from hkrunner.runner.protocol.result import Result
from hkrunner.runner.protocol.task_state import TABLE, Action, Event, State
from hkrunner.runner.settings.option import Option
from hkrunner.runner.settings.options import OPTIONS
from hkrunner.runner.settings.worker_options import OWN_OPTIONS, WORKER_OPTIONS
from hkrunner.sandbox.parent.thread_variables import thread_variables
from json_fields import EVENTS, RESULT


def cell(text: str) -> str:
    """Return the text, escaped for a cell of a table."""
    return " ".join(text.split()).replace("|", r"\|")


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *([cell(one) for one in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def code(text: str) -> str:
    """Return the text as code, or "" for an empty text."""
    return f"`{text}`" if text else ""


# ---- options, commands, variables


def _default(option: Option) -> str:
    if option.default_text:
        return option.default_text
    if option.kind == "flag":
        return "off"
    if option.default is None:
        return "none"
    shown = f"{option.default:g}" if isinstance(option.default, float) else str(option.default)
    return f"`{shown}`"


def _flags(option: Option) -> str:
    names = ", ".join(f"`{one}`" for one in option.flags[:-1])
    last = code(f"{option.flag} {option.placeholder}".rstrip())
    return f"{names}, {last}" if names else last


def _option_tables(options: tuple[Option, ...]) -> str:
    groups: dict[str, list[Option]] = {}
    for option in options:
        groups.setdefault(option.group, []).append(option)
    parts = []
    for title, members in groups.items():
        rows = [
            [
                _flags(one),
                one.help,
                _default(one),
                ", ".join(code(name) for name in one.env),
            ]
            for one in members
        ]
        parts.append(f"### {title}\n\n" + table(["option", "what it does", "default", "variable"], rows))
    return "\n".join(parts)


def options() -> str:
    """Return the options of `hkrunner run`, one table per group."""
    return _option_tables(OPTIONS)


def worker_options() -> str:
    """Return the options of `hkrunner worker` that `run` lacks, or that have another meaning there."""
    own = tuple(one for one in WORKER_OPTIONS if one in OWN_OPTIONS or one.worker_help)
    shared = [one.flag for one in WORKER_OPTIONS if one not in own]
    return (
        _option_tables(own)
        + "\nThese options have the same meaning as for `hkrunner run`. Limits and other options of an"
        " algorithm apply to the algorithms of `--algorithm`, which this command runs itself: "
        + ", ".join(code(one) for one in shared)
        + ".\n\n"
        + _epilog(worker_command)
    )


def commands() -> str:
    """Return all commands but `run` and `worker`: usage, what they do, options, exit statuses."""
    context = click.Context(group, info_name="hkrunner")
    parts = []
    for name in COMMANDS:
        if name not in (DEFAULT, "worker"):
            assert isinstance(group, DefaultGroup)
            found = group.get_command(context, name)
            assert found is not None, "it is in COMMANDS"
            parts.append(_command(found, context, name))
    return "\n".join(parts)


def _command(one: click.Command, parent: click.Context, name: str) -> str:
    context = click.Context(one, info_name=name, parent=parent)
    path = context.command_path
    if isinstance(one, click.Group):
        head = f"## {path}\n\n{_help(one)}\n"
        inner = ["#" + _command(found, context, sub) for sub, found in one.commands.items()]
        return "\n".join([head, *inner])
    usage = " ".join([path, *one.collect_usage_pieces(context)])
    rows = [
        [_click_flags(record[0]), record[1]]
        for record in (param.get_help_record(context) for param in one.get_params(context))
        # Arguments are part of the usage line, and described by the command's help.
        if record is not None and record[1] and "--help" not in record[0]
    ]
    parts = [f"## {path}\n", f"`{usage}`\n", _help(one) + "\n"]
    if rows:
        parts.append(table(["option", "what it does"], rows))
    return "\n".join(parts) + ("\n" + _epilog(one) if one.epilog else "")


def _click_flags(text: str) -> str:
    return ", ".join(code(one) for one in text.split(", "))


def _help(one: click.Command) -> str:
    return inspect.cleandoc(one.help or "")


def _epilog(one: click.Command) -> str:
    epilog = one.get_epilog() if isinstance(one, Sections) else one.epilog or ""
    text = inspect.cleandoc(epilog.replace("\b\n", ""))
    return f"```text\n{text}\n```\n"


def environment() -> str:
    """Return the variables that hkrunner reads."""
    found: dict[str, list[str]] = {}
    for option in (*OPTIONS, *OWN_OPTIONS):
        for name in option.env:
            where = " of `hkrunner worker`" if option in OWN_OPTIONS else ""
            found.setdefault(name, []).append(code(option.flag) + where)
    rows = [[code(name), ", ".join(of)] for name, of in sorted(found.items())]
    return table(["variable", "sets the option"], rows)


def thread_counts() -> str:
    """Return the variables that a CPU limit sets."""
    return ", ".join(code(name) for name in thread_variables(1.0, {})) + "\n"


# ---- exit statuses and error codes


_STATUS = re.compile(r"128 \+ N|\d+")


def exit_statuses() -> str:
    """Return the meaning of each exit status, and the error codes that lead to it."""
    by_status: dict[str, list[str]] = {}
    for name, one in CODES.items():
        if name != "CLIENT_LOST":
            for status in _STATUS.findall(one.shown_status):
                by_status.setdefault(status, []).append(f"[{name}](errors.md#{anchor(name)})")
    meanings = {**{str(status): text for status, text in EXIT_STATUSES.items()}, "128 + N": SIGNAL_STATUS}
    assert set(by_status) <= set(meanings), "each status has a meaning"
    rows = [
        [code(status), f"{text[0].upper()}{text[1:]}.", ", ".join(by_status.get(status, []))]
        for status, text in meanings.items()
    ]
    return table(["status", "meaning", "error codes"], rows)


def anchor(name: str) -> str:
    """Return the anchor of a heading with this text."""
    return re.sub(r"[^a-z0-9_ -]", "", name.lower()).replace(" ", "-")


def codes() -> str:
    """Return one section per error code."""
    parts = []
    for name, one in CODES.items():
        status = _STATUS.sub(r"`\g<0>`", one.shown_status)
        limit = limit_of(name)
        parts.append(
            f"## {name}\n\n{one.meaning}\n\n"
            f"- **What to do:** {one.remedy}\n"
            + (f"- **Limit:** {code(limit.option)}\n" if limit is not None else "")
            + f"- **Afterwards:** {one.next_task}.\n"
            f"- **In programs:** `reason` is `{one.reason}`, the exit status {status}.\n"
        )
    return "\n".join(parts)


# ---- JSON


def result_fields() -> str:
    """Return the fields of `--json`. Raises AssertionError if the code has others."""
    empty = Result("", "", "", "", "succeed", 0, 0, 0).facts()
    assert [*empty, "output"] == list(RESULT), f"runner/protocol/result.py has {[*empty, 'output']}"
    rows = [
        [code(name), one.kind + (f", {one.unit}" if one.unit else ""), one.meaning, one.null or "never"]
        for name, one in RESULT.items()
    ]
    return table(["field", "type, unit", "meaning", "null when"], rows)


def events() -> str:
    """Return the events of `--output jsonl`. Raises AssertionError if the code has others."""
    said = set(_ENDED.values())
    for file in Path(inspect.getfile(Result)).parents[1].rglob("*.py"):
        said.update(re.findall(r"\.emit\(\s*\"(\w+)\"", file.read_text("utf-8")))
    assert said == set(EVENTS), f"runner/ tells {sorted(said)}"
    rows = [[code(name), one.when, one.fields] for name, one in EVENTS.items()]
    return table(["event", "when", "fields"], rows)


# ---- states


def _comments(kind: type[Any]) -> Iterator[tuple[str, str]]:
    """Yield each member of an enum with the comment on its line."""
    for line in inspect.getsource(kind).splitlines():
        found = re.match(r"\s+([A-Z_]+) = [^#]*(?:#:? (.*))?$", line)
        if found and found[1] in kind.__members__:
            yield found[1], found[2] or ""


def states() -> str:
    """Return the states, events and actions of a task."""
    parts = []
    for title, kind in (("States", State), ("Events", Event), ("Actions", Action)):
        rows = [[code(name), comment] for name, comment in _comments(kind)]
        assert len(rows) == len(kind), f"{kind} has members that were not found"
        parts.append(f"### {title}\n\n" + table([title[:-1].lower(), ""], rows))
    return "\n".join(parts)


def state_table() -> str:
    """Return the table of states and events: the next state, and the actions."""
    rows = []
    for state in State:
        cells = []
        for event in Event:
            row = TABLE.get((state, event))
            if row is None:
                cells.append("")
            elif row.state is state and not row.actions:
                cells.append("·")
            else:
                todo = ", ".join(diagrams.words(one) for one in row.actions)
                cells.append(f"**{row.state.name}**" + (f" {todo}" if todo else ""))
        rows.append([code(state.name), *cells])
    return table(["", *(code(event.name) for event in Event)], rows)


def state_pictures() -> str:
    """Return the state diagrams. Raises AssertionError if one is out of date."""
    old = diagrams.out_of_date()
    assert not old, f"out of date: {', '.join(old)}; run: python docs/diagrams.py"
    return "\n".join(
        f"### {one.title}\n\n![{one.title}](../images/{one.name}.svg)\n" for one in diagrams.PICTURES
    )


# ---- packages

#: The packages, in an order in which each imports only packages below it; tests/unit/test_house.py checks it.
PACKAGES = (
    *("runner.python_api", "runner.cli", "runner.app", "runner.local_stream", "runner.serving"),
    *("runner.streaming", "runner.program", "runner.cluster", "runner.image", "runner.console"),
    *("runner.prepare", "runner.worker_stub", "runner.storage", "runner.link", "runner.settings"),
    *("runner.protocol", "runner.io"),
    *("boards.tensorboard", "boards.report", "boards.runs"),
    *("sandbox.parent", "sandbox.child", "sandbox.warden", "sandbox.isolation", "sandbox.usage"),
    *("sandbox.codec", "sandbox.linux", "sandbox.shared", "sandbox.importable"),
)


def packages() -> str:
    """Return the packages and their docstrings. Raises AssertionError if one is missing here."""
    root = Path(inspect.getfile(Result)).parents[2]
    there = {
        f"{group}.{file.parent.name}"
        for group in ("runner", "sandbox", "boards")
        for file in (root / group).glob("*/__init__.py")
    }
    assert there == set(PACKAGES), f"packages: {sorted(there ^ set(PACKAGES))}"
    rows = []
    for name in PACKAGES:
        text = ast.get_docstring(
            ast.parse((root / name.replace(".", "/") / "__init__.py").read_text("utf-8"))
        )
        assert text is not None, f"{name} has no docstring"
        rows.append([code(name.replace(".", "/")), text])
    return table(["package", "what it contains, and who may import it"], rows)


PARTS: dict[str, Callable[[], str]] = {
    "codes": codes,
    "commands": commands,
    "environment": environment,
    "events": events,
    "exit statuses": exit_statuses,
    "options": options,
    "packages": packages,
    "result fields": result_fields,
    "state pictures": state_pictures,
    "state table": state_table,
    "states": states,
    "thread counts": thread_counts,
    "worker options": worker_options,
}
