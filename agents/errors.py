"""The errors of runs and policies that cannot continue."""


class TrainingError(RuntimeError):
    """Training cannot continue. The message is one line that says which part failed and why."""


class DivergedError(ValueError):
    """A policy cannot play, since its weights or its answers are not finite. The message is one line."""


LOWER_RATE = "a lower --learning-rate may help"
"""What the message of a run that has diverged advises."""
