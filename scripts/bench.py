"""The project's own speed, as ratios to what it is compared with, measured in turns on this machine.

    python scripts/bench.py [--only NAME] [--rounds N] [--threads N] [--json]

Every round measures both sides one after the other, the first side alternating, and gives one ratio; the table
shows the median ratio and its quartiles over the rounds. A benchmark is a function with ``@benchmark``. Below the
table come reports on what has no reference to be compared with: how true energies are, what sampling costs, how
fast a trace becomes an answer.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import bench_decide
import bench_energy
import bench_harness
import bench_startup

import backends
from backends import gguf_file
from backends.base import Backend, Completion, Config, NotInstalled, Request
from harness.environment import machine

T = TypeVar("T")

MODEL = "smollm2-135m"
PREFILL_TOKENS, DECODE_STEPS = 512, 128
GENERATED_TOKENS = 64


class Unavailable(Exception):
    """The benchmark can't run here; the message says why."""


@dataclass(frozen=True)
class Comparison:
    """One number measured on both sides, once a round. More is better."""

    name: str
    unit: str
    ours: list[float]
    reference: list[float]
    reference_name: str
    required_ratio: float
    """The project's aim for the median of ours / reference."""

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.ours, self.reference, strict=True)]


@dataclass(frozen=True)
class Options:
    """What every benchmark is told."""

    rounds: int
    threads: int


Benchmark = Callable[[Options], list[Comparison]]
BENCHMARKS: dict[str, Benchmark] = {}


REPORTS: dict[str, Callable[[], list[str]]] = {
    "sensors": bench_energy.sensors,
    "sampler": bench_energy.sampler,
    "decide": bench_decide.table,
}
"""Tables of their own, as lines; ``--only`` takes their names too."""


def benchmark(name: str) -> Callable[[Benchmark], Benchmark]:
    """Registers a function under the name that ``--only`` takes. It may raise Unavailable or NotInstalled."""

    def register(function: Benchmark) -> Benchmark:
        BENCHMARKS[name] = function
        return function

    return register


@benchmark("llama-bench")
def against_llama_bench(options: Options) -> list[Comparison]:
    """Tokens/s of the llama-cpp backend against llama.cpp's own benchmark: same file, threads and build flags."""
    backend = backends.create("llama-cpp")
    backend.capabilities()
    program = llama_bench_program(backend.versions()["llama-cpp-python"])
    model_file = gguf_file.preset_file(MODEL, "Q8_0", 0)
    backend.load(Config(str(model_file), device="cpu", threads=options.threads))

    def ours() -> tuple[float, float]:
        prefill = complete(backend, Request(PREFILL_TOKENS, 1))
        decode = complete(backend, Request(1, DECODE_STEPS + 1))
        return prefill_rate(prefill), decode_rate(decode)

    def reference() -> tuple[float, float]:
        command = [str(program), "-m", str(model_file), "-t", str(options.threads), "-dev", "none", "-r", "1"]
        command += ["-p", str(PREFILL_TOKENS), "-n", str(DECODE_STEPS), "-o", "json"]
        tests = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return next(t["avg_ts"] for t in tests if t["n_prompt"]), next(t["avg_ts"] for t in tests if t["n_gen"])

    pairs = list(in_turns(ours, reference, options.rounds))
    backend.close()
    names = f"llama-cpp prefill {PREFILL_TOKENS}", f"llama-cpp decode {DECODE_STEPS}"
    return [
        Comparison(name, "tokens/s", [a[i] for a, _ in pairs], [b[i] for _, b in pairs], "llama-bench", 0.98)
        for i, name in enumerate(names)
    ]


@benchmark("generate")
def against_generate(options: Options) -> list[Comparison]:
    """Tokens/s of whole requests: the transformers backend's loop against ``generate()`` on the same model and input.

    Weights, attention implementation, cache class, threads and tokens are those of one process; both are timed
    from outside. Raises AssertionError when they choose different tokens.
    """
    backend = backends.create("transformers")
    backend.load(Config(MODEL, device="cpu", threads=options.threads))
    model = backend.model  # type: ignore[attr-defined]
    # generate() would otherwise look for an end of sequence at every step, which the loop never does.
    model.generation_config.eos_token_id = None
    request = Request(1, GENERATED_TOKENS)
    backend.prepare(request)
    input_ids = backend._draw_tokens(request)  # type: ignore[attr-defined]

    def ours() -> tuple[int, ...]:
        return backend.run(request).output_ids

    def reference() -> tuple[int, ...]:
        output = model.generate(input_ids, max_new_tokens=GENERATED_TOKENS, do_sample=False)
        return tuple(output[0, input_ids.shape[1] :].tolist())

    assert ours() == reference(), "generate() chooses other tokens"
    pairs = list(in_turns(lambda: second_run_s(ours), lambda: second_run_s(reference), options.rounds))
    backend.close()
    mine, theirs = ([GENERATED_TOKENS / duration_s for duration_s in side] for side in zip(*pairs, strict=True))
    return [Comparison(f"transformers 1 + {GENERATED_TOKENS}", "tokens/s", mine, theirs, "generate()", 1.0)]


@benchmark("harness")
def against_a_bare_loop(options: Options) -> list[Comparison]:
    """Requests/s of windows measured by the harness against the same requests in a bare loop."""
    with ExitStack() as stack:
        pairs = list(in_turns(*bench_harness.sides(stack, MODEL, options.threads), options.rounds))
    ours, bare = (list(values) for values in zip(*pairs, strict=True))
    return [Comparison("harness 32 + 16", "req/s", ours, bare, "bare loop", 0.98)]


@benchmark("startup")
def against_bare_typer(options: Options) -> list[Comparison]:
    """Starts/s of ``joulebench --help`` against a program of typer's with two empty commands."""
    with ExitStack() as stack:
        pairs = list(in_turns(*bench_startup.sides(stack), options.rounds))
    ours, bare = (list(values) for values in zip(*pairs, strict=True))
    return [Comparison("joulebench --help", "starts/s", ours, bare, "bare typer", 0.67)]


def complete(backend: Backend, request: Request) -> Completion:
    """A request after an uncounted one that warms up, as llama-bench does."""
    backend.prepare(request)
    backend.run(request)
    return backend.run(request)


def second_run_s(action: Callable[[], object]) -> float:
    """Duration of an action after an uncounted one that warms up."""
    action()
    start_ns = time.monotonic_ns()
    action()
    return (time.monotonic_ns() - start_ns) / 1e9


def prefill_rate(completion: Completion) -> float:
    """Tokens/s of the prefill phase."""
    return completion.input_tokens / (completion.prefill_end_ns - completion.start_ns) * 1e9


def decode_rate(completion: Completion) -> float:
    """Tokens/s of the decode phase."""
    return (completion.output_tokens - 1) / (completion.end_ns - completion.prefill_end_ns) * 1e9


def in_turns(first: Callable[[], T], second: Callable[[], T], rounds: int) -> Iterator[tuple[T, T]]:
    """Results of both, measured in turns; who begins alternates, so that a drift of the machine cancels."""
    for number in range(rounds):
        if number % 2 == 0:
            a = first()
            b = second()
        else:
            b = second()
            a = first()
        yield a, b


def llama_bench_program(version: str) -> Path:
    """llama-bench from the source of this version of llama-cpp-python, linked to the libraries it installed.

    Both sides then run the same machine code. Takes a minute or two, once. Raises Unavailable.
    """
    import llama_cpp

    directory = gguf_file.cache_directory() / "llama-bench" / version
    program = directory / "llama-bench"
    if program.exists():
        return program
    libraries = Path(llama_cpp.__file__).parents[1] / "lib"
    names = ("llama-common", "llama", "ggml", "ggml-base")
    suffix = "dylib" if sys.platform == "darwin" else "so"
    absent = [f"lib{name}.{suffix}" for name in names if not (libraries / f"lib{name}.{suffix}").exists()]
    if absent:
        raise Unavailable(
            f"{libraries} lacks {', '.join(absent)}; build the package here: pip install --force-reinstall "
            f"--no-binary llama-cpp-python llama-cpp-python=={version}"
        )
    print(f"building {program}", file=sys.stderr)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python"]
        build([*pip, "--dest", scratch, f"llama-cpp-python=={version}"])
        (archive,) = Path(scratch).glob("llama_cpp_python-*.tar.gz")
        with tarfile.open(archive) as source:
            source.extractall(scratch, filter="data")
        (llama,) = Path(scratch).glob("llama_cpp_python-*/vendor/llama.cpp")
        sources = [str(llama / "tools" / "llama-bench" / name) for name in ("llama-bench.cpp", "main.cpp")]
        options = ["-O3", "-DNDEBUG", "-std=c++17", "-pthread"]
        options += [f"-I{llama / part}" for part in ("include", "ggml/include", "common", "vendor")]
        link = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", *(f"-l{name}" for name in names)]
        unfinished = str(Path(scratch) / "llama-bench")
        build([*shlex.split(os.environ.get("CXX", "c++")), *options, *sources, *link, "-o", unfinished])
        os.replace(unfinished, program)
    return program


def build(command: list[str]) -> None:
    """Runs one step of a build. Raises Unavailable with the end of its output when it fails."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except FileNotFoundError as absent:
        raise Unavailable(f"llama-bench can't be built without {absent.filename}") from absent
    if done.returncode:
        raise Unavailable(f"llama-bench can't be built, {command[0]} failed:\n{done.stdout[-2000:]}")


def as_row(comparison: Comparison) -> str:
    """One line of the table."""
    low, middle, high = statistics.quantiles(comparison.ratios, n=4, method="inclusive")
    return (
        f"{comparison.name:<26} {statistics.median(comparison.ours):>10.1f} "
        f"{statistics.median(comparison.reference):>10.1f} {comparison.unit:<9} "
        f"{middle:>6.3f}  {low:.3f}–{high:.3f}  ≥ {comparison.required_ratio:.2f}  {comparison.reference_name}"
    )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure the project's own speed as ratios.")
    parser.add_argument(
        "--only", action="append", choices=[*BENCHMARKS, *REPORTS], help="run this benchmark alone; repeatable"
    )
    parser.add_argument("--rounds", type=int, default=10, help="times each side is measured (at least 2)")
    parser.add_argument("--threads", type=int, help="CPU threads of both sides (default: the usable cores)")
    parser.add_argument("--json", action="store_true", help="print JSON with every round's values")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("--rounds must be at least 2")
    return arguments


def main() -> None:
    """Runs the benchmarks and prints their table, or JSON."""
    arguments = parse_arguments()
    here = machine()
    options = Options(arguments.rounds, arguments.threads or here["usable_cores"])
    wanted = arguments.only or [*BENCHMARKS, *REPORTS]
    found: list[Comparison] = []
    unavailable: dict[str, str] = {}
    for name in wanted:
        try:
            found += BENCHMARKS[name](options) if name in BENCHMARKS else []
        except (Unavailable, NotInstalled) as absent:
            unavailable[name] = str(absent)
    reports = {name: REPORTS[name]() for name in wanted if name in REPORTS}
    if arguments.json:
        comparisons = [asdict(c) | {"median_ratio": statistics.median(c.ratios)} for c in found]
        report = {"machine": here, "threads": options.threads, "comparisons": comparisons, "reports": reports}
        print(json.dumps(report | {"unavailable": unavailable}, indent=2))
        return
    print(f"{here['cpu_model']}, {options.threads} threads, {options.rounds} rounds, {MODEL}")
    if found:
        print(f"{'':<26} {'ours':>10} {'reference':>10} {'':<9} {'ratio':>6}  quartiles    aim     against")
    for comparison in found:
        print(as_row(comparison))
    for name, reason in unavailable.items():
        print(f"{name}: not measured, {reason}")
    for name, lines in reports.items():
        print("", name, *lines, sep="\n")


if __name__ == "__main__":
    main()
