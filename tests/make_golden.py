"""Golden values: what the command line answers to a fixed list of commands, on every stored run and profile.

``python -m tests.make_golden DIR`` writes this checkout's answers to DIR, one JSON file a group of commands.
``PYTHONPATH=OTHER python -P tests/make_golden.py DIR`` writes those of the checkout OTHER to the same commands.
``python -m tests.make_golden --compare A B`` names every value in which two such folders differ at all.

``tests/data/golden`` holds the answers of an earlier state of the code; they are written anew where an answer is meant
to change, and only then. ``test_golden`` holds the present code against them. Numbers are kept whole, long curves
thinned. Of a sentence that the program words itself, the figures and names count; its wording may improve.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import math
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import harness

DATA = Path(__file__).resolve().parent / "data"
SHIPPED = [
    *("m1-pro-llama-2-7b", "m1-pro-mistral-7b"),
    *(
        f"{system}-{model}"
        for system in ("palmetto-a100", "palmetto-v100", "swing-a100")
        for model in ("falcon-7b", "llama-2-7b", "mistral-7b")
    ),
]
PAIR = "--small m1-pro-llama-2-7b --large swing-a100-llama-2-7b"
ROUTED = "--profile m1-pro-llama-2-7b --profile swing-a100-llama-2-7b"
SLOW_FAST = "--profile slow.json --profile fast.json"
FIT_CSV = "fit --measurements {0}.csv --system {0} --model made-up -o {0}.json --json"
PROFILES = [
    FIT_CSV.format("slow"),
    FIT_CSV.format("fast"),
    "fit run-first -o first.json --json",
    "fit run-fake-no-cache -o no-cache.json --json",
]
"""What other commands need: profiles fitted here."""

COMMANDS = {
    "trials": [
        "trials run-1 --format json",
        *(
            f"trials {run} --format csv"
            for run in ("run-1", "run-first", "run-fake", "run-fake-probe", "run-fake-no-cache")
        ),
        *(f"trials {run}" for run in ("run-1", "run-first", "run-fake-no-cache")),
    ],
    "fit": [
        "fit run-first -o first.json --json",
        "fit run-first --form bilinear --drop-suspects --json",
        "fit run-first --form auto --name other --json",
        "fit run-fake-no-cache -o no-cache.json --json",
        "fit run-fake-no-cache --form auto --drop-suspects --json",
        "fit --measurements slow.csv --system slow --model made-up --json",
        "fit --measurements slow.csv --system slow --model made-up --no-kv-cache --json",
        "fit --measurements fast.csv --system fast --model made-up --form auto --drop-suspects --json",
        "fit run-1 --json",
        "fit run-first run-fake-no-cache --json",
    ],
    "profiles": [
        "profiles list --json",
        *(f"profiles validate {name}" for name in (*SHIPPED, "profile-schema-1.json", "first.json")),
        "export profile-schema-1.json --format csv -o schema-1.csv",
        "export first.json --format json -o first-export.json",
        "workload show alpaca --json",
        "workload show trace.csv --json",
    ],
    "predict": [
        *(f"predict {name} -p 8,32,4096 -n 1,256 --json" for name in (*SHIPPED, "profile-schema-1.json")),
        *(
            f"predict {name} -p 300 -n 8,100 --boundary {boundary} --json"
            for name in ("m1-pro-llama-2-7b", "palmetto-v100-falcon-7b", "swing-a100-mistral-7b", "slow.json")
            for boundary in ("gpu", "cpu", "cpu+gpu")
        ),
        "predict first.json -p 8-512*4 -n 1,8,100 --json",
        "predict no-cache.json -p 8,512 -n 8,100 --json",
        "predict m1-pro-llama-2-7b -p 32 -n 32 --strict --json",
        "predict m1-pro-llama-2-7b -p 4096 -n 512 --strict --json",
        "predict m1-pro-llama-2-7b -p 32 -n 32 --boundary dram --json",
    ],
    "compare": [
        "compare m1-pro-llama-2-7b swing-a100-llama-2-7b --json",
        "compare palmetto-v100-mistral-7b palmetto-a100-mistral-7b --boundary gpu -p 8,2048 -n 8-512*4 --json",
        "compare slow.json fast.json -p 8-512*8 -n 8,128,512 --json",
        "compare m1-pro-llama-2-7b swing-a100-falcon-7b --json",
        "compare m1-pro-llama-2-7b swing-a100-falcon-7b --allow-mixed -p 8,512 -n 32 --json",
        "compare no-cache.json first.json --allow-mixed -p 8,512 -n 32 --json",
        "compare first.json slow.json --allow-mixed -p 8,512 -n 32 --json",
    ],
    "threshold": [
        f"threshold {PAIR} -w alpaca --json",
        f"threshold {PAIR} -w alpaca --key output --export rule.json --json",
        f"threshold {PAIR} -w alpaca --output-tokens 32 --json",
        f"threshold {PAIR} -w trace.csv --key total --json",
        f"threshold {PAIR} -w trace.csv --key product --boundary gpu --json",
        f"threshold {PAIR} -w trace.csv --scale none --weight 0.25 --output-tokens 16 --json",
        f"threshold {PAIR} -w trace.csv --scale price --price-per-kwh 0.3 --price-per-hour 0.01 --json",
        f"threshold {PAIR} -w trace.csv --reference m1-pro --weight 0.5 --horizon 100000 --json",
        "threshold --small slow.json --large fast.json -w trace.csv --key input --json",
        "threshold --small slow.json --large fast.json -w trace.csv --key product --idle subtracted --json",
        "threshold --small m1-pro-llama-2-7b --large swing-a100-falcon-7b -w trace.csv --json",
        "threshold --small m1-pro-llama-2-7b --large swing-a100-falcon-7b -w trace.csv --allow-mixed --json",
    ],
    "route": [
        f"route {ROUTED} -w alpaca --share m1-pro=0.05 --json",
        f"route {ROUTED} -w alpaca --output-unknown --weight 0.7 --json",
        f"route {ROUTED} -w trace.csv --weight-sweep --json",
        f"route {ROUTED} -w trace.csv --slo 20 --export rule.json --json",
        f"route {SLOW_FAST} -w trace.csv --share slow=0.25 --json",
        f"route {SLOW_FAST} -w trace.csv --capacity slow=300 --weight 0.6 --export rule.json --json",
        f"route {SLOW_FAST} -w trace.csv --output-unknown --export rule.json --json",
        f"route {SLOW_FAST} -w trace.csv --idle subtracted --horizon 5000 --scale none --json",
        f"route {SLOW_FAST} -w trace.csv --scale price --price-per-kwh 0.3 --price-per-hour 0.01 --json",
        f"route {SLOW_FAST} -w trace.csv --share slow=0.9 --share fast=0.9 --json",
        "route --profile palmetto-v100-llama-2-7b --profile palmetto-a100-llama-2-7b --profile swing-a100-llama-2-7b"
        " -w trace.csv --weight 0.5 --share palmetto-v100=0.2 --capacity palmetto-a100=500 --json",
    ],
    "paper": ["paper -o paper --json", "figures run-first m1-pro-llama-2-7b --allow-mixed --models -o figures"],
}
FILES = {"paper": ("paper/figure4.csv", "paper/figure5.csv"), "figures": ("figures/figure1.csv", "figures/figure2.csv")}
"""What a command writes beside the files that its options name."""

WORDED = {"warnings", "notes", "note", "reason", "refusal"}
VARYING = {"created", "tool_version", "versions", "sha256"}
LONGEST = {"json": 16, "csv": 60}
"""Longer lists are thinned to about so many entries, with their true length in front."""


def prepare(folder: Path) -> None:
    """Put what the commands read into an empty folder: stored runs, a trace, measurements, fitted profiles."""
    for path in DATA.glob("run-*"):
        shutil.copytree(path, folder / path.name)
    shutil.copy(DATA / "profile-schema-1.json", folder)
    sizes = [(1 + 37 * i * i % 400, 1 + 53 * i % 150) for i in range(300)]
    (folder / "trace.csv").write_text("\n".join(["input_tokens,output_tokens", *(f"{m},{n}" for m, n in sizes)]) + "\n")
    _write_measurements(folder / "slow.csv", prefill_s=(0.05, 2e-3), step_s=(0.02, 2e-4), power_w=(20.0, 10.0))
    _write_measurements(folder / "fast.csv", prefill_s=(0.03, 1e-4), step_s=(0.01, 1e-6), power_w=(50.0, 200.0))
    for command in PROFILES:
        answer(folder, command)
    for name, power_w in (("slow", 5.0), ("fast", 80.0)):
        path = folder / f"{name}.json"
        content = json.loads(path.read_text())
        content["energy"] |= {"idle_power_w": power_w, "idle_power_ci95_w": 0.1}
        path.write_text(json.dumps(content))


def _write_measurements(
    path: Path, prefill_s: tuple[float, float], step_s: tuple[float, float], power_w: tuple[float, float]
) -> None:
    """Three trials of each of 9 sizes on a made-up system, scattered by 1 %; one size is far off."""
    rows = ["input_tokens,output_tokens,runtime_s,prefill_s,decode_s,cpu_energy_j,gpu_energy_j"]
    sizes = [(8, 32), (32, 8), (32, 32), (32, 128), (64, 32), (128, 32), (256, 128), (512, 8), (512, 32)]
    for m, n in sizes:
        for trial in range(3):
            scatter = (1 + 0.01 * math.sin(7 * m + 3 * n + 11 * trial)) * (1.4 if (m, n) == (64, 32) else 1)
            prefill = scatter * (prefill_s[0] + prefill_s[1] * m)
            decode = scatter * sum(step_s[0] + step_s[1] * (m + k) for k in range(1, n))
            numbers = (prefill + decode, prefill, decode, *(watts * (prefill + decode) for watts in power_w))
            rows.append(",".join([f"{m},{n}", *(f"{number:.6g}" for number in numbers)]))
    path.write_text("\n".join(rows) + "\n")


def answer(folder: Path, command: str) -> dict[str, Any]:
    """Run a command in this process, in ``folder``: its exit code, what it prints and what it writes, read back."""
    from harness.cli import main

    words = shlex.split(command)
    printed = io.StringIO()
    code: Any = None
    # Pictures take most of the time and hold no number that the tables beside them don't.
    with (
        contextlib.chdir(folder),
        mock.patch.object(sys, "argv", ["joulebench", *words]),
        mock.patch("matplotlib.figure.Figure.savefig"),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code
    answers: dict[str, Any] = {"exit": code or 0}
    if code:
        return answers
    if "--json" in words or ("--format" in words and "-o" not in words):
        answers["printed"] = _read(printed.getvalue(), "csv" in words)
    elif words[0] == "trials":
        # Only the table has the means of the trials with their intervals, and the drift.
        # Where this very Python lies may have a number in it.
        lines = printed.getvalue().replace(f"{sys.executable} -m harness", "joulebench").splitlines()
        answers["figures"] = [figures for line in lines if (figures := _figures(line))]
    named = [words[i + 1] for i, word in enumerate(words) if word in ("-o", "--export")]
    for name in FILES.get(words[0], named):
        answers[name] = _read((folder / name).read_text(), name.endswith(".csv"))
        if name == "rule.json":
            # At the price of a capacity systems cost the same: which of them a rule names there is rounding.
            answers[name].pop("agreement", None)
    return answers


def _read(text: str, is_csv: bool) -> Any:
    """What a program says, without what differs from day to day."""
    if not is_csv:
        return _kept(json.loads(text))
    header, *rows = csv.reader(io.StringIO(text))
    return {name: _thinned([_cell(row[i]) for row in rows], LONGEST["csv"]) for i, name in enumerate(header)}


def _cell(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _kept(value: Any, key: str = "") -> Any:
    if key in WORDED and value is not None:
        return [_figures(text) for text in ([value] if isinstance(value, str) else value)]
    if isinstance(value, dict):
        return {name: _kept(inner, name) for name, inner in value.items() if name not in VARYING}
    if not isinstance(value, list):
        return value
    return [_kept(inner) for inner in _thinned(value, LONGEST["json"])]


def _figures(text: str) -> list[str]:
    """The words of a text that have a digit: numbers and names."""
    return [word.strip(".,:;()") for word in text.split() if re.search(r"\d", word)]


def _thinned(rows: list[Any], longest: int) -> list[Any]:
    return rows if len(rows) <= longest else [len(rows), *rows[:: math.ceil(len(rows) / longest)]]


def differences(a: Any, b: Any, relative: float = 0.0, absolute: float = 0.0, where: str = "") -> Iterator[str]:
    """Every place where ``b`` isn't what ``a`` is, numbers to a tolerance; keys that only ``b`` has are let pass."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key, value in a.items():
            if key in b:
                yield from differences(value, b[key], relative, absolute, f"{where} / {key}")
            else:
                yield f"{where} / {key}: is gone"
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from differences(one, other, relative, absolute, f"{where} / {i}")
    elif _is_number(a) and _is_number(b):
        if a != b and not math.isclose(a, b, rel_tol=relative, abs_tol=absolute):
            yield f"{where}: {a!r} became {b!r}"
    elif type(a) is not type(b) or a != b:
        yield f"{where}: {a!r} became {b!r}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def make(directory: Path) -> None:
    """Write the answers to all commands, one command a line."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch))
        for group, commands in COMMANDS.items():
            answers = {command: answer(Path(scratch), command) for command in commands}
            lines = [f"{json.dumps(key)}:{_compact(value)}" for key, value in answers.items()]
            (directory / f"{group}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def compare(a: Path, b: Path) -> list[str]:
    """Every value in which two folders differ at all, in either direction."""
    names = sorted({path.name for folder in (a, b) for path in folder.glob("*.json")})
    one, other = ({name: json.loads((folder / name).read_text()) for name in names} for folder in (a, b))
    return [*differences(one, other), *(f"added {text}" for text in differences(other, one) if text.endswith("gone"))]


def run() -> int:
    """The program: exit code 1 where two folders differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", metavar="DIR", type=Path, nargs="+")
    parser.add_argument("--compare", action="store_true")
    options = parser.parse_args()
    if len(options.folders) != 1 + options.compare:
        parser.error("name one folder to write, or two with --compare")
    if not options.compare:
        make(options.folders[0])
        print(f"answered by {Path(harness.__file__).parent}")
        return 0
    found = compare(*options.folders)
    print("\n".join(found) or "the same to the last bit")
    return bool(found)


if __name__ == "__main__":
    sys.exit(run())
