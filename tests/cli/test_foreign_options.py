"""What users of llama-bench, hyperfine and vllm bench type works, or the one line of the refusal says what to type."""

import json
import re
from pathlib import Path

import pytest
import typer

from harness.cli import app
from harness.cli.foreign_options import FOREIGN
from tests.helpers import FAKE, joulebench, refused

QUICK = [*FAKE, "-m", "fake", "--min-window", "0"]


def options_of(*path: str) -> set[str]:
    """Every option of a command, as written."""
    command = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]  # type: ignore[attr-defined]
    names = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return {name for name in names if name.startswith("-")} | {"-h", "--help"}


def every_command() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        found += [(name, inner) for inner in getattr(command, "commands", ())] or [(name,)]
    return found


def sizes(*options: object) -> set[tuple[int, int]]:
    """The request sizes of the plan that these options make."""
    done = joulebench(*QUICK, "--dry-run", "--json", *options)
    assert done.returncode == 0, done.stderr
    return {tuple(point) for point in json.loads(done.stdout)["plan"]["points"]}


def test_request_sizes_are_named_as_elsewhere() -> None:
    assert sizes("-pg", "512,128") == sizes("--point", "512,128") == {(512, 128, 1)}
    assert sizes("-pg", "512,128", "-pg", "8,4") == {(512, 128, 1), (8, 4, 1)}
    assert sizes("--input-len", "100", "--output-len", "20") == {(100, 20, 1)}
    assert sizes("-n8") == sizes("-n", "8") == {(32, 8, 1)}
    assert "--output-len too" in refused(joulebench(*QUICK, "--input-len", "100"))
    assert "--input-len too" in refused(joulebench(*QUICK, "--output-len", "20"))


def test_zero_says_to_leave_the_sweep_out() -> None:
    assert "leave -p out" in refused(joulebench(*QUICK, "-p", "0", "-n", "8"))
    assert "leave -n out" in refused(joulebench(*QUICK, "-p", "8", "-n", "0"))


@pytest.mark.parametrize("option", ["-r", "--runs"])
def test_runs_are_exactly_so_many_trials(option: str, tmp_path: Path) -> None:
    """The protocol quick alone would take 3 of the fake machine's identical trials."""
    done = joulebench(*QUICK, "-o", tmp_path / "run", "-pg", "8,4", option, "6", "-t", "2", "-w", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert [point["trials"] for point in json.loads(done.stdout)["points"]] == [6]
    for other in (["--max-trials", "9"], ["--precision", "0.1"]):
        assert "leave out" in refused(joulebench(*QUICK, option, "6", *other))


def test_threads(tmp_path: Path) -> None:
    for option in ("-t", "--threads"):
        done = joulebench(*QUICK, "--dry-run", "--json", option, "3")
        assert json.loads(done.stdout)["config"]["threads"] == 3


def device(*options: object) -> str:
    done = joulebench(*QUICK, "--dry-run", "--json", *options)
    assert done.returncode == 0, done.stderr
    config: dict[str, str] = json.loads(done.stdout)["config"]
    return config["device"]


def test_gpu_layers_name_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from backends.base import Capabilities
    from backends.fake.backend import FakeBackend

    assert device("-ngl", "0") == device("--n-gpu-layers", "0") == "cpu"
    assert "sees no GPU here" in refused(joulebench(*QUICK, "-ngl", "99"))
    assert "type -ngl 99" in refused(joulebench(*QUICK, "-ngl", "20"))
    assert "type -ngl 99" in refused(joulebench(*QUICK, "-ngl", "10,20"))
    assert "leave one out" in refused(joulebench(*QUICK, "-ngl", "0", "--device", "cpu"))
    able = Capabilities(devices=("metal", "cpu"), dtypes=("float32",), concurrency="static batch", samples_tokens=False)
    monkeypatch.setattr(FakeBackend, "capabilities", lambda self: able)
    # The fake machine has no such device, which the refusal names.
    for layers in ("99", "-1", "all"):
        assert "'metal'" in refused(joulebench(*QUICK, "--dry-run", "-ngl", layers))


@pytest.mark.parametrize("form", ["csv", "json", "jsonl", "md", "sql"])
def test_format_as_directory_is_refused(form: str, tmp_path: Path) -> None:
    said = refused(joulebench(*QUICK, "-o", form, cwd=tmp_path))
    assert f"-o ./{form}" in said
    assert "joulebench trials" in said
    assert not (tmp_path / form).exists()


def test_directory_may_have_the_name_of_a_format(tmp_path: Path) -> None:
    done = joulebench(*QUICK, "-o", "./json", "-pg", "8,4", "-r", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "json" / "run.json").exists()


def test_warmups_that_would_not_be_made_are_refused() -> None:
    for number in ("0", "3"):
        assert "one warm-up trial per point is always made" in refused(joulebench(*QUICK, "--warmup", number))


def test_export_json_is_what_json_prints(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    done = joulebench(*QUICK, "-o", tmp_path / "run", "-pg", "8,4", "-r", "2", "--json", "--export-json", file)
    assert done.returncode == 0, done.stderr
    assert done.stdout == file.read_text()
    assert json.loads(done.stdout)["points"][0]["trials"] == 2


def test_a_file_in_the_place_of_the_run_directory_is_called_that(tmp_path: Path) -> None:
    file = tmp_path / "run"
    file.touch()
    assert "is a file, not a directory" in refused(joulebench(*QUICK, "-o", file))


def test_a_dry_run_exports_its_plan(tmp_path: Path) -> None:
    """It wrote nothing and said nothing."""
    file = tmp_path / "plan.json"
    done = joulebench(*QUICK, "-o", tmp_path / "run", "--dry-run", "--json", "--export-json", file)
    assert done.returncode == 0, done.stderr
    assert file.read_text() == done.stdout
    assert json.loads(done.stdout)["plan"]["points"]


def test_file_that_can_not_be_written_is_refused_before_measuring(tmp_path: Path) -> None:
    for file in (tmp_path, tmp_path / "absent" / "result.json"):
        done = joulebench(*QUICK, "-o", tmp_path / "run", "-pg", "8,4", "--export-json", file)
        assert str(file) in refused(done)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", sorted(FOREIGN))
def test_other_options_say_what_to_type(option: str) -> None:
    assert refused(joulebench(*QUICK, option, "1")) == f"joulebench: error: {option}: {FOREIGN[option]}"


def test_batch_of_a_prefill_is_told_from_sequences() -> None:
    for written in (["-b", "512"], ["-b512"], ["-ub", "512"], ["--ubatch-size=512"]):
        said = refused(joulebench(*QUICK, *written))
        assert "--prefill-chunk" in said
        assert "several sequences at once -c N" in said


def test_table_is_about_what_measure_does_not_have_and_names_only_what_is_there() -> None:
    assert not options_of("measure") & FOREIGN.keys()
    everywhere = set().union(*(options_of(*path) for path in every_command()))
    for said in FOREIGN.values():
        named = set(re.findall(r"(?<![\w-])--?[a-z](?:[a-z0-9]|-(?=\w))*", said)) - {"-pl"}
        assert named <= everywhere, said
        commands = re.findall(r"joulebench ([a-z]+)\b", said)
        assert {(name,) for name in commands} <= {path[:1] for path in every_command()}, said


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["measure", "--threadz", "2"], "did you mean --threads?"),
        (["fit", "--jsn"], "did you mean --json?"),
        (["-m", "model.gguf"], "joulebench measure -m"),
        (["measure", "model.gguf"], "--model NAME"),
        (["measure", "backend.device=cuda"], "--model NAME"),
        (["trials", "--no-such-option"], "joulebench trials --help"),
    ],
)
def test_unknown_options_name_the_nearest(command: list[str], expected: str) -> None:
    assert expected in refused(joulebench(*command))
