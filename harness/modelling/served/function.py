"""Cost under load as a function of sizes and requests in flight, with what is known of its doubt. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from harness.core.arrays import Floats
from harness.modelling.cost_function import CostFunction, Range
from harness.modelling.doubt import Misfit, Scatter, SessionEffect
from harness.modelling.served.engine import StepCosts
from harness.modelling.served.form import PHASE, ServedForm
from harness.modelling.served.residual import InFlightResidual


@dataclass(frozen=True, eq=False)
class MeasuredLoads:
    """The sizes and numbers in flight that were measured, with octaves from them."""

    points: Floats
    """m, n and c: shape (points, 3)."""

    def octaves_beyond(self, c: float) -> float:
        """How far a number in flight lies below the least or above the most measured."""
        measured = np.log2(self.points[:, 2])
        return float(max(measured.min() - np.log2(c), np.log2(c) - measured.max(), 0.0))

    def at(self, c: float) -> Range:
        """The range of sizes at c in flight: what was measured at other numbers in flight is as far as they are."""
        sizes, size = np.unique(self.points[:, :2], axis=0, return_inverse=True)
        octaves = np.full(len(sizes), np.inf)
        np.minimum.at(octaves, size.ravel(), np.abs(np.log2(self.points[:, 2] / c)))
        found = Range.of(sizes[:, 0], sizes[:, 1])
        # In the same order, that of np.unique.
        return replace(found, point_octaves=octaves.tolist(), octaves_beyond=self.octaves_beyond(c))


@dataclass(frozen=True, eq=False)
class ServedFunction:
    """A served form fitted to runtimes, or to energies of a request, at several numbers of requests in flight."""

    form: ServedForm
    coefficients: Floats
    """Of a cycle."""
    covariance: Floats
    """Of the coefficients: what the trials leave open."""
    freedom: float
    """Degrees of freedom behind it."""
    misfit: Misfit
    """About costs as ``cost`` returns them; the distance counts octaves of the number in flight too."""
    scatter: Scatter
    session: SessionEffect
    gain_ci95: float
    """Relative half-width of the 95 % interval of the meters' gain; 0 for runtimes."""
    loads: MeasuredLoads
    per_request: bool
    """Whether the cost is of one request, a cycle's share, as energy is; else, as runtime, of the cycle."""
    slots: float | None = None
    """Requests that are worked on at once, beyond which others wait; None where no limit is known."""
    residual: InFlightResidual = field(default_factory=InFlightResidual)

    def cost(self, m: ArrayLike, n: ArrayLike, c: ArrayLike) -> Floats:
        """Cost with c requests of m input and n output tokens in flight, in seconds or joules; shapes broadcast.

        Beyond S slots a runtime is that at S times c/S, and a request's energy that at S.
        """
        m, n, c = np.broadcast_arrays(*(np.asarray(axis, dtype=float) for axis in (m, n, c)))
        working = self.working(c)
        cycle = self.form.design(m, n, working) @ self.coefficients * self.residual.factor(working)
        return np.asarray(cycle / working if self.per_request else cycle * (c / working))

    def working(self, c: ArrayLike) -> Floats:
        """How many of c requests in flight are worked on at once."""
        c = np.asarray(c, dtype=float)
        return c if self.slots is None else np.minimum(c, self.slots)

    def at(self, c: float) -> CostFunction:
        """The cost of requests with c of them in flight: of the phase form, with all its doubt.

        Beyond the numbers in flight that were measured it is extrapolated, and far beyond them no interval is known.
        """
        working = float(self.working(c))
        share = 1 / working if self.per_request else c / working
        map_ = self.form.at(working) * (share * float(self.residual.factor(working)))
        return CostFunction(
            form=PHASE,
            coefficients=map_ @ self.coefficients,
            covariance=map_ @ self.covariance @ map_.T,
            freedom=self.freedom,
            misfit=self.misfit,
            scatter=self.scatter,
            session=self.session,
            gain_ci95=self.gain_ci95,
            range=self.loads.at(working),
        )

    def steps(self) -> StepCosts:
        """What a step costs, by the coefficients; the residual, which is of whole cycles, isn't in it."""
        c0, c1, c2, a, s, d1, *g = self.coefficients.tolist()
        return StepCosts(
            floor=a,
            per_sequence=s,
            per_context=d1,
            prefill_floor=c0,
            per_prefill_token=c1,
            per_prefill_token2=c2,
            prefill_joined=self.form.prefill_joined,
            experts=g[0] if g else 0.0,
            experts_share=self.form.experts_share,
        )
