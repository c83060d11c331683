"""What the figure of power caps says in its title, and which sources belong together in one."""

import json

import pytest

from harness.modelling.profile import Profile
from harness.showing.caps_figures import capped, caps_figure
from harness.showing.drawn_systems import load_drawn
from harness.showing.panels import DrawnSystem, Options
from tests.helpers import ROOT

GOLDEN = ROOT / "tests" / "data" / "profile-schema-1.json"


def at_cap(cap: float, energy: float, folder, sd: float = 0.01, **identity: object) -> DrawnSystem:
    """The golden profile with all its energies scaled, at a cap; each runtime falls with the cap."""
    facts = json.loads(GOLDEN.read_text())
    facts["identity"] |= {"settings": {"power_limit_w": cap}, **identity}
    for measurement in facts["measurements"]:
        measurement["runtime_s"]["mean"] *= 300 / cap
        if measurement["energy_j"]:
            mean = energy * measurement["energy_j"]["mean"]
            measurement["energy_j"] |= {"mean": mean, "sd": sd * mean, "trials": 5, "ci95": None}
    Profile.parse(json.dumps(facts)).save(folder / f"{cap}.json")
    return load_drawn(str(folder / f"{cap}.json"))


def title(caps) -> str:
    return caps_figure(caps)._suptitle.get_text().replace("\n", " ").replace("\u00a0", " ")  # type: ignore[union-attr]


def test_a_saving_is_claimed_only_where_it_is_clear(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    full, lower = at_cap(300.0, 1.0, tmp_path), at_cap(200.0, 0.8, tmp_path)
    (caps,) = capped([full, lower], Options())
    assert [cap for cap, _, _ in caps.points] == [200.0, 300.0]
    assert title(caps) == "At 200 W a token costs 20 % less energy than at 300 W, at 67 % of the speed"
    (unclear,) = capped([full, at_cap(250.0, 0.99, tmp_path, sd=0.1)], Options())
    assert title(unclear) == "No lower power cap than 300 W clearly saves energy per token"


def test_only_what_differs_in_nothing_but_the_cap_belongs_together(tmp_path) -> None:
    full = at_cap(300.0, 1.0, tmp_path)
    assert not capped([full], Options())
    assert not capped([full, at_cap(200.0, 1.0, tmp_path, dtype="int8")], Options())
    assert not capped([full, load_drawn("m1-pro-llama-2-7b")], Options())
