"""The commands threshold, route and workload, through the command line."""

import csv
import json
import re
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from harness.cli import main
from harness.deciding.trace_files import load_workload
from harness.deciding.uncertainty import Interval
from harness.modelling.profile import Profile
from harness.showing.decisions import ratio_words
from tests.helpers import ROOT

SMALL, LARGE = "m1-pro-llama-2-7b", "swing-a100-llama-2-7b"
RUN = ROOT / "tests" / "data" / "run-first"
PAIR = ["--small", SMALL, "--large", LARGE]
BOTH = ["--profile", SMALL, "--profile", LARGE]


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs joulebench in this process; returns exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["joulebench", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return call


@pytest.fixture
def answer(run):
    """Runs a command with --json."""

    def call(*arguments: object) -> dict:
        code, out, err = run(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return call


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """5,000 requests whose outputs are short enough for the small system to pay."""
    rng = np.random.default_rng(0)
    path = tmp_path / "trace.csv"
    m = np.clip(rng.lognormal(3.5, 1.0, 5000), 1, 1500).astype(int)
    n = np.clip(rng.lognormal(3.0, 0.8, 5000), 1, 400).astype(int)
    rows = "".join(f"2023-11-16 18:15:46.6805900,{a},{b}\n" for a, b in zip(m, n, strict=True))
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    return path


@pytest.mark.parametrize("key", ["input", "output", "total", "product"])
def test_the_threshold_is_the_least_of_all(answer, trace: Path, key: str) -> None:
    facts = answer("threshold", *PAIR, "-w", trace, "--key", key)
    w = load_workload(str(trace))
    m, n, count = w.input_tokens, w.output_tokens, w.count
    keys = {"input": m, "output": n, "total": m + n, "product": m * n}[key]
    small, large = (Profile.load(name).energy_j(m, n) for name in (SMALL, LARGE))
    totals = {t: float(count @ np.where(keys <= t, small, large)) for t in [0, *np.unique(keys).tolist()]}
    best = facts["best"]
    assert totals[best["threshold"]] == pytest.approx(min(totals.values()))
    assert best["energy_j"] == pytest.approx(min(totals.values()))
    assert best["saving"]["low"] <= best["saving"]["value"] <= best["saving"]["high"]
    assert best["saving"]["value"] == pytest.approx(1 - min(totals.values()) / totals[0])
    assert best["plateau"][0] <= best["threshold"] <= best["plateau"][1]
    assert all(point["energy_j"] == pytest.approx(totals[point["threshold"]]) for point in facts["curve"])
    assert facts["baselines"]["oracle"]["energy_j"] <= best["energy_j"] * (1 + 1e-12)
    assert facts["baselines"]["swing-a100"]["energy_j"] == pytest.approx(totals[0])


def test_the_answer_comes_first_in_words(run, trace: Path) -> None:
    code, out, _ = run("threshold", *PAIR, "-w", trace, "--output-tokens", 16)
    assert code == 0
    assert re.match(
        r"requests of at most \d+ input tokens to m1-pro: \d+ % ± \d+ % less energy than swing-a100 alone, "
        r"mean runtime \d+\.\d× \(\d+\.\d–\d+\.\d×\)\n",
        out,
    )
    assert "energy of cpu+gpu, idle power included" in out
    assert "measured by different methods" in out


def test_the_published_setting_saves_and_the_real_one_does_not(answer, run, tmp_path: Path) -> None:
    """Every output 32 tokens: a saving at ten times the runtime, if the meters are good. Real outputs: no input
    threshold pays."""
    frozen = answer("threshold", *PAIR, "-w", "alpaca", "--output-tokens", 32)["best"]
    paths = []
    for name in (SMALL, LARGE):
        data = json.loads(Profile.load(name).dump())
        data["energy"]["gain_ci95"] = 0.01
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(data))
    calibrated = answer("threshold", *paths, "-w", "alpaca", "--output-tokens", 32)["best"]
    assert calibrated["saving"]["significant"]
    assert calibrated["saving"]["value"] == frozen["saving"]["value"]
    assert frozen["saving"]["low"] < 0.05
    assert 0.1 < frozen["saving"]["value"] < 0.35
    assert 8 < frozen["runtime_ratio"] < 13
    real = answer("threshold", *PAIR, "-w", "alpaca")
    assert not real["best"]["saving"]["significant"]
    assert not real["workload"]["pairs_known"]
    assert real["baselines"]["oracle"]["energy_j"] > 0.98 * real["baselines"]["swing-a100"]["energy_j"]
    _, out, _ = run("threshold", *PAIR, "-w", "alpaca")
    assert out.startswith("all requests to swing-a100: no threshold costs less")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["threshold", *PAIR, "-w", "nothing.csv"], "neither a built-in"),
        (["threshold", "--small", SMALL, "--large", "nobody", "-w", "alpaca"], "no profile 'nobody'"),
        (["threshold", "--small", SMALL, "--large", "swing-a100-mistral-7b", "-w", "alpaca"], "--allow-mixed"),
        (["threshold", *PAIR, "-w", "alpaca", "--idle", "subtracted"], "--idle included"),
        (["threshold", *PAIR, "-w", "alpaca", "--boundary", "dram"], "cpu+gpu"),
        (["threshold", *PAIR, "-w", "alpaca", "--scale", "price"], "--price-per-kwh"),
        (["threshold", *PAIR, "-w", "alpaca", "--price-per-kwh", "1"], "--scale price"),
        (["threshold", *PAIR, "-w", "alpaca", "--scale", "price", "--price-per-kwh", "0"], "prices"),
        (["threshold", *PAIR, "-w", "alpaca", "--scale", "price", "--weight", "0.5"], "--weight"),
        (["threshold", *PAIR, "-w", "alpaca", "--weight", "2"], "--weight"),
        (["threshold", *PAIR, "-w", "alpaca", "--weight", "nan"], "--weight"),
        (["threshold", *PAIR, "-w", "alpaca", "--reference", "v100"], "no system v100"),
        (["route", "--profile", SMALL, "-w", "alpaca"], "two profiles"),
        (["route", *BOTH, "-w", "alpaca", "--share", "m1-pro"], "SYSTEM=NUMBER"),
        (["route", *BOTH, "-w", "alpaca", "--share", "m1-pro=nan"], "SYSTEM=NUMBER"),
        (["route", *BOTH, "-w", "alpaca", "--share", "m1-pro=1.5"], "between 0 and 1"),
        (["route", *BOTH, "-w", "alpaca", "--share", "v100=0.5"], "no system v100"),
        (["route", *BOTH, "-w", "alpaca", "--share", "m1-pro=0.1", "--share", "m1-pro=0.2"], "one --share"),
        (["route", *BOTH, "-w", "alpaca", "--share", "m1-pro=0.1", "--share", "swing-a100=0.2"], "no assignment"),
        (["route", *BOTH, "-w", "alpaca", "--capacity", "m1-pro=1", "--capacity", "swing-a100=1"], "no assignment"),
        (["route", *BOTH, "-w", "alpaca", "--slo", "0.000001"], "no system serves"),
        (["route", *BOTH, "-w", "alpaca", "--output-unknown", "--slo", "9"], "--output-unknown"),
        (["route", *BOTH, "-w", "alpaca", "--slo", "inf"], "--slo must be a number of at most"),
        (["route", *BOTH, "-w", "alpaca", "--capacity", "m1-pro=inf"], "SYSTEM=NUMBER"),
        *(
            (["threshold", *PAIR, "-w", "alpaca", option, value, "--json"], f"{option} must be a number of at most")
            for option, value in (
                ["--horizon", "inf"],
                ["--horizon", "1e308"],
                ["--price-per-kwh", "inf"],
                ["--price-per-hour", "inf"],
            )
        ),
        (["threshold", "--small", SMALL, "--large", SMALL, "-w", "alpaca"], f"both the profile {SMALL}"),
        (["route", *BOTH, "--profile", LARGE, "-w", "alpaca"], f"both the profile {LARGE}"),
        (["workload", "show", "nothing"], "built-in"),
        (["workload", "show", "/dev/null"], "not a regular file"),
        (["workload", "show", "alpaca", "-o", "figure.xyz"], ".pdf, .svg, .png, .csv"),
    ],
)
def test_bad_input_ends_in_one_line(run, arguments: list[str], expected: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("joulebench: error: ")
    assert err.count("\n") == 1
    assert expected in err


def test_mixed_comparisons_are_marked(run, answer) -> None:
    mixed = ["threshold", "--small", SMALL, "--large", "swing-a100-mistral-7b", "-w", "alpaca", "--allow-mixed"]
    assert answer(*mixed)["mixed"]
    assert run(*mixed)[1].startswith("NOT COMPARABLE (--allow-mixed): different models\n")


def test_boundary_and_idle_are_said(answer, trace: Path, tmp_path: Path) -> None:
    """Hand-made idle powers: above idle and fleet energies follow from energy, busy time and horizon."""
    paths = []
    for name, watts in ((SMALL, 5.0), (LARGE, 80.0)):
        data = json.loads(Profile.load(name).dump())
        data["energy"].update(idle_power_w=watts, idle_power_ci95_w=0.1)
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(data))
    arguments = ["route", "--profile", paths[0], "--profile", paths[1], "-w", trace]
    facts = answer(*arguments, "--horizon", 1e6)
    busy = [row["busy_s"] for row in facts["routes"]]
    plan = facts["plan"]
    assert plan["marginal_energy_j"] == pytest.approx(plan["energy_j"] - 5 * busy[0] - 80 * busy[1])
    assert plan["fleet_energy_j"] == pytest.approx(plan["marginal_energy_j"] + 85 * 1e6)
    large = facts["baselines"]["swing-a100"]
    assert large["fleet_energy_j"] == pytest.approx(large["marginal_energy_j"] + 80 * 1e6)
    net = answer(*arguments, "--idle", "subtracted")
    assert net["idle"] == "subtracted"
    assert net["plan"]["energy_j"] == pytest.approx(net["plan"]["marginal_energy_j"])
    assert net["baselines"]["m1-pro"]["marginal_energy_j"] == pytest.approx(
        facts["baselines"]["m1-pro"]["marginal_energy_j"]
    )
    assert answer("route", *BOTH, "-w", trace, "--boundary", "gpu")["boundary"] == "gpu"


def test_unknown_idle_power_is_null_with_its_reason(answer, trace: Path) -> None:
    plan = answer("route", *BOTH, "-w", trace)["plan"]
    assert plan["fleet_energy_j"] is None
    assert plan["reason"].startswith(f"idle power of {SMALL} and {LARGE} was not measured, so")


def test_weights_and_prices_move_the_answer(answer, trace: Path) -> None:
    energy = answer("route", *BOTH, "-w", trace, "--weight-sweep")
    runtime = answer("route", *BOTH, "-w", trace, "--weight", 0)
    raw = answer("route", *BOTH, "-w", trace, "--scale", "none", "--weight", 0.5)
    price = answer("route", *BOTH, "-w", trace, "--scale", "price", "--price-per-hour", 1)
    assert energy["plan"]["energy_j"] < raw["plan"]["energy_j"] < runtime["plan"]["energy_j"]
    assert price["plan"]["runtime_s"] == pytest.approx(runtime["plan"]["runtime_s"])
    sweep = energy["weight_sweep"]
    assert sweep[-1]["energy_j"] == pytest.approx(energy["plan"]["energy_j"])
    assert sweep[0]["runtime_s"] == pytest.approx(runtime["plan"]["runtime_s"])
    assert all(a["energy_j"] >= b["energy_j"] * (1 - 1e-12) for a, b in pairwise(sweep))
    assert energy["scale"]["energy_reference_j"] > 0


def test_a_sweep_of_weights_has_no_prices(run, trace: Path) -> None:
    options = ["--weight-sweep", "--scale", "price", "--price-per-kwh", 1]
    code, _, err = run("route", *BOTH, "-w", trace, *options)
    assert code == 2
    assert "leave out --scale" in err


def test_every_total_has_its_interval(answer, trace: Path) -> None:
    facts = answer("route", *BOTH, "-w", trace)
    for plan in (facts["plan"], *facts["baselines"].values()):
        assert 0 < plan["energy_ci95_j"] < plan["energy_j"]
        assert 0 < plan["runtime_ci95_s"] < plan["runtime_s"]
    used = [route for route in facts["routes"] if route["requests"]]
    # Systems err independently of each other.
    total = sum(route["energy_ci95_j"] ** 2 for route in used) ** 0.5
    # Of a sum more degrees of freedom are known than of its parts.
    assert 0.9 * total < facts["plan"]["energy_ci95_j"] <= total


def test_shares_and_capacities_are_kept(answer, trace: Path) -> None:
    shared = answer("route", *BOTH, "-w", trace, "--share", "m1-pro=0.05")
    assert [row["requests"] for row in shared["routes"]] == [250, 4750]
    assert shared["whole_requests"]
    limited = answer("route", *BOTH, "-w", trace, "--capacity", f"{SMALL}=2000")
    free = answer("route", *BOTH, "-w", trace)
    assert limited["routes"][0]["busy_s"] <= 2000 < free["routes"][0]["busy_s"]
    assert limited["limits"][0]["price"] > 0
    assert free["plan"]["energy_j"] < limited["plan"]["energy_j"] < limited["baselines"]["swing-a100"]["energy_j"]


def test_a_plan_for_one_system_splits_nothing(run) -> None:
    code, out, err = run("route", SMALL, LARGE, "--share", "m1-pro=0")
    assert code == 0, err
    assert out.startswith("all requests to swing-a100")
    assert "parts of requests" not in out
    assert "no mix of systems within the limits costs less" in out.splitlines()[0]


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        ((1.65, 1.55, 1.79), "1.65× (1.55–1.79×)"),
        ((1e-4, 9e-5, 1.2e-4), "0.00010× (0.00009–0.00012×)"),
        ((1e-4, 1e-9, 1.87e6), "0.00010× (0.0000000010–1,870,000×)"),
    ],
)
def test_ratios_show_their_digits(ratio: tuple[float, float, float], words: str) -> None:
    """The last was "0.0001× (0.0000–1,871,493.3144×)"."""
    assert ratio_words(Interval(*ratio)) == words


def test_a_run_that_cannot_be_fitted_is_named(run, tmp_path: Path) -> None:
    short = Path(shutil.copytree(RUN, tmp_path / "short"))
    lines = (short / "trials.jsonl").read_text().splitlines(keepends=True)
    (short / "trials.jsonl").write_text("".join(lines[:4]))
    code, _, err = run("compare", RUN, short)
    assert code == 2
    assert f"{short}: runtime: 1 point can't tell" in err


def test_requests_that_nobody_serves_in_time_are_counted(answer, run, trace: Path) -> None:
    facts = answer("route", *BOTH, "-w", trace, "--slo", 2)
    w = load_workload(str(trace))
    runtime = np.stack([Profile.load(name).runtime_s(w.input_tokens, w.output_tokens) for name in (SMALL, LARGE)])
    assert facts["unserved_requests"] == w.count[(runtime > 2).all(axis=0)].sum() > 0
    assert sum(row["requests"] for row in facts["routes"]) + facts["unserved_requests"] == 5000
    assert "served by no system in time" in run("route", *BOTH, "-w", trace, "--slo", 2)[1]


def rule_choice(rule: dict, m: int, n: int) -> str | None:
    """What a scheduler does with the exported rule."""
    row = [r for r in rule["regions"] if r["from_input_tokens"] <= m][-1]
    return [r for r in row["routes"] if r["from_output_tokens"] <= n][-1]["system"]


@pytest.mark.parametrize("limits", [[], ["--capacity", "m1-pro=2000"], ["--slo", "5"]])
def test_an_exported_rule_routes_like_the_command(answer, trace: Path, tmp_path: Path, limits: list[str]) -> None:
    """Request by request, against argmin of the profiles' energies with the plan's price and latency limit."""
    path = tmp_path / "rule.json"
    facts = answer("route", *BOTH, "-w", trace, "--scale", "none", "--export", path, *limits)
    rule = json.loads(path.read_text())
    w = load_workload(str(trace))
    profiles = [Profile.load(SMALL), Profile.load(LARGE)]
    energy, runtime = (
        np.stack([getattr(p, name)(w.input_tokens, w.output_tokens) for p in profiles])
        for name in ("energy_j", "runtime_s")
    )
    cost = energy.copy()
    for limit in facts["limits"]:
        cost[0] += limit["price"] * runtime[0]
    if "--slo" in limits:
        cost[runtime > 5] = np.inf
    wanted = np.where(np.isinf(cost).all(axis=0), -1, cost.argmin(axis=0))
    names = {"m1-pro": 0, "swing-a100": 1, None: -1}
    sizes = zip(w.input_tokens.tolist(), w.output_tokens.tolist(), strict=True)
    got = np.array([names[rule_choice(rule, m, n)] for m, n in sizes])
    assert set(wanted) == set(got)
    assert w.count[got == wanted].sum() >= 0.98 * w.requests
    assert 0.98 <= rule["agreement"]["requests"] <= 1
    assert 0.98 <= rule["agreement"]["energy"] <= 1
    assert rule["regions"][0]["from_input_tokens"] == 1
    assert {label: system["profile"] for label, system in rule["systems"].items()} == {
        "m1-pro": SMALL,
        "swing-a100": LARGE,
    }


def test_a_rule_without_output_lengths(answer, trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "rule.json"
    facts = answer("route", *BOTH, "-w", trace, "--output-unknown", "--export", path)
    informed = answer("route", *BOTH, "-w", trace)
    threshold = answer("threshold", *PAIR, "-w", trace)
    rule = json.loads(path.read_text())
    routes = rule["by_input"]
    assert routes[0]["from_input_tokens"] == 1
    assert rule["agreement"]["requests"] > 0.9
    assert {row["system"] for row in routes} == {"m1-pro", "swing-a100"}
    assert informed["plan"]["energy_j"] <= facts["plan"]["energy_j"]
    assert facts["plan"]["energy_j"] == pytest.approx(threshold["best"]["energy_j"], rel=0.01)


def test_a_threshold_rule(run, trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "rule.json"
    code, out, _ = run("threshold", *PAIR, "-w", trace, "--key", "total", "--export", path)
    rule = json.loads(path.read_text())
    assert code == 0
    assert (rule["key"], rule["at_most"], rule["above"]) == ("total", "m1-pro", "swing-a100")
    assert f"at most {rule['threshold']} tokens in all" in out


@pytest.mark.parametrize(
    ("arguments", "columns"),
    [
        (["threshold", *PAIR], 9),
        (["route", *BOTH], 5),
    ],
)
def test_figures_come_with_their_numbers(run, tmp_path: Path, arguments: list[str], columns: int) -> None:
    code, out, err = run(*arguments, "-w", "alpaca", "-o", tmp_path / "figure.png")
    assert code == 0, err
    files = {path.suffix: path for path in tmp_path.iterdir()}
    assert set(files) == {".pdf", ".svg", ".png", ".csv"}
    with files[".csv"].open() as file:
        rows = list(csv.reader(file))
    assert all(len(row) == columns for row in rows)
    assert len(rows) > 5
    assert str(files[".pdf"]) in out


def test_an_output_that_cannot_be_written(run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, expected in (
        (tmp_path / "file" / "figure", "can't write"),
        (tmp_path / "new" / "figure", "No such file or directory"),
        (tmp_path, "is a directory"),
    ):
        code, _, err = run("workload", "show", "alpaca", "-o", path)
        assert code == 2
        assert expected in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    for path in (tmp_path / "new" / "rule.json", tmp_path):
        code, _, err = run("threshold", *PAIR, "-w", "alpaca", "--export", path)
        assert code == 2
        assert "can't write" in err


def test_a_name_promises_no_other_format(run, tmp_path: Path) -> None:
    for ending, arguments in (
        (".json", ["threshold", SMALL, LARGE, "--export", tmp_path / "rule.csv"]),
        (".json", ["fit", RUN, "-o", tmp_path / "first.csv"]),
        (".html", ["report", RUN, "-o", tmp_path / "report.pdf"]),
    ):
        code, _, err = run(*arguments)
        assert code == 2
        assert f"end its name in {ending}" in err
    assert not list(tmp_path.iterdir())


def test_two_files_of_one_profile_name_are_ambiguous(run, tmp_path: Path) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, system in zip(paths, ("one", "two"), strict=True):
        data = json.loads(Profile.load(SMALL).dump())
        data["identity"]["system"] = system
        path.write_text(json.dumps(data))
    code, _, err = run("route", *paths, "-w", "alpaca", "--share", f"{SMALL}=0.5")
    assert code == 2
    assert f"{SMALL} names 2 systems: choose among one, two" in err
    assert run("route", *paths, "-w", "alpaca", "--share", f"{paths[0]}=0.5")[0] == 0


def test_plain_arguments_say_what_the_options_of_earlier_releases_do(answer, run) -> None:
    plain, named = answer("threshold", SMALL, LARGE), answer("threshold", *PAIR, "-w", "alpaca")
    assert plain == named
    assert plain["small"] == "m1-pro"
    assert answer("route", SMALL, LARGE) == answer("route", *BOTH, "-w", "alpaca")
    assert "\nworkload alpaca, 52,002 requests; " in run("threshold", SMALL, LARGE)[1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["threshold"], "joulebench threshold SMALL LARGE"),
        (["threshold", SMALL], "joulebench threshold SMALL LARGE"),
        (["threshold", SMALL, "--large", LARGE], "joulebench threshold SMALL LARGE"),
        (["threshold", SMALL, LARGE, SMALL], "joulebench route A B C"),
        (["route"], "joulebench route A B"),
        (["threshold", "", LARGE], "name is empty"),
    ],
)
def test_missing_systems_say_what_to_type(run, arguments: list[str], expected: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert expected in err


def test_runs_decide_as_their_profiles_do(answer, run, tmp_path: Path) -> None:
    first, second = RUN, Path(shutil.copytree(RUN, tmp_path / "second"))
    facts = json.loads((second / "run.json").read_text())
    facts["backend"]["name"] = "llama-cpp"
    (second / "run.json").write_text(json.dumps(facts))
    decided = answer("threshold", first, second, "--output-tokens", 16)
    assert [line.split(":")[0] for line in decided["fitted"]] == [f"fitted {first}", f"fitted {second}"]
    system = "Intel Xeon Processor"
    assert decided["systems"] == [f"{system} (transformers)", f"{system} (llama-cpp)"]
    _, out, err = run("threshold", first, second, "--output-tokens", 16)
    assert err.count("held-out error") == 2
    assert "held-out error" not in out
    # One system in two runs: no name can tell them apart, so numbers do, and it is said.
    facts["backend"]["name"], facts["plan"]["seed"] = "transformers", 1
    (second / "run.json").write_text(json.dumps(facts))
    alike = answer("route", first, second, "--output-tokens", 16)
    assert alike["systems"] == [f"{system} #1", f"{system} #2"]
    assert any("are alike in everything recorded" in warning for warning in alike["warnings"])


def test_showing_a_workload(answer, run, trace: Path) -> None:
    facts = answer("workload", "show", trace)
    assert facts["requests"] == 5000
    assert facts["tokens"]["input"]["quantiles"]["0.5"] == pytest.approx(33, abs=2)
    code, out, _ = run("workload", "show", trace)
    assert code == 0
    assert out.startswith("trace.csv: 5,000 requests\n")
    assert "█" in out


def test_building_a_workload_and_using_it(run, answer, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.save(str(tmp_path / "tokenizer.json"))
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"q": "w " * m, "a": "w " * n}) + "\n" for m, n in ((9, 8), (40, 30), (9, 8))))
    fields = ["--input-field", "q", "--output-field", "a", "--tokenizer", tmp_path / "tokenizer.json"]
    code, _, err = run("workload", "build", "--text", texts, *fields, "-o", tmp_path / "w.json")
    assert code == 0, err
    facts = answer("threshold", *PAIR, "-w", tmp_path / "w.json")
    assert facts["workload"]["requests"] == 3
    assert [point["threshold"] for point in facts["curve"]] == [0, 9, 40]
