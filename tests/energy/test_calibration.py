"""Calibrations as users state them."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.errors import UserError
from harness.energy.calibration import parse_calibration
from harness.energy.readings import Calibration


def test_entries_and_files(tmp_path: Path) -> None:
    file = tmp_path / "meter.toml"
    file.write_text("[cpu-package-0]\ngain = 1\noffset_w = -2.5\n")
    found = parse_calibration(["gpu0-counter=1.048,1.26", str(file)])
    assert found == {"gpu0-counter": Calibration(1.048, 1.26), "cpu-package-0": Calibration(1.0, -2.5)}


@pytest.mark.parametrize("entry", ["gpu0=1", "gpu0=a,b", "=1,2", "gpu0=0,1", "gpu0=nan,1", "gpu0=1,inf", "absent.toml"])
def test_wrong_entries_are_refused(entry: str) -> None:
    with pytest.raises(UserError):
        parse_calibration([entry])


@pytest.mark.parametrize(
    "text",
    [
        "[gpu0]\ngain = 1\n",
        "[gpu0\n",
        "gpu0 = 1\n",
        "[gpu0]\ngain = 'x'\noffset_w = 1\n",
        "[gpu0]\ngain=1\noffset_w=0\nz=1",
    ],
)
def test_wrong_files_are_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "meter.toml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"meter\.toml"):
        parse_calibration([str(file)])


def test_a_domain_calibrated_twice_is_refused() -> None:
    with pytest.raises(UserError, match="twice"):
        parse_calibration(["a=1,0", "a=1,1"])
