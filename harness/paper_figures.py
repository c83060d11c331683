"""Figures 1 and 2 of Wilkins, Keshav and Mortier (2024) from the measurements inside the shipped profiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.figures import Row, new_figure
from harness.profile import Profile
from harness.profile_schema import Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SYSTEMS = ("m1-pro", "swing-a100", "palmetto-a100", "palmetto-v100")
MODELS = ("llama-2-7b", "mistral-7b", "falcon-7b")
COLOURS = dict(zip(SYSTEMS, ("#b3541e", "#3d7a4a", "#1f4e79", "#6b4c9a"), strict=True))
MARKERS = dict(zip(MODELS, ("o", "s", "^"), strict=True))
FIXED_OUTPUT_TOKENS = 32
FIXED_INPUT_TOKENS = (30, 40)
"""Prompts of the output sweep held 32 to 38 tokens, by model."""
PANELS = (("runtime (s)", 5), ("throughput (tokens/s)", 7), ("energy per token (J)", 8))
"""Label of each panel and the column it shows."""

SWEEP_HEADER = (
    "system",
    "model",
    "input_tokens",
    "output_tokens",
    "trials",
    "runtime_s",
    "runtime_sd_s",
    "throughput_tokens_per_s",
    "energy_per_token_j",
    "energy_per_token_sd_j",
)


def published_profiles() -> list[Profile]:
    """The shipped profiles of the published systems and models; M1-Pro ran no Falcon."""
    names = [f"{system}-{model}" for system in SYSTEMS for model in MODELS]
    return [Profile.load(name) for name in names if name != "m1-pro-falcon-7b"]


def sweep_rows(profiles: Sequence[Profile], axis: str) -> list[Row]:
    """Means and standard deviations of every point of one sweep (``input`` or ``output``); tokens are in + out.

    Unknown values are None.
    """
    rows: list[Row] = []
    for profile in profiles:
        points = [m for m in profile.measurements if _belongs(m, axis)]
        for point in sorted(points, key=lambda m: (m.input_tokens, m.output_tokens)):
            tokens = point.input_tokens + point.output_tokens
            energy = point.energy_j
            rows.append(
                (
                    profile.identity.system,
                    profile.identity.model,
                    point.input_tokens,
                    point.output_tokens,
                    point.trials,
                    point.runtime_s.mean,
                    point.runtime_s.sd,
                    tokens / point.runtime_s.mean,
                    None if energy is None else energy.mean / tokens,
                    None if energy is None or energy.sd is None else energy.sd / tokens,
                )
            )
    return rows


def _belongs(point: Measurement, axis: str) -> bool:
    if axis == "input":
        return point.output_tokens_requested == FIXED_OUTPUT_TOKENS
    return FIXED_INPUT_TOKENS[0] <= point.input_tokens <= FIXED_INPUT_TOKENS[1]


def sweep_figure(rows: Sequence[Row], axis: str) -> Figure:
    """Runtime, throughput and energy per token against input (Figure 1) or output tokens (Figure 2)."""
    figure, axes = new_figure(1, len(PANELS), 13, 3.8)
    for ax, (label, column) in zip(axes[0], PANELS, strict=True):
        for system in SYSTEMS:
            for model in MODELS:
                line = [r for r in rows if r[:2] == (system, model) and r[column] is not None]
                x = [row[2 if axis == "input" else 3] for row in line]
                y = [row[column] for row in line]
                style = {"color": COLOURS[system], "marker": MARKERS[model], "markersize": 4, "linewidth": 1}
                if line:
                    ax.plot(x, y, label=f"{system}, {model}", **style)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.set_xlabel(f"{axis} tokens")
        ax.set_ylabel(label)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return figure
