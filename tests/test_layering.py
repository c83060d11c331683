"""The walls between the parts, read from the import statements of the source."""

import ast
from pathlib import Path

import pytest

from tests.helpers import ROOT

PURE = (
    "integrate",
    "energy",
    "stopping",
    "schedule",
    "summary",
    "fit",
    "forms",
    "least_squares",
    "prediction",
    "threshold",
    "routing",
    "assignment",
)
"""Mathematics: no clock, no file, no screen."""

HEAVY = {"torch", "transformers", "llama_cpp", "gguf", "pynvml", "matplotlib", "pandas", "duckdb", "zeus_apple_silicon"}
"""Imported inside the function that needs them."""

START_UP = ["harness/cli.py", *(f"harness/commands/{path.name}" for path in (ROOT / "harness/commands").glob("*.py"))]


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def top_level(path: Path) -> set[str]:
    """Modules that ``path`` imports when it is imported; those under TYPE_CHECKING are not."""
    return set(_modules(ast.parse(path.read_text()).body))


def everywhere(path: Path) -> set[str]:
    """Modules that ``path`` imports anywhere, in functions too."""
    return set(_modules(ast.walk(ast.parse(path.read_text()))))


def _modules(nodes) -> list[str]:
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


@pytest.mark.parametrize("path", python_files("backends"), ids=lambda path: path.name)
def test_backends_know_nothing_of_the_harness(path: Path) -> None:
    assert not {module for module in everywhere(path) if module.split(".")[0] in ("harness", "profiles")}


@pytest.mark.parametrize("path", python_files("harness/probes"), ids=lambda path: path.name)
def test_probes_know_no_backend_and_no_other_probe(path: Path) -> None:
    imported = everywhere(path)
    assert not {module for module in imported if module.split(".")[0] == "backends"}
    if path.name not in ("__init__.py", "base.py"):
        own = {"harness.probes", "harness.probes.base", "harness.probes.refuse_option"}
        others = {module for module in imported if module.startswith("harness.probes")} - own
        assert all(module.startswith(("harness.probes.base.", "harness.probes.refuse_option")) for module in others)


@pytest.mark.parametrize("name", PURE)
def test_mathematics_knows_no_io(name: str) -> None:
    path = ROOT / "harness" / f"{name}.py"
    allowed = {"numpy", "scipy", "math", "statistics", "itertools", "dataclasses", "typing", "collections", "functools"}
    roots = {module.split(".")[0] for module in everywhere(path)} - {"__future__", "harness", "abc", "enum", "warnings"}
    assert roots <= allowed, f"{name} imports {roots - allowed}"
    assert not {
        module
        for module in everywhere(path)
        if module in ("harness.records", "harness.store", "harness.meter", "harness.sweep", "harness.profile")
    }
    calls = {node.func.id for node in ast.walk(ast.parse(path.read_text())) if _is_plain_call(node)}
    assert not calls & {"open", "print", "input"}


def _is_plain_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


@pytest.mark.parametrize("path", [*python_files("harness"), *python_files("backends")], ids=str)
def test_heavy_libraries_are_imported_where_they_are_used(path: Path) -> None:
    assert not {module.split(".")[0] for module in top_level(path)} & HEAVY


@pytest.mark.parametrize("name", START_UP)
def test_start_up_is_light(name: str) -> None:
    roots = {module.split(".")[0] for module in top_level(ROOT / name)}
    assert not roots & {"numpy", "scipy", "pydantic", "rich", "psutil"}


@pytest.mark.parametrize("path", [*python_files("harness"), *python_files("backends")], ids=str)
def test_nobody_imports_the_command_line(path: Path) -> None:
    if path.name != "cli.py":
        imported = everywhere(path)
        assert "harness.cli" not in imported
        assert path.parent.name == "commands" or not any(m.startswith("harness.commands") for m in imported)


@pytest.mark.parametrize(
    "path", [*python_files("harness"), *python_files("backends"), *python_files("profiles")], ids=str
)
def test_nothing_dangerous_is_called(path: Path) -> None:
    """No shell, no pickle, no evaluation of text, no code from model repositories."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword):
            assert not (node.arg == "shell" and getattr(node.value, "value", None)), f"{path}:{node.value.lineno}"
            assert not (node.arg == "trust_remote_code" and getattr(node.value, "value", True)), path
            assert not (node.arg == "allow_pickle" and getattr(node.value, "value", True)), path
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec"), f"{path}:{node.lineno}"
    assert not {module.split(".")[0] for module in everywhere(path)} & {"pickle", "marshal", "shelve", "dill"}
