"""``import joulebench``: the examples of docs/api.md print what is shown, and what is wrong is one error."""

import ast
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import harness as jb
from harness.cli import joulebench
from tests.helpers import ROOT, environment, stub_server

SMALL, LARGE = "m1-pro-llama-2-7b", "swing-a100-llama-2-7b"
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the run and the trace that the examples name."""
    for name in ("first", "served"):
        shutil.copytree(ROOT / "tests" / "data" / f"run-{name}", tmp_path / "runs" / name)
    trace = pd.DataFrame({"input_tokens": [20, 40, 300] * 20, "output_tokens": [16, 8, 32] * 20})
    trace.to_parquet(tmp_path / "trace.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def server() -> Iterator[str]:
    """The URL of a server that takes its time."""
    with stub_server("--ttft", "0.01", "--tpot", "0.002") as url:
        yield url


def _measured(server: str, directory: str, **options: object) -> jb.RecordedRun:
    """``measure`` with short windows, and at ``server`` where the page names one.

    A busy machine must not fail the test, nor threads wait for each other on it.
    """
    options |= {"url": server} if "url" in options else {"threads": 1}
    return jb.measure(directory, max_foreign_load=1.0, min_window_s=0.2, **options)


def test_the_page_prints_what_it_shows(place: Path, server: str, monkeypatch, capsys) -> None:
    assert len(BLOCKS) == PAGE.count("```python") > 5
    monkeypatch.setitem(sys.modules, "joulebench", joulebench)
    monkeypatch.setattr(joulebench, "measure", partial(_measured, server))
    idle = jb.Meter.idle
    monkeypatch.setattr(jb.Meter, "idle", lambda meter, _: idle(meter, duration_s=0.2, settle_s=0.0))
    script = place / "examples.py"
    end = "print('end of a block')\n"
    script.write_text("".join(code + end for code, _ in BLOCKS), encoding="utf-8")
    runpy.run_path(str(script))
    *printed, rest = capsys.readouterr().out.split("end of a block\n")
    assert rest == ""
    measured, *others = zip(printed, (shown for _, shown in BLOCKS), strict=True)
    assert all(said == shown for said, shown in others)
    # What was measured just now differs each time: seconds, a threshold with its saving, joules.
    seconds, threshold, joules = measured[0].splitlines()
    assert float(seconds.split()[0]) > 0
    assert threshold.split()[0].isdigit()
    assert re.match(r"[\d.]+ ± [\d.]+ J ", joules)
    assert len(jb.load_run("runs/own").trials) > 10
    assert (place / "rule.json").exists()


def test_names_are_written_alike_in_all_three_places() -> None:
    """The table that loads them, the imports that type checkers read, and ``__all__``."""
    source = ast.parse((ROOT / "harness" / "__init__.py").read_text())
    (seen,) = (node for node in source.body if isinstance(node, ast.If))
    typed = {alias.name: node.module for node in seen.body for alias in node.names}
    assert typed == jb._MODULES
    assert set(jb.__all__) == {*typed, "__version__"} == set(dir(jb))
    for name in jb.__all__:
        assert getattr(joulebench, name) is getattr(jb, name)
    with pytest.raises(AttributeError, match="nothing"):
        joulebench.nothing  # noqa: B018


@pytest.mark.parametrize("module", ["harness", "harness.cli.joulebench"])
def test_importing_is_light(module: str) -> None:
    heavy = "{'numpy', 'scipy', 'pandas', 'pydantic', 'rich', 'torch'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_profiles_and_workloads_are_taken_in_every_form(place: Path) -> None:
    small, large, workload = jb.Profile.load(SMALL), jb.Profile.load(LARGE), jb.load_workload("trace.parquet")
    small.save("small.json")
    answers = [
        jb.decide_threshold(small, large, workload),
        jb.decide_threshold(SMALL, LARGE, "trace.parquet"),
        jb.decide_threshold(Path("small.json"), large, place / "trace.parquet"),
    ]
    assert {(answer.decision.threshold, answer.decision.plan) for answer in answers} == {
        (answers[0].decision.threshold, answers[0].decision.plan)
    }
    by_label = jb.decide_routing([small, LARGE], workload, shares={"m1-pro": 0.1})
    by_name = jb.decide_routing([SMALL, large], workload, shares={SMALL: 0.1})
    assert by_label.decision.plan == by_name.decision.plan
    assert by_label.decision.requests[0].sum() == 6
    assert jb.load_workload("trace.parquet", output_tokens=9).output_tokens.tolist() == [9, 9, 9]
    assert jb.fit(["runs/first"], name="mine").name == "mine"


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "profile": (lambda: jb.decide_threshold(SMALL, "nobody", "alpaca"), "no profile 'nobody'"),
    "workload": (lambda: jb.decide_threshold(SMALL, LARGE, "nothing.csv"), "neither a built-in"),
    "key": (lambda: jb.decide_threshold(SMALL, LARGE, "alpaca", key="length"), "unknown key length"),
    "scale": (lambda: jb.decide_threshold(SMALL, LARGE, "alpaca", scale="money"), "unknown scale money"),
    "idle": (lambda: jb.decide_threshold(SMALL, LARGE, "alpaca", idle="none"), "unknown idle rule none"),
    "weight": (lambda: jb.decide_threshold(SMALL, LARGE, "alpaca", weight=2), "between 0 and 1"),
    "weight that is none": (lambda: jb.decide_threshold(SMALL, LARGE, "alpaca", weight=float("nan")), "--weight"),
    "prices": (lambda: jb.decide_threshold(SMALL, LARGE, "alpaca", prices=(1, 1)), "--scale price"),
    "endless": (lambda: jb.decide_threshold(SMALL, LARGE, "alpaca", horizon_s=float("inf")), "--horizon"),
    "boundary": (lambda: jb.decide_threshold(SMALL, LARGE, "alpaca", boundary="dram"), "no energy of dram"),
    "twice": (lambda: jb.decide_threshold(jb.Profile.load(SMALL), SMALL, "alpaca"), "both the profile"),
    "alone": (lambda: jb.decide_routing([SMALL], "alpaca"), "at least two profiles"),
    "share": (lambda: jb.decide_routing([SMALL, LARGE], "alpaca", shares={"m1-pro": -0.1}), "between 0 and 1"),
    "shares": (
        lambda: jb.decide_routing([SMALL, LARGE], "alpaca", shares={"m1-pro": 0.1, SMALL: 0.2}),
        "one --share",
    ),
    "capacity": (
        lambda: jb.decide_routing([SMALL, LARGE], "alpaca", capacities={"m1-pro": float("inf")}),
        "number of seconds",
    ),
    "unknown": (lambda: jb.decide_routing([SMALL, LARGE], "alpaca", shares={"v100": 0.1}), "no system v100"),
    "models": (lambda: jb.compare(SMALL, "swing-a100-mistral-7b", [8], [8]), "different models"),
    "sizes": (lambda: jb.compare(SMALL, LARGE, [0], [8]), "between 1 and"),
    "run": (lambda: jb.fit("no/run"), "no/run"),
    "form": (lambda: jb.fit("runs/first", form="cubic"), "no form 'cubic'"),
    "name": (lambda: jb.fit("runs/first", name="a b"), "can't name a profile"),
}


WRONG |= {
    f"{option}={value}": (partial(jb.measure, "own", backend="fake", **{option: value}), f"{option} (--")
    for option, value in [
        ("attribution", "x"),
        ("max_foreign_load", float("nan")),
        ("rate_hz", 0),
        ("cpu_watts", -5.0),
        ("probes", None),
        ("max_trials", 0),
        ("max_trials", "2"),
        ("max_trials", True),
        ("precision", float("inf")),
        ("timeout_s", None),
        ("fixed_output", -4),
        ("input_tokens", 8),
        ("points", "8,8"),
        ("seed", 2**40),
        ("kv_cache", "yes"),
        ("model", b"fake"),
    ]
}
WRONG["batch_size"] = partial(jb.measure, "own", backend="fake", batch_size=0), "-c 0: write requests in flight"
WRONG["batch_size and concurrency"] = (
    partial(jb.measure, "own", backend="fake", batch_size=2, concurrency=2),
    "give one of them",
)
WRONG["meter"] = lambda: jb.Meter.open(jb.EnergyConfig(rate_hz=0.0)), "rate_hz (--sample-rate) can't be 0.0"


def test_numbers_of_numpy_and_paths_are_taken(place: Path) -> None:
    one = np.int64(1)
    run = jb.measure(
        place / "own",
        backend="fake",
        model=Path("fake"),
        probes="none",
        points=["8,8"],
        max_trials=one,
        seed=one,
        precision=np.float32(0.5),
        kv_cache=np.True_,
        max_foreign_load=1,
    )
    assert run.facts.plan.seed == 1
    assert sum(trial.counts for trial in run.trials) >= 1


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_one_error_and_no_print(place: Path, capsys, wrong: str) -> None:
    call, expected = WRONG[wrong]
    with pytest.raises(jb.UserError, match=re.escape(expected)) as refusal:
        call()
    assert "\n" not in str(refusal.value)
    assert capsys.readouterr() == ("", "")
