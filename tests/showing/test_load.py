"""Several requests in flight, as tables, figures and the page show them: static batches, closed and open loops."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.core.sizes import Point
from harness.core.statistics import Estimate
from harness.modelling.profile_fit import fit
from harness.runs.records import dump_trial, load_run
from harness.runs.summary import headline, summarise
from harness.showing.concurrency_figures import load_figure
from harness.showing.drawn_systems import differences, load_drawn, published_sources
from harness.showing.findings import load_finding
from harness.showing.fit_figures import fit_figure
from harness.showing.open_loops import open_notes
from harness.showing.panels import Options
from harness.showing.phase_figures import phase_figure
from harness.showing.sweep_figures import sweep_figure
from harness.showing.under_load import loaded_points, typical_size
from tests.helpers import FAKE, ROOT, joulebench, refused
from tests.showing import loaded_runs
from tests.showing.drawn import assert_readable, notes, texts, title
from tests.showing.loaded_runs import energy_j, open_loop, tpot_s, ttft_s, write_run


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("loop") / "run")


def after(output: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading; a value and its half-width are one."""
    lines = output.partition(heading)[2].splitlines()
    start = next(number for number, line in enumerate(lines) if "────" in line)
    rows = []
    for line in lines[start + 1 :]:
        if not line.strip():
            break
        rows.append(line.replace(" ± ", "±").split())
    return rows


def test_a_point_knows_its_latencies_and_its_tokens_per_joule(loop: Path) -> None:
    points = {point.point: point for point in summarise(load_run(loop).trials)}
    point = points[wanted := Point(32, 128, 4)]
    assert point.load
    assert point.load.kind == "closed loop"
    assert point.load.ttft_s
    assert point.load.ttft_s.p99_s.mean == pytest.approx(1.6 * ttft_s(wanted))
    assert point.load.tpot_s
    assert point.load.tpot_s.p50_s.half_width == pytest.approx(
        1.04 * 4.303 * 0.01 / 3**0.5 * 0.95 * tpot_s(wanted), rel=1e-3
    )
    assert point.tpot_s
    assert point.tpot_s.mean == pytest.approx(tpot_s(wanted))
    assert point.tokens_per_j
    assert point.tokens_per_j.mean == pytest.approx(128 / energy_j(wanted))
    assert point.energy_per_token_j
    assert point.energy_per_token_j.mean == pytest.approx(energy_j(wanted) / 160)
    assert point.prefill_tokens_per_s is None, "prefills of a loop run beside the decode steps of others"
    assert point.decode_tokens_per_s is None, "while one of them waits or is in prefill it doesn't decode"
    assert points[Point(32, 128)].decode_tokens_per_s


def test_the_table_under_load(loop: Path) -> None:
    shown = joulebench("trials", loop).stdout
    rows = after(shown, "Under load (closed loop):")
    assert [row[:3] for row in rows[:4]] == [["8", "32", str(c)] for c in (1, 2, 4, 8)]
    assert len(rows) == 20
    (row,) = (row for row in rows if row[:3] == ["128", "32", "8"])
    point = Point(128, 32, 8)
    assert float(row[4]) == pytest.approx(0.95 * ttft_s(point), rel=0.01)
    assert float(row[5]) == pytest.approx(1.6 * ttft_s(point), rel=0.01)
    assert float(row[6]) == pytest.approx(0.95e3 * tpot_s(point), rel=0.01)
    assert float(row[8].partition("±")[0]) == pytest.approx(energy_j(point), rel=0.01)
    assert float(row[10]) == pytest.approx(32 / energy_j(point), rel=0.01)
    assert "200.0 ± 5.2 decode tokens/s for 32 in, 32 out." in shown, "the headline is that of one request in flight"
    assert (
        "From 1 to 8 requests in flight, output tokens/s grow 4.4 times, energy per request falls by 55 % and time per "
        "request grows by 81 % (32 in, 32 out)." in shown
    )


def test_a_run_of_single_requests_has_no_column_of_concurrency() -> None:
    shown = joulebench("trials", ROOT / "tests" / "data" / "run-first").stdout
    assert "flight" not in shown
    assert "Under load" not in shown
    assert loaded_points(load_run(ROOT / "tests" / "data" / "run-first")) == []


def test_batches_have_one_time_for_all(tmp_path: Path) -> None:
    options = ["-m", "fake", "--point", "8,8", "--point", "8,1", "-c", "1,4", "-o", tmp_path / "run"]
    done = joulebench(*FAKE, *options)
    assert done.returncode == 0, done.stderr
    assert "8 in, 8 out, 4 in flight, trial 1" in done.stdout
    assert "p50" not in done.stdout
    rows = after(done.stdout, "Under load (static batch):")
    assert [row[:3] for row in rows] == [["8", "1", "1"], ["8", "1", "4"], ["8", "8", "1"], ["8", "8", "4"]]
    trials = json.loads(joulebench("trials", tmp_path / "run", "--json").stdout)
    four = next(t for t in trials if (t["output_tokens"], t["concurrency"], t["purpose"]) == (8, 4, "measure"))
    assert float(rows[3][5]) == pytest.approx(1e3 * four["tpot_s"], rel=0.01)
    assert float(rows[3][4]) == pytest.approx(four["prefill_s"], rel=0.01)
    batches = load_drawn(str(write_run(tmp_path / "eight", (8,), served=False)))
    assert "8 requests in flight (static batch)" in notes(phase_figure([batches], Options()))
    assert rows[1][5] == "–", "a single output token has no time per token after it"
    planned = joulebench(*FAKE, *options[:-1], tmp_path / "other", "--dry-run").stdout
    assert planned.count("4 in flight") == 2


def test_a_loop_of_one_concurrency_is_told_by_its_output(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", concurrencies=(8,))
    found = headline((loaded := load_run(run)).facts, loaded.trials)
    assert found
    assert found.point == Point(32, 32, 8)
    kind, speed = found.speed or ("", Estimate(0, None))
    assert (kind, speed.mean) == ("output", pytest.approx(8 * 32 / loaded_runs.runtime_s(found.point)))
    done = joulebench("figures", run, "-o", tmp_path / "figures")
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"figure1", "figure2", "fit"}
    assert "no figure of the phases: with several requests at a server they run beside each other" in done.stdout
    source = load_drawn(str(run))
    figure = sweep_figure([source], "input", Options())
    assert not [words for words in differences(source, published_sources()).differs if "in flight" in words]
    assert "8 requests in flight (closed loop)" in notes(figure)
    assert "8 requests in flight (closed loop)" in notes(fit_figure(fit(run)))


def test_sweeps_over_sizes_are_those_of_the_fewest_in_flight(loop: Path) -> None:
    source = load_drawn(str(loop))
    assert (source.concurrency, source.kind) == (1, "closed loop")
    figure = sweep_figure([source], "input", Options())
    assert "in flight" not in notes(figure)
    (line,) = (line for line in figure.axes[0].lines if line.get_marker() == "o")
    assert list(line.get_ydata()) == pytest.approx([loaded_runs.runtime_s(Point(m, 32)) for m in (8, 32, 128)])


def test_the_figure_has_every_quantity_against_concurrency(loop: Path, tmp_path: Path) -> None:
    done = joulebench("figures", loop, "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.glob("load.*")} == {"load.pdf", "load.svg", "load.png", "load.csv"}
    with (tmp_path / "load.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    for row in rows:
        point = Point(*(int(row[name]) for name in ("input_tokens", "output_tokens", "concurrency")))
        assert row["in_flight_as"] == "closed loop"
        assert float(row["energy_j"]) == pytest.approx(energy_j(point))
        assert float(row["ttft_p90_s"]) == pytest.approx(1.3 * ttft_s(point))
        assert float(row["tpot_p99_s"]) == pytest.approx(1.6 * tpot_s(point))
        assert float(row["output_tokens_per_s"]) == pytest.approx(
            point.concurrency * point.output_tokens / loaded_runs.runtime_s(point)
        )
    figure = load_figure(load_drawn(str(loop)), Options())
    assert_readable(figure)
    labels = [ax.get_ylabel().replace("\n", " ") for ax in figure.axes]
    assert labels == [
        "output tokens/s",
        "output tokens per joule",
        "energy per request, J",
        "energy per output token, J",
        "time to first token, p50 and p99, s",
        "time per output token, p50 and p99, ms",
    ]
    assert title(figure).startswith("From 1 to 8 requests in flight, output tokens/s grow 4.4 times")
    assert "requests in flight (closed loop)" in texts(figure)
    assert "p99 dashed" in notes(figure)


@pytest.mark.parametrize("method", ["estimated", None])
@pytest.mark.parametrize("served", [True, False])
def test_figures_without_measured_energy_read_well(tmp_path: Path, method: str | None, served: bool) -> None:
    run = write_run(tmp_path / "run", served=served, method=method)
    figure = load_figure(load_drawn(str(run)), Options())
    assert_readable(figure)
    assert "energy" not in title(figure), "nothing is claimed of what was not measured"
    if method is None:
        assert "Energy was not measured" in notes(figure)
        assert len([ax for ax in figure.axes if ax.get_visible()]) == 3
    else:
        assert "Hollow points: energy estimated" in notes(figure)
        assert "energy per request, J (estimated)" in [ax.get_ylabel().replace("\n", " ") for ax in figure.axes]


def test_many_sizes_are_drawn_so_far_as_they_can_be_told_apart(tmp_path: Path) -> None:
    sizes = [(m, 32) for m in (8, 16, 32, 64, 128, 256, 512)] + [(32, n) for n in (8, 16, 64, 128)]
    run = write_run(tmp_path / "run", (1, 4, 8, 32, 256), sizes=sizes)
    source = load_drawn(str(run))
    figure = load_figure(source, Options())
    assert_readable(figure)
    assert "5 of 11 request sizes are drawn; the CSV file has all" in notes(figure)
    assert {"32 in, 32 out", "512 in, 32 out", "8 in, 32 out"} <= set(texts(figure))
    assert typical_size(source.loaded, 32, 32) == Point(32, 32)
    assert title(figure).startswith("From 1 to 256 requests in flight, output tokens/s grow ")
    assert "energy per request is least at 8" in title(figure), "it grows again beyond"


def test_findings_claim_nothing_that_the_intervals_leave_open(loop: Path) -> None:
    points = [point for point in summarise(load_run(loop).trials) if point.point.input_tokens == 8]
    vague = [replace(point, energy_j=Estimate(point.energy_j.mean, 5.0)) for point in points if point.energy_j]
    assert "energy per request hardly changes" in load_finding(vague)
    assert load_finding(points[:1]) == ""


def test_marked_windows_are_counted_by_kind(tmp_path: Path) -> None:
    said = [f"the clients were in step (coherence {c}): the server brings them there" for c in ("0.93", "0.95")]
    run = write_run(tmp_path / "run", warnings=[*said, "3 requests waited in the server"])
    shown = joulebench("trials", run).stdout
    assert f"Marked: 2 of 60 trials: {said[0]}, or similar." in shown
    assert "Marked: 1 of 60 trials: 3 requests waited in the server." in shown
    trials = json.loads(joulebench("trials", run, "--json").stdout)
    assert [trial["warnings"] for trial in trials[:4]] == [*said, "3 requests waited in the server", None]


def test_open_loops_have_a_table_of_their_own(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sizes=())
    fast = replace(open_loop(0, 20.0, 12.1), status="disturbed", reason="others computed")
    (run / "trials.jsonl").write_bytes(dump_trial(fast) + dump_trial(open_loop(1, 2.0, 1.98)))
    shown = joulebench("trials", run).stdout
    slow, quick = after(shown, "Open loops")
    assert slow[:4] == ["2.00", "2.00", "1.98", "2.50"]
    assert float(slow[5]) == pytest.approx(2 * 1.6 * ttft_s(Point(32, 32)), rel=0.01)
    assert quick[-2:] == ["75.0", "%"]
    assert "goodput is the share of the requests with TTFT ≤ 0.100 s" in shown
    assert "requests piled up at 20.0/s" in shown
    assert "≈" not in shown
    assert "Measured: 2 of 2 open loops." in shown
    assert "\n1 open loop: disturbed: others computed.\n" in shown
    assert "Nothing was measured" not in shown
    table = json.loads(joulebench("trials", run, "--json").stdout)
    assert table[0]["concurrency"] is None
    assert table[0]["output_tokens_per_s"] == pytest.approx(2.5 * 32 / loaded_runs.runtime_s(Point(32, 32)))
    assert joulebench("report", run, "-o", tmp_path / "a.html").returncode == 0
    assert "No input sweep was measured" not in (tmp_path / "a.html").read_text(), "none was asked for"
    assert "open loops only" in refused(joulebench("fit", run))


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        ({"method": "estimated"}, "≈: energy is estimated, not measured"),
        ({"request_j": None, "request_ci95_j": None, "reason": "too coarse"}, "–: energy was not measured: too coarse"),
    ],
)
def test_open_loops_say_why_energy_is_no_measurement(figure: dict[str, Any], said: str) -> None:
    trial = open_loop(0, 2.0, 1.98)
    assert trial.energy
    assert not any("energy" in note for note in open_notes([trial]))
    total = replace(trial.energy.total, **figure)
    assert said in open_notes([replace(trial, energy=replace(trial.energy, total=total))])


@pytest.mark.filterwarnings("error")
def test_a_time_of_zero_is_in_no_logarithmic_axis(tmp_path: Path) -> None:
    """Where a server sends all tokens at once, a label at the end of its line collapsed the axes."""
    run = write_run(tmp_path / "run")
    lines = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    for line in lines:
        if line["concurrency"] == 8:
            line["load"]["tpot_s"] |= dict.fromkeys(("mean_s", "p50_s", "p90_s", "p99_s"), 0.0)
    (run / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    figure = load_figure(load_drawn(str(run)), Options())
    assert_readable(figure)
    assert joulebench("report", run, "-o", tmp_path / "a.html").returncode == 0
