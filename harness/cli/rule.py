"""``joulebench rule``: the files that ``threshold`` and ``route`` export for a scheduler."""

from __future__ import annotations

from typer import Typer

from harness.cli.help import Command, Group

app = Typer(cls=Group, no_args_is_help=True, help="Print the JSON schema of rules that --export writes.")


@app.callback()
def rule() -> None:
    """Print the JSON schema of rules that threshold --export and route --export write."""


@app.command("schema", cls=Command)
def schema() -> None:
    """Print the JSON schema of a rule."""
    from harness.deciding.rule_schema import rule_schema
    from harness.showing.terminal import print_json

    print_json(rule_schema())
