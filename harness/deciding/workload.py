"""Workloads: how many requests of which size.

A workload is a set of distinct (input tokens, output tokens) pairs with the number of requests of each. Where
only the two marginal histograms are known, the pairs are their product: input and output length are then taken
to be independent, and ``pairs_known`` is False so that every output can say so.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import PchipInterpolator

from harness.core.arrays import Floats
from harness.core.errors import UserError
from harness.core.files import write_atomically
from harness.deciding.octaves import Octaves
from harness.modelling.cost_function import MAX_TOTAL_TOKENS

KIND = "joulebench-workload"
WORKLOAD_VERSION = 1
COLUMNS = ("input_tokens", "output_tokens", "count")
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)

MEANS_ONLY = "only mean sizes are known, and what is decided by size needs those of single requests: export these"

Tokens = NDArray[np.int64]
Histogram = tuple[Sequence[float], Sequence[float]]
"""Bin edges in tokens, and the requests of each bin."""


@dataclass(frozen=True)
class Workload:
    """Distinct request sizes and how often each occurs. The three arrays have one entry per distinct pair."""

    name: str
    source: str
    """Where the counts come from."""
    input_tokens: Tokens
    output_tokens: Tokens
    count: Floats
    """Requests of this size; fractional where a histogram was spread over the integers of its bins."""
    pairs_known: bool = True
    """False when only the two marginal distributions are known and the pairs assume independence."""
    dropped_rows: int = 0
    """Broken rows left out while reading."""
    cached_tokens: Floats | None = None
    """Mean tokens of each size's prompts that were read from a prefix cache, input tokens among them; None: unknown."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Rows of a log that are no requests, by the reason; broken ones among them."""
    form: str = ""
    """The form of the log that was read; empty for other workloads."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """What was read from which of the log's columns."""
    notes: tuple[str, ...] = ()
    """What a reader should know of how the log was read."""
    means_only: bool = False
    """The log has sums of many requests, so that all of one row have their mean size here."""

    @property
    def requests(self) -> float:
        """Number of requests."""
        return float(self.count.sum())

    @cached_property
    def octaves(self) -> Octaves:
        """Where the pairs lie on logarithmic axes."""
        return Octaves.of(self.input_tokens, self.output_tokens)


def from_pairs(
    name: str,
    source: str,
    input_tokens: ArrayLike,
    output_tokens: ArrayLike,
    count: ArrayLike | None = None,
    cached_tokens: ArrayLike | None = None,
) -> Workload:
    """Make a workload of (m, n) pairs, merging equal ones; ``count`` defaults to one request per pair.

    ``cached_tokens`` are those of each pair's prompts that a prefix cache held; equal pairs get their mean.

    Raises UserError for an empty workload, unequal lengths, token counts below 1, requests of more than
    MAX_TOTAL_TOKENS and counts that aren't positive.
    """
    m, n = np.asarray(input_tokens), np.asarray(output_tokens)
    weights = np.ones(m.shape) if count is None else np.asarray(count, dtype=np.float64)
    if m.ndim != 1 or m.shape != n.shape or m.shape != weights.shape:
        raise UserError(f"workload {name}: input tokens, output tokens and counts must have equal lengths")
    if m.size == 0:
        raise UserError(f"workload {name} holds no requests")
    if not all(np.issubdtype(a.dtype, np.integer) and a.min() >= 1 for a in (m, n)):
        raise UserError(f"workload {name}: token counts must be whole numbers of at least 1")
    too_long = np.flatnonzero((m > MAX_TOTAL_TOKENS) | (n > MAX_TOTAL_TOKENS - m))
    if too_long.size:
        i = too_long[0]
        raise UserError(
            f"workload {name}: pair {i + 1} has {m[i]} input and {n[i]} output tokens; "
            f"a request can have at most {MAX_TOTAL_TOKENS} in all"
        )
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise UserError(f"workload {name}: counts must be positive numbers")
    span = int(n.max()) + 1
    pairs = m.astype(np.int64) * span + n
    if (
        count is None and cached_tokens is None
    ):  # a sort of the pairs alone is several times as fast as one that keeps their order
        merged, requests = np.unique(pairs, return_counts=True)
    else:
        merged, inverse = np.unique(pairs, return_inverse=True)
        requests = np.bincount(inverse, weights)
    made = Workload(name, source, merged // span, merged % span, requests.astype(np.float64))
    if cached_tokens is None:
        return made
    cached = np.asarray(cached_tokens, dtype=np.float64)
    if cached.shape != m.shape or not ((cached >= 0) & (cached <= m)).all():
        raise UserError(f"workload {name}: cached tokens must be from 0 to the input tokens, one number a pair")
    return replace(made, cached_tokens=np.bincount(inverse, cached * weights) / requests)


def from_histograms(name: str, source: str, input_histogram: Histogram, output_histogram: Histogram) -> Workload:
    """Make a workload of two marginal histograms, whose product the pairs are. Raises UserError where they disagree."""
    m, m_count = spread_over_integers(*input_histogram)
    n, n_count = spread_over_integers(*output_histogram)
    requests = m_count.sum()
    if abs(requests - n_count.sum()) > 1e-9 * requests:
        raise UserError(f"workload {name}: the two histograms count different numbers of requests")
    pairs = np.outer(m_count, n_count / requests).ravel()
    return Workload(name, source, np.repeat(m, n.size), np.tile(n, m.size), pairs, pairs_known=False)


def spread_over_integers(edges: Sequence[float], counts: Sequence[float]) -> tuple[Tokens, Floats]:
    """Spread a histogram of integer lengths over the integers of its bins.

    Bins hold their left edge and not their right one, the last bin both (numpy's rule). The cumulative count,
    known exactly at the bins' ends, is joined by a monotone cubic, so that every bin keeps its count and no
    length gets a negative one. Returns the lengths with a positive count and those counts.
    """
    bounds, known = np.asarray(edges, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if bounds.size != known.size + 1 or (np.diff(bounds) <= 0).any() or (known < 0).any() or known.sum() <= 0:
        raise UserError("a histogram needs ascending edges, one more than counts, and counts of at least 0")
    if not bounds[-1] <= MAX_TOTAL_TOKENS:
        raise UserError(f"a histogram can reach to at most {MAX_TOTAL_TOKENS} tokens, not {bounds[-1]:g}")
    first = np.ceil(bounds - 1e-9)
    first[-1] = np.floor(bounds[-1] + 1e-9) + 1
    if first[0] < 1 or (np.diff(first) < 1).any():
        raise UserError("every bin of a histogram must hold at least one whole number of tokens, from 1 on")
    cumulative = PchipInterpolator(first - 0.5, np.r_[0.0, np.cumsum(known)])
    lengths = np.arange(int(first[0]), int(first[-1]))
    spread = np.diff(cumulative(np.append(lengths, lengths[-1] + 1) - 0.5))
    positive = spread > 1e-12 * known.sum()
    return lengths[positive], spread[positive]


def with_output_tokens(workload: Workload, output_tokens: int) -> Workload:
    """The same requests with every output length set to ``output_tokens``."""
    if not 1 <= output_tokens <= MAX_TOTAL_TOKENS:
        raise UserError(f"the output length must be 1 to {MAX_TOTAL_TOKENS} tokens, not {output_tokens}")
    m, count = marginal(workload.input_tokens, workload.count)
    name = f"{workload.name}, every output {output_tokens} tokens"
    changed = Workload(name, workload.source, m, np.full_like(m, output_tokens), count)
    kept = ("dropped_rows", "left_out", "form", "columns", "notes", "means_only")
    cached = _mean_by(workload.input_tokens, workload.cached_tokens, workload.count)
    return replace(changed, cached_tokens=cached, **{name: getattr(workload, name) for name in kept})


def _mean_by(tokens: Tokens, cached: Floats | None, count: Floats) -> Floats | None:
    """Mean cached tokens of each distinct length."""
    if cached is None:
        return None
    _, inverse = np.unique(tokens, return_inverse=True)
    mean: Floats = np.bincount(inverse, cached * count) / np.bincount(inverse, count)
    return mean


def marginal(tokens: Tokens, count: Floats) -> tuple[Tokens, Floats]:
    """Distinct lengths in ascending order and the requests of each."""
    lengths, inverse = np.unique(tokens, return_inverse=True)
    return lengths, np.bincount(inverse, count).astype(np.float64)


def quantiles(tokens: Tokens, count: Floats, levels: Sequence[float] = QUANTILES) -> list[int]:
    """The smallest length that at least each level's share of requests does not exceed."""
    lengths, weights = marginal(tokens, count)
    cumulative = np.cumsum(weights)
    positions = np.searchsorted(cumulative, np.asarray(levels) * cumulative[-1] * (1 - 1e-12))
    return [int(lengths[min(i, lengths.size - 1)]) for i in positions]


def builtin_names() -> list[str]:
    """Names of the workloads shipped with the package."""
    files = (f for f in resources.files("profiles").iterdir() if f.name.endswith(".json"))
    return sorted(f.name.removesuffix(".json") for f in files if f'"{KIND}"' in f.read_text("utf-8"))


def is_saved_workload(path: Path) -> bool:
    """Whether a JSON file was written by ``save``, judged by its beginning: traces can be larger than memory."""
    with path.open("rb") as file:
        return f'"{KIND}"'.encode() in file.read(200)


def parse(text: str, origin: str) -> Workload:
    """Read the JSON form of a workload. Raises UserError naming ``origin`` and what is wrong."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise UserError(f"{origin} is not valid JSON: {error}") from None
    except RecursionError:
        raise UserError(f"{origin} is not a workload file: its brackets are nested too deeply") from None
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise UserError(f"{origin} is not a workload file")
    if data.get("schema_version") != WORKLOAD_VERSION:
        raise UserError(
            f"{origin} has workload schema version {data.get('schema_version')}; this version of joulebench "
            f"reads {WORKLOAD_VERSION}"
        )
    try:
        name, source = str(data["name"]), str(data["source"])
        if "pairs" in data:
            m, n, count = (data["pairs"][axis] for axis in COLUMNS)
            made = from_pairs(name, source, m, n, count, data["pairs"].get("cached_tokens"))
            left_out = {str(reason): int(rows) for reason, rows in data.get("left_out", {}).items()}
            return replace(made, dropped_rows=int(data.get("dropped_rows", 0)), left_out=left_out)
        histograms = [data["histograms"][axis] for axis in COLUMNS[:2]]
        return from_histograms(name, source, *((h["edges"], h["counts"]) for h in histograms))
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise UserError(f"{origin} is not a usable workload: {type(error).__name__}: {error}") from None


def save(workload: Workload, path: Path) -> None:
    """Write a workload with known pairs as JSON. Raises UserError when the file can't be written."""
    if not workload.pairs_known:
        raise UserError(f"workload {workload.name} has no known pairs to save")
    if workload.means_only:
        raise UserError(f"workload {workload.name} has sums of many requests: {MEANS_ONLY}")
    pairs = {axis: getattr(workload, axis).tolist() for axis in COLUMNS}
    if workload.cached_tokens is not None:
        pairs["cached_tokens"] = workload.cached_tokens.tolist()
    facts = {"name": workload.name, "source": workload.source, "dropped_rows": workload.dropped_rows, "pairs": pairs}
    if workload.left_out:
        facts["left_out"] = dict(workload.left_out)
    write_atomically(path, json.dumps({"kind": KIND, "schema_version": WORKLOAD_VERSION, **facts}) + "\n")
