"""The walls between the parts, read from the import statements of the source and held against one table."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT

MAY_IMPORT = {
    "core": (),
    "energy": ("core",),
    "runs": ("core", "energy"),
    "measuring": ("core", "energy", "runs", "modelling", "backends"),
    "modelling": ("core", "energy", "runs"),
    "serving": ("core", "modelling"),
    "deciding": ("core", "energy", "runs", "modelling", "serving"),
    "showing": ("core", "energy", "runs", "measuring", "modelling", "serving", "deciding"),
    "cli": ("core", "energy", "runs", "measuring", "modelling", "serving", "deciding", "showing", "backends"),
    "backends": (),
    "profiles": (),
}
"""By wing, whom it may import beside itself. Modelling knows no measuring; backends know nothing of ours."""

EXCEPTIONS = {"harness/showing/progress.py": ("backends",)}
"""What single files may import beyond their wing: progress says which model is loaded."""

OUTSIDE = {"__init__.py", "__main__.py", "py.typed"}
"""What lies in harness/ and in no wing: the way in."""

PURE = (
    "core/quantities",
    "core/sizes",
    "core/statistics",
    "core/wording",
    "energy/integrate",
    "energy/attribution",
    "runs/load_figures",
    "runs/load_stamps",
    "energy/cumulative",
    "energy/phases",
    "energy/phase_fit",
    "energy/phase_readings",
    "energy/phase_shares",
    "energy/phase_updates",
    "energy/loop_marks",
    "energy/stretches",
    "runs/summary",
    "measuring/pacing",
    "measuring/stopping",
    "measuring/schedule",
    "modelling/adaptive",
    "modelling/candidates",
    "modelling/design",
    "modelling/drawn_error",
    "modelling/interest",
    "modelling/fit",
    "modelling/forms/base",
    "modelling/forms/bilinear",
    "modelling/forms/phase",
    "modelling/forms/terms",
    "modelling/least_squares",
    "modelling/cost_function",
    "modelling/served/choice",
    "modelling/served/contradictions",
    "modelling/served/cycle",
    "modelling/served/cycle_equations",
    "modelling/served/fit",
    "modelling/served/form",
    "modelling/served/function",
    "modelling/served/held_out",
    "modelling/served/residual",
    "modelling/served/rivals",
    "modelling/served/slots",
    "modelling/served/engine",
    "deciding/logs/form",
    "deciding/logs/judge",
    "deciding/logs/spelling",
    "modelling/served/engine_limits",
    "modelling/served/step_rows",
    "modelling/served/step_fit",
    "modelling/served/step_joules",
    "modelling/served/station",
    "modelling/served/latency",
    "serving/shares",
    "serving/shares_over_time",
    "serving/shares_times",
    "serving/shares_doubt",
    "serving/occupancy",
    "serving/simulated_check",
    "serving/simulated_doubt",
    "serving/simulated_engine",
    "serving/simulated_figures",
    "serving/simulated_fleet",
    "serving/simulated_hours",
    "serving/simulated_queue",
    "serving/simulation",
    "serving/preempting",
    "serving/preempting_fit",
    "deciding/scales",
    "deciding/threshold",
    "deciding/routing",
    "deciding/assignment",
    "deciding/uncertainty",
    "showing/findings",
    "showing/labels",
)
"""Mathematics: no clock, no file, no screen."""

HEAVY = {
    *("torch", "transformers", "llama_cpp", "mlx", "mlx_lm", "gguf", "matplotlib", "pandas", "duckdb"),
    *("pynvml", "amdsmi", "zeus_apple_silicon"),
}
"""Imported inside the function that needs them."""


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


OURS = python_files("harness", "backends", "profiles")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def wing(path: Path) -> str | None:
    """The room of a file; None for the way in."""
    top, *inner = path.relative_to(ROOT).parts
    if top != "harness":
        return top
    return inner[0] if len(inner) > 1 else None


def top_level(path: Path) -> set[str]:
    """Modules that ``path`` imports when it is imported; those under TYPE_CHECKING are not."""
    return set(_modules(ast.parse(path.read_text()).body))


def everywhere(path: Path) -> set[str]:
    """Modules that ``path`` imports anywhere, in functions and for types too."""
    return set(_modules(ast.walk(ast.parse(path.read_text()))))


def _modules(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wings_of(modules: Iterable[str]) -> set[str]:
    """The rooms that imported modules lie in; what the package itself says of itself is anybody's."""
    found = set()
    for module in modules:
        top, *inner = module.split(".")
        if top == "harness":
            found |= {inner[0]} - {"__all__", "__dir__", "__getattr__", "*"}
        elif top in MAY_IMPORT:
            found.add(top)
    return found


@pytest.mark.parametrize("path", [path for path in OURS if wing(path)], ids=name)
def test_imports_run_one_way(path: Path) -> None:
    own = wing(path)
    assert own in MAY_IMPORT, f"{own} is no wing"
    allowed = {own, *MAY_IMPORT[own], *EXCEPTIONS.get(name(path), ())}
    assert wings_of(everywhere(path)) <= allowed


def test_nothing_lies_outside_the_wings() -> None:
    assert {path.name for path in (ROOT / "harness").iterdir() if path.is_file()} == OUTSIDE
    folders = {path.name for path in (ROOT / "harness").iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders | {"backends", "profiles"} == set(MAY_IMPORT)


def test_modules_import_each_other_in_no_circle() -> None:
    modules = {name(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in OURS}
    imports = {module: {_owner(found, modules) for found in everywhere(path)} for module, path in modules.items()}
    # Take away what imports nothing that is left, until nothing more can be taken: what remains is in a circle.
    left = {module: found - {None, module} for module, found in imports.items()}
    left.pop("harness")
    while free := [module for module, found in left.items() if not found & left.keys()]:
        for module in free:
            del left[module]
    assert not left


def _owner(imported: str, modules: dict[str, Path]) -> str | None:
    """The module that an imported name is of."""
    parent = imported.rpartition(".")[0]
    return imported if imported in modules else parent if parent in modules else None


@pytest.mark.parametrize("path", python_files("harness/energy/probes"), ids=name)
def test_probes_know_no_other_probe(path: Path) -> None:
    if path.name not in ("__init__.py", "base.py"):
        allowed = ("harness.energy.probes.base.", "harness.energy.probes.refuse_option")
        others = {module for module in everywhere(path) if module.startswith("harness.energy.probes")}
        assert all(module.startswith(allowed) for module in others)


@pytest.mark.parametrize("pure", PURE)
def test_mathematics_knows_no_io(pure: str) -> None:
    path = ROOT / "harness" / f"{pure}.py"
    allowed = {
        "numpy",
        "scipy",
        "math",
        "statistics",
        "itertools",
        "dataclasses",
        "typing",
        "collections",
        "functools",
        "heapq",
    }
    ours = {"__future__", "harness", "abc", "enum", "warnings", "re"}
    roots = {module.split(".")[0] for module in everywhere(path)} - ours
    assert roots <= allowed, f"{pure} imports {roots - allowed}"
    io = ("runs.records", "runs.store", "energy.meter", "energy.sampler", "measuring.sweep", "modelling.profile.")
    assert not {module for module in everywhere(path) if module.removeprefix("harness.").startswith(io)}
    calls = {node.func.id for node in ast.walk(ast.parse(path.read_text())) if _is_plain_call(node)}
    assert not calls & {"open", "print", "input"}


def _is_plain_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


@pytest.mark.parametrize("path", OURS, ids=name)
def test_heavy_libraries_are_imported_where_they_are_used(path: Path) -> None:
    assert not {module.split(".")[0] for module in top_level(path)} & HEAVY


@pytest.mark.parametrize(
    "path", [ROOT / "harness/__init__.py", ROOT / "harness/__main__.py", *python_files("harness/cli")], ids=name
)
def test_start_up_is_light(path: Path) -> None:
    roots = {module.split(".")[0] for module in top_level(path)}
    assert not roots & {"numpy", "scipy", "pydantic", "rich", "psutil"}


@pytest.mark.parametrize("path", OURS, ids=name)
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


@pytest.mark.parametrize("path", OURS, ids=name)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


def test_no_two_things_share_a_name() -> None:
    """Commands are named like the calls that they are; every probe has its ``create`` and each program its ``main``."""
    places: dict[str, list[str]] = {}
    for path in python_files("harness"):
        if wing(path) != "cli":
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    places.setdefault(node.name, []).append(name(path))
    shared = {what: where for what, where in places.items() if len(where) > 1}
    assert set(shared) <= {"create", "main"}, shared


def test_no_untyped_dictionary_crosses_a_wall() -> None:
    """What one wing takes from another has no ``dict[str, Any]`` in its signature or its fields."""
    definitions = {
        f"{name(path).removesuffix('.py').removesuffix('/__init__').replace('/', '.')}.{node.name}": node
        for path in OURS
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    crossing = {
        imported
        for path in OURS
        for imported in everywhere(path)
        if imported in definitions and wings_of([imported]) != {wing(path)}
    }
    untyped = {(what, said) for what in crossing for said in _annotations(definitions[what]) if UNTYPED.search(said)}
    assert not untyped


UNTYPED = re.compile(r"\b(dict|Mapping)\[str, Any\]")


def _annotations(node: ast.FunctionDef | ast.ClassDef) -> Iterator[str]:
    """The annotations of a function, or of a class's fields and public methods."""
    if isinstance(node, ast.ClassDef):
        for part in node.body:
            if isinstance(part, ast.FunctionDef) and not part.name.startswith("_"):
                yield from _annotations(part)
            elif isinstance(part, ast.AnnAssign):
                yield ast.unparse(part.annotation)
        return
    arguments = node.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        if argument.annotation is not None:
            yield ast.unparse(argument.annotation)
    if node.returns is not None:
        yield ast.unparse(node.returns)
