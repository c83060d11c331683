"""Workloads: counting pairs, spreading histograms, reading traces of every format, counting tokens of text."""

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import duckdb
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.core.errors import UserError
from harness.deciding import trace_files, workload
from harness.deciding.logs.columns import PAIRS as COLUMN_PAIRS
from harness.deciding.text_dataset import build_workload
from harness.deciding.trace_files import read_request_log
from harness.showing import workloads
from tests.helpers import environment, refused

PAIRS = [(374, 44), (396, 109), (879, 55), (91, 16), (374, 44), (91, 16), (91, 16)]


def counted(w: workload.Workload) -> dict[tuple[int, int], float]:
    return {(int(m), int(n)): float(c) for m, n, c in zip(w.input_tokens, w.output_tokens, w.count, strict=True)}


def write_csv(path: Path, header: list[str], rows: list[list[object]], delimiter: str = ",") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(rows)
    return path


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=60))
def test_pairs_are_counted(pairs: list[tuple[int, int]]) -> None:
    w = workload.from_pairs("w", "test", [m for m, _ in pairs], [n for _, n in pairs])
    assert counted(w) == Counter(pairs)
    assert w.requests == len(pairs)


@pytest.mark.parametrize(
    ("m", "n", "count"),
    [
        ([], [], None),
        ([1], [0], None),
        ([1, 2], [1], None),
        ([1.5], [1], None),
        ([1], [1], [-1.0]),
        ([1], [1], [np.nan]),
    ],
)
def test_unusable_pairs_are_refused(m: list, n: list, count: list | None) -> None:
    with pytest.raises(UserError):
        workload.from_pairs("w", "test", np.array(m), np.array(n), count)


@st.composite
def histograms(draw: st.DrawFn) -> tuple[list[float], list[int]]:
    bins = draw(st.integers(1, 30))
    first = draw(st.integers(1, 20))
    width = draw(st.floats(1.0, 20.0))
    counts = draw(st.lists(st.integers(0, 10_000), min_size=bins, max_size=bins).filter(any))
    return [first + width * i for i in range(bins + 1)], counts


@given(histograms())
@example(([1.0, 2.9999999999999964], [1]))
def test_a_spread_histogram_keeps_every_bin(histogram: tuple[list[float], list[int]]) -> None:
    edges, counts = histogram
    lengths, spread = workload.spread_over_integers(edges, counts)
    assert (spread > 0).all()
    assert (np.diff(lengths) > 0).all()
    # An edge that is all but whole is whole; the last bin holds its right edge.
    bounds = np.array(edges) - 1e-9 * np.arange(len(edges) - 1, -1, -1)
    bounds[-1] += 1e-9
    again, _ = np.histogram(lengths, bounds, weights=spread)
    np.testing.assert_allclose(again, counts, atol=1e-6 * sum(counts))


def test_a_spread_histogram_follows_its_neighbours() -> None:
    """Linear density: the shares inside a bin rise with its neighbours instead of staying level."""
    truth = np.arange(1, 31, dtype=float)
    lengths, spread = workload.spread_over_integers(
        [1, 6, 11, 16, 21, 26, 30.5], truth.reshape(6, 5).sum(axis=1).tolist()
    )
    inner = slice(6, 25)
    assert lengths.tolist() == list(range(1, 31))
    np.testing.assert_allclose(spread[inner], truth[inner], rtol=0.06)


@pytest.mark.parametrize(
    ("edges", "counts"),
    [
        ([1, 2], [1, 2]),
        ([3, 2], [1]),
        ([1, 2, 3], [-1, 2]),
        ([1, 2], [0]),
        ([0, 5], [1]),
        ([1, 1.2, 1.4, 3], [1, 1, 1]),
        ([1, 1e15], [1]),
    ],
)
def test_unusable_histograms_are_refused(edges: list[float], counts: list[float]) -> None:
    with pytest.raises(UserError):
        workload.spread_over_integers(edges, counts)


def test_alpaca_is_built_in() -> None:
    w = trace_files.load_workload("alpaca")
    assert w.requests == pytest.approx(52_002)
    assert not w.pairs_known
    m, m_count = workload.marginal(w.input_tokens, w.count)
    n, n_count = workload.marginal(w.output_tokens, w.count)
    assert (m.min(), m.max(), n.min(), n.max()) == (6, 366, 2, 773)
    assert m_count[m <= 8].sum() == pytest.approx(618)
    assert n_count[n <= 17].sum() == pytest.approx(8165)
    assert m_count[m == 366].sum() > 0.4
    assert "alpaca" in workload.builtin_names()
    assert "paper-accounting" not in workload.builtin_names()


def test_output_lengths_can_be_frozen() -> None:
    w = workload.with_output_tokens(trace_files.load_workload("alpaca"), 32)
    assert set(w.output_tokens) == {32}
    assert w.requests == pytest.approx(52_002)
    with pytest.raises(UserError):
        workload.with_output_tokens(w, 0)
    with pytest.raises(UserError):
        workload.with_output_tokens(w, 2**64)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=80))
def test_quantiles_are_order_statistics(tokens: list[int]) -> None:
    w = workload.from_pairs("w", "test", tokens, [1] * len(tokens))
    levels = [0.0, 0.25, 0.5, 0.9, 1.0]
    expected = [sorted(tokens)[max(0, int(np.ceil(q * len(tokens))) - 1)] for q in levels]
    assert workload.quantiles(w.input_tokens, w.count, levels) == expected


@pytest.mark.parametrize("columns", [list(pair) for pair in COLUMN_PAIRS[:8]], ids=lambda c: c[0])
def test_every_known_pair_of_columns_is_found(columns: list[str], tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", ["TIMESTAMP", *columns], [["2023-11-16 18:15:46.68", *p] for p in PAIRS])
    assert counted(trace_files.load_workload(str(path))) == Counter(PAIRS)


def formats(folder: Path) -> dict[str, Path]:
    header = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]
    rows = [["2023-11-16 18:15:46.6805900", m, n] for m, n in PAIRS]
    paths = {"csv": write_csv(folder / "a.csv", header, rows), "tsv": write_csv(folder / "a.tsv", header, rows, "\t")}
    paths["csv.gz"] = folder / "a.csv.gz"
    paths["csv.gz"].write_bytes(gzip.compress(paths["csv"].read_bytes()))
    objects = [dict(zip(header, row, strict=True)) for row in rows]
    paths["json"] = folder / "a.json"
    paths["json"].write_text(json.dumps(objects, indent=1))
    paths["jsonl"] = folder / "a.jsonl"
    paths["jsonl"].write_text("".join(json.dumps(o) + "\n" for o in objects) + "\n")
    paths["parquet"] = folder / "a.parquet"
    duckdb.sql(f"COPY (FROM '{paths['csv']}') TO '{paths['parquet']}'")
    return paths


@pytest.mark.parametrize("name", ["csv", "tsv", "csv.gz", "json", "jsonl", "parquet"])
def test_every_format_gives_the_same_counts(name: str, tmp_path: Path) -> None:
    assert counted(trace_files.load_workload(str(formats(tmp_path)[name]))) == Counter(PAIRS)


def test_a_glob_adds_files_up(tmp_path: Path) -> None:
    formats(tmp_path)
    w = trace_files.load_workload(str(tmp_path / "*.csv"))
    assert counted(w) == Counter(PAIRS)
    assert counted(trace_files.load_workload(str(tmp_path / "a.?s*"))) == {p: 5 * c for p, c in Counter(PAIRS).items()}


@pytest.mark.parametrize("name", ["trace[1]", "a*b", "what?", "back\\slash", "~t"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_file_is_read_alone_whatever_its_name(name: str, kind: str, tmp_path: Path, monkeypatch) -> None:
    """Names that would match a neighbour if they were globs."""
    path = shutil.copy(formats(tmp_path)[kind], tmp_path / f"{name}.{kind}")
    for neighbour in ("trace1", "a-b", "whatx"):
        shutil.copy(path, tmp_path / f"{neighbour}.{kind}")
    monkeypatch.chdir(tmp_path)
    assert counted(trace_files.load_workload(path.name)) == Counter(PAIRS)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "parquet"])
def test_a_folder_names_no_column(kind: str, tmp_path: Path) -> None:
    """Hive's way of storing tables."""
    folder = tmp_path / "ContextTokens=7"
    folder.mkdir()
    assert counted(trace_files.load_workload(str(formats(tmp_path)[kind].rename(folder / f"a.{kind}")))) == Counter(
        PAIRS
    )


def test_a_name_that_would_be_a_glob_in_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "back").mkdir()
    for name in ("back\\slash[1].csv", "back/slash1.csv"):
        write_csv(tmp_path / name, ["input_tokens", "output_tokens"], [[1, 2]])
    with pytest.raises(UserError, match="rename the file"):
        trace_files.load_workload(str(tmp_path / "back\\slash[1].csv"))


def test_utf_16_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("input_tokens,output_tokens\n1,2\n", encoding="utf-16")
    with pytest.raises(UserError, match="is UTF-16: save it as UTF-8"):
        trace_files.load_workload(str(path))


def test_columns_of_what_is_no_trace_are_refused() -> None:
    with pytest.raises(UserError, match="alpaca is a workload, not a trace"):
        trace_files.load_workload("alpaca", "a", "b")


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", ["Prompt, length", 'said "n"'], [[3, 4]])
    with pytest.raises(UserError, match="--input-column"):
        trace_files.load_workload(str(path))
    assert counted(trace_files.load_workload(str(path), "Prompt, length", 'said "n"')) == {(3, 4): 1}
    with pytest.raises(UserError, match="both"):
        trace_files.load_workload(str(path), "Prompt, length")
    with pytest.raises(UserError, match="absent"):
        trace_files.load_workload(str(path), "absent", "too")
    with pytest.raises(UserError, match="same column"):
        trace_files.load_workload(str(path), 'said "n"', 'said "N"')


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_column_name_may_hold_a_line_break(newline: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    lines = ['"prompt', '(text)",input_tokens,output_tokens', "x,1,2", "x,0,2"]
    path.write_text(newline.join(lines), newline="")
    with pytest.raises(UserError, match=r"1 broken row: t\.csv line 4 has 0 in, 2 out"):
        trace_files.load_workload(str(path))
    assert counted(trace_files.load_workload(str(path), skip_bad=True)) == {(1, 2): 1}


BROKEN = [
    ["2.5", "4", True],
    ["", "4", True],
    ["4", "-1", True],
    ["0", "4", True],
    ["many", "4", True],
    ["nan", "4", True],
    ["1e12", "4", True],
    ["20000000", "1", True],
    ["1", "2147483647", True],
    ["7", "8", False],
    ["7.0", "8", False],
]


def test_broken_csv_rows_are_refused_by_line(tmp_path: Path) -> None:
    """A quoted line break in another column shifts lines against rows."""
    rows = [["a\nb", "5", "6"], *[["x", m, n] for m, n, _ in BROKEN]]
    path = write_csv(tmp_path / "t.csv", ["text", "input_tokens", "output_tokens"], rows)
    with pytest.raises(UserError, match="9 broken rows") as error:
        trace_files.load_workload(str(path))
    for i, (m, _, broken) in enumerate(BROKEN):
        said = {"": "nothing", "many": "text"}.get(m, m)
        assert (f"line {i + 4} has {said} in" in str(error.value)) == (broken and i < 5)
    w = trace_files.load_workload(str(path), skip_bad=True)
    assert (counted(w), w.dropped_rows) == ({(5, 6): 1, (7, 8): 2}, 9)


def test_long_quoted_texts_are_read(tmp_path: Path) -> None:
    rows = [["a" * 3_000_000, 5, 6], ["b", "many", 2]]
    path = write_csv(tmp_path / "t.csv", ["text", "input_tokens", "output_tokens"], rows)
    with pytest.raises(UserError, match=r"1 broken row: t.csv line 3 has text in, 2 out"):
        trace_files.load_workload(str(path))
    w = trace_files.load_workload(str(path), skip_bad=True)
    assert (counted(w), w.dropped_rows) == ({(5, 6): 1}, 1)


def test_csv_lines_with_missing_or_surplus_fields_are_broken(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("input_tokens,output_tokens\n1,2\n3\n4,5,6\n\n7,8\n")
    with pytest.raises(UserError, match=r"2 broken rows: t.csv line 3 has 1 of 2 columns; t.csv line 4 has 3 of 2"):
        trace_files.load_workload(str(path))
    assert counted(trace_files.load_workload(str(path), skip_bad=True)) == {(1, 2): 1, (7, 8): 1}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ('x,3,4\nx,3,"4\n', "line 5: unexpected end of data .is a quote missing"),
        ('x,3,"4\nx,3,4\n', "line 4: unexpected end of data .is a quote missing"),
        ('x,"1"7,2\nx,3,4\n', r"line 4: ',' expected after '\"' .is a quote missing"),
        ('x,3,"1\n\n2"\n', "line 4 has 3 in, 1 2 out"),
        ("x,3,٤\n", "line 4 has 3 in, ٤ out"),
        ("x,3,true\n", "line 4 has 3 in, true out"),
    ],
)
def test_a_broken_record_is_named_by_the_line_it_begins_on(rows: str, expected: str, tmp_path: Path) -> None:
    """Also where line breaks in quotes precede it, or stand in it: what is said stays one line."""
    path = tmp_path / "t.csv"
    path.write_text('text,input_tokens,output_tokens\n"a\nb",1,2\n' + rows)
    with pytest.raises(UserError, match=rf"1 broken row: t\.csv {expected}") as error:
        trace_files.load_workload(str(path))
    assert "\n" not in str(error.value)
    w = trace_files.load_workload(str(path), skip_bad=True)
    assert w.dropped_rows == 1
    assert counted(w)[1, 2] == 1


def test_broken_json_lines_are_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    good = '{"input_tokens": 3, "output_tokens": 12}\n'
    path.write_text(good + "\n" + "{cut\n" + '{"input_tokens": 3}\n' + '{"input_tokens": [3], "output_tokens": 1}\n')
    with pytest.raises(UserError, match=r"line 3 is not a JSON object.*line 4 has 3 in, nothing out.*line 5"):
        trace_files.load_workload(str(path))
    w = trace_files.load_workload(str(path), skip_bad=True)
    assert (counted(w), w.dropped_rows) == ({(3, 12): 1}, 3)


def test_broken_parquet_rows_are_refused_by_row(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    rows = "VALUES (1, 2), (NULL, 3), (4, -5)"
    duckdb.sql(f"COPY (SELECT * FROM ({rows}) AS t(input_tokens, output_tokens)) TO '{path}'")
    with pytest.raises(UserError, match=r"row 2 has nothing in, 3 out; t.parquet row 3 has 4 in, -5 out"):
        trace_files.load_workload(str(path))
    assert counted(trace_files.load_workload(str(path), skip_bad=True)) == {(1, 2): 1}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.csv", "", "empty"),
        ("t.csv", "timestamp,input_tokens,output_tokens\n\n", "has no requests"),
        ("t.csv", "a,A\n1,2\n", "same name"),
        ("t.csv", "a,a \n1,2\n", "same name"),
        ("t.csv", "input_tokens,output_tokens\n", "holds no requests"),
        ("t.csv", 'input_tokens,output_tokens\n1,2\n3,"4\n', r"1 broken row: t.csv line 3: .*quote"),
        ("t.csv", "x,y\n1,2\n", "no columns"),
        ("t.json", "[1, 2]", "no JSON objects"),
        ("t.json", "[]", "no JSON objects"),
        ("t.json", "{}", "no JSON objects"),
        ("t.json", "3", "neither"),
        ("t.json", '{\n "input_tokens": 3,\n "output_tokens": 4\n', "neither"),
        ("t.json", "[" * 100_000, "can't read"),
        ("t.jsonl", '{"a": ' + "[" * 100_000, "neither"),
        ("t.json", f'{{"kind": "{workload.KIND}", "name": ' + "[" * 100_000, "nested too deeply"),
        ("t.csv.gz", "input_tokens,output_tokens\n1,2\n", "can't read.*gzip"),
        ("t.parquet", "not parquet", "can't read"),
        ("t.xlsx", "", "unknown format"),
    ],
)
def test_unreadable_files_give_one_line(name: str, content: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=expected) as error:
        trace_files.load_workload(str(path))
    assert "\n" not in str(error.value)


def test_pipes_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(UserError, match="not a regular file"):
        trace_files.load_workload(str(tmp_path / "t.csv"))


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="built-in"):
        trace_files.load_workload(str(tmp_path / "none-*.csv"))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), min_size=1, max_size=30))
def test_saved_workloads_come_back(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[int, int]]) -> None:
    path = tmp_path_factory.mktemp("w") / "w.json"
    w = workload.from_pairs("w", "test", [m for m, _ in pairs], [n for _, n in pairs])
    workload.save(w, path)
    again = trace_files.load_workload(str(path))
    assert (counted(again), again.name, again.source) == (counted(w), "w", "test")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"schema_version": 2}, "version 2"),
        ({"pairs": {"input_tokens": [1]}}, "KeyError"),
        ({"pairs": {"input_tokens": [1], "output_tokens": ["x"], "count": [1]}}, "whole numbers"),
        ({"pairs": {"input_tokens": [1], "output_tokens": [2], "count": [None]}}, "positive|float"),
        (
            {"pairs": {"input_tokens": [5, 2**63 - 1], "output_tokens": [4, 2**63 - 2], "count": [1, 1]}},
            "w.json: .* pair 2 has 9223372036854775807 input",
        ),
        ({"pairs": {"input_tokens": [2**63], "output_tokens": [1], "count": [1]}}, "pair 1 has 9223372036854775808"),
        ({"pairs": {"input_tokens": [20_000_000], "output_tokens": [1], "count": [1]}}, "at most 20000000"),
    ],
)
def test_broken_workload_files_give_one_line(change: dict, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    workload.save(workload.from_pairs("w", "test", [1], [2]), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=expected) as error:
        trace_files.load_workload(str(path))
    assert "\n" not in str(error.value)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """Words as tokens, <s> in front of every prompt."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({"<s>": 0, "<unk>": 1}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_text_is_counted_with_the_tokenizer(tokenizer: Path, tmp_path: Path) -> None:
    """A prompt has its special token once, whichever fields it is made of; outputs have none."""
    texts = [("tell me", "a b c", "one two"), ("go", "", "x"), ("go", "", "y")]
    path = write_csv(tmp_path / "t.csv", ["instruction", "input", "output"], [list(t) for t in texts])
    w = build_workload(str(path), ["instruction", "input"], ["output"], str(tokenizer))
    assert counted(w) == {(6, 2): 1, (2, 1): 2}
    with pytest.raises(UserError, match="absent"):
        build_workload(str(path), ["absent"], ["output"], str(tokenizer))
    with pytest.raises(UserError, match="tokenizer"):
        build_workload(str(path), ["input"], ["output"], str(tmp_path / "nothing.json"))


def test_a_tokenizer_that_cannot_be_fetched_is_refused_in_one_line(tmp_path: Path) -> None:
    """Nothing listens on the hub's port; the pauses between the hub's own retries are left out."""
    path = write_csv(tmp_path / "t.csv", ["q", "a"], [["x", "y"]])
    run = "import sys, time; time.sleep = lambda _: None; from harness.cli import main; main()"
    fields = ["--input-field", "q", "--output-field", "a", "--tokenizer", "nobody/nothing"]
    done = subprocess.run(
        [sys.executable, "-c", run, "workload", "build", "--text", path, *fields, "-o", tmp_path / "w.json"],
        capture_output=True,
        text=True,
        env={**environment(), "HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"},
        timeout=120,
    )
    assert "no tokenizer nobody/nothing" in refused(done)


def test_text_rows_without_tokens_are_refused(tokenizer: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"q": "a b", "a": "c"}\n{"q": "a", "a": ""}\n{"q": "a", "a": null}\n')
    with pytest.raises(UserError, match=r"2 rows without tokens: t.jsonl row 2 has 2 in, 0 out"):
        build_workload(str(path), ["q"], ["a"], str(tokenizer))
    w = build_workload(str(path), ["q"], ["a"], str(tokenizer), skip_bad=True)
    assert (counted(w), w.dropped_rows) == ({(3, 1): 1}, 2)


def test_a_large_trace_is_counted_exactly(tmp_path: Path) -> None:
    """More rows than one DuckDB vector or row group, checked against numpy."""
    rng = np.random.default_rng(0)
    m, n = rng.integers(1, 400, 300_000), rng.integers(1, 300, 300_000)
    path = tmp_path / "t.csv"
    np.savetxt(path, np.c_[m, n], fmt="%d", delimiter=",", header="input_tokens,output_tokens", comments="")
    w = read_request_log(str(path))
    expected = np.bincount(m * 300 + n, minlength=400 * 300)
    assert w.requests == 300_000
    np.testing.assert_array_equal(np.bincount(w.input_tokens * 300 + w.output_tokens, w.count, 400 * 300), expected)


def test_the_terminal_histogram_accounts_for_every_request() -> None:
    w = trace_files.load_workload("alpaca")
    lines = workloads.histogram_lines(w.output_tokens, w.count)
    totals = [int(line.split()[-1].replace(",", "")) for line in lines]
    assert sum(totals) == pytest.approx(52_002, abs=len(lines))
    assert max(line.count("█") for line in lines) == workloads.BAR_WIDTH
