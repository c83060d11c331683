"""How power sources are found: by their lines in ``PROBES``, and by the entry points of other packages."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core.errors import UserError
from harness.energy import probes
from harness.energy.config import EnergyConfig
from harness.energy.meter import Meter
from harness.energy.probes.base import ProbeContext
from tests.helpers import imported_by, install_guest

GUEST = """
from harness.energy.probes import fake

def create(option):
    return fake.create(option and f"busy_w={option}")
"""


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    install_guest(tmp_path, probes.GROUP, "guest_sensor", GUEST)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "guest"
    sys.modules.pop("guest_sensor", None)


def test_a_probe_of_another_package_is_named_without_being_imported(guest: str) -> None:
    assert guest in probes.names()
    assert set(probes.PROBES) < set(probes.names())
    assert "guest_sensor" not in sys.modules


def test_a_probe_of_another_package_is_read_by_the_meter(guest: str) -> None:
    with Meter.open(EnergyConfig(guest), ProbeContext(device="cpu")) as meter:
        assert meter.describe().components


def test_a_probe_whose_package_is_broken_takes_no_other_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_guest(tmp_path, probes.GROUP, "broken_sensor", "import a_module_that_nobody_has")
    monkeypatch.syspath_prepend(str(tmp_path))
    with Meter.open(EnergyConfig("auto")) as meter:
        reasons = {left.probe: left.reason for left in meter.describe().left_out}
    assert "a_module_that_nobody_has" in reasons["guest"]
    with pytest.raises(UserError, match=r"probe guest does not work here: .*a_module_that_nobody_has.*uninstall"):
        Meter.open(EnergyConfig("guest"))


def test_a_probe_of_another_package_takes_its_option(guest: str) -> None:
    probes.create(f"{guest}:120")
    with pytest.raises(UserError, match="many"):
        probes.create(f"{guest}:many")


def test_a_refusal_names_probes_of_other_packages_too(guest: str) -> None:
    with pytest.raises(UserError, match="choose from amd, battery, command, estimate, fake, guest, hwmon"):
        probes.create("watts")


def test_without_the_package_there_is_no_such_probe() -> None:
    assert "guest" not in probes.names()


def test_names_import_no_probe() -> None:
    code = "from harness.energy import probes; assert probes.names()"
    assert imported_by(code, "harness.energy.probes") == {"base"}
