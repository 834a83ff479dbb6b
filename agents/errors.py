"""The error of a run that cannot continue."""


class TrainingError(RuntimeError):
    """Training cannot continue. The message is one line that says which part failed and why."""
