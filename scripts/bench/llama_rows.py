"""The llama-cpp backend beside llama.cpp's own benchmark."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from comparison import Comparison, Options, Unavailable, complete, decode_rate, in_turns, prefill_rate

import backends
from backends import model_cache
from backends.base import Config, Request
from backends.llama_cpp import gguf_file

PREFILL_TOKENS, DECODE_STEPS = 512, 64


def against_llama_bench(options: Options) -> list[Comparison]:
    """Tokens/s of the llama-cpp backend against llama.cpp's own benchmark: same file, threads and build flags."""
    if options.short:
        raise Unavailable("llama-bench is built from source, which --short leaves out")
    backend = backends.create("llama-cpp")
    backend.capabilities()
    program = llama_bench_program(backend.versions()["llama-cpp-python"])
    model_file = gguf_file.preset_file(options.model, "Q8_0", 0)
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
    phases = f"prefill {PREFILL_TOKENS}", f"decode {DECODE_STEPS}"
    return [
        Comparison(
            f"llama-cpp {phase}",
            f"{phase.split()[0]} tokens/s",
            [a[i] for a, _ in pairs],
            [b[i] for _, b in pairs],
            "llama-bench",
            0.98,
        )
        for i, phase in enumerate(phases)
    ]


def llama_bench_program(version: str) -> Path:
    """llama-bench from the source of this version of llama-cpp-python, linked to the libraries it installed.

    Both sides then run the same machine code. Takes a minute or two, once. Raises Unavailable.
    """
    import llama_cpp

    directory = model_cache.cache_directory() / "llama-bench" / version
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
