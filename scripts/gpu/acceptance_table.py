"""What acceptance.sh measured beside what was wanted.

    python scripts/gpu/acceptance_table.py OUT

Prints a table and writes OUT/acceptance.json. What was not measured says why.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.presets import PRESETS
from harness.core.errors import UserError
from harness.energy.readings import Domain
from harness.runs.records import load_trials, read_run, read_trials
from harness.runs.run_schema import Run

if TYPE_CHECKING:
    import pandas as pd

    from backends.presets import Architecture

# A neighbour's folder: scripts are no package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
from roofline import decode_step_bytes

MODES = ("none", "graph", "inductor")
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
LONG_WINDOW_S = 5.0


class NotMeasured(Exception):
    """The message says why."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    value: float | None
    """None where it was not measured."""
    text: str
    """The value with its unit and spread, or why there is none."""
    wanted: str = ""
    met: bool | None = None
    """None where nothing is wanted, or nothing was measured."""


def decode_rate(out: Path, mode: str) -> tuple[float, float]:
    """Decode tokens/s of one mode: mean and standard deviation over its trials. Raises NotMeasured."""
    trials = _measured(out / f"decode-{mode}")
    rates = (trials["output_tokens"] - 1) / trials["decode_s"]
    return float(rates.mean()), float(rates.std())


def decoding(out: Path, mode: str) -> Row:
    """Decode tokens/s of one mode."""
    mean, sd = decode_rate(out, mode)
    return Row(f"decode, {mode}", mean, f"{mean:.1f} ± {sd:.1f} decode tokens/s (sd of trials)")


def graph_over_eager(out: Path) -> Row:
    """How many times as fast as the plain loop."""
    ratio = decode_rate(out, "graph")[0] / decode_rate(out, "none")[0]
    return Row("graph over eager", ratio, f"{ratio:.2f} ×", "≥ 3 ×", ratio >= 3)


def graph_of_roofline(out: Path) -> Row:
    """The share of the decode rate that copying the bytes a step reads would allow."""
    trials = _measured(out / "decode-graph")
    run = read_run(out / "decode-graph")
    context = float((trials["input_tokens"] + trials["output_tokens"] / 2).iloc[0])
    step_bytes = decode_step_bytes(_architecture(run), context, BYTES[run.model.dtype])
    bound = _roofline(out)["copy_bytes_per_s"] / step_bytes
    share = decode_rate(out, "graph")[0] / bound
    text = f"{share:.1%} of {bound:.1f} decode tokens/s ({step_bytes / 1e9:.2f} GB a step)"
    return Row("graph of memory roofline", share, text, "≥ 60 %", share >= 0.6)


def prefill_of_roofline(out: Path) -> Row:
    """The best prefill's matrix products over the rate that a large product reached."""
    trials = _measured(out / "precise")
    run = read_run(out / "precise")
    architecture = _architecture(run)
    # The output head works on the last token alone, the input embedding multiplies nothing.
    embedding = architecture.vocab_size * architecture.hidden_size
    weights = architecture.parameters() - (1 if architecture.tied_embeddings else 2) * embedding
    rate = float((2 * weights * trials["input_tokens"] / trials["prefill_s"]).max())
    share = rate / _roofline(out)["matmul_flops_per_s"]
    return Row("prefill of matrix rate", share, f"{share:.1%}, {rate / 1e12:.2f} TFLOP/s")


def _architecture(run: Run) -> Architecture:
    name = run.model.name
    if name not in PRESETS:
        raise NotMeasured(f"{name} is no preset, so that its shapes are not known here")
    return PRESETS[name].architecture


def sensor_periods(out: Path) -> list[Row]:
    """How often each power domain has a new value, and its idle power. Raises NotMeasured where nothing has any."""
    rows = []
    probes = _json(out / "sensors.json")["probes"]
    if not any(probe["works"] for probe in probes):
        raise NotMeasured("; ".join(f"{probe['name']}: {probe['reason']}" for probe in probes))
    for probe in probes:
        for domain in probe.get("domains", []) if probe["works"] else []:
            period_s, idle_w = domain["period_s"], domain["idle_power_w"]
            period = "at each read" if period_s is None else f"every {1000 * period_s:.0f} ms"
            idle = f"idle {idle_w:.1f} W" if idle_w is not None else f"no idle power ({domain['idle_reason']})"
            rows.append(Row(f"{domain['name']} ({domain['method']})", period_s, f"new value {period}, {idle}"))
    return rows


def sensors_under_load(out: Path) -> list[Row]:
    """Idle and busy power of each domain around a known load, and how the readings of one source agree there."""
    load = _json(out / "sensors.json").get("load")
    if not load or load["reason"]:
        raise NotMeasured(load["reason"] if load else "there was no load")
    rows = [
        Row(f"{name} under load", found["rise_w"], f"{found['idle_w']:.1f} W idle, {found['busy_w']:.1f} W busy")
        for name, found in load["domains"].items()
        if found["idle_w"] is not None and found["loaded"]
    ]
    for source, ratio in load["ratios"].items():
        text = f"{ratio - 1:+.2%} over the whole load"
        rows.append(Row(f"integrated to counter, {source[:12]}", ratio - 1, text, "within 2 %", abs(ratio - 1) <= 0.02))
    if not rows:
        raise NotMeasured("nothing that was loaded has an idle power")
    return rows


def sensors_agree(out: Path) -> Row:
    """Integrated power over counted energy in the long windows that count of the precise run: median and worst.

    Where they disagree it says what is known of the reason.
    """
    _measured(out / "precise")
    domains = read_run(out / "precise").sessions[0].energy.domains
    pairs = [
        (counter, power)
        for counter in domains.values()
        for power in domains.values()
        if counter.source == power.source and (counter.kind, power.kind) == ("counter", "power")
    ]
    if not pairs:
        raise NotMeasured("no component has both a counter and a power reading")
    differences = []
    for trial in read_trials(out / "precise"):
        if trial.counts and trial.energy and (trial.window_s or 0) >= LONG_WINDOW_S:
            for pair in pairs:
                counted, integrated = (trial.energy.domains[domain.name].request_j for domain in pair)
                if counted and integrated:
                    differences.append(integrated / counted - 1)
    if not differences:
        raise NotMeasured(f"no window of {LONG_WINDOW_S:g} s or more has both")
    median, worst = statistics.median(differences), max(differences, key=abs)
    text = f"median {median:+.2%}, worst {worst:+.2%} in {len(differences)} windows"
    met = abs(worst) <= 0.02
    return Row("integrated power to counter", worst, text if met else f"{text}: {_why(pairs)}", "within 2 %", met)


def _why(pairs: list[tuple[Domain, Domain]]) -> str:
    """What is known of sensors that disagree: a power reading may look at a part of the time alone."""
    seen = [
        f"{power.name} looks at {power.averaging_s / power.period_s:.0%} of the time"
        for _, power in pairs
        if power.averaging_s and power.period_s and power.averaging_s < power.period_s
    ]
    return "; ".join(seen) or "no reason is known"


def energy_spread(out: Path) -> Row:
    """Standard deviation over mean of the energy per request at each point of the precise run: median and worst."""
    trials = _measured(out / "precise").dropna(subset=["energy_j"])
    _refuse_estimates(trials)
    points = trials.groupby(["input_tokens", "output_tokens"])["energy_j"]
    spread = (points.std() / points.mean()).dropna()
    if spread.empty:
        raise NotMeasured("no point has two trials with energy")
    text = f"median {spread.median():.2%}, worst {spread.max():.2%} of {len(spread)} points"
    return Row("spread of energy per request", float(spread.max()), text, "≤ 2 %", bool(spread.max() <= 0.02))


def points_that_count(out: Path) -> Row:
    """How many of the precise run's points have a trial that counts."""
    found = _measured(out / "precise").groupby(["input_tokens", "output_tokens"]).ngroups
    planned = len(read_run(out / "precise").plan.points)
    return Row("points that count", found / planned, f"{found} of {planned} of the precise run")


def held_out_error(out: Path, quantity: str) -> Row:
    """Mean absolute held-out error of the precise run's model of ``energy`` or ``runtime``."""
    _measured(out / "precise")
    part = _json(out / "profile-precise.json")[quantity]
    if part is None:
        raise NotMeasured("no energy was measured")
    if part.get("method") == "estimated":
        raise NotMeasured("energy is estimated, not measured")
    held_out = (part["model"] if quantity == "energy" else part)["held_out"]
    text = f"{held_out['mape']:.2%} at {held_out['points']} points"
    return Row(f"held-out error of {quantity}", held_out["mape"], text, "≤ 2 %", held_out["mape"] <= 0.02)


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def _measured(directory: Path) -> pd.DataFrame:
    """The counted trials of a run. Raises NotMeasured."""
    name, steps = directory.name, directory.parent / "steps"
    if not (directory / "run.json").exists():
        if aside := [path.name for path in steps.glob(f"{name}.failed-*")]:
            raise NotMeasured(f"no trial of {name} counts: joulebench trials steps/{max(aside, key=_number)} says why")
        if (steps / f"{name}.log").exists():
            raise NotMeasured(f"{name} failed: see steps/{name}.log")
        raise NotMeasured(f"{name} was not run on this device")
    trials = load_trials(directory).query("purpose == 'measure' and status == 'ok'")
    if trials.empty:
        raise NotMeasured(f"{name} has no trial that counts: see steps/{name}.log")
    return trials


def _refuse_estimates(trials: pd.DataFrame) -> None:
    if trials.empty:
        raise NotMeasured("no energy was measured")
    if (trials["energy_method"] == "estimated").any():
        raise NotMeasured("energy is estimated, not measured")


def _roofline(out: Path) -> dict[str, Any]:
    return _json(out / "roofline.json")


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise NotMeasured(f"{path.name} is absent or not whole; its step failed") from None
    return content


def _or_why(what: str, measured: Callable[[], Row | list[Row]], wanted: str = "") -> list[Row]:
    """The rows, or one that says why there is no value."""
    try:
        found = measured()
        return found if isinstance(found, list) else [found]
    except (NotMeasured, UserError) as why:
        return [Row(what, None, f"not measured: {why}", wanted)]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as fault:
        return [Row(what, None, f"not measured: a file has another shape ({type(fault).__name__}: {fault})", wanted)]


def _rows(out: Path) -> list[Row]:
    def roofline() -> Row:
        found = _roofline(out)
        copied, multiplied = found["copy_bytes_per_s"], found["matmul_flops_per_s"]
        text = f"copy {copied / 1e9:.0f} GB/s, {found['matmul_dtype']} product {multiplied / 1e12:.1f} TFLOP/s"
        return Row(f"roofline of {found['device_name']}", copied, text)

    return [
        *_or_why("roofline", roofline),
        *(row for mode in MODES for row in _or_why(f"decode, {mode}", partial(decoding, out, mode))),
        *_or_why("graph of memory roofline", lambda: graph_of_roofline(out), "≥ 60 %"),
        *_or_why("graph over eager", lambda: graph_over_eager(out), "≥ 3 ×"),
        *_or_why("prefill of matrix rate", lambda: prefill_of_roofline(out)),
        *_or_why("sensors", lambda: sensor_periods(out)),
        *_or_why("sensors under load", lambda: sensors_under_load(out)),
        *_or_why("integrated power to counter", lambda: sensors_agree(out), "within 2 %"),
        *_or_why("points that count", lambda: points_that_count(out)),
        *_or_why("spread of energy per request", lambda: energy_spread(out), "≤ 2 %"),
        *_or_why("held-out error of energy", lambda: held_out_error(out, "energy"), "≤ 2 %"),
        *_or_why("held-out error of runtime", lambda: held_out_error(out, "runtime"), "≤ 2 %"),
    ]


def main() -> None:
    """Print the table and store it."""
    if len(sys.argv) != 2:
        print("acceptance_table.py: error: say which folder: acceptance_table.py OUT", file=sys.stderr)
        sys.exit(2)
    out = Path(sys.argv[1])
    if not out.is_dir():
        print(f"acceptance_table.py: error: {out} is no folder; name that of acceptance.sh", file=sys.stderr)
        sys.exit(2)
    rows = _rows(out)
    content = json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False)
    (out / "acceptance.json").write_text(content, encoding="utf-8")
    for row in rows:
        verdict = "" if row.met is None else "met" if row.met else "NOT MET"
        print(f"{row.what:<36} {row.wanted:<10} {verdict:<8} {row.text}")


if __name__ == "__main__":
    main()
