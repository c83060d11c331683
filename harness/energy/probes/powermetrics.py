"""Apple Silicon through macOS's powermetrics, which runs as root and streams property lists.

Each document holds the mean power of every rail over the real interval ``elapsed_ns``, which is longer than the
one asked for. The figures are modelled by the chip. With ``process`` attribution the CPU's energy is split by
energy impact, as in the workload-based energy models of Wilkins, Keshav and Mortier (2024): the share of the
worker's impact in that of all tasks, interval by interval; the GPU is counted whole.
"""

from __future__ import annotations

import getpass
import os
import plistlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import IO, Any
from xml.parsers.expat import ExpatError

import numpy as np

from harness.core.errors import ProbeFailed, ProbeUnavailable
from harness.core.quantities import Component, Facts
from harness.energy.document_stream import DocumentStream, IntervalEnds
from harness.energy.probes import refuse_option
from harness.energy.probes.base import Probe, ProbeContext, Role
from harness.energy.readings import LOST, Domain, Reading

_INTERVAL_MS = 100
_TASKS_INTERVAL_MS = 500
"""With a line for every task a document is large and dear to parse."""
_PATIENCE_S = 10.0
_FEWEST_BATCHES, _REGULAR = 2, 1.5
_WATCH_S, _FEW_DOCUMENTS = 8.0, 5
"""How long rails are watched for batches, and how many documents show that there are none."""
_RAILS: tuple[Component, ...] = ("cpu", "gpu", "ane", "dram")
_UNREAD = (b"dvfm_states", b"timer_wakeups", b"sw_requested_state", b"sw_state", b"cpus", b"clusters")
"""Arrays that make up nine tenths of a document and that nobody reads here, inner ones before those that hold them."""
_THROTTLED = ("Heavy", "Trapping", "Sleeping")
"""Levels of thermal pressure at which the chip is slowed down."""
_MILLI, _NANO = 1e-3, 1e-9
_LONGEST_NS = 10**12
"""No interval is longer; a number beyond it is damage."""
_MOST_MW, _MOST_MJ = 1e7, 1e10
"""No chip draws more, and no interval holds more; numbers beyond are damage."""
_SLACK_NS = 1_000_000_000
"""How much longer an interval may be than the time since the one before ended."""


class Powermetrics(Probe):
    """Sums each rail's energy over the intervals, so that it reads like a counter at the intervals' ends."""

    role: Role = "meter"
    note = "modelled by the chip: SoC rails, no display, no DRAM since macOS 13; not made for comparing devices"

    def __init__(self, option: str | None = None) -> None:
        """Raises UserError for any option."""
        refuse_option("powermetrics", option)
        self._context = ProbeContext()
        self._process: subprocess.Popen[bytes] | None = None
        self._stream: DocumentStream | None = None
        self._by_process = False
        self._rails: dict[str, Domain] = {}
        self._joules: dict[str, float] = {}
        self._ends = IntervalEnds()
        self._end_ns: int | None = None
        self._messages: IO[bytes] | None = None
        self._last: Mapping[str, Any] = {}
        self._lost = 0

    def open(self, context: ProbeContext) -> None:
        program = shutil.which("powermetrics")
        if program is None:
            raise ProbeUnavailable("powermetrics exists only on macOS")
        self._context = context
        self._by_process = context.attribution == "process"
        self._start(program)
        document = self._first_document(program)
        watched = self._watch(document)
        interval_s = document["elapsed_ns"] * _NANO
        for rail in _RAILS:
            if _rail_j(document, rail) is not None:
                shared = self._by_process and rail == "cpu"
                name = f"soc-{rail}-process" if shared else f"soc-{rail}"
                batch_s = _batch_s(watched, rail)
                domain = Domain(
                    name, rail, "counter", "modelled", "powermetrics", _MILLI, batch_s or interval_s, source=name
                )
                # What comes in batches was used at any time since the batch before.
                self._rails[rail] = replace(domain, scope="process" if shared else None, stamped=batch_s is None)
        self._joules = dict.fromkeys(self._rails, 0.0)
        if not self._rails:
            raise ProbeUnavailable("powermetrics lists no power rail: this Mac has no Apple Silicon")
        if self._by_process and _impacts(document) is None:
            raise ProbeUnavailable("powermetrics lists no energy impact of tasks", "use --attribution system")

    def domains(self) -> Sequence[Domain]:
        return list(self._rails.values())

    def read(self) -> Sequence[Reading]:
        assert self._stream is not None
        readings: list[Reading] = []
        for arrived_ns, text in self._stream.take():
            try:
                readings += self._account(arrived_ns, _parse(text))
            except _Unreadable:
                readings += self._lose(arrived_ns)
        if not readings and self._stream.ended:
            raise ProbeFailed(f"powermetrics ended: {self._last_words()}")
        return readings

    def conditions(self) -> Facts:
        pressure = self._last.get("thermal_pressure")
        gpu = self._last.get("gpu", {})
        return {
            "thermal_pressure": pressure,
            "gpu_clock_mhz": gpu.get("freq_hz"),  # the key says Hz, the value is in MHz
            "gpu_idle_ratio": gpu.get("idle_ratio"),
            "unreadable_documents": self._lost,
            "disturbed": f"thermal pressure was {pressure}" if pressure in _THROTTLED else None,
        }

    def close(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        try:
            process.terminate()
        except PermissionError:
            pass  # it runs as root: it ends at its next write, once nobody reads
        if self._stream is not None:
            self._stream.close()
        try:
            process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            return
        finally:
            if self._messages is not None:
                self._messages.close()

    def _start(self, program: str) -> None:
        samplers = "cpu_power,gpu_power,thermal" + (",tasks" if self._by_process else "")
        interval_ms = _TASKS_INTERVAL_MS if self._by_process else _INTERVAL_MS
        command = [program, "--samplers", samplers, "-f", "plist", "-i", str(interval_ms), "-b", "1"]
        if self._by_process:
            command.append("--show-process-energy")
        if os.geteuid() != 0:
            command = ["sudo", "-n", *command]
        # A file takes any number of warnings; a pipe that nobody reads would stop the program when it is full.
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the probe
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._messages
            )
        except OSError as error:
            self._messages.close()
            raise ProbeUnavailable(f"{command[0]} can't be started: {error.strerror}") from None
        assert self._process.stdout is not None
        self._stream = DocumentStream(self._process.stdout)

    def _watch(self, first: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Documents enough to tell whether the chip publishes a rail's energy in batches longer than an interval."""
        assert self._stream is not None
        self._last, watched = first, [first]
        deadline = time.monotonic() + _WATCH_S
        while time.monotonic() < deadline and not self._stream.ended:
            if len(watched) > _FEW_DOCUMENTS and not any(_comes_and_goes(watched, rail) for rail in _RAILS):
                break
            for arrived_ns, text in self._stream.take():
                try:
                    document = _parse(text)
                except _Unreadable:
                    self._ends = IntervalEnds()
                    continue
                self._end_ns = self._ends.add(arrived_ns, document["elapsed_ns"])
                watched.append(document)
            time.sleep(0.02)
        self._last = watched[-1]
        return watched

    def _first_document(self, program: str) -> Mapping[str, Any]:
        """Wait for the first document, the proof that root was granted. Raises ProbeUnavailable."""
        assert self._stream is not None
        deadline = time.monotonic() + _PATIENCE_S
        reason = f"powermetrics sent nothing in {_PATIENCE_S:g} s"
        while time.monotonic() < deadline:
            ended = self._stream.ended
            for arrived_ns, text in reversed(self._stream.take()):
                try:
                    document = _parse(text)
                except _Unreadable as error:
                    reason = str(error)
                    continue
                self._end_ns = self._ends.add(arrived_ns, document["elapsed_ns"])
                return document
            if ended:
                break
            time.sleep(0.02)
        else:
            raise ProbeUnavailable(reason)
        raise ProbeUnavailable(
            f"powermetrics was refused: {self._last_words()}",
            "an administrator can allow it with this one line in /etc/sudoers.d/powermetrics (edit it with visudo): "
            f"{_user()} ALL=(root) NOPASSWD: {program}",
        )

    def _last_words(self) -> str:
        """What a program that ended wrote to its standard error, or its exit status."""
        assert self._process is not None
        assert self._messages is not None
        try:
            status = f"exit status {self._process.wait(timeout=5.0)}"
        except subprocess.TimeoutExpired:
            status = "it closed its output without ending"
        self._messages.seek(0)
        words = self._messages.read().decode(errors="replace").strip().splitlines()
        return words[-1] if words else status

    def _lose(self, arrived_ns: int) -> list[Reading]:
        """Note that the energy of an interval is unknown: no rail's count says what it used meanwhile."""
        self._lost += 1
        # Nor is its length known, which tied the intervals before it to the clock.
        self._ends = IntervalEnds()
        self._end_ns = arrived_ns
        return [Reading(domain.name, arrived_ns, LOST) for domain in self._rails.values()]

    def _account(self, arrived_ns: int, document: Mapping[str, Any]) -> list[Reading]:
        """Add one interval to every rail's sum."""
        if self._end_ns is not None and document["elapsed_ns"] > arrived_ns - self._end_ns + _SLACK_NS:
            return self._lose(arrived_ns)
        end_ns = self._end_ns = self._ends.add(arrived_ns, document["elapsed_ns"])
        if arrived_ns - end_ns > _PATIENCE_S / _NANO:
            return self._lose(arrived_ns)  # it fell so far behind that nobody knows when its intervals ended
        self._last = document
        readings = []
        for rail, domain in self._rails.items():
            joules = _rail_j(document, rail)
            if self._by_process and rail == "cpu":
                own = self._context.own_pids()
                if not own:
                    continue
                impacts = _impacts(document) or {}
                total = sum(impacts.values())
                if joules is not None:
                    ours = sum(impact for pid, impact in impacts.items() if pid in own)
                    joules *= ours / total if total > 0 else 0.0
            self._joules[rail] += joules or 0.0
            readings.append(Reading(domain.name, end_ns, LOST if joules is None else self._joules[rail]))
        return readings


def _user() -> str:
    """How sudoers names this user: a user without a name goes by ``#`` and number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"#{os.getuid()}"


class _Unreadable(Exception):
    """A document that says nothing; the message is why."""


def _parse(text: bytes) -> Mapping[str, Any]:
    """A document's facts without its long lists of states. Raises _Unreadable."""
    try:
        document: dict[str, Any] = plistlib.loads(_slim(text).strip())
        elapsed_ns = document["elapsed_ns"]
        sound = _is_sound(document)
    except (plistlib.InvalidFileException, ExpatError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _Unreadable(f"powermetrics wrote a document that can't be read: {error!r}") from None
    if not isinstance(elapsed_ns, int) or not 0 < elapsed_ns < _LONGEST_NS:
        raise _Unreadable(f"powermetrics wrote a document with an interval of {elapsed_ns!r} ns")
    if not sound:
        raise _Unreadable("powermetrics wrote a document whose entries are not what they should be")
    return document


def _is_sound(document: Mapping[str, Any]) -> bool:
    """Whether what is read here has the right types and could be true. Raises what wrong types raise."""
    processor, gpu = document.get("processor", {}), document.get("gpu", {})
    powers = [processor.get(f"{rail}_power", 0) for rail in _RAILS]
    energies = [part.get(f"{rail}_energy", 0) for rail in _RAILS for part in (processor, gpu)]
    facts = [gpu.get("freq_hz"), gpu.get("idle_ratio")]
    _impacts(document)
    return (
        all(isinstance(power, int | float) and 0 <= power < _MOST_MW for power in powers)
        and all(isinstance(energy, int | float) and 0 <= energy < _MOST_MJ for energy in energies)
        and all(fact is None or isinstance(fact, int | float) for fact in facts)
        and isinstance(document.get("thermal_pressure", ""), str)
    )


def _slim(text: bytes) -> bytes:
    """A document without the arrays that nobody reads: parsing all of one takes 3.5 ms of every 100, of this 0.4 ms."""
    for name in _UNREAD:
        key, kept, at = b"<key>" + name + b"</key>", [], 0
        while (start := text.find(key, at)) >= 0:
            opening, end = text.find(b"<array>", start), text.find(b"</array>", start)
            if opening < 0 or end < opening or text[start + len(key) : opening].strip():
                break
            if text.find(b"<array>", opening + 1, end) >= 0:
                break  # arrays of a kind that is not known here: it stays whole
            kept.append(text[at:start])
            at = end + len(b"</array>")
        text = b"".join((*kept, text[at:]))
    return text


def _rail_j(document: Mapping[str, Any], rail: str) -> float | None:
    """Energy of a rail over a document's interval, in J; None where it isn't listed."""
    processor = document.get("processor", {})
    power_mw = processor.get(f"{rail}_power")
    if power_mw is not None:
        return float(power_mw) * _MILLI * document["elapsed_ns"] * _NANO
    energy_mj = processor.get(f"{rail}_energy", document.get(rail, {}).get(f"{rail}_energy"))
    return None if energy_mj is None else float(energy_mj) * _MILLI


def _comes_and_goes(documents: Sequence[Mapping[str, Any]], rail: str) -> bool:
    """Whether a rail that is at work shows nothing in half of the intervals or more. The CPU always is at work."""
    shown = [_rail_j(document, rail) for document in documents]
    moved = sum(bool(joules) for joules in shown)
    return moved <= len(documents) / 2 and (moved > 0 or (rail == "cpu" and shown[0] is not None))


def _batch_s(documents: Sequence[Mapping[str, Any]], rail: str) -> float | None:
    """Longest time between two batches of a rail, in s; None where it doesn't come in regular batches.

    Counters that powermetrics reads may be published about every 2.1 s, in two parts (lablup/all-smi, issues 410 and
    415). A rail that is off most of the time shows no such rule.
    """
    if not _comes_and_goes(documents, rail):
        return None
    moved = np.array([bool(_rail_j(document, rail)) for document in documents])
    ends_s = np.cumsum([document["elapsed_ns"] * _NANO for document in documents])
    begins = ends_s[moved & ~np.concatenate(([False], moved[:-1]))]
    gaps_s = np.diff(begins)
    if gaps_s.size < _FEWEST_BATCHES or gaps_s.max() > _REGULAR * gaps_s.min():
        return None
    return float(gaps_s.max())


def _impacts(document: Mapping[str, Any]) -> dict[int, float] | None:
    """Energy impact by process; None where tasks carry none."""
    impacts: dict[int, float] = {}
    for task in document.get("tasks", ()):
        if "energy_impact" in task and task.get("name") != "ALL_TASKS":
            pid = int(task.get("pid", -1))
            impacts[pid] = impacts.get(pid, 0.0) + float(task["energy_impact"])
    return impacts or None


create = Powermetrics
