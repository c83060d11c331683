"""``threshold`` and ``route`` at an arrival rate, by the command line: answers, figures, rules and refusals."""

import json
from pathlib import Path

import jsonschema
import pytest

from harness.deciding.followed_rule import read_rule
from harness.deciding.rule_schema import LeastCostRule, ThresholdRule
from tests.cli.test_rules import schema_of
from tests.deciding.rated import loaded_system
from tests.helpers import joulebench, refused

LOG = "timestamp,input_tokens,output_tokens\n" + "".join(
    f"{0.31 * i + 0.2 * (i % 7):.2f},{16 + 37 * i % 400},{16 + 53 * i % 200}\n" for i in range(400)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("rate")
    loaded_system("small", 4.0, 0.4, 8.0).save(where / "small.json")
    loaded_system("large", 1.0, 1.0, 60.0).save(where / "large.json")
    (where / "log.csv").write_text(LOG)
    return where


THRESHOLD = ("threshold", "small.json", "large.json", "-w", "log.csv", "--key", "output")
ROUTE = ("route", "small.json", "large.json", "-w", "log.csv")


def test_a_threshold_at_a_rate_is_told_drawn_and_exported(folder: Path) -> None:
    done = joulebench(*THRESHOLD, "--rate", "4/s", "--export", "rule.json", "-o", "curve", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("at 4.00/s requests of at most ")
    assert "Together they are saturated above " in done.stdout
    assert "TTFT s" in done.stdout
    assert {path.suffix for path in folder.glob("curve.*")} == {".pdf", ".svg", ".png", ".csv"}
    header, *rows = (folder / "curve.csv").read_text().splitlines()
    assert header.startswith("rate_per_s,energy_request_j,e2e_s,share_small,share_large,alone_small_request_j")
    assert rows[-1].endswith(",yes")
    rule = read_rule(folder / "rule.json")
    assert isinstance(rule, ThresholdRule)
    assert rule.at_rate is not None
    assert rule.at_rate.rate_per_s == 4.0
    assert rule.at_rate.systems["small"].concurrency > 1
    jsonschema.validate(json.loads((folder / "rule.json").read_text()), schema_of("rule"))


def test_the_json_of_a_threshold_at_a_rate(folder: Path) -> None:
    told = json.loads(joulebench(*THRESHOLD, "--rate", "240/min", "--json", cwd=folder).stdout)
    assert told["rate_per_s"] == pytest.approx(4.0)
    assert told["figures_from"] == "closed form"
    assert not told["saturated"]
    shares = [system["share"] for system in told["plan"]["systems"]]
    assert sum(shares) == pytest.approx(1.0)
    assert told["plan"]["power_w"] == pytest.approx(4 * told["plan"]["energy_request_j"])
    assert told["plan"]["energy_request_j"] == pytest.approx(told["simulated"]["energy_request_j"], rel=0.03)
    assert told["baselines"]["small"]["saturated"]
    assert told["baselines"]["small"]["energy_request_j"] is None
    assert "saturated" in told["baselines"]["small"]["reason"]
    assert [row["saturated"] for row in told["by_rate"]["curve"]][-1]
    assert told["best"]["saving"]["low"] < told["best"]["saving"]["value"] < told["best"]["saving"]["high"]


def test_above_the_capacity_saturated_is_said(folder: Path) -> None:
    for command in (THRESHOLD, ROUTE):
        done = joulebench(*command, "--rate", "100/s", cwd=folder)
        assert done.returncode == 0, done.stderr
        assert "at 100/s: saturated: these systems serve at most " in done.stdout
        told = json.loads(joulebench(*command, "--rate", "100/s", "--json", cwd=folder).stdout)
        assert told["saturated"]
        assert told["plan"] is None
    assert "no plan serves all" in refused(joulebench(*THRESHOLD, "--rate", "100/s", "--export", "r.json", cwd=folder))


def test_a_system_that_costs_less_and_is_too_slow_is_named(folder: Path) -> None:
    told = json.loads(joulebench(*THRESHOLD, "--rate", "30/min", "--json", cwd=folder).stdout)
    slow, fast = (told["baselines"][name] for name in ("small", "large"))
    assert slow["energy_request_j"] < fast["energy_request_j"]
    limit = 1.05 * fast["e2e_s"]
    assert limit < slow["e2e_s"]
    done = joulebench(*THRESHOLD, "--rate", "30/min", "--slo", limit, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert f"small alone costs less, but takes longer than {limit:g} s" in done.stdout
    assert "nothing costs less" not in done.stdout


def test_routes_at_the_times_of_a_trace(folder: Path) -> None:
    done = joulebench(*ROUTE, "--rate", "trace", "--json", "--export", "routes.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["arrivals"] == "trace"
    assert told["rate_per_s"] == pytest.approx(399 / 124.89, rel=0.02)
    assert told["burstiness"]["dispersion"] > 0
    rule = read_rule(folder / "routes.json")
    assert isinstance(rule, LeastCostRule)
    assert rule.at_rate is not None
    assert rule.agreement.requests > 0.9
    run = joulebench("simulate", "small.json", "large.json", "--rule", "routes.json", "-w", "log.csv", cwd=folder)
    assert run.returncode == 0, run.stderr


def test_rules_of_the_version_before_are_read(folder: Path) -> None:
    done = joulebench(*THRESHOLD, "--export", "now.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    facts = json.loads((folder / "now.json").read_text())
    assert facts.pop("at_rate") is None
    (folder / "before.json").write_text(json.dumps(facts | {"schema_version": 2}))
    assert read_rule(folder / "before.json") == read_rule(folder / "now.json")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ((*THRESHOLD, "--replicas", "small=2"), "--replicas is of decisions at a rate"),
        ((*THRESHOLD, "--off-when-idle"), "--off-when-idle is of decisions at a rate"),
        ((*THRESHOLD, "--rate", "fast"), "write requests per second as 2/s"),
        ((*THRESHOLD, "--rate", "1/s,2/s"), "a decision is at one rate"),
        ((*THRESHOLD, "--rate", "1/s", "--horizon", "60"), "--horizon can't be joined with --rate"),
        ((*THRESHOLD[:3], "--rate", "trace"), "--rate trace needs a log with arrival times"),
        ((*THRESHOLD, "--rate", "1/s", "--replicas", "none=2"), "no such system"),
        ((*ROUTE, "--rate", "1/s", "--share", "small=0.5"), "--share can't be joined with --rate"),
        ((*ROUTE, "--rate", "1/s", "--output-unknown"), "--output-unknown can't be joined with --rate"),
    ],
)
def test_what_cannot_be_asked_is_refused(folder: Path, command: tuple[str, ...], said: str) -> None:
    assert said in refused(joulebench(*command, cwd=folder))
