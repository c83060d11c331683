"""Times and sizes of a log's requests, and what is refused instead of being measured wrongly."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from harness.core.errors import UserError
from harness.core.sizes import Arrival
from harness.deciding.arrivals import read_arrivals


def log(folder: Path, *rows: str, header: str = "timestamp,input_tokens,output_tokens") -> Path:
    path = folder / "log.csv"
    path.write_text("\n".join([header, *rows, ""]))
    return path


def offsets(path: Path) -> list[float]:
    return [arrival.offset_s for arrival in read_arrivals(path)]


@pytest.mark.parametrize(
    "times",
    [
        ("7", "7.5", "9"),
        ("-1", "-0.5", "1"),
        ("1715299200.0", "1715299200.5", "1715299202.0"),
        ("1715299200000", "1715299200500", "1715299202000"),
        ("1715299200000000", "1715299200500000", "1715299202000000"),
        ("1715299200000000000", "1715299200500000000", "1715299202000000000"),
        ("2024-05-10 00:00:00", "2024-05-10 00:00:00.5", "2024-05-10 00:00:02"),
        ("2024-05-10 00:00:00.0000000", "2024-05-10 00:00:00.5000000", "2024-05-10 00:00:02.0000000"),
        ("2024-05-10T00:00:00Z", "2024-05-10T00:00:00.500000Z", "2024-05-10T01:00:02+01:00"),
    ],
)
def test_times_are_read_as_logs_write_them(times: tuple[str, ...], tmp_path: Path) -> None:
    found = read_arrivals(log(tmp_path, *(f"{time},{8 + k},{4 + k}" for k, time in enumerate(times))))
    assert [(each.input_tokens, each.output_tokens) for each in found] == [(8, 4), (9, 5), (10, 6)]
    assert [each.offset_s for each in found] == pytest.approx([0.0, 0.5, 2.0], abs=1e-5)


def test_a_log_of_requests_as_they_ended_is_put_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    assert read_arrivals(log(tmp_path, "5,1,2", "3,3,4", "4,5,6")) == (
        Arrival(0.0, 3, 4),
        Arrival(1.0, 5, 6),
        Arrival(2.0, 1, 2),
    )


@pytest.mark.parametrize(
    "header",
    [
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "Timestamp,Request tokens,Response tokens",
        "arrived_at,num_prefill_tokens,num_decode_tokens",
        "arrival_time,prompt_tokens,completion_tokens",
    ],
)
def test_columns_are_found_by_the_names_of_known_logs(header: str, tmp_path: Path) -> None:
    assert offsets(log(tmp_path, "0,8,4", "1.25,9,5", header=header)) == [0.0, 1.25]


def test_other_formats_are_read_too(tmp_path: Path) -> None:
    rows = [{"ts": 10, "input_tokens": 8, "output_tokens": 4}, {"ts": 10.5, "input_tokens": 9, "output_tokens": 5}]
    lines, packed = tmp_path / "log.jsonl", tmp_path / "log.csv.gz"
    lines.write_text("\n".join(map(json.dumps, rows)))
    packed.write_bytes(gzip.compress(b"ts;input_tokens;output_tokens\n10;8;4\n10.5;9;5\n"))
    assert read_arrivals(lines) == read_arrivals(packed) == (Arrival(0.0, 8, 4), Arrival(0.5, 9, 5))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((), "no requests: a load needs at least 2"),
        (("5,8,4",), "1 request: a load needs at least 2"),
        (("0,8,4", "nan,9,5"), "'nan' is no time"),
        (("0,8,4", "inf,9,5"), "'inf' is no time"),
        (("0,8,4", ",9,5"), "a request has no time"),
        (("0,8,4", "noon,9,5"), "a text is no time; write dates as"),
        (("0,8,4", "2024-05-10 00:00:00,9,5"), "times in dates and in seconds"),
        (("5,8,4", "1715299200000,9,5"), "times in milliseconds and in seconds"),
        (("0,8,4", "86400000,9,5"), "lasts 1000 days"),
        (("0,8,4", "1,9,0"), "line 3 has 9 in, 0 out"),
        (("0,8,4", "1,9,2.5"), "line 3 has 9 in, 2.5 out"),
        (("0,8,4", "1,9,nan"), "line 3 has 9 in, nan out"),
        (("0,8,4", "1,,5"), "line 3 has nothing in, 5 out"),
        (("0,8,4", "1,9,5,6", "2,9,5"), "line 3 has 4 of 3 columns"),
        (("0,8,4", "1,9,-5"), "line 3 has 9 in, -5 out"),
    ],
)
def test_a_log_that_can_not_be_sent_again_is_refused(rows: tuple[str, ...], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refusal:
        read_arrivals(log(tmp_path, *rows))
    assert words in str(refusal.value)
    assert "log.csv" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_log_without_times_names_what_it_could_have_and_what_to_do_without(tmp_path: Path) -> None:
    path = log(tmp_path, "8,4", "9,5", header="input_tokens,output_tokens")
    with pytest.raises(UserError, match=r"doesn't say when requests came: it has no column timestamp, .*--rate 2/s"):
        read_arrivals(path)
    with pytest.raises(UserError, match="has no columns"):
        read_arrivals(log(tmp_path, "8,4", header="timestamp,tokens"))
    with pytest.raises(UserError, match="can't read"):
        read_arrivals(tmp_path / "absent.csv")


def test_columns_may_be_named(tmp_path: Path) -> None:
    path = log(tmp_path, "0,8,4", "1,9,5", header="ts,in,out")
    assert read_arrivals(path, "in", "out")[1] == Arrival(1.0, 9, 5)
    with pytest.raises(UserError, match="name both"):
        read_arrivals(path, "in")
