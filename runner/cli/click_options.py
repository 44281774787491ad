"""Makes click's options from ours, and shows them in their groups in the help of every command."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.core import ParameterSource

from ..errors import SettingsError
from ..settings.option import Option
from .lean_command import LeanCommand, described

#: Settings of every command.
CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Sections(LeanCommand):
    """A command whose help shows its options in groups, in the order of `options`."""

    def __init__(
        self,
        name: str,
        *,
        options: Sequence[Option],
        params: Sequence[click.Parameter] = (),
        make_epilog: Callable[[], str] | None = None,
        **more: Any,
    ) -> None:
        """`make_epilog` returns the epilog, preformatted; it is called when the help is shown."""
        settings = {**CONTEXT_SETTINGS, **more.pop("context_settings", {})}
        all_params = [*params, *(parameter(option) for option in options)]
        super().__init__(name, params=all_params, context_settings=settings, **more)
        self._groups = {option.name: option.group for option in options}
        self._make_epilog = make_epilog

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments. Raises SettingsError for an unquoted input, which the shell has split."""
        for at, flag in enumerate(args):
            if flag in ("-i", "--input") and (apart := _taken_apart(args[at + 1 :])) is not None:
                raise SettingsError(
                    f"the shell split the input at its spaces: {apart}; put it in quotes: -i '[1, 2, 3]'"
                )
        words = list(args)  # click removes them from the list
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            text, _, extra = str(error).partition(" (")
            extra = f" {extra.removesuffix(')')} "
            stray = next((one for one in words if f" {one} " in extra and _is_input(one)), None)
            if stray is not None and "unexpected extra argument" in text:
                raise stands_alone(stray) from None
            raise

    def get_epilog(self) -> str:
        """Return the epilog, made at the first call."""
        if self.epilog is None and self._make_epilog is not None:
            self.epilog = f"\b\n{self._make_epilog()}"
        return self.epilog or ""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog."""
        self.get_epilog()
        super().format_epilog(ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section per group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for one in self.get_params(ctx):
            record = None if isinstance(one, click.Argument) else one.get_help_record(ctx)
            if record is not None:
                groups.setdefault(self._groups.get(one.name or "", "Other"), []).append(record)
        groups["Other"] = groups.pop("Other", [])  # at the end
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def stands_alone(word: str) -> SettingsError:
    """Return the error for an input without --input."""
    return SettingsError(f"{word} has no option; use -i for an input: -i '{word}'")


def _taken_apart(words: Sequence[str]) -> str | None:
    """Return the words that form one list or object, joined; None if the first word is complete."""
    depth = 0
    for count, word in enumerate(words):
        if count == 0 and (word[:1] not in ("[", "{") or _is_json(word)):
            return None
        depth += sum((sign in "[{") - (sign in "]}") for sign in word)
        if depth <= 0:
            return " ".join(words[: count + 1]) if count else None
    return None


def _is_input(word: str) -> bool:
    return re.fullmatch(r"-?[0-9.]+", word) is not None or (word[:1] in ("[", "{") and _is_json(word))


def _is_json(word: str) -> bool:
    if word[-1:] not in ("]", "}"):
        return False
    import json  # late; brackets in strings do not count, so parse it

    try:
        json.loads(word)
    except ValueError:
        return False
    except RecursionError:
        pass  # the reader of the input reports it
    return True


class _OneOf(click.Choice):  # type: ignore[type-arg,unused-ignore]
    """One of some words; anything else is refused in one sentence, without the usage."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the word. Raises SettingsError."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            from difflib import get_close_matches  # late: only a mistake needs it

            assert param is not None and ctx is not None, "it is the type of an option"
            is_variable = ctx.get_parameter_source(param.name or "") is ParameterSource.ENVIRONMENT
            given = (
                [name for name in param.envvar or () if os.environ.get(name)] if is_variable else param.opts
            )
            close = [f"; did you mean {one}?" for one in get_close_matches(str(value), self.choices, 1)]
            words = " or ".join((", ".join(self.choices[:-1]), self.choices[-1]))
            raise SettingsError(f"{given[-1]} wants {words}, not {value!r}{''.join(close)}") from None


def parameter(option: Option) -> click.Option:
    """Return the option for click."""
    kind: Any = str
    if option.kind == "choice":
        kind = _OneOf(option.choices)
    flag = option.kind == "flag"
    shown = option.default is not None and not flag
    made = click.Option(
        [*option.flags, option.name],
        envvar=list(option.env) or None,
        default=option.default,
        type=None if flag else kind,
        is_flag=flag,
        multiple=option.kind == "many",
        metavar=None if flag or option.kind == "choice" else option.placeholder,
        show_default=shown,
        show_envvar=bool(option.env),
        shell_complete=complete_files if option.metavar in _FILES else None,
    )
    default = f"  [default: {option.default_text}]" if option.default_text else ""
    return described(made, option.help + default)


_FILES = ("FILE", "DIR", "PYTHON", "FILE.jsonl")


def complete_files(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    """Have the shell complete the names of files."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]
