"""How right step costs fitted to the first half of a request log are about its second half.

    python scripts/bench/steps.py FILE... [--slots N] [--chunk-tokens N] [--kv-tokens N] [--json]

Each FILE is a CSV or JSONL log of one engine's requests: input_tokens, output_tokens, queued_s, scheduled_s,
first_token_s and last_token_s. The times of the first half, in order of arrival, are fitted. Then all requests are
simulated from an empty engine; of the second half the simulation knows sizes and arrivals alone. ``e2e_error``,
``tpot_error`` and ``ttft_error`` are mean absolute relative errors of the second half, request by request. The engine's
limits are settings, not costs: those that aren't given are looked for in the first half, then in the whole log
(``limits_from``). Where memory is the limit, sequences are set aside as vLLM does.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from comparison import OneLineParser

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.modelling.served.engine import Engine
from harness.modelling.served.engine_limits import EngineLimits, found_limits
from harness.modelling.served.request_log import RequestLog, read_request_times
from harness.modelling.served.step_fit import fit_first_requests
from harness.serving.preempting_fit import fit_preempting
from harness.serving.simulation import Requests, simulate

_LINE = "{:<46} {:>8} {:>6} {:>7} {:>7} {:>7} {:>6} {:>6} {:>9}  {}"


@dataclass(frozen=True)
class Row:
    """One log."""

    file: str
    requests: int
    fitted: int
    e2e_error: float
    tpot_error: float
    ttft_error: float
    decode_misfit: float
    """Of the times from first to last token that were fitted."""
    slots: int | None
    chunk_tokens: int | None
    kv_tokens: int | None
    recomputed_share: float | None
    """Of a context that was set aside where memory was full; None where none was."""
    limits_from: str
    coefficients: list[float]
    """a, s, d1, c0, w1, w2 in s."""
    standard_errors: list[float]


def replay(engine: Engine, log: RequestLog) -> RequestLog:
    """The times of a log's requests as an engine would have them, of which sizes and times queued are read."""
    counts = (values.astype(np.int64) for values in (log.input_tokens, log.output_tokens))
    done = simulate(engine, Requests(log.queued_s, *counts))
    return RequestLog(log.input_tokens, log.output_tokens, log.queued_s, done.start_s, done.first_token_s, done.end_s)


def judge(file: Path, given: EngineLimits) -> Row:
    """Fit the first half of a log and predict the second. Raises UserError."""
    log = read_request_times(file)
    count = len(log) // 2
    limits, source = _limits(log, count, given)
    if limits.kv_tokens is None:
        fit = fit_first_requests(log, count, replay, limits)
        replayed, recomputed = replay(fit.engine, log), None
    else:
        preempting = fit_preempting(log, count, limits)
        fit, recomputed = preempting.fit, preempting.recomputed_share
        replayed = preempting.replay(log)
    predicted, measured = (part.only(slice(count, None)) for part in (replayed, log))
    return Row(
        file=str(file),
        requests=len(log),
        fitted=count,
        e2e_error=_mean_error(predicted.e2e_s, measured.e2e_s),
        tpot_error=_mean_error(predicted.tpot_s, measured.tpot_s),
        ttft_error=_mean_error(predicted.ttft_s, measured.ttft_s),
        decode_misfit=fit.decode_misfit,
        slots=fit.engine.slots,
        chunk_tokens=fit.engine.chunk_tokens,
        kv_tokens=fit.engine.kv_tokens,
        recomputed_share=recomputed,
        limits_from=source,
        coefficients=fit.coefficients.tolist(),
        standard_errors=fit.standard_errors.tolist(),
    )


def _limits(log: RequestLog, count: int, given: EngineLimits) -> tuple[EngineLimits, str]:
    if given.slots is not None or given.kv_tokens is not None:
        return given, "given"
    for part, source in ((log.only(slice(0, count)), "first half"), (log, "whole log")):
        found = found_limits(part)
        if found != EngineLimits():
            return EngineLimits(found.slots, given.chunk_tokens, found.kv_tokens), source
    return given, "none found"


def _mean_error(predicted: Floats, measured: Floats) -> float:
    """Over requests whose measured time is above 0."""
    with np.errstate(invalid="ignore"):
        known = measured > 0
    return float(np.mean(np.abs(predicted[known] / measured[known] - 1)))


def main() -> None:
    """Print a line for each log."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="request log")
    parser.add_argument("--slots", type=int, help="sequences that the engine works on at once")
    parser.add_argument("--chunk-tokens", type=int, help="most tokens in a step")
    parser.add_argument("--kv-tokens", type=int, help="positions of context that its memory holds")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    for name in ("slots", "chunk_tokens", "kv_tokens"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    try:
        limits = EngineLimits(options.slots, options.chunk_tokens, options.kv_tokens)
        rows = [judge(file, limits) for file in options.files]
    except UserError as error:
        parser.error(str(error))
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}, indent=1))
        return
    print(
        _LINE.format("log", "requests", "fitted", "E2E", "TPOT", "TTFT", "slots", "chunk", "KV tokens", "limits from")
    )
    for row in rows:
        errors = (f"{error:.1%}" for error in (row.e2e_error, row.tpot_error, row.ttft_error))
        limits_said = (value or "-" for value in (row.slots, row.chunk_tokens, row.kv_tokens))
        print(_LINE.format(Path(row.file).name, row.requests, row.fitted, *errors, *limits_said, row.limits_from))


if __name__ == "__main__":
    main()
