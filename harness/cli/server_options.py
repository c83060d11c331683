"""The options of ``joulebench measure`` that are about servers and their load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

_SERVERS = "Servers"


class ServerOptions:
    """By the names of the fields that ``harness.measuring.planned_run.prepare`` takes."""

    server_flags: Annotated[
        list[str] | None,
        Argument(metavar="-- SERVER FLAGS", help="With --serve: the server's own options.", show_default=False),
    ] = None
    url: Annotated[
        str | None,
        Option(
            metavar="URL",
            help="Measure the OpenAI-compatible server there, such as http://127.0.0.1:8000.",
            rich_help_panel=_SERVERS,
        ),
    ] = None
    serve: Annotated[
        str | None,
        Option(
            metavar="SERVER",
            help="Start llama-server or vllm with the model, measure it, and end it. Its own options follow after --.",
            rich_help_panel=_SERVERS,
        ),
    ] = None
    rate: Annotated[
        str | None,
        Option(
            metavar="RATE",
            help="Requests come at random at this rate, such as 2/s or 1/s,30/min, instead of -c in flight.",
            rich_help_panel=_SERVERS,
        ),
    ] = None
    duration_s: Annotated[
        float,
        Option(
            "--duration",
            min=1.0,
            max=1e6,
            metavar="SECONDS",
            help="With --rate: for how long.",
            rich_help_panel=_SERVERS,
        ),
    ] = 60.0
    arrivals: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Requests come at the times and in the sizes of this log.",
            rich_help_panel=_SERVERS,
        ),
    ] = None
    slo_ttft_s: Annotated[
        float | None,
        Option(
            "--slo-ttft",
            min=0.0,
            metavar="SECONDS",
            help="With --rate or --arrivals: time to first token that counts as good.",
            rich_help_panel=_SERVERS,
        ),
    ] = None
    slo_tpot_s: Annotated[
        float | None,
        Option("--slo-tpot", min=0.0, metavar="SECONDS", help="The same, per output token.", rich_help_panel=_SERVERS),
    ] = None
    slo_e2e_s: Annotated[
        float | None,
        Option(
            "--slo-e2e", min=0.0, metavar="SECONDS", help="The same, for the whole request.", rich_help_panel=_SERVERS
        ),
    ] = None
    allow_inexact: Annotated[
        bool,
        Option(
            "--allow-inexact",
            help="Measure requests at the sizes they get where the server can't do exactly -p and -n.",
            rich_help_panel=_SERVERS,
        ),
    ] = False
    server_pid: Annotated[
        int | None,
        Option(
            min=1,
            help="Process of the server at --url.",
            show_default="the owner of its port",
            rich_help_panel=_SERVERS,
        ),
    ] = None
    api_key_env: Annotated[
        str | None,
        Option(metavar="NAME", help="Environment variable that holds the server's API key.", rich_help_panel=_SERVERS),
    ] = None
    meter_url: Annotated[
        str | None,
        Option(
            metavar="URL",
            help="Where joulebench meter --listen runs on the server's machine.",
            rich_help_panel=_SERVERS,
        ),
    ] = None
    meter_token_env: Annotated[
        str | None,
        Option(metavar="NAME", help="Environment variable that holds that meter's token.", rich_help_panel=_SERVERS),
    ] = None
