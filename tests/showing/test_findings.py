"""The sentence above a figure is what its numbers say."""

from collections.abc import Sequence

import pytest

from harness.core.statistics import Estimate
from harness.showing.findings import Line, finding

SIZES = (8, 32, 128, 512)


def line(
    system: str,
    energy: Sequence[float] = (),
    runtime: Sequence[float] = (1, 1, 1, 1),
    model: str = "M",
    own: bool = False,
    half: float | None = 0.01,
    sizes: Sequence[float] = SIZES,
) -> Line:
    energies = [Estimate(value, half) for value in energy] or [None] * len(sizes)
    return Line(system, model, sizes, [Estimate(value, half) for value in runtime], energies, own)


def test_a_crossing_is_found_where_the_lines_cross() -> None:
    # 2 and 8/√m are equal at m = 16.
    lines = [line("A", [2, 2, 2, 2], [10, 20, 40, 80]), line("B", [8 / size**0.5 for size in SIZES])]
    assert finding(lines, "input") == (
        "Below about 16 input tokens the A needs the least energy per token, "
        "above it the B, which is 10 to 80 times as fast"
    )


def test_who_is_not_faster_throughout_is_not_called_faster() -> None:
    lines = [line("A", [1, 1, 1, 1], [2, 1, 1, 2]), line("B", [4, 2, 0.5, 0.2])]
    assert finding(lines, "input").endswith("above it the B")


def test_between_two_crossings_a_third_needs_the_least() -> None:
    lines = [line("A", [1, 2, 9, 9]), line("B", [9, 1, 1, 9]), line("C", [9, 9, 2, 1])]
    said = finding(lines, "output")
    assert said.startswith("Up to about ")
    assert "output tokens the A needs the least energy per token, from about" in said
    assert said.endswith("the C")


def test_a_ratio_where_one_needs_the_least_throughout() -> None:
    lines = [line("A", [1, 1, 1, 1]), line("B", [1.5, 2, 2, 3])]
    assert finding(lines, "input") == "A needs the least energy per token; the B needs 1.5 to 3.0 times as much"


def test_time_is_compared_where_energy_is_not_known() -> None:
    lines = [line("A", runtime=[1, 1, 1, 1]), line("B", runtime=[2, 2, 2, 2])]
    assert finding(lines, "input") == "A takes the least time; the B takes about 2.0 times as long"


def test_what_lies_within_the_intervals_is_the_same() -> None:
    lines = [line("A", [1, 1, 1, 1.2], half=0.5), line("B", [1.2, 1, 1, 1], half=0.5)]
    assert finding(lines, "input") == "A and B need about the same energy per token"


def test_only_the_sure_side_of_a_crossing_is_claimed() -> None:
    lines = [line("A", [2, 2, 2, 2]), line("B", [2.02, 1.9, 1, 0.5])]
    said = finding(lines, "input")
    assert said.startswith("From about ")
    assert "input tokens the B needs the least energy per token" in said


def test_the_own_machine_is_what_the_sentence_is_about() -> None:
    lines = [line("A", [1, 1, 1, 1]), line("B", [9, 9, 9, 9]), line("mine", [2, 2, 2, 2], own=True)]
    assert finding(lines, "input") == "A needs the least energy per token; this machine needs about 2.0 times as much"


def test_no_ratio_is_claimed_that_the_intervals_do_not_bear_out() -> None:
    """It said that B needs 1.5 times as much, at intervals wider than the values."""
    lines = [line("A", [1, 1, 1, 1], half=2), line("B", [1.5, 1.5, 1.5, 1.5], half=2)]
    assert finding(lines, "input") == "No system clearly needs the least energy per token"


def test_the_least_at_both_ends_is_not_the_least_throughout() -> None:
    """A third one that needs more on average, and less in the middle, went unseen."""
    lines = [line("A", [1, 1, 1, 1]), line("B", [2, 2, 2, 2]), line("C", [40, 0.5, 40, 40])]
    assert finding(lines, "input") == "A needs the least energy per token at most sizes"


def test_an_own_machine_is_not_called_best_where_a_third_one_is_better() -> None:
    """It was compared only with the best of the others on average: here B, which is worse at few tokens."""
    others = [line("A", [1, 1, 20, 90]), line("B", [8, 4, 2, 1])]
    said = finding([*others, line("mine", [4, 4, 4, 4], own=True)], "input")
    assert said.startswith("Below about ")
    assert "the A needs the least energy per token, above it the B" in said
    assert said.endswith("; this machine needs 1.3 to 4.0 times as much as the best")


def test_an_own_machine_about_as_good_is_named_first() -> None:
    lines = [line("A", [1, 1, 1, 1]), line("mine", [1.01, 1.01, 1.01, 1.01], own=True)]
    assert finding(lines, "input") == "This machine and A need about the same energy per token"


@pytest.mark.parametrize(
    ("runtime", "said"),
    [
        ([0.9, 1, 1.2, 1.52], "Runtime grows from 0.90 s at 8 to 1.52 s at 512 input tokens"),
        ([2, 1.5, 1, 1], "Runtime falls from 2.00 s at 8 to 1.00 s at 512 input tokens"),
        ([1, 1, 1, 1.01], "Runtime hardly changes: from 1.00 s at 8 to 1.01 s at 512 input tokens"),
    ],
)
def test_one_system_alone_grows(runtime: list[float], said: str) -> None:
    assert finding([line("A", runtime=runtime)], "input") == said


def test_one_point_alone() -> None:
    alone = line("A", runtime=[0.5], sizes=[2048])
    assert finding([alone], "input") == "Runtime is 0.50 s at 2,048 input tokens"


def test_models_are_never_compared_with_each_other() -> None:
    lines = [line("A", [1, 1, 1, 1], model="small"), line("B", [9, 9, 9, 9], model="large")]
    assert finding(lines, "input") == "Runtime hardly changes: from 1.00 s at 8 to 1.00 s at 512 input tokens (small)"
    lines.append(line("C", [1, 1, 1, 1], model="large"))
    assert finding(lines, "input").endswith("(large)")


def test_without_a_shared_range_nothing_is_claimed() -> None:
    lines = [line("A", [1, 1], [1, 1], sizes=[8, 16]), line("B", [1, 1], [1, 1], sizes=[64, 128])]
    assert "nothing can be compared" in finding(lines, "input")


def test_nothing_measured_says_nothing() -> None:
    assert finding([], "input") == ""
    assert finding([Line("A", "M", [8.0], [None], [None])], "input") == ""
