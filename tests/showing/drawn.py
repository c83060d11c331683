"""What a figure looks like to a reader: its texts and where they lie."""

from itertools import combinations
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text

SLACK = 1.0
"""Pixels that boxes of texts may share: a box is a little larger than its letters."""


def texts(figure: Figure) -> list[str]:
    """All texts that are seen."""
    return [text.get_text().replace("\xa0", " ") for text in _seen(figure)]


def title(figure: Figure) -> str:
    """The finding, as one line."""
    return figure.get_suptitle().replace("\n", " ").replace("\xa0", " ")


def notes(figure: Figure) -> str:
    """The text below the axes, as one line."""
    return figure.get_supxlabel().replace("\n", " ").replace("\xa0", " ")


def assert_readable(figure: Figure) -> None:
    """No text lies on another, and none leaves the canvas."""
    figure.draw_without_rendering()
    canvas = figure.bbox
    # Of an annotation the text alone: its leader may pass by others.
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in _seen(figure)]
    outside = [words for words, box in boxes if not _inside(box, canvas)]
    assert not outside, f"clipped: {outside}"
    crossing = [
        (one, other)
        for (one, a), (other, b) in combinations(boxes, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > SLACK and min(a.y1, b.y1) - max(a.y0, b.y0) > SLACK
    ]
    assert not crossing, f"overlapping: {crossing}"


def _inside(box: Any, canvas: Any) -> bool:
    return bool(
        box.x0 >= canvas.x0 - SLACK
        and box.x1 <= canvas.x1 + SLACK
        and box.y0 >= canvas.y0 - SLACK
        and box.y1 <= canvas.y1 + SLACK
    )


def _seen(figure: Figure) -> list[Text]:
    figure.draw_without_rendering()
    found: list[Text] = list(figure.findobj(lambda artist: artist in figure.texts, include_self=False))
    for ax in figure.axes:
        found += [ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label, *ax.texts]  # type: ignore[attr-defined]
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            found += [tick.label1 for tick in ticks]
    return [text for text in found if text.get_visible() and text.get_text().strip()]
