"""What the README shows is what happens: the walk's output, and every other command it names."""

import re
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests import readme_outputs
from tests.helpers import ROOT, joulebench

TEXT = readme_outputs.README.read_text(encoding="utf-8")
SHELL_BLOCKS = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.partition("#")[0].strip()
    for block in SHELL_BLOCKS
    for line in block.splitlines()
    if line.startswith("joulebench ")
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files that the commands name."""
    directory = tmp_path_factory.mktemp("readme")
    readme_outputs.prepare(directory)
    shutil.copy(ROOT / "profiles" / "m1-pro-llama-2-7b.json", directory / "a.json")
    shutil.copy(ROOT / "profiles" / "swing-a100-llama-2-7b.json", directory / "b.json")
    (directory / "gains.toml").write_text("[cpu-time]\ngain = 1.05\noffset_w = 0.4\n")
    trace = pd.DataFrame({"input_tokens": [20, 40, 300] * 20, "output_tokens": [16, 8, 32] * 20})
    trace.to_csv(directory / "trace.csv", index=False)
    trace.to_parquet(directory / "trace.parquet")
    return directory


@pytest.mark.parametrize("block", readme_outputs.blocks(TEXT))
def test_the_walk_prints_what_is_shown(block: str, tmp_path: Path) -> None:
    readme_outputs.prepare(tmp_path)
    for command, shown in readme_outputs.walk(block):
        assert readme_outputs.run(command, tmp_path) == shown, command


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_work(command: str, place: Path) -> None:
    """Measurements of large models are planned, not run; everything else runs as it stands."""
    arguments = shlex.split(command)[1:]
    if arguments[0] == "measure" and "--dry-run" not in arguments:
        arguments.append("--dry-run")
    done = joulebench(*arguments, cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_there_is_a_walk_and_there_are_commands() -> None:
    walked = [command for block in readme_outputs.blocks(TEXT) for command, _ in readme_outputs.walk(block)]
    for name in ("trials", "fit", "figures", "threshold"):
        assert any(command.startswith(f"joulebench {name}") for command in walked)
    assert len(COMMANDS) > 10
