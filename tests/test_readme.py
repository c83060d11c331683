"""What the README and the pages in docs/ show is what happens: outputs, commands, options and links."""

import importlib
import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from harness.cli import app
from tests import readme_outputs
from tests.helpers import joulebench, stub_server

TEXTS = {page.name: page.read_text(encoding="utf-8") for page in readme_outputs.PAGES}
README = TEXTS["README.md"]
LIMIT = 160
"""Lines that the README may have."""

CODE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
RUN_ELSEWHERE = {"api.md", "integrating.md"}
"""Pages whose examples have tests of their own."""
OF_OTHERS = {
    "--slow",
    "--brief",
    "--full",
    "--json",
    "--only",
    "--short",
    "--minutes",
    "--gpus",
    "--gpu-reset",
    "--force-reinstall",
    *("--metrics", "--enable-metrics", "--enable-cache-report", "--enable-prompt-tokens-details"),
    "--skip-tokenizer-init",
    "--enable-logging-iteration-details",
}
"""Options of scripts and of other programs that pages name."""
SERVER = "http://127.0.0.1:8000"
"""Where the pages' servers run; the tests have one elsewhere."""
SKIPPED = ("doctor --load", "meter --listen", ".gguf")
"""What takes half a minute, which tests of doctor do, what runs until it is ended, and what needs a file of weights;
the options are checked."""


def commands(text: str) -> Iterator[str]:
    """What a reader is told to type: lines of ``sh`` blocks, and code in cells of tables."""
    for language, block in CODE.findall(text):
        if language == "sh":
            yield from (line.partition(" #")[0].strip() for line in block.splitlines())
    for line in CODE.sub("", text).splitlines():
        if line.startswith("|"):
            yield from SPAN.findall(line)


TYPED = sorted(
    {
        command
        for name, text in TEXTS.items()
        for command in commands(text)
        if name not in RUN_ELSEWHERE and command.startswith("joulebench ") and not any(s in command for s in SKIPPED)
    }
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files that the commands name."""
    directory = tmp_path_factory.mktemp("pages")
    readme_outputs.prepare(directory)
    made = joulebench("fit", "runs/first", "--system", "my-machine", "-o", "first.json", cwd=directory)
    assert made.returncode == 0, made.stderr
    for name in ("llama-server", "vllm"):  # a plan looks for a server's program and doesn't start it
        program = directory / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\nexit 1\n")
        program.chmod(0o755)
    return directory


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a server that the pages say runs."""
    with stub_server() as url:
        yield url


@pytest.mark.parametrize("name", [name for name, text in TEXTS.items() if "```console" in text])
def test_commands_print_what_is_shown(name: str, tmp_path: Path) -> None:
    readme_outputs.prepare(tmp_path)
    for command, shown in readme_outputs.walk(TEXTS[name]):
        assert readme_outputs.run(command, tmp_path) == shown, command


@pytest.mark.parametrize("command", TYPED)
def test_commands_work(command: str, place: Path, server: str) -> None:
    """Measurements are planned, not run; everything else runs as it stands."""
    arguments = shlex.split(command.replace(SERVER, server))[1:]
    if arguments[0] == "measure" and "--dry-run" not in arguments:
        arguments.insert(1, "--dry-run")
        if "--export-json" in arguments:  # a plan has no result to export
            at = arguments.index("--export-json")
            del arguments[at : at + 2]
    path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = joulebench(*arguments, cwd=place, PATH=path, JOULEBENCH_SERVERS=str(place))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("name", [name for name in TEXTS if "```python" in TEXTS[name] and name not in RUN_ELSEWHERE])
def test_python_runs(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setitem(sys.modules, "joulebench", importlib.import_module("harness.cli.joulebench"))
    blocks = [block for language, block in CODE.findall(TEXTS[name]) if language == "python"]
    script = place / f"{name}.py"
    script.write_text("\n\n".join(blocks), encoding="utf-8")
    runpy.run_path(str(script))


def test_the_readme_is_short_and_shows_how() -> None:
    assert len(README.splitlines()) <= LIMIT
    walked = dict(readme_outputs.walk(README))
    for command in ("trials", "fit", "predict", "figures", "threshold"):
        assert any(shown.startswith(f"joulebench {command} ") for shown in walked), command
    # The end of a run: its numbers, from the first to how much was measured.
    (end,) = (shown for command, shown in walked.items() if command.startswith("joulebench trials runs/first"))
    assert re.match(r"\S+ ± \S+ decode tokens/s", end)
    assert "\nMeasured: 11 of 11 points" in end
    assert len(TYPED) > 30


def _anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", text), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("page", readme_outputs.PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(CODE.sub("", TEXTS[page.name])):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = Path(os.path.normpath(page.parent / path)) if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target.read_text(encoding="utf-8")), link


def test_the_readme_links_to_every_page_and_each_says_what_it_is_for() -> None:
    for page in readme_outputs.PAGES[1:]:
        assert f"](docs/{page.name})" in README, page.name
        title, blank, first = TEXTS[page.name].splitlines()[:3]
        assert title.startswith("# ")
        assert not blank
        assert first.endswith(".") or ". " in first, page.name


def _options(command: typer.core.TyperGroup, name: str) -> Iterator[tuple[str, set[str]]]:
    """Every command by its words, with its options."""
    for called, child in getattr(command, "commands", {}).items():
        yield from _options(child, f"{name} {called}")
    yield name, {spelled for one in command.params for spelled in (*one.opts, *one.secondary_opts)} | {"--help", "-h"}


OPTIONS = dict(_options(typer.main.get_command(app), "joulebench"))  # type: ignore[arg-type]
ALL_OPTIONS = set().union(*OPTIONS.values())


@pytest.mark.parametrize("name", TEXTS)
def test_options_named_exist(name: str) -> None:
    for span in SPAN.findall(CODE.sub("", TEXTS[name])):
        words = span.split()
        if words[0] == "joulebench" and len(words) > 1:
            longest = max((known for known in OPTIONS if f"{span} ".startswith(f"{known} ")), key=len)
            assert longest != "joulebench" or words[1].startswith("-"), span
            given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert given <= OPTIONS[longest], span
        elif re.match(r"--[a-z]", span):
            assert words[0].partition("=")[0] in ALL_OPTIONS | OF_OTHERS, span
