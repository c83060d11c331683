"""What a measured system can be compared with now: shipped profiles that match, or the command that makes one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.errors import UserError
from harness.core.sizes import request_words
from harness.modelling.comparable import NotComparable
from harness.modelling.contrast import Contrasts, contrast_at
from harness.modelling.profile import Profile, shipped_names
from harness.modelling.profile_fit import Loaded, ProfileLike, load_or_fit
from harness.modelling.system_names import precision
from harness.runs.summary import TYPICAL
from harness.showing.comparisons import times_words

MOST = 4
"""Comparisons that are shown."""
PAPER_NEEDS = "about 14 GB of memory in 16 bit, 27 GB in float32; add --dry-run to see how long it takes"
SHARED_PRECISION = {
    "float32": {"transformers": "float32", "llama-cpp": "F32"},
    "float16": {"transformers": "float16", "llama-cpp": "F16"},
}
"""By precision what each backend calls it, of those that run the same models; the first one runs well everywhere."""


@dataclass(frozen=True)
class _Match:
    name: str
    contrasts: Contrasts
    without_energy: str
    """Why energy isn't compared; empty where it is or neither system has any."""


def comparison_lines(given: ProfileLike, program: Sequence[str]) -> list[str]:
    """Sentences that set a profile or run against the shipped profiles that it may be compared with.

    Without any, which commands would make a comparison; ``program`` is how they begin. Where a run can't be fitted,
    why not.
    """
    try:
        own = load_or_fit(given)
    except UserError as reason:
        return [f"no comparison: {reason}"]
    found = [match for name in shipped_names() if name != own.profile.name and (match := _match(own.profile, name))]
    if not found:
        return _remedies(own, shlex.join(program))
    lines = [_words(match) for match in found[:MOST]]
    return [*lines, *_next(own, found[0], shlex.join(program))]


def _match(own: Profile, name: str) -> _Match | None:
    """The comparison with a shipped profile; None where it is not allowed. Energy is left out where only it is not."""
    other = Profile.load(name)
    m, n = (np.array([size]) for size in _request(own, other))
    if own.energy is None or other.energy is None:
        reason = "this run has no energy" if other.energy is not None else ""
    else:
        try:
            return _Match(name, contrast_at(own, other, m, n), "")
        except NotComparable as refusal:
            reason = _short(own, refusal)
    try:
        return _Match(name, contrast_at(own, other, m, n, energy=False), reason)
    except NotComparable:
        return None


def _short(own: Profile, refusal: NotComparable) -> str:
    """Why energies can't be compared, in few words."""
    return "energy is estimated here and measured there" if own.energy_method() == "estimated" else refusal.reasons[0]


def _request(own: Profile, other: Profile) -> tuple[int, int]:
    """The typical request, or the point measured nearest to it that both systems cover; it may extrapolate."""
    typical = TYPICAL.input_tokens, TYPICAL.output_tokens
    points = [typical, *((round(p.input_tokens), p.output_tokens_requested) for p in own.measurements)]
    functions = [profile.runtime_function for profile in (own, other)]
    covered = [point for point in points if all(bool(f.range.covers(*point)) for f in functions)]
    return min(covered, key=lambda point: abs(point[0] - typical[0]) + abs(point[1] - typical[1]), default=typical)


def _next(own: Loaded, match: _Match, program: str) -> list[str]:
    """The commands that say more of a comparison."""
    lines = [f"all request sizes: {program} compare {shlex.join([own.given, match.name])}"]
    if match.contrasts.energy is not None:
        # The slower one is the small system.
        pair = [own.given, match.name] if match.contrasts.runtime.ratio[0] > 1 else [match.name, own.given]
        lines.append(f"which requests go where: {program} threshold {shlex.join(pair)}")
    return lines


def _words(match: _Match) -> str:
    """``against m1-pro-llama-2-7b: 10.3× the runtime (9.1–11.7×) and … at 32 in, 32 out``."""
    both = match.contrasts
    parts = [times_words(both.runtime, 0, "runtime")]
    if both.energy is not None:
        parts.append(times_words(both.energy, 0, "energy"))
    outside = ", outside the measured range" if both.out_of_range[0] else ""
    missing = f"; energy isn't compared: {match.without_energy}" if match.without_energy else ""
    size = request_words(both.input_tokens[0], both.output_tokens[0])
    here, there = (profile.identity.concurrency for profile in (both.first, both.second))
    load = f", {here} in flight here and {there} there" if here and there and here != there else ""
    return f"against {match.name}: {' and '.join(parts)} at {size}{load}{outside}{missing}"


def _remedies(own: Loaded, program: str) -> list[str]:
    """Why nothing shipped matches, and which commands would make a comparison."""
    identity = own.profile.identity
    shipped = [profile for name in shipped_names() if (profile := Profile.load(name)).identity.model == identity.model]
    if not shipped:
        why = f"No shipped profile ran {identity.model}."
    elif identity.kv_cache and not any(profile.identity.kv_cache for profile in shipped):
        why = f"The shipped profiles of {identity.model} ran without KV cache."
    else:
        why = f"The shipped profiles of {identity.model} differ in precision."
    model = identity.model if shipped else "llama-2-7b"
    paper = f"To compare with the paper's systems: {program} measure --protocol paper -m {model} ({PAPER_NEEDS})"
    return [why, paper, _other_backend(own, program)]


def _other_backend(own: Loaded, program: str) -> str:
    """How the same model is measured with another backend on this machine, or else on another machine."""
    identity = own.profile.identity
    own_precision = precision(identity.dtype or "")
    shared = own_precision if own_precision in SHARED_PRECISION else next(iter(SHARED_PRECISION))
    called = SHARED_PRECISION[shared]
    others = [backend for backend in called if backend != identity.backend]
    # Random weights are those of a preset, which both backends have.
    if len(others) > 1 or not identity.random_weights or not identity.kv_cache or (identity.concurrency or 1) > 1:
        there = f"{program} compare {shlex.quote(own.given)} OTHER"
        return f"To compare with another machine: measure the same there, then: {there}"
    again = [] if shared == own_precision else [str(identity.backend)]
    needed = [*again, *others]
    commands = [
        f"{program} measure {shlex.join(['-m', identity.model, '--backend', backend])} "
        f"--dtype {called[backend]} -o runs/{backend}-{shared}"
        for backend in needed
    ]
    compared = [*([] if again else [own.given]), *(f"runs/{backend}-{shared}" for backend in needed)]
    commands.append(f"{program} compare {shlex.join(compared)}")
    return f"To compare with {others[0]} on this machine, both in {shared}: {' && '.join(commands)}"
