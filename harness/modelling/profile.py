"""The profile of one system: its cost models, the measurements behind them and where they came from.

    import joulebench as jb

    profile = jb.Profile.load("m1-pro-llama-2-7b")
    profile.energy_j(128, 256)     # joules of a request of 128 input and 256 output tokens
    profile.runtime_s(m, n)        # seconds; m and n may be arrays of millions of sizes

A profile is a JSON file that holds numbers and names only; nothing in it is executed. ``joulebench profiles
schema`` prints its JSON schema; docs/profiles.md has the formula that a reader in any language needs.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, ValidationError, model_validator

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.core.files import refuse_other_format, write_atomically
from harness.core.quantities import Component, Facts, Method, parse_boundary, weakest
from harness.modelling.cost_function import CostFunction, Prediction
from harness.modelling.doubt import REQUEST
from harness.modelling.engines import REMEDY, engine_of_one, engine_under_load
from harness.modelling.forms import form_named
from harness.modelling.forms.base import Part
from harness.modelling.load_schema import UnderLoad, energy_at
from harness.modelling.model_schema import CostModel, EnergyModel
from harness.modelling.older_profiles import renewed
from harness.modelling.profile_schema import Identity, Measurement, Provenance, Strict
from harness.modelling.served.engine import Engine

PROFILE_VERSION: Final = 3
_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
_LONGEST_NAME = 200

Boundary = str | Iterable[str] | None
"""Components whose energy counts, such as ``cpu+gpu`` or a sequence of names; None for all that were measured."""


class Profile(Strict):
    """One system with one model: schema version 3."""

    schema_version: Literal[3]
    """Of this file."""
    name: str = Field(pattern=f"^{_NAME}$", max_length=_LONGEST_NAME)
    """Distinct from other profiles that it is compared with."""
    identity: Identity
    """What was measured, where and how."""
    runtime: CostModel
    """Seconds of a request."""
    energy: EnergyModel | None
    """Gross energy of the sum of all components measured; null where energy was not measured."""
    components: dict[Component, EnergyModel]
    """Gross energy of each component; empty where only the sum, or nothing, was measured."""
    measurements: list[Measurement] = Field(min_length=1)
    """The points behind the models."""
    provenance: Provenance
    """The files and programs behind the measurements."""
    under_load: UnderLoad | None
    """Costs with other numbers of requests in flight; null where fewer than three were measured, or without 1."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.runtime.unit != "s":
            raise ValueError("the runtime model must be in s")
        energies = [part.model for part in (self.energy, *self.components.values()) if part is not None]
        if any(model.unit != "J" for model in energies):
            raise ValueError("energy models must be in J")
        if self.energy is None and self.components:
            raise ValueError("components without their sum")
        phased = [model for model in (self.runtime, *energies) if form_named(model.form).has_phases]
        if any(model.kv_cache != self.identity.kv_cache for model in phased):
            raise ValueError("a model's kv_cache differs from the identity's")
        load = self.under_load
        if load is not None and not self.identity.kv_cache:
            raise ValueError("costs under load without a KV cache")
        if load is not None and not (set(load.components) <= set(self.components) and (self.energy or not load.energy)):
            raise ValueError("energy under load that was not measured by itself")
        return self

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str]) -> Self:
        """Read a shipped profile by its name or any profile by its path. Raises UserError in one line."""
        return cls.parse(*_read(name_or_path))

    @classmethod
    def parse(cls, text: str | bytes, where: str = "profile") -> Self:
        """Check the text of a profile. ``where`` names it in the message. Raises UserError in one line.

        A file of an earlier version is read as what it meant.
        """
        try:
            return cls.model_validate_json(renewed(text))
        except ValidationError as error:
            raise UserError(f"{where} {_explain(error, text)}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the profile; an interrupted write leaves the old file whole. Raises UserError."""
        refuse_other_format(Path(path), ".json")
        write_atomically(Path(path), self.dump())

    def dump(self) -> str:
        """The profile as JSON text; every float is written so that it reads back bit for bit."""
        return json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False, ensure_ascii=False) + "\n"

    def runtime_s(self, m: ArrayLike, n: ArrayLike, *, part: Part = "request", strict: bool = False) -> Floats:
        """Seconds of requests of m input and n output tokens, or of one phase. m and n broadcast.

        ``strict`` refuses sizes outside the measured range. Raises UserError.
        """
        if strict:
            return self.predict_runtime(m, n, part=part, strict=True).value
        return self.runtime_function.cost(m, n, part)

    def energy_j(
        self, m: ArrayLike, n: ArrayLike, boundary: Boundary = None, *, part: Part = "request", strict: bool = False
    ) -> Floats:
        """Gross joules of requests within ``boundary`` (default: every component measured). Raises UserError."""
        if strict:
            return self.predict_energy(m, n, boundary, part=part, strict=True).value
        return np.add.reduce([function.cost(m, n, part) for function in self.energy_functions(boundary)])

    def net_energy_j(self, m: ArrayLike, n: ArrayLike, boundary: Boundary = None) -> Floats:
        """Joules above idle: E − P_idle·R/c, since c requests in flight share the machine's time.

        Raises UserError where the idle power is unknown.
        """
        busy_s = self.runtime_s(m, n) / self.requests_in_flight
        return self.energy_j(m, n, boundary) - self.idle_power_w(boundary) * busy_s

    def predict_runtime(
        self, m: ArrayLike, n: ArrayLike, *, part: Part = "request", strict: bool = False
    ) -> Prediction:
        """Seconds with standard error and range flag. Raises UserError."""
        return self.runtime_function.predict(m, n, part, strict=strict)

    def predict_energy(
        self, m: ArrayLike, n: ArrayLike, boundary: Boundary = None, *, part: Part = "request", strict: bool = False
    ) -> Prediction:
        """Gross joules with standard error and range flag.

        The sum of some but not all components adds their standard deviations, as if their errors moved together:
        the cautious choice, since their correlation is not stored. Raises UserError.
        """
        parts = [f.predict(m, n, part, strict=strict) for f in self.energy_functions(boundary)]
        if len(parts) == 1:
            return parts[0]
        return Prediction(
            np.add.reduce([p.value for p in parts]),
            {source: np.add.reduce([p.sd[source] for p in parts]) for source in REQUEST},
            {source: min(p.freedom[source] for p in parts) for source in REQUEST},
            np.logical_or.reduce([p.out_of_range for p in parts]),
            np.logical_or.reduce([p.too_far for p in parts]),
        )

    def at(self, c: int) -> Profile:
        """This system with c requests in flight, as a profile of that number of them; raises UserError.

        At the number that its own models are of it is itself; at any other it is what ``served_at`` says.
        """
        return self if c == self.requests_in_flight else self.served_at(c)

    def served_at(self, c: int) -> Profile:
        """What ``under_load`` says of c requests in flight, as a profile of that number of them; raises UserError.

        Its models are of the phase form, its points those measured so, or where there are none all points.
        """
        if c < 1:
            raise UserError(f"{c} requests can't be in flight: 1 is the fewest")
        load = self.under_load
        if load is None:
            known = f"with {self.requests_in_flight} in flight only, not with {c}"
            raise UserError(f"profile {self.name} knows costs {known}; {REMEDY}")
        parts = load.components.items()
        return Profile(
            schema_version=PROFILE_VERSION,
            name=self.name,
            identity=load.identity_at(c, self.identity),
            runtime=load.runtime.at(c),
            energy=energy_at(self.energy, load.energy, c) if self.energy and load.energy else None,
            components={name: energy_at(self.components[name], model, c) for name, model in parts},
            measurements=load.points_at(c, self.measurements),
            provenance=self.provenance,
            under_load=None,
        )

    def engine(self, boundary: Boundary = None) -> Engine:
        """What its steps cost and what bounds them, for a simulation; joules are those within ``boundary``.

        Without ``under_load`` it works on one request at a time. Raises UserError where steps aren't known.
        """
        parts = self._energy_parts(boundary)
        powers = [part.idle_power_w for part in parts if part.idle_power_w is not None]
        idle_power_w = float(sum(powers)) if powers and len(powers) == len(parts) else None
        if self.under_load is not None:
            return engine_under_load(self.under_load, self.components_within(boundary), idle_power_w, self.name)
        if self.requests_in_flight > 1:
            raise UserError(f"profile {self.name} is of {self.requests_in_flight} requests in flight alone; {REMEDY}")
        return engine_of_one(self.runtime_function, [part.function for part in parts], idle_power_w, self.name)

    @property
    def requests_in_flight(self) -> int:
        """c, the requests that share the machine's time; 1 where unknown."""
        return self.identity.concurrency or 1

    @property
    def runtime_function(self) -> CostFunction:
        """R(m, n) with its covariance."""
        return self.runtime.function

    def energy_functions(self, boundary: Boundary = None) -> list[CostFunction]:
        """The functions whose sum is E(m, n) within ``boundary``: one for all components or a single one."""
        if self.energy is None:
            raise UserError(f"profile {self.name} has no energy: only runtime was measured")
        return [part.function for part in self._energy_parts(boundary)]

    def meters(self, boundary: Boundary = None) -> frozenset[str]:
        """The sensors behind the energy within ``boundary``; empty where that of any part is unknown.

        Two profiles of the same ones share their gain. Raises UserError for components that the profile doesn't have.
        """
        parts = [part.meters for part in self._energy_parts(boundary)]
        return frozenset(meter for meters in parts for meter in meters) if all(parts) else frozenset()

    def gain_ci95(self, boundary: Boundary = None) -> float | None:
        """Relative half-width of the 95 % interval of the meters' gain within ``boundary``; None without energy.

        Raises UserError for components that the profile doesn't have.
        """
        return max((part.gain_ci95 for part in self._energy_parts(boundary)), default=None)

    def energy_method(self, boundary: Boundary = None) -> Method | None:
        """How energy within ``boundary`` was measured, the weakest of its parts.

        None where it was not measured, or that of a part is unknown and no other part is an estimate. Raises
        UserError for components that the profile doesn't have.
        """
        methods = [part.method for part in self._energy_parts(boundary)]
        return None if None in methods and "estimated" not in methods else weakest(methods)

    def _energy_parts(self, boundary: Boundary) -> list[EnergyModel]:
        """What adds up to the energy within ``boundary``: the sum, or some components; nothing without energy.

        Raises UserError for components that the profile doesn't have.
        """
        if self.energy is None:
            return []
        wanted = self.components_within(boundary)
        return [self.energy] if wanted is None else [self.components[component] for component in wanted]

    def components_within(self, boundary: Boundary) -> tuple[Component, ...] | None:
        """The components whose models add up to the energy within ``boundary``; None where that of their sum does.

        Raises UserError for components that the profile doesn't have.
        """
        wanted = parse_boundary(boundary)
        # All components together have a sum of their own.
        if wanted is None or set(wanted) == set(self.components):
            return None
        absent = [component for component in wanted if component not in self.components]
        if absent:
            held = "+".join(self.components) or "only their sum"
            raise UserError(f"profile {self.name} has no energy of {'+'.join(absent)}; it has {held}")
        return tuple(wanted)

    def idle_power_w(self, boundary: Boundary = None) -> float:
        """Power of the idle system within ``boundary``. Raises UserError where it was not measured."""
        parts = self._energy_parts(boundary)
        powers = [part.idle_power_w for part in parts if part.idle_power_w is not None]
        if not parts or len(powers) < len(parts):
            raise UserError(f"the idle power of profile {self.name} was not measured")
        return float(sum(powers))

    def idle_power_ci95_w(self, boundary: Boundary = None) -> list[float | None]:
        """Half-widths of the 95 % intervals of the idle powers that add up to ``idle_power_w``; None where unknown."""
        return [part.idle_power_ci95_w for part in self._energy_parts(boundary)]


def check_name(name: str) -> None:
    """Raises UserError for a text that can't name a profile."""
    if len(name) > _LONGEST_NAME or not re.fullmatch(_NAME, name):
        raise UserError(
            f"{name[:_LONGEST_NAME]!r} can't name a profile: begin with a letter or digit, "
            f"go on with these or . _ + -, {_LONGEST_NAME} characters at most"
        )


def shipped_names() -> list[str]:
    """Names of the profiles shipped with the package."""
    files = [file for file in resources.files("profiles").iterdir() if file.name.endswith(".json")]
    # Workloads lie there too and name their kind.
    return sorted(file.name.removesuffix(".json") for file in files if "kind" not in json.loads(file.read_bytes()))


def json_schema() -> Facts:
    """The JSON schema of a profile file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Profile.model_json_schema()}


def _read(name_or_path: str | os.PathLike[str]) -> tuple[bytes, str]:
    """The bytes of a profile file and how to call it."""
    name = os.fspath(name_or_path)
    path = Path(name)
    if not name:
        raise UserError("a profile's name is empty: name a file or one of those shipped (see joulebench profiles list)")
    if path.is_dir():
        raise UserError(f"{name} is a directory, not a profile. To fit a run: joulebench fit {name} -o profile.json")
    if not path.exists() and re.fullmatch(_NAME, name):
        shipped = resources.files("profiles") / f"{name}.json"
        if shipped.is_file():
            return shipped.read_bytes(), f"shipped profile {name}"
        raise UserError(
            f"no profile '{name}': it is neither a file nor one of those shipped (see joulebench profiles list)"
        )
    try:
        return path.read_bytes(), f"profile {name}"
    except OSError as error:
        raise UserError(f"profile {name} can't be read: {error.strerror or error}") from None


def _explain(error: ValidationError, text: str | bytes) -> str:
    """What is wrong with a profile, in one line."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return f"is not valid JSON: it is truncated or damaged ({error.errors()[0]['msg'][:200]})"
    if not isinstance(content, dict) or "schema_version" not in content:
        return "is not a profile of joulebench: it names no schema_version"
    version = content["schema_version"]
    if isinstance(version, int) and not isinstance(version, bool) and version > PROFILE_VERSION:
        return f"has schema version {version}, this joulebench reads up to {PROFILE_VERSION}: upgrade joulebench"
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the profile"
    more = error.error_count() - 1
    return f"is not valid at {where}: {first['msg'][:200]}" + (f" (and {more} more)" if more else "")
