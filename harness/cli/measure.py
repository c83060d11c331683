"""``joulebench measure``: run a plan and leave a run directory."""

from __future__ import annotations

import math
import shlex
import shutil
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from harness.core.errors import INTERRUPTED, UserError

if TYPE_CHECKING:
    from backends.base import Config
    from harness.measuring.plan import Plan
    from harness.measuring.sweep import MeterFactory

_MODEL = "smollm2-135m"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Attribution(StrEnum):
    """Whose CPU energy counts where the source can tell processes apart."""

    PROCESS = "process"
    SYSTEM = "system"


class CompileMode(StrEnum):
    """How decode steps are launched; ``backends.base.Config.compile``."""

    NONE = "none"
    GRAPH = "graph"
    INDUCTOR = "inductor"


def measure(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            "-o",
            help="Run directory; measuring into it again resumes.",
            show_default="runs/…",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Preset, Hugging Face id or folder, or .gguf file.")
    ] = _MODEL,
    backend: Annotated[str, typer.Option(help="Runtime: transformers, llama-cpp or fake.")] = "transformers",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, cuda:0,1, mps or metal.")] = "auto",
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            "--quant",
            help="Weights: a torch dtype, bnb-int8, bnb-nf4, torchao-int8 or -int4; for llama-cpp F16, Q8_0, Q4_0.",
        ),
    ] = "auto",
    kv_cache: Annotated[
        bool | None,
        typer.Option(
            "--kv-cache/--no-kv-cache",
            help="Reuse keys and values of earlier tokens.",
            show_default="the protocol's",
        ),
    ] = None,
    protocol: Annotated[str, typer.Option(help="quick, paper or precise.")] = "quick",
    input_tokens: Annotated[
        str | None,
        typer.Option(
            "--input-tokens",
            "-p",
            help="Input sweep: 8,64,512 or 8-2048*2 or 128-1024+128.",
            show_default="the protocol's",
        ),
    ] = None,
    output_tokens: Annotated[
        str | None,
        typer.Option("--output-tokens", "-n", help="Output sweep, written alike.", show_default="the protocol's"),
    ] = None,
    fixed_input: Annotated[int, typer.Option(min=1, help="Input tokens of the output sweep.")] = 32,
    fixed_output: Annotated[int, typer.Option(min=1, help="Output tokens of the input sweep.")] = 32,
    grid: Annotated[bool, typer.Option("--grid", help="Measure the full product of inputs and outputs.")] = False,
    point: Annotated[
        list[str] | None,
        typer.Option("--point", help="A further point m,n. Repeatable.", show_default="none"),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of the backend.", show_default="its choice")
    ] = None,
    compile_mode: Annotated[
        CompileMode,
        typer.Option("--compile", help="How decode steps are launched: one by one, as a CUDA graph, or compiled."),
    ] = CompileMode.NONE,
    prefill_chunk: Annotated[
        int | None,
        typer.Option(min=1, help="Most input tokens in one forward pass.", show_default="all"),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences per request.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seeds weights, input tokens and order.")] = 0,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds after which a trial is given up.")] = 600.0,
    min_window: Annotated[
        float | None,
        typer.Option(min=0.0, help="Shortest trial, s: requests repeat to fill it.", show_default="the protocol's"),
    ] = None,
    max_window: Annotated[
        float | None,
        typer.Option(min=0.001, help="Longest trial that sensors may ask for, s.", show_default="the protocol's"),
    ] = None,
    max_trials: Annotated[
        int | None, typer.Option(min=1, help="Most counted trials of a point.", show_default="the protocol's")
    ] = None,
    precision: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            max=1.0,
            help="Stop a point at this relative 95 % half-width.",
            show_default="the protocol's",
        ),
    ] = None,
    probes: Annotated[str, typer.Option(help="Power sources: auto, none, or names joined by commas.")] = "auto",
    rate: Annotated[float, typer.Option(min=0.1, max=1000.0, help="Samples per second and power source.")] = 20.0,
    cpu_watts: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Declared power of the whole CPU under full load, W, for the estimate.",
            show_default="an assumption",
        ),
    ] = None,
    attribution: Annotated[
        Attribution, typer.Option(help="Count the inference process's share of the CPU's energy, or all of it.")
    ] = Attribution.SYSTEM,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(help="DOMAIN=gain,offset or a TOML file. Repeatable.", show_default="none"),
    ] = None,
    max_foreign_load: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Share of the CPU other programs may take before a trial is discarded."),
    ] = 0.1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and a guess of its time; measure nothing.")
    ] = False,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Then fit, draw and write the report, into the run directory.")
    ] = False,
) -> None:
    """Measure this machine: sweeps of real inference, recorded trial by trial."""
    from backends.base import Config
    from harness.measuring.plan import make_plan

    plan, protocol_kv_cache = make_plan(
        protocol,
        inputs=input_tokens,
        outputs=output_tokens,
        fixed_input=fixed_input,
        fixed_output=fixed_output,
        full_grid=grid,
        points=point or [],
        seed=seed,
        timeout_s=timeout,
        min_window_s=min_window,
        max_window_s=max_window,
        max_trials=max_trials,
        precision=precision,
    )
    config = Config(
        model=model,
        device=device,
        dtype=dtype,
        kv_cache=protocol_kv_cache if kv_cache is None else kv_cache,
        batch_size=batch_size,
        compile=compile_mode.value,
        prefill_chunk=prefill_chunk,
        threads=threads,
        seed=seed,
    )
    energy: dict[str, Any] = {
        "probes": probes,
        "rate_hz": rate,
        "cpu_watts": cpu_watts,
        "attribution": attribution.value,
        "calibration": calibrate or [],
        "max_foreign_load": max_foreign_load,
    }
    open_meter = _meter_factory(**energy)
    if dry_run:
        _show_plan(plan, backend, config)
        return
    directory = output or Path("runs") / f"{backend}-{Path(model).name.partition(':')[0]}-{protocol}"
    counts = _run(plan, backend, config, directory, energy, open_meter)
    if pictures:
        from harness.showing.pictures import draw_all

        for text in draw_all(directory, fixed_input, fixed_output):
            print(text, flush=True)
    if not counts:
        listing = shlex.join([*_program(), "trials", str(directory)])
        print(f"joulebench: no trial of this run counts; to see why: {listing}", file=sys.stderr)
        raise typer.Exit(1)


def _run(
    plan: Plan,
    backend: str,
    config: Config,
    directory: Path,
    energy: dict[str, Any],
    open_meter: MeterFactory,
) -> bool:
    """Run the sweep, show it, and end every way it can end in one clear line. Returns whether any trial counts."""
    import backends
    from harness.measuring.sweep import Sweep, SweepStopped
    from harness.runs.store import RunStore, StorageError
    from harness.showing.progress import Display

    if backend not in backends.names():
        raise UserError(f"unknown backend '{backend}'; choose one of {', '.join(backends.names())}")
    for number in _SIGNALS:
        # nohup has hang-ups ignored, and means it.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    resume = f"resume with: {shlex.join([*_program(), *sys.argv[1:]])}"
    with RunStore(directory) as store, Display(plan, config, store) as display:
        for notice in store.notices:
            display.notice(notice)
        try:
            Sweep(plan, backend, config, energy, store, open_meter, display).run()
        except KeyboardInterrupt:
            display.close()
            kept = f"{len(store.records)} trials are kept in {directory}" if store.run else "nothing was measured yet"
            print(f"interrupted; {kept}; {resume}", file=sys.stderr)
            # Not typer.Exit, whose status for an interrupt says that nothing was said yet.
            sys.exit(INTERRUPTED)
        except (SweepStopped, StorageError) as error:
            display.close()
            print(
                f"joulebench: stopped: {error}; {len(store.records)} trials are kept; {resume}",
                file=sys.stderr,
            )
            raise typer.Exit(1) from None
        display.results()
        return any(record.counts for record in store.records)


def _program() -> list[str]:
    """How this program is called; in an environment that is not activated the command is not on the path."""
    return ["joulebench"] if shutil.which("joulebench") else [sys.executable, "-m", "harness"]


def _interrupt(number: int, _frame: object) -> NoReturn:
    # A second signal must not interrupt the ending.
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


def _meter_factory(
    probes: str,
    rate_hz: float,
    cpu_watts: float | None,
    attribution: Literal["process", "system"],
    calibration: list[str],
    max_foreign_load: float,
) -> MeterFactory:
    """What opens the power sources once the model is loaded; bad options are refused here, before."""
    from harness.energy import probes as power_sources
    from harness.energy.calibration import parse_calibration
    from harness.energy.meter import Meter
    from harness.energy.probes.base import ProbeContext

    if cpu_watts is not None and not math.isfinite(cpu_watts):
        raise UserError(f"--cpu-watts must be a number of watts, not {cpu_watts}")
    if probes not in ("auto", "none"):
        for name in probes.split(","):
            power_sources.create(name.strip())
    gains = parse_calibration(calibration)

    def open_meter(loaded: dict[str, Any], pid: int) -> Meter:
        context = ProbeContext(
            gpu_uuids=tuple(loaded["gpu_uuids"]),
            device=loaded["device"],
            worker_pid=pid,
            cpu_watts=cpu_watts,
            attribution=attribution,
        )
        # Power is read in real time: it has no meaning for requests on a virtual clock.
        chosen = "none" if loaded["settings"].get("virtual_clock") else probes
        return Meter.open(chosen, context, rate_hz=rate_hz, calibration=gains, foreign_load_limit=max_foreign_load)

    return open_meter


def _show_plan(plan: Plan, backend: str, config: Config) -> None:
    import backends
    from harness.measuring import time_guess

    runtime = backends.create(backend)
    model = runtime.resolve(config)
    device = config.device if config.device != "auto" else runtime.capabilities().devices[0]
    plan.refuse_beyond(model.context_length)
    trials = time_guess.expected_trials(plan)
    print(f"{backend}, {model.name} ({model.parameters:,} parameters, {model.dtype}) on {device}")
    points = f"{len(plan.points)} points" if len(plan.points) > 1 else "1 point"
    print(f"{points} in this order, guessed at {trials} trials each after one warm-up:")
    total_s = 0.0
    for point in plan.points:
        if point.input_tokens + point.output_tokens > model.context_length:
            print(f"  m = {point.input_tokens:5}  n = {point.output_tokens:5}  skipped: beyond the model's context")
            continue
        request_s = time_guess.request_s(model, device, point, kv_cache=config.kv_cache, batch_size=config.batch_size)
        point_s = time_guess.point_s(plan, request_s, trials)
        total_s += point_s
        print(
            f"  m = {point.input_tokens:5}  n = {point.output_tokens:5}  {request_s:9.3g} s a request  {point_s:9.3g} s"
        )
    print(
        f"about {time_guess.spell(total_s)} in all; a guess from typical rates of a {device}, good to a factor of three"
    )
