"""Logs in the forms that people hold: their form, their sizes, and what is left out and why."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from harness.core import registries
from harness.core.errors import UserError
from harness.deciding import logs
from harness.deciding.arrivals import read_arrivals
from harness.deciding.logs.form import LogForm
from harness.deciding.trace_files import load_workload
from harness.deciding.workload import Workload, save, with_output_tokens
from tests.deciding.log_examples import EXAMPLES
from tests.helpers import joulebench


def counted(w: Workload) -> dict[tuple[int, int], float]:
    """Requests of each input and output, whatever was cached."""
    sizes: Counter[tuple[int, int]] = Counter()
    for m, n, c in zip(w.input_tokens.tolist(), w.output_tokens.tolist(), w.count.tolist(), strict=True):
        sizes[m, n] += c
    return dict(sizes)


def mean_cached(w: Workload) -> float | None:
    return None if w.cached_tokens is None else float(np.average(w.cached_tokens, weights=w.count))


@pytest.mark.parametrize(
    ("name", "content", "form", "sizes", "left_out", "cached"), EXAMPLES, ids=[e[0] for e in EXAMPLES]
)
def test_logs_are_read_in_the_form_that_they_have(name, content, form, sizes, left_out, cached, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    w = load_workload(path, sums=True)
    assert w.form == form
    assert counted(w) == sizes
    assert w.left_out == left_out
    assert mean_cached(w) == (None if cached is None else pytest.approx(cached))


def test_rows_left_out_are_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"id": 1, "error": "SECRET"}\n\n{"id": 2, "prompt_tokens": 120, "completion_tokens": 33}\n' + '{"id": 3}\n'
    )
    with pytest.raises(UserError, match=r"1 broken row: log.jsonl line 4 has nothing in, nothing out"):
        load_workload(path)
    w = load_workload(path, skip_bad=True)
    assert w.left_out == {"failed": 1, "no sizes": 1}
    assert w.dropped_rows == 1
    assert w.notes == ("log.jsonl: left out as failed: line 1",)


REFUSED = [
    ("unclear.csv", "input_tokens;output_tokens\n1.000;2.000\n", "'1.000' can be read as 1000 tokens or as 1: write"),
    ("unclear2.csv", "input_tokens;output_tokens\n1,000;2,000\n", "'1,000' can be read as 1000 tokens or as 1: write"),
    ("batch.csv", "input_tokens,output_tokens,batch_size\n10,5,8\n", "--form batches"),
    ("half.csv", "input_tokens,output_tokens\n374.5,44\n", "line 2 has 374.5 in, 44 out"),
    (
        "trailing.csv",
        "input_tokens,output_tokens\n100,20,\n200,0,\n300,5,\n",
        "1 broken row: trailing.csv line 3 has 200",
    ),
    ("total.csv", "prompt_tokens,completion_tokens,total_tokens\n20,30,40\n", "has 20 in, 30 out but a total of 40"),
    (
        "rest.csv",
        "prompt_tokens,completion_tokens,total_tokens\n20,30,90\n",
        "--form gemini counts what a total has",
    ),
    (
        "daily.csv",
        "date,model,input_tokens,output_tokens\n2026-01-01,m,643210,150220\n2026-01-02,m,501300,121600\n",
        "each row seems to sum up the requests of a date, and nothing says of how many: .* say --form columns",
    ),
    (
        "console.csv",
        "usage_date_utc,usage_input_tokens_no_cache,usage_input_tokens_cache_read,usage_output_tokens\n2026-03-22,9,0,5\n",
        "sum up many requests, and no column says how many: export single requests",
    ),
    ("chats.jsonl", '{"messages": [{"role": "user", "content": "SECRET"}]}\n', "joulebench workload build --text"),
    ("texts.csv", "instruction,output\nSECRET,SECRET\n", "joulebench workload build --text .* --input-field FIELD"),
    (
        "same.csv",
        "input_tokens,Input Tokens,output_tokens\n1,2,3\n",
        "two columns have the same name, input",
    ),
    ("headerless.csv", "SECRET,12,30\nother,5,6\n", "its first line has numbers. Add a line of names above it"),
    (
        "summary.json",
        '{"input_sequence_length": {"avg": 550}, "output_sequence_length": {"avg": 96}}',
        "AIPerf: profile_export.jsonl",
    ),
]


@pytest.mark.parametrize(("name", "content", "words"), REFUSED, ids=[case[0] for case in REFUSED])
def test_what_can_not_be_read_is_refused_with_the_remedy(name: str, content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words) as error:
        load_workload(tmp_path / name)
    assert "\n" not in str(error.value)
    assert "SECRET" not in str(error.value)


def test_sums_of_many_requests_decide_nothing_by_size(tmp_path: Path) -> None:
    path = tmp_path / "usage.csv"
    path.write_text("start_time,num_model_requests,input_tokens,output_tokens\n1,10,1005,100\n2,0,0,0\n")
    with pytest.raises(UserError, match=r"rows that sum up many requests: only mean sizes are known, .* export these"):
        load_workload(path)
    w = load_workload(path, sums=True)
    assert w.means_only
    assert counted(w) == {(100, 10): 5, (101, 10): 5}
    assert w.left_out == {"no requests": 1}
    with pytest.raises(UserError, match="only mean sizes"):
        save(w, tmp_path / "w.json")


def test_the_form_and_nested_columns_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(
        json.dumps({"a": {"b": {"in": 4, "out": 5}}, "prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 9})
    )
    assert counted(load_workload(path, "a.b.in", "a.b.out")) == {(4, 5): 1}
    assert counted(load_workload(path, form="gemini")) == {(1, 8): 1}
    assert load_workload(path, form="gemini").columns["total"] == "total_tokens"
    with pytest.raises(UserError, match="unknown form of logs 'mine': choose from aiperf, "):
        load_workload(path, form="mine")
    with pytest.raises(UserError, match="has no columns ContextTokens/GeneratedTokens, as the form azure has; it has"):
        load_workload(path, form="azure")
    with pytest.raises(UserError, match=r"has no columns a\.c/a\.b\.out; it has .*a\.b\.in"):
        load_workload(path, "a.c", "a.b.out")


def cached_sizes(w: Workload) -> list[tuple[int, int, float]]:
    assert w.cached_tokens is not None
    return list(zip(w.input_tokens.tolist(), w.output_tokens.tolist(), w.cached_tokens.tolist(), strict=True))


def test_cached_tokens_are_kept_with_a_workload(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("input_tokens,cache_read_input_tokens,output_tokens\n10,90,5\n60,40,5\n7,0,1\n")
    w = load_workload(path)
    assert cached_sizes(w) == [(7, 1, 0.0), (100, 5, 40.0), (100, 5, 90.0)]
    save(w, tmp_path / "w.json")
    assert cached_sizes(load_workload(tmp_path / "w.json")) == cached_sizes(w)
    frozen = with_output_tokens(w, 3)
    assert cached_sizes(frozen) == [(7, 3, 0.0), (100, 3, 40.0), (100, 3, 90.0)]
    assert mean_cached(frozen) == mean_cached(w)
    whole = load_workload(path, ignore_cache=True)
    assert (counted(whole), whole.cached_tokens) == ({(100, 5): 2, (7, 1): 1}, None)
    assert whole.cached_left_out == pytest.approx(130 / 207)


def test_errors_first_do_not_hide_good_rows(tmp_path: Path) -> None:
    """More than are looked at to recognise the form of most logs."""
    lines = [json.dumps({"id": i, "error": "SECRET"}) for i in range(1500)]
    lines.append(json.dumps({"id": 1500, "usage": {"prompt_tokens": 5, "completion_tokens": 6}}))
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    w = load_workload(path)
    assert (counted(w), w.left_out) == ({(5, 6): 1}, {"failed": 1500})


def test_decisions_say_what_was_left_out_and_what_was_cached(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("input_tokens,cached_tokens,output_tokens,error\n100,40,50,\n100,20,70,\n100,0,0,timeout\n")
    done = joulebench("threshold", "m1-pro-llama-2-7b", "swing-a100-llama-2-7b", "-w", path)
    assert done.returncode == 0, done.stderr
    assert "left out of the workload: 1 of the log's rows, which are no answered requests" in done.stdout
    assert "30.0 % of the input tokens were read from a prefix cache, but m1-pro-llama-2-7b and" in done.stdout
    assert "had no KV cache: there costs are of whole prompts" in done.stdout


class Entry:
    """An entry point of a package with a form of its own."""

    name = "mine"

    @staticmethod
    def load() -> object:
        return LogForm("mine", "mine", pairs=(("hinein", "heraus"),), cached=("davon",), time=("wann",), time_per_s=1e3)


def test_packages_add_forms_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries, "entry_points", lambda group: [Entry()] if group == "joulebench.log_forms" else [])
    logs.log_forms.cache_clear()
    try:
        path = tmp_path / "log.csv"
        path.write_text("wann,hinein,davon,heraus\n0,10,4,5\n500,20,0,6\n")
        w = load_workload(path)
        assert (w.form, counted(w), mean_cached(w)) == ("mine", {(10, 5): 1, (20, 6): 1}, 2.0)
        assert [arrival.offset_s for arrival in read_arrivals(path)] == [0.0, 0.5]
    finally:
        logs.log_forms.cache_clear()


def test_times_have_the_unit_of_their_form(tmp_path: Path) -> None:
    path = tmp_path / "mooncake.jsonl"
    rows = [{"timestamp": t, "input_length": 9, "output_length": 1, "hash_ids": [t]} for t in (0, 3000)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [arrival.offset_s for arrival in read_arrivals(path)] == [0.0, 3.0]


def test_requests_that_failed_are_not_sent_again(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("timestamp,input_tokens,output_tokens,error\n0,1,2,\n1,3,0,timeout\n2,5,6,\n")
    assert [(a.offset_s, a.input_tokens) for a in read_arrivals(path)] == [(0.0, 1), (2.0, 5)]


def test_no_text_reaches_outputs_errors_or_caches(tmp_path: Path) -> None:
    """Texts stand beside the counts, in place of counts, in place of names, and in what can't be read."""
    inputs, spill = tmp_path / "inputs", tmp_path / "tmp"
    inputs.mkdir()
    spill.mkdir()
    contents = {name: content for name, content, *_ in [*EXAMPLES, *REFUSED] if "SECRET" in content}
    contents |= {
        "count.csv": "input_tokens,output_tokens\nSECRET,5\n1,2\n",
        "names.csv": "SECRET and more words than a name has,b\n1,2\n",
        "cut.jsonl": '{"prompt_tokens": 1, "text": "SECRET\n{"prompt_tokens": 1, "completion_tokens": 2}\n',
        "quote.csv": 'text,input_tokens,output_tokens\n"SECRET,1,2\n',
        "broken.json": '[{"prompt_tokens": 1, "completion_tokens": 2, "text": "SECRET}]',
        "list.json": '["SECRET"]',
    }
    for number, (name, content) in enumerate(contents.items()):
        (inputs / name).write_text(content)
        command = ["workload", "show", *["--json"] * (number % 2)]
        done = joulebench(*command, inputs / name, TMPDIR=str(spill), HOME=str(tmp_path))
        assert done.returncode in (0, 2), (name, done.stderr)
        assert "SECRET" not in done.stdout + done.stderr, name
    for name in ("count.csv", "quote.csv", "cut.jsonl", "texts.csv"):
        columns = ["--input-column", "text", "--output-column", "output_tokens", "--skip-bad"]
        done = joulebench("workload", "show", inputs / name, *columns[: 4 + (name == "cut.jsonl")])
        assert "SECRET" not in done.stdout + done.stderr, name
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != inputs]
    assert not [path for path in kept if b"SECRET" in path.read_bytes()]
