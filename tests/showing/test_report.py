"""The report page, as text and in a real browser."""

import contextlib
import functools
import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import UserError
from harness.deciding.answers import ThresholdAnswer
from harness.deciding.costs import cost_table
from harness.deciding.decision import make_scales, threshold_decision
from harness.deciding.trace_files import load_workload
from harness.deciding.workload import with_output_tokens
from harness.modelling.comparable import NotComparable, check
from harness.modelling.profile import Profile
from harness.showing.decisions import threshold_words
from harness.showing.report import explorer
from tests.helpers import FAKE, ROOT, joulebench, refused

RUN = ROOT / "tests" / "data" / "run-first"
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
    (directory / "run" / "trials.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    done = joulebench("report", directory / "run", "-o", directory / "report.html")
    assert done.returncode == 0, done.stderr
    return directory / "report.html"


def test_the_page_is_one_file_without_addresses(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert len(text.encode()) < 6_000_000
    assert not re.search(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?!#)', text)
    assert "default-src 'none'" in text


def test_the_page_says_what_was_measured(report: Path) -> None:
    with opened(report) as page:
        assert "drift: the first point" in page.inner_text("#warnings")
        assert "estimated from CPU time, not measured" in page.inner_text("#warnings")
        facts = page.inner_text("#facts")
        assert "smollm2-135m" in facts
        assert "random" in facts
        assert "RAPL" in page.inner_text("#energy")
        assert "3.8" in page.inner_text("#fits")
        page.locator("#charts").scroll_into_view_if_needed()
        page.wait_for_selector("#charts .js-plotly-plot .scatterlayer")


def test_the_table_sorts_and_filters(report: Path) -> None:
    with opened(report) as page:
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


def choose(page: Any, **chosen: str) -> None:
    """Bring the explorer into view and set it: small and large by name, workload by number, weight as typed."""
    page.locator("#explorer").scroll_into_view_if_needed()
    page.wait_for_selector("#answer tbody tr")
    for side in ("small", "large"):
        if side in chosen:
            page.select_option(f"#{side}", label=chosen[side])
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


def test_the_explorer_finds_what_the_threshold_command_finds(report: Path) -> None:
    profiles = [Profile.load(name) for name in ("m1-pro-llama-2-7b", "swing-a100-llama-2-7b")]
    pair = ["--small", profiles[0].name, "--large", profiles[1].name, "-w", "alpaca"]
    alpaca = load_workload("alpaca")
    with opened(report) as page:
        for workload, weight in (("0", "1"), ("1", "1"), ("1", "0.9"), ("1", "0.5"), ("0", "0")):
            frozen = ["--output-tokens", "32"] if workload == "1" else []
            done = joulebench("threshold", *pair, *frozen, "--weight", weight, "--json")
            expected = json.loads(done.stdout)
            choose(page, workload=workload, weight=weight)
            assert page.inner_text("#weight-value") == f"{float(weight):.1f}"
            rows = page.locator("#answer tbody tr").all_inner_texts()
            best = rows[1].split("\t")
            assert best[0] == f"best split, T = {expected['best']['threshold']}"
            alone = float(rows[3].split("\t")[1].replace(",", ""))
            assert alone == pytest.approx(expected["baselines"]["swing-a100"]["energy_j"] / 3.6e6, rel=1e-3)
            assert float(best[1].replace(",", "")) == pytest.approx(expected["best"]["energy_j"] / 3.6e6, rel=1e-3)
            same_intervals(page, expected["best"])
            assert page.locator("#doubts li").all_inner_texts() == expected["warnings"]
            requests = with_output_tokens(alpaca, 32) if frozen else alpaca
            costs = replace(cost_table(profiles, requests), labels=(profiles[0].name, profiles[1].name))
            scales = make_scales("reference", float(weight), costs, requests, reference=1)
            decision = threshold_decision(costs, requests, "input", scales)
            assert page.inner_text("#words") == threshold_words(ThresholdAnswer(costs, requests, decision))


def test_both_orders_of_a_pair_are_answered(report: Path) -> None:
    pair = {"small": "swing-a100-falcon-7b", "large": "palmetto-v100-falcon-7b"}
    for small, large in (("small", "large"), ("large", "small")):
        sides = {"small": pair[small], "large": pair[large]}
        asked = joulebench("threshold", "--small", sides["small"], "--large", sides["large"], "-w", "alpaca", "--json")
        with opened(report) as page:
            choose(page, **sides)
            same_intervals(page, json.loads(asked.stdout)["best"])


def test_the_explorer_takes_other_profiles_and_traces(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("input_tokens,output_tokens\n" + "20,16\n40,8\n40,300\n300,32\n" * 20)
    shutil.copy(ROOT / "profiles" / "m1-pro-mistral-7b.json", tmp_path / "own.json")
    page_file, own = tmp_path / "report.html", str(tmp_path / "own.json")
    done = joulebench("report", RUN, "-o", page_file, "--profile", own, "-w", trace)
    assert done.returncode == 0, done.stderr
    large = "swing-a100-mistral-7b"
    asked = joulebench("threshold", "--small", own, "--large", large, "-w", trace, "--json")
    expected = json.loads(asked.stdout)["best"]
    with opened(page_file) as page:
        page.locator("#explorer").scroll_into_view_if_needed()
        page.wait_for_selector("#answer tbody tr")
        page.select_option("#workload", "2")
        page.select_option("#small", label="m1-pro-mistral-7b")
        page.select_option("#large", label=large)
        best = page.locator("#answer tbody tr").all_inner_texts()[1].split("\t")
        assert best[0] == f"best split, T = {expected['threshold']}"
        assert float(best[1]) == pytest.approx(expected["energy_j"] / 3.6e6, rel=1e-3)


def test_moving_the_sliders_moves_the_answer(report: Path) -> None:
    with opened(report) as page:
        page.locator("#explorer").scroll_into_view_if_needed()
        page.wait_for_selector("#answer tbody tr")
        before = page.inner_text("#answer")
        page.locator("#threshold").focus()
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        assert page.inner_text("#answer") != before
        page.select_option("#small", "0")
        assert "not comparable" in page.inner_text("#refusal")
        for place in ("#answer", "#words", "#intervals"):
            assert page.inner_text(place) == "", "no saving is shown for what isn't comparable"
        assert page.locator("#curve").is_hidden()
        assert page.locator("#threshold").is_disabled()


def test_a_refusal_says_why(report: Path) -> None:
    small, large = Profile.load("m1-pro-llama-2-7b"), Profile.load("swing-a100-falcon-7b")
    with pytest.raises(NotComparable) as refusal:
        check([small, large])
    with opened(report) as page:
        choose(page, small=small.name, large=large.name)
        said = page.inner_text("#refusal")
        assert said.startswith("not comparable: ")
        assert all(reason in said for reason in refusal.value.reasons[:-1])
        assert "joulebench threshold --allow-mixed" in said
        page.select_option("#large", label=small.name)
        assert "the same system" in page.inner_text("#refusal")


def test_a_mixed_pair_of_ones_own_is_answered_and_marked(tmp_path: Path) -> None:
    profile, page_file, large = tmp_path / "own.json", tmp_path / "report.html", "swing-a100-llama-2-7b"
    assert joulebench("fit", RUN, "-o", profile).returncode == 0
    asked = joulebench("threshold", "--small", profile, "--large", large, "-w", "alpaca", "--allow-mixed", "--json")
    expected = json.loads(asked.stdout)
    assert expected["mixed"]
    assert joulebench("report", RUN, "--allow-mixed", "-o", page_file).returncode == 0
    with opened(page_file) as page:
        choose(page)
        assert page.inner_text("#refusal") == "", "nothing is mixed in the published pair"
        page.select_option("#small", "0")
        assert page.inner_text("#refusal").startswith("MIXED: ")
        assert page.locator("#doubts li").all_inner_texts() == expected["warnings"]
        same_intervals(page, expected["best"])
        page.select_option("#small", label="swing-a100-falcon-7b")
        assert page.inner_text("#refusal").startswith("not comparable: "), "neither is one's own"


def test_markup_in_names_is_text(hostile: Path) -> None:
    assert hostile.stat().st_size < 6_000_000
    with opened(hostile) as page:
        assert HOSTILE in page.inner_text("#title")
        assert HOSTILE in page.inner_text("#warnings")
        assert page.locator("img[src=x]").count() == 0
        assert page.inner_text("#count") == "500 of 500 trials"
        page.locator("#charts").scroll_into_view_if_needed()
        page.wait_for_selector("#charts .js-plotly-plot .scatterlayer")


def test_a_phone_shows_it_without_scrolling_sideways(report: Path) -> None:
    with opened(report, viewport={"width": 375, "height": 800}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_a_run_without_energy_and_with_failures(tmp_path: Path) -> None:
    options = ["-m", "fake:oom_above=300", "-p", "8-512*2", "-n", "8-128*2", "-o", tmp_path / "run"]
    assert joulebench(*FAKE, *options).returncode == 0
    done = joulebench("report", tmp_path / "run", tmp_path / "run", "-o", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    with opened(tmp_path / "report.html") as page:
        warnings = page.inner_text("#warnings")
        assert "ended as oom" in warnings
        assert "energy was not measured" in warnings
        choose(page)
        page.select_option("#small", "0")
        assert "has no energy: only runtime was measured" in page.inner_text("#refusal")
        page.locator("#charts").scroll_into_view_if_needed()
        page.wait_for_selector("#charts .js-plotly-plot .scatterlayer")
        assert set(page.locator("#charts .annotation-text").first.text_content()) == {"✕"}


def test_a_run_in_which_everything_failed_has_a_page(tmp_path: Path) -> None:
    options = ["-m", "fake:oom_above=3", "-p", "32", "-n", "32", "-o", tmp_path / "run"]
    assert joulebench(*FAKE, *options).returncode == 1
    done = joulebench("report", tmp_path / "run", "-o", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    with opened(tmp_path / "report.html") as page:
        assert "ended as oom" in page.inner_text("#warnings")
        assert page.locator("#trials tbody tr").count() >= 1


def test_estimated_energy_is_marked_wherever_it_is_shown(report: Path) -> None:
    with opened(report) as page:
        kinds = [row.split("\t")[1:3] for row in page.locator("#fits tbody tr").all_inner_texts()]
        assert kinds == [["runtime", "measured"], ["energy", "estimated"], ["energy of cpu", "estimated"]]
        own, *others = page.locator("#small option").all_inner_texts()
        assert own.endswith(" (energy estimated)")
        assert not any("estimated" in other for other in others)
        page.locator("#explorer").scroll_into_view_if_needed()
        page.wait_for_selector("#answer tbody tr")
        assert "is estimated" not in page.inner_text("#doubts")
        for side in ("#small", "#large"):
            page.select_option(side, "0")
        assert "is estimated, not measured" in page.inner_text("#doubts")


def with_idle_power(name: str, power_w: float) -> Profile:
    """A published profile as if its idle power had been measured."""
    profile = Profile.load(name)
    energy = profile.energy.model_copy(update={"idle_power_w": power_w, "idle_power_ci95_w": 0.0})
    return profile.model_copy(update={"energy": energy})


def test_the_answer_says_what_becomes_of_it_with_machines_left_on() -> None:
    offered = [
        ("a", with_idle_power("m1-pro-llama-2-7b", 60.0)),
        ("b", with_idle_power("swing-a100-llama-2-7b", 1.0)),
        *((name, Profile.load(name)) for name in (explorer.SMALL, explorer.LARGE)),
    ]
    page = explorer.explorer(offered, 2, [], allow_mixed=False)
    frozen = with_output_tokens(load_workload("alpaca"), explorer.FROZEN_OUTPUT_TOKENS)
    costs = replace(cost_table([offered[0][1], offered[1][1]], frozen), labels=("a", "b"))
    scales = make_scales("reference", 1.0, costs, frozen, reference=1)
    decision = threshold_decision(costs, frozen, "input", scales)
    words = page["pairs"][0][1]["answers"][1]["best"][-1]["words"]
    assert words == threshold_words(ThresholdAnswer(costs, frozen, decision))
    assert "with all its machines left on" in words


def test_a_workload_of_too_many_sizes_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("input_tokens,output_tokens\n1,1\n2,2\n3,3\n")
    monkeypatch.setattr(explorer, "MOST_SIZES", 2)
    with pytest.raises(UserError, match=r"3 distinct sizes.*use joulebench threshold"):
        explorer.explorer([], 0, [str(trace)], allow_mixed=False)


def test_a_long_curve_keeps_its_best_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = [(name, Profile.load(name)) for name in (explorer.SMALL, explorer.LARGE)]
    (_, whole), _ = explorer.explorer(offered, 0, [], allow_mixed=False)["pairs"]
    monkeypatch.setattr(explorer, "KEPT_THRESHOLDS", 10)
    (_, thin), _ = explorer.explorer(offered, 0, [], allow_mixed=False)["pairs"]
    for all_points, kept in zip(whole["answers"], thin["answers"], strict=True):
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
        first, *others = page.locator("#warnings li").all_inner_texts()
        assert first.startswith("mixed: the systems differ in cache mode")
        assert all(other.startswith(tuple(map(str, unlike))) for other in others)
        page.locator("#charts").scroll_into_view_if_needed()
        page.wait_for_selector("#charts .js-plotly-plot .legendtext")
        names = page.locator("#charts .legend").first.text_content()
        assert all(run.name in names for run in unlike), "two runs of one machine have names of their own"
        assert "at 8 output tokens" in page.locator("#charts .xtitle").first.text_content()
        assert page.locator("#charts > p").count() == 0


def test_a_run_keeps_its_colour_in_charts_where_others_show_nothing(unlike: tuple[Path, Path], tmp_path: Path) -> None:
    done = joulebench("report", unlike[1], RUN, "--allow-mixed", "-o", tmp_path / "a.html")
    assert done.returncode == 0, done.stderr
    data = data_of(tmp_path / "a.html")
    places = {(series["name"], series["source"]) for chart in data["charts"] for series in chart["series"]}
    assert sorted(place for _, place in places) == [0, 1]
    energy = next(chart for chart in data["charts"] if chart["title"].startswith("total energy"))
    assert [series["source"] for series in energy["series"]] == [1], "the first run has no energy"


def test_absent_sweeps_are_named_with_the_option_that_shows_others(unlike: tuple[Path, Path], tmp_path: Path) -> None:
    done = joulebench("report", unlike[0], "--fixed-output", "5", "--fixed-input", "5", "-o", tmp_path / "a.html")
    assert done.returncode == 0, done.stderr
    with opened(tmp_path / "a.html") as page:
        said = page.locator("#charts > p").all_inner_texts()
        assert [re.search(r"--fixed-\w+", line)[0] for line in said] == ["--fixed-output", "--fixed-input"]


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
    one, two = next(chart for chart in data_of(page_file)["charts"] if "total energy" in chart["title"])["series"]
    assert one["y"] == two["y"]


def test_sizes_that_failed_are_shown_where_nothing_else_is(tmp_path: Path) -> None:
    options = ["-m", "fake:oom_above=3", "-p", "8-64*2", "-n", "8-64*2", "-o", tmp_path / "run"]
    assert joulebench(*FAKE, *options).returncode == 1
    assert joulebench("report", tmp_path / "run", "-o", tmp_path / "a.html").returncode == 0
    data = data_of(tmp_path / "a.html")
    assert data["absent"] == []
    assert {size for chart in data["charts"] for size, _ in chart["series"][0]["failures"]} == {8, 16, 32, 64}
    with opened(tmp_path / "a.html") as page:
        page.locator("#charts").scroll_into_view_if_needed()
        page.wait_for_selector("#charts .annotation-text")


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    assert "holds no run" in refused(joulebench("report", tmp_path, "-o", tmp_path / "a.html"))
    assert "is a directory" in refused(joulebench("report", RUN, "-o", tmp_path))
