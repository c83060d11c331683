"""Trains of requests that draw known power, with rest on both sides: what phases' energies are checked with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from synthetic import ORIGIN_NS, Load

from harness.energy.readings import Window

PREFILL_S = 0.3
_FLUCTUATION = 0.02
_REQUEST = 0.005
"""Standard deviation of a phase's power from request to request, relative."""
_SLOPE = 0.1
"""How far power at a phase's ends lies from its mean at most, relative."""
_STEP_S = 0.01


@dataclass(frozen=True)
class Train:
    """Requests one after the other, and what they draw."""

    load: Load
    starts_s: np.ndarray
    prefill_ends_s: np.ndarray
    ends_s: np.ndarray
    phase: np.ndarray
    """Of each of the load's pieces: 0 prefill, 1 decode, 2 a pause, 3 before, 4 after."""
    request: np.ndarray
    """Of each piece, from 0; -1 outside requests."""
    fluctuation_w: np.ndarray
    """Standard deviation of each piece's power, from piece to piece and from request to request."""
    request_w: np.ndarray

    @property
    def window(self) -> Window:
        return Window(*(_ns(each) for each in (self.starts_s, self.prefill_ends_s, self.ends_s)))

    def true_j(self) -> np.ndarray:
        """Energy of all prefills and of all decodes."""
        prefills = self.load.energy_j(self.starts_s, self.prefill_ends_s).sum()
        return np.array([prefills, self.load.energy_j(self.prefill_ends_s, self.ends_s).sum()])


def train(rng: np.random.Generator, spread: float, prefill_s: float = PREFILL_S, window_s: float = 10.0) -> Train:
    """A random window with rest on both sides."""
    decode_s = rng.uniform(0.8, 1.1)
    count = max(2, round(window_s / (prefill_s + decode_s)))
    lengths = np.column_stack((np.full(count, prefill_s), np.full(count, decode_s), np.full(count, 1e-4)))
    lengths[:, :2] *= np.maximum(1.0 + spread * rng.normal(size=(count, 2)), 0.5)
    marks = np.concatenate(([0.0], np.cumsum(lengths.ravel())))[:-1]
    rest_s, idle_w = 6.0, rng.uniform(40.0, 80.0)
    all_lengths = np.concatenate(([rest_s], np.diff(marks), [rest_s]))
    phases = np.concatenate(([3], np.resize([0, 1, 2], marks.size - 1), [4]))
    requests = np.concatenate(([-1], np.arange(marks.size - 1) // 3, [-1]))
    pieces = np.maximum(1, np.round(all_lengths / _STEP_S)).astype(int)
    edges = np.concatenate(([0.0], np.cumsum(np.repeat(all_lengths / pieces, pieces)))) - rest_s
    phase, request = np.repeat(phases, pieces), np.repeat(requests, pieces)
    mean_w = np.array([*rng.uniform(150.0, 400.0, 2), idle_w, idle_w, idle_w])[phase]
    along = np.concatenate([(np.arange(each) + 0.5) / each * 2.0 - 1.0 for each in pieces])
    slopes = np.array([*rng.uniform(-_SLOPE, _SLOPE, 2), 0.0, 0.0, 0.0])[phase]
    levels = np.repeat(rng.normal(0.0, _REQUEST, phases.size) * (phases < 2), pieces)
    power_w = mean_w * (1.0 + slopes * along + levels + rng.normal(0.0, _FLUCTUATION, phase.size))
    own_w, request_w = _FLUCTUATION * mean_w, _REQUEST * mean_w * (phase < 2)
    return Train(Load(edges, power_w), marks[0::3], marks[1::3], marks[2::3], phase, request, own_w, request_w)


def _ns(times_s: np.ndarray) -> np.ndarray:
    return ORIGIN_NS + np.round(times_s * 1e9).astype(np.int64)
