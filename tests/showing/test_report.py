"""The report page, as text and in a real browser."""

import contextlib
import csv
import functools
import io
import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator

from harness.core.errors import UserError
from harness.core.wording import estimated, plus_minus
from harness.deciding.answers import ThresholdAnswer
from harness.deciding.costs import cost_table
from harness.deciding.decision import make_scales, threshold_decision
from harness.deciding.trace_files import load_workload
from harness.deciding.workload import with_output_tokens
from harness.modelling.profile import Profile
from harness.runs.records import load_run
from harness.runs.run_schema import Gpu
from harness.showing.decisions import threshold_words
from harness.showing.drawn_systems import draw_run
from harness.showing.names import machine_words, model_words, processor_words
from harness.showing.panels import Options
from harness.showing.report import explorer
from harness.showing.report.requests import requests
from tests.helpers import FAKE, ROOT, joulebench, refused
from tests.showing.loaded_runs import write_run

RUN = ROOT / "tests" / "data" / "run-first"
LATENCY = "Time to first token, p50 and p99, s"
HOSTILE = "<img src=x onerror=alert(1)></script><b>bold</b>"


def browser_program() -> str | None:
    """A Chromium that this machine has."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = [path for name in names if (path := shutil.which(name))]
    if sys.platform == "darwin":
        applications = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
        found += [str(applications)] if applications.exists() else []
    return found[0] if found else None


@functools.cache
def browser() -> Any:
    """Playwright and one headless Chromium for all tests of this file."""
    sync_api = pytest.importorskip("playwright.sync_api")
    program = browser_program()
    if program is None:
        pytest.skip("no Chromium on this machine (Debian, Ubuntu: apt install chromium)")
    playwright = sync_api.sync_playwright().start()
    return playwright, playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])


@pytest.fixture(scope="module", autouse=True)
def browser_is_closed() -> Iterator[None]:
    yield
    if browser.cache_info().currsize:
        playwright, chromium = browser()
        chromium.close()
        playwright.stop()


@contextlib.contextmanager
def opened(page_file: Path, **options: Any) -> Iterator[Any]:
    """The page in headless Chromium, from disk; fails on console errors and on any request but for the file."""
    troubles: list[str] = []
    _, chromium = browser()
    page = chromium.new_page(**options)
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: troubles.append(request.url) if request.url != page_file.as_uri() else None)
    page.on("dialog", lambda dialog: (troubles.append("a script of the data ran"), dialog.dismiss()))
    try:
        page.goto(page_file.as_uri())
        yield page
    finally:
        page.close()
    assert troubles == []


def data_of(page_file: Path) -> dict[str, Any]:
    """What the page holds."""
    text = page_file.read_text(encoding="utf-8")
    return json.loads(text.partition('type="application/json">')[2].partition("</script>")[0])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    done = joulebench("report", RUN, "-o", path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of a run with 500 trials, whose names carry markup."""
    directory = tmp_path_factory.mktemp("hostile")
    shutil.copytree(RUN, directory / "run")
    run = json.loads((directory / "run" / "run.json").read_text())
    run["model"]["name"] = HOSTILE
    run["machine"]["cpu_model"] = HOSTILE
    (directory / "run" / "run.json").write_text(json.dumps(run))
    lines = (directory / "run" / "trials.jsonl").read_text().splitlines()
    records = [json.loads(lines[i % len(lines)]) | {"id": i} for i in range(500)]
    records[-1] |= {"status": "error", "reason": HOSTILE}
    records[-2] |= {"status": "error", "reason": "=1+1"}
    (directory / "run" / "trials.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    done = joulebench("report", directory / "run", "-o", directory / "report.html")
    assert done.returncode == 0, done.stderr
    return directory / "report.html"


def test_the_page_is_one_file_without_addresses(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert len(text.encode()) < 6_000_000
    assert not re.search(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?!#)', text)
    assert "default-src 'none'" in text


def test_the_head_has_the_numbers_that_matter(report: Path) -> None:
    with opened(report) as page:
        assert page.title() == page.inner_text("h1") == "SmolLM2-135M on Intel Xeon, 2 cores"
        subtitle = "transformers, float32, KV cache on, 1 in flight · 11 request sizes, 35 trials · 24 Nov 2026"
        assert page.inner_text(".subtitle") == subtitle
        speed, runtime, energy = (text.replace("\xa0", " ") for text in page.locator("header .card").all_inner_texts())
        assert "37.85 ± 0.26 tokens/s" in speed
        assert "time to first token 58.5 ± 2.7 ms" in speed
        assert "A request of 32 in, 32 out takes" in runtime
        assert "0.8778 ± 0.0069 s" in runtime
        assert "held-out error 3.1 %" in runtime
        assert "≈ 8.8 J" in energy
        assert "estimated, no power meter" in energy
        assert "±" not in energy, "an estimate has no interval like a measurement's"


def test_the_cautions_stand_above_all_charts(report: Path) -> None:
    with opened(report) as page:
        cautions = page.locator("#cautions li").all_inner_texts()
        assert cautions[0] == "Energy is estimated at 5\xa0W per busy core, not measured."
        assert "8.0\xa0% ±\xa03.5\xa0% slower at the end" in cautions[1]
        bar, chart = (page.locator(place).first.bounding_box() for place in ("#cautions", "figure"))
        assert bar["y"] + bar["height"] < chart["y"]


def test_the_model_is_judged_by_its_held_out_error(report: Path) -> None:
    with opened(report) as page:
        said = page.inner_text("#sentences").replace("\xa0", " ")
        assert "Held-out error: 3.1 % for runtime and 4.1 % for estimated energy" in said
        assert page.locator("#fits figure").count() == 2
        page.click("#quality summary")
        kinds = [row.split("\t")[:2] for row in page.locator("#models tbody tr").all_inner_texts()]
        assert kinds == [["runtime", "measured"], ["energy", "estimated"], ["energy of cpu", "estimated"]]


def test_what_is_folded_says_what_was_measured_and_how(report: Path) -> None:
    with opened(report) as page:
        for part in ("#energy", "#facts", "#trials"):
            assert page.locator(part).is_hidden()
        for summary in page.locator("main > details > summary").all():
            summary.focus()
            page.keyboard.press("Enter")
        assert "not available: " in page.inner_text("#energy")
        assert "without " not in page.inner_text("#energy")
        facts = page.inner_text("#facts")
        assert "smollm2-135m" in facts
        assert "random" in facts


def test_switches_change_what_is_drawn(report: Path) -> None:
    with opened(report) as page:
        axis = page.locator("#sweeps figure").first.locator("svg[role=img]")
        assert "input tokens (32 output tokens each)" in axis.get_attribute("aria-label")
        own = page.locator("#sweeps figure").first.locator(".own .marker")
        assert own.count() == 7
        page.check("input[value=output]")
        assert "output tokens (32 input tokens each)" in axis.get_attribute("aria-label")
        assert own.count() == 5
        assert page.locator("#sweeps .faint").count() == 0
        page.select_option("#published", "Llama-2-7B")
        assert page.locator("#sweeps figure").first.locator("svg .faint").count() == 4
        assert page.inner_text("#finding").startswith("Runtime grows from ")
        legend = page.locator("#legend li").all_inner_texts()
        assert legend[0] == "Intel Xeon, SmolLM2-135M"
        assert all(name.endswith("Llama-2-7B (published)") for name in legend[1:])
        assert "Not comparable with the published systems: " in page.inner_text("#figure-note")
        page.select_option("#published", "")
        assert page.locator("#sweeps .faint").count() == 0


def test_the_own_machine_is_drawn_in_the_colour_of_the_text_and_hollow_where_estimated(report: Path) -> None:
    with opened(report) as page:
        runtime, energy = (page.locator("#sweeps figure").nth(i).locator(".own .marker").first for i in (0, 1))
        assert runtime.get_attribute("fill") == runtime.get_attribute("stroke") == "var(--ink)"
        assert energy.get_attribute("fill") == "var(--paper)"
        assert page.locator("#sweeps .band").count() == 1, "an estimate has no band"


def test_points_tell_their_values_to_pointer_and_keyboard(report: Path) -> None:
    with opened(report) as page:
        chart = page.locator("#sweeps svg[role=img]").first
        chart.locator(".marker").nth(2).hover(force=True)
        assert page.inner_text("#tip") == "32 in, 32 out: 0.8778 ± 0.0069 s"
        page.mouse.move(5, 5)
        assert page.locator("#tip").is_hidden()
        page.locator("#sweeps svg[role=img]").nth(1).focus()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        assert page.inner_text("#tip") == "32 in, 32 out: ≈ 0.14 J per token"


SIZES = [(32, 32), (8, 16), (1, 1), (100, 100), (777, 3), (333, 1), (3, 1999), (4000, 4000)]


def request_cards(page: Any, m: int, n: int) -> list[Any]:
    """The page's cards for a request: seconds, joules, a million tokens."""
    page.fill("#input-tokens", str(m))
    page.fill("#output-tokens", str(n))
    return page.locator("#costs .card").all()


@pytest.mark.parametrize("metered", [False, True])
def test_a_request_costs_what_predict_says(report: Path, counted: Path, metered: bool) -> None:
    """Within 1 %, values and half-widths, at sizes that lie in the table and between its sizes, measured or not."""
    run, page_file = (counted.parent / "run", counted) if metered else (RUN, report)
    profile = draw_run(load_run(run)).profile
    assert profile is not None
    with opened(page_file) as page:
        for m, n in SIZES:
            runtime, energy, million = request_cards(page, m, n)
            predictions = (profile.predict_runtime(m, n), profile.predict_energy(m, n))
            for card, expected, unit in zip((runtime, energy), predictions, "sJ", strict=True):
                value, half, one = (card.get_attribute(f"data-{part}") for part in ("value", "half", "one-half"))
                value = float(value)
                assert value == pytest.approx(float(expected.value), rel=0.01)
                known, words = metered or unit == "s", " ".join(card.locator(".figure").inner_text().split())
                if expected.too_far:
                    assert (half, one) == ("null", "null")
                    assert "±" not in card.inner_text()
                    continue
                assert float(half) == pytest.approx(float(expected.mean_95), rel=0.01)
                assert float(one) == pytest.approx(float(expected.request_95), rel=0.01)
                assert words == (plus_minus(value, float(half), unit) if known else estimated(value, unit))
                assert ("one such request: ±" in card.inner_text()) == known
            outside = any(bool(prediction.out_of_range) for prediction in predictions)
            far = any(bool(prediction.too_far) for prediction in predictions)
            start = "Outside what was measured" if far else "Extrapolated: " if outside else "Predicted by the model"
            assert page.locator("#costs > p").inner_text().startswith(start)
            kwh = float(predictions[1].value) / n / 3.6
            said = million.locator(".figure").inner_text().replace(",", "").replace("≈", "").split()
            assert float(said[0]) == pytest.approx(kwh, rel=0.01 if metered else 0.05)


def test_every_size_between_those_of_the_table_is_close() -> None:
    """What the page embeds, interpolated as the page does it, against the model at sizes that the table lacks."""
    source = draw_run(load_run(RUN))
    assert source.profile is not None
    (system,) = requests([source], Options())
    random = np.random.default_rng(0)
    m, n = (np.exp(random.uniform(0, np.log(4096), 400)).round().astype(int) for _ in range(2))
    for table, predict in (
        (system["runtime"], source.profile.predict_runtime),
        (system["energy"], source.profile.predict_energy),
    ):
        true = predict(m, n)
        axes = [np.log(table[side]) for side in ("input", "output")]
        at = np.column_stack([np.log(m), np.log(n)])
        value = np.exp(RegularGridInterpolator(axes, np.log(table["value"]))(at))
        assert value == pytest.approx(true.value, rel=0.01)
        near = ~true.too_far
        assert near.mean() > 0.3
        for share, half in (("mean_share", true.mean_95), ("request_share", true.request_95)):
            width = value * RegularGridInterpolator(axes, np.array(table[share]))(at)
            assert width[near] == pytest.approx(half[near], rel=0.01)


def test_sliders_move_the_request(report: Path) -> None:
    with opened(report) as page:
        before = page.inner_text("#costs")
        for side in ("input", "output"):
            page.locator(f"#{side}-slider").focus()
            for _ in range(6):
                page.keyboard.press("ArrowRight")
            assert int(page.input_value(f"#{side}-tokens")) > 32
            assert page.inner_text("#costs") != before
            before = page.inner_text("#costs")
        page.keyboard.press("End")
        assert page.input_value("#output-tokens") == "4096"
        assert page.inner_text("#costs > p").startswith("Outside what was measured")
        page.fill("#input-tokens", "100")
        stops = [page.evaluate("document.getElementById('input-slider').value")]
        page.fill("#input-tokens", "4096")
        stops.append(page.evaluate("document.getElementById('input-slider').max"))
        assert int(stops[0]) < int(stops[1])


def test_prices_are_the_readers_own(counted: Path) -> None:
    profile = draw_run(load_run(counted.parent / "run")).profile
    assert profile is not None
    kwh = float(profile.energy_j(32, 32)) / 32 / 3.6
    with opened(counted) as page:
        million = page.locator("#costs .card").nth(2)
        assert million.locator(".figure").inner_text().split() == [f"{kwh:.4g}", "kWh"]
        assert "currency" not in million.inner_text()
        page.fill("#price", "0.5")
        (cost,) = re.findall(r"([\d.]+) in your currency", million.inner_text())
        assert float(cost) == pytest.approx(0.5 * kwh, rel=0.01)
        assert "CO₂" not in million.inner_text()
        page.fill("#carbon", "400")
        (grams,) = re.findall(r"([\d.]+) g of CO₂", million.inner_text())
        assert float(grams) == pytest.approx(400 * kwh, rel=0.01)
        page.fill("#price", "")
        assert "currency" not in million.inner_text()


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the recorded run as if its energy had been read from a counter."""
    directory = tmp_path_factory.mktemp("counted")
    shutil.copytree(RUN, directory / "run")
    for name in ("run.json", "trials.jsonl"):
        text = (directory / "run" / name).read_text()
        (directory / "run" / name).write_text(text.replace('"estimated"', '"counter"'))
    done = joulebench("report", directory / "run", "-o", directory / "report.html")
    assert done.returncode == 0, done.stderr
    return directory / "report.html"


def test_metered_energy_has_its_interval_and_its_components(counted: Path) -> None:
    with opened(counted) as page:
        energy = page.locator("header .card").nth(2).inner_text().replace("\xa0", " ")
        assert "CPU, metered" in energy
        assert "8.76 ± 0.23 J" in energy
        assert "J per output token" in energy
        assert "estimated" not in page.inner_text("#cautions")
        assert page.locator("#sweeps .band").count() == 2


def test_the_table_sorts_and_filters(report: Path) -> None:
    with opened(report) as page:
        page.click("#trials-part > summary")
        column = page.locator("#trials th", has_text=re.compile("^runtime_s$"))
        cells = f"#trials tbody tr td:nth-child({1 + column.evaluate('cell => cell.cellIndex')})"
        column.locator("button").focus()
        page.keyboard.press("Enter")
        values = [float(text.replace(",", "")) for text in page.locator(cells).all_inner_texts()]
        assert values == sorted(values)
        assert column.get_attribute("aria-sort") == "ascending"
        page.keyboard.press("Enter")
        values = [float(text.replace(",", "")) for text in page.locator(cells).all_inner_texts()]
        assert values == sorted(values, reverse=True)
        page.fill("#filter", "warmup")
        assert page.inner_text("#count") == "12 of 50 trials"


def test_the_button_saves_the_trials_shown_as_csv(hostile: Path, tmp_path: Path) -> None:
    with opened(hostile) as page:
        page.click("#trials-part > summary")
        page.fill("#filter", "error")
        with page.expect_download() as download:
            page.click("#csv")
        assert download.value.suggested_filename == "trials.csv"
        download.value.save_as(tmp_path / "trials.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "trials.csv").read_text(encoding="utf-8"))))
    assert [row["reason"] for row in rows] == ["'=1+1", HOSTILE], "a formula is escaped, markup stays as it is"
    original = load_run(hostile.parent / "run").table().set_index("trial_id")
    for row in rows:
        assert float(row["runtime_s"]) == original.loc[int(row["trial_id"]), "runtime_s"], "in full"


def choose(page: Any, **chosen: str) -> None:
    """Set the explorer: pair by its name, workload by number, weight as typed."""
    if "pair" in chosen:
        page.select_option("#pair", label=chosen["pair"])
    page.select_option("#workload", chosen.get("workload", "0"))
    page.locator("#weight").fill(chosen.get("weight", "1"))


def numbers(page: Any, table: str) -> list[list[float]]:
    """The rows of a table of the page, without their names; what is not known is NaN."""
    rows = [row.split("\t")[1:] for row in page.locator(f"#{table} tbody tr").all_inner_texts()]
    return [[float(cell.replace(",", "").replace("—", "nan")) for cell in row] for row in rows]


def same_intervals(page: Any, best: dict[str, Any]) -> None:
    """The page's table of intervals says what ``joulebench threshold --json`` says."""
    fields = ("value", "low", "high")
    expected = [[100 * best[saving][field] for field in fields] for saving in ("cost_saving", "saving")]
    expected.append([best["runtime_ratio"], best["runtime_ratio_low"], best["runtime_ratio_high"]])
    expected.append([best["threshold"], best["threshold_low"], best["threshold_high"]])
    expected.append([float("nan"), *best["plateau"]])
    found = numbers(page, "intervals")
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, rel=1e-3, abs=1e-9, nan_ok=True)


PAIR = ("m1-pro-llama-2-7b", "swing-a100-llama-2-7b")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page whose explorer has the published pair."""
    path = tmp_path_factory.mktemp("pair") / "report.html"
    done = joulebench("report", RUN, "-o", path, "--profile", PAIR[0], "--profile", PAIR[1])
    assert done.returncode == 0, done.stderr
    return path


def asked(small: object, large: object, *options: object) -> dict[str, Any]:
    """What the threshold command says of the pair."""
    done = joulebench("threshold", "--small", small, "--large", large, *options, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_explorer_finds_what_the_threshold_command_finds(pair: Path) -> None:
    profiles = [Profile.load(name) for name in PAIR]
    alpaca = load_workload("alpaca")
    with opened(pair) as page:
        for workload, weight in (("0", "1"), ("1", "1"), ("1", "0.9"), ("1", "0.5"), ("0", "0")):
            frozen = ["--output-tokens", "32"] if workload == "1" else []
            expected = asked(*PAIR, "-w", "alpaca", *frozen, "--weight", weight)
            choose(page, pair=" → ".join(PAIR), workload=workload, weight=weight)
            assert page.inner_text("#weight-value") == f"{float(weight):.1f}"
            rows = page.locator("#answer tbody tr").all_inner_texts()
            best = rows[1].split("\t")
            assert best[0] == f"best split, T = {expected['best']['threshold']}"
            assert page.inner_text("#threshold-value") == str(expected["best"]["threshold"]), "it opens at the best"
            alone = float(rows[3].split("\t")[1].replace(",", ""))
            assert alone == pytest.approx(expected["baselines"]["swing-a100"]["energy_j"] / 3.6e6, rel=1e-3)
            assert float(best[1].replace(",", "")) == pytest.approx(expected["best"]["energy_j"] / 3.6e6, rel=1e-3)
            same_intervals(page, expected["best"])
            assert page.locator("#doubts li").all_inner_texts() == expected["warnings"]
            requests = with_output_tokens(alpaca, 32) if frozen else alpaca
            costs = replace(cost_table(profiles, requests), labels=PAIR)
            scales = make_scales("reference", float(weight), costs, requests, reference=1)
            decision = threshold_decision(costs, requests, "input", scales)
            assert page.inner_text("#words") == threshold_words(ThresholdAnswer(costs, requests, decision))


def test_both_orders_of_a_pair_are_answered(pair: Path) -> None:
    with opened(pair) as page:
        for order in (PAIR, PAIR[::-1]):
            choose(page, pair=" → ".join(order))
            same_intervals(page, asked(*order, "-w", "alpaca")["best"])


def test_the_slider_of_the_threshold_moves_the_answer(pair: Path) -> None:
    with opened(pair) as page:
        choose(page, pair=" → ".join(PAIR), workload="1")
        best = page.inner_text("#answer")
        page.locator("#threshold").focus()
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        moved = page.locator("#answer tbody tr").all_inner_texts()
        assert moved[0].split("\t")[0] == f"split at T = {page.inner_text('#threshold-value')}"
        assert page.inner_text("#answer") != best
        page.click("#best")
        assert page.inner_text("#answer") == best


def test_there_is_no_explorer_where_nothing_can_be_compared(report: Path, tmp_path: Path) -> None:
    with opened(report) as page:
        assert page.locator("#thresholds").is_hidden()
    other = tmp_path / "a.html"
    assert joulebench("report", RUN, "--profile", "swing-a100-falcon-7b", "-o", other).returncode == 0
    with opened(other) as page:
        assert "ran different models" in page.inner_text("#refusal"), "who asked for it reads why"
        assert page.locator("#explorer").is_hidden()


def test_a_run_that_can_be_compared_with_a_shipped_profile_is() -> None:
    own, shipped = (("own", Profile.load(PAIR[0])), ("shipped", Profile.load(PAIR[1])))
    other = ("other", Profile.load("swing-a100-falcon-7b"))
    found = explorer.explorer([own], [], [shipped, other], [], allow_mixed=False)
    assert found is not None
    assert {(one["small"], one["large"]) for one in found["pairs"]} == {("own", "shipped"), ("shipped", "own")}


def test_the_explorer_takes_other_profiles_and_traces(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("input_tokens,output_tokens\n" + "20,16\n40,8\n40,300\n300,32\n" * 20)
    shutil.copy(ROOT / "profiles" / "m1-pro-mistral-7b.json", tmp_path / "own.json")
    page_file, own, large = tmp_path / "report.html", str(tmp_path / "own.json"), "swing-a100-mistral-7b"
    done = joulebench("report", RUN, "-o", page_file, "--profile", own, "--profile", large, "-w", trace)
    assert done.returncode == 0, done.stderr
    expected = asked(own, large, "-w", trace)["best"]
    with opened(page_file) as page:
        assert page.locator("#workload option").first.inner_text() == "trace.csv", "one's own comes first"
        choose(page, pair=f"m1-pro-mistral-7b → {large}")
        best = page.locator("#answer tbody tr").all_inner_texts()[1].split("\t")
        assert best[0] == f"best split, T = {expected['threshold']}"
        assert float(best[1]) == pytest.approx(expected["energy_j"] / 3.6e6, rel=1e-3)


def test_a_mixed_pair_of_ones_own_is_answered_and_marked(tmp_path: Path) -> None:
    profile, page_file, large = tmp_path / "own.json", tmp_path / "report.html", PAIR[1]
    assert joulebench("fit", RUN, "-o", profile).returncode == 0
    expected = asked(profile, large, "-w", "alpaca", "--allow-mixed")
    assert expected["mixed"]
    done = joulebench("report", RUN, "--profile", PAIR[0], "--profile", large, "--allow-mixed", "-o", page_file)
    assert done.returncode == 0, done.stderr
    with opened(page_file) as page:
        choose(page, pair=" → ".join(PAIR))
        assert page.inner_text("#mark") == "", "nothing is mixed in the published pair"
        own = page.locator("#pair option").all_inner_texts()
        choose(
            page,
            pair=next(name for name in own if "run-first" in name and name.endswith(f"{large} (energy estimated)")),
        )
        assert page.inner_text("#mark").startswith("NOT COMPARABLE (--allow-mixed): different ")
        assert page.locator("#doubts li").all_inner_texts() == expected["warnings"]
        same_intervals(page, expected["best"])


def test_markup_in_names_is_text(hostile: Path) -> None:
    assert hostile.stat().st_size < 6_000_000
    with opened(hostile) as page:
        assert HOSTILE in page.inner_text("h1")
        assert HOSTILE in page.inner_text("#cautions")
        assert page.locator("img[src=x]").count() == 0
        page.click("#trials-part > summary")
        assert page.inner_text("#count") == "500 of 500 trials"
        chart = page.locator("#sweeps svg[role=img]").first
        page.select_option("#published", "Falcon-7B")
        assert HOSTILE in page.inner_text("#legend")
        chart.locator(".own .marker").first.hover(force=True)
        assert HOSTILE in page.inner_text("#tip")


@pytest.mark.parametrize("width", [320, 400])
def test_a_phone_shows_it_without_scrolling_sideways(pair: Path, width: int) -> None:
    with opened(pair, viewport={"width": width, "height": 800}) as page:
        for summary in page.locator("summary").all():
            summary.click()
        page.select_option("#published", "Llama-2-7B")
        page.fill("#price", "0.3")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        outside = """[...document.querySelectorAll("svg[role=img] text")].filter((text) => {
            const box = text.getBoundingClientRect(), chart = text.closest("svg[role=img]").getBoundingClientRect();
            const beside = box.left < chart.left - 1 || box.right > chart.right + 1;
            return box.width && (beside || box.bottom > chart.bottom + 1);
        }).map((text) => text.textContent)"""
        assert page.evaluate(outside) == [], "no text of a chart is clipped"


CONTRASTS = """() => {
  const channel = (x) => (x /= 255) <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
  const parsed = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parsed(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const node = text.parentElement;
    if (!text.data.trim() || !node.checkVisibility() || ["SCRIPT", "OPTION"].includes(node.tagName)) continue;
    const style = getComputedStyle(node), ink = parsed(node.closest("svg") ? style.fill : style.color);
    const [low, high] = [luminance(ink), luminance(behind(node))].sort((a, b) => a - b);
    found.push([(high + 0.05) / (low + 0.05), text.data.trim()]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out(pair: Path, scheme: str) -> None:
    """The contrast of every text with what is behind it, by WCAG 2.2, is at least 4.5."""
    with opened(pair, color_scheme=scheme) as page:
        for summary in page.locator("summary").all():
            summary.click()
        page.fill("#input-tokens", "4096")
        page.locator("#sweeps svg[role=img]").first.focus()
        page.keyboard.press("ArrowRight")
        found = page.evaluate(CONTRASTS)
        assert len(found) > 500
        assert min(found)[0] >= 4.5, min(found)
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


def test_on_paper_short_parts_are_open_and_nothing_is_empty(report: Path) -> None:
    with opened(report, viewport={"width": 1280, "height": 800}) as page:
        on_screen = page.locator("#sweeps svg[role=img]").first.get_attribute("viewBox")
        assert page.pdf(format="A4").startswith(b"%PDF")
        assert page.locator("#sweeps svg[role=img]").first.get_attribute("viewBox") == on_screen, "as before"
        assert page.locator("details[open]").count() == 0, "as before"
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 703, "height": 1000})
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert page.locator("#facts").is_visible()
        assert page.locator("#energy").is_visible()
        assert page.locator("#trials-part").is_hidden()
        for chart in page.locator("svg[role=img]").all():
            assert chart.bounding_box()["width"] == pytest.approx(340, abs=15), (
                "two fit on a page, letters at their size"
            )
        for heading in page.locator("h2:visible").all():
            part = heading.evaluate("heading => heading.closest('section, details').innerText")
            assert len(part) > len(heading.inner_text()) + 50
        assert page.evaluate("document.documentElement.scrollWidth") <= 703


def test_everything_that_can_be_set_has_a_name_and_is_reached_by_tab(pair: Path) -> None:
    with opened(pair) as page:
        assert page.get_attribute("html", "lang") == "en"
        unnamed = (
            "[...document.querySelectorAll('input, select')].filter((node) => !node.labels.length && !node.ariaLabel)"
        )
        assert page.evaluate(f"{unnamed}.map((node) => node.id)") == []
        reached = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        wanted = {"published", "input-tokens", "input-slider", "price", "carbon", "pair", "weight", "threshold", "best"}
        assert wanted | {"SUMMARY", "svg"} <= reached


def test_a_run_without_energy_and_with_failures(tmp_path: Path) -> None:
    options = ["-m", "fake:oom_above=300", "-p", "8-512*2", "-n", "8-128*2", "-o", tmp_path / "run"]
    assert joulebench(*FAKE, *options).returncode == 0
    done = joulebench("report", tmp_path / "run", tmp_path / "run", "-o", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    with opened(tmp_path / "report.html") as page:
        assert page.locator("header article").count() == 2
        cautions = page.inner_text("#cautions")
        assert "512 in, 32 out: out of memory" in cautions
        assert "Energy was not measured: no power meter was asked for" in cautions
        assert "not measured" in page.locator("header .card").nth(2).inner_text()
        assert page.locator("#price").is_hidden()
        assert "not measured" in page.locator("#costs .card").nth(1).inner_text()
        assert page.locator("#sweeps figure").count() == 1
        assert page.locator("#sweeps .failure").count() == 2
        assert "Crosses: sizes that failed." in page.inner_text("#figure-note")


def test_a_run_in_which_everything_failed_has_a_page(tmp_path: Path) -> None:
    options = ["-m", "fake:oom_above=3", "-p", "32", "-n", "32", "-o", tmp_path / "run"]
    assert joulebench(*FAKE, *options).returncode == 1
    done = joulebench("report", tmp_path / "run", "-o", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    with opened(tmp_path / "report.html") as page:
        first, *others = page.locator("#cautions li").all_inner_texts()
        assert first == "Nothing was measured: no trial of this run came to its end."
        assert any("out of memory" in line for line in others)
        for part in ("#request", "#quality", "#thresholds", "header .cards"):
            assert page.locator(part).count() == 0 or page.locator(part).is_hidden()
        page.click("#trials-part > summary")
        assert page.locator("#trials tbody tr").count() >= 1


def test_disturbed_trials_are_a_caution(tmp_path: Path) -> None:
    shutil.copytree(RUN, tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "trials.jsonl").read_text().splitlines()]
    for record in records:
        record["status"] = "disturbed"
        record["reason"] = "other programs used 63 % of the CPU"
        record["conditions"]["foreign_cpu_load"] = 0.63
    (tmp_path / "run" / "trials.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert joulebench("report", tmp_path / "run", "-o", tmp_path / "a.html").returncode == 0
    data = data_of(tmp_path / "a.html")
    assert any(line.startswith("DISTURBED: 35 of 35 trials") for line in data["cautions"])
    assert "11 request sizes, 35 trials" in data["heads"][0]["subtitle"], "they are kept"
    assert len(data["heads"][0]["cards"]) == 3


def with_idle_power(name: str, power_w: float) -> Profile:
    """A published profile as if its idle power had been measured."""
    profile = Profile.load(name)
    energy = profile.energy.model_copy(update={"idle_power_w": power_w, "idle_power_ci95_w": 0.0})
    return profile.model_copy(update={"energy": energy})


def test_the_answer_says_what_becomes_of_it_with_machines_left_on() -> None:
    given = [("a", with_idle_power(PAIR[0], 60.0)), ("b", with_idle_power(PAIR[1], 1.0))]
    page = explorer.explorer([], given, [], [], allow_mixed=False)
    frozen = with_output_tokens(load_workload("alpaca"), explorer.FROZEN_OUTPUT_TOKENS)
    costs = replace(cost_table([given[0][1], given[1][1]], frozen), labels=("a", "b"))
    scales = make_scales("reference", 1.0, costs, frozen, reference=1)
    decision = threshold_decision(costs, frozen, "input", scales)
    assert page is not None
    (answer,) = (one["answers"][1] for one in page["pairs"] if one["small"] == "a")
    words = answer["best"][-1]["words"]
    assert words == threshold_words(ThresholdAnswer(costs, frozen, decision))
    assert "with all its machines left on" in words


def test_a_workload_of_too_many_sizes_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("input_tokens,output_tokens\n1,1\n2,2\n3,3\n")
    monkeypatch.setattr(explorer, "MOST_SIZES", 2)
    with pytest.raises(UserError, match=r"3 distinct sizes.*use joulebench threshold"):
        explorer.explorer([], [], [], [str(trace)], allow_mixed=False)


def test_a_long_curve_keeps_its_best_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [(name, Profile.load(name)) for name in PAIR]

    def answers() -> list[dict[str, Any]]:
        found = explorer.explorer([], given, [], [], allow_mixed=False)
        assert found is not None
        return next(pair["answers"] for pair in found["pairs"] if pair["small"] == PAIR[0])

    whole = answers()
    monkeypatch.setattr(explorer, "KEPT_THRESHOLDS", 10)
    for all_points, kept in zip(whole, answers(), strict=True):
        assert 10 <= len(kept["threshold"]) <= 10 + len(explorer.WEIGHTS)
        assert (kept["threshold"][0], kept["threshold"][-1]) == (0, all_points["threshold"][-1])
        for best, of_all in zip(kept["best"], all_points["best"], strict=True):
            assert best["intervals"] == of_all["intervals"]
            for quantity in ("threshold", "energy_kwh", "runtime_h"):
                assert kept[quantity][best["at"]] == all_points[quantity][of_all["at"]]


@pytest.fixture(scope="module")
def unlike(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of one machine that differ in cache mode, on sweeps at 8 and 16 tokens."""
    directory = tmp_path_factory.mktemp("unlike")
    cached, uncached = directory / "cached", directory / "uncached"
    for run, mode in ((cached, "--kv-cache"), (uncached, "--no-kv-cache")):
        sizes = ["-p", "8-64*2", "--fixed-output", "8", "-n", "8-64*2", "--fixed-input", "16"]
        assert joulebench(*FAKE, "-m", "fake", mode, *sizes, "-o", run).returncode == 0
    return cached, uncached


def test_runs_that_are_not_comparable_are_refused_or_marked(unlike: tuple[Path, Path], tmp_path: Path) -> None:
    page_file = tmp_path / "a.html"
    refusal = refused(joulebench("report", *unlike, "-o", page_file))
    assert "cache mode" in refusal
    assert "--allow-mixed" in refusal
    assert not page_file.exists()
    sizes = ["--fixed-output", "8", "--fixed-input", "16"]
    done = joulebench("report", *unlike, "--allow-mixed", *sizes, "-o", page_file)
    assert done.returncode == 0, done.stderr
    with opened(page_file) as page:
        first = page.locator("#cautions li").first
        assert first.inner_text() == "NOT COMPARABLE (--allow-mixed): different cache modes"
        assert first.get_attribute("class") == "mark"
        assert page.inner_text("h1") == "2 runs of fake"
        names = page.locator("#legend li").all_inner_texts()
        assert len(set(names)) == 2, "two runs of one machine have names of their own"
        charts = page.locator("#sweeps svg[role=img]")
        assert "at 8 output" in charts.first.get_attribute("aria-label") or "8 output" in charts.first.text_content()
        assert "sweep was measured" not in page.inner_text("#figure-note")


def test_a_run_keeps_its_colour_in_charts_where_others_show_nothing(unlike: tuple[Path, Path], tmp_path: Path) -> None:
    done = joulebench("report", unlike[1], RUN, "--allow-mixed", "-o", tmp_path / "a.html")
    assert done.returncode == 0, done.stderr
    axes = data_of(tmp_path / "a.html")["sweeps"]
    own = [one for axis in axes.values() for chart in axis["charts"] for one in chart["series"] if "of" not in one]
    looks = {(series["name"], series["colour"]) for series in own}
    assert len(looks) == len({name for name, _ in looks}) == len({colour for _, colour in looks}) == 2
    energy = next(chart for chart in axes["input"]["charts"] if chart["unit"] == "J")
    assert len([one for one in energy["series"] if "of" not in one]) == 1, "the first run has no energy"


def test_absent_sweeps_are_named_with_the_option_that_shows_others(unlike: tuple[Path, Path], tmp_path: Path) -> None:
    done = joulebench("report", unlike[0], "--fixed-output", "5", "--fixed-input", "5", "-o", tmp_path / "a.html")
    assert done.returncode == 0, done.stderr
    with opened(tmp_path / "a.html") as page:
        said = page.inner_text("#figure-note")
        assert re.findall(r"--fixed-\w+", said) == ["--fixed-output", "--fixed-input"]
        assert page.locator("#axes").is_hidden(), "there is nothing to switch"


def test_boundary_makes_different_components_comparable(tmp_path: Path) -> None:
    other = shutil.copytree(RUN, tmp_path / "other")
    records = [json.loads(line) for line in (other / "trials.jsonl").read_text().splitlines()]
    for record in records:
        if record["status"] == "ok":
            record["energy"]["components"]["dram"] = record["energy"]["components"]["cpu"]
    (other / "trials.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    page_file = tmp_path / "a.html"
    assert "--boundary cpu would work" in refused(joulebench("report", RUN, other, "-o", page_file))
    done = joulebench("report", RUN, other, "--boundary", "cpu", "-o", page_file)
    assert done.returncode == 0, done.stderr
    data = data_of(page_file)
    one, two, *_ = data["sweeps"]["input"]["charts"][1]["series"]
    assert [value for _, value, *_ in one["points"]] == [value for _, value, *_ in two["points"]]
    assert data["requests"][0]["energy"]["value"] == data["requests"][1]["energy"]["value"]


def test_sizes_that_failed_are_shown_where_nothing_else_is(tmp_path: Path) -> None:
    options = ["-m", "fake:oom_above=3", "-p", "8-64*2", "-n", "8-64*2", "-o", tmp_path / "run"]
    assert joulebench(*FAKE, *options).returncode == 1
    assert joulebench("report", tmp_path / "run", "-o", tmp_path / "a.html").returncode == 0
    data = data_of(tmp_path / "a.html")
    assert data["absent"] == []
    charts = [chart for axis in data["sweeps"].values() for chart in axis["charts"]]
    assert {size for chart in charts for size, _ in chart["series"][0]["failures"]} == {8, 16, 32, 64}
    with opened(tmp_path / "a.html") as page:
        assert page.locator("#sweeps .failure").count() == 4


def test_requests_of_a_batch_are_in_flight_together(tmp_path: Path) -> None:
    sizes = ["-p", "8-64*2", "-n", "8-64*2", "--batch-size", "4"]
    assert joulebench(*FAKE, "-m", "fake", *sizes, "-o", tmp_path / "run").returncode == 0
    assert joulebench("report", tmp_path / "run", "-o", tmp_path / "a.html").returncode == 0
    with opened(tmp_path / "a.html") as page:
        assert "4 in flight, static batch · 7 request sizes" in page.inner_text(".subtitle")
        assert "A request of 32 in, 32 out, 4 in flight takes" in page.inner_text("#heads")
        assert "A request of 32 in, 32 out, 4 in flight takes" in page.inner_text("#costs")
        assert page.locator("#loads figure").count() == 0, "one concurrency is no line"
        assert page.locator("#loads tbody tr").count() == 7


@pytest.mark.parametrize("width", [1240, 390])
def test_what_load_does_is_drawn_and_told(tmp_path: Path, width: int) -> None:
    run = write_run(tmp_path / "run")
    assert joulebench("report", run, "-o", tmp_path / "a.html").returncode == 0
    with opened(tmp_path / "a.html", viewport={"width": width, "height": 900}) as page:
        assert "1–8 in flight, closed loop · 20 points, 60 trials" in page.inner_text(".subtitle")
        assert page.inner_text("#load .finding").startswith("From 1 to 8 requests in flight, output tokens/s grow 4.4")
        captions = page.locator("#loads figcaption").all_inner_texts()
        assert captions[2:5] == ["Energy per request, J", "Energy per output token, J", LATENCY]
        assert page.locator("#loads figure").nth(4).locator("path[stroke-dasharray='6 4']").count() == 5
        assert page.locator("#loads figure").nth(0).locator(".marker").count() == 20
        ticks = page.locator("#loads figure").nth(0).locator("text").all_text_contents()
        assert ticks[-5:-1] == ["1", "2", "4", "8"]
        assert page.locator("#loads tbody tr").count() == 20
        assert "A request of 32 in, 32 out, 1 in flight takes" in page.inner_text("#costs")
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        page.locator("#loads svg[role=img]").nth(2).focus()
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#tip").startswith("32 in, 32 out, 1 in flight: 11.77 ± 0.33 J")


def test_models_and_machines_have_the_names_that_people_use() -> None:
    names = {
        "smollm2-135m": "SmolLM2-135M",
        "llama-3.2-1b": "Llama-3.2-1B",
        "mistral-7b-v0.1": "Mistral-7B-v0.1",
        "Qwen/Qwen2.5-0.5B": "Qwen2.5-0.5B",
        "/models/Llama-3.2-1B-Q4_0.gguf": "Llama-3.2-1B-Q4_0",
        "tiny-test": "tiny-test",
    }
    assert {name: model_words(name) for name in names} == names
    processors = {
        "Intel(R) Xeon(R) Processor": "Intel Xeon",
        "Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz": "Intel Core i7-8650U",
        "AMD EPYC 7B13 64-Core Processor": "AMD EPYC 7B13",
        "Apple M1 Pro": "Apple M1 Pro",
        None: "unknown CPU",
    }
    assert {name: processor_words(name) for name in processors} == processors
    machine = load_run(RUN).facts.machine
    gpu = Gpu(name="NVIDIA H100 80GB HBM3")
    assert machine_words(machine.model_copy(update={"gpus": (gpu, gpu)})) == "2 × NVIDIA H100 80GB HBM3"


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    assert "holds no run" in refused(joulebench("report", tmp_path, "-o", tmp_path / "a.html"))
    assert "is a directory" in refused(joulebench("report", RUN, "-o", tmp_path))
