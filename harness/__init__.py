"""joulebench: plan, measure, record, fit, decide, draw.

``import joulebench`` is the same as ``import harness``. Each name is imported from its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from harness.core.version import __version__

if TYPE_CHECKING:
    from harness.core.errors import UserError
    from harness.deciding.answers import RoutingAnswer, ThresholdAnswer, decide_routing, decide_threshold
    from harness.deciding.exported_rule import save_rule
    from harness.deciding.trace_files import load_workload
    from harness.deciding.workload import Workload
    from harness.energy.config import EnergyConfig
    from harness.energy.meter import Meter
    from harness.measuring.model_host import SweepStopped
    from harness.measuring.observer import Observer
    from harness.measuring.sweep import measure
    from harness.modelling.contrast import compare
    from harness.modelling.profile import Profile
    from harness.modelling.profile_fit import fit
    from harness.runs.records import RecordedRun, load_run, load_trials, read_stamps
    from harness.runs.store import StorageError

__all__ = [
    "EnergyConfig",
    "Meter",
    "Observer",
    "Profile",
    "RecordedRun",
    "RoutingAnswer",
    "StorageError",
    "SweepStopped",
    "ThresholdAnswer",
    "UserError",
    "Workload",
    "__version__",
    "compare",
    "decide_routing",
    "decide_threshold",
    "fit",
    "load_run",
    "load_trials",
    "load_workload",
    "measure",
    "read_stamps",
    "save_rule",
]

_MODULES = {
    "EnergyConfig": "harness.energy.config",
    "Meter": "harness.energy.meter",
    "Observer": "harness.measuring.observer",
    "Profile": "harness.modelling.profile",
    "RecordedRun": "harness.runs.records",
    "RoutingAnswer": "harness.deciding.answers",
    "StorageError": "harness.runs.store",
    "SweepStopped": "harness.measuring.model_host",
    "ThresholdAnswer": "harness.deciding.answers",
    "UserError": "harness.core.errors",
    "Workload": "harness.deciding.workload",
    "compare": "harness.modelling.contrast",
    "decide_routing": "harness.deciding.answers",
    "decide_threshold": "harness.deciding.answers",
    "fit": "harness.modelling.profile_fit",
    "load_run": "harness.runs.records",
    "load_trials": "harness.runs.records",
    "load_workload": "harness.deciding.trace_files",
    "measure": "harness.measuring.sweep",
    "read_stamps": "harness.runs.records",
    "save_rule": "harness.deciding.exported_rule",
}
"""By public name, where it is. Nothing heavy is imported before it is asked for."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'harness' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
