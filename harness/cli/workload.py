"""``joulebench workload``: look at a workload, or make one of a text dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options

app = typer.Typer(no_args_is_help=True, help="Look at a workload, or make one of a text dataset.")


@app.command()
def show(
    workload: Annotated[str, typer.Argument(help="Built-in name (alpaca), workload file, trace file or glob.")],
    input_column: options.InputColumn = None,
    output_column: options.OutputColumn = None,
    skip_bad: options.SkipBad = False,
    as_json: options.AsJson = False,
    output: options.FigurePath = None,
) -> None:
    """Print quantiles and histograms of a workload's token counts."""
    from harness.showing import decision_figures, figures, workloads

    loaded = options.load_workload(workload, input_column, output_column, skip_bad)
    files: list[Path] = []
    if output is not None:
        drawn = decision_figures.workload_figure(loaded)
        rows = decision_figures.workload_rows(loaded)
        files += figures.write(drawn, output, decision_figures.WORKLOAD_HEADER, rows)
    if as_json:
        options.print_json(workloads.as_json(loaded))
        return
    workloads.show(loaded, files)


@app.command()
def build(
    text: Annotated[str, typer.Option(help="Text dataset: CSV, Parquet, JSON or JSON lines; a file or glob.")],
    input_field: Annotated[
        list[str], typer.Option(help="Field with the prompt; repeat to add up several, such as instruction and input.")
    ],
    output_field: Annotated[list[str], typer.Option(help="Field with the answer; repeatable.")],
    tokenizer: Annotated[str, typer.Option(help="Hugging Face id, folder or tokenizer.json.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Workload file to write (JSON).")],
    skip_bad: options.SkipBad = False,
) -> None:
    """Count the tokens of a text dataset and keep the counts as a workload."""
    from harness.deciding.text_dataset import build_workload
    from harness.deciding.workload import save
    from harness.showing import workloads

    built = build_workload(text, input_field, output_field, tokenizer, skip_bad)
    save(built, output)
    workloads.show(built, [output])
