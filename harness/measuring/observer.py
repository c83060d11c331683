"""Who is told what happens in a sweep, to show it."""

from backends.base import Model
from harness.measuring.schedule import Schedule, TrialSpec
from harness.runs.schema import Trial


class Observer:
    """Shows nothing; a subclass shows what it likes."""

    def notice(self, text: str) -> None:
        """One line that the user should know."""

    def loading(self, model: Model) -> None:
        """The model is about to be loaded."""

    def trial_starts(self, spec: TrialSpec, schedule: Schedule) -> None:
        """A trial is about to run."""

    def trial_ended(self, trial: Trial) -> None:
        """A trial has been recorded."""
