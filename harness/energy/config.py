"""How energy is read: the options of a run that concern its power sources."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from harness.core.errors import UserError
from harness.core.validation import validated
from harness.energy import probes
from harness.energy.calibration import parse_calibration
from harness.energy.probes.base import Attribution
from harness.energy.readings import AS_IT_STANDS, Calibration


@dataclass(frozen=True)
class EnergyConfig:
    """Every field has a default: an option that an earlier program did not have was at it."""

    __pydantic_config__: ClassVar[dict[str, bool]] = AS_IT_STANDS

    probes: str = "auto"
    """``auto``, ``none``, or names of probes joined by commas."""
    rate_hz: Annotated[float, Ge(0.1), Le(1000.0)] = 20.0
    """Readings per second and power source."""
    cpu_watts: Annotated[float, Ge(0.001)] | None = None
    """Declared power of the whole CPU under full load, in W, for the estimate; None for an assumption."""
    attribution: Attribution = "system"
    """Whether CPU energy is the worker's share or the whole machine's, where the source can tell."""
    calibration: tuple[str, ...] = ()
    """``DOMAIN=gain,offset_w`` entries and names of TOML files."""
    max_foreign_load: Annotated[float, Ge(0.0), Le(1.0)] | None = 0.1
    """Share of all processors that other programs may take during a trial before it is disturbed; None for any."""

    sensor_check: Literal["auto", "off", "again"] = "auto"
    """Whether the timing of sensors is measured by a load before the run: once on a machine, never, or once more."""

    meter_url: str | None = None
    """Where ``joulebench meter --listen`` of the machine that computes is, in place of this machine's power sources."""
    meter_token_env: str | None = None
    """Name of the environment variable that holds that meter's token; the token itself is never stored."""

    @property
    def sources(self) -> str:
        """The power sources to open: ``probes``, or the meter elsewhere that stands in their place."""
        return f"remote:{self.meter_url}" if self.meter_url and self.probes == "auto" else self.probes

    @cached_property
    def calibrations(self) -> dict[str, Calibration]:
        """By domain, read once; if all that can be refused before a power source is opened is right, else UserError."""
        validated(EnergyConfig, asdict(self))
        if self.meter_url and self.probes not in ("auto", "none"):
            raise UserError(f"--meter-url reads another machine's power, --probes {self.probes} this one's: give one")
        if self.sources not in ("auto", "none"):
            for name in self.sources.split(","):
                probes.create(name.strip())
        return parse_calibration(self.calibration)
