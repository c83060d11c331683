"""Exported rules: what they hold, and that the schemas say it."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from harness.modelling.profile import Profile
from tests.helpers import joulebench
from tests.profile_variants import SHIPPED, VARIANTS, variant

SMALL, LARGE = "m1-pro-llama-2-7b", "swing-a100-llama-2-7b"
ROUTE = ("route", "--profile", SMALL, "--profile", LARGE)
THRESHOLD = ("threshold", "--small", SMALL, "--large", LARGE)
RULES = {
    "threshold": (*THRESHOLD, "--key", "output"),
    "regions": (*ROUTE, "--weight", "0.7"),
    "latency": (*ROUTE, "--slo", "5"),
    "capacity": (*ROUTE, "--capacity", "m1-pro=3600"),
    "unknown outputs": (*ROUTE, "--output-unknown"),
    "price": (*ROUTE, "--scale", "price", "--price-per-kwh", "0.3", "--price-per-hour", "0.1"),
    "mixed": ("threshold", "--small", SMALL, "--large", "swing-a100-falcon-7b", "--allow-mixed"),
}


def schema_of(kind: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(joulebench(kind, "schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    return schema


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory):
    """(the rule, the answer as JSON) of each kind."""
    folder = tmp_path_factory.mktemp("rules")

    def export(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
        path: Path = folder / f"{kind}.json"
        done = joulebench(*RULES[kind], "-w", "alpaca", "--json", "--export", path)
        assert done.returncode == 0, done.stderr
        return json.loads(path.read_text()), json.loads(done.stdout)

    return export


@pytest.mark.parametrize("kind", RULES)
def test_every_rule_follows_the_schema_and_says_what_the_answer_says(kind: str, exported) -> None:
    """It named two things ``boundary`` and had no schema, no range, no saving and no workload."""
    rule, answer = exported(kind)
    jsonschema.validate(rule, schema_of("rule"), jsonschema.Draft202012Validator)
    assert rule["schema_version"] == 3
    assert "boundary" not in rule
    assert rule["energy_boundary"] == answer["boundary"]
    assert rule["mixed"] == (kind == "mixed")
    found = answer.get("best", answer)
    for name, said in (("energy", "saving"), ("cost", "cost_saving")):
        assert rule["saving"][name] == {end: found[said][end] for end in ("value", "low", "high")}
    assert rule["saving"]["runtime_ratio"]["high"] == found["runtime_ratio_high"]
    assert rule["saving"]["against"] == answer.get("compared_with", answer.get("large"))
    assert (rule["workload"]["name"], rule["workload"]["requests"]) == ("alpaca", answer["workload"]["requests"])
    assert rule["cost"]["weight"] == {"regions": 0.7, "price": None}.get(kind, 1.0)
    for system in rule["systems"].values():
        measured = Profile.load(system["profile"]).runtime.range
        assert system["range"] == measured.model_dump(mode="json", exclude={"points"})
    assert ("regions" in rule and rule["regions"] is None) == (kind == "unknown outputs")


def test_the_schema_refuses_what_is_no_rule(exported) -> None:
    rule, _ = exported("threshold")
    schema = schema_of("rule")
    for change in ({"threshold": -1}, {"rule": "least_cost"}, {"schema_version": 1}, {"more": 1}, {"systems": {}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(rule | change, schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("name", [*SHIPPED, *VARIANTS])
def test_profiles_follow_their_schema(name: str) -> None:
    jsonschema.validate(json.loads(variant(name).dump()), schema_of("profiles"), jsonschema.Draft202012Validator)


@pytest.mark.parametrize("kind", ["rule", "profiles"])
def test_the_schemas_describe_every_field(kind: str) -> None:
    schema = schema_of(kind)
    described = {
        f"{part}.{field}": "description" in facts
        for part, definition in {kind: schema, **schema["$defs"]}.items()
        for field, facts in definition.get("properties", {}).items()
    }
    assert len(described) > 30
    assert not [field for field, has in described.items() if not has]
