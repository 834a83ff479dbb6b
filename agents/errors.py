"""What a training run tells its caller when it cannot go on."""


class TrainingError(RuntimeError):
    """Training cannot go on; one line that says which part failed and why."""
