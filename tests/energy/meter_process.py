"""A process that serves a meter whose clock is another machine's: ``OFFSET_S PROBES`` → its address on stdout."""

from __future__ import annotations

import sys
import time

_monotonic, _monotonic_ns = time.monotonic, time.monotonic_ns
OFFSET_S = float(sys.argv[1])
time.monotonic = lambda: _monotonic() + OFFSET_S
time.monotonic_ns = lambda: _monotonic_ns() + int(OFFSET_S * 1e9)

from harness.energy.config import EnergyConfig  # noqa: E402
from harness.energy.guarded_http import Answer, GuardedServer  # noqa: E402
from harness.energy.listen import MeterServer  # noqa: E402
from harness.energy.meter import Meter  # noqa: E402
from harness.energy.probes.base import ProbeContext  # noqa: E402


def main() -> None:
    """Serve until killed."""
    config = EnergyConfig(sys.argv[2], max_foreign_load=None, calibration=tuple(sys.argv[3:]))
    server = GuardedServer("127.0.0.1", 0, lambda asked: Answer({}), None)
    with Meter.open(config, ProbeContext(whole_machine=True)) as meter, MeterServer(meter, server) as served:
        print(server.url, flush=True)
        served.run()


if __name__ == "__main__":
    main()
