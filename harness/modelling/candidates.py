"""The choice among a form's candidates, and of the terms that measurements ask for. Pure.

Terms are added one by one. One enters where the error at rows left out of the fit falls by more than one of so many
useless terms would let it fall by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.arrays import Floats
from harness.modelling.forms.base import Form
from harness.modelling.forms.terms import Term
from harness.modelling.least_squares import Rows, Solution, solve

PENALTY = 9.0
"""By how much 2·rows·log(left-out error) must fall for a term: the largest of 40 useless ones, each with the chi-square
of one degree of freedom, seldom reaches it."""
MAX_TERMS = 6
ROWS_PER_COEFFICIENT = 2.0
"""Fewest rows for each coefficient of a form with terms."""
LEAST_PART = 1e-4
"""Of a term's derivative at the rows, squared, what must differ from those of the others for them to tell it."""
MOST_OF_ONE_POINT = 0.8
"""Largest part that a single point may have in what tells a term."""
TRIED = 3
"""Terms that are fitted in earnest of those that promise most."""


@dataclass(frozen=True)
class Choice:
    """What came of trying a form's candidates."""

    solution: Solution
    """The candidate with the smallest predicted error, in the terms that were asked for."""
    rivals: list[Solution]
    """All candidates, in the same terms."""
    starts: dict[Form, Floats]
    """Coefficients of every form tried: where a fit to nearly the same rows may start."""


def best_candidate(candidates: Sequence[Form], rows: Rows, starts: Mapping[Form, Floats]) -> Choice:
    """The candidate with the smallest predicted error, with the terms that the rows ask for."""
    rivals = [solve(form, rows, starts.get(form)) for form in candidates]
    known = {rival.form: rival.theta for rival in rivals}
    grown = _grown(rivals, rows, starts)
    if grown.form.terms:
        rivals = [_solved(form.with_terms(grown.form.terms), rows, starts, grown.theta) for form in candidates]
        known |= {rival.form: rival.theta for rival in rivals}
    return Choice(min(rivals, key=lambda rival: rival.predicted_error), rivals, known)


def _grown(rivals: Sequence[Solution], rows: Rows, starts: Mapping[Form, Floats]) -> Solution:
    """The best of the rivals, or of them with as many terms as lessen the error enough."""
    best = min(rivals, key=lambda rival: rival.predicted_error)
    count = float(rows.share.sum())
    # A machine with tiles may look like one with a roofline: terms are tried on the plain form too.
    from_ = [best, *(rival for rival in rivals if rival.form == rival.form.plain and rival is not best)]
    while best.theta.size < min(rivals[0].theta.size + MAX_TERMS, int(count / ROWS_PER_COEFFICIENT)):
        wanted = best.predicted_error * np.exp(-PENALTY / (2 * count))
        longer = [
            _solved(rival.form.with_terms((*rival.form.terms, term)), rows, starts, np.append(rival.theta, 0.0))
            for rival, term in _promising(from_, rows, wanted)
        ]
        better = [solution for solution in longer if solution.predicted_error < wanted]
        if not better:
            break
        best = min(better, key=lambda solution: solution.predicted_error)
        from_ = [best]
    return best


def _promising(solutions: Sequence[Solution], rows: Rows, wanted: float) -> list[tuple[Solution, Term]]:
    """The solutions and terms that may together come below the ``wanted`` error, those of the least error first."""
    promised = []
    for solution in solutions:
        terms, errors = _promises(solution, rows)
        promised += [(float(error), solution, term) for error, term in zip(errors, terms, strict=True)]
    promised = sorted((p for p in promised if p[0] < wanted), key=lambda p: p[0])
    return [(solution, term) for _, solution, term in promised[:TRIED]]


def _promises(solution: Solution, rows: Rows) -> tuple[list[Term], Floats]:
    """Every further term, and the predicted error with it to first order: infinite where it would be negative.

    A term's coefficient is that of its part at right angles to the others' derivatives.
    """
    form, size = solution.form, solution.theta.size
    terms = [term for term in form.known_terms() if term not in form.terms]
    if not terms:
        return [], np.empty(0)
    longer = form.with_terms((*form.terms, *terms))
    weights = np.sqrt(rows.share * solution.weights) / solution.scatter
    design = rows.design(longer, np.append(solution.theta, np.zeros(len(terms))))
    design *= (weights / rows.value)[:, None]
    held, _ = np.linalg.qr(design[:, :size][:, solution.theta != 0])
    new = design[:, size:]
    length = np.sum(new**2, axis=0)
    new = new - held @ (held.T @ new)
    across = np.sum(new**2, axis=0)
    tells = across > LEAST_PART * length
    across = np.where(tells, across, 1.0)
    # A term that one point alone tells would follow that point, and lead astray everything beyond it.
    told_by = np.stack([np.bincount(rows.point, column) for column in (new**2 / across).T], axis=1)
    tells &= told_by.max(axis=0) < MOST_OF_ONE_POINT
    shift = -((weights * solution.residuals) @ new) / across
    residuals = solution.residuals[:, None] + new * shift / weights[:, None]
    leverage = np.minimum(solution.leverage[:, None] + new**2 / across, 0.999)
    errors = np.average(np.abs(residuals) / (1 - leverage), axis=0, weights=rows.judging)
    return terms, np.where(tells & (shift > 0), errors, np.inf)


def _solved(form: Form, rows: Rows, starts: Mapping[Form, Floats], theta: Floats) -> Solution:
    start = starts.get(form)
    return solve(form, rows, theta if start is None else start)
