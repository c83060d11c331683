"""An option of ``joulebench measure`` and the argument of ``jb.measure`` of that name have one default."""

from dataclasses import fields
from enum import Enum
from typing import Any, get_type_hints

from backends.base import Config
from harness.cli.measure_options import MeasureOptions
from harness.energy.config import EnergyConfig
from harness.measuring.plan import PlanOptions
from harness.measuring.planned_run import DEFAULT_MODEL, prepare

OF_THE_COMMAND_ALONE = {
    *("output", "dry_run", "pictures", "as_json", "export_json"),
    *("gpu_layers", "input_len", "output_len", "warmup"),
}


def plain(value: Any) -> Any:
    """Typer takes choices as enumerations and writes no values of a repeatable option as None."""
    return value.value if isinstance(value, Enum) else () if value is None else value


def test_the_command_and_the_call_have_the_same_options_with_the_same_defaults() -> None:
    planned = prepare()
    arguments = {field.name: field.default for kind in (PlanOptions, Config, EnergyConfig) for field in fields(kind)}
    # Those that are worked out where they are left out: backend and model by the server that is named, if one is, and
    # the KV cache by the protocol.
    assert planned.backend == "transformers"
    arguments |= {"backend": None, "model": None, "kv_cache": None}
    options = {name: getattr(MeasureOptions, name) for name in get_type_hints(MeasureOptions)}
    assert options.keys() == arguments.keys() | OF_THE_COMMAND_ALONE
    assert {name: plain(value) for name, value in options.items() if name not in OF_THE_COMMAND_ALONE} == {
        name: plain(value) for name, value in arguments.items()
    }
    assert planned.config.model == DEFAULT_MODEL
