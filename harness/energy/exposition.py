"""A meter's figures as OpenMetrics, or as the text format of Prometheus before it, by ``prometheus_client``.

What can't be told has no sample: never 0. Names and labels stand in docs/energy.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.core.quantities import Method
from harness.core.version import __version__
from harness.energy.metered_window import MeterDescription
from harness.energy.running_totals import RunningTotal, RunningTotals

if TYPE_CHECKING:
    from prometheus_client.core import Metric


def evidence(method: Method | None) -> str:
    """``measured`` or ``estimated``; empty where there is nothing."""
    return "" if method is None else "estimated" if method == "estimated" else "measured"


class Exposition:
    """Collects the samples of a meter for ``prometheus_client``."""

    def __init__(self, description: MeterDescription, totals: RunningTotals) -> None:
        self._description = description
        self._totals = totals

    def text(self, accept: str) -> tuple[bytes, str]:
        """The body and its content type, for what a request's ``Accept`` header says."""
        from prometheus_client import CollectorRegistry, exposition

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        try:
            encode, content_type = exposition.choose_encoder(accept)
        except ValueError:  # a version that is none
            encode, content_type = exposition.choose_encoder("")
        return encode(registry), content_type

    def collect(self) -> Iterator[Metric]:
        """What ``prometheus_client`` asks for."""
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        its = self._description
        info = {"version": __version__, "rate_hz": f"{its.rate_hz:g}", "probes": ",".join(its.probes)}
        yield InfoMetricFamily("joulebench_meter", "The meter that tells these figures.", value=info)
        domains: dict[tuple[str, ...], RunningTotal] = {
            (name, its.domains[name].component): total for name, total in self._totals.domains().items()
        }
        yield from self._figures("joulebench_domain", "one power reading", ["domain", "component"], domains)
        up = GaugeMetricFamily(
            "joulebench_domain_up", "1 while a power source delivers.", labels=["domain", "component"]
        )
        for key, total in domains.items():
            up.add_metric(list(key), 0.0 if total.failure else 1.0)
        yield up
        components: dict[tuple[str, ...], RunningTotal] = {
            (name,): total for name, total in self._totals.components().items()
        }
        yield from self._figures("joulebench_component", "one component of the machine", ["component"], components)
        yield from self._figures("joulebench", "all that is metered", [], {(): self._totals.whole()})

    def _figures(
        self, prefix: str, of: str, labels: list[str], totals: dict[tuple[str, ...], RunningTotal]
    ) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        names = [*labels, "method", "evidence", "probe"]
        energy = CounterMetricFamily(
            f"{prefix}_energy_joules", f"Energy of {of} since the meter was started.", labels=names, unit="joules"
        )
        power = GaugeMetricFamily(
            f"{prefix}_power_watts", f"Mean power of {of} over the last second or more.", labels=names, unit="watts"
        )
        spread = GaugeMetricFamily(
            f"{prefix}_power_ci95_watts", "Half-width of the 95 % interval of that power.", labels=names, unit="watts"
        )
        lost = CounterMetricFamily(
            f"{prefix}_lost_seconds", f"Time whose energy is missing from that of {of}.", labels=names, unit="seconds"
        )
        for key, total in totals.items():
            values = [*key, total.method or "", evidence(total.method), self._probes(labels, key)]
            if total.energy_j is not None:
                energy.add_metric(values, total.energy_j)
                lost.add_metric(values, total.lost_s)
            if total.power.power_w is not None and total.power.ci95_w is not None:
                power.add_metric(values, total.power.power_w)
                spread.add_metric(values, total.power.ci95_w)
        yield from (energy, power, spread, lost)

    def _probes(self, labels: list[str], key: tuple[str, ...]) -> str:
        """Names of the probes behind a figure, joined by +."""
        its = self._description
        if labels[:1] == ["domain"]:
            names = [key[0]]
        else:
            names = [name for part, group in its.components.items() if not key or part == key[0] for name in group]
        return "+".join(dict.fromkeys(its.domains[name].probe for name in names))
