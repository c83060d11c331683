"""How ``--help`` looks: plain lines under headings, at most 80 columns wide."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

from typer.core import TyperCommand, TyperGroup

CONTEXT = {"help_option_names": ["-h", "--help"]}
"""``-h`` works on every command."""

ALONE = {"--listen": "127.0.0.1:9437"}
"""Options that may come without a value, and what they mean then."""

_KINDS = {"int": "N", "float": "X", "path": "PATH", "str": "TEXT"}


class Command(TyperCommand):
    """A command whose options stand under the headings that their ``rich_help_panel`` names."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The rest of the arguments; an option that may stand alone gets the value that it has then."""
        told: list[str] = []
        for argument, after in zip_longest(args, args[1:], fillvalue="--"):
            told.append(argument)
            if argument in ALONE and after.startswith("-"):
                told.append(ALONE[argument])
        return super().parse_args(ctx, told)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The pieces of the line ``Usage:``, without the braces and second dots that typer puts around arguments."""
        pieces = [re.sub(r"[{}]", "", piece) for piece in super().collect_usage_pieces(ctx)]
        pieces = [re.sub(r"^\[(\[.*\]\.\.\.|\S+ .*)\]\.\.\.$", r"\1", piece) for piece in pieces]
        return [re.sub(r"\.\.\.(\]?)\.\.\.$", r"...\1", piece) for piece in pieces]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then options under their headings, those without one last."""
        _write_options(self.get_params(ctx), ctx, formatter)


class Group(TyperGroup):
    """A group whose commands stand under the headings that their ``rich_help_panel`` names."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Commands first: most people look for one of them."""
        self.format_commands(ctx, formatter)
        _write_options(self.get_params(ctx), ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Every command with its whole first sentence."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            heading = command.rich_help_panel
            sections.setdefault(heading if isinstance(heading, str) else "Commands", []).append(
                (name, command.get_short_help_str(200))
            )
        widest = max(len(name) for rows in sections.values() for name, _ in rows)
        for heading, rows in sections.items():
            with formatter.section(heading):
                # One column of sentences under all headings.
                formatter.write_dl([(name.ljust(widest), said) for name, said in rows])


def _write_options(parameters: Iterable[Any], ctx: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in parameters:
        record = parameter.get_help_record(ctx)
        if record is not None:
            names, said = _plain(*record)
            heading = getattr(parameter, "rich_help_panel", None)
            if parameter.param_type_name == "argument":
                heading, names = "Arguments", parameter.metavar or parameter.name.upper()
            sections.setdefault(heading if isinstance(heading, str) else "Options", []).append((names, said))
    for heading in [name for name in sections if name != "Options"] + ["Options"] * ("Options" in sections):
        with formatter.section(heading):
            formatter.write_dl(sections[heading])


def _plain(names: str, said: str) -> tuple[str, str]:
    """Typer's own words for types, ranges and defaults, as people write them."""
    names = re.sub(r"<(?:list\[)?(int|float|path|str)(?: range)?\]?>", lambda kind: _KINDS[kind[1]], names)
    names = re.sub(r"<([^<>]*\|[^<>]*)>", r"\1", names)
    # Typer before 0.16 has other names for them and escapes brackets.
    names = re.sub(r"\b(INTEGER|FLOAT)( RANGE)?$", lambda kind: "N" if kind[1] == "INTEGER" else "X", names)
    said = said.replace("\\[", "[")
    said = re.sub(r"\[default: \((.*?)\)(?=[;\]])", r"[default: \1", said)
    said = re.sub(r"(\[default: \d+)\.0(?=[;\]])", r"\1", said)
    # That a count or a duration has a least value goes without saying.
    said = re.sub(r"; x>=[-\d.e]+\]|  \[x>=[-\d.e]+\]", lambda range: "]" if range[0][0] == ";" else "", said)
    ends = r"([-\d.e]+)<=x<=([-\d.e]+)"
    return names, re.sub(ends, lambda ends: f"{_number(ends[1])} to {_number(ends[2])}", said)


def _number(text: str) -> str:
    return f"{float(text):.7f}".rstrip("0").rstrip(".")
