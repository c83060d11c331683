"""``joulebench meter``: serve what this machine draws, for Prometheus and for one's own scripts."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, NoReturn

from typer import Option

from harness.cli.help import ALONE
from harness.core.errors import UserError

_DEFAULT = ALONE["--listen"]
_FEW_CHARACTERS = 16


def meter(
    listen: Annotated[
        str | None,
        Option(
            metavar="[HOST:]PORT",
            help="Serve power and energy over HTTP until Ctrl-C, at /metrics for Prometheus.",
            show_default=f"{_DEFAULT}, where it stands alone",
        ),
    ] = None,
    token_env: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="Environment variable that holds a token: every request needs it, and any address is allowed.",
            show_default=False,
        ),
    ] = None,
    probes: Annotated[str, Option(metavar="NAMES", help="Power sources: auto, or names joined by commas.")] = "auto",
    rate_hz: Annotated[
        float, Option("--sample-rate", min=0.1, max=1000.0, help="Samples per second and power source.")
    ] = 20.0,
    cpu_watts: Annotated[
        float | None,
        Option(
            min=0.001,
            metavar="WATTS",
            help="Power of the whole CPU under full load, for the estimate.",
            show_default="an assumption",
        ),
    ] = None,
    calibration: Annotated[
        list[str] | None,
        Option(
            "--calibrate", metavar="TEXT", help="DOMAIN=gain,offset or a TOML file. Repeatable.", show_default=False
        ),
    ] = None,
) -> None:
    """Serve this machine's power and energy to Prometheus, scripts and other machines."""
    if listen is None:
        raise UserError(f"say that it is to listen: joulebench meter --listen, at {_DEFAULT} unless told otherwise")
    from harness.energy.config import EnergyConfig
    from harness.energy.guarded_http import Answer, GuardedServer, parse_address
    from harness.energy.listen import MeterServer
    from harness.energy.meter import Meter
    from harness.energy.probes.base import ProbeContext

    config = EnergyConfig(probes, rate_hz, cpu_watts, calibration=tuple(calibration or ()), max_foreign_load=None)
    # Before anything is opened, which may take seconds.
    server = GuardedServer(*parse_address(listen), lambda asked: Answer({}), _token(token_env))
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _interrupt)
        with Meter.open(config, ProbeContext(whole_machine=True)) as opened, MeterServer(opened, server) as served:
            for notice in opened.notices:
                print(notice, file=sys.stderr)
            sources = ", ".join(opened.describe().domains) or "no power source: every energy is absent"
            print(f"{server.url}/metrics serves {sources}; Ctrl-C ends it", flush=True)
            served.run()
    except KeyboardInterrupt:
        print("ended", file=sys.stderr)
    finally:
        server.server_close()


def _token(variable: str | None) -> str | None:
    """What is in the environment variable. Raises UserError where nothing is."""
    if variable is None:
        return None
    token = os.environ.get(variable, "")
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"--token-env {variable}: this environment variable holds no token of printable ASCII characters"
        )
    if len(token) < _FEW_CHARACTERS:
        print(f"the token in {variable} has {len(token)} characters: fewer than 16 can be guessed", file=sys.stderr)
    return token


def _interrupt(number: int, _frame: object) -> NoReturn:
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)  # a second one must not interrupt the ending
    raise KeyboardInterrupt
