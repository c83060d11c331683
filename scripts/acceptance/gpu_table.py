"""What gpu/acceptance.sh measured beside what was wanted.

    python scripts/acceptance/gpu_table.py OUT

Prints a table and writes OUT/acceptance.txt and OUT/acceptance.json. What was not measured says why.
"""

from __future__ import annotations

import statistics
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from table import (
    NotMeasured,
    Row,
    decode_rate,
    decoding,
    disturbed,
    each_run,
    main,
    measured_run,
    of_point,
    or_why,
    points,
    read_json,
    sensor_periods,
    sensors_under_load,
    warm_ups,
)

from backends.presets import PRESETS
from harness.core.sizes import Point
from harness.core.wording import number, percent
from harness.energy.readings import Domain
from harness.runs.run_schema import Run
from harness.runs.schema import Trial

if TYPE_CHECKING:
    from backends.presets import Architecture

# A neighbour's folder: scripts are no package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
from roofline import decode_step_bytes

MODES = ("none", "graph", "inductor")
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
LONG_WINDOW_S = 5.0


def finest(out: Path) -> str:
    """The run that points, energies and fits are read from: ``precise`` where it is there, else ``quick``."""
    return "precise" if (out / "precise" / "run.json").exists() else "quick"


def cache_steps(out: Path) -> list[Row]:
    """Seconds per decode step by cache length, and how many more each cached token costs. Raises NotMeasured."""
    run, trials = measured_run(out / "cache")
    static = run.facts.backend.settings.get("kv_cache_length") == "m + n"
    steps: dict[float, float] = {}
    rows = []
    for point in sorted(points(trials), key=lambda point: point.input_tokens):
        steps_s = [(trial.decode_s or 0.0) / (trial.output_tokens - 1) for trial in of_point(trials, point)]
        # A cache made for the whole request is read whole at every step; one that grows, in the middle, by half.
        length = point.input_tokens + point.output_tokens / (1 if static else 2)
        steps[length] = statistics.mean(steps_s)
        spread = f" (sd of trials {number(1e6 * statistics.stdev(steps_s), 2)} µs)" if len(steps_s) > 1 else ""
        name = f"step at {length:.0f} cached tokens"
        rows.append(Row(name, steps[length], f"{number(1e3 * steps[length])} ms{spread}"))
    if len(steps) > 1:
        slope = statistics.linear_regression(list(steps), list(steps.values())).slope
        text = f"{number(1e9 * slope, 3)} ns more for each token that is cached{_reading_a_token(out, run.facts)}"
        rows.append(Row("step time against cache length", slope, text))
    return rows


def _reading_a_token(out: Path, run: Run) -> str:
    """How long one token's keys and values take to be read at the rate of a copy; nothing where that isn't known."""
    try:
        one = [decode_step_bytes(_architecture(run), tokens, BYTES[run.model.dtype]) for tokens in (0, 1)]
        rate = read_json(out / "roofline.json")["copy_bytes_per_s"]
    except (NotMeasured, KeyError):
        return ""
    return f"; reading its keys and values takes {number(1e9 * (one[1] - one[0]) / rate, 3)} ns at the rate of a copy"


def graph_over_eager(out: Path) -> Row:
    """How many times as fast as the plain loop."""
    ratio = decode_rate(out, "decode-graph")[0] / decode_rate(out, "decode-none")[0]
    return Row("graph over eager", ratio, f"{ratio:.2f} ×", "≥ 3 ×", ratio >= 3)


def graph_of_roofline(out: Path) -> Row:
    """The share of the decode rate that copying the bytes a step reads would allow."""
    run, trials = measured_run(out / "decode-graph")
    context = trials[0].input_tokens + trials[0].output_tokens / 2
    step_bytes = decode_step_bytes(_architecture(run.facts), context, BYTES[run.facts.model.dtype])
    bound = read_json(out / "roofline.json")["copy_bytes_per_s"] / step_bytes
    share = decode_rate(out, "decode-graph")[0] / bound
    text = f"{percent(share)} of {bound:.1f} decode tokens/s ({step_bytes / 1e9:.2f} GB a step)"
    return Row("graph of memory roofline", share, text, "≥ 60 %", share >= 0.6)


def prefill_of_roofline(out: Path) -> Row:
    """The best prefill's matrix products over the rate that a large product reached."""
    run, trials = measured_run(out / finest(out))
    architecture = _architecture(run.facts)
    # The output head works on the last token alone, the input embedding multiplies nothing.
    embedding = architecture.vocab_size * architecture.hidden_size
    weights = architecture.parameters() - (1 if architecture.tied_embeddings else 2) * embedding
    rate = max(2 * weights * trial.input_tokens / trial.prefill_s for trial in trials if trial.prefill_s)
    share = rate / read_json(out / "roofline.json")["matmul_flops_per_s"]
    return Row("prefill of matrix rate", share, f"{percent(share)}, {rate / 1e12:.2f} TFLOP/s")


def _architecture(run: Run) -> Architecture:
    name = run.model.name
    if name not in PRESETS:
        raise NotMeasured(f"{name} is no preset, so that its shapes are not known here")
    return PRESETS[name].architecture


def sensors_agree(out: Path) -> Row:
    """Integrated power over counted energy in the long windows of the finest run: median and worst.

    Where they disagree it says what is known of the reason.
    """
    run, trials = measured_run(out / finest(out))
    domains = run.facts.sessions[0].energy.domains
    pairs = [
        (counter, power)
        for counter in domains.values()
        for power in domains.values()
        if counter.source == power.source and (counter.kind, power.kind) == ("counter", "power")
    ]
    if not pairs:
        raise NotMeasured("no component has both a counter and a power reading")
    differences = []
    for trial in trials:
        if trial.energy and (trial.window_s or 0) >= LONG_WINDOW_S:
            for pair in pairs:
                counted, integrated = (trial.energy.domains[domain.name].request_j for domain in pair)
                if counted and integrated:
                    differences.append(integrated / counted - 1)
    if not differences:
        raise NotMeasured(f"no window of {LONG_WINDOW_S:g} s or more has both")
    median, worst = (
        percent(share, signed=True, digits=2) for share in (statistics.median(differences), max(differences, key=abs))
    )
    text = f"median {median}, worst {worst} in {len(differences)} windows"
    found = max(differences, key=abs)
    met = abs(found) <= 0.02
    return Row("integrated power to counter", found, text if met else f"{text}: {_why(pairs)}", "within 2 %", met)


def _why(pairs: list[tuple[Domain, Domain]]) -> str:
    """What is known of sensors that disagree: a power reading may look at a part of the time alone."""
    seen = [
        f"{power.name} looks at {percent(power.averaging_s / power.period_s, digits=0)} of the time"
        for _, power in pairs
        if power.averaging_s and power.period_s and power.averaging_s < power.period_s
    ]
    return "; ".join(seen) or "no reason is known"


def energy_spread(out: Path) -> Row:
    """Standard deviation over mean of the energy per request at each point of the finest run: median and worst."""
    _, trials = measured_run(out / finest(out))
    spreads = [
        statistics.stdev(joules) / statistics.mean(joules)
        for point in points(trials)
        if len(joules := _energies(of_point(trials, point))) > 1
    ]
    if not spreads:
        raise NotMeasured("no point has two trials with energy")
    worst = max(spreads)
    median, most = percent(statistics.median(spreads), digits=2), percent(worst, digits=2)
    text = f"median {median}, worst {most} of {len(spreads)} points of {finest(out)}"
    return Row("spread of energy per request", worst, text, "≤ 2 %", worst <= 0.02)


def _energies(trials: list[Trial]) -> list[float]:
    """Joules per request, where measured. Raises NotMeasured for estimates."""
    totals = [trial.energy.total for trial in trials if trial.energy]
    if any(total.method == "estimated" for total in totals):
        raise NotMeasured("energy is estimated, not measured")
    return [total.request_j for total in totals if total.request_j is not None]


def points_that_count(out: Path) -> Row:
    """How many of the finest run's points have an undisturbed trial."""
    run, trials = measured_run(out / finest(out))
    found = len({trial.point for trial in trials if trial.counts})
    planned = len({Point(*size) for size in run.facts.plan.points})
    return Row("points that count", found / planned, f"{found} of {planned} of the {finest(out)} run")


def held_out_error(out: Path, quantity: str) -> Row:
    """Held-out error of the finest run's model of ``energy`` or ``runtime``."""
    measured_run(out / finest(out))
    part = read_json(out / f"profile-{finest(out)}.json")[quantity]
    if part is None:
        raise NotMeasured("no energy was measured")
    if part.get("method") == "estimated":
        raise NotMeasured("energy is estimated, not measured")
    held_out = (part["model"] if quantity == "energy" else part)["held_out"]
    text = f"{percent(held_out['mape'], digits=2)} at {held_out['points']} points of {finest(out)}"
    return Row(f"held-out error of {quantity}", held_out["mape"], text, "≤ 2 %", held_out["mape"] <= 0.02)


def roofline(out: Path) -> Row:
    """How fast the device copies and multiplies."""
    found = read_json(out / "roofline.json")
    copied, multiplied = found["copy_bytes_per_s"], found["matmul_flops_per_s"]
    text = f"copy {copied / 1e9:.0f} GB/s, {found['matmul_dtype']} product {multiplied / 1e12:.1f} TFLOP/s"
    return Row(f"roofline of {found['device_name']}", copied, text)


def rows(out: Path) -> list[Row]:
    """The table: what is unknown of Hopper first."""
    return [
        *or_why("sensors", lambda: sensor_periods(out)),
        *or_why("sensors under load", lambda: sensors_under_load(out)),
        *each_run(out, "warm-up", warm_ups),
        *or_why("step time against cache length", lambda: cache_steps(out)),
        *or_why("decode, falcon-7b", lambda: decoding(out, "falcon", "decode, falcon-7b")),
        *or_why("roofline", lambda: roofline(out)),
        *(
            row
            for mode in MODES
            for row in or_why(f"decode, {mode}", partial(decoding, out, f"decode-{mode}", f"decode, {mode}"))
        ),
        *or_why("graph of memory roofline", lambda: graph_of_roofline(out), "≥ 60 %"),
        *or_why("graph over eager", lambda: graph_over_eager(out), "≥ 3 ×"),
        *or_why("prefill of matrix rate", lambda: prefill_of_roofline(out)),
        *or_why("integrated power to counter", lambda: sensors_agree(out), "within 2 %"),
        *or_why("points that count", lambda: points_that_count(out)),
        *or_why("spread of energy per request", lambda: energy_spread(out), "≤ 2 %"),
        *or_why("held-out error of energy", lambda: held_out_error(out, "energy"), "≤ 2 %"),
        *or_why("held-out error of runtime", lambda: held_out_error(out, "runtime"), "≤ 2 %"),
        *each_run(out, "disturbed", disturbed),
    ]


if __name__ == "__main__":
    main(rows)
