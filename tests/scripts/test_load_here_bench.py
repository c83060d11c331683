"""The bench that measures servers under load on this machine: its table, on the stub with known delays."""

import argparse
import csv
from pathlib import Path

import client
import load_here
import pytest

TTFT_S, TPOT_S = 0.02, 0.002


def test_the_table_has_what_the_stub_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_here, "SIZES", ("8,5", "16,11"))
    tables = []
    monkeypatch.setattr(load_here, "held_out", lambda table: tables.append(table) or [])
    with client.stub(None, "--ttft", str(TTFT_S), "--tpot", str(TPOT_S)) as url:
        given = argparse.Namespace(serve=None, url=url, model=None, concurrency="1,2", seconds=0.1)
        found = load_here.results(given, tmp_path)
    assert found["points"] == found["planned"] == 4
    assert 0 < found["client_cores"]["mean"] <= found["client_cores"]["most"]
    with tables[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["m"], row["n"], row["c"]) for row in rows] == [
        (m, n, c) for c in ("1", "2") for m, n in (("8", "5"), ("16", "11"))
    ]
    for row in rows:
        assert row["energy_j"] == ""
        # Others may use the machine that tests run on: nothing comes sooner than the stub sends it.
        ttft_s, tpot_s, steps = float(row["ttft_s"]), float(row["tpot_s"]), int(row["n"]) - 1
        assert TTFT_S < ttft_s < 10 * TTFT_S
        assert tpot_s > 0
        assert float(row["runtime_s"]) > TTFT_S + steps * TPOT_S
        assert ttft_s + steps * tpot_s > TTFT_S + steps * TPOT_S


@pytest.mark.parametrize("server", list(load_here.FLAGS))
def test_a_server_has_a_slot_for_every_request_in_flight(server: str, tmp_path: Path) -> None:
    given = argparse.Namespace(serve=server, url=None, model=None, concurrency="1,6", seconds=1.0)
    arguments = load_here.command(given, tmp_path)
    flags = arguments[arguments.index("--") + 1 :]
    assert flags[flags.index({"llama-server": "-np", "vllm": "--max-num-seqs"}[server]) + 1] == "6"
