"""The programs of docs/integrating.md give what joulebench gives, run as a reader would run them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.deciding.answers import RoutingAnswer, decide_routing, decide_threshold
from harness.deciding.exported_rule import save_rule
from harness.deciding.workload import Workload, from_pairs
from harness.modelling.tables import write_table
from tests.helpers import ROOT
from tests.profile_variants import SHIPPED, VARIANTS, variant

PAGE = (ROOT / "docs" / "integrating.md").read_text()
SMALL, LARGE = "m1-pro-llama-2-7b", "swing-a100-llama-2-7b"
RULES = ("input", "output", "total", "product", "regions", "latency", "capacity", "unknown outputs")
NAMES = [*SHIPPED, *VARIANTS]


def blocks(heading: str, language: str) -> list[str]:
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert found
    return found


COSTS, SERVES = "What a request costs", "Who serves a request"
DRIVERS = {
    "python": "cases = json.load(open('cases.json', encoding='utf-8'))\nprint(json.dumps([{} for case in cases]))",
    "js": "const cases = JSON.parse(readFileSync('cases.json', 'utf8'));"
    "console.log(JSON.stringify(cases.map((case_) => {})))",
}


def run_program(language: str, program: str, call: str, cases: list[Any], folder: Path) -> list[Any]:
    """What a program of the page, with a line that calls its function for each case, gives."""
    (folder / "cases.json").write_text(json.dumps(cases))
    file = folder / ("program.py" if language == "python" else "program.cjs")
    file.write_text(f"{program}\n{DRIVERS[language].format(call)}\n")
    node = shutil.which("node")
    if language == "js" and node is None:
        pytest.skip("Node is not installed")
    # -I: joulebench can't be imported from there.
    command = [sys.executable, "-I", file.name] if language == "python" else [str(node), file.name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    given: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return given


def sizes(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random sizes, with the shortest request among them."""
    m, n = np.random.default_rng(seed).integers(1, [[3000], [900]], (2, count))
    m[0] = n[0] = 1
    return m, n


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of every profile as JSON and as CSV."""
    folder = tmp_path_factory.mktemp("profiles")
    for name in NAMES:
        variant(name).save(folder / f"{name}.json")
        write_table(variant(name), folder / f"{name}.csv")
    shutil.copy(folder / f"{SMALL}.json", folder / "profile.json")
    return folder


@pytest.mark.parametrize("language", ["python", "js"])
def test_programs_cost_requests_as_we_do(language: str, profiles: Path) -> None:
    m, n = sizes(1, 25)
    models, expected = [], []
    for name in NAMES:
        profile, facts = variant(name), json.loads((profiles / f"{name}.json").read_text())
        quantities = {"runtime": facts["runtime"], "energy": facts["energy"]["model"]}
        quantities |= {component: part["model"] for component, part in facts["components"].items()}
        for quantity, model in quantities.items():
            boundary = None if quantity == "energy" else quantity
            ours = profile.runtime_s(m, n) if quantity == "runtime" else profile.energy_j(m, n, boundary)
            models += [[model, *size] for size in zip(m.tolist(), n.tolist(), strict=True)]
            expected += ours.tolist()
    (program,) = blocks(COSTS, language)
    call = "cost(*case)" if language == "python" else "cost(...case_)"
    assert run_program(language, program, call, models, profiles) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_query_costs_requests_as_we_do(name: str, profiles: Path, tmp_path: Path, monkeypatch) -> None:
    duckdb = pytest.importorskip("duckdb")
    monkeypatch.chdir(tmp_path)
    shutil.copy(profiles / f"{name}.csv", "profile.csv")
    m, n = sizes(2, 25)
    profile = variant(name)
    ours = {
        "runtime": profile.runtime_s(m, n),
        "energy": profile.energy_j(m, n),
        **{f"{part}_energy": profile.energy_j(m, n, part) for part in profile.components},
    }
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE requests (m BIGINT, n BIGINT)")
        connection.executemany("INSERT INTO requests VALUES (?, ?)", list(zip(m.tolist(), n.tolist(), strict=True)))
        rows = connection.execute(blocks(COSTS, "sql")[0]).fetchall()
    expected = {(m[i], n[i], quantity): costs[i] for quantity, costs in ours.items() for i in range(m.size)}
    given = {(row[0], row[1], row[2]): row[3] for row in rows}
    assert given.keys() == expected.keys()
    assert [given[key] for key in expected] == pytest.approx(list(expected.values()), rel=1e-9)


@pytest.fixture(scope="module")
def workload() -> Workload:
    """Long inputs have long outputs, so that a threshold on either lies inside."""
    rng = np.random.default_rng(4)
    m = rng.lognormal(3.0, 1.2, 3000).clip(1, 4000)
    n = (m * rng.lognormal(0.0, 0.5, 3000)).clip(1, 2000)
    return from_pairs("made up", "test", m.astype(int), n.astype(int))


@pytest.fixture(scope="module")
def decided(workload: Workload, tmp_path_factory: pytest.TempPathFactory):
    """The rule of each kind in a folder of its own, and what joulebench itself does with every size of the workload."""

    def decide(kind: str) -> tuple[Path, list[str | None]]:
        folder = tmp_path_factory.mktemp("rule")
        m, n = workload.input_tokens, workload.output_tokens
        if kind in ("input", "output", "total", "product"):
            answer = decide_threshold(SMALL, LARGE, workload, key=kind)
            save_rule(answer, folder / "rule.json")
            key = {"input": m, "output": n, "total": m + n, "product": m * n}[kind]
            return folder, [answer.costs.labels[int(above)] for above in key > answer.decision.threshold]
        options: dict[str, Any] = {
            "regions": {"weight": 0.8},
            "latency": {"slo_s": 10.0},
            "capacity": {"capacities": {"m1-pro": 300.0}},
            "unknown outputs": {"output_unknown": True},
        }[kind]
        answer = decide_routing([SMALL, LARGE], workload, **options)
        save_rule(answer, folder / "rule.json")
        return folder, _by_grid(answer, json.loads((folder / "rule.json").read_text()))

    return decide


def _by_grid(answer: RoutingAnswer, rule: dict[str, Any]) -> list[str | None]:
    """The system of each size, looked up one row after the other."""
    found = []
    for m, n in zip(answer.workload.input_tokens, answer.workload.output_tokens, strict=True):
        if rule["by_input"] is not None:
            rows = [row for row in rule["by_input"] if row["from_input_tokens"] <= m]
        else:
            region = [row for row in rule["regions"] if row["from_input_tokens"] <= m][-1]
            rows = [row for row in region["routes"] if row["from_output_tokens"] <= n]
        found.append(rows[-1]["system"])
    _agrees(answer, rule, found)
    return found


def _agrees(answer: RoutingAnswer, rule: dict[str, Any], found: list[str | None]) -> None:
    """What the rule says of its own agreement with the plan is what these look-ups give."""
    served = answer.decision.requests
    same = np.array([[name == label for name in found] for label in answer.costs.labels])
    energy = served * answer.costs.energy_j
    assert served[same].sum() / served.sum() == pytest.approx(rule["agreement"]["requests"], rel=1e-9)
    assert energy[same].sum() / energy.sum() == pytest.approx(rule["agreement"]["energy"], rel=1e-9)
    assert rule["agreement"]["energy"] > 0.9


@pytest.mark.parametrize("language", ["python", "js"])
@pytest.mark.parametrize("kind", RULES)
def test_programs_follow_a_rule_as_we_do(language: str, kind: str, decided, workload: Workload) -> None:
    folder, expected = decided(kind)
    assert len(set(expected)) > 1
    cases = np.stack([workload.input_tokens, workload.output_tokens], axis=1).tolist()
    (program,) = blocks(SERVES, language)
    call = "system(rule, *case)" if language == "python" else "system(rule, ...case_)"
    assert run_program(language, program, call, cases, folder) == expected


@pytest.mark.parametrize("kind", RULES)
def test_queries_follow_a_rule_as_we_do(kind: str, decided, workload: Workload, monkeypatch) -> None:
    duckdb = pytest.importorskip("duckdb")
    folder, expected = decided(kind)
    monkeypatch.chdir(folder)
    m, n = workload.input_tokens.tolist(), workload.output_tokens.tolist()
    threshold, least_cost = blocks(SERVES, "sql")
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE requests AS SELECT unnest($m) AS m, unnest($n) AS n", {"m": m, "n": n})
        query = threshold if kind in ("input", "output", "total", "product") else least_cost
        rows = connection.execute(query).fetchall()
    given = {(row[0], row[1]): row[2] for row in rows}
    assert len(rows) == len(m)
    assert [given[size] for size in zip(m, n, strict=True)] == expected


def test_the_page_names_only_fields_and_commands_that_there_are() -> None:
    from harness.deciding.rule_schema import rule_schema
    from harness.modelling.profile import json_schema
    from harness.modelling.tables import long_table

    known = {
        "schema_version",
        "requests",
        *long_table(variant("cached"))["table"],
        *long_table(variant("cached")).columns,
    }
    for schema in (rule_schema(), json_schema()):
        for definition in (schema, *schema["$defs"].values()):
            known |= definition.get("properties", {}).keys()
    named = set(re.findall(r"`([a-z]+(?:_[a-z0-9]+)+)`", PAGE))
    assert named <= known | {"gpu_energy", "least_cost", "at_most"}, named - known
