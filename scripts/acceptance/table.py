"""What the tables of both acceptance scripts share: rows, what they are read from, and how they are written.

What was not measured says why. A table names no folder, user or host of the machine it was measured on.
"""

from __future__ import annotations

import getpass
import json
import re
import socket
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.sizes import Point
from harness.core.wording import number, percent, plus_minus_percent
from harness.runs.records import RecordedRun, load_run, read_trace
from harness.runs.schema import Trial
from harness.runs.summary import disturbance, drift, used_trials


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


def read_json(path: Path) -> dict[str, Any]:
    """What a step wrote. Raises NotMeasured."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise NotMeasured(f"{path.name} is absent or not whole; its step failed") from None
    return content


def measured_run(directory: Path) -> tuple[RecordedRun, list[Trial]]:
    """A run and the trials of it that statistics use. Raises NotMeasured."""
    name, steps = directory.name, directory.parent / "steps"
    if not (directory / "run.json").exists():
        if aside := [path.name for path in steps.glob(f"{name}.failed-*")]:
            newest = max(aside, key=lambda each: int(each.rpartition("-")[2]))
            raise NotMeasured(f"no trial of {name} counts: joulebench trials steps/{newest} says why")
        if (steps / f"{name}.log").exists():
            raise NotMeasured(f"{name} failed: see steps/{name}.log")
        raise NotMeasured(f"{name} was not run on this device")
    run = load_run(directory)
    trials = [trial for point in points(run.trials) for trial in used_trials(of_point(run.trials, point))]
    if not trials:
        raise NotMeasured(f"{name} has no trial that counts: see steps/{name}.log")
    return run, trials


def points(trials: list[Trial] | tuple[Trial, ...]) -> list[Point]:
    """Sizes of requests, each once, in the order in which they were measured."""
    return list(dict.fromkeys(trial.point for trial in trials))


def of_point(trials: list[Trial] | tuple[Trial, ...], point: Point) -> list[Trial]:
    """Those of one size."""
    return [trial for trial in trials if trial.point == point]


def runs_in(out: Path) -> list[str]:
    """Names of the runs in the folder."""
    return sorted(path.parent.name for path in out.glob("*/run.json"))


def decode_rate(out: Path, name: str) -> tuple[float, float]:
    """Decode tokens/s of a run: mean and standard deviation over its trials. Raises NotMeasured."""
    _, trials = measured_run(out / name)
    rates = [(trial.output_tokens - 1) / trial.decode_s for trial in trials if trial.decode_s]
    if not rates:
        raise NotMeasured(f"{name} has no decode step")
    return statistics.mean(rates), statistics.stdev(rates) if len(rates) > 1 else float("nan")


def decoding(out: Path, name: str, what: str) -> Row:
    """Decode tokens/s of a run, as a row called ``what``."""
    mean, sd = decode_rate(out, name)
    return Row(what, mean, f"{number(mean)} decode tokens/s (sd of trials {number(sd, 2)})")


def sensor_periods(out: Path) -> list[Row]:
    """How often each power domain has a new value, and its idle power. Raises NotMeasured where nothing has any."""
    rows = []
    probes = read_json(out / "sensors.json")["probes"]
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
    load = read_json(out / "sensors.json").get("load")
    if not load or load["reason"]:
        raise NotMeasured(load["reason"] if load else "there was no load")
    rows = [
        Row(f"{name} under load", found["rise_w"], f"{found['idle_w']:.1f} W idle, {found['busy_w']:.1f} W busy")
        for name, found in load["domains"].items()
        if found["idle_w"] is not None and found["loaded"]
    ]
    for source, ratio in load["ratios"].items():
        text = f"{percent(ratio - 1, signed=True, digits=2)} over the whole load"
        name = f"integrated to counter, {source[:12]}"
        rows.append(Row(name, ratio - 1, text, "within 2 %", abs(ratio - 1) <= 0.02))
    if not rows:
        raise NotMeasured("nothing that was loaded has an idle power")
    return rows


def warm_ups(out: Path, name: str) -> Row:
    """How many times as long as the second the first request of a run's warm-ups takes: median and worst.

    Plans that libraries make for the first request of a size, and anything else that happens once. Raises NotMeasured.
    """
    run = load_run(out / name)
    ratios = {}
    for trial in run.trials:
        # A process makes its plans for a size once: that it warms up for the drift check shows nothing new.
        made = trial.point, trial.session, trial.worker
        if trial.purpose == "warmup" and trial.trace and made not in ratios:
            marks, _ = read_trace(run.directory, trial)
            if marks.start_ns.size > 1:
                first_ns, second_ns = (marks.end_ns - marks.start_ns)[:2]
                ratios[made] = float(first_ns / second_ns)
    if not ratios:
        raise NotMeasured(f"the warm-ups of {name} have fewer than two requests")
    median = statistics.median(ratios.values())
    (point, *_), worst = max(ratios.items(), key=lambda found: found[1])
    text = f"the first request takes {median:.2f} × the second's time"
    if len(ratios) > 1:
        size = f"{point.input_tokens} in, {point.output_tokens} out"
        text += f" (median of {len(ratios)} warm-ups, worst {worst:.2f} × at {size})"
    return Row(_warm_up(name, run.facts.backend.config.compile), median, text)


def _warm_up(name: str, compiled: str) -> str:
    return f"warm-up, {name}" + ("" if compiled == "none" or compiled in name else f" ({compiled})")


def drifts(out: Path, name: str) -> Row:
    """How the first point of a run differed when it was repeated at the end. Raises NotMeasured."""
    run, _ = measured_run(out / name)
    moved = drift(run.trials)
    if moved is None:
        raise NotMeasured(f"the first point of {name} was not repeated undisturbed at its end")
    change = plus_minus_percent(moved.change, moved.half_width, signed=True)
    return Row(f"drift, {name}", moved.change, f"{change} in runtime from the first trials to the last")


def disturbed(out: Path, name: str) -> list[Row]:
    """How many trials of a run others disturbed; no row where none was."""
    found = disturbance(load_run(out / name).trials)
    if found is None:
        return []
    text = (
        f"others used the machine during {found.trials} of {found.of_trials} trials; "
        f"{found.points} of {found.of_points} points have no others"
    )
    return [Row(f"disturbed, {name}", found.trials / found.of_trials, text)]


def or_why(what: str, measured: Callable[[], Row | list[Row]], wanted: str = "") -> list[Row]:
    """The rows, or one that says why there is no value."""
    try:
        found = measured()
        return found if isinstance(found, list) else [found]
    except (NotMeasured, UserError) as why:
        return [Row(what, None, f"not measured: {why}", wanted)]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as fault:
        return [Row(what, None, f"not measured: a file has another shape ({type(fault).__name__}: {fault})", wanted)]


def each_run(out: Path, what: str, measured: Callable[[Path, str], Row | list[Row]]) -> list[Row]:
    """The rows of every run in the folder."""
    return [row for name in runs_in(out) for row in or_why(f"{what}, {name}", partial(measured, out, name))]


def main(rows: Callable[[Path], list[Row]]) -> None:
    """Print the table of the folder that the command line names, and keep it as acceptance.txt and .json there."""
    program = Path(sys.argv[0]).name
    if len(sys.argv) != 2:
        print(f"{program}: error: say which folder: {program} OUT", file=sys.stderr)
        sys.exit(2)
    out = Path(sys.argv[1])
    if not out.is_dir():
        print(f"{program}: error: {out} is no folder; name that of acceptance.sh", file=sys.stderr)
        sys.exit(2)
    found = [replace(row, what=anonymous(row.what, out), text=anonymous(row.text, out)) for row in rows(out)]
    content = json.dumps([asdict(row) for row in found], indent=1, ensure_ascii=False)
    (out / "acceptance.json").write_text(content, encoding="utf-8")
    text = "".join(f"{_line(row)}\n" for row in found)
    (out / "acceptance.txt").write_text(text, encoding="utf-8")
    print(text, end="")


def _line(row: Row) -> str:
    verdict = "" if row.met is None else "met" if row.met else "NOT MET"
    return f"{row.what:<36} {row.wanted:<10} {verdict:<8} {row.text}"


def anonymous(text: str, out: Path) -> str:
    """A text without this machine's folders and names: what libraries and drivers say may hold any of them."""
    text = text.replace(f"{out.resolve()}/", "").replace(f"{out}/", "")
    text = re.sub(r"(?<![\w.:/-])/(?:[\w.+@-]+/)+([\w.+@-]*)", r"…/\1", text)
    for name, stand_in in ((_user(), "USER"), (socket.gethostname().partition(".")[0], "HOST")):
        if name and name != "root":
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", stand_in, text)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
