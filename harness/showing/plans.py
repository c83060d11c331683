"""A plan before it is measured: its points and a guess of their time."""

from __future__ import annotations

from harness.measuring import time_guess
from harness.measuring.planned_run import PlannedRun


def print_plan(planned: PlannedRun) -> None:
    """Every point in its order, with the guessed time of a request and of the point. Raises UserError."""
    plan, seen = planned.plan, planned.foreseen()
    model = seen.model
    print(f"{planned.backend}, {model.name} ({model.parameters:,} parameters, {model.dtype}) on {seen.device}")
    points = f"{len(plan.points)} points" if len(plan.points) > 1 else "1 point"
    print(f"{points} in this order, guessed at {seen.trials} trials each after one warm-up:")
    total_s = 0.0
    for point in plan.points:
        size = f"  m = {point.input_tokens:5}  n = {point.output_tokens:5}"
        request_s = seen.request_s.get(point)
        if request_s is None:
            print(f"{size}  skipped: beyond the model's context")
            continue
        point_s = time_guess.point_s(plan, request_s, seen.trials)
        total_s += point_s
        print(f"{size}  {request_s:9.3g} s a request  {point_s:9.3g} s")
    print(
        f"about {time_guess.spell(total_s)} in all; a guess from typical rates of a {seen.device}, "
        "good to a factor of three"
    )
