"""The options of ``joulebench measure``, under the headings of its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from harness.cli.options import PROTOCOLS, Attribution, Compile, SensorCheckMode
from harness.cli.server_options import ServerOptions
from harness.core.errors import UserError

_WHAT, _HOW, _ENERGY, _OUTPUT = "What to measure", "How often and how long", "Energy", "Output"
_OTHERS = "As in llama-bench, hyperfine and vllm bench"


def run_directory(text: str) -> Path:
    """The directory of a run. Raises UserError for what other programs take ``-o`` for: a format of output."""
    if text in OUTPUT_FORMATS:
        form = f" --format {text}" if text in ("csv", "json") else ""
        raise UserError(
            f"-o {text}: -o names the run directory; type -o ./{text} if it is to be called that; for output in a "
            f"format measure, then type: joulebench trials RUN{form}"
        )
    return Path(text)


OUTPUT_FORMATS = ("csv", "json", "jsonl", "md", "sql")
"""What llama-bench takes as ``-o``."""


class MeasureOptions(ServerOptions):
    """The options of ``measure``, by the names of the fields that ``harness.measuring.planned_run.prepare`` takes.

    Where a default is written here, it is that field's.
    """

    model: Annotated[
        str | None,
        Option(
            "--model",
            "-m",
            help="Preset, Hugging Face id or folder, or .gguf file; with --url, the name that the server has for it.",
            show_default="smollm2-135m; with --url the one served",
            rich_help_panel=_WHAT,
        ),
    ] = None
    backend: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="Runtime: transformers, llama-cpp, mlx, openai (a server) or fake.",
            show_default="transformers; openai with --url or --serve",
            rich_help_panel=_WHAT,
        ),
    ] = None
    device: Annotated[
        str,
        Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1, cuda:0,1, mps or metal.", rich_help_panel=_WHAT),
    ] = "auto"
    dtype: Annotated[
        str,
        Option(
            "--dtype",
            "--quant",
            metavar="TYPE",
            help="Weights: a torch dtype, bnb-int8, bnb-nf4, torchao-int8 or -int4; llama-cpp: F32, F16, Q8_0, Q4_0; "
            "mlx: 4bit, 8bit, mxfp4, ….",
            rich_help_panel=_WHAT,
        ),
    ] = "auto"
    protocol: Annotated[
        str,
        Option(
            metavar="NAME",
            help="quick (5 % precision), precise (2 %, extra off-axis points), paper (the paper's sweeps, no KV cache) "
            "or adaptive (sizes chosen while measuring, until the model is right).",
            rich_help_panel=_WHAT,
        ),
    ] = "quick"
    input_tokens: Annotated[
        str | None,
        Option(
            "--input-tokens",
            "-p",
            metavar="TOKENS",
            help="Input sweep: 8,64,512 or 8-2048*2 or 128-1024+128.",
            show_default=PROTOCOLS,
            rich_help_panel=_WHAT,
        ),
    ] = None
    output_tokens: Annotated[
        str | None,
        Option(
            "--output-tokens",
            "-n",
            metavar="TOKENS",
            help="Output sweep, same syntax as -p.",
            show_default=PROTOCOLS,
            rich_help_panel=_WHAT,
        ),
    ] = None
    fixed_input: Annotated[int, Option(min=1, help="Input tokens of the output sweep.", rich_help_panel=_WHAT)] = 32
    fixed_output: Annotated[int, Option(min=1, help="Output tokens of the input sweep.", rich_help_panel=_WHAT)] = 32
    grid: Annotated[bool, Option("--grid", help="Measure every combination of -p and -n.", rich_help_panel=_WHAT)] = (
        False
    )
    points: Annotated[
        list[str] | None,
        Option(
            "--point",
            "-pg",
            metavar="INPUT,OUTPUT",
            help="Also measure this request size. Repeatable.",
            show_default=False,
            rich_help_panel=_WHAT,
        ),
    ] = None
    concurrency: Annotated[
        str,
        Option(
            "--concurrency",
            "-c",
            "--batch-size",
            metavar="REQUESTS",
            help="Requests in flight, such as 1,2,4 or 1-64*2: a static batch, or with a server a closed loop.",
            rich_help_panel=_WHAT,
        ),
    ] = "1"
    threads: Annotated[
        int | None,
        Option(
            "--threads",
            "-t",
            min=1,
            help="CPU threads of the backend.",
            show_default="the backend's choice",
            rich_help_panel=_WHAT,
        ),
    ] = None
    kv_cache: Annotated[
        bool | None,
        Option(
            "--kv-cache/--no-kv-cache",
            help="Use the KV cache.",
            show_default="on; off in protocol paper",
            rich_help_panel=_WHAT,
        ),
    ] = None
    compile: Annotated[
        Compile,
        Option(
            "--compile",
            help="How decode steps are launched: one by one, as a CUDA graph, or compiled.",
            rich_help_panel=_WHAT,
        ),
    ] = Compile.NONE
    prefill_chunk: Annotated[
        int | None,
        Option(min=1, help="Maximum input tokens per forward pass.", show_default="all at once", rich_help_panel=_WHAT),
    ] = None
    random_weights: Annotated[
        bool,
        Option(
            "--random-weights",
            help="Draw the weights of a folder or hub model at random: only its config.json is read.",
            rich_help_panel=_WHAT,
        ),
    ] = False
    seed: Annotated[
        int,
        Option(
            min=0,
            max=2**31 - 1,
            help="Seed for random weights, input tokens and the order of points.",
            rich_help_panel=_WHAT,
        ),
    ] = 0
    error: Annotated[
        str | None,
        Option(
            metavar="PERCENT",
            help="Adaptive: stop when the model's mean error at sizes drawn at random is below this.",
            show_default="2%",
            rich_help_panel=_HOW,
        ),
    ] = None
    budget: Annotated[
        str | None,
        Option(
            metavar="TIME",
            help="Adaptive: begin no further size after this time, such as 10m.",
            show_default="none",
            rich_help_panel=_HOW,
        ),
    ] = None
    traffic: Annotated[
        Path | None,
        Option(
            "--for",
            metavar="TRACE",
            help="Adaptive: the requests that matter: a workload, or a trace of your own.",
            show_default="all sizes alike",
            rich_help_panel=_HOW,
        ),
    ] = None
    runs: Annotated[
        int | None,
        Option(
            "--runs",
            "-r",
            min=1,
            help="Exactly this many trials per point, warm-up not included.",
            show_default="until precise",
            rich_help_panel=_HOW,
        ),
    ] = None
    precision: Annotated[
        float | None,
        Option(
            min=1e-6,
            max=1.0,
            help="Stop a point at this relative 95 % half-width.",
            show_default=PROTOCOLS,
            rich_help_panel=_HOW,
        ),
    ] = None
    max_trials: Annotated[
        int | None,
        Option(
            min=1,
            help="Maximum number of trials per point, warm-up not included.",
            show_default=PROTOCOLS,
            rich_help_panel=_HOW,
        ),
    ] = None
    min_window_s: Annotated[
        float | None,
        Option(
            "--min-window",
            min=0.0,
            metavar="SECONDS",
            help="Shortest trial: requests repeat to fill it.",
            show_default=PROTOCOLS,
            rich_help_panel=_HOW,
        ),
    ] = None
    max_window_s: Annotated[
        float | None,
        Option(
            "--max-window",
            min=0.001,
            metavar="SECONDS",
            help="Longest trial, even if a sensor needs longer.",
            show_default=PROTOCOLS,
            rich_help_panel=_HOW,
        ),
    ] = None
    timeout_s: Annotated[
        float,
        Option(
            "--timeout",
            min=0.001,
            max=1e6,
            metavar="SECONDS",
            help="Give up on a trial after this many seconds.",
            rich_help_panel=_HOW,
        ),
    ] = 600.0
    max_foreign_load: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            help="Mark trials during which other programs used more than this share of the CPU.",
            rich_help_panel=_HOW,
        ),
    ] = 0.1
    probes: Annotated[
        str,
        Option(metavar="NAMES", help="Power sources: auto, none, or names joined by commas.", rich_help_panel=_ENERGY),
    ] = "auto"
    rate_hz: Annotated[
        float,
        Option(
            "--sample-rate", min=0.1, max=1000.0, help="Samples per second and power source.", rich_help_panel=_ENERGY
        ),
    ] = 20.0
    cpu_watts: Annotated[
        float | None,
        Option(
            min=0.001,
            metavar="WATTS",
            help="Power of the whole CPU under full load, for the estimate.",
            show_default="an assumption",
            rich_help_panel=_ENERGY,
        ),
    ] = None
    attribution: Annotated[
        Attribution,
        Option(
            help="Count all energy, or the inference process's share of the CPU and, as an estimate, of NVIDIA GPUs.",
            rich_help_panel=_ENERGY,
        ),
    ] = Attribution.SYSTEM
    calibration: Annotated[
        list[str] | None,
        Option(
            "--calibrate",
            metavar="TEXT",
            help="DOMAIN=gain,offset or a TOML file. Repeatable.",
            show_default=False,
            rich_help_panel=_ENERGY,
        ),
    ] = None
    sensor_check: Annotated[
        SensorCheckMode,
        Option(
            "--sensor-check",
            help="Measure each sensor's period, lag and filter by 10 s of load: once on a machine, never, or again.",
            rich_help_panel=_ENERGY,
        ),
    ] = SensorCheckMode.AUTO
    output: Annotated[
        Path | None,
        Option(
            "--output-dir",
            "-o",
            parser=run_directory,
            metavar="DIR",
            help="Run directory; measuring into it again resumes.",
            show_default="runs/…",
            rich_help_panel=_OUTPUT,
        ),
    ] = None
    dry_run: Annotated[
        bool,
        Option(
            "--dry-run",
            help="Print the plan and a guess of its time; measure nothing.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False
    pictures: Annotated[
        bool,
        Option(
            "--pictures",
            help="Then fit, draw and write the report, into the run directory.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False
    as_json: Annotated[
        bool,
        Option("--json", help="Print the result as JSON; progress goes to stderr.", rich_help_panel=_OUTPUT),
    ] = False
    export_json: Annotated[
        Path | None,
        Option("--export-json", metavar="FILE", help="Write what --json prints to a file.", rich_help_panel=_OUTPUT),
    ] = None
    gpu_layers: Annotated[
        str | None,
        Option(
            "--n-gpu-layers",
            "-ngl",
            metavar="N",
            help="0: --device cpu; 99 or -1: all layers on the GPU.",
            rich_help_panel=_OTHERS,
        ),
    ] = None
    input_len: Annotated[
        int | None,
        Option(min=1, help="With --output-len: measure this one request size.", rich_help_panel=_OTHERS),
    ] = None
    output_len: Annotated[int | None, Option(min=1, help="See --input-len.", rich_help_panel=_OTHERS)] = None
    warmup: Annotated[
        int | None,
        Option(
            "--warmup",
            "-w",
            help="1: there is always one warm-up trial per point, which is not counted.",
            rich_help_panel=_OTHERS,
        ),
    ] = None
