"""Forms of request logs: one file each, one line each in ``FORMS``; see ``form``.

Another package adds its own through an entry point of the group ``joulebench.log_forms`` whose object is a
``LogForm``.
"""

from __future__ import annotations

from functools import cache

from harness.core.errors import UserError
from harness.core.registries import registered_forms
from harness.deciding.logs.form import LogForm
from harness.deciding.logs.names import Paths, fits

GROUP = "joulebench.log_forms"

FORMS = (
    *("burstgpt", "azure", "mooncake", "vidur", "splitwise"),
    *("sglang_bench", "vllm_bench", "bench_totals", "guidellm", "aiperf", "inference_perf"),
    *("llama_server_log", "llama_server", "ollama"),
    *("otel", "langfuse", "litellm_daily", "litellm", "openrouter"),
    *("gemini", "bedrock", "openai_usage", "anthropic_usage", "openai", "anthropic", "servegen"),
    *("totals", "counted", "sums", "columns", "batches", "statistics_only", "conversations", "texts"),
)
"""Modules with a ``FORM``, in the order in which they are tried: those first whose names say most."""
ONLY_BY_NAME = ("batches",)


@cache
def log_forms() -> dict[str, LogForm]:
    """All forms by name: those of other packages first, then ours in their order.

    Raises UserError where a package's form can't be loaded.
    """
    return registered_forms(LogForm, "form of logs", GROUP, __name__, FORMS)


def form_called(name: str) -> LogForm:
    """The form of that name. Raises UserError."""
    if name not in log_forms():
        raise UserError(f"unknown form of logs {name!r}: choose from {', '.join(sorted(log_forms()))}")
    return log_forms()[name]


def recognise(paths: Paths) -> LogForm | None:
    """The first form whose marks and names are all among the paths of a file's rows."""
    forms = (form for form in log_forms().values() if form.name not in ONLY_BY_NAME and form.lines is None)
    return next((form for form in forms if fits(form, paths)), None)
