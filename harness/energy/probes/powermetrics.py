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

from harness.core.errors import ProbeFailed, ProbeUnavailable
from harness.core.quantities import Component, Facts
from harness.energy.document_stream import DocumentStream, IntervalEnds
from harness.energy.probes import refuse_option
from harness.energy.probes.base import Probe, ProbeContext, Role
from harness.energy.readings import Domain, Reading

_INTERVAL_MS = 100
_TASKS_INTERVAL_MS = 500
"""With a line for every task a document is large and dear to parse."""
_PATIENCE_S = 10.0
_RAILS: tuple[Component, ...] = ("cpu", "gpu", "ane", "dram")
_THROTTLED = ("Heavy", "Trapping", "Sleeping")
"""Levels of thermal pressure at which the chip is slowed down."""
_MILLI, _NANO = 1e-3, 1e-9


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
        self._messages: IO[bytes] | None = None
        self._last: Mapping[str, Any] = {}

    def open(self, context: ProbeContext) -> None:
        program = shutil.which("powermetrics")
        if program is None:
            raise ProbeUnavailable("powermetrics exists only on macOS")
        self._context = context
        self._by_process = context.attribution == "process"
        self._start(program)
        arrived_ns, document = self._first_document(program)
        self._last = document
        self._ends.add(arrived_ns, int(document["elapsed_ns"]))
        interval_s = document["elapsed_ns"] * _NANO
        for rail in _RAILS:
            if _rail_j(document, rail) is not None:
                shared = self._by_process and rail == "cpu"
                name = f"soc-{rail}-process" if shared else f"soc-{rail}"
                domain = Domain(name, rail, "counter", "modelled", "powermetrics", _MILLI, interval_s, source=name)
                self._rails[rail] = replace(domain, scope="process" if shared else None, stamped=True)
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
            readings += self._account(arrived_ns, _parse(text))
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

    def _first_document(self, program: str) -> tuple[int, Mapping[str, Any]]:
        """Wait for the first document, the proof that root was granted. Raises ProbeUnavailable."""
        assert self._stream is not None
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            ended = self._stream.ended
            documents = self._stream.take()
            if documents:
                arrived_ns, text = documents[-1]
                try:
                    return arrived_ns, _parse(text)
                except ProbeFailed as error:
                    raise ProbeUnavailable(str(error)) from None
            if ended:
                break
            time.sleep(0.02)
        else:
            raise ProbeUnavailable(f"powermetrics sent nothing in {_PATIENCE_S:g} s")
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

    def _account(self, arrived_ns: int, document: Mapping[str, Any]) -> list[Reading]:
        """Add one interval to every rail's sum."""
        end_ns = self._ends.add(arrived_ns, int(document["elapsed_ns"]))
        if arrived_ns - end_ns > _PATIENCE_S / _NANO:
            raise ProbeFailed("powermetrics fell far behind: the time of its readings is unknown")
        self._last = document
        readings = []
        for rail, domain in self._rails.items():
            joules = _rail_j(document, rail)
            if joules is None:
                raise ProbeFailed(f"powermetrics no longer lists {rail}")
            if self._by_process and rail == "cpu":
                worker = self._context.worker_pid
                if worker is None:
                    continue
                impacts = _impacts(document) or {}
                total = sum(impacts.values())
                joules *= impacts.get(worker, 0.0) / total if total > 0 else 0.0
            self._joules[rail] += joules
            readings.append(Reading(domain.name, end_ns, self._joules[rail]))
        return readings


def _user() -> str:
    """How sudoers names this user: a user without a name goes by ``#`` and number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"#{os.getuid()}"


def _parse(text: bytes) -> Mapping[str, Any]:
    try:
        document: dict[str, Any] = plistlib.loads(text.strip())
    except (plistlib.InvalidFileException, ExpatError, ValueError) as error:
        raise ProbeFailed(f"powermetrics wrote a document that can't be read: {error}") from None
    if not isinstance(document, dict) or not document.get("elapsed_ns", 0) > 0:
        raise ProbeFailed("powermetrics wrote a document without elapsed_ns")
    return document


def _rail_j(document: Mapping[str, Any], rail: str) -> float | None:
    """Energy of a rail over a document's interval, in J; None where it isn't listed."""
    processor = document.get("processor", {})
    power_mw = processor.get(f"{rail}_power")
    if power_mw is not None:
        return float(power_mw) * _MILLI * document["elapsed_ns"] * _NANO
    energy_mj = processor.get(f"{rail}_energy", document.get(rail, {}).get(f"{rail}_energy"))
    return None if energy_mj is None else float(energy_mj) * _MILLI


def _impacts(document: Mapping[str, Any]) -> dict[int, float] | None:
    """Energy impact by process; None where tasks carry none."""
    impacts: dict[int, float] = {}
    for task in document.get("tasks", ()):
        if "energy_impact" in task and task.get("name") != "ALL_TASKS":
            pid = int(task.get("pid", -1))
            impacts[pid] = impacts.get(pid, 0.0) + float(task["energy_impact"])
    return impacts or None


create = Powermetrics
