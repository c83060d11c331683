"""What users of llama-bench, hyperfine, vllm bench, AIPerf, guidellm and others type, and what to type here instead.

Options that mean the same here are options of ``measure`` (``cli/measure_options.py``). The others are in one table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from harness.core.errors import UserError

_CHUNK = "for the most input tokens per forward pass type --prefill-chunk N; for several sequences at once -c N"
_GPUS = "name the GPUs with --device cuda:1 or --device cuda:0,1"
_PLACEMENT = "all of the model is on the device that --device names; parts of it can't be placed elsewhere"
_CACHE_TYPE = "the KV cache has the type that the backend gives it, and none can be chosen"
_LOADING = "how the file is loaded can't be chosen; loading is never part of a trial"
_SCHEDULING = "the system's own scheduling is measured; for CPU threads type --threads N, for cores start with: taskset"
_EXPORT = "after measuring type: joulebench trials RUN --format csv, or joulebench report RUN"
_SIZE = "a request size is --input-len M --output-len N, a sweep -p 8-512*2 or -n 8-128*2"
_CONTEXT = f"the context is as long as the request; {_SIZE}"
_SERVER = "type --url URL, such as http://127.0.0.1:8000, and with several models there --model NAME"
_LENGTHS = (
    "measure takes random tokens of given lengths; token lengths of a data set go to: "
    "joulebench threshold … --workload FILE"
)
_ONE_SIZE = "type --point INPUT,OUTPUT"
_WINDOW = "a trial lasts as long as its power sensor needs: type --min-window SECONDS; with --rate --duration SECONDS"
_WARMUP = "one warm-up trial per point is always made, which is not counted"
_COMMAND = "measure runs a model, not a command; joules of your own Python code: joulebench.Meter"
_HYDRA = "there are no configuration files; type options, such as --model NAME --device cpu"

LLAMA_BENCH = {
    **dict.fromkeys(("-npp", "-ntg"), "type --point INPUT,OUTPUT, or a sweep -p 8-512*2 or -n 8-128*2"),
    "-npl": "type -c 1,2,4",
    "-pps": "every prompt is drawn afresh; none is shared",
    "-b": _CHUNK,
    "-ub": _CHUNK,
    "--ubatch-size": _CHUNK,
    "--n-prompt": "type -p N",
    "--n-gen": "type -n N",
    "-d": "every request starts with an empty context; for a long one type --point INPUT,OUTPUT",
    "--n-depth": "every request starts with an empty context; for a long one type --point INPUT,OUTPUT",
    "--repetitions": "type --runs N",
    "-fa": "the backend decides about flash attention; its choice is in run.json",
    "--fa": "the backend decides about flash attention; its choice is in run.json",
    "--flash-attn": "the backend decides about flash attention; its choice is in run.json",
    **dict.fromkeys(("-ctk", "-ctv", "--cache-type-k", "--cache-type-v", "-dt", "--defrag-thold"), _CACHE_TYPE),
    **dict.fromkeys(("-sm", "--split-mode", "-mg", "--main-gpu", "-ts", "--tensor-split", "-dev"), _GPUS),
    **dict.fromkeys(("-ncmoe", "--n-cpu-moe", "-nkvo", "--no-kv-offload", "-ot", "--override-tensor"), _PLACEMENT),
    **dict.fromkeys(("-nopo", "--no-op-offload", "--no-host"), _PLACEMENT),
    **dict.fromkeys(("-mmp", "--mmap", "-lm", "--load-mode", "-dio", "--direct-io", "-nr", "--repack"), _LOADING),
    **dict.fromkeys(("--prio", "--numa", "--poll", "-C", "--cpu-mask", "--cpu-strict"), _SCHEDULING),
    **dict.fromkeys(("-hf", "-hfr", "--hf-repo", "-hff", "--hf-file"), "download the file and type --model FILE.gguf"),
    **dict.fromkeys(("-hft", "--hf-token"), "set the environment variable HF_TOKEN"),
    "--offline": "set the environment variable HF_HUB_OFFLINE=1",
    "--ctx-size": _CONTEXT,
    "--delay": "there is no pause between trials",
    "-embd": "measure generates text; it has no embeddings",
    "--embeddings": "measure generates text; it has no embeddings",
    "-rpc": "the model runs on this machine only",
    "--rpc": "the model runs on this machine only",
    "-oe": "progress and result are text; for JSON type --json",
    "--output-err": "progress and result are text; for JSON type --json",
    "--list-devices": "type: joulebench doctor",
    "--no-warmup": _WARMUP,
    "--n-gen-warmup": _WARMUP,
    "-v": "what the backend says is in worker.log of the run directory",
    "--verbose": "what the backend says is in worker.log of the run directory",
    "--progress": "progress is always shown",
}

HYPERFINE = {
    "--min-runs": "for exactly N trials per point type --runs N; for a narrow interval --precision 0.02",
    "-M": "type --max-trials N",
    "--max-runs": "type --max-trials N",
    **dict.fromkeys(("--export-csv", "--export-markdown", "--export-asciidoc", "--export-orgmode"), _EXPORT),
    **dict.fromkeys(("-s", "--setup", "--prepare", "--conclude", "--cleanup", "--command-name"), _COMMAND),
    **dict.fromkeys(("-N", "-S", "--shell", "--show-output", "--input"), _COMMAND),
    **dict.fromkeys(("-P", "--parameter-scan", "-D", "--parameter-step-size", "-L", "--parameter-list"), _SIZE),
    "-i": "a trial that fails is recorded and measuring goes on",
    "--ignore-failure": "a trial that fails is recorded and measuring goes on",
    **dict.fromkeys(("-u", "--time-unit"), "times are in seconds"),
    **dict.fromkeys(("--style", "--sort", "--reference"), "the output has one form; for programs type --json"),
}

VLLM_BENCH = {
    "--random-input-len": "type --input-len M --output-len N",
    "--random-output-len": "type --input-len M --output-len N",
    "--num-prompts": "for exactly N trials per point type --runs N; a trial repeats its request for at least "
    "--min-window seconds",
    "--num-iters": "for exactly N trials per point type --runs N",
    "--num-iters-warmup": _WARMUP,
    "--num-warmups": _WARMUP,
    "--output-json": "type --export-json FILE",
    **dict.fromkeys(("--save-result", "--result-dir", "--result-filename"), "type --output-dir DIR or --json"),
    **dict.fromkeys(("--dataset-name", "--dataset-path", "--dataset", "--random-range-ratio", "--tokenizer"), _LENGTHS),
    **dict.fromkeys(("--host", "--port", "--base-url", "--endpoint", "--served-model-name"), _SERVER),
    "--request-rate": "for Poisson arrivals type --rate 2/s",
    "--max-concurrency": "type -c N",
    "--burstiness": "arrivals are Poisson (--rate 2/s) or those of a log (--arrivals FILE)",
    "--goodput": "type --slo-ttft, --slo-tpot or --slo-e2e SECONDS, with --rate",
    "--async-engine": "for a server type --url or --serve vllm",
    **dict.fromkeys(
        ("--max-num-seqs", "--n"),
        "type -c N; options of a started server go after two dashes",
    ),
    "--max-num-batched-tokens": "type --prefill-chunk N",
    **dict.fromkeys(("-tp", "--tensor-parallel-size", "-pp", "--pipeline-parallel-size"), _GPUS),
    **dict.fromkeys(("-q", "--quantization"), "type --quant TYPE, such as bnb-nf4, or Q4_0 with llama-cpp"),
    "--kv-cache-dtype": _CACHE_TYPE,
    "--max-model-len": _CONTEXT,
    "--gpu-memory-utilization": "memory is taken as the request needs it",
    "--enforce-eager": "decode steps are launched one by one by default; for CUDA graphs type --compile graph",
    "--ignore-eos": "every request has exactly its output tokens; end-of-sequence is always ignored",
    "--trust-remote-code": "code from model repositories is never run",
    "--use-beam-search": "tokens are chosen greedily",
    **dict.fromkeys(("--percentile-metrics", "--metric-percentiles"), "every trial is in: joulebench trials RUN"),
    "--profile": "for times within a model use the profiler of its runtime",
}

LOAD_BENCH = {
    "--target": _SERVER,
    **dict.fromkeys(("--isl", "--osl", "--synthetic-input-tokens-mean", "--output-tokens-mean"), _ONE_SIZE),
    **dict.fromkeys(("--request-count", "--num-requests", "--max-requests"), _WINDOW),
    **dict.fromkeys(("--benchmark-duration", "--max-seconds"), _WINDOW),
    "--rate-type": "for requests in flight type -c 1,2,4, for Poisson arrivals --rate 2/s",
    "--arrival-pattern": "arrivals are Poisson (--rate 2/s) or those of a log (--arrivals FILE)",
    "--streaming": "answers are always streamed",
    "--endpoint-type": "the endpoint is found out: completions, or chat where there are none",
}
"""Of AIPerf and guidellm."""

OTHERS = {
    **dict.fromkeys(("--config-dir", "--config-name", "--config", "--multirun", "-cd", "-cn"), _HYDRA),
    **dict.fromkeys(("--gpus", "--gpu-indices", "--gpu-ids"), _GPUS),
    **dict.fromkeys(("--power-limit", "--gpu-power-limit"), "set it before, with: sudo nvidia-smi -pl WATTS"),
    "--quiet": "progress goes to stderr with --json",
}
"""Of optimum-benchmark, Zeus and the ML.ENERGY benchmark."""

FOREIGN = {**OTHERS, **LOAD_BENCH, **VLLM_BENCH, **HYPERFINE, **LLAMA_BENCH}
"""By an option that ``measure`` doesn't have, what to type or why there is none."""


def refuse_foreign(arguments: Sequence[str]) -> None:
    """Look for other programs' options in a command line of ``measure``. Raises UserError.

    Before parsing, because ``-ot`` would be read as ``-o t``.
    """
    if not arguments or arguments[0] != "measure":
        return
    for argument in arguments[1:]:
        if argument == "--":
            return
        option = argument.partition("=")[0]
        if option in FOREIGN:
            raise UserError(f"{option}: {FOREIGN[option]}")


def unknown(error: Any) -> str | None:
    """A sentence for an option or argument that typer doesn't know; None for its other errors."""
    context = getattr(error, "ctx", None)
    if context is None:
        return None
    command = context.command_path
    option = getattr(error, "option_name", None)
    if option is not None and type(error).__name__ == "NoSuchOption":
        if context.parent is None:
            return f"no option {option} before a command; the command comes first, such as: joulebench measure {option}"
        if option in FOREIGN and context.info_name == "measure":
            return f"{option}: {FOREIGN[option]}"
        nearest = [str(name) for name in getattr(error, "possibilities", None) or ()]
        meant = f"; did you mean {' or '.join(nearest[:2])}?" if nearest else ""
        return f"no such option: {option}{meant} (see {command} --help)"
    if context.info_name == "measure" and "unexpected extra argument" in error.format_message():
        return (
            f"{error.format_message()}: measure takes options only, such as --model NAME --point INPUT,OUTPUT "
            f"(see {command} --help)"
        )
    return None


def device_of_layers(layers: str, device: str, backend: str) -> str:
    """The device that llama-bench's ``-ngl`` asks for: the CPU for 0, the backend's GPU for all layers.

    Raises UserError where only some layers are to be on the GPU, or there is none.
    """
    if device != "auto":
        raise UserError(f"-ngl {layers} and --device {device} both name the device: leave one out")
    if not re.fullmatch(r"-1|\d+|all|auto", layers):
        raise UserError(f"-ngl {layers}: type -ngl 99 for all layers on the GPU, -ngl 0 for the CPU")
    if layers in ("0", "auto"):
        return "cpu" if layers == "0" else "auto"
    if layers.isdigit() and int(layers) < 99:
        raise UserError(
            f"-ngl {layers}: a model is on one device as a whole, so that its energy has one source: type -ngl 99 for "
            "all layers on the GPU, -ngl 0 for the CPU"
        )
    import backends

    usable = backends.create(backend).capabilities().devices
    gpus = [name for name in usable if name != "cpu"]
    if not gpus:
        raise UserError(
            f"-ngl {layers}: backend {backend} sees no GPU here: leave -ngl out to measure on the CPU; joulebench "
            "doctor lists the devices"
        )
    return gpus[0]


def one_size(input_len: int | None, output_len: int | None) -> tuple[str, ...]:
    """The point that ``--input-len`` and ``--output-len`` name together; empty without both. Raises UserError."""
    if input_len is None and output_len is None:
        return ()
    if input_len is None or output_len is None:
        given, missing = ("--input-len", "--output-len") if output_len is None else ("--output-len", "--input-len")
        raise UserError(f"{given} needs {missing} too; for a sweep type -p 8-512*2 or -n 8-128*2")
    return (f"{input_len},{output_len}",)


def refuse_warmups(warmup: int | None) -> None:
    """Raises UserError for any number of warm-ups but the one that is always made."""
    if warmup not in (None, 1):
        raise UserError(f"--warmup {warmup}: {_WARMUP}; it repeats the request like any trial. Leave --warmup out")


def refuse_zero(input_tokens: str | None, output_tokens: str | None) -> None:
    """Raises UserError for llama-bench's ``-p 0`` and ``-n 0``, which leave one of its two tests out."""
    for option, tokens, other in (("-p", input_tokens, "output"), ("-n", output_tokens, "input")):
        if tokens is not None and tokens.strip() == "0":
            raise UserError(f"{option} 0: leave {option} out; then only the {other} sweep is measured")
