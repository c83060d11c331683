"""``joulebench workload``: look at a workload, or make one of a text dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option, Typer

from harness.cli import options
from harness.cli.help import Command, Group

app = Typer(cls=Group, no_args_is_help=True, help="Look at a workload, or make one of a text dataset.")


@app.command(cls=Command)
def show(
    workload: Annotated[str, Argument(metavar="WORKLOAD", help=options.WORKLOAD)],
    input_column: options.InputColumn = None,
    output_column: options.OutputColumn = None,
    form: options.LogForm = None,
    skip_bad: options.SkipBad = False,
    as_json: options.AsJson = False,
    output: options.FigurePath = None,
) -> None:
    """Print what a workload holds: how a log was read, quantiles and histograms of its token counts."""
    from harness.deciding.trace_files import load_workload
    from harness.showing.decision_figures import write_workload
    from harness.showing.workloads import print_workload

    loaded = load_workload(workload, input_column, output_column, skip_bad, form=form, sums=True)
    files = [] if output is None else write_workload(loaded, output)
    print_workload(loaded, files, as_json)


@app.command(cls=Command)
def build(
    text: Annotated[str, Option(help="Text dataset: CSV, Parquet, JSON or JSON lines; a file or glob.")],
    tokenizer: Annotated[str, Option(help="Hugging Face id, folder or tokenizer.json.")],
    output: Annotated[Path, Option("--output", "-o", help="Workload file to write (JSON).")],
    input_field: Annotated[
        list[str] | None,
        Option(
            help="Field with the prompt; repeat to add up several, such as instruction and input. a.b.c is nested.",
            show_default="recognised",
        ),
    ] = None,
    output_field: Annotated[
        list[str] | None,
        Option(help="Field with the answer; repeatable. That of the prompt for chats.", show_default="recognised"),
    ] = None,
    chat_template: Annotated[
        bool | None,
        Option(help="Write prompts as the tokenizer's chat template does.", show_default="for chats, where it has one"),
    ] = None,
    skip_bad: options.SkipBad = False,
    as_json: options.AsJson = False,
) -> None:
    """Count the tokens of a text dataset and keep the counts as a workload."""
    from harness.deciding.text_dataset import build_workload
    from harness.deciding.workload import save
    from harness.showing.workloads import print_workload

    built = build_workload(text, input_field or (), output_field or (), tokenizer, skip_bad, chat_template)
    save(built, output)
    print_workload(built, [output], as_json)
