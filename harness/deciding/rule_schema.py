"""The parts of an exported rule, schema version 3. Field names carry units; null means that there is none.

Version 2 knew no arrival rate: it had no ``at_rate``. Version 1 had ``boundary`` for what is now ``regions`` and
``boundary_of_energy`` for ``energy_boundary``.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, TypeAdapter, model_validator

from harness.core.quantities import Facts, Method
from harness.modelling.profile_schema import MeasuredRange, Strict

RULE_VERSION = 3


class RuleSystem(Strict):
    """One system that requests can go to."""

    profile: str
    """Name of the profile that its costs were worked out from."""
    energy_method: Method | None
    """How its energy was measured, best first: counter, integrated, modelled, estimated; null where unknown."""
    range: MeasuredRange
    """The request sizes that were measured on it; beyond them its costs, and so the rule, are extrapolated."""


class RuleWorkload(Strict):
    """The requests that the rule was worked out for."""

    name: str
    """Of the trace or of the built-in workload."""
    requests: PositiveFloat
    """How many; a fraction where a histogram was spread over its bins."""
    mean_input_tokens: PositiveFloat
    """Of a request."""
    mean_output_tokens: PositiveFloat
    """Of a request."""
    longest_input_tokens: PositiveInt
    """The rule names a system for longer requests too, which were not among these."""
    longest_output_tokens: PositiveInt
    """As longest_input_tokens."""


class RuleInterval(Strict):
    """A value with its 95 % interval."""

    value: float
    """The estimate."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""


class RuleSaving(Strict):
    """What the plan behind the rule saves on the workload it was worked out for."""

    against: str
    """The system that would serve all requests alone."""
    energy: RuleInterval
    """Energy saved as a fraction of what that system needs; 0.05 is 5 %."""
    cost: RuleInterval
    """The same of the cost, which is what the plan minimises."""
    runtime_ratio: RuleInterval
    """Total runtime divided by that of the system alone; at a rate the ratio of mean times, waiting included."""
    significant: bool
    """Whether the saving of cost is one: false where 0 lies in its interval, or where too much of the energy is that
    of requests in too_far."""


class RuleLoad(Strict):
    """What a system gets and how it is loaded under the rule."""

    replicas: PositiveInt
    """Machines; each request goes to the one with the fewest requests."""
    off_when_idle: bool
    """Whether these draw no power while nothing is in them."""
    rate_per_s: NonNegativeFloat
    """Requests that it gets per second."""
    concurrency: NonNegativeFloat
    """Mean number of requests in flight on a machine while it works; its costs are those at so many."""
    capacity_per_s: PositiveFloat | None
    """Requests per second of its kind beyond which it is saturated; null where it gets none."""
    e2e_s: NonNegativeFloat | None
    """Mean time of a request, waiting included; null where it gets none."""


class RuleAtRate(Strict):
    """The arrival rate that the rule was worked out for. At another rate another rule is best."""

    rate_per_s: PositiveFloat
    """Of all requests."""
    arrivals: Literal["poisson", "trace"]
    """poisson: at random; trace: at the times of the log that the workload is."""
    slo_s: NonNegativeFloat | None
    """The mean time that had to be kept; null without one."""
    capacity_per_s: PositiveFloat
    """The rate above which no plan serves all requests."""
    pays_from_per_s: PositiveFloat | None
    """The lowest rate at which several systems cost less than one; null where there is none."""
    systems: dict[str, RuleLoad]
    """By the names that the rule has for them."""


class RuleTooFar(Strict):
    """Requests more than two octaves outside what was measured on a system: there no interval of a cost is known."""

    requests: Annotated[float, Field(ge=0, le=1)]
    """Share of the requests of the workload."""
    energy: Annotated[float, Field(ge=0, le=1)]
    """Share of the energy, of the plan or of what it is compared with, whichever is larger; above 0.05 no saving is
    significant."""


class RuleCost(Strict):
    """What was minimised: energy_per_j · joules + runtime_per_s · seconds of each request."""

    scale: Literal["reference", "price", "none"]
    """reference: relative to a mean request of one system; price: money or carbon; none: joules and seconds as such."""
    weight: Annotated[float, Field(ge=0, le=1)] | None
    """λ, the weight of energy against runtime; null where prices weigh them."""
    energy_per_j: NonNegativeFloat
    """Cost of one joule, λ included."""
    runtime_per_s: NonNegativeFloat
    """Cost of one second, 1 − λ included."""


class RulePrice(Strict):
    """What a share or capacity adds to the cost of a request; the regions have it in them already."""

    system: str
    """The system that the share or capacity is of."""
    per: Literal["request", "second"]
    """request for a share, second of runtime for a capacity."""
    price: float
    """In units of cost; a negative one draws requests to a system that must be given its share."""


class RuleAgreement(Strict):
    """How much of the plan the rule routes as the plan does; 1 is all of it."""

    requests: Annotated[float, Field(ge=0, le=1)]
    """Share of the requests."""
    energy: Annotated[float, Field(ge=0, le=1)]
    """Share of the energy."""


class OutputRoute(Strict):
    """A system for all output lengths from one on."""

    from_output_tokens: PositiveInt
    """Holds up to the next one listed; the first is 1."""
    system: str | None
    """A name in systems; null where no system meets the latency limit."""


class InputRoute(Strict):
    """A system for all input lengths from one on."""

    from_input_tokens: PositiveInt
    """Holds up to the next one listed; the first is 1."""
    system: str
    """A name in systems."""


class Region(Strict):
    """Who serves requests of these input lengths."""

    from_input_tokens: PositiveInt
    """Holds up to the next one listed; the first is 1."""
    routes: list[OutputRoute] = Field(min_length=1)
    """By rising output length; the first is 1."""


class Rule(Strict):
    """What every rule holds."""

    kind: Literal["joulebench-rule"]
    """Tells the file from others."""
    schema_version: Literal[3]
    """Of this file."""
    rule: Literal["threshold", "least_cost"]
    """threshold: two systems, told apart by one number; least_cost: any number of systems."""
    systems: dict[str, RuleSystem] = Field(min_length=2)
    """By the names that the rule has for them."""
    energy_boundary: str
    """Components whose energy counts, joined by +, such as cpu+gpu; sum for all that each profile holds."""
    idle: Literal["included", "subtracted"]
    """Whether the power of the idle machine is part of the energy."""
    mixed: bool
    """Whether systems that aren't comparable were compared (--allow-mixed): then savings mean little."""
    workload: RuleWorkload
    """Its requests: the saving is worked out on them."""
    cost: RuleCost
    """What was minimised."""
    saving: RuleSaving | None
    """What the plan saves on that workload; null where at its rate each system alone is saturated."""
    too_far: RuleTooFar
    """How much of that workload lies where nothing was measured."""
    at_rate: RuleAtRate | None
    """The arrival rate and the loads that it was worked out for; null where it knows no queue."""


class ThresholdRule(Rule):
    """Requests whose key is at most the threshold go to one system, all others to another."""

    rule: Literal["threshold"]
    """Two systems, told apart by one number."""
    key: Literal["input", "output", "total", "product"]
    """Input tokens, output tokens, their sum or their product."""
    threshold: NonNegativeInt
    """The largest key that goes to at_most; 0 where none does."""
    threshold_low: NonNegativeInt
    """Lower end of the 95 % interval of the best threshold."""
    threshold_high: NonNegativeInt
    """Upper end of it."""
    plateau_low: NonNegativeInt
    """Lowest threshold that is about as good as the best."""
    plateau_high: NonNegativeInt
    """Highest threshold that is about as good as the best."""
    at_most: str
    """The system of requests whose key is at most the threshold."""
    above: str
    """The system of all others."""


class LeastCostRule(Rule):
    """Each request goes where it costs least: by regions of input and output length, or by input length alone."""

    rule: Literal["least_cost"]
    """Any number of systems, told apart by request size."""
    latency_limit_s: NonNegativeFloat | None
    """Systems that need longer don't serve a request; null without a limit."""
    prices: list[RulePrice]
    """One per share or capacity asked for."""
    agreement: RuleAgreement
    """How much of the plan the rule routes as the plan does."""
    regions: list[Region] | None
    """By rising input length; null where output lengths are unknown on arrival."""
    by_input: list[InputRoute] | None
    """By rising input length, for when output lengths are unknown on arrival; else null."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.regions is None) == (self.by_input is None):
            raise ValueError("a rule has either regions or by_input")
        return self


AnyRule = ThresholdRule | LeastCostRule


def parse_rule(content: str | bytes) -> AnyRule:
    """A rule from the text of its file; one of schema version 2 is read as what it meant. Raises ValidationError."""
    adapter: TypeAdapter[AnyRule] = TypeAdapter(Annotated[AnyRule, Field(discriminator="rule")])
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError):
        facts = None
    if isinstance(facts, dict) and facts.get("schema_version") == 2:
        content = json.dumps({**facts, "schema_version": 3, "at_rate": None})
    return adapter.validate_json(content)


def rule_schema() -> Facts:
    """The JSON schema of a rule file."""
    adapter: TypeAdapter[object] = TypeAdapter(Annotated[ThresholdRule | LeastCostRule, Field(discriminator="rule")])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Rule",
        "description": "Which system serves which request, as joulebench exports it.",
        **adapter.json_schema(),
    }
