"""Figures 1 and 2 for published systems, runs, and both in the same axes."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from harness.core.quantities import Component
from harness.core.statistics import sequential_95, student_95
from harness.modelling.profile import Profile, shipped_names
from harness.modelling.profile_schema import Measurement, SessionStatistic, Statistic
from harness.showing.drawn_systems import differences, distinct, load_drawn, published_sources
from harness.showing.fit_figures import fit_figure, fit_rows
from harness.showing.panels import Axis, DrawnSystem, Options, mean_95
from harness.showing.phase_figures import phase_figure
from harness.showing.sweep_figures import sweep_figure
from tests.helpers import FAKE, ROOT, joulebench, refused
from tests.showing.drawn import assert_readable, notes, texts, title

RUN = ROOT / "tests" / "data" / "run-first"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("published")
    done = joulebench("figures", "--published", "-o", directory)
    assert done.returncode == 0, done.stderr
    assert "wrote 8 files" in done.stdout
    return directory


@pytest.mark.parametrize("figure", ["figure1", "figure2"])
def test_published_points_are_the_aggregated_measurements(published: Path, figure: str) -> None:
    rows = read(published / f"{figure}.csv")
    profiles = {(p.identity.system, p.identity.model): p for p in map(Profile.load, shipped_names())}
    assert {(row["system"], row["model"]) for row in rows} == set(profiles)
    assert len(profiles) == 11
    for row in rows:
        size = float(row["input_tokens"]), float(row["output_tokens"])
        (point,) = (
            m for m in profiles[row["system"], row["model"]].measurements if (m.input_tokens, m.output_tokens) == size
        )
        tokens = sum(size)
        assert int(row["trials"]) == point.trials
        assert float(row["runtime_s"]) == point.runtime_s.mean
        assert float(row["total_tokens_per_s"]) == pytest.approx(tokens / point.runtime_s.mean)
        if point.energy_j is None:
            assert row["energy_j"] == ""
        else:
            assert float(row["energy_j"]) == point.energy_j.mean
            assert float(row["energy_per_token_j"]) == pytest.approx(point.energy_j.mean / tokens)


def test_published_sweeps_end_where_the_trials_end(published: Path) -> None:
    longest: dict[str, float] = {}
    for row in read(published / "figure2.csv"):
        name = f"{row['system']} {row['model']}"
        longest[name] = max(longest.get(name, 0), float(row["output_tokens"]))
    assert longest["m1-pro mistral-7b"] == 512
    assert 480 < longest["m1-pro llama-2-7b"] <= 512, "some of its requests for 512 stopped early"
    assert longest["palmetto-v100 falcon-7b"] < 1100
    assert longest["palmetto-v100 llama-2-7b"] < 2100
    assert longest["swing-a100 llama-2-7b"] > 4000


def test_vector_files_embed_their_fonts(published: Path) -> None:
    pdf = (published / "figure1.pdf").read_bytes()
    assert b"/FontFile2" in pdf
    svg = (published / "figure1.svg").read_text(encoding="utf-8")
    assert "<text" not in svg, "glyphs are outlines, so that no font is needed"
    assert (published / "figure1.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_is_drawn_with_the_published_systems_and_labelled_with_what_differs(tmp_path: Path) -> None:
    """It was refused without --allow-mixed."""
    done = joulebench("figures", RUN, "--published", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "estimated, not measured" in done.stdout
    assert "can't be compared with the published systems" in done.stdout
    assert "SmolLM2-135M, KV cache on, energy of CPU only" in done.stdout
    rows = read(tmp_path / "figure1.csv")
    assert len({(row["system"], row["model"]) for row in rows}) == 12
    own = [row for row in rows if row["energy_method"] == "estimated"]
    assert [int(float(row["input_tokens"])) for row in own] == [8, 16, 32, 64, 128, 256, 512]
    assert all(float(row["runtime_s_ci95"]) > 0 for row in own)
    assert {path.stem for path in tmp_path.iterdir()} == {"figure1", "figure2", "phases", "fit"}


def test_other_systems_that_differ_are_refused_or_marked(tmp_path: Path) -> None:
    sources = (RUN, "m1-pro-llama-2-7b")
    refusal = refused(joulebench("figures", *sources, "-o", tmp_path / "no"))
    assert "cache mode" in refusal
    assert "--allow-mixed" in refusal
    done = joulebench("figures", *sources, "--allow-mixed", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    mark = "NOT COMPARABLE (--allow-mixed): different cache modes"
    assert mark in done.stdout
    assert "NOT COMPARABLE" in (tmp_path / "figure1.svg").read_text(encoding="utf-8")
    assert "NOT COMPARABLE" not in (tmp_path / "phases.svg").read_text(encoding="utf-8"), "it shows the run alone"


def test_dollar_signs_in_names_are_no_mathematics(tmp_path: Path) -> None:
    """They ended in a traceback of matplotlib's."""
    run = Path(shutil.copytree(RUN, tmp_path / "run"))
    facts = json.loads((run / "run.json").read_text())
    facts["model"]["name"], facts["machine"]["cpu_model"] = "$x^{", "$_{C"
    (run / "run.json").write_text(json.dumps(facts))
    done = joulebench("figures", run, "m1-pro-llama-2-7b", "--allow-mixed", "-o", tmp_path / "figures")
    assert done.returncode == 0, done.stderr


def test_long_names_of_models_leave_room_for_the_lines() -> None:
    """A path or a file's name of 50 letters lay on its neighbour, or left the axes no width."""
    name = "/home/somebody/Meta-Llama-3.1-8B-Instruct-abliterated-GPTQ-Int4-imatrix.gguf"
    run = load_drawn(str(RUN))
    long = replace(run, identity=run.identity.model_copy(update={"model": name}))
    others = published_sources()
    beside = [differences(long, others), *others]
    for sources in ([long], [run, long], beside):
        figure = sweep_figure(sources, "input", Options())
        assert_readable(figure)
        assert "/home" not in " ".join(texts(figure))


def test_a_boundary_is_advised_only_where_it_helps() -> None:
    """``--boundary cpu`` was advised where cache modes differed too, and ``--boundary cpu+system``, which is none."""
    from harness.core.errors import UserError
    from harness.showing.drawn_systems import compare_drawn

    run, published = load_drawn(str(RUN)), load_drawn("m1-pro-llama-2-7b")
    with pytest.raises(UserError, match="cache mode") as refusal:
        compare_drawn([run, published], None, False)
    assert "--boundary" not in str(refusal.value)
    part = replace(published, measurements=[_with_energy_of(m, "cpu", "gpu", "system") for m in published.measurements])
    other = replace(published, measurements=[_with_energy_of(m, "cpu", "system") for m in published.measurements])
    with pytest.raises(UserError) as refusal:
        compare_drawn([part, other], None, False)
    (advised,) = re.findall(r"--boundary (\S+) would work", str(refusal.value))
    assert compare_drawn([part, other], advised, False).boundary == ("cpu",)


def _with_energy_of(measurement: Measurement, *components: Component) -> Measurement:
    assert measurement.energy_j is not None
    return measurement.model_copy(update={"component_energy_j": dict.fromkeys(components, measurement.energy_j)})


def test_one_precision_by_two_names_does_not_differ() -> None:
    """A run of llama.cpp in F16 was drawn faint among systems in float16."""
    published = load_drawn("m1-pro-llama-2-7b")
    other = replace(published, identity=published.identity.model_copy(update={"dtype": "float16"}))
    for dtype, differs in (("F16", ()), ("Q4_0", ("Q4_0",))):
        own = replace(published, identity=published.identity.model_copy(update={"dtype": dtype}))
        assert differences(own, [other]).differs == differs


def test_phases_of_a_run(tmp_path: Path) -> None:
    done = joulebench("figures", RUN, "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    table = json.loads(joulebench("trials", RUN, "--format", "json").stdout)
    decode = [t["decode_energy_j"] for t in table if (t["input_tokens"], t["output_tokens"]) == (32, 128)]
    counted = [t for t in table if (t["input_tokens"], t["output_tokens"]) == (32, 128) and t["purpose"] == "measure"]
    assert decode
    expected = sum(t["decode_energy_j"] for t in counted) / len(counted) / 127
    (row,) = (r for r in read(tmp_path / "phases.csv") if (r["phase"], r["output_tokens"]) == ("decode", "128.0"))
    assert float(row["energy_per_token_j"]) == pytest.approx(expected)


def test_failures_are_shown_where_they_happened(tmp_path: Path) -> None:
    options = ["-m", "fake:oom_above=300", "-p", "8-512*2", "-n", "8-128*2", "-o", tmp_path / "run"]
    assert joulebench(*FAKE, *options).returncode == 0
    done = joulebench("figures", tmp_path / "run", "-o", tmp_path / "figures")
    assert done.returncode == 0, done.stderr
    figure = sweep_figure([load_drawn(str(tmp_path / "run"))], "input", Options())
    assert "× out of memory at 512 input tokens" in notes(figure)
    assert "Energy was not measured" in notes(figure)
    assert [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() == "x"] == [512]
    assert_readable(figure)
    rows = read(tmp_path / "figures" / "figure1.csv")
    assert max(float(row["input_tokens"]) for row in rows) == 256
    assert all(row["energy_j"] == "" for row in rows), "not measured is empty, never 0"


def test_profiles_by_path_and_other_fixed_sizes(tmp_path: Path) -> None:
    shutil.copy(ROOT / "profiles" / "m1-pro-llama-2-7b.json", tmp_path / "a.json")
    done = joulebench("figures", tmp_path / "a.json", "--fixed-output", "8", "--fixed-input", "4", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no figure2: nothing was measured at about 4 input tokens" in done.stdout
    assert {row["output_tokens"] for row in read(tmp_path / "figure1.csv")} <= {"8.0"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "out"], "name runs or profiles"),
        (["no-such-profile", "-o", "out"], "no-such-profile"),
        (["--published", "--boundary", "dram", "-o", "out"], "dram"),
        (["--published", "-o", "a.json"], "can't write"),
        (
            ["--published", "--fixed-input", "5", "--fixed-output", "3", "-o", "out"],
            "nothing could be drawn",
        ),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    assert words in refused(joulebench("figures", *arguments, cwd=tmp_path))


def test_tokens_of_every_sequence_of_a_batch_count(tmp_path: Path) -> None:
    from harness.runs.records import load_trials

    run = tmp_path / "run"
    options = ["-m", "fake", "--batch-size", "4", "-p", "8,64", "-n", "8,64", "-o", run]
    assert joulebench(*FAKE, *options).returncode == 0
    assert joulebench("figures", run, "-o", tmp_path / "figures").returncode == 0
    (row,) = (row for row in read(tmp_path / "figures" / "figure1.csv") if row["input_tokens"] == "64.0")
    trials = load_trials(run).query("purpose == 'measure' and input_tokens == 64 and output_tokens == 32")
    assert float(row["total_tokens_per_s"]) == pytest.approx(4 * (64 + 32) / trials["runtime_s"].mean())


def test_models_pass_through_the_points_of_a_batch(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert (
        joulebench(*FAKE, "-m", "fake", "--batch-size", "4", "-p", "8-128*2", "-n", "8-128*2", "-o", run).returncode
        == 0
    )
    figure = sweep_figure([load_drawn(str(run))], "input", Options(everything=True))
    (total,) = (ax for ax in figure.axes if ax.get_ylabel() == "total tokens/s")
    points = next(line for line in total.lines if line.get_marker() == "o")
    model = max(total.lines, key=lambda line: len(line.get_xdata()))
    measured, curve = (np.asarray(line.get_xydata(), dtype=float) for line in (points, model))
    assert np.interp(measured[:, 0], *curve.T) == pytest.approx(measured[:, 1], rel=0.02)


def test_profiles_of_one_name_are_told_apart_by_their_files(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        shutil.copy(ROOT / "profiles" / "m1-pro-llama-2-7b.json", tmp_path / name)
    done = joulebench("figures", "a.json", "b.json", "-o", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {row["system"] for row in read(tmp_path / "out" / "figure1.csv")} == {"a.json", "b.json"}


def test_energy_per_phase_of_a_part_of_the_components_is_left_out(tmp_path: Path) -> None:
    """Energy per phase is known as a sum alone."""
    run = tmp_path / "run"
    shutil.copytree(RUN, run)
    records = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    for record in records:
        if record["status"] == "ok":
            record["energy"]["components"]["dram"] = record["energy"]["components"]["cpu"]
    (run / "trials.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    part = joulebench("figures", run, "--boundary", "cpu", "-o", tmp_path / "part")
    assert "the figure of the phases leaves out the energy" in part.stdout
    assert (tmp_path / "part" / "figure1.csv").exists()
    assert not any(row["energy_per_token_j"] for row in read(tmp_path / "part" / "phases.csv"))
    whole = joulebench("figures", run, "--boundary", "cpu+dram", "-o", tmp_path / "whole")
    assert "the figure of the phases" not in whole.stdout
    assert any(row["energy_per_token_j"] for row in read(tmp_path / "whole" / "phases.csv"))


def test_size_of_which_only_the_warm_up_ran_is_a_failure(tmp_path: Path) -> None:
    from harness.runs.records import load_run
    from harness.showing.drawn_systems import failed_sizes

    run = tmp_path / "run"
    assert joulebench(*FAKE, "-m", "fake", "--point", "64,32", "-o", run).returncode == 0
    assert failed_sizes(load_run(run)) == []
    trials = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    for trial in trials:
        if trial["purpose"] == "measure":
            trial |= {"status": "timeout", "reason": "too slow"}
    (run / "trials.jsonl").write_text("".join(json.dumps(trial) + "\n" for trial in trials))
    assert [failure.input_tokens for failure in failed_sizes(load_run(run))] == [64]


@pytest.fixture(scope="module")
def run_and_published() -> list[DrawnSystem]:
    others = published_sources()
    return distinct([differences(load_drawn(str(RUN)), others), *others])


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("axis", ["input", "output"])
def test_no_text_overlaps_and_none_is_clipped(
    axis: Axis, everything: bool, run_and_published: list[DrawnSystem]
) -> None:
    options = Options(everything=everything)
    for sources in (run_and_published, run_and_published[1:], [load_drawn(str(RUN))]):
        assert_readable(sweep_figure(sources, axis, options))


def test_a_column_a_model_a_row_a_cost_and_more_with_all(run_and_published: list[DrawnSystem]) -> None:
    published = run_and_published[1:]
    figure = sweep_figure(published, "input", Options())
    assert [ax.get_title() for ax in figure.axes[:3]] == ["Llama-2-7B", "Mistral-7B", "Falcon-7B"]
    assert [ax.get_ylabel() for ax in figure.axes[::3]] == ["runtime per request, s", "energy per token, J"]
    assert len(sweep_figure(published, "input", Options(everything=True)).axes) == 12
    assert title(figure) == (
        "Below about 35 input tokens the M1 Pro needs the least energy per token, "
        "above it the A100 (Palmetto), which is 11 to 47 times as fast (Llama-2-7B)"
    )


def test_a_system_has_one_colour_in_every_figure(run_and_published: list[DrawnSystem]) -> None:
    for sources in (run_and_published, [load_drawn("m1-pro-llama-2-7b")], [load_drawn("m1-pro-mistral-7b")]):
        figure = sweep_figure(sources, "input", Options())
        drawn = [line for line in figure.axes[0].lines if line.get_color() == "#0072B2" and line.get_marker() == "o"]
        assert len(drawn) == 1


def test_the_own_run_is_black_thick_on_top_and_hollow_where_estimated() -> None:
    run, other = load_drawn(str(RUN)), load_drawn("m1-pro-llama-2-7b")
    alike = replace(other, identity=other.identity.model_copy(update={"model": run.identity.model}))
    runtime, energy = sweep_figure([run, alike], "input", Options(models=False)).axes
    for ax in (runtime, energy):
        own, theirs = (next(li for li in ax.lines if li.get_color() == c and len(li.get_xdata()) > 2) for c in OURS)
        assert own.get_linewidth() > theirs.get_linewidth()
        assert own.get_zorder() > theirs.get_zorder()
        assert (own.get_markerfacecolor() == "white") == (ax is energy)
        assert theirs.get_markerfacecolor() != "white"


OURS = ("#000000", "#0072B2")


def test_a_run_that_differs_is_faint_in_every_column_with_its_reasons(run_and_published: list[DrawnSystem]) -> None:
    figure = sweep_figure(run_and_published, "input", Options())
    assert len(figure.axes) == 6, "it has no column of its own"
    assert "this machine\nSmolLM2-135M\nKV cache on" in texts(figure)
    assert "this machine\nSmolLM2-135M\nKV cache on\nCPU only\nestimated" in texts(figure)
    assert "Not to be compared with the others" in notes(figure)
    for ax in figure.axes:
        assert not any(line.get_color() == "#000000" for line in ax.lines)
        assert any(line.get_color() == "#737373" for line in ax.lines)


def test_models_reach_twice_the_sizes_measured_at_most(run_and_published: list[DrawnSystem]) -> None:
    runtime, energy = sweep_figure([load_drawn(str(RUN))], "input", Options()).axes
    for ax in (runtime, energy):
        curves = [line for line in ax.lines if len(line.get_xdata()) > 8]
        assert max(max(line.get_xdata()) for line in curves) == 1024
        (faint,) = (line for line in ax.lines if line.get_alpha())
        assert min(faint.get_xdata()) == 512
    assert _banded(runtime)
    assert not _banded(energy), "an estimate has no interval that looks like a measurement's"


def _banded(ax: Axes) -> bool:
    """Whether a band or a bar of some height is drawn."""
    paths = [path.vertices[:, 1] for drawn in ax.collections for path in drawn.get_paths()]
    return any(np.isfinite(y).all() and np.ptp(y) > 0 for y in paths)


def test_phases_are_in_one_panel_and_what_is_missing_is_said() -> None:
    figure = phase_figure([load_drawn(str(RUN))], Options())
    assert title(figure) == "A token takes 33 times as long to decode as to prefill, at 512 input tokens"
    assert [ax.get_ylabel() for ax in figure.axes] == ["time per token, ms", "energy per token, J"]
    assert {"prefill", "decode", "decode (estimated)", "prefill too short\nfor these sensors"} <= set(texts(figure))
    assert_readable(figure)


def test_the_fit_is_drawn_with_its_held_out_error() -> None:
    profile = load_drawn(str(RUN)).profile
    assert profile is not None
    figure = fit_figure(profile)
    assert title(figure) == "Held-out error: runtime 3.1 %, energy 4.1 %"
    above, _, below, _ = figure.axes
    assert above.get_xlim() == above.get_ylim(), "equal values lie on the diagonal"
    rows = {(row[2], row[3]): row for row in fit_rows(profile) if row[0] == "runtime"}
    assert len(rows) == len(profile.measurements)
    for m in profile.measurements:
        _, _, _, _, measured, predicted, error = rows[m.input_tokens, m.output_tokens]
        assert measured == m.runtime_s.mean
        assert predicted == pytest.approx(float(profile.runtime_s(m.input_tokens, m.output_tokens)))
        assert error == pytest.approx(predicted / measured - 1)
    shown = np.concatenate([line.get_ydata() for line in below.lines if line.get_marker() in ("o", "^")])
    assert sorted(shown) == pytest.approx(sorted(100 * row[6] for row in rows.values()))
    assert_readable(figure)


def test_each_session_takes_a_degree_of_freedom_from_the_interval() -> None:
    """Four trials of two sessions tell the spread within them as three do; those of one may have been repeated until
    they were precise."""
    sessions = [SessionStatistic(session=k, mean=1.0 + k, sd=0.1, trials=2) for k in (0, 1)]
    several = Statistic(mean=1.5, sd=0.1, trials=4, ci95=None, sessions=sessions)
    assert mean_95(several).half_width == pytest.approx(student_95(2) * 0.1 / 2)
    assert mean_95(several.model_copy(update={"sessions": []})).half_width == pytest.approx(sequential_95(4) * 0.1 / 2)
