"""What is to be measured, with which runtime and which meters: from options to a plan and a guess of its time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import backends
from backends.base import Config, Model
from harness.core.errors import UserError
from harness.core.sizes import Point
from harness.core.validation import validated
from harness.energy.config import EnergyConfig
from harness.measuring.plan import Plan, PlanOptions, make_plan
from harness.measuring.time_guess import RequestGuess

DEFAULT_MODEL = "smollm2-135m"
_SERVED = "openai"

_Options = TypeVar("_Options", Config, EnergyConfig, PlanOptions)


@dataclass(frozen=True)
class PlannedRun:
    """Everything that a run consists of, checked as far as that needs no model."""

    plan: Plan
    backend: str
    config: Config
    energy: EnergyConfig

    @property
    def directory(self) -> Path:
        """Where the run goes if nobody says: measuring the same again resumes it."""
        runtime = self.config.serve or self.backend
        # Of a URL the host and port alone: before them a password may stand.
        host = urlsplit(self.config.url or "").netloc.rpartition("@")[2]
        model = Path(self.config.model).name.partition(":")[0] or host.replace(":", "-")
        return Path("runs") / f"{runtime}-{model}-{self.plan.protocol}"

    @property
    def served(self) -> bool:
        """Whether a server computes, to which requests go in a closed loop."""
        return self.config.url is not None or self.config.serve is not None

    def foreseen(self) -> Foreseen:
        """What a run would do, and a guess of how long it takes. Raises UserError or InvalidConfig."""
        runtime = backends.create(self.backend)
        model = runtime.resolve(self.config)
        device = self.config.device if self.config.device != "auto" else runtime.capabilities().devices[0]
        self.plan.refuse_beyond(model.context_length)
        return Foreseen(model, device, RequestGuess(model, device, self.config.kv_cache))


@dataclass(frozen=True)
class Foreseen:
    """What a measurement would do."""

    model: Model
    device: str
    guess: RequestGuess
    """Guesses the seconds of requests."""

    def holds(self, point: Point) -> bool:
        """Whether requests of this size are within the model's context."""
        context_length = self.model.context_length
        return context_length is None or point.input_tokens + point.output_tokens <= context_length


def prepare(backend: str | None = None, **options: Any) -> PlannedRun:
    """The measurement that options ask for: fields of ``PlanOptions``, ``backends.base.Config``, ``EnergyConfig``,
    and ``batch_size`` for ``concurrency``, of which both may be a number or a list of numbers.

    ``model`` is ``DEFAULT_MODEL``, with a ``url`` the one that is served there, ``backend`` is ``openai`` with a
    ``url`` or ``serve`` and else ``transformers``, and ``kv_cache`` the protocol's, where they are not given or None.
    Raises UserError for what can't be measured, TypeError for an unknown option.
    """
    if "batch_size" in options:
        if "concurrency" in options:
            raise UserError("batch_size is another name of concurrency: give one of them")
        options["concurrency"] = options.pop("batch_size")
    options["concurrency"] = _listed(options.get("concurrency", "1"))
    for name in ("url", "serve"):
        if options.get(name) == "":
            raise UserError(f"--{name} is empty; give it a value, or leave it out to measure in this process")
    served = [f"--{name}" for name in ("url", "serve") if options.get(name)]
    backend = backend or (_SERVED if served else "transformers")
    if backend not in backends.names():
        raise UserError(f"unknown backend '{backend}'; choose one of {', '.join(backends.names())}")
    unknown = options.keys() - {field.name for kind in (PlanOptions, Config, EnergyConfig) for field in fields(kind)}
    if unknown:
        raise TypeError(f"no option {', '.join(sorted(unknown))}")
    if served and backend != _SERVED:
        raise UserError(
            f"{served[0]} is for servers, and --backend {backend} runs in this process; leave one of them out"
        )
    if options.get("server_flags") and not options.get("serve"):
        unused = " ".join(options["server_flags"])
        raise UserError(
            f"'{unused}': measure takes options only, such as --model NAME --point INPUT,OUTPUT; for options of a "
            "server that is started give --serve SERVER too"
        )
    given = {"model": "" if options.get("url") else DEFAULT_MODEL} | options
    kv_cache = given.pop("kv_cache", None)
    config = _chosen(Config, given if kv_cache is None else given | {"kv_cache": kv_cache})
    plan, kv_cache_of_protocol = make_plan(_chosen(PlanOptions, options), config.seed)
    if plan.open_loop and not served:
        raise UserError("requests come at a rate to a server only: name one with --url or --serve")
    if kv_cache is None:
        config = replace(config, kv_cache=kv_cache_of_protocol)
    energy = _chosen(EnergyConfig, options)
    _ = energy.calibrations  # what is wrong with them is said now
    return PlannedRun(plan, backend, config, energy)


def _listed(concurrency: object) -> str:
    """Requests in flight as the command line has them, from a number or several too."""
    several = concurrency if isinstance(concurrency, list | tuple) else [concurrency]
    return ",".join(map(str, several))


def _chosen(kind: type[_Options], options: Mapping[str, Any]) -> _Options:
    return validated(kind, {field.name: options[field.name] for field in fields(kind) if field.name in options})
